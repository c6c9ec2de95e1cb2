//! Encryption of archives, in the form that the tool `age` reads and writes (age-encryption.org/v1).

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Seek},
    path::Path,
};

use age::{DecryptError, Decryptor, Encryptor, secrecy::SecretString};

/// What every encrypted archive begins with.
const MAGIC: &[u8] = b"age-encryption.org/v1";

/// For whom an archive is encrypted.
#[derive(Clone, Default)]
pub enum Encryption {
    /// For nobody: whoever has the file reads it.
    #[default]
    None,
    /// For the holders of these keys.
    Recipients(Vec<age::x25519::Recipient>),
    /// For whoever knows the passphrase.
    Passphrase(Passphrase),
}

/// A passphrase. It is wiped from memory when dropped, and is never shown.
#[derive(Clone)]
pub struct Passphrase(SecretString);

/// What encrypted archives are opened with.
#[derive(Clone, Default)]
pub struct Keys {
    identities: Vec<age::x25519::Identity>,
    passphrase: Option<Passphrase>,
}

/// Why a key cannot be used. No word of the key stands in it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{text:?} is no age recipient: {problem}")]
    Recipient { text: String, problem: &'static str },
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    #[error("cannot read {name}: {source}")]
    Read { name: String, source: io::Error },
    #[error("{name} holds no age identity")]
    NoIdentity { name: String },
    #[error("{name} holds something that is no age identity on line {line}")]
    Identity { name: String, line: usize },
}

/// Why an archive cannot be decrypted.
#[derive(Debug)]
pub(crate) enum Locked {
    /// No key was given. Says whether a passphrase would do.
    NoKey {
        passphrase: bool,
    },
    /// None of the keys fits.
    OtherKey,
    Altered,
    Io(io::Error),
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Recipients(_) => "Recipients(..)",
            Self::Passphrase(_) => "Passphrase(..)",
        })
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Passphrase {
    /// # Errors
    /// It is empty.
    pub fn new(text: String) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::EmptyPassphrase);
        }
        Ok(Self(SecretString::from(text)))
    }

    /// Reads the first line of a file.
    ///
    /// # Errors
    /// The file cannot be read, or its first line is empty.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Read {
            name: path.display().to_string(),
            source,
        })?;
        Self::new(text.lines().next().unwrap_or_default().to_owned())
    }
}

impl Encryption {
    /// For the holders of these keys: `age1…`. For nobody, when there are none.
    ///
    /// # Errors
    /// One of them is no recipient.
    pub fn for_recipients<S: AsRef<str>>(recipients: impl IntoIterator<Item = S>) -> Result<Self, KeyError> {
        let recipients = recipients
            .into_iter()
            .map(|text| {
                let text = text.as_ref().trim();
                if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
                    return Err(KeyError::Recipient {
                        // The key itself must show nowhere.
                        text: "AGE-SECRET-KEY-…".to_owned(),
                        problem: "it is an identity, which opens archives and must stay secret",
                    });
                }
                text.parse().map_err(|_| KeyError::Recipient {
                    text: text.to_owned(),
                    problem: "a recipient begins with age1",
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(if recipients.is_empty() {
            Self::None
        } else {
            Self::Recipients(recipients)
        })
    }

    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// What opens what is encrypted so; `None` when only others can.
    pub(crate) fn own_keys(&self) -> Option<Keys> {
        match self {
            Self::None => Some(Keys::default()),
            Self::Recipients(_) => None,
            Self::Passphrase(passphrase) => Some(Keys {
                passphrase: Some(passphrase.clone()),
                ..Keys::default()
            }),
        }
    }

    /// `None` when nothing is to be encrypted.
    pub(crate) fn encryptor(&self) -> io::Result<Option<Encryptor>> {
        let encryptor = match self {
            Self::None => return Ok(None),
            Self::Recipients(recipients) => {
                Encryptor::with_recipients(recipients.iter().map(|r| r as &dyn age::Recipient))
            }
            Self::Passphrase(Passphrase(text)) => {
                let recipient = age::scrypt::Recipient::new(text.clone());
                #[cfg(test)]
                let recipient = {
                    let mut recipient = recipient;
                    recipient.set_work_factor(2);
                    recipient
                };
                Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
        };
        encryptor.map(Some).map_err(io::Error::other)
    }
}

impl Keys {
    /// Adds the identities of a file in the form of `age-keygen`: `AGE-SECRET-KEY-1…`, one a line.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn with_identity_file(mut self, path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Read {
            name: name.clone(),
            source,
        })?;
        let before = self.identities.len();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = line.parse().map_err(|_| KeyError::Identity {
                name: name.clone(),
                line: index + 1,
            })?;
            self.identities.push(identity);
        }
        if self.identities.len() == before {
            return Err(KeyError::NoIdentity { name });
        }
        Ok(self)
    }

    #[must_use]
    pub fn with_passphrase(mut self, passphrase: Passphrase) -> Self {
        self.passphrase = Some(passphrase);
        self
    }

