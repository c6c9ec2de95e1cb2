//! Secrets that are made when acting: only what is missing, and never from a fixed default.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use cluster::{ErrorClass, FIELD_MANAGER};
use hmac::{Hmac, KeyInit as _, Mac as _};
use object::{Object, ObjectKey};
use rand::{RngExt as _, seq::SliceRandom as _};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use release::{Certificate, GeneratedSecret, Recipe};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use crate::{
    Outcome, RunError,
    write::{Writer, get},
};

/// Makes what is missing of a Secret. Keys that are there stay, unless the ClusterConfiguration sets them otherwise.
pub(crate) async fn make(
    writer: &Writer<'_>,
    key: &ObjectKey,
    secret: &GeneratedSecret,
) -> Result<Outcome, RunError> {
    let cluster = writer.cluster;
    let live = get(cluster, key).await?;
    let configuration = get(cluster, &upgrade::cluster_configuration_key()).await?;
    let spec = configuration
        .as_ref()
        .and_then(|c| c.get("/spec"))
        .cloned()
        .unwrap_or_default();
    let write = secret.keys_to_write(live.as_ref(), &spec, Some(writer.started.as_second()));
    if write.is_empty() {
        return Ok(Outcome::AlreadyDone);
    }
    let data = values(secret, live.as_ref(), &spec, &write).map_err(|message| RunError::GenerateSecret {
        object: key.clone(),
        message,
    })?;
    let written = if let Some(object) = &live {
        let version = object.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version}, "data": data});
        writer.retry(key, || cluster.merge_patch(key, &patch)).await
    } else {
        let body = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {
                "name": secret.name, "namespace": secret.namespace,
                "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
            },
            "data": data,
        });
        writer.retry(key, || cluster.create(&body)).await
    };
    match written {
        Ok(object) => Ok(writer.note(object)),
        // A first try whose answer was lost ends here, too.
        Err(RunError::WriteObject(error))
            if matches!(error.class(), ErrorClass::Conflict | ErrorClass::AlreadyExists) =>
        {
            Ok(Outcome::Superseded)
        }
        Err(error) => Err(error),
    }
}

/// The values of the keys to write, in base64.
fn values(
    secret: &GeneratedSecret,
    live: Option<&Object>,
    spec: &Value,
    write: &[String],
) -> Result<Map<String, Value>, String> {
    let mut data = Map::new();
    for key in secret.keys.iter().filter(|key| write.contains(&key.name)) {
        let wanted = key
            .setting
            .as_ref()
            .and_then(|path| path.split('.').try_fold(spec, |value, name| value.get(name)))
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty());
        let value = match (&key.make, wanted) {
            (_, Some(text)) => text.to_owned(),
            (Recipe::Alphanumeric { length }, None) => alphanumeric(*length),
            (Recipe::Jwt { signed_with, claims }, None) => {
                let signing = data
                    .get(signed_with)
                    .or_else(|| live?.get("/data")?.get(signed_with))
                    .and_then(Value::as_str)
                    .and_then(|text| STANDARD.decode(text).ok())
                    .ok_or_else(|| format!("key {signed_with} is missing"))?;
                jwt(&signing, claims)
            }
        };
        data.insert(key.name.clone(), STANDARD.encode(value).into());
    }
    if let Some(certificate) = &secret.certificate
        && write.contains(&certificate.private_key)
    {
        let pair = certificate_pair(certificate).map_err(|error| error.to_string())?;
        for (name, pem) in [
            &certificate.authority_key,
            &certificate.certificate_key,
            &certificate.private_key,
        ]
        .into_iter()
        .zip(pair)
        {
            data.insert(name.clone(), STANDARD.encode(pem).into());
        }
    }
    Ok(data)
}

/// Letters and digits with at least one lower-case letter, one upper-case letter and one digit: what KubeSphere's
/// User schema wants of a password.
fn alphanumeric(length: usize) -> String {
    const CLASSES: [&[u8]; 3] = [
        b"abcdefghijklmnopqrstuvwxyz",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        b"0123456789",
    ];
    let mut random = rand::rng();
    let all = CLASSES.concat();
    let mut text: Vec<u8> = (0..length)
        .map(|place| {
            let class = CLASSES.get(place).copied().unwrap_or(&all);
            class[random.random_range(0..class.len())]
        })
        .collect();
    text.shuffle(&mut random);
    text.into_iter().map(char::from).collect()
}

