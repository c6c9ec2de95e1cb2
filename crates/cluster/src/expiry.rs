//! Until when credentials are valid, so that a refusal can be explained. Nothing here decides who is let in.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
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
    let text = std::str::from_utf8(pem).ok()?;
    let body = text
        .split_once("-----BEGIN CERTIFICATE-----")?
        .1
        .split_once("-----END CERTIFICATE-----")?
        .0;
    let der = STANDARD
        .decode(body.split_whitespace().collect::<String>())
        .ok()?;
    not_after(&der)
}

/// Walks down to `tbsCertificate.validity.notAfter` (RFC 5280, 4.1).
fn not_after(der: &[u8]) -> Option<Timestamp> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let (_, certificate, _) = element(der).filter(|e| e.0 == SEQUENCE)?;
    let (_, mut fields, _) = element(certificate).filter(|e| e.0 == SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields).filter(|e| e.0 == SEQUENCE)?;
    let (tag, time, _) = element(element(validity)?.2)?;
    let time = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let time = match tag {
        // Two digits stand for 1950 to 2049.
        UTC_TIME if time.get(..2)? < "50" => format!("20{time}"),
        UTC_TIME => format!("19{time}"),
        GENERALIZED_TIME => time.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", time).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Tag, contents, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let mut length = usize::from(first);
    let mut rest = rest;
    if first > 0x7f {
        let bytes;
        (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.len() > 4 {
            return None;
        }
        length = bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
    }
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
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
            prop_assert_eq!(not_after(&bytes), None);
        }
    }
}
