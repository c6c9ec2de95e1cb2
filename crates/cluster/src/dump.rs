//! A cluster's objects in a file, for rehearsals: one JSON object a line, a `kubectl get -o json` List, or the same
//! in YAML; compressed with zstd or not. Which of these it is shows in the contents, not in the name.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::Path,
};

use object::Object;
use serde_json::Value;

use crate::file::{Existing, Pending};

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Of all that zstd offers, what costs little time.
const LEVEL: i32 = 3;
const REMEDY: &str = "make the dump again, with one JSON object a line or with: kubectl get KINDS -A -o json";

/// Why a dump cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(.name, *.line, .problem))]
pub struct DumpError {
    /// The file.
    pub name: String,
    /// From 1.
    pub line: Option<usize>,
    pub problem: Problem,
}

fn describe(name: &str, line: Option<usize>, problem: &Problem) -> String {
    match line {
        Some(line) => format!("{name}, line {line}: {problem}"),
        None => format!("{name}: {problem}"),
    }
}

/// What is the matter with a dump.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it ends in the middle of an object")]
    CutOff,
    #[error("it is not JSON")]
    NotJson,
    #[error("it is not YAML")]
    NotYaml,
    #[error("it is neither JSON nor YAML")]
    UnknownForm,
    #[error("it holds what is no Kubernetes object: {0}")]
    NotAnObject(object::ObjectError),
    #[error("it holds no objects")]
    Empty,
}

impl DumpError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match &self.problem {
            Problem::Io(error) if error.kind() == io::ErrorKind::NotFound => None,
            Problem::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Some("the file must be readable by you".to_owned())
            }
            Problem::CutOff => Some(format!("the file was not copied or written to its end: {REMEDY}")),
            _ => Some(REMEDY.to_owned()),
        }
    }
}

/// What there is to read behind a path, and what errors call it: a file, or standard input for `-`.
///
/// # Errors
/// The file cannot be opened.
pub fn source(path: &Path) -> Result<(String, Box<dyn Read>), DumpError> {
    if path.to_str() == Some("-") {
        return Ok(("standard input".to_owned(), Box::new(io::stdin())));
    }
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => Ok((name, Box::new(file))),
        Err(error) => Err(DumpError {
            name,
            line: None,
            problem: error.into(),
        }),
    }
}

/// Reads the objects behind a path, see [`source`].
///
/// # Errors
/// One error that names the line, never its contents.
pub fn read(path: &Path) -> Result<Vec<Object>, DumpError> {
    let (name, source) = source(path)?;
    read_from(&name, source)
}

/// Reads the objects of a stream; `name` is what errors call it.
///
/// # Errors
/// See [`read`].
pub fn read_from(name: &str, source: impl Read) -> Result<Vec<Object>, DumpError> {
    let mut objects = Vec::new();
    open(name, source, |reader, source| {
        reader.read(source)?;
        objects = std::mem::take(&mut reader.objects);
        Ok(())
    })?;
    if objects.is_empty() {
        return Err(empty(name));
    }
    Ok(objects)
}

fn empty(name: &str) -> DumpError {
    DumpError {
        name: name.to_owned(),
        line: None,
        problem: Problem::Empty,
    }
}

