//! The built binary against a sandbox that is served over HTTPS.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sandbox::{Sandbox, ServeOptions, Server};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A folder to run the installer in, with nothing of this machine's in its environment.
pub(crate) struct Installer {
    pub folder: TempDir,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
    secrets: BTreeSet<String>,
}

impl Installer {
    /// One that must not show what this cluster keeps secret.
    pub(crate) fn discreet(sandbox: &Sandbox) -> Self {
        Self {
            secrets: secrets(sandbox),
            ..Self::new()
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Installer {
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            environment: Vec::new(),
            secrets: BTreeSet::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and gives its path.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path.display().to_string()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ks-installer"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().cloned())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end. It must not panic, nor show a secret of the cluster.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().unwrap();
        let ended = Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ended.err.contains("panicked"), "{arguments:?}: {}", ended.err);
        self.check_no_secret(&format!("standard output of {arguments:?}"), &ended.out);
        self.check_no_secret(&format!("standard error of {arguments:?}"), &ended.err);
        ended
    }

    /// The same with something on standard input.
    #[track_caller]
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // Whoever answers while it reads must not wait for us.
            scope.spawn(move || stdin.write_all(input.as_bytes()).unwrap());
            child.wait_with_output().unwrap()
        });
        Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn check_no_secret(&self, place: &str, text: &str) {
        for secret in &self.secrets {
            if let Some(at) = text.find(secret.as_str()) {
                // The secret itself is not printed here either.
                panic!("{place} holds a secret of {} characters at {at}", secret.len());
            }
        }
    }

    /// The command fails with this status and one error that says all of `words`.
    #[track_caller]
    pub(crate) fn check_error(&self, arguments: &[&str], words: &[&str]) {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 2, "{arguments:?}: {ended:?}");
        assert_eq!(ended.out, "", "{arguments:?}");
        let errors = ended
            .err
            .lines()
            .filter(|line| line.starts_with("error: "))
            .count();
        assert_eq!(errors, 1, "{arguments:?}: {}", ended.err);
        for word in words {
            assert!(
                ended.err.contains(word),
                "{arguments:?} does not say {word:?}: {}",
                ended.err
            );
        }
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A sandbox on loopback, and the installer with its kubeconfig.
pub(crate) struct Served {
    pub sandbox: Sandbox,
    pub installer: Installer,
    // The server ends before its runtime.
    server: Server,
    _runtime: Runtime,
}

pub(crate) fn serve(sandbox: Sandbox) -> Served {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(sandbox.serve(ServeOptions::default())).unwrap();
    let installer = Installer::discreet(&sandbox);
    installer.write("kubeconfig", server.kubeconfig());
    Served {
        sandbox,
        installer,
        server,
        _runtime: runtime,
    }
}

impl Served {
    pub(crate) fn kubeconfig(&self) -> String {
        self.server.kubeconfig()
    }

    /// Runs a command on the served cluster.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let kubeconfig = self.installer.path("kubeconfig");
        self.installer.run(&on(&kubeconfig, arguments))
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        let kubeconfig = self.installer.path("kubeconfig");
        let arguments = on(&kubeconfig, arguments);
        let mut command = self.installer.command(&arguments);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Starts a command; what it says goes to a file in its folder.
    pub(crate) fn spawn_to(&self, arguments: &[&str], log: &str) -> Child {
        let kubeconfig = self.installer.path("kubeconfig");
        let arguments = on(&kubeconfig, arguments);
        let mut command = self.installer.command(&arguments);
        let log = std::fs::File::create(self.installer.path(log)).unwrap();
        command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Runs a command on a terminal, at which this is typed; what the terminal shows. `None` where terminals cannot be
    /// made.
    pub(crate) fn run_on_terminal(&self, arguments: &[&str], typed: &str) -> Option<String> {
        use std::io::Write as _;
        let kubeconfig = self.installer.path("kubeconfig");
        let command = self.installer.command(&on(&kubeconfig, arguments));
        let line: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_str().unwrap())
            .collect();
        let mut terminal = Command::new("script");
        terminal
            .args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"])
            .env("NO_COLOR", "1")
            .env("HOME", self.installer.folder.path())
            .current_dir(self.installer.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut terminal = terminal.spawn().ok()?;
        let mut keys = terminal.stdin.take().unwrap();
        keys.write_all(typed.as_bytes()).unwrap();
        let output = terminal.wait_with_output().unwrap();
        drop(keys);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{arguments:?}: {shown}");
        self.installer
            .check_no_secret(&format!("the terminal of {arguments:?}"), &shown);
        Some(shown)
    }

    pub(crate) fn writes(&self) -> u64 {
        self.sandbox.requests().writes()
    }

    /// The command ends so, and the cluster is not written.
    #[track_caller]
    pub(crate) fn check_reads(&self, arguments: &[&str], code: i32) -> Ended {
        let writes = self.writes();
        let ended = self.run(arguments);
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        assert_eq!(self.writes(), writes, "{arguments:?} wrote to the cluster");
        ended
    }
}

/// The arguments that make a command use this kubeconfig.
fn on<'a>(kubeconfig: &'a Path, arguments: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--kubeconfig", kubeconfig.to_str().unwrap()];
    all.extend(arguments);
    all
}

/// What must show nowhere: the values of Secrets, raw and in base64, and the hashes of passwords.
fn secrets(sandbox: &Sandbox) -> BTreeSet<String> {
    const PUBLIC: [&str; 4] = ["ca.crt", "tls.crt", "namespace", "service-ca.crt"];
    let mut found = BTreeSet::new();
    for object in sandbox.objects() {
        if object["kind"] == "User" {
            found.extend(object["spec"]["password"].as_str().map(str::to_owned));
        }
        if object["metadata"]["name"] == "kubesphere-config" {
            let text = object["data"]["kubesphere.yaml"].as_str().unwrap();
            for document in object::parse_documents(text).unwrap() {
                secret_leaves(&document, &mut found);
            }
        }
        if object["kind"] != "Secret" {
            continue;
        }
        for (name, value) in object["data"].as_object().into_iter().flatten() {
            let text = value.as_str().unwrap();
            if PUBLIC.contains(&name.as_str()) {
                continue;
            }
            let raw = STANDARD.decode(text).unwrap();
            for secret in [Ok(text.to_owned()), String::from_utf8(raw)]
                .into_iter()
                .flatten()
            {
                // Of a document only what looks like a key: its other lines are words that stand elsewhere, too.
                let is_document = secret.contains('\n');
                let shortest = if is_document { 40 } else { 12 };
                let is_word = |line: &str| {
                    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
                    line.len() >= shortest && (!is_document || line.bytes().all(is_base64))
                };
                found.extend(secret.lines().filter(|line| is_word(line)).map(str::to_owned));
            }
        }
    }
    found
}

/// The values of a document that are secret by their names.
fn secret_leaves(value: &Value, found: &mut BTreeSet<String>) {
    const WORDS: [&str; 4] = ["password", "token", "secret", "accesskey"];
    // The name of an environment variable that holds the password.
    const PLACEHOLDER: &str = "KUBESPHERE_REDIS_PASSWORD";
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let is_secret = WORDS.iter().any(|word| name.to_lowercase().contains(word));
                match value.as_str() {
                    Some(text) if is_secret && text.len() >= 12 && text != PLACEHOLDER => {
                        found.insert(text.to_owned());
                    }
                    _ => secret_leaves(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| secret_leaves(item, found)),
        _ => {}
    }
}
