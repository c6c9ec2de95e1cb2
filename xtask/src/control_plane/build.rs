//! The recipe: Kubernetes 1.20.2 from Debian's source package, built once and cached.
//!
//! No prebuilt 1.20 binaries can be had from a package registry, but Debian carries the sources. Two libraries
//! vendored there predate Go 1.18 and misbehave when compiled with it, so they are replaced at build time
//! through `go build -overlay`, which leaves the tree as Debian ships it:
//!
//! - `modern-go/reflect2` 1.0.1 calls the runtime's map iteration with an old signature, and the API server
//!   crashes on the first custom resource. Debian's own package of 1.0.2 takes its place.
//! - `typeValidator` of kube-openapi and go-openapi compares two `reflect.Value`s. Since Go 1.18 those are equal for
//!   an empty string, which is then refused as null. The replacement asks only whether a nilable value is nil.
//!
//! The same tree has client-go, with which the program of `tests/clients/client.go` is compiled: a client as controllers
//! have it. It has a place of its own in the cache, so that a change to it does not cost another build of Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;
use crate::image::archive::sha256;

/// The Kubernetes version that the control plane runs and reports.
pub const KUBERNETES_VERSION: &str = "1.20.2";

/// Changes whenever the recipe does, so that a cache made by an older recipe is not used.
const RECIPE: &str = "kubernetes-1.20.2-recipe-1";

const PACKAGES: [&str; 7] = [
    "golang-go",
    "etcd-server",
    "dpkg-dev",
    "rsync",
    "jq",
    "make",
    "golang-github-modern-go-reflect2-dev",
];
const REFLECT2: &str = "github.com/modern-go/reflect2";
const DEBIAN_GO_SOURCES: &str = "/usr/share/gocode/src";
const TYPE_VALIDATORS: [&str; 2] = [
    "k8s.io/kube-openapi/pkg/validation/validate/type.go",
    "github.com/go-openapi/validate/type.go",
];
const COMMANDS: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// The program with client-go, as it is named in the tree and in the cache.
const CLIENT_GO: &str = "client-go-check";
const CLIENT_GO_TEXT: &str = include_str!("../../tests/clients/client.go");

/// Where the four programs of a control plane are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    pub etcd: PathBuf,
    pub kube_apiserver: PathBuf,
    pub kube_controller_manager: PathBuf,
    pub kube_scheduler: PathBuf,
}

impl Programs {
    fn within(folder: &Path) -> Option<Self> {
        let program = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        Some(Self {
            etcd: program("etcd")?,
            kube_apiserver: program("kube-apiserver")?,
            kube_controller_manager: program("kube-controller-manager")?,
            kube_scheduler: program("kube-scheduler")?,
        })
    }
}

/// `$XDG_CACHE_HOME/ks-installer/control-plane`, or the same under `~/.cache`.
fn cache() -> Result<PathBuf, Error> {
    Ok(cache_folder()?.join("control-plane"))
}

/// Where chores keep what they fetch or build once: `ks-installer` below the user's cache folder.
///
/// # Errors
/// [`Error::Unavailable`] where there is no such folder.
pub fn cache_folder() -> Result<PathBuf, Error> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .ok_or_else(|| Error::Unavailable("neither XDG_CACHE_HOME nor HOME is set".into()))?;
    Ok(base.join("ks-installer"))
}

/// Where the OpenAPI document (swagger 2.0, JSON) of the built Kubernetes is kept.
pub fn swagger_path() -> Result<PathBuf, Error> {
    Ok(cache()?.join(format!("swagger-{KUBERNETES_VERSION}.json")))
}

/// The programs, if an earlier build left them. Never builds.
pub fn cached() -> Result<Programs, Error> {
    Programs::within(&cache()?.join(RECIPE).join("bin")).ok_or_else(|| {
        Error::Unavailable(format!(
            "Kubernetes {KUBERNETES_VERSION} is not built on this machine (run: cargo xtask control-plane build)"
        ))
    })
}

/// Where this version of the program with client-go is kept.
fn client_go_path() -> Result<PathBuf, Error> {
    let digest = sha256(format!("{RECIPE}\n{CLIENT_GO_TEXT}").as_bytes());
    Ok(cache()?.join(format!("{CLIENT_GO}-{}", &digest[..16])))
}