/// Takes the compression off.
fn open(
    name: &str,
    source: impl Read,
    read: impl FnOnce(&mut Reader<'_>, &mut dyn BufRead) -> Result<(), DumpError>,
) -> Result<(), DumpError> {
    let mut source = BufReader::new(source);
    let mut magic = [0; 4];
    let filled = fill(&mut source, &mut magic).map_err(|error| DumpError {
        name: name.to_owned(),
        line: None,
        problem: error.into(),
    })?;
    let source = io::Cursor::new(magic).take(filled as u64).chain(source);
    let mut reader = Reader {
        name,
        line: 0,
        objects: Vec::new(),
    };
    if magic == ZSTD_MAGIC {
        match zstd::Decoder::with_buffer(source) {
            Ok(decoder) => read(&mut reader, &mut BufReader::with_capacity(1 << 17, decoder)),
            Err(error) => Err(reader.io(error)),
        }
    } else {
        read(&mut reader, &mut BufReader::with_capacity(1 << 17, source))
    }
}

/// A part of a dump.
#[derive(Debug)]
pub enum Piece {
    /// Whole lines of text, each of which ought to be one JSON object; with the number of the first, from 1.
    Lines(usize, Vec<u8>),
    /// Objects of a dump of another form.
    Objects(Vec<Object>),
}

/// How much text is given at once.
const PIECE: usize = 1 << 20;

/// Reads a dump piece by piece, so that a large one need not be in memory as a whole. `take` gives memory for the next
/// piece, best that of one that it is done with, as fresh memory costs time; `None`: no more is wanted.
///
/// # Errors
/// See [`read`]; what is in the lines is the caller's to read.
pub fn read_pieces(
    name: &str,
    source: impl Read,
    mut take: impl FnMut(Piece) -> Option<Vec<u8>>,
) -> Result<(), DumpError> {
    open(name, source, |reader, source| {
        let mut first = Vec::new();
        while reader.next_line(source, &mut first)? && is_blank(&first) {}
        let is_line = serde_json::from_slice::<serde::de::IgnoredAny>(&first).is_ok();
        if first.first() != Some(&b'{') || !is_line {
            // Another form, or nothing. It is read from its beginning.
            let line = reader.line.saturating_sub(1);
            reader.line = line;
            reader.read(&mut BufReader::new(io::Cursor::new(first).chain(source)))?;
            let objects = std::mem::take(&mut reader.objects);
            if objects.is_empty() {
                return Err(empty(reader.name));
            }
            take(Piece::Objects(objects));
            return Ok(());
        }
        let mut number = reader.line;
        let mut text = first;
        loop {
            let mut lines = text.split(|byte| *byte == b'\n').count() - 1;
            while text.len() < PIECE {
                let read = source.read_until(b'\n', &mut text).map_err(|error| {
                    reader.line = number + lines;
                    reader.io(error)
                })?;
                if read == 0 {
                    break;
                }
                lines += 1;
            }
            if text.is_empty() {
                return Ok(());
            }
            let Some(memory) = take(Piece::Lines(number, text)) else {
                return Ok(());
            };
            text = memory;
            text.clear();
            number += lines;
            text.reserve(PIECE + PIECE / 8);
        }
    })
}

fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

struct Reader<'a> {
    name: &'a str,
    /// Of the last line that was read.
    line: usize,
    objects: Vec<Object>,
}

impl Reader<'_> {
    fn error(&self, problem: Problem) -> DumpError {
        DumpError {
            name: self.name.to_owned(),
            line: Some(self.line).filter(|l| *l > 0),
            problem,
        }
    }

    /// A compressed stream that ends early is a dump that was cut off.
    fn io(&self, error: io::Error) -> DumpError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.error(Problem::CutOff),
            _ => self.error(error.into()),
        }
    }

    fn read(&mut self, source: &mut (impl BufRead + ?Sized)) -> Result<(), DumpError> {
        let mut line = Vec::new();
        // Up to the first line that says something.
        while self.next_line(source, &mut line)? && is_blank(&line) {}
        match line.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => Ok(()),
            Some(b'{') => match serde_json::from_slice::<Value>(&line) {
                Ok(value) => {
                    self.take(value)?;
                    self.read_lines(source, &mut line)
                }
                // An object over several lines.
                Err(error) if error.is_eof() => self.read_values(&line, source),
                Err(_) => Err(self.error(Problem::NotJson)),
            },
            Some(first) if first.is_ascii_alphabetic() || matches!(first, b'-' | b'#' | b'%') => {
                self.read_yaml(line, source)
            }
            Some(_) => Err(self.error(Problem::UnknownForm)),
        }
    }

    fn next_line(
        &mut self,
        source: &mut (impl BufRead + ?Sized),
        line: &mut Vec<u8>,
    ) -> Result<bool, DumpError> {
        line.clear();
        let read = source.read_until(b'\n', line).map_err(|error| self.io(error))?;
        self.line += usize::from(read > 0);
        Ok(read > 0)
    }

    fn read_lines(
        &mut self,
        source: &mut (impl BufRead + ?Sized),
        line: &mut Vec<u8>,
    ) -> Result<(), DumpError> {
        while self.next_line(source, line)? {
            if is_blank(line) {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(value) => self.take(value)?,
                Err(error) if error.is_eof() => return Err(self.error(Problem::CutOff)),
                Err(_) => return Err(self.error(Problem::NotJson)),
            }
        }
        Ok(())
    }

    fn read_values(&mut self, first: &[u8], source: &mut (impl BufRead + ?Sized)) -> Result<(), DumpError> {
        let before = self.line - 1;
        let values = serde_json::Deserializer::from_reader(BufReader::new(first.chain(source))).into_iter();
        for value in values {
            match value {
                Ok(value) => self.take(value)?,
                Err(error) => {
                    self.line = before + error.line();
                    return Err(match error.classify() {
                        serde_json::error::Category::Eof => self.error(Problem::CutOff),
                        serde_json::error::Category::Io => self.io(error.into()),
                        _ => self.error(Problem::NotJson),
                    });
                }
            }
        }
        Ok(())
    }

    fn read_yaml(&mut self, first: Vec<u8>, source: &mut (impl BufRead + ?Sized)) -> Result<(), DumpError> {
        let mut text = first;
        source.read_to_end(&mut text).map_err(|error| self.io(error))?;
        let text = String::from_utf8(text).map_err(|_| self.error(Problem::UnknownForm))?;
        // The parser's own words repeat the lines around the place.
        let documents = object::parse_documents(&text).map_err(|_| self.error(Problem::NotYaml))?;
        if !documents.iter().all(Value::is_object) {
            return Err(self.error(Problem::UnknownForm));
        }
        documents.into_iter().try_for_each(|document| self.take(document))
    }

    /// Keeps an object, or the objects of a List.
    fn take(&mut self, mut value: Value) -> Result<(), DumpError> {
        let is_list = value
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.ends_with("List"));
        match value.get_mut("items") {
            Some(Value::Array(items)) if is_list => std::mem::take(items)
                .into_iter()
                .try_for_each(|item| self.take(item)),
            _ => {
                let object =
                    Object::try_from(value).map_err(|error| self.error(Problem::NotAnObject(error)))?;
                self.objects.push(object);
                Ok(())
            }
        }
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// Whether a file could be written there: better known before the work than after it.
///
/// # Errors
/// Its folder is not there, or nothing can be written to it.
pub fn check_writable(path: &Path) -> io::Result<()> {
    Pending::begin(path).map(drop)
}