/// A JSON web token (RFC 7519) signed with HMAC-SHA-256.
fn jwt(secret: &[u8], claims: &Map<String, Value>) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!(
        "{}.{}",
        encode(&json!({"alg": "HS256", "typ": "JWT"})),
        encode(&Value::Object(claims.clone()))
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// A certificate authority's certificate, a server certificate signed by it, and that one's key; PEM each.
fn certificate_pair(wanted: &Certificate) -> Result<[String; 3], rcgen::Error> {
    let start = time::OffsetDateTime::now_utc() - time::Duration::hours(1);
    let end = start + time::Duration::days(i64::from(wanted.days));

    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, wanted.authority_common_name.as_str());
    authority.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    (authority.not_before, authority.not_after) = (start, end);
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let mut server = CertificateParams::new(wanted.dns_names.clone())?;
    server
        .distinguished_name
        .push(DnType::CommonName, wanted.common_name.as_str());
    server.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    (server.not_before, server.not_after) = (start, end);
    let key = KeyPair::generate()?;
    Ok([
        authority_pem,
        server.signed_by(&key, &issuer)?.pem(),
        key.serialize_pem(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> GeneratedSecret {
        serde_json::from_value(json!({"namespace":"n","name":"s",
            "keys":[
                {"name":"secret","setting":"a.jwt","make":{"alphanumeric":{"length":32}}},
                {"name":"token","make":{"jwt":{"signedWith":"secret","claims":{"email":"a","username":"b"}}}}],
            "certificate":{"authorityCommonName":"ca","commonName":"c","dnsNames":["d.n.svc"],"days":10,
                "authorityKey":"ca.crt","certificateKey":"tls.crt","privateKey":"tls.key"}}))
        .unwrap()
    }

    #[test]
    fn a_password_has_all_classes() {
        for _ in 0..200 {
            let text = alphanumeric(16);
            assert_eq!(text.len(), 16);
            let has = |test: fn(&char) -> bool| text.chars().any(|c| test(&c));
            assert!(
                has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase) && has(char::is_ascii_digit)
            );
        }
    }

    #[test]
    fn a_token_is_signed_as_the_reference_has_it() {
        // The signature was computed with Python's hmac module.
        let claims = json!({"email":"admin@kubesphere.io","username":"admin","token_type":"static_token"});
        let token = jwt(b"0123456789abcdefghijklmnopqrstuv", claims.as_object().unwrap());
        let mut parts = token.split('.');
        let part = |text: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
        assert_eq!(part(parts.next().unwrap()), r#"{"alg":"HS256","typ":"JWT"}"#);
        assert_eq!(
            part(parts.next().unwrap()),
            r#"{"email":"admin@kubesphere.io","username":"admin","token_type":"static_token"}"#
        );
        assert_eq!(
            parts.next().unwrap(),
            "DDclOi-xm6EFvgJEM3nLjDcMolyMExFv_kgZ1ICek94"
        );
    }

    #[test]
    fn what_is_there_is_kept_and_what_is_derived_follows() {
        let all: Vec<String> = ["secret", "token", "ca.crt", "tls.crt", "tls.key"]
            .map(str::to_owned)
            .to_vec();
        let spec = json!({"a":{"jwt":"given"}});
        let data = values(&secret(), None, &spec, &all).unwrap();
        let text =
            |name: &str| String::from_utf8(STANDARD.decode(data[name].as_str().unwrap()).unwrap()).unwrap();
        assert_eq!(text("secret"), "given");
        assert_eq!(
            text("token"),
            jwt(b"given", json!({"email":"a","username":"b"}).as_object().unwrap())
        );
        assert!(
            text("tls.crt").starts_with("-----BEGIN CERTIFICATE") && text("tls.key").contains("PRIVATE KEY")
        );
        let some = values(&secret(), None, &spec, &all[..1]).unwrap();
        assert_eq!(some.keys().collect::<Vec<_>>(), ["secret"]);
    }
}