/// The program with client-go, if an earlier build left it. Never builds.
pub fn cached_client_go() -> Result<PathBuf, Error> {
    Some(client_go_path()?)
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            Error::Unavailable(
                "the program with client-go is not built on this machine (run: cargo xtask control-plane build)"
                    .into(),
            )
        })
}

/// The programs, built if they are not there yet: about six minutes and 4 GB of disk on two cores, once.
///
/// `report` gets a line per step. What the machine lacks is installed with apt-get when running as root.
pub fn ensure(report: &dyn Fn(&str)) -> Result<Programs, Error> {
    build_once(report, cached, |recipe, source| {
        copy(&source.join("api/openapi-spec/swagger.json"), &swagger_path()?)?;
        let tree = recipe.prepare(source)?;
        let result = recipe.compile(&tree)?;

        // Only a complete build gets the name that `cached` looks for.
        let finished = cache()?.join(RECIPE);
        let _ = fs::remove_dir_all(&finished);
        fs::rename(&result, &finished).map_err(|source| Error::file(&finished, source))?;
        // Here it takes seconds, for all that it needs is compiled. It comes last: a mistake in it must not cost the rest.
        recipe.compile_client_go(&tree)
    })
}

/// The program with client-go, built if it is not there yet. [`ensure`] does so as it builds Kubernetes; this is for a
/// program that has changed since, and takes about a minute and a half on two cores.
pub fn client_go(report: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    build_once(report, cached_client_go, |recipe, source| {
        let tree = recipe.prepare(source)?;
        recipe.compile_client_go(&tree)
    })
}

/// What `find` finds; where it finds nothing, `make` is given the unpacked source once to make it.
fn build_once<T>(
    report: &dyn Fn(&str),
    find: impl Fn() -> Result<T, Error>,
    make: impl FnOnce(&Recipe<'_>, &Path) -> Result<(), Error>,
) -> Result<T, Error> {
    if let Ok(found) = find() {
        return Ok(found);
    }
    let cache = cache()?;
    fs::create_dir_all(&cache).map_err(|source| Error::file(&cache, source))?;
    let lock_path = cache.join("lock");
    let lock = File::create(&lock_path).map_err(|source| Error::file(&lock_path, source))?;
    lock.lock().map_err(|source| Error::file(&lock_path, source))?;
    if let Ok(found) = find() {
        return Ok(found);
    }
    remove_leftovers(&cache);

    let scratch = tempfile::Builder::new()
        .prefix(".building-")
        .tempdir_in(&cache)
        .map_err(|source| Error::file(&cache, source))?;
    let recipe = Recipe {
        scratch: scratch.path(),
        log: cache.join("build.log"),
        report,
    };
    File::create(&recipe.log).map_err(|source| Error::file(&recipe.log, source))?;
    recipe.install_packages()?;
    let source = recipe.fetch_source()?;
    make(&recipe, &source)?;
    find()
}

/// Scratch folders of builds that were cut; safe to remove because the lock is held.
fn remove_leftovers(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".building-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to)
        .map(drop)
        .map_err(|source| Error::file(from, source))
}

/// The source where it can be compiled, and the list of what is replaced in it.
struct Tree {
    gopath: PathBuf,
    folder: PathBuf,
    overlay: PathBuf,
}

struct Recipe<'a> {
    scratch: &'a Path,
    log: PathBuf,
    report: &'a dyn Fn(&str),
}

