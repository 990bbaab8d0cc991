//! The agent's talks with its pool's coordinators: one request at a time, beside everything else that the loop does.
//!
//! `engine::fence::Link` decides which answers count; this carries them.  Must not know: the kernel, the file, status.
//! Invariants: at most one request is under way; keys that were told are here only until they are in the file, and never
//! beyond their session; nothing that fails here touches what is installed.

mod exchange;
mod identity;
mod probe;
mod route;
mod standing;
mod trouble;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use self::exchange::{ANSWER_PATIENCE, Flight, NodeState, Reply, Says};
use self::identity::Identity;
use self::route::Route;
use self::trouble::Trouble;
use super::report::PassReport;
use super::source::Told;
use tfo_config::agent::{AgentSettings, InstallMode, SourceSettings};
use tfo_config::contact::ContactSettings;
use tfo_crypto::random;
use tfo_engine::backoff::part;
use tfo_engine::fence::{AnswerAccepted, Link, PoolAnswer, RequestId};
use tfo_engine::rollout::slots::{Fence, PoolKey, Slots};
use tfo_host::kernel::sysctl_d::Record;
use tfo_host::runtime::clock;
use tfo_model::count::Generation;
use tfo_model::node::Session;
use tfo_model::problem::Problem;
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::UnixTime;
use tfo_wire::client::ClientError;
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::sync::KeySource;

pub use identity::load as load_identity;
pub use probe::probe;
pub use tfo_wire::status::Standing;

/// When a daemon is back at the latest: the cap of its pauses.
const NEXT_CONTACT: Duration = Duration::from_secs(60);
/// Shortest time between two answers without news: a coordinator that does not hold them back is not asked all the time.
const ROUND_MIN: Duration = Duration::from_secs(1);
/// Wait before unusable certificate files are read again.
const FILES_PAUSE: Duration = Duration::from_secs(10);
/// Sessions that may be closed from outside before another agent with this certificate is suspected.
const CLOSED_SUSPICIOUS: u32 = 2;

/// How often this process asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cadence {
    /// All the time.
    Daemon,
    /// In this run only; the next one comes after the configured period.
    Once,
}

/// Whether the loop has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// No.
    None,
    /// Keys to install, or something else to be shown.
    Pass,
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Default)]
pub struct ContactCounts {
    /// Answered requests.
    pub answers: u64,
    /// Failed ones, by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// The last answer.
    pub last_contact_at: Option<UnixTime>,
}

/// The talks with the coordinators of one pool.
pub struct Contact {
    settings: ContactSettings,
    config: PathBuf,
    sysctl_file: String,
    source: KeySource,
    start_timeout: Duration,
    cadence: Cadence,
    started: Instant,
    link: Link,
    route: Route,
    identity: Result<Identity, Vec<Problem>>,
    flight: Option<Flight>,
    next_at: Duration,
    told: Option<Told>,
    node: NodeState,
    /// The phase that the last pass found in the file.
    phase: Option<Phase>,
    /// What the last answered request said.
    said: Option<NodeState>,
    /// Somebody else had changed the keys, and no coordinator knows.
    drift: bool,
    trouble: Option<Trouble>,
    /// Sessions that were closed from outside, one after the other.
    closed: u32,
    counts: ContactCounts,
}

