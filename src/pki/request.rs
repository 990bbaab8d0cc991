//! Certificate requests: a node makes one with its new key, and a coordinator checks what it receives.
//!
//! Must not know: who may have which name.  Invariants: the private key is wiped on drop; a request that is accepted says
//! nothing that the certificate will not say.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use zeroize::{Zeroize, Zeroizing};

use tfo_model::ids::NodeId;

/// A new key and the request to certify it.
pub struct Requested {
    /// The private key, PKCS#8, PEM.
    pub key: Zeroizing<String>,
    /// The request, PEM.
    pub csr: String,
}

/// No randomness for a key, or a name that a certificate cannot have.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a key and a certificate request")]
pub struct NoRequest(#[from] rcgen::Error);

/// Why a request is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Not one PEM certificate request.
    #[error("this is not a certificate request in PEM")]
    NotARequest,
    /// RSA, another curve, or a point that is not on the curve.
    #[error("the key is not of ECDSA on P-256")]
    Key,
    /// The requester does not have the private key.
    #[error("the signature of the request is not by its own key")]
    Signature,
    /// Another name, more than one, or one of another kind.
    #[error("the request asks for another name than the one to certify")]
    Name,
    /// Key usages, a CA, anything but the name.
    #[error("the request asks for an extension or attribute; the authority decides them")]
    Extension,
}

/// Makes a P-256 key and a request for one name.
///
/// # Errors
/// Fails without randomness.
pub fn make(name: &NodeId) -> Result<Requested, NoRequest> {
    let mut params = CertificateParams::new([name.as_str().to_owned()])?;
    // Peers are identified by dNSName; the authority writes the rest.
    params.distinguished_name = DistinguishedName::new();
    let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let pem = Zeroizing::new(key.serialize_pem());
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem());
    key.zeroize();
    Ok(Requested { key: pem, csr: csr? })
}

/// Checks a request for `name`.  Returns the public key to certify: its `SubjectPublicKeyInfo`, DER.
///
/// The subject does not count: the certificate's is the authority's work.  A second use of a request shows by its key, not by
/// its bytes.
///
/// # Errors
/// Fails with the first thing for which the request is not signed.
pub fn check(csr: &str, name: &NodeId) -> Result<Vec<u8>, BadRequest> {
    let der = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).map_err(|_| BadRequest::NotARequest)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| BadRequest::NotARequest)?;
    if !rest.is_empty() {
        return Err(BadRequest::NotARequest);
    }
    let info = &request.certification_request_info;
    let key = info.subject_pki.raw;
    if !is_p256(key) {
        return Err(BadRequest::Key);
    }
    request.verify_signature().map_err(|_| BadRequest::Signature)?;
    let mut asked = false;
    for attribute in info.attributes() {
        let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else {
            return Err(BadRequest::Extension);
        };
        for extension in &wanted.extensions {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
                return Err(BadRequest::Extension);
            };
            let is_it = |found: &GeneralName<'_>| matches!(found, GeneralName::DNSName(text) if *text == name.as_str());
            if std::mem::replace(&mut asked, true)
                || names.general_names.len() != 1
                || !names.general_names.iter().all(is_it)
            {
                return Err(BadRequest::Name);
            }
        }
    }
    Ok(key.to_vec())
}

/// What a `SubjectPublicKeyInfo` of P-256 begins with, before the 65 bytes of an uncompressed point (RFC 5480 section 2).
const P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// Whether the key is of P-256 by its form; that its point is on the curve shows in the check of a signature.
fn is_p256(info: &[u8]) -> bool {
    info.len() == 91 && info.starts_with(&P256)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
    };

    use super::*;

    fn name() -> NodeId {
        "cp1.cache.example.org".parse().unwrap()
    }

    /// A request with what `change` makes of it.
    fn csr(change: impl Fn(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new(vec![name().to_string()]).unwrap();
        change(&mut params);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn what_a_node_makes_is_what_a_coordinator_takes() {
        let made = make(&name()).unwrap();
        let key = KeyPair::from_pem(&made.key).unwrap();
        assert_eq!(check(&made.csr, &name()), Ok(rcgen::PublicKeyData::subject_public_key_info(&key)));
        assert_eq!(check(&made.csr, &"cp2.cache.example.org".parse().unwrap()), Err(BadRequest::Name));
        assert_ne!(make(&name()).unwrap().key, made.key);
        // Without a name, as tools make it that leave names to the authority.
        assert!(check(&csr(|params| params.subject_alt_names.clear()), &name()).is_ok());
    }

    #[test]
    fn a_request_for_more_than_its_name_is_refused() {
        let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
        let cases: [(String, BadRequest); 9] = [
            (csr(|params| params.subject_alt_names.push(dns("ops1.example.org"))), BadRequest::Name),
            (csr(|params| params.subject_alt_names.push(dns("cp1.cache.example.org"))), BadRequest::Name),
            (csr(|params| params.subject_alt_names[0] = dns("*.cache.example.org")), BadRequest::Name),
            (csr(|params| params.subject_alt_names[0] = dns("CP1.cache.example.org")), BadRequest::Name),
            (csr(|params| params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 1].into()))), BadRequest::Name),
            (
                csr(|params| params.subject_alt_names[0] = SanType::Rfc822Name("a@b".try_into().unwrap())),
                BadRequest::Name,
            ),
            (csr(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), BadRequest::Extension),
            (csr(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]), BadRequest::Extension),
            (
                csr(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
                BadRequest::Extension,
            ),
        ];
        for (index, (csr, why)) in cases.iter().enumerate() {
            assert_eq!(check(csr, &name()), Err(*why), "{index}");
        }
    }

    #[test]
    fn another_key_or_a_foreign_signature_is_refused() {
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let params = CertificateParams::new(vec![name().to_string()]).unwrap();
            let csr = params.serialize_request(&key).unwrap().pem().unwrap();
            assert_eq!(check(&csr, &name()), Err(BadRequest::Key));
        }
        let made = make(&name()).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(made.csr.as_bytes()).unwrap();
        let pem = |der: &[u8]| {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
        };
        // Each byte flipped: never a panic, and never another key (DER around the signed part has some play).
        let key = check(&made.csr, &name()).unwrap();
        let accepted = (0..der.len()).filter_map(|index| {
            let mut broken = der.to_vec();
            broken[index] ^= 1;
            check(&pem(&broken), &name()).ok()
        });
        let accepted: Vec<_> = accepted.collect();
        assert!(accepted.len() <= 4 && accepted.iter().all(|found| *found == key), "{}", accepted.len());
        let last = der.len() - 1;
        let mut broken = der.to_vec();
        broken[last] ^= 1;
        assert_eq!(check(&pem(&broken), &name()), Err(BadRequest::Signature));
        let longer = [&der[..], &[0]].concat();
        for bad in ["", "rubbish", &made.key, &pem(&der[..last]), &pem(&longer)] {
            assert_eq!(check(bad, &name()), Err(BadRequest::NotARequest));
        }
    }
}