impl Recipe<'_> {
    fn install_packages(&self) -> Result<(), Error> {
        let missing: Vec<&str> = PACKAGES.into_iter().filter(|name| !is_installed(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.join(" ");
        if !exists("apt-get") {
            return Err(Error::Unavailable(format!(
                "this machine has no apt-get, and lacks: {names}"
            )));
        }
        if !is_root() {
            return Err(Error::Unavailable(format!(
                "packages are missing and installing them takes root: apt-get install {names}"
            )));
        }
        (self.report)(&format!("installing {names}"));
        let mut update = Command::new("apt-get");
        update.args(["update", "-q"]);
        self.run_or_unavailable("apt-get update", update)?;
        let mut install = Command::new("apt-get");
        install
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(&missing);
        install.env("DEBIAN_FRONTEND", "noninteractive");
        self.run_or_unavailable("apt-get install", install)
    }

    /// Unpacks Debian's kubernetes source package. The sources' list and apt's state are our own copies in the
    /// scratch folder, so the machine's configuration stays as it is and root is not needed.
    fn fetch_source(&self) -> Result<PathBuf, Error> {
        (self.report)("fetching the source of Kubernetes");
        let sources = self.scratch.join("sources");
        let lists = self.scratch.join("lists");
        let archives = self.scratch.join("cache");
        let unpacked = self.scratch.join("source");
        for folder in [
            &sources,
            &lists.join("partial"),
            &archives.join("archives/partial"),
            &unpacked,
        ] {
            fs::create_dir_all(folder).map_err(|source| Error::file(folder, source))?;
        }
        write_source_lists(&sources)?;
        let apt = || {
            let mut command = Command::new("apt-get");
            command.arg("-q").current_dir(&unpacked);
            for (name, value) in [
                ("Etc::sourceparts", &sources),
                ("State::lists", &lists),
                ("Cache", &archives),
            ] {
                command.arg("-o").arg(format!("Dir::{name}={}", value.display()));
            }
            command.args([
                "-o",
                "Dir::Etc::sourcelist=/dev/null",
                "-o",
                "APT::Sandbox::User=",
            ]);
            command
        };
        let mut update = apt();
        update.arg("update");
        self.run_or_unavailable("apt-get update (sources)", update)?;
        let mut source = apt();
        source.args(["source", "--only-source", "kubernetes"]);
        self.run_or_unavailable("apt-get source kubernetes", source)?;

        let folder = fs::read_dir(&unpacked)
            .map_err(|source| Error::file(&unpacked, source))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.is_dir())
            .ok_or_else(|| Error::Unavailable("apt-get source unpacked nothing".into()))?;
        if folder.to_string_lossy().contains(KUBERNETES_VERSION) {
            Ok(folder)
        } else {
            Err(Error::Unavailable(format!(
                "this distribution's kubernetes source package is not {KUBERNETES_VERSION}: {}",
                folder.file_name().unwrap_or_default().to_string_lossy()
            )))
        }
    }

    fn prepare(&self, source: &Path) -> Result<Tree, Error> {
        // The tree only compiles in GOPATH mode, where a package's place is its import path.
        let gopath = self.scratch.join("gopath");
        let parent = gopath.join("src/k8s.io");
        let folder = parent.join("kubernetes");
        fs::create_dir_all(&parent).map_err(|error| Error::file(&parent, error))?;
        fs::rename(source, &folder).map_err(|error| Error::file(source, error))?;
        let overlay = self.write_overlay(&folder)?;
        Ok(Tree {
            gopath,
            folder,
            overlay,
        })
    }

    /// Returns a folder with `bin/`, ready to be moved into the cache.
    fn compile(&self, tree: &Tree) -> Result<PathBuf, Error> {
        let finished = self.scratch.join("finished");
        let bin = finished.join("bin");
        fs::create_dir_all(&bin).map_err(|error| Error::file(&bin, error))?;

        (self.report)("generating the OpenAPI definitions");
        let mut generate = self.niced("make", tree);
        generate.arg("gen_openapi");
        self.run("make gen_openapi", generate)?;
        for name in COMMANDS {
            self.build(tree, name, &bin.join(name))?;
        }
        let etcd = find_program("etcd").ok_or_else(|| Error::Unavailable("there is no etcd".into()))?;
        copy(&etcd, &bin.join("etcd"))?;
        Ok(finished)
    }

    /// Compiles the program with client-go, and puts it into the cache.
    fn compile_client_go(&self, tree: &Tree) -> Result<(), Error> {
        let built = self.scratch.join(CLIENT_GO);
        self.build(tree, CLIENT_GO, &built)?;
        let path = client_go_path()?;
        fs::rename(&built, &path).map_err(|source| Error::file(&path, source))
    }

    fn build(&self, tree: &Tree, name: &str, output: &Path) -> Result<(), Error> {
        (self.report)(&format!("compiling {name}"));
        let mut build = self.niced("go", tree);
        build
            .arg("build")
            .arg("-overlay")
            .arg(&tree.overlay)
            .arg("-ldflags")
            .arg(linker_flags());
        build
            .arg("-o")
            .arg(output)
            .arg(format!("k8s.io/kubernetes/cmd/{name}"));
        self.run(&format!("go build {name}"), build)
    }

    /// Writes the replacement files and the list that `go build -overlay` reads.
    fn write_overlay(&self, tree: &Path) -> Result<PathBuf, Error> {
        let vendored = tree.join("vendor").join(REFLECT2);
        let fixed = Path::new(DEBIAN_GO_SOURCES).join(REFLECT2);
        let mut replace = reflect2_replacements(&vendored, &go_files(&vendored)?, &fixed, &go_files(&fixed)?);
        for (number, name) in TYPE_VALIDATORS.iter().enumerate() {
            let path = tree.join("vendor").join(name);
            let text = fs::read_to_string(&path).map_err(|source| Error::file(&path, source))?;
            let text = fix_type_validator(&text).ok_or_else(|| Error::Build {
                step: format!("patching {name}"),
                output: "the comparison to replace is not there".into(),
            })?;
            let replacement = self.scratch.join(format!("type-validator-{number}.go"));
            fs::write(&replacement, text).map_err(|source| Error::file(&replacement, source))?;
            replace.insert(path.display().to_string(), replacement.display().to_string());
        }
        let client = self.scratch.join("client.go");
        fs::write(&client, CLIENT_GO_TEXT).map_err(|source| Error::file(&client, source))?;
        let path = tree.join("cmd").join(CLIENT_GO).join("client.go");
        replace.insert(path.display().to_string(), client.display().to_string());
        let list = self.scratch.join("overlay.json");
        let text = serde_json::json!({ "Replace": replace }).to_string();
        fs::write(&list, text).map_err(|source| Error::file(&list, source))?;
        Ok(list)
    }

    /// A build command that yields to whatever else the machine is doing.
    fn niced(&self, program: &str, tree: &Tree) -> Command {
        let mut command = Command::new("nice");
        command.args(["-n", "10", program]).current_dir(&tree.folder);
        command
            .env("GO111MODULE", "off")
            .env("GOPATH", &tree.gopath)
            .env("CGO_ENABLED", "0");
        command
            .env("GOCACHE", self.scratch.join("gocache"))
            .env("GOTMPDIR", self.scratch)
            .env("GOFLAGS", "");
        command
    }

    fn run_or_unavailable(&self, step: &str, command: Command) -> Result<(), Error> {
        self.run(step, command).map_err(|error| match error {
            Error::Build { step, output } => {
                let line = output.lines().rev().find(|line| line.starts_with("E:"));
                Error::Unavailable(format!(
                    "{step} failed: {}",
                    line.unwrap_or("see build.log in the cache")
                ))
            }
            other => other,
        })
    }

    fn run(&self, step: &str, mut command: Command) -> Result<(), Error> {
        let open = || File::options().append(true).open(&self.log);
        let mut log = open().map_err(|source| Error::file(&self.log, source))?;
        let start = log.metadata().map_or(0, |data| data.len());
        // A failed write to a log is no reason to fail a build.
        let _ = writeln!(log, "\n== {step}");
        let errors = log.try_clone().map_err(|source| Error::file(&self.log, source))?;
        let status = command.stdin(Stdio::null()).stdout(log).stderr(errors).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => {
                let text = fs::read(&self.log).unwrap_or_default();
                let start = usize::try_from(start).unwrap_or(0).min(text.len());
                Err(Error::Build {
                    step: step.into(),
                    output: super::last_lines(&String::from_utf8_lossy(&text[start..]), 30),
                })
            }
            Err(error) => Err(Error::Unavailable(format!(
                "{step} could not be started: {error}"
            ))),
        }
    }
}

