//! The server's side of TLS: its certificate, which clients it accepts, and new files without a restart.
//!
//! * TLS 1.3, always with a client certificate, no session resumption: a resumed session is not verified again, so a
//!   revoked client could return with its ticket (docs/decisions/008-rustls-and-ring-only.md).
//! * Broken new files leave the old ones in use; the problem is reported until they are fixed.
//! * A connection is closed when its certificate expires or the new files do not allow it.  An out-of-date revocation
//!   list closes none: it only keeps new clients out, apart from those who have grace, and the connected fleet continues.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{error, info, warn};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::authorities::{Authorities, LIST_EXPIRED, provider};
use super::grace::Grace;
use super::identity::{Peer, addresses_of};
pub use super::live::LiveConnection;
use super::live::{Chain, Closed, Registry, Sweep};
use super::pem::{self, unix};
use super::spiffe::TrustDomain;
use super::stamp::{Stamp, read_steady};
use tfo_host::runtime::{clock, log};
use tfo_host::secret::SecretPath;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, first_error};
use tfo_model::time::UnixTime;

/// The only protocol that is offered.
const ALPN: &[u8] = b"http/1.1";
/// How often the end of a revocation list is logged, in seconds.
const NOTICE_EVERY_SECS: u64 = 86_400;
/// Closed connections that are logged one by one after a reload; the others are counted.
const CLOSED_LOGGED_MAX: usize = 20;

/// The files of a server, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The server's certificate, and the intermediate ones after it.
    pub cert: PathBuf,
    /// Its private key, owner-only.
    pub key: SecretPath,
    /// The CAs that sign the clients' certificates.  Several during a rotation.
    pub client_ca: PathBuf,
    /// Revocation lists, one for each of these CAs.  Without them nothing can be revoked.
    pub crl: Option<PathBuf>,
}

/// Result of a look at the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// The files are those in use.
    Unchanged,
    /// New files are in use.
    Done {
        /// Connections that were closed, because the new files do not allow their certificates.
        closed: usize,
        /// Warnings about the new files.
        problems: Vec<Problem>,
    },
    /// The new files are broken; the old ones stay in use.
    Kept(Vec<Problem>),
}

/// When what is in use expires.  For metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiries {
    /// The server's certificate.
    pub certificate: UnixTime,
    /// The first of the CAs.
    pub client_ca: UnixTime,
    /// The first of the revocation lists (`nextUpdate`).  After it new clients need grace.
    pub crl: Option<UnixTime>,
}

/// TLS of a server, according to its current files.
pub struct ServerTls {
    in_use: ArcSwap<InUse>,
    live: Arc<Registry>,
    watched: Mutex<Watched>,
    grace: Grace,
    /// The SPIFFE IDs that name peers, if any do.  It stays: the peers of open connections have their names by it.
    domain: Option<TrustDomain>,
}

/// One reading of the files.  Read at each accept.
pub struct InUse {
    /// What a handshake uses.
    pub config: Arc<ServerConfig>,
    authorities: Arc<Authorities>,
    expiries: Expiries,
    /// The server's own certificate with its key.
    own: Arc<CertifiedKey>,
    /// Names in it.
    names: BTreeSet<NodeId>,
    /// Addresses in it.
    addresses: Vec<IpAddr>,
}

/// The files, and what the last look at them saw.
struct Watched {
    files: ServerFiles,
    stamps: [Option<Stamp>; 4],
    /// Why they could not be used, if they could not.
    broken: Vec<Problem>,
    /// When the end of a revocation list was last logged.
    told_at: UnixTime,
}

