//! The certificate authority of all clusters of this process: pods find it in `kube-root-ca.crt`, servers are vouched for by it.

use std::io;
use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// A certificate for a server, and its key in PKCS #8.
pub(crate) struct Vouched {
    pub certificate: rustls::pki_types::CertificateDer<'static>,
    pub key: Vec<u8>,
}

/// Made when the first cluster is: its key never leaves the process.
fn authority() -> Result<&'static CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    static AUTHORITY: OnceLock<Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error>> = OnceLock::new();
    let made = AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        CertifiedIssuer::self_signed(params, KeyPair::generate()?)
    });
    made.as_ref().map_err(Clone::clone)
}

/// The authority's certificate in PEM; empty in the case that none could be made.
pub(crate) fn certificate() -> String {
    match authority() {
        Ok(authority) => authority.pem(),
        Err(_) => String::new(),
    }
}

/// A certificate for a server with these names and addresses.
pub(crate) fn vouch(names: Vec<String>) -> io::Result<Vouched> {
    let make = || {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, authority()?)?;
        Ok::<_, rcgen::Error>(Vouched {
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        })
    };
    make().map_err(io::Error::other)
}