fn linker_flags() -> String {
    let version = format!("v{KUBERNETES_VERSION}");
    let values = [
        ("gitVersion", version.as_str()),
        ("gitMajor", "1"),
        ("gitMinor", "20"),
    ];
    let mut flags = vec!["-s -w".to_owned()];
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        let flag = |(name, value)| format!("-X k8s.io/kubernetes/vendor/{package}.{name}={value}");
        flags.extend(values.map(flag));
    }
    flags.join(" ")
}

/// Every Go file of the vendored library gives way to the fixed one of that name, or (an empty path, in
/// the overlay's language) to none; files that only the fixed library has are added.
fn reflect2_replacements(
    vendored: &Path,
    vendored_files: &BTreeSet<String>,
    fixed: &Path,
    fixed_files: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    vendored_files
        .union(fixed_files)
        .map(|name| {
            let by = if fixed_files.contains(name) {
                fixed.join(name).display().to_string()
            } else {
                String::new()
            };
            (vendored.join(name).display().to_string(), by)
        })
        .collect()
}

fn fix_type_validator(text: &str) -> Option<String> {
    const COMPARISON: &str = "reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data))";
    const FIXED: &str = "isNilReference(data)";
    // Slices are left out: before Go 1.18 a nil slice did not compare equal to its zero value either.
    const FUNCTION: &str = "
func isNilReference(data interface{}) bool {
\tvalue := reflect.ValueOf(data)
\tswitch value.Kind() {
\tcase reflect.Ptr, reflect.Map, reflect.Chan, reflect.Func:
\t\treturn value.IsNil()
\t}
\treturn false
}
";
    (text.matches(COMPARISON).count() == 1).then(|| text.replace(COMPARISON, FIXED) + FUNCTION)
}