    #[cfg(test)]
    pub(crate) fn with_identity(mut self, identity: age::x25519::Identity) -> Self {
        self.identities.push(identity);
        self
    }

    /// The archive as it was before it was encrypted. What is not encrypted comes as it is.
    pub(crate) fn open<R: Read + Seek + 'static>(&self, inner: R) -> Result<Box<dyn ReadSeek>, Locked> {
        let mut inner = BufReader::with_capacity(1 << 16, inner);
        if !is_encrypted(inner.fill_buf().map_err(Locked::Io)?) {
            return Ok(Box::new(inner));
        }
        let decryptor = Decryptor::new_buffered(inner).map_err(locked)?;
        let passphrase = decryptor.is_scrypt();
        let opened = if passphrase {
            let Some(Passphrase(text)) = &self.passphrase else {
                return Err(Locked::NoKey { passphrase });
            };
            let identity = age::scrypt::Identity::new(text.clone());
            decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity))
        } else {
            if self.identities.is_empty() {
                return Err(Locked::NoKey { passphrase });
            }
            decryptor.decrypt(self.identities.iter().map(|i| i as &dyn age::Identity))
        };
        Ok(Box::new(opened.map_err(locked)?))
    }
}

/// Whether a file that begins so is encrypted.
pub(crate) fn is_encrypted(beginning: &[u8]) -> bool {
    beginning.starts_with(MAGIC)
}

/// What an archive is read from.
pub(crate) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

fn locked(error: DecryptError) -> Locked {
    match error {
        DecryptError::NoMatchingKeys
        | DecryptError::KeyDecryptionFailed
        | DecryptError::DecryptionFailed
        | DecryptError::ExcessiveWork { .. } => Locked::OtherKey,
        DecryptError::Io(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Locked::Io(error)
        }
        _ => Locked::Altered,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, SeekFrom, Write as _};

    use super::*;

    fn mk_encrypted(encryption: &Encryption, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = encryption
            .encryptor()
            .unwrap()
            .unwrap()
            .wrap_output(&mut out)
            .unwrap();
        writer.write_all(text).unwrap();
        writer.finish().unwrap();
        out
    }

    #[test]
    fn only_who_has_the_key_reads() {
        let (mine, other) = (
            age::x25519::Identity::generate(),
            age::x25519::Identity::generate(),
        );
        let encryption = Encryption::for_recipients([mine.to_public().to_string()]).unwrap();
        let passphrase = |text: &str| Passphrase::new(text.to_owned()).unwrap();
        let by_passphrase = Encryption::Passphrase(passphrase("hunter2"));
        let check = |encryption: &Encryption, keys: Keys, expect: &str| {
            let opened = keys.open(Cursor::new(mk_encrypted(encryption, b"text")));
            let told = match opened {
                Ok(mut reader) => {
                    let mut text = String::new();
                    reader.read_to_string(&mut text).unwrap();
                    text
                }
                Err(error) => format!("{error:?}"),
            };
            assert_eq!(told, expect);
        };
        check(
            &encryption,
            Keys::default().with_identity(other.clone()).with_identity(mine),
            "text",
        );
        check(&encryption, Keys::default().with_identity(other), "OtherKey");
        check(&encryption, Keys::default(), "NoKey { passphrase: false }");
        check(
            &by_passphrase,
            Keys::default().with_passphrase(passphrase("hunter2")),
            "text",
        );
        check(
            &by_passphrase,
            Keys::default().with_passphrase(passphrase("hunter3")),
            "OtherKey",
        );
        check(&by_passphrase, Keys::default(), "NoKey { passphrase: true }");
        assert!(!format!("{by_passphrase:?}").contains("hunter2"));
    }

    /// An archive is read twice from the beginning, and its length is asked for.
    #[test]
    fn what_is_encrypted_can_be_read_again_whatever_its_length() {
        let mine = age::x25519::Identity::generate();
        let encryption = Encryption::for_recipients([mine.to_public().to_string()]).unwrap();
        let chunk = 1 << 16;
        for length in [1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk + 7] {
            let text: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let keys = Keys::default().with_identity(mine.clone());
            let mut reader = keys.open(Cursor::new(mk_encrypted(&encryption, &text))).unwrap();
            assert_eq!(reader.seek(SeekFrom::End(0)).unwrap(), text.len() as u64);
            for _ in 0..2 {
                reader.rewind().unwrap();
                let mut read = Vec::new();
                reader.read_to_end(&mut read).unwrap();
                assert!(read == text, "{length}");
            }
        }
    }

    #[test]
    fn a_key_never_shows_in_an_error() {
        use age::secrecy::ExposeSecret as _;
        let secret = age::x25519::Identity::generate().to_string();
        let secret = secret.expose_secret();
        let error = Encryption::for_recipients([secret]).unwrap_err().to_string();
        assert!(!error.contains(&secret[20..]), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, format!("# mine\n{secret}x\n")).unwrap();
        let error = Keys::default().with_identity_file(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("on line 2") && !error.contains(&secret[20..]),
            "{error}"
        );
    }
}
