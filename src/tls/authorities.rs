//! Which client certificates are accepted: those of the CAs in a bundle that no revocation list names.
//!
//! Each CA verifies by itself, with its own revocation lists.  In one common set webpki uses the first list with the
//! issuer's *name*, and two CAs of one name, usual during a rotation of the CA, would refuse each other's clients.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime as VerificationTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::chain::judge_intermediates;
use super::grace::Grace;
use super::pem::{self, unix};
use tfo_model::problem::Problem;
use tfo_model::time::UnixTime;

/// The error for a client whose revocation list is out of date.  No other client gets its alert, access_denied: that tells
/// clients the reason.
pub(super) const LIST_OVERDUE: CertificateError = CertificateError::ApplicationVerificationFailure;
/// How long before the end of a revocation list it is told, in seconds: 30 days.
const NOTICE_SECS: u64 = 30 * 86_400;
/// But for at most one part in this many of its life: some lists live for a week.
const NOTICE_PARTS: u64 = 4;

/// The CAs of the clients; at least one.
#[derive(Debug)]
pub(super) struct Authorities {
    verifiers: Vec<Authority>,
    hints: Vec<DistinguishedName>,
    /// When the first of the CAs expires.
    pub(super) expires: UnixTime,
    /// When the first of the revocation lists is out of date.
    pub(super) crl_expires: Option<UnixTime>,
    /// Who is let in with a list that is out of date.
    grace: Grace,
    /// From when on the end of a revocation list is told.
    pub(super) crl_notice: Option<UnixTime>,
}

/// What happens to a certificate whose revocation list is out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    /// It is refused, without grace.
    Refused,
    /// The list counts as it is.
    Counts,
}

/// One CA.
#[derive(Debug)]
struct Authority {
    verifier: Arc<dyn ClientCertVerifier>,
    /// The same, with lists that are out of date.
    lenient: Arc<dyn ClientCertVerifier>,
    /// webpki does not check this.
    expires: UnixTime,
}

/// A revocation list, raw and parsed.
struct List<'a> {
    der: &'a CertificateRevocationListDer<'static>,
    parsed: CertificateRevocationList<'a>,
}

impl List<'_> {
    /// From when on its end is told.
    fn notice(&self) -> Option<UnixTime> {
        let until = self.parsed.next_update().map(unix)?;
        let life = until.secs().saturating_sub(unix(self.parsed.last_update()).secs());
        Some(until.minus(NOTICE_SECS.min(life / NOTICE_PARTS)))
    }

    /// The warning for a list that is out of date, or soon will be.
    fn ending(&self, now: UnixTime) -> Option<Problem> {
        let (issuer, until) = (self.parsed.issuer(), self.parsed.next_update().map(unix)?);
        if until < now {
            let message = format!(
                "the revocation list of {issuer} expired at {until}, so later revocations are unknown: new nodes are \
                 refused; operators, and who is connected, are not"
            );
            return Some(Problem::warning(LIST_EXPIRED, message, RENEW_LIST));
        }
        let message = format!("the revocation list of {issuer} ends at {until}: from then on new nodes are refused");
        self.notice().filter(|from| *from < now).map(|_| Problem::warning("tls_crl_expiring", message, RENEW_LIST))
    }
}

impl Authorities {
    /// Reads the bundle and the lists; adds what is wrong to `problems`.  None if no client could be verified with them.
    pub(super) fn read(
        bundle: &Path,
        crl: Option<&Path>,
        now: UnixTime,
        grace: &Grace,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
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
        let joined = Self::join(&certificates, &lists, Places { bundle, crl }, problems)?;
        Some(Self { grace: grace.clone(), ..joined })
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
            let both = verifier(der, own.clone(), Overdue::Refused)
                .and_then(|strict| Ok((strict, verifier(der, own, Overdue::Counts)?)));
            match both {
                Ok((verifier, lenient)) => {
                    verifiers.push(Authority { verifier, lenient, expires: unix(ca.validity().not_after) });
                }
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
            grace: Grace::default(),
            crl_notice: lists.iter().filter_map(|list| list.notice()).min(),
            crl_expires: lists.iter().filter_map(|list| list.parsed.next_update()).map(unix).min(),
        })
    }

    /// Verifies the chain of an open connection.  A list that is out of date closes none.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), rustls::Error> {
        let (own, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let now = VerificationTime::since_unix_epoch(std::time::Duration::from_secs(now.secs()));
        self.judge(own, intermediates, now, Overdue::Counts).map(|_| ())
    }

    fn judge(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: VerificationTime,
        overdue: Overdue,
    ) -> Result<ClientCertVerified, rustls::Error> {
        judge_intermediates(intermediates)?;
        let mut refusal = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for authority in self.verifiers.iter().filter(|authority| authority.expires.secs() >= now.as_secs()) {
            let verifier = match overdue {
                Overdue::Refused => &authority.verifier,
                Overdue::Counts => &authority.lenient,
            };
            match verifier.verify_client_cert(own, intermediates, now) {
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
        let refused = match self.judge(end_entity, intermediates, now, Overdue::Refused) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. },
            )) => rustls::Error::InvalidCertificate(LIST_OVERDUE),
            other => return other,
        };
        match self.grace.is_for(end_entity) {
            true => self.judge(end_entity, intermediates, now, Overdue::Counts),
            false => Err(refused),
        }
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
    overdue: Overdue,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(|error| error.to_string())?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).with_crls(lists);
    let builder = match overdue {
        Overdue::Refused => builder.enforce_revocation_expiration(),
        Overdue::Counts => builder,
    };
    builder.build().map_err(|error| error.to_string())
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

/// Kind of the warning for a list that is out of date.
pub(super) const LIST_EXPIRED: &str = "tls_crl_expired";
/// What to do about a list that ends.
const RENEW_LIST: &str = "`tfoctl pki crl` issues a new one: copy it here; it is read without a restart";

/// The lists, newest first.
fn current_lists<'a>(
    all: &'a [CertificateRevocationListDer<'static>],
    place: &Path,
    now: UnixTime,
    problems: &mut Vec<Problem>,
) -> Option<Vec<List<'a>>> {
    let mut readable = true;
    let mut lists = Vec::new();
    for (der, number) in all.iter().zip(1..) {
        let Ok((_, parsed)) = CertificateRevocationList::from_der(der) else {
            let message = format!("revocation list {number} of the file cannot be parsed");
            problems.push(Problem::error("tls_bad_crl", message, "issue it again").in_file(place));
            readable = false;
            continue;
        };
        let list = List { der, parsed };
        problems.extend(list.ending(now).map(|problem| problem.in_file(place)));
        lists.push(list);
    }
    // webpki uses the first list of an issuer.
    lists.sort_by_key(|list| std::cmp::Reverse(list.parsed.last_update().timestamp()));
    readable.then_some(lists)
}

fn no_list(authority: &X509Certificate<'_>, place: &Path) -> Problem {
    let message = format!("the CA {} has no revocation list, so all its clients would be refused", authority.subject());
    let remedy = "append its list, even if it is empty, or remove the CA from the bundle";
    Problem::error("tls_crl_missing", message, remedy).in_file(place)
}
