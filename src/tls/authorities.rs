//! Which client certificates are accepted: those of the CAs in a bundle that no revocation list names.
//!
//! Each CA verifies by itself, with its own revocation lists.  In one common set webpki uses the first list with the
//! issuer's *name*, and two CAs of one name, usual during a rotation of the CA, would refuse each other's clients.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime as VerificationTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::pem::{self, unix};
use tfo_model::problem::Problem;
use tfo_model::time::UnixTime;

/// Most intermediate certificates of a client.  Everybody learns the CAs' names from the handshake, and can send certificates
/// that claim to be issued by them: each would cost a signature check before it is found out.
const INTERMEDIATES_MAX: usize = 3;

/// Why a chain is refused before any of its signatures is checked.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum BadChain {
    #[error("the client sent {0} intermediate certificates, at most {INTERMEDIATES_MAX} are taken")]
    TooLong(usize),
    #[error("the client sent two intermediate certificates with one name")]
    NameTwice,
    #[error("an intermediate certificate of the client cannot be parsed")]
    Unreadable,
}

impl fmt::Debug for BadChain {
    /// The text: rustls shows such an error in the log only with this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<BadChain> for rustls::Error {
    fn from(bad: BadChain) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(bad))))
    }
}

/// The CAs of the clients; at least one.
#[derive(Debug)]
pub(super) struct Authorities {
    verifiers: Vec<Authority>,
    hints: Vec<DistinguishedName>,
    /// When the first of the CAs expires.
    pub(super) expires: UnixTime,
    /// When the first of the revocation lists is out of date.
    pub(super) crl_expires: Option<UnixTime>,
}

/// One CA.
#[derive(Debug)]
struct Authority {
    verifier: Arc<dyn ClientCertVerifier>,
    /// webpki does not check this.
    expires: UnixTime,
}

/// A revocation list, raw and parsed.
struct List<'a> {
    der: &'a CertificateRevocationListDer<'static>,
    parsed: CertificateRevocationList<'a>,
}

impl Authorities {
    /// Reads the bundle and the lists; adds what is wrong to `problems`.  None if no client could be verified with them.
    pub(super) fn read(bundle: &Path, crl: Option<&Path>, now: UnixTime, problems: &mut Vec<Problem>) -> Option<Self> {
        let certificates = pem::certificates(bundle).map_err(|problem| problems.push(problem)).ok();
        let lists = crl.map(|path| pem::revocation_lists(path).map_err(|problem| problems.push(problem)));
        let lists = match lists {
            None => Some(Vec::new()),
            Some(read) => read.ok(),
        };
        // Both are checked before either fails, so that all problems come at once.
        let certificates = certificates.and_then(|all| usable_authorities(all, bundle, now, problems));
        let lists = lists.as_deref().and_then(|all| current_lists(all, crl.unwrap_or(bundle), now, problems));
        let (certificates, lists) = (certificates?, lists?);
        Self::join(&certificates, &lists, Places { bundle, crl }, problems)
    }

    fn join(
        certificates: &[CertificateDer<'static>],
        lists: &[List<'_>],
        places: Places<'_>,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let parsed: Vec<_> =
            certificates.iter().filter_map(|der| Some((der, X509Certificate::from_der(der).ok()?.1))).collect();
        let known_name = |list: &&List<'_>| parsed.iter().any(|(_, ca)| is_named(ca, list));
        // Lists of intermediate CAs, which clients send along: any CA of the bundle may be above them.
        let foreign: Vec<_> = lists.iter().filter(|list| !known_name(list)).map(|list| list.der.clone()).collect();
        let mut unsigned: Vec<&List<'_>> = lists.iter().filter(known_name).collect();
        let mut verifiers = Vec::new();
        let before = problems.len();
        for (der, ca) in &parsed {
            let signed = |list: &&List<'_>| {
                is_named(ca, list) && list.parsed.verify_signature(&ca.tbs_certificate.subject_pki).is_ok()
            };
            unsigned.retain(|list| !signed(list));
            let mut own: Vec<_> = lists.iter().filter(signed).map(|list| list.der.clone()).collect();
            if let (true, Some(crl)) = (own.is_empty(), places.crl) {
                problems.push(no_list(ca, crl));
            }
            own.extend(foreign.iter().cloned());
            match verifier(der, own) {
                Ok(verifier) => verifiers.push(Authority { verifier, expires: unix(ca.validity().not_after) }),
                Err(message) => problems.push(
                    Problem::error("tls_bad_ca", format!("{}: {message}", ca.subject()), "issue it again")
                        .in_file(places.crl.unwrap_or(places.bundle)),
                ),
            }
        }
        for list in unsigned {
            let message = format!("the revocation list of {} is not signed by that CA's key", list.parsed.issuer());
            let remedy = "use the list that the CA in the bundle signed";
            problems.push(Problem::error("tls_bad_crl", message, remedy).in_file(places.crl.unwrap_or(places.bundle)));
        }
        (problems.len() == before).then(|| Self {
            hints: verifiers.iter().flat_map(|one| one.verifier.root_hint_subjects().to_vec()).collect(),
            expires: verifiers.iter().map(|one| one.expires).min().unwrap_or(UnixTime::MAX),
            verifiers,
            crl_expires: lists.iter().filter_map(|list| list.parsed.next_update()).map(unix).min(),
        })
    }

    /// Verifies a chain as the handshake does.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), rustls::Error> {
        let (own, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let now = VerificationTime::since_unix_epoch(std::time::Duration::from_secs(now.secs()));
        self.verify_client_cert(own, intermediates, now).map(|_| ())
    }
}

impl ClientCertVerifier for Authorities {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: VerificationTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        judge_intermediates(intermediates)?;
        let mut refusal = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for authority in &self.verifiers {
            if authority.expires.secs() < now.as_secs() {
                continue;
            }
            match authority.verifier.verify_client_cert(end_entity, intermediates, now) {
                Ok(verified) => return Ok(verified),
                // Not of this CA, or of another one of its name.  The CA that issued it knows more.
                Err(rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                )) => {}
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is off".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Refuses what would cost many signature checks.
///
/// webpki tries every order of certificates that name each other as issuers.  With names that differ, each certificate has
/// one place in one order: a forged chain costs at most the checks of a good one.
fn judge_intermediates(intermediates: &[CertificateDer<'_>]) -> Result<(), BadChain> {
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(BadChain::TooLong(intermediates.len()));
    }
    let parsed = intermediates.iter().map(|der| X509Certificate::from_der(der));
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(|_| BadChain::Unreadable)?;
    let names: BTreeSet<&[u8]> = parsed.iter().map(|(_, one)| one.subject().as_raw()).collect();
    if names.len() < parsed.len() { Err(BadChain::NameTwice) } else { Ok(()) }
}

/// The one crypto provider.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        let provider = rustls::crypto::ring::default_provider();
        #[cfg(test)]
        let provider = super::forged_chains::counting(provider);
        Arc::new(provider)
    }))
}