/// A peer that is refused after its handshake.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// New files came during the handshake, and do not allow it.
    #[error(transparent)]
    Refused(#[from] rustls::Error),
    /// The verifier accepted what the parser does not.
    #[error(transparent)]
    Unreadable(#[from] super::identity::UnreadableCertificate),
}

impl ServerTls {
    /// Reads the files.  Peers have the names of their certificates, and with a trust domain also those of its SPIFFE IDs.
    ///
    /// # Errors
    /// Fails with all their problems, each with file and remedy, if one of them is an error.
    pub fn load(files: ServerFiles, domain: Option<TrustDomain>) -> Result<Arc<Self>, Vec<Problem>> {
        let now = clock::now();
        let seen = stamps(&files);
        let grace = Grace::within(domain.clone());
        // Files may be replaced while it starts.  Later looks come again anyway.
        let read = || match InUse::read(&files, now, &grace) {
            (Some(in_use), problems) if first_error(&problems).is_none() => Ok((in_use, problems)),
            (_, problems) => Err(problems),
        };
        let (in_use, problems) = read_steady(|| stamps(&files), read)?;
        problems.iter().for_each(log::problem);
        Ok(Arc::new(Self {
            in_use: ArcSwap::from_pointee(in_use),
            live: Arc::default(),
            watched: Mutex::new(Watched { files, stamps: seen, broken: overdue(&problems), told_at: now }),
            grace,
            domain,
        }))
    }

    /// Everything that is wrong with the files, warnings included.
    #[must_use]
    pub fn check(files: &ServerFiles) -> Vec<Problem> {
        InUse::read(files, clock::now(), &Grace::default()).1
    }

    /// The names in a server's certificate, as far as it can be read.
    #[must_use]
    pub fn names_in(cert: &Path) -> BTreeSet<NodeId> {
        let own = pem::certificates(cert).ok().and_then(|chain| Peer::of(chain.first()?).ok());
        own.map(|own| own.names.into_iter().collect()).unwrap_or_default()
    }

    /// Uses new files if there are any, and closes the connections of expired certificates.
    ///
    /// Blocking: reads files, and with new ones verifies the certificates of all connections again.
    pub fn reload_if_changed(&self) -> Reload {
        self.look(&mut self.watched(), Trigger::Change)
    }

    /// The same even if the files look unchanged: for SIGHUP.
    pub fn reload(&self) -> Reload {
        self.look(&mut self.watched(), Trigger::Order)
    }

    /// The same with files of other names, for a configuration that names them.  If they cannot be used, what was read
    /// before stays in use, and these files are looked at from then on.
    pub fn reload_from(&self, files: ServerFiles) -> Reload {
        let mut watched = self.watched();
        watched.files = files;
        self.look(&mut watched, Trigger::Order)
    }

    /// Lets these clients in although their revocation list is out of date.  To be called once.
    pub fn give_grace_to(&self, who: impl Fn(&Peer) -> bool + Send + Sync + 'static) {
        self.grace.give_to(who);
    }

    /// Whether a name is in the server's own certificate.
    #[must_use]
    pub fn is_own_name(&self, name: &NodeId) -> bool {
        self.in_use.load().names.contains(name)
    }

    /// What an operator should know of the end of the revocation lists, in a few words; none if it is far away.
    #[must_use]
    pub fn list_notice(&self, now: UnixTime) -> Option<String> {
        let in_use = self.in_use.load();
        let until = in_use.expiries.crl?;
        if until < now {
            return Some(format!("the revocation list ended at {until}, new nodes are refused: renew it"));
        }
        let near = in_use.authorities.crl_notice.is_some_and(|from| from < now);
        near.then(|| format!("the revocation list ends at {until}: renew it"))
    }

    /// When what is in use expires.
    #[must_use]
    pub fn expiries(&self) -> Expiries {
        self.in_use.load().expiries
    }

    /// Why the current files are not in use; empty if they are.
    #[must_use]
    pub fn broken(&self) -> Vec<Problem> {
        self.watched().broken.clone()
    }

    /// The names and addresses in the server's own certificate.
    #[must_use]
    pub fn own_hosts(&self) -> (BTreeSet<NodeId>, Vec<IpAddr>) {
        let in_use = self.in_use.load();
        (in_use.names.clone(), in_use.addresses.clone())
    }

    /// The reading for a handshake that begins now.
    pub fn in_use(&self) -> Arc<InUse> {
        self.in_use.load_full()
    }

    /// Registers a connection after its handshake, which used `began`.
    ///
    /// # Errors
    /// Fails if newer files do not allow it.
    pub fn admit(&self, began: &Arc<InUse>, chain: &[CertificateDer<'static>]) -> Result<LiveConnection, NotAdmitted> {
        let own = chain.first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let peer = Arc::new(Peer::within(own, self.domain.as_ref())?);
        let chain: Chain = chain.into();
        let expires = next_expiry(&chain, &began.authorities, clock::now());
        let live = self.live.insert(peer, Arc::clone(&chain), expires);
        // Register first, then compare: a reload in between sees the connection in one of the two.
        let now_in_use = self.in_use.load();
        if !Arc::ptr_eq(&now_in_use, began) {
            now_in_use.authorities.verify(&chain, clock::now())?;
        }
        Ok(live)
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        // A panic in the middle of a look leaves stamps that do not fit, and so another look.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, watched: &mut Watched, trigger: Trigger) -> Reload {
        let now = clock::now();
        self.sweep(Sweep::Expired, now);
        let stamps = stamps(&watched.files);
        let in_use = self.in_use.load();
        let outdated = in_use.expiries.crl.is_some_and(|at| at < now) || in_use.expiries.client_ca < now;
        let changed = stamps != watched.stamps || trigger == Trigger::Order;
        if let Some(notice) = self.list_notice(now).filter(|_| now.secs_since(watched.told_at) >= NOTICE_EVERY_SECS) {
            warn!("{notice}");
            watched.told_at = now;
        }
        if !changed && !outdated && watched.broken.is_empty() {
            return Reload::Unchanged;
        }
        let in_use_ended = in_use.expiries.crl.is_some_and(|at| at < now);
        watched.stamps = stamps;
        let (read, problems) = InUse::read(&watched.files, now, &self.grace);
        // A list that has ended is taken only in the place of another one: it may revoke more.
        let ended = |read: &InUse| read.expiries.crl.is_some_and(|at| at < now) && !(changed && in_use_ended);
        let Some(read) = read.filter(|read| !ended(read)) else {
            if problems != watched.broken {
                problems.iter().for_each(log::problem);
                if first_error(&problems).is_some() || !in_use_ended {
                    error!("the TLS files cannot be used; keeping the previous ones");
                }
                watched.broken.clone_from(&problems);
            }
            return Reload::Kept(problems);
        };
        watched.broken = overdue(&problems);
        watched.told_at = now;
        let expiries = read.expiries;
        self.in_use.store(Arc::new(read));
        let closed = self.sweep(Sweep::All, now);
        problems.iter().for_each(log::problem);
        let (certificate_until, crl_until) = (expiries.certificate, expiries.crl.map(tracing::field::display));
        info!(closed, %certificate_until, crl_until, "TLS files reloaded");
        Reload::Done { closed, problems }
    }

    /// Closes connections whose certificate is no longer accepted; returns their number.
    fn sweep(&self, which: Sweep, now: UnixTime) -> usize {
        let in_use = self.in_use.load();
        let closed = self.live.sweep(which, now, |chain| {
            in_use.authorities.verify(chain, now)?;
            Ok(next_expiry(chain, &in_use.authorities, now))
        });
        for Closed { peer, reason } in closed.iter().take(CLOSED_LOGGED_MAX) {
            warn!(%peer, serial = %peer.serial, %reason, "connection closed: its certificate is no longer accepted");
        }
        if let Some(more) = closed.len().checked_sub(CLOSED_LOGGED_MAX).filter(|more| *more > 0) {
            warn!(more, "more connections closed: their certificates are no longer accepted");
        }
        closed.len()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Change,
    Order,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("files", &self.watched().files).finish_non_exhaustive()
    }
}

impl InUse {
    /// The same for peers that have no certificate yet.  They get the server's chain with `authority` at its end, because
    /// they know that by its key alone.
    ///
    /// # Errors
    /// Fails if rustls does not take the pair again, which is a bug.
    pub fn for_strangers(&self, authority: &CertificateDer<'static>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(servers_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut own = CertifiedKey::clone(&self.own);
        if own.cert.last() != Some(authority) {
            own.cert.push(authority.clone());
        }
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.ignore_client_order = true;
        Ok(Arc::new(config))
    }

    /// Reads the files.  None if no client could be served with them; there may be problems in either case.
    fn read(files: &ServerFiles, now: UnixTime, grace: &Grace) -> (Option<Self>, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut keep = |problem| problems.push(problem);
        let chain = pem::certificates(&files.cert).map_err(&mut keep).ok();
        let key = pem::key(&files.key).map_err(|problem| keep(in_key_file(problem, files))).ok();
        let certificate_until = chain.as_deref().and_then(|chain| judge_own(chain, files, now, &mut problems));
        let own = chain.as_deref().and_then(<[_]>::first);
        let names =
            own.and_then(|own| Peer::of(own).ok()).map(|own| own.names.into_iter().collect()).unwrap_or_default();
        let addresses = own.map(addresses_of).unwrap_or_default();
        let authorities = Authorities::read(&files.client_ca, files.crl.as_deref(), now, grace, &mut problems);
        let authorities = authorities.map(Arc::new);
        // Even without the CAs, so that a key mismatch is reported with the other problems.
        let own = chain.zip(key).and_then(|(chain, key)| own_key(chain, key, files, &mut problems));
        let read = authorities.zip(own).zip(certificate_until).and_then(|((authorities, own), certificate)| {
            let verifier = Arc::clone(&authorities) as _;
            let builder = ServerConfig::builder_with_provider(servers_provider())
                .with_protocol_versions(&[&rustls::version::TLS13]);
            let mut config = builder
                .map_err(|error| {
                    problems.push(Problem::error("tls", error.to_string(), "this is a bug; please report it"))
                })
                .ok()?
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own))));
            config.alpn_protocols = vec![ALPN.to_vec()];
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config.ignore_client_order = true;
            let (client_ca, crl) = (authorities.expires, authorities.crl_expires);
            let (config, expiries) = (Arc::new(config), Expiries { certificate, client_ca, crl });
            Some(Self { config, authorities, expiries, own, names, addresses })
        });
        (read, problems)
    }
}