impl Contact {
    /// For settings that name coordinators; `record` is the header of the sysctl.d file.  A host that installs nothing is
    /// no node of its pool, so it has none.
    #[must_use]
    pub fn of(settings: &AgentSettings, record: Option<&Record>, cadence: Cadence) -> Option<Self> {
        let (contact, source, start_timeout) = match &settings.source {
            SourceSettings::Coordinator(_) if settings.install.mode == InstallMode::LookOnly => return None,
            SourceSettings::Coordinator(source) => (&source.contact, KeySource::Coordinator, source.start_timeout),
            SourceSettings::Derive(_) => (settings.report.as_ref()?, KeySource::Derive, Duration::ZERO),
            SourceSettings::File { .. } => (settings.report.as_ref()?, KeySource::File, Duration::ZERO),
            SourceSettings::Random { .. } => (settings.report.as_ref()?, KeySource::Random, Duration::ZERO),
        };
        let fence = record.filter(|_| source == KeySource::Coordinator).and_then(fence_of);
        let session = Session { ordinal: clock::now_ms(), nonce: nonce() };
        Some(Self {
            config: settings.file.clone(),
            sysctl_file: settings.install.sysctl_file.value.display().to_string(),
            source,
            // Who asks once waits for its answer anyway.
            start_timeout: if cadence == Cadence::Once { Duration::ZERO } else { start_timeout },
            cadence,
            started: clock::monotonic(),
            link: Link::start(fence, session, Duration::ZERO),
            route: Route::new(contact.urls.value.len()),
            identity: Identity::load(contact, &settings.file, (clock::now(), Duration::ZERO)),
            settings: contact.clone(),
            flight: None,
            next_at: Duration::ZERO,
            told: None,
            node: NodeState::default(),
            phase: None,
            said: None,
            drift: false,
            trouble: None,
            closed: 0,
            counts: ContactCounts::default(),
        })
    }

    /// Whether these talks can go on under other settings: the same coordinators, for the same purpose.
    #[must_use]
    pub fn fits(&self, settings: &AgentSettings) -> bool {
        match &settings.source {
            SourceSettings::Coordinator(source) => {
                self.source == KeySource::Coordinator
                    && settings.install.mode == InstallMode::Install
                    && source.contact == self.settings
                    && settings.install.sysctl_file.value.display().to_string() == self.sysctl_file
            }
            SourceSettings::Derive(_) => {
                self.source == KeySource::Derive && settings.report.as_ref() == Some(&self.settings)
            }
            SourceSettings::File { .. } => {
                self.source == KeySource::File && settings.report.as_ref() == Some(&self.settings)
            }
            SourceSettings::Random { .. } => {
                self.source == KeySource::Random && settings.report.as_ref() == Some(&self.settings)
            }
        }
    }

    /// Waits until there is something to do, and does it.  Dropping the future loses nothing.
    pub async fn step(&mut self) -> News {
        if let Some(flight) = &mut self.flight {
            let reply = flight.reply.as_mut().await;
            let flight = self.flight.take().expect("it has just been awaited");
            return self.take(&flight, reply);
        }
        let at = self.started + self.next_at;
        tokio::time::sleep_until(at.into()).await;
        self.ask()
    }

    /// One exchange for `once`: asks until somebody has answered, or everybody was asked, or `patience` is over.
    pub async fn exchange(&mut self, patience: Duration) {
        let (answers, mut left) = (self.counts.answers, self.settings.urls.value.len());
        self.next_at = self.now();
        let until = tokio::time::Instant::now() + patience;
        while self.counts.answers == answers && left > 0 {
            let failures = self.failures();
            if tokio::time::timeout_at(until, self.step()).await.is_err() {
                self.flight = None;
                self.link.give_up();
                let message = format!("no coordinator has answered within {} s", patience.as_secs());
                let remedy = "look at the coordinators and the way to them; the installed keys stay";
                self.trouble.get_or_insert(Trouble::new(trouble::UNREACHABLE, message, remedy));
                return;
            }
            left -= usize::from(self.failures() > failures);
        }
    }

    fn failures(&self) -> u64 {
        self.counts.errors.values().sum()
    }

    /// What was told and is not in the file yet.
    #[must_use]
    pub fn told(&self) -> Option<&Told> {
        self.told.as_ref()
    }