/// Where problems of both kinds of file belong.
#[derive(Clone, Copy)]
struct Places<'a> {
    bundle: &'a Path,
    crl: Option<&'a Path>,
}

fn verifier(
    authority: &CertificateDer<'static>,
    lists: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(|error| error.to_string())?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(lists)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| error.to_string())
}

fn is_named(authority: &X509Certificate<'_>, list: &List<'_>) -> bool {
    authority.subject().as_raw() == list.parsed.issuer().as_raw()
}

/// The CAs that are CAs and have not expired.
fn usable_authorities(
    all: Vec<CertificateDer<'static>>,
    bundle: &Path,
    now: UnixTime,
    problems: &mut Vec<Problem>,
) -> Option<Vec<CertificateDer<'static>>> {
    let before = problems.len();
    let mut usable = Vec::new();
    let mut expired = Vec::new();
    for der in all {
        let Ok((_, parsed)) = X509Certificate::from_der(&der) else { continue };
        let is_ca = parsed.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
        let subject = parsed.subject().to_string();
        let expires = unix(parsed.validity().not_after);
        if !is_ca {
            let message = format!("{subject} is not a CA certificate, and its key must not issue certificates");
            let remedy = "list the certificates of CAs, not those of servers or clients";
            problems.push(Problem::error("tls_bad_ca", message, remedy).in_file(bundle));
        } else if expires < now {
            expired.push(format!("the CA {subject} expired at {expires}: its clients are refused"));
        } else {
            usable.push(der);
        }
    }
    let wrong = problems.len() > before;
    for message in expired {
        let remedy = "replace it in the bundle with the new CA";
        let problem = if usable.is_empty() { Problem::error } else { Problem::warning };
        problems.push(problem("tls_ca_expired", message, remedy).in_file(bundle));
    }
    (!wrong && !usable.is_empty()).then_some(usable)
}

/// The lists, newest first, if none is out of date.
fn current_lists<'a>(
    all: &'a [CertificateRevocationListDer<'static>],
    place: &Path,
    now: UnixTime,
    problems: &mut Vec<Problem>,
) -> Option<Vec<List<'a>>> {
    let before = problems.len();
    let mut lists = Vec::new();
    for (der, number) in all.iter().zip(1..) {
        let Ok((_, parsed)) = CertificateRevocationList::from_der(der) else {
            let message = format!("revocation list {number} of the file cannot be parsed");
            problems.push(Problem::error("tls_bad_crl", message, "issue it again").in_file(place));
            continue;
        };
        if let Some(until) = parsed.next_update().map(unix).filter(|until| *until < now) {
            let issuer = parsed.issuer();
            let message =
                format!("the revocation list of {issuer} expired at {until}, so later revocations are unknown");
            let remedy = "issue a new list, and renew it before its nextUpdate";
            problems.push(Problem::error("tls_crl_expired", message, remedy).in_file(place));
        }
        lists.push(List { der, parsed });
    }
    // webpki uses the first list of an issuer.
    lists.sort_by_key(|list| std::cmp::Reverse(list.parsed.last_update().timestamp()));
    (problems.len() == before).then_some(lists)
}

fn no_list(authority: &X509Certificate<'_>, place: &Path) -> Problem {
    let message = format!("the CA {} has no revocation list, so all its clients would be refused", authority.subject());
    let remedy = "append its list, even if it is empty, or remove the CA from the bundle";
    Problem::error("tls_crl_missing", message, remedy).in_file(place)
}
