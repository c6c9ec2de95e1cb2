//! A text that must not be shown, and the rule for passwords.

use std::fmt;

/// A text that its `Debug` does not show, and that cannot be serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself, for who writes it into a Secret or checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(object::diff::REDACTED)
    }
}

/// Why a password is refused. It never holds the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("it needs 6 to 64 characters")]
    Length,
    #[error("it needs a lower-case letter")]
    NoLowerCase,
    #[error("it needs an upper-case letter")]
    NoUpperCase,
    #[error("it needs a digit")]
    NoDigit,
}

/// Checks a user's password as the CRD of User does since 3.3: 6 to 64 characters, among them a lower-case letter, an
/// upper-case letter and a digit; or a bcrypt hash.
pub fn check_password(password: &str) -> Result<(), PasswordError> {
    if is_bcrypt(password) {
        return Ok(());
    }
    let has = |class: fn(&char) -> bool| password.chars().any(|c| class(&c));
    if !(6..=64).contains(&password.chars().count()) {
        Err(PasswordError::Length)
    } else if !has(char::is_ascii_lowercase) {
        Err(PasswordError::NoLowerCase)
    } else if !has(char::is_ascii_uppercase) {
        Err(PasswordError::NoUpperCase)
    } else if !has(char::is_ascii_digit) {
        Err(PasswordError::NoDigit)
    } else {
        Ok(())
    }
}

/// `$2a$10$` and 53 characters of salt and hash.
fn is_bcrypt(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 60
        && matches!(&bytes[..4], b"$2a$" | b"$2b$" | b"$2y$")
        && bytes[4..6].iter().all(u8::is_ascii_digit)
        && bytes[6] == b'$'
        && bytes[7..]
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(password: &str, expect: Result<(), PasswordError>) {
        assert_eq!(check_password(password), expect, "{password}");
    }

    #[test]
    fn a_password_has_three_kinds_of_characters() {
        check("P@88w0rd", Ok(()));
        check("1Aaaaa", Ok(()));
        check("1Aaaa", Err(PasswordError::Length));
        check(&"1Aa".repeat(22), Err(PasswordError::Length));
        check("password1", Err(PasswordError::NoUpperCase));
        check("PASSWORD1", Err(PasswordError::NoLowerCase));
        check("Password", Err(PasswordError::NoDigit));
        check("Pässword٣", Err(PasswordError::NoDigit));
        check("", Err(PasswordError::Length));
    }

    #[test]
    fn a_bcrypt_hash_is_a_password() {
        let hash = "N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";
        check(&format!("$2a$10${hash}"), Ok(()));
        check(&format!("$2y$12${hash}"), Ok(()));
        assert!(!is_bcrypt(&format!("$2x$10${hash}")));
        assert!(!is_bcrypt(&format!("$2a$1x${hash}")));
        assert!(!is_bcrypt(&format!("$2a$10${}", &hash[1..])));
        assert!(!is_bcrypt("$2a"));
        assert!(!is_bcrypt("$2aé10$"));
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some((secret))");
    }
}