    /// Takes in what a pass found.  A request that is under way and says otherwise is given up for one that says this.
    pub fn observed(&mut self, report: &PassReport) {
        if let (Some(told), Some(held)) = (&self.told, &report.held)
            && report.file_current
            && held.generation == Some(told.instruction.generation)
            && held.phase == told.phase
            && held.prints.pair() == told.instruction.slots.pair()
        {
            self.link.persisted(&told.pool_id, &told.instruction);
            self.told = None;
        }
        self.phase = report.held.filter(|_| report.file_current).map(|held| held.phase);
        let node = NodeState::of(report, self.link.fence());
        let drift = report.problems.iter().any(|problem| problem.kind == "drift");
        self.drift |= drift;
        if node == self.node && !drift {
            return;
        }
        self.node = node;
        if self.flight.take().is_some() {
            self.link.give_up();
            self.next_at = self.now();
        }
    }

    /// Whether keys come from there; else they are only reported.
    #[must_use]
    pub fn teaches(&self) -> bool {
        self.source == KeySource::Coordinator
    }

    /// Whether keys of the pool are in the file.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.link.has_keys()
    }

    /// The generation that was told last, installed or not.
    #[must_use]
    pub fn desired_generation(&self) -> Option<Generation> {
        let told = self.told.as_ref().map(|told| told.instruction.generation);
        told.or_else(|| self.link.fence().map(|fence| fence.generation))
    }

    /// Whether the last request failed.
    #[must_use]
    pub fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    /// Whether no coordinator knows yet what the last pass found.
    #[must_use]
    pub fn has_unsaid(&self) -> bool {
        self.said.as_ref() != Some(&self.node)
    }

    /// The end of the validity of the certificate in use; none where the files cannot be used.
    #[must_use]
    pub fn certificate_not_after(&self) -> Option<UnixTime> {
        self.identity.as_ref().ok().map(Identity::not_after)
    }

    /// Numbers for the metrics.
    #[must_use]
    pub fn counts(&self) -> &ContactCounts {
        &self.counts
    }

    /// The pool.
    #[must_use]
    pub fn settings(&self) -> &ContactSettings {
        &self.settings
    }

    fn now(&self) -> Duration {
        clock::monotonic().duration_since(self.started)
    }

    fn url(&self) -> String {
        self.settings.urls.value[self.route.current()].to_string()
    }

    /// Sends the next request.
    fn ask(&mut self) -> News {
        let now = self.now();
        let old_notes = self.identity.as_ref().map_or(0, |identity| identity.notes().count());
        self.read_files(now);
        let Ok(identity) = &self.identity else {
            self.next_at = now + FILES_PAUSE;
            return News::Pass;
        };
        // What is wrong for a moment only is said for a moment only, and whoever does not know how it stands wants to know.
        let momentary = self.drift && !self.node.has_error();
        let unsure = self.said.is_none() || self.trouble.is_some();
        let wait = match self.cadence {
            Cadence::Daemon if !momentary && !unsure => self.settings.wait,
            Cadence::Daemon | Cadence::Once => Duration::ZERO,
        };
        let next_contact = match self.cadence {
            Cadence::Daemon => NEXT_CONTACT,
            Cadence::Once => self.settings.period,
        };
        let refused = self.trouble.as_ref().filter(|trouble| trouble.reported).map(|trouble| trouble.kind);
        let says = Says { wait, next_contact, source: self.source, refused, drift: self.drift };
        let ask = self.link.ask();
        let base = &self.settings.urls.value[self.route.current()];
        let reply =
            exchange::send(identity.client(), base, &self.settings, (self.node.request(ask, &says), self.patience()));
        debug!(coordinator = %base, session = %ask.session, seen = %ask.seen, "asking");
        self.flight = Some(Flight { ask, began: now, drift: self.drift, waits: !wait.is_zero(), reply });
        if identity.notes().count() == old_notes { News::None } else { News::Pass }
    }

    /// How long one coordinator may take, besides holding its answer back.  While somebody waits for the first answer (a
    /// run of `once`, a start), one that accepts and says nothing must not use up the time of the others.
    fn patience(&self) -> Duration {
        let count = self.settings.urls.value.len();
        let starts = self.counts.answers == 0 && self.failures() < count as u64;
        let all = match self.cadence {
            Cadence::Once => ANSWER_PATIENCE,
            Cadence::Daemon if starts && !self.start_timeout.is_zero() => self.start_timeout.min(ANSWER_PATIENCE),
            Cadence::Daemon => return ANSWER_PATIENCE,
        };
        share(all, count)
    }

    /// Reads the certificates again if they have changed; those that cannot be used are not taken.
    fn read_files(&mut self, now: Duration) {
        if matches!(&self.identity, Ok(identity) if !identity.is_stale(&self.settings, now)) {
            return;
        }
        let read = Identity::load(&self.settings, &self.config, (clock::now(), now));
        match (&mut self.identity, read) {
            (Ok(identity), Ok(new)) => identity.renew(new),
            (Ok(identity), Err(problems)) => identity.keep(problems, now),
            (identity @ Err(_), read) => *identity = read,
        }
    }

    /// What came back.
    fn take(&mut self, flight: &Flight, reply: Result<Reply, ClientError>) -> News {
        let (now, request) = (self.now(), flight.ask.request);
        match reply {
            Ok(Reply::Nothing) => match self.link.nothing_new(request, now) {
                Ok(()) => self.answered(flight, now, News::None),
                Err(refused) => self.failed(Trouble::of_refused(&self.url(), &refused, &self.sysctl_file)),
            },
            Ok(Reply::Told(answer)) => {
                let told = match Told::of(&answer, &self.settings.pool) {
                    Ok(told) => told,
                    Err(broken) => {
                        self.link.give_up();
                        return self.failed(Trouble::of_told(&self.url(), broken));
                    }
                };
                let absent_after = Duration::from_secs(answer.absent_after_secs);
                let (pool_id, instruction) = (told.pool_id, told.instruction);
                match self.link.answered(request, &PoolAnswer { pool_id, instruction, absent_after }, now) {
                    Ok(AnswerAccepted::Install) => {
                        self.told = Some(told);
                        self.answered(flight, now, News::Pass)
                    }
                    // The same keys in another phase: file and status say so.
                    Ok(AnswerAccepted::Same) if self.phase.is_some_and(|phase| phase != told.phase) => {
                        self.told = Some(told);
                        self.answered(flight, now, News::Pass)
                    }
                    Ok(AnswerAccepted::Same) => {
                        self.told = None;
                        self.answered(flight, now, News::None)
                    }
                    Err(refused) => self.failed(Trouble::of_refused(&self.url(), &refused, &self.sysctl_file)),
                }
            }
            Ok(Reply::Unwanted) => {
                self.link.give_up();
                self.failed(Trouble::of_told(&self.url(), super::source::BadTold::Unwanted))
            }
            Err(error) => self.refused(request, &error, now),
        }
    }

    fn answered(&mut self, flight: &Flight, now: Duration, news: News) -> News {
        let first = self.counts.answers == 0;
        let was_wrong = self.trouble.take().is_some();
        self.counts.answers += 1;
        self.counts.last_contact_at = Some(clock::now());
        self.route.succeeded();
        if flight.drift {
            self.drift = false;
        }
        // A request that said something else was given up for one that says this.
        self.said = Some(self.node.clone());
        let took = now.saturating_sub(flight.began);
        if took >= ROUND_MIN {
            self.closed = 0;
        }
        let idle = news == News::None && flight.waits && flight.ask.seen.get() > 0;
        self.next_at = if idle && took < ROUND_MIN { now + ROUND_MIN + part(ROUND_MIN, jitter()) } else { now };
        debug!(coordinator = %self.url(), generation = %self.link.seen(), "answered");
        if first || was_wrong {
            // Only now: in TLS 1.3 a client believes to be connected before the server has refused it.
            info!(coordinator = %self.url(), pool = %self.settings.pool, "connected");
            return News::Pass;
        }
        news
    }

    fn refused(&mut self, request: RequestId, error: &ClientError, now: Duration) -> News {
        if let ClientError::Refused { body: Some(body), .. } = error
            && body.kind == ErrorKind::SessionClosed
            && let Some(ordinal) = body.ordinal
            && self.link.session_closed(request, ordinal, nonce(), now).is_ok()
        {
            self.told = None;
            self.closed += 1;
            if self.closed < CLOSED_SUSPICIOUS {
                debug!(coordinator = %self.url(), session = %self.link.session(), "a later session is open: one above it");
                self.next_at = now;
                return News::None;
            }
        }
        if let ClientError::Refused { body: Some(body), .. } = error
            && body.kind == ErrorKind::OtherPool
        {
            // What is late says nothing.
            drop(self.link.other_pool(request, now));
        }
        self.link.give_up();
        self.failed(Trouble::of_error(error))
    }

    fn failed(&mut self, trouble: Trouble) -> News {
        let same = self.trouble.as_ref().is_some_and(|known| known.kind == trouble.kind);
        debug!(coordinator = %self.url(), error = %trouble.message, "no use of it");
        *self.counts.errors.entry(trouble.kind).or_default() += 1;
        let next = self.route.failed(self.now(), believed(trouble.asked), jitter());
        self.next_at = next.at;
        if next.other {
            self.link.open_session(clock::now_ms(), nonce());
            self.told = None;
        }
        self.trouble = Some(trouble);
        if same { News::None } else { News::Pass }
    }
}