/// Writes a dump to a file: lines of one JSON object each, compressed when its name ends in `.zst`. The file is there whole or not
/// at all, and only its owner may read it: it holds Secrets.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, lines: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), DumpError> {
    let compressed = path.extension().is_some_and(|extension| extension == "zst");
    let write = || -> io::Result<()> {
        let mut file = Pending::begin(path)?;
        let mut out = BufWriter::new(file.as_file_mut());
        if compressed {
            let mut encoder = zstd::Encoder::new(&mut out, LEVEL)?;
            encoder.include_checksum(true)?;
            lines(&mut encoder)?;
            encoder.finish()?;
        } else {
            lines(&mut out)?;
        }
        out.flush()?;
        drop(out);
        file.end(path, Existing::Replace)
    };
    write().map_err(|error| DumpError {
        name: path.display().to_string(),
        line: None,
        problem: error.into(),
    })
}

/// The Kubernetes version of a dump: the highest kubelet's, since no kubelet is newer than its API server.
pub fn kubernetes_version<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Option<String> {
    objects
        .into_iter()
        .filter(|object| object.group().is_empty() && object.kind() == "Node")
        .filter_map(|node| node.get_str("/status/nodeInfo/kubeletVersion"))
        .filter_map(|version| Some((numbers(version)?, version)))
        .max_by_key(|(numbers, _)| *numbers)
        .map(|(_, version)| version.to_owned())
}

