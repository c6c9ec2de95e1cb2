//! Until when credentials are valid, so that a refusal can be explained. Nothing here decides who is let in.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::Value;

/// Expiry of a JSON web token. Other tokens do not say.
pub(crate) fn of_token(token: &str) -> Option<Timestamp> {
    let payload = token.trim().split('.').nth(1)?;
    let payload: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()?;
    Timestamp::from_second(payload.get("exp")?.as_i64()?).ok()
}

/// Expiry of the first certificate of a PEM text.
pub(crate) fn of_certificate(pem: &[u8]) -> Option<Timestamp> {
    Timestamp::from_second(upgrade::not_after(pem)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_say_when_they_expire() {
        let check = |payload: &str, expect: Option<&str>| {
            let token = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(payload));
            assert_eq!(of_token(&token).map(|t| t.to_string()).as_deref(), expect);
        };
        check(r#"{"exp":1700000000}"#, Some("2023-11-14T22:13:20Z"));
        check(r#"{"sub":"a"}"#, None);
        assert_eq!(of_token("abcdef.0123456789abcdef"), None, "a bootstrap token");
    }

    #[test]
    fn certificates_say_when_they_expire() {
        let check = |year: i32, expect: &str| {
            let mut params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 3, 4);
            let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(
                of_certificate(certificate.pem().as_bytes()).unwrap().to_string(),
                expect
            );
        };
        check(2023, "2023-03-04T00:00:00Z");
        check(2061, "2061-03-04T00:00:00Z");
    }

    proptest! {
        #[test]
        fn anything_else_is_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(of_certificate(&bytes), None);
        }
    }
}