/// What a coordinator asks for, as far as it fits what it was told: this node is back within [`NEXT_CONTACT`], with the
/// jitter that is added.
fn believed(asked: Option<Duration>) -> Option<Duration> {
    asked.map(|asked| asked.min(NEXT_CONTACT * 2 / 3))
}

/// What each of `count` coordinators has of `all`; one alone has whatever a request may take.
fn share(all: Duration, count: usize) -> Duration {
    match u32::try_from(count) {
        Ok(0 | 1) | Err(_) => ANSWER_PATIENCE,
        Ok(count) => (all / count).max(ROUND_MIN),
    }
}

/// The fence in a header; none if a pool has not told these keys.
fn fence_of(record: &Record) -> Option<Fence> {
    let key = |slot: SlotPrint| Some(PoolKey { epoch: slot.epoch?, fingerprint: slot.fingerprint });
    let backup = match record.prints.backup {
        Some(backup) => Some(key(backup)?),
        None => None,
    };
    let slots = Slots { primary: key(record.prints.primary)?, backup };
    Some(Fence { pool_id: record.pool_id?, generation: record.generation?, slots })
}

/// Without randomness (which does not happen) a session is still told from others by its ordinal.
fn nonce() -> u64 {
    random::fresh_u64().unwrap_or_else(|_| clock::now_ms())
}

fn jitter() -> u32 {
    u32::try_from(nonce() >> 32).expect("32 bits are left")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn several_coordinators_share_the_time() {
        assert_eq!([1, 2, 4, 8].map(|count| share(secs(10), count).as_millis()), [10_000, 5_000, 2_500, 1_250]);
        assert_eq!(share(secs(3), 1), ANSWER_PATIENCE, "nobody else waits for one alone");
        assert_eq!(share(secs(1), 8), ROUND_MIN, "less is too short for a handshake");
    }

    #[test]
    fn a_pause_that_was_asked_for_keeps_the_promise_to_be_back() {
        assert_eq!(believed(None), None);
        assert_eq!(believed(Some(secs(2))), Some(secs(2)));
        let longest = believed(Some(secs(3_600))).unwrap();
        assert!(longest + part(longest / 2, u32::MAX) <= NEXT_CONTACT);
    }
}
