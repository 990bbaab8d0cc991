//! The client's side of TLS: PEM files become a configuration that trusts one CA and shows one certificate.
//!
//! Must not know: sockets, URLs, what the connection is for.  Invariants: TLS 1.3 only, ring only, HTTP/1.1 only; no
//! platform roots, so only the fleet's own CA can certify a coordinator; only its owner may read the key file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::identity::Peer;
use super::pem;
use super::stamp::{Stamp, read_steady};
use tfo_host::secret::SecretPath;
use tfo_model::ids::NodeId;
use tfo_model::problem::Problem;
use tfo_model::time::{UnixTime, duration_text};

/// A certificate is reported when less than this part of its life is left: a third, as ACME clients renew.
const RENEW_AT_FRACTION: u64 = 3;
/// Never earlier than this before its end, in seconds: 30 days are enough even for a ten-year certificate.
const RENEW_EARLIEST_SECS: u64 = 30 * 86_400;
/// The only protocol that is offered: long polls over HTTP/1.1 (docs/decisions/004-http1-long-poll.md).
pub(super) const ALPN: &[u8] = b"http/1.1";

/// Kind of the problem that a certificate has expired.
pub const EXPIRED: &str = "tls_certificate_expired";
/// Kind of the problem that a certificate expires soon.
pub const EXPIRING: &str = "tls_certificate_expiring";

/// Paths of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// Certificates of the CAs that sign the coordinators' certificates.
    pub ca: PathBuf,
    /// This host's certificate, then its intermediates.
    pub cert: PathBuf,
    /// The private key of the first certificate in `cert`.
    pub key: SecretPath,
    /// Revoked certificates of coordinators; none, and no coordinator's certificate can be revoked.
    pub crl: Option<PathBuf>,
}

/// State of the files, to detect a change.  systemd never changes a credential of a running service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamps([Option<Stamp>; 4]);

impl ClientFiles {
    /// Their current state.
    #[must_use]
    pub fn stamps(&self) -> FileStamps {
        let key = match &self.key {
            SecretPath::File(path) => Stamp::of(path),
            SecretPath::Credential(_) => None,
        };
        FileStamps([Stamp::of(&self.ca), Stamp::of(&self.cert), key, self.crl.as_deref().and_then(Stamp::of)])
    }
}

/// Identity of this host, and its TLS configuration.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    /// TLS configuration of the connection.
    pub config: ClientConfig,
    /// Every SAN dNSName of the certificate that is a node's name, sorted, or the name in its SPIFFE ID if it has no such name;
    /// coordinators identify the host by them.
    pub names: Vec<NodeId>,
    /// First second of the certificate.
    pub not_before: UnixTime,
    /// Last second of the certificate.
    pub not_after: UnixTime,
    /// Problems that do not prevent a connection attempt: expired (an error), expiring, without a name, an expired CA.
    pub notes: Vec<Problem>,
}

/// Fields of a certificate.
struct Described {
    names: Vec<NodeId>,
    not_before: UnixTime,
    not_after: UnixTime,
}

/// Reads the files and builds the configuration.
///
/// An expired certificate is only a note: the clock may be wrong, and the other side refuses it.  Files that are replaced while
/// they are read are read again: a certificate and a key in one file never look like halves of two pairs.
///
/// # Errors
/// Fails with everything that is wrong with the files, each with its file and remedy.
pub fn client_identity(files: &ClientFiles, now: UnixTime) -> Result<ClientIdentity, Vec<Problem>> {
    read_steady(|| files.stamps(), || read_identity(files, now))
}

fn read_identity(files: &ClientFiles, now: UnixTime) -> Result<ClientIdentity, Vec<Problem>> {
    let mut notes = Vec::new();
    let read = (read_roots(&files.ca, now, &mut notes), pem::certificates(&files.cert), pem::key(&files.key));
    let lists = match &files.crl {
        Some(path) => read_lists(path, now, &mut notes),
        None => Ok(Vec::new()),
    };
    let (roots, chain, key, lists) = match (read, lists) {
        ((Ok(roots), Ok(chain), Ok(key)), Ok(lists)) => (roots, chain, key, lists),
        ((roots, chain, key), lists) => {
            return Err([roots.err(), chain.err(), key.err(), lists.err()].into_iter().flatten().collect());
        }
    };
    let described = describe(&chain[0]).map_err(|problem| vec![problem.in_file(&files.cert)])?;
    notes.extend(validity_note(&described, now).map(|problem| problem.in_file(&files.cert)));
    if described.names.is_empty() {
        let message = "the certificate has no host name (SAN dNSName, or a SPIFFE ID of a fleet), so coordinators cannot identify \
                       this host";
        let remedy = "issue one with a SAN: `tfoctl pki issue --node NAME`; the common name does not count";
        notes.push(Problem::error("tls_certificate_without_name", message, remedy).in_file(&files.cert));
    }
    let config = configure((roots, lists), chain, key, files).map_err(|problem| vec![problem])?;
    let Described { names, not_before, not_after } = described;
    Ok(ClientIdentity { config, names, not_before, not_after, notes })
}

