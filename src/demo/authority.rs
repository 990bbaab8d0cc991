//! A throw-away certificate authority: it lives as long as the demo, and its key never leaves this process.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use zeroize::Zeroizing;

/// Issues certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's certificate, PEM.
    pub(super) pem: String,
}

/// A certificate and its key, PEM.
pub(super) struct Identity {
    pub(super) cert: String,
    pub(super) key: Zeroizing<String>,
}

/// Subject of a certificate.
pub(super) enum Subject<'a> {
    /// A client with this name.
    Client(&'a str),
    /// A server with this address.
    Server(std::net::IpAddr),
}

impl Authority {
    pub(super) fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    pub(super) fn issue(&self, subject: &Subject<'_>) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = match subject {
            Subject::Client(name) => CertificateParams::new(vec![(*name).to_owned()])?,
            Subject::Server(_) => CertificateParams::new(Vec::<String>::new())?,
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match subject {
            Subject::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Subject::Server(address) => {
                params.subject_alt_names.push(SanType::IpAddress(*address));
                vec![ExtendedKeyUsagePurpose::ServerAuth]
            }
        };
        let cert = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { cert, key: Zeroizing::new(key.serialize_pem()) })
    }
}