/// Major, minor, patch of `v1.20.2`, `v1.21.5-eks-bc4871b`, `v1.22.6+k3s1`.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let numbers = version.strip_prefix('v')?.split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(|n| n.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ONE: &str = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":"n"},"data":{"p":"hunter2"}}"#;

    fn mk_object(name: &str) -> Object {
        Object::try_from(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}))
            .unwrap()
    }

    fn names(text: impl AsRef<[u8]>) -> Vec<String> {
        read_from("dump", text.as_ref())
            .unwrap()
            .iter()
            .map(|o| o.name().to_owned())
            .collect()
    }

    #[test]
    fn every_form_is_read() {
        let check = |text: &str, expect: &[&str]| {
            assert_eq!(names(text), expect);
            assert_eq!(
                names(zstd::encode_all(text.as_bytes(), 1).unwrap()),
                expect,
                "compressed"
            );
        };
        let two = ONE.replace("\"a\"", "\"b\"");
        let list = json!({"kind": "List", "apiVersion": "v1", "items": [mk_object("a"), mk_object("b")]});
        check(&format!("{ONE}\n{two}\n"), &["a", "b"]);
        check(&format!("\n\n{ONE}\r\n\n{two}"), &["a", "b"]);
        check(&list.to_string(), &["a", "b"]);
        check(&serde_json::to_string_pretty(&list).unwrap(), &["a", "b"]);
        check(
            &format!(
                "{}\n{ONE}",
                serde_json::to_string_pretty(&mk_object("z")).unwrap()
            ),
            &["z", "a"],
        );
        check(
            "apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\nkind: List\n",
            &["a"],
        );
        check(
            "---\nkind: A\napiVersion: v1\nmetadata:\n  name: a\n---\n---\nkind: A\napiVersion: v1\nmetadata:\n  name: b\n",
            &["a", "b"],
        );
    }

    #[test]
    fn bad_dumps_get_one_clear_error() {
        let check = |text: &[u8], expect: &str| {
            let error = read_from("dump", text).unwrap_err();
            let told = format!("{error}; {}", error.hint().unwrap_or_default());
            assert!(told.starts_with(expect), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        };
        check(b"", "dump: it holds no objects; make the dump again");
        check(b"\n \n", "dump: it holds no objects");
        check(
            format!("{ONE}\n{}", &ONE[..90]).as_bytes(),
            "dump, line 2: it ends in the middle of an object; the file was not",
        );
        check(
            format!("{ONE}\nhunter2\n{ONE}").as_bytes(),
            "dump, line 2: it is not JSON",
        );
        check(
            format!("{ONE}\n[1]\n").as_bytes(),
            "dump, line 2: it holds what is no Kubernetes object: not a JSON object",
        );
        check(
            br#"{"kind":"Secret","data":"hunter2"}"#,
            "dump, line 1: it holds what is no Kubernetes object: apiVersion is missing",
        );
        check(
            b"{\n  \"kind\": \"List\",\n  \"items\": [\n",
            "dump, line 4: it ends in the middle",
        );
        check(
            b"{\n  \"kind\": \"List\",\n  hunter2\n",
            "dump, line 3: it is not JSON",
        );
        check(b"[1, 2]", "dump, line 1: it is neither JSON nor YAML");
        check(
            b"hunter2 is no dump\n",
            "dump, line 1: it is neither JSON nor YAML",
        );
        check(b"a: [hunter2\n", "dump, line 1: it is not YAML");
        check(b"\x1f\x8b\x08\x00", "dump, line 1: it is neither JSON nor YAML");
        check(b"\x00\xff", "dump, line 1: it is neither JSON nor YAML");
        let packed = zstd::encode_all(ONE.repeat(100).replace("}{", "}\n{").as_bytes(), 1).unwrap();
        let error = read_from("dump", &packed[..packed.len() - 9]).unwrap_err();
        assert!(matches!(error.problem, Problem::CutOff), "{error}");
    }

    #[test]
    fn a_file_that_is_absent_is_named() {
        let error = read(Path::new("/nonexistent/a.ndjson")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/nonexistent/a.ndjson: No such file"),
            "{error}"
        );
    }

    #[test]
    fn what_is_written_is_read_again_and_private() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.ndjson", "a.ndjson.zst"] {
            let path = folder.path().join(name);
            let objects = [mk_object("a"), mk_object("b")];
            write(&path, |out| {
                objects
                    .iter()
                    .try_for_each(|object| writeln!(out, "{}", object.as_value()))
            })
            .unwrap();
            assert_eq!(read(&path).unwrap(), objects);
            assert_eq!(
                std::fs::read(&path).unwrap().starts_with(&ZSTD_MAGIC),
                name.ends_with("zst")
            );
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                assert_eq!(
                    std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                    0o600
                );
            }
        }
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            2,
            "no temporary files stay"
        );
    }

    #[test]
    fn the_highest_kubelet_counts() {
        let node = |version: &str| {
            Object::try_from(
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": version},
                "status": {"nodeInfo": {"kubeletVersion": version}}}),
            )
            .unwrap()
        };
        let check = |versions: &[&str], expect: Option<&str>| {
            let nodes: Vec<_> = versions.iter().map(|v| node(v)).chain([mk_object("a")]).collect();
            assert_eq!(kubernetes_version(&nodes).as_deref(), expect);
        };
        check(&["v1.20.2", "v1.20.10", "v1.19.16"], Some("v1.20.10"));
        check(&["v1.21.5-eks-bc4871b", "v1.22.6+k3s1"], Some("v1.22.6+k3s1"));
        check(&["unknown", "v1.20.2"], Some("v1.20.2"));
        check(&[], None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_from("dump", bytes.as_slice());
        }

        #[test]
        fn cut_anywhere_a_dump_is_never_taken_for_whole(cut in 1_usize..ONE.len()) {
            let text = format!("{ONE}\n{}", &ONE[..cut]);
            prop_assert!(read_from("dump", text.as_bytes()).is_err());
        }
    }
}