/// The configuration alone.
///
/// # Errors
/// As [`client_identity`].
pub fn client_config(ca: &Path, cert: &Path, key: &SecretPath, now: UnixTime) -> Result<ClientConfig, Vec<Problem>> {
    let files = ClientFiles { ca: ca.to_owned(), cert: cert.to_owned(), key: key.clone(), crl: None };
    client_identity(&files, now).map(|identity| identity.config)
}

/// A configuration that shows no certificate, for a server that asks for none.
///
/// # Errors
/// Fails with what is wrong with the file.
pub fn anonymous_config(ca: &Path, now: UnixTime) -> Result<ClientConfig, Problem> {
    let roots = read_roots(ca, now, &mut Vec::new())?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder =
        builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("ring has cipher suites for TLS 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn configure(
    (roots, lists): (RootCertStore, Vec<CertificateRevocationListDer<'static>>),
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    files: &ClientFiles,
) -> Result<ClientConfig, Problem> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(roots, lists, files, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has cipher suites for TLS 1.3")
        .with_webpki_verifier(verifier);
    let mut config = builder.with_client_auth_cert(chain, key).map_err(|error| {
        let cert = files.cert.display();
        match error {
            rustls::Error::InconsistentKeys(_) => {
                let message = format!("{} is not the private key of the certificate in {cert}", files.key);
                Problem::error("tls_key_mismatch", message, "use the two files that were issued together")
                    .in_file(&files.cert)
            }
            other => {
                let message = format!("the certificate in {cert} and its key {} cannot be used: {other}", files.key);
                let remedy = "issue an ECDSA P-256 or Ed25519 certificate: `tfoctl pki issue`";
                Problem::error("tls_key_unusable", message, remedy).in_file(&files.cert)
            }
        }
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Connections last, and a coordinator that restarts has new ticket keys: tickets would only use memory.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Refuses what a list names, whatever its age: an overdue list still knows what was revoked before, and a node that took no
/// coordinator because of a date would lose the pool.  A CA without a list revokes nothing.
fn verifier(
    roots: RootCertStore,
    lists: Vec<CertificateRevocationListDer<'static>>,
    files: &ClientFiles,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Problem> {
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).with_crls(lists);
    builder.only_check_end_entity_revocation().allow_unknown_revocation_status().build().map_err(|error| {
        let message = format!("a revocation list cannot be used: {error}");
        Problem::error("tls_bad_crl", message, "issue it again").in_file(files.crl.as_ref().unwrap_or(&files.ca))
    })
}

/// The lists, newest first: webpki uses the first one of an issuer.
fn read_lists(
    path: &Path,
    now: UnixTime,
    notes: &mut Vec<Problem>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Problem> {
    let mut dated = Vec::new();
    for der in pem::revocation_lists(path)? {
        let Ok((_, list)) = CertificateRevocationList::from_der(&der) else {
            let message = "a revocation list of the file cannot be parsed";
            return Err(Problem::error("tls_bad_crl", message, "issue it again").in_file(path));
        };
        if let Some(until) = list.next_update().map(pem::unix).filter(|until| *until < now) {
            let message = format!(
                "the revocation list of {} was to be renewed at {until}: what was revoked since is not known, what it names \
                 stays refused",
                list.issuer()
            );
            notes.push(Problem::warning("tls_crl_expired", message, "put the CA's new list there").in_file(path));
        }
        let at = list.last_update().timestamp();
        dated.push((at, der));
    }
    dated.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    Ok(dated.into_iter().map(|(_, der)| der).collect())
}

fn read_roots(path: &Path, now: UnixTime, notes: &mut Vec<Problem>) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    let certificates = pem::certificates(path)?;
    let mut expired = 0;
    for certificate in &certificates {
        let described = describe(certificate).map_err(|problem| problem.in_file(path))?;
        expired += usize::from(described.not_after < now);
        roots.add(certificate.clone()).map_err(|error| {
            let remedy = "name the file with the CA's certificate (ca.crt)";
            Problem::error("tls_not_pem", format!("the file has no CA certificate: {error}"), remedy).in_file(path)
        })?;
    }
    if expired == certificates.len() {
        let message = "every CA certificate in the file has expired";
        let remedy = "create a new CA, and give every host a file with both during the change";
        notes.push(Problem::error(EXPIRED, message, remedy).in_file(path));
    }
    Ok(roots)
}

fn describe(certificate: &CertificateDer<'_>) -> Result<Described, Problem> {
    let unreadable = |_| Problem::error("tls_not_pem", "the first certificate cannot be parsed", "issue a new one");
    let peer = Peer::own(certificate).map_err(unreadable)?;
    let (_, parsed) = X509Certificate::from_der(certificate).expect("it has just been parsed");
    let not_before = pem::unix(parsed.validity().not_before);
    Ok(Described { names: peer.names.into_iter().collect(), not_before, not_after: peer.not_after })
}

/// Whether the certificate has expired, is not valid yet, or expires soon.
fn validity_note(certificate: &Described, now: UnixTime) -> Option<Problem> {
    let Described { not_before, not_after, .. } = *certificate;
    let left = not_after.secs_since(now);
    let renew = (not_after.secs_since(not_before) / RENEW_AT_FRACTION).min(RENEW_EARLIEST_SECS);
    let issue = "issue a new one (`tfoctl pki issue`) and replace the old one; the agent uses it without a restart";
    if now > not_after {
        let message = format!("the certificate expired at {not_after}: every coordinator refuses it");
        Some(Problem::error(EXPIRED, message, issue))
    } else if now < not_before {
        let message = format!("the certificate is not valid before {not_before}; this host's clock shows {now}");
        Some(Problem::error(
            "tls_certificate_not_yet_valid",
            message,
            "set the clock, or issue a certificate that is valid now",
        ))
    } else if left < renew {
        let message = format!("the certificate expires at {not_after}, in {}", duration_text(left));
        Some(Problem::warning(EXPIRING, message, issue))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
        KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
    };

    use super::*;

    const DAY: u64 = 86_400;
    const FROM: UnixTime = UnixTime::from_secs(1_800_000_000);

    /// A directory with a CA and one certificate that is valid for 90 days from [`FROM`].
    struct Pki {
        dir: tempfile::TempDir,
        ca: CertifiedIssuer<'static, KeyPair>,
    }

    fn valid(params: &mut CertificateParams, days: u64) {
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(FROM.secs());
        params.not_after = epoch + Duration::from_secs(FROM.plus(days * DAY).secs());
    }

    impl Pki {
        fn new() -> Self {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            valid(&mut params, 3_650);
            let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let pki = Self { dir: tempfile::tempdir().unwrap(), ca };
            pki.put("ca.crt", &pki.ca.pem(), 0o644);
            pki.issue(&["N1.example.org", "n2.example.org"], 90);
            pki
        }

        fn issue(&self, names: &[&str], days: u64) {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            valid(&mut params, days);
            let key = KeyPair::generate().unwrap();
            self.put("n.crt", &params.signed_by(&key, &self.ca).unwrap().pem(), 0o644);
            self.put("n.key", &key.serialize_pem(), 0o400);
        }

        fn put(&self, name: &str, text: &str, mode: u32) {
            let path = self.dir.path().join(name);
            std::fs::remove_file(&path).ok();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }

        fn load(&self, now: UnixTime) -> Result<ClientIdentity, Vec<Problem>> {
            let path = |name| self.dir.path().join(name);
            let files = ClientFiles {
                ca: path("ca.crt"),
                cert: path("n.crt"),
                key: SecretPath::File(path("n.key")),
                crl: Some(path("crl.pem")).filter(|path| path.exists()),
            };
            client_identity(&files, now)
        }

        fn kinds(&self) -> Vec<&'static str> {
            let problems = self.load(FROM.plus(DAY)).err().unwrap_or_default();
            assert!(problems.iter().all(|problem| !problem.remedy.is_empty()));
            problems.iter().map(|problem| problem.kind).collect()
        }

        fn notes(&self, now: UnixTime) -> Vec<&'static str> {
            self.load(now).unwrap().notes.iter().map(|problem| problem.kind).collect()
        }
    }

    #[test]
    fn good_files_say_who_this_is() {
        let identity = Pki::new().load(FROM.plus(DAY)).unwrap();
        let names: Vec<_> = identity.names.iter().map(NodeId::as_str).collect();
        assert_eq!(names, ["n1.example.org", "n2.example.org"], "DNS names have no case");
        assert_eq!((identity.not_after, identity.notes), (FROM.plus(90 * DAY), vec![]));
        assert_eq!(identity.config.alpn_protocols, [ALPN]);
    }

    #[test]
    fn the_end_of_a_certificate_is_told_in_time() {
        let pki = Pki::new();
        assert_eq!(pki.notes(FROM.minus(1)), ["tls_certificate_not_yet_valid"]);
        assert_eq!(pki.notes(FROM.plus(60 * DAY)), [""; 0]);
        assert_eq!(pki.notes(FROM.plus(60 * DAY + 1)), ["tls_certificate_expiring"]);
        assert_eq!(pki.notes(FROM.plus(90 * DAY)), ["tls_certificate_expiring"]);
        assert_eq!(pki.notes(FROM.plus(90 * DAY + 1)), [EXPIRED]);
        pki.issue(&["n1.example.org"], 3_000);
        assert_eq!(pki.notes(FROM.plus(2_970 * DAY)), [""; 0], "a long life does not make it warn for years");
        assert_eq!(pki.notes(FROM.plus(2_970 * DAY + 1)), ["tls_certificate_expiring"]);
        pki.issue(&["n1.example.org"], 9_000);
        assert_eq!(pki.notes(FROM.plus(3_651 * DAY)), [EXPIRED], "the CA");
    }

    #[test]
    fn an_overdue_list_is_told_and_a_broken_one_is_refused() {
        let pki = Pki::new();
        let list = |until: u64| {
            let epoch = date_time_ymd(1970, 1, 1);
            let params = CertificateRevocationListParams {
                this_update: epoch + Duration::from_secs(FROM.secs()),
                next_update: epoch + Duration::from_secs(FROM.plus(until).secs()),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            pki.put("crl.pem", &params.signed_by(&pki.ca).unwrap().pem().unwrap(), 0o644);
        };
        list(DAY);
        assert_eq!(pki.notes(FROM.plus(DAY)), [""; 0]);
        assert_eq!(pki.notes(FROM.plus(DAY + 1)), ["tls_crl_expired"], "the node is not locked out");
        pki.put("crl.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", 0o644);
        assert_eq!(pki.kinds(), ["tls_bad_crl"]);
        pki.put("crl.pem", "", 0o644);
        assert_eq!(pki.kinds(), ["tls_not_pem"]);
    }

    #[test]
    fn a_certificate_without_a_name_is_told() {
        let pki = Pki::new();
        for names in [&[][..], &["192.0.2.1"], &["*.example.org"]] {
            pki.issue(names, 90);
            assert_eq!(pki.notes(FROM.plus(DAY)), ["tls_certificate_without_name"], "{names:?}");
        }
    }

    #[test]
    fn everything_that_is_wrong_with_the_files_comes_at_once() {
        let pki = Pki::new();
        for name in ["ca.crt", "n.crt", "n.key"] {
            std::fs::remove_file(pki.dir.path().join(name)).unwrap();
        }
        assert_eq!(pki.kinds(), ["tls_file_missing", "tls_file_missing", "secret_missing"]);
        pki.put("ca.crt", "", 0o644);
        pki.put("n.crt", "-----BEGIN CERTIFICATE-----\nMIIB", 0o644);
        pki.put("n.key", "rubbish", 0o400);
        assert_eq!(pki.kinds(), ["tls_not_pem", "tls_not_pem", "tls_not_pem"]);
        pki.put("n.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
        pki.put("ca.crt", "# nothing in it", 0o644);
        pki.put("n.key", "rubbish", 0o440);
        assert_eq!(pki.kinds(), ["tls_not_pem", "tls_not_pem", "secret_exposed"]);
    }

    #[test]
    fn a_pair_in_one_file_is_never_halves_of_two() {
        let pki = Pki::new();
        let pairs = [0, 1].map(|_| {
            pki.issue(&["n1.example.org"], 90);
            let read = |name| std::fs::read_to_string(pki.dir.path().join(name)).unwrap();
            read("n.crt") + &read("n.key")
        });
        let path = |name| pki.dir.path().join(name);
        let (ca, cert, key) = (path("ca.crt"), path("pair"), SecretPath::File(path("pair")));
        pki.put("pair", &pairs[0], 0o400);
        let files = ClientFiles { ca, cert, key, crl: None };
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for pair in pairs.iter().cycle() {
                    pki.put("next", pair, 0o400);
                    std::fs::rename(path("next"), path("pair")).unwrap();
                    if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let read = (0..50).map(|_| client_identity(&files, FROM.plus(DAY)).map(|found| found.notes));
            let failed: Vec<_> = read.filter_map(Result::err).collect();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(failed, Vec::<Vec<Problem>>::new());
        });
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let pki = Pki::new();
        pki.put("n.key", &KeyPair::generate().unwrap().serialize_pem(), 0o400);
        assert_eq!(pki.kinds(), ["tls_key_mismatch"]);
        pki.put("n.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
        assert_eq!(pki.kinds(), ["tls_not_pem"]);
    }
}
