//! Renewal of the agent's certificate over its own connection: same name, a new key each time.
//!
//! Certificate and key are one file (`cert` and `key` of the configuration), so that no crash can leave a pair that does not
//! fit.  The new pair waits beside it (`….next`) until a coordinator has answered over it; then it replaces the old one in one
//! rename.  What the node trusts comes with it (`authorities`).  Invariants: whatever fails, the pair in use stays; the private key is in files of mode 0400 and nowhere else.
//! When a renewal is due is `tfo_pki::renewal`.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use reqwest::Method;
use tracing::{debug, info};

use super::failure::Failure;
use super::identity::Identity;
use super::{Contact, authorities};
use tfo_config::contact::Renewal;
use tfo_crypto::checksum::checksum;
use tfo_host::runtime::clock;
use tfo_host::runtime::files::{self, Durability};
use tfo_host::secret::SecretPath;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::problem::{Problem, Severity, chain};
use tfo_model::time::UnixTime;
use tfo_pki::issued::{self, pair_text};
use tfo_pki::renewal::Life;
use tfo_pki::request;
use tfo_tls::client::{ClientFiles, EXPIRED, EXPIRING, client_identity};
use tfo_wire::base_url::BaseUrl;
use tfo_wire::client::{Call, Client, ClientError, Lost};
use tfo_wire::v1::enrol::{ANSWER_BYTES_MAX, Certified, RenewRequest};
use tfo_wire::v1::sync::{CERTIFICATE_ENDS, SelfAnswer};
use zeroize::Zeroizing;

/// Longest time for one request of a renewal.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time between two looks at the certificate: the clock may be stepped.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// Longest answer to the question who this node is, in bytes.
const SELF_BYTES_MAX: usize = 4_096;

/// A renewal in flight.
type Running = Pin<Box<dyn Future<Output = Renewed>>>;

/// How it ended; a remark of one that worked is about the authorities that came with it.
type Renewed = Result<Option<Problem>, Failure>;

