//! The client's side of TLS where a token vouches for the server: no file names an authority yet, the token's pin does.
//!
//! Must not know: what a pin is.  Invariant: the pinned authority has signed the server's certificate, which is good now
//! for the name that was asked for, as always; only the authority's own certificate comes from the server.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

/// Most certificates that a server sends beside its own.
const CHAIN_MAX: usize = 8;

/// What the error of a handshake says where the server's authority is another one.
pub const OTHER_AUTHORITY: &str = "the server does not show the authority that the token names";

/// A configuration without a client certificate, for a server whose chain has an authority for which `is_authority` holds.
pub fn pinned_config(is_authority: impl Fn(&CertificateDer<'_>) -> bool + Send + Sync + 'static) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Pinned { is_authority: Box::new(is_authority), provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has cipher suites for TLS 1.3");
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    config.alpn_protocols = vec![super::client::ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config
}

type IsAuthority = Box<dyn Fn(&CertificateDer<'_>) -> bool + Send + Sync>;

struct Pinned {
    is_authority: IsAuthority,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

#[derive(thiserror::Error)]
#[error("{OTHER_AUTHORITY}")]
struct OtherAuthority;

impl fmt::Debug for OtherAuthority {
    /// The text: rustls shows such an error only with this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn other_authority() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(OtherAuthority))))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut candidates = intermediates.iter().take(CHAIN_MAX);
        let authority = candidates.find(|one| (self.is_authority)(one)).ok_or_else(other_authority)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider)).build();
        let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    use super::*;

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn server(by: &CertifiedIssuer<'static, KeyPair>, usage: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["c1.example.org".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().clone()
    }

    #[test]
    fn the_pinned_authority_must_have_signed_a_server_of_that_name() {
        let (ours, other) = (authority("a"), authority("b"));
        let pinned = ours.der().clone();
        let verifier = Pinned {
            is_authority: Box::new(move |one| *one == pinned),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        };
        let verdict =
            |leaf: &CertificateDer<'static>, chain: &[&CertifiedIssuer<'static, KeyPair>], name: &'static str| {
                let chain: Vec<_> = chain.iter().map(|one| one.der().clone()).collect();
                let name = ServerName::try_from(name).unwrap();
                verifier.verify_server_cert(leaf, &chain, &name, &[], UnixTime::now()).map(|_| ())
            };
        let good = server(&ours, ExtendedKeyUsagePurpose::ServerAuth);
        verdict(&good, &[&ours], "c1.example.org").unwrap();
        verdict(&good, &[&other, &ours], "c1.example.org").unwrap();
        let error = |result: Result<(), rustls::Error>| result.unwrap_err().to_string();
        for chain in [&[][..], &[&other], &[&other; CHAIN_MAX + 1]] {
            assert!(error(verdict(&good, chain, "c1.example.org")).contains(OTHER_AUTHORITY));
        }
        // Signed by another, beside the pinned one that it borrowed from a real coordinator.
        let foreign = server(&other, ExtendedKeyUsagePurpose::ServerAuth);
        assert!(error(verdict(&foreign, &[&other, &ours], "c1.example.org")).contains("UnknownIssuer"));
        assert!(error(verdict(&good, &[&ours], "c2.example.org")).contains("not valid for name"));
        // A node of the fleet cannot play the coordinator.
        let node = server(&ours, ExtendedKeyUsagePurpose::ClientAuth);
        assert!(verdict(&node, &[&ours], "c1.example.org").is_err());
    }
}
