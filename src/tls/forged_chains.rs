//! Test: what a chain of a stranger costs before it is refused, in signature checks, beside the chain of a client.

use std::cell::Cell;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls_pki_types::{AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm};

use super::authorities::Authorities;
use super::grace::Grace;
use tfo_model::time::UnixTime;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const DAY: u64 = 86_400;

thread_local! {
    static CHECKS: Cell<usize> = const { Cell::new(0) };
}

/// An algorithm that counts how often it is used.
#[derive(Debug)]
struct Counted(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Counted {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        CHECKS.set(CHECKS.get() + 1);
        self.0.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

/// The provider, with signature checks counted for this thread.
pub(super) fn counting(provider: CryptoProvider) -> CryptoProvider {
    let all = provider.signature_verification_algorithms.all.iter();
    let all = all.map(|one| &*Box::leak(Box::new(Counted(*one))) as &dyn SignatureVerificationAlgorithm);
    let all: &'static [_] = all.collect::<Vec<_>>().leak();
    let signature_verification_algorithms =
        WebPkiSupportedAlgorithms { all, mapping: provider.signature_verification_algorithms.mapping };
    CryptoProvider { signature_verification_algorithms, ..provider }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(NOW.secs() - DAY);
    params.not_after = epoch + Duration::from_secs(NOW.secs() + DAY);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A CA of this name; without an issuer, its own.
fn authority(name: &str, below: Option<&Authority>) -> Authority {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let certificate = match below {
        Some(above) => params.signed_by(&key, &above.issuer),
        None => params.self_signed(&key),
    };
    Authority { certificate: certificate.unwrap(), issuer: Issuer::new(params, key) }
}

impl Authority {
    fn leaf(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        params("n1").signed_by(&key, &self.issuer).unwrap().der().clone()
    }

    fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    fn list(&self) -> String {
        let epoch = date_time_ymd(1970, 1, 1);
        let list = CertificateRevocationListParams {
            this_update: epoch + Duration::from_secs(NOW.secs() - DAY),
            next_update: epoch + Duration::from_secs(NOW.secs() + DAY),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// The verdict on a chain, and how many signatures were checked for it.
fn judged(authorities: &Authorities, chain: &[CertificateDer<'static>]) -> (Result<(), String>, usize) {
    CHECKS.set(0);
    let verdict = authorities.verify(chain, NOW).map_err(|error| error.to_string());
    (verdict, CHECKS.get())
}

#[test]
fn a_forged_chain_costs_at_most_what_a_good_one_costs() {
    let ca = authority("ca", None);
    let below = authority("below", Some(&ca));
    let dir = tempfile::tempdir().unwrap();
    let [bundle, lists] = ["ca.crt", "crl.pem"].map(|name| dir.path().join(name));
    std::fs::write(&bundle, ca.certificate.pem()).unwrap();
    std::fs::write(&lists, format!("{}{}", ca.list(), below.list())).unwrap();
    let mut problems = Vec::new();
    let authorities =
        Authorities::read(&bundle, Some(&lists), NOW, &Grace::default(), &mut problems).expect("good files");
    assert_eq!(problems, []);

    let (verdict, direct) = judged(&authorities, &[ca.leaf()]);
    assert_eq!((verdict, direct), (Ok(()), 2), "its own signature, and the list's");
    let (verdict, indirect) = judged(&authorities, &[below.leaf(), below.der()]);
    assert_eq!((verdict, indirect), (Ok(()), 4));
    // Sent along by many tools, and of no use: the root itself.
    let with_root = [below.leaf(), below.der(), ca.der()];
    assert_eq!(judged(&authorities, &with_root).0, Ok(()));

    // A stranger knows the CA's name.  Each of these certificates claims to be the CA, and to be issued by it.
    let liar = authority("ca", None);
    let twins = |count: usize| -> Vec<_> {
        std::iter::once(liar.leaf()).chain((0..count).map(|_| authority("ca", None).der())).collect()
    };
    for count in [2, 3, 4, 10, 60] {
        let (verdict, checks) = judged(&authorities, &twins(count));
        assert!(verdict.is_err());
        assert_eq!(checks, 0, "{count} certificates of one name");
    }
    let strangers: Vec<_> = ["x1", "x2", "x3", "x4"].map(|name| authority(name, None).der()).into();
    let long: Vec<_> = std::iter::once(ca.leaf()).chain(strangers).collect();
    let (verdict, checks) = judged(&authorities, &long);
    assert_eq!(checks, 0, "too long, whatever is in it");
    assert!(verdict.unwrap_err().contains("4 intermediate certificates"));

    // What is short enough and named well.
    for count in [0, 1] {
        let (verdict, checks) = judged(&authorities, &twins(count));
        assert!(verdict.is_err() && checks <= direct, "{count}: {checks} checks, {verdict:?}");
    }
    let (_, checks) =
        judged(&authorities, &[authority("x", Some(&liar)).leaf(), authority("x", Some(&liar)).der(), liar.der()]);
    assert!(checks <= direct, "{checks} checks");
    // With a true certificate of an intermediate CA, which is not a secret either.
    let shadow = authority("ca", Some(&authority("below", None)));
    let (verdict, checks) = judged(&authorities, &[shadow.leaf(), shadow.der(), below.der()]);
    assert!(verdict.is_err() && checks <= indirect, "{checks} checks, {verdict:?}");
}