/// The renewals of one contact.
pub(super) struct Renewals {
    next_at: Duration,
    job: Option<Running>,
    /// Since when they fail, and why.
    failure: Option<(UnixTime, Failure)>,
    /// What was remarked at the last one that worked.
    pub(super) remark: Option<Problem>,
    pub(super) counts: RenewalCounts,
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct RenewalCounts {
    /// Certificates that replaced the one before.
    pub renewed: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// Why [`Renewals::next`] returned.
pub(super) enum Due {
    Look,
    Done(Renewed),
}

impl Renewals {
    /// None where the agent does not renew.
    pub(super) fn of(renewal: Renewal) -> Option<Self> {
        let renewals =
            Self { next_at: Duration::ZERO, job: None, failure: None, remark: None, counts: RenewalCounts::default() };
        (renewal == Renewal::ByAgent).then_some(renewals)
    }

    /// Another certificate is in place: when it is to be renewed is not known yet.
    pub(super) fn look_at(&mut self, now: Duration) {
        self.next_at = now;
    }

    /// Waits for the end of a renewal, or for the next look.  Dropping the future loses nothing.
    pub(super) async fn next(&mut self, started: Instant) -> Due {
        match &mut self.job {
            Some(job) => {
                let done = job.as_mut().await;
                self.job = None;
                Due::Done(done)
            }
            None => {
                tokio::time::sleep_until((started + self.next_at).into()).await;
                Due::Look
            }
        }
    }
}

/// What is needed to renew: the future owns it all.
struct Job {
    client: Client,
    /// The one in use first.
    urls: Vec<BaseUrl>,
    pool: PoolName,
    name: NodeId,
    files: ClientFiles,
    /// The end of the certificate in use.
    until: UnixTime,
}

impl Contact {
    /// Takes in what [`Renewals::next`] said; true if there is something to show.
    pub(super) fn renewal(&mut self, due: Due) -> bool {
        let now = self.now();
        // The pair may have been replaced since the last request, by a renewal or by `tfo-agent join`.
        self.read_files(now);
        let Some(renewals) = &mut self.renewals else { return false };
        let identity = self.identity.as_ref().ok();
        let life = identity.map(Identity::life);
        let retry = life.map_or(LOOK_AGAIN, |life| life.retry_after(clock::now(), super::jitter()));
        match due {
            Due::Done(Ok(remark)) => {
                renewals.counts.renewed += 1;
                renewals.remark = remark;
                renewals.failure = None;
                renewals.next_at = now + retry;
                info!(until = life.map(|life| tracing::field::display(life.until())), "certificate renewed");
                true
            }
            Due::Done(Err(failure)) => {
                debug!(error = %failure.message, "the certificate was not renewed");
                renewals.counts.failed += 1;
                renewals.next_at = now + retry;
                let is_same = renewals.failure.as_ref().is_some_and(|(_, known)| known.kind == failure.kind);
                let since = renewals.failure.as_ref().map_or_else(clock::now, |(since, _)| *since);
                renewals.failure = Some((since, failure));
                !is_same
            }
            Due::Look if renewals.job.is_some() => false,
            Due::Look => {
                let wait = match (identity, life) {
                    (Some(identity), Some(life)) => left_until(life, identity.names(), clock::now()),
                    _ => Some(LOOK_AGAIN),
                };
                match wait {
                    Some(wait) => renewals.next_at = now + wait.min(LOOK_AGAIN),
                    None => self.start_renewal(),
                }
                false
            }
        }
    }

    fn start_renewal(&mut self) {
        let now = self.now();
        let (Some(renewals), Ok(identity)) = (&mut self.renewals, &self.identity) else { return };
        let Some(name) = identity.names().first() else {
            // None can be asked for without a name.
            renewals.next_at = now + LOOK_AGAIN;
            return;
        };
        let settings = &self.purpose.settings;
        let urls = self.route.from_current().map(|index| settings.urls.value[index].clone()).collect();
        let (client, pool, files) = (identity.client().clone(), self.pool.clone(), settings.files.clone());
        let job = Job { client, urls, pool, name: name.clone(), files, until: identity.not_after() };
        debug!(until = %job.until, "renewing the certificate");
        renewals.job = Some(Box::pin(job.run()));
    }

    /// For a run of `once`: renews if it is time.  A renewal that takes longer than `patience` is given up; the next run
    /// continues with the pair that it left.
    pub async fn renew(&mut self, patience: Duration) {
        let now = self.now();
        // One that has failed beside this run's sync is not tried twice.
        if self.renewals.as_ref().is_some_and(|renewals| renewals.next_at <= now) {
            self.renewal(Due::Look);
        }
        let started = self.started;
        if let Some(renewals) = self.renewals.as_mut().filter(|renewals| renewals.job.is_some()) {
            match tokio::time::timeout(patience, renewals.next(started)).await {
                Ok(done) => drop(self.renewal(done)),
                Err(_) => {
                    renewals.job = None;
                    let message = format!("no coordinator has renewed it within {} s", patience.as_secs());
                    let failure = Failure::new("certificate_not_renewed", message, "the next run tries again");
                    self.renewal(Due::Done(Err(failure)));
                }
            }
        }
    }

    /// Numbers of the renewals; none where the agent does not renew.
    #[must_use]
    pub fn renewal_counts(&self) -> Option<RenewalCounts> {
        self.renewals.as_ref().map(|renewals| renewals.counts)
    }

    /// Adds to the note that the certificate ends why it was not renewed.
    pub(super) fn with_reason(&self, mut note: Problem) -> Problem {
        if note.kind == CERTIFICATE_ENDS
            && let Some((since, failure)) = self.renewals.as_ref().and_then(|renewals| renewals.failure.as_ref())
        {
            note.message = format!("{}; renewing it has failed since {since}: {}", note.message, failure.message);
            note.remedy =
                format!("{}; after its end `tfo-agent join` with a new token brings this node back", failure.remedy);
        }
        note
    }
}

/// Where the agent renews: an end that nears says that it did not, and what brings the node back.  Before two thirds of the
/// life there is nothing to say, also where that is shorter than the time by which a certificate is dated back.
pub(super) fn described(note: Problem, life: Life, now: UnixTime) -> Option<Problem> {
    Some(match note.kind {
        EXPIRING if now < life.overdue_from() => return None,
        EXPIRING => Problem {
            kind: CERTIFICATE_ENDS,
            message: note.message.replacen("expires", "ends", 1) + ", and was not renewed yet",
            remedy: "check that a coordinator with the authority's key can be reached: the agent tries again by itself, and \
                     says in its log and in `tfo-agent once` why that fails"
                .to_owned(),
            ..note
        },
        EXPIRED => Problem {
            remedy: "`tfo-agent join` with a new token (`tfoctl token create --replace`) brings this node back; the installed \
                     keys stay"
                .to_owned(),
            ..note
        },
        _ => note,
    })
}

/// The time until a certificate is to be renewed; none if it is time.  One that has ended cannot be: coordinators refuse it.
fn left_until(life: Life, names: &[NodeId], now: UnixTime) -> Option<Duration> {
    // The same for every look at this certificate, whatever restarts in between, and another for each node.
    let name = names.first().map_or(&b""[..], |name| name.as_str().as_bytes());
    let sum = checksum(&[name, &life.until().secs().to_be_bytes()]);
    let share = u32::from_be_bytes([sum[0], sum[1], sum[2], sum[3]]);
    let at = life.renew_at(share);
    if now > life.until() { Some(LOOK_AGAIN) } else { (now < at).then(|| Duration::from_secs(at.secs_since(now))) }
}

/// Where the new pair waits.
pub(crate) fn next_of(pair: &Path) -> PathBuf {
    let mut path = pair.as_os_str().to_owned();
    path.push(".next");
    path.into()
}

impl Job {
    async fn run(self) -> Renewed {
        let mut remark = None;
        let next = next_of(&self.files.cert);
        if !self.is_usable(&next) {
            let (pair, came) = self.certify().await?;
            // Before the pair: a run that finds the pair finds these, too.
            remark = authorities::wait(&self.files, &came);
            files::replace(&next, pair.as_bytes(), 0o400, Durability::Synced).map_err(|error| not_written(&error))?;
        }
        match authorities::waiting(&self.files) {
            None => self.try_out(&next, &self.files.ca).await?,
            Some(ca) => match self.try_out(&next, &ca).await {
                Ok(()) => remark = authorities::take(&self.files, &ca),
                Err(refused) => {
                    // Is it the authorities that do not fit, or the pair?
                    if self.try_out(&next, &self.files.ca).await.is_err() {
                        return Err(refused);
                    }
                    remark = Some(authorities::refuse(&self.files, &ca));
                }
            },
        }
        files::rename(&next, &self.files.cert).map_err(|error| not_written(&error))?;
        Ok(remark)
    }

    /// Whether a run before this one left a pair that is worth a try.
    fn is_usable(&self, next: &Path) -> bool {
        let found = client_identity(&self.files_of(next), clock::now());
        found.is_ok_and(|found| {
            let is_clean = found.notes.iter().all(|note| note.severity == Severity::Warning);
            is_clean && found.names == [self.name.clone()] && found.not_after > self.until
        })
    }

    fn files_of(&self, pair: &Path) -> ClientFiles {
        ClientFiles { cert: pair.to_owned(), key: SecretPath::File(pair.to_owned()), ..self.files.clone() }
    }

    /// Gets a certificate for a new key: the new pair and what came with it, PEM.
    async fn certify(&self) -> Result<(Zeroizing<String>, String), Failure> {
        let made = request::make(&self.name).map_err(|error| {
            Failure::new("no_randomness", chain(&error), "try again; if it stays, this is a bug, please report it")
        })?;
        let path = format!("/v1/pools/{}/certificate", self.pool);
        let call = Call { method: &Method::POST, path: &path, timeout: PATIENCE, answer_bytes_max: ANSWER_BYTES_MAX };
        let body = RenewRequest { csr: made.csr };
        let mut failure = None;
        // Not every coordinator has the authority's key.
        for base in &self.urls {
            match self.client.call::<_, Certified>(base, call, Some(&body)).await {
                Ok(Some(Certified { certificate, chain, .. })) => {
                    let checked = issued::check((&certificate, &chain), &made.key, &self.name, None, clock::now());
                    match checked {
                        Ok(_) => return Ok((pair_text(&certificate, &made.key), chain)),
                        Err(bad) => failure = Some(unusable(base, &bad.to_string())),
                    }
                }
                Ok(None) => failure = Some(unusable(base, "there is none")),
                Err(error) => failure = Some(Failure::of_error(&error)),
            }
        }
        Err(failure.expect("a configuration names at least one coordinator"))
    }

    /// Asks the coordinators over the new pair who this node is, until one knows it.  A pair that none takes and one refuses is
    /// of no use.
    async fn try_out(&self, next: &Path, ca: &Path) -> Result<(), Failure> {
        let not_usable = |problems: Vec<Problem>| {
            let message = problems.first().map_or_else(String::new, |problem| problem.message.clone());
            Failure::new("certificate_not_renewed", message, "the agent asks for another one by itself")
        };
        let files = ClientFiles { ca: ca.to_owned(), ..self.files_of(next) };
        let identity = client_identity(&files, clock::now()).map_err(not_usable)?;
        let client = Client::new(identity.config)
            .map_err(|error| Failure::new("http_client", chain(&error), "this is a bug; please report it"))?;
        let path = format!("/v1/pools/{}/self", self.pool);
        let call = Call { method: &Method::GET, path: &path, timeout: PATIENCE, answer_bytes_max: SELF_BYTES_MAX };
        let (mut failure, mut is_refused) = (None, false);
        for base in &self.urls {
            match client.call::<(), SelfAnswer>(base, call, None).await {
                Ok(Some(known)) if known.node == self.name => return Ok(()),
                Ok(_) => failure = Some(unusable(base, "it does not know this node by it")),
                Err(error) => {
                    is_refused |= match &error {
                        ClientError::Tls { .. } => true,
                        ClientError::Refused { status, .. } => *status < 500,
                        ClientError::Unreachable { lost: Lost::Away | Lost::Late | Lost::NoConnection, .. }
                        | ClientError::BadAnswer { .. } => false,
                    };
                    failure = Some(Failure::of_error(&error));
                }
            }
        }
        // None has taken it.  Other authorities may be what does not fit.
        if is_refused && ca == self.files.ca {
            // It cannot be kept for a later try; if it cannot be removed, the next one replaces it.
            drop(std::fs::remove_file(next));
        }
        Err(failure.expect("a configuration names at least one coordinator"))
    }
}

fn unusable(base: &BaseUrl, what: &str) -> Failure {
    let message = format!("{base} sent a certificate that cannot be used: {what}");
    Failure::new("certificate_unusable", message, "compare the releases of agent and coordinator")
}

fn not_written(error: &dyn std::error::Error) -> Failure {
    let remedy = "make the directory of the certificate writable for the agent (StateDirectory= of its unit)";
    Failure::new("certificate_not_written", chain(error), remedy)
}