/// The provider, with the suite first that processors are quickest with: most have instructions for SHA-256 and none for
/// SHA-384.  128 bits are what the keys that it carries have.
fn servers_provider() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&provider());
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// The warnings of lists that are out of date.
fn overdue(problems: &[Problem]) -> Vec<Problem> {
    problems.iter().filter(|problem| problem.kind == LIST_EXPIRED).cloned().collect()
}

/// The server's certificate with its key, if they belong together.
fn own_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    files: &ServerFiles,
    problems: &mut Vec<Problem>,
) -> Option<Arc<CertifiedKey>> {
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(own) => Some(Arc::new(own)),
        Err(error) => {
            let (message, remedy) = match &error {
                rustls::Error::InconsistentKeys(_) => (
                    format!("the key in {} does not belong to this certificate", files.key),
                    "use a certificate and its own key",
                ),
                _ => (
                    format!("cannot use it with the key in {}: {error}", files.key),
                    "use an ECDSA, Ed25519 or RSA key",
                ),
            };
            problems.push(Problem::error("tls_key_mismatch", message, remedy).in_file(&files.cert));
            None
        }
    }
}

/// Checks the server's own certificate as clients will, and returns its expiry.  Problems do not stop a reload: new
/// revocation lists matter more.
fn judge_own(
    chain: &[CertificateDer<'_>],
    files: &ServerFiles,
    now: UnixTime,
    problems: &mut Vec<Problem>,
) -> Option<UnixTime> {
    let (_, own) = X509Certificate::from_der(chain.first()?).ok()?;
    let (from, until) = (unix(own.validity().not_before), unix(own.validity().not_after));
    let mut add =
        |kind, message: String, remedy| problems.push(Problem::error(kind, message, remedy).in_file(&files.cert));
    if until < now {
        let message = format!("the server's certificate expired at {until}: clients refuse it");
        add("certificate_expired", message, "renew it; it is read without a restart");
    }
    if from > now {
        let message = format!("the server's certificate is not valid before {from}: clients refuse it until then");
        add("certificate_not_yet_valid", message, "check this host's clock, or wait");
    }
    if !own.subject_alternative_name().is_ok_and(|names| names.is_some()) {
        let message = "the server's certificate has no subjectAltName: clients refuse it".to_owned();
        add("certificate_without_name", message, "issue one with the names and addresses that agents connect to");
    }
    Some(until)
}

fn in_key_file(problem: Problem, files: &ServerFiles) -> Problem {
    match files.key.path() {
        Some(path) => problem.in_file(path),
        None => problem,
    }
}

fn stamps(files: &ServerFiles) -> [Option<Stamp>; 4] {
    let key = files.key.path();
    [Some(&files.cert), key.as_ref(), Some(&files.client_ca), files.crl.as_ref()]
        .map(|path| path.and_then(|path| Stamp::of(path)))
}

/// The next expiry of a certificate of the chain or of a CA.
fn next_expiry(chain: &[CertificateDer<'_>], authorities: &Authorities, now: UnixTime) -> Option<UnixTime> {
    let parsed = chain.iter().filter_map(|one| X509Certificate::from_der(one).ok());
    let all = parsed.map(|(_, one)| unix(one.validity().not_after)).chain([authorities.expires]);
    all.filter(|at| *at >= now).min()
}