fn go_files(folder: &Path) -> Result<BTreeSet<String>, Error> {
    let entries = fs::read_dir(folder).map_err(|source| Error::file(folder, source))?;
    Ok(entries
        .flatten()
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "go")
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

/// Copies the machine's apt sources into `folder`, turned into sources of source packages.
fn write_source_lists(folder: &Path) -> Result<(), Error> {
    let etc = Path::new("/etc/apt");
    let mut lists = vec![etc.join("sources.list")];
    lists.extend(
        fs::read_dir(etc.join("sources.list.d"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    let mut written = 0;
    for list in lists {
        let Ok(text) = fs::read_to_string(&list) else {
            continue;
        };
        let text = match list.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => deb822_to_source(&text),
            Some("list") => one_line_to_source(&text),
            _ => continue,
        };
        let path = folder.join(list.file_name().unwrap_or_default());
        fs::write(&path, text).map_err(|source| Error::file(&path, source))?;
        written += 1;
    }
    if written == 0 {
        return Err(Error::Unavailable("apt has no sources on this machine".into()));
    }
    Ok(())
}

fn deb822_to_source(text: &str) -> String {
    let line = |line| {
        if str::starts_with(line, "Types:") {
            "Types: deb-src"
        } else {
            line
        }
    };
    text.lines().flat_map(|text| [line(text), "\n"]).collect()
}

fn one_line_to_source(text: &str) -> String {
    let entries = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("deb "));
    entries.flat_map(|rest| ["deb-src ", rest, "\n"]).collect()
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn exists(program: &str) -> bool {
    find_program(program).is_some()
}

pub(crate) fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_binary_sources_into_source_ones() {
        let deb822 =
            "Types: deb\n# a comment\nURIs: http://example.org/debian\n\nTypes: deb deb-src\nURIs: x\n";
        assert_eq!(
            deb822_to_source(deb822),
            "Types: deb-src\n# a comment\nURIs: http://example.org/debian\n\nTypes: deb-src\nURIs: x\n"
        );
        let one_line =
            "# deb http://no\ndeb [signed-by=/k] http://example.org bookworm main\ndeb-src http://no\n";
        assert_eq!(
            one_line_to_source(one_line),
            "deb-src [signed-by=/k] http://example.org bookworm main\n"
        );
    }

    #[test]
    fn replaces_removes_and_adds_files_of_the_library() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        let found = reflect2_replacements(
            Path::new("/old"),
            &names(&["map.go", "below_17.go"]),
            Path::new("/new"),
            &names(&["map.go", "link.go"]),
        );
        let expect = [
            ("/old/below_17.go", ""),
            ("/old/link.go", "/new/link.go"),
            ("/old/map.go", "/new/map.go"),
        ];
        assert_eq!(
            found,
            expect.map(|(from, to)| (from.to_owned(), to.to_owned())).into()
        );
    }

    #[test]
    fn patches_only_the_validator_it_knows() {
        let known = "if data == nil || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data)) {";
        let patched = fix_type_validator(known).unwrap();
        assert!(
            patched.starts_with("if data == nil || isNilReference(data) {"),
            "{patched}"
        );
        assert_eq!(fix_type_validator("if data == nil {"), None);
    }

    #[test]
    fn stamps_the_version_into_both_version_packages() {
        let flags = linker_flags();
        assert_eq!(flags.matches(".gitVersion=v1.20.2").count(), 2, "{flags}");
    }
}
