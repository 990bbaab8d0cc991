//! The agent's contact with its pool's coordinators: one request at a time, beside all other work of the loop.
//!
//! `engine::fence::Link` decides which answers count; this carries them.  Must not know: the kernel, the file, status.
//! Invariants: at most one request is in flight; keys of an instruction are here only until they are in the file, and
//! never beyond their session; no failure here touches what is installed.

mod answers;
mod authorities;
mod exchange;
mod failure;
mod identity;
mod instruction;
mod moved;
mod probe;
mod purpose;
mod renewal;
mod report;
mod standing;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::debug;

use self::exchange::{ANSWER_PATIENCE, Flight};
use self::failure::{Failure, UNREACHABLE};
use self::identity::Identity;
use self::purpose::Purpose;
use self::renewal::Renewals;
use self::report::{NodeReport, RequestTerms};
use super::report::PassReport;
use super::source::Offer;
use tfo_config::agent::AgentSettings;
use tfo_config::contact::ContactSettings;
use tfo_crypto::random;
use tfo_engine::bearing::Bearing;
use tfo_engine::fence::Link;
use tfo_engine::rollout::slots::{Fence, PoolKey, Slots};
use tfo_engine::route::{Returns, Route, preferred};
use tfo_host::kernel::sysctl_d::Record;
use tfo_host::runtime::clock;
use tfo_model::count::Generation;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::node::Session;
use tfo_model::problem::Problem;
use tfo_model::state::SlotPrint;
use tfo_model::time::UnixTime;
use tfo_wire::v1::sync::CERTIFICATE_ENDS;

pub(crate) use failure::refusal;
pub use identity::load as load_identity;
pub use instruction::{Instructed, InvalidInstruction};
pub use moved::MOVED;
pub use probe::probe;
pub use purpose::Cadence;
pub use renewal::RenewalCounts;
pub(crate) use renewal::next_of;
pub use standing::NO_KEY;
pub use tfo_wire::status::Standing;

/// When a daemon asks again at the latest: the cap of its pauses.
const NEXT_CONTACT: Duration = Duration::from_secs(60);
/// Shortest time between two answers without news, for a coordinator that does not hold its answers back.
const ROUND_MIN: Duration = Duration::from_secs(1);
/// Wait before unusable certificate files are read again.
const FILES_PAUSE: Duration = Duration::from_secs(10);

/// Whether the loop has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing to do.
    None,
    /// Keys to install, or a change to show.
    Pass,
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Default)]
pub struct ContactCounts {
    /// Answered requests.
    pub answers: u64,
    /// Failed ones, by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// Time of the last answer.
    pub last_contact_at: Option<UnixTime>,
}

/// The contact with the coordinators of one pool.
pub struct Contact {
    purpose: Purpose,
    started: Instant,
    link: Link,
    route: Route,
    /// What the path to each coordinator bears, in the order of the configuration.
    bearings: Vec<Bearing>,
    identity: Result<Identity, Vec<Problem>>,
    /// None where the agent does not renew its certificate.
    renewals: Option<Renewals>,
    flight: Option<Flight>,
    next_at: Duration,
    /// Keys that are not in the file yet.
    instructed: Option<Instructed>,
    report: NodeReport,
    failure: Option<Failure>,
    /// The coordinator has restarted and knows this node, but not all others yet: the next request waits for them there.
    awaits_others: bool,
    /// Sessions that were closed from outside, one after the other.
    closed: u32,
    /// The pool that it asks: the configured one, or the one that an operator moved this node to.
    pool: PoolName,
    /// Orders to ask another pool, one after the other, without an answer in between.
    led: u32,
    counts: ContactCounts,
}

impl Contact {
    /// For settings that name coordinators; `record` is the header of the sysctl.d file.  None for a host that installs
    /// nothing: it is not a node of its pool.
    #[must_use]
    pub fn of(settings: &AgentSettings, record: Option<&Record>, cadence: Cadence) -> Option<Self> {
        let purpose = Purpose::of(settings, cadence)?;
        let fence = record.filter(|_| purpose.gives_keys()).and_then(fence_of);
        let session = Session { ordinal: clock::now_ms(), nonce: nonce() };
        let purpose_pool = purpose.settings.pool.clone();
        let identity = Identity::load(&purpose.settings, &purpose.config, clock::now(), Duration::ZERO);
        Some(Self {
            started: clock::monotonic(),
            link: Link::start(fence, session, Duration::ZERO),
            route: route(&purpose.settings, identity.as_ref().ok()),
            bearings: vec![Bearing::new(purpose.settings.wait); purpose.settings.urls.value.len()],
            identity,
            renewals: Renewals::of(purpose.settings.renewal),
            purpose,
            flight: None,
            next_at: Duration::ZERO,
            instructed: None,
            report: NodeReport::default(),
            failure: None,
            awaits_others: false,
            closed: 0,
            pool: purpose_pool,
            led: 0,
            counts: ContactCounts::default(),
        })
    }

    /// Whether this contact can continue under other settings: the same coordinators, for the same purpose.
    #[must_use]
    pub fn fits(&self, settings: &AgentSettings) -> bool {
        Purpose::of(settings, self.purpose.cadence).is_some_and(|purpose| self.purpose.fits(&purpose))
    }

    /// Waits until there is something to do, and does it.  Dropping the future loses nothing.
    pub async fn step(&mut self) -> News {
        let (started, next_at) = (self.started, self.next_at);
        let (flight, renewals) = (&mut self.flight, &mut self.renewals);
        let renewal = async {
            match renewals {
                Some(renewals) => renewals.next(started).await,
                None => std::future::pending().await,
            }
        };
        let exchange = async {
            match flight {
                Some(flight) => Some(flight.reply.as_mut().await),
                None => {
                    tokio::time::sleep_until((started + next_at).into()).await;
                    None
                }
            }
        };
        let reply = tokio::select! {
            biased;
            reply = exchange => reply,
            due = renewal => return if self.renewal(due) { News::Pass } else { News::None },
        };
        match reply {
            Some(reply) => {
                let flight = self.flight.take().expect("it has just been awaited");
                self.take(&flight, reply)
            }
            None => self.ask(),
        }
    }

    /// One exchange for `once`: asks until one coordinator has answered, or all were asked, or `patience` is over.
    pub async fn exchange(&mut self, patience: Duration) {
        let (answers, mut left) = (self.counts.answers, self.purpose.settings.urls.value.len());
        self.next_at = self.now();
        let until = tokio::time::Instant::now() + patience;
        while self.counts.answers == answers && left > 0 {
            let failures = self.failures();
            if tokio::time::timeout_at(until, self.step()).await.is_err() {
                self.flight = None;
                self.link.give_up();
                let message = format!("no coordinator has answered within {} s", patience.as_secs());
                let remedy = "check the coordinators and the network to them; the installed keys stay";
                self.failure.get_or_insert(Failure::new(UNREACHABLE, message, remedy));
                return;
            }
            left -= usize::from(self.failures() > failures);
        }
    }

    fn failures(&self) -> u64 {
        self.counts.errors.values().sum()
    }

    /// Keys of the last instruction, if they are not in the file yet.
    #[must_use]
    pub fn offer(&self) -> Option<Offer> {
        self.instructed.as_ref().map(Instructed::offer)
    }

    /// Takes in what a pass found.  A request in flight that reports something older is given up for a new one.
    pub fn observed(&mut self, pass: &PassReport) {
        if let (Some(instructed), Some(held)) = (&self.instructed, &pass.held)
            && pass.file_current
            && held.generation == Some(instructed.instruction.generation)
            && held.phase == instructed.phase
            && held.prints.pair() == instructed.instruction.slots.pair()
        {
            self.link.persisted(&instructed.pool_id, &instructed.instruction);
            self.instructed = None;
        }
        if self.report.observed(pass, self.link.fence()) && self.flight.take().is_some() {
            self.link.give_up();
            self.next_at = self.now();
        }
    }

    /// Whether keys come from the coordinators; otherwise they are only reported.
    #[must_use]
    pub fn gives_keys(&self) -> bool {
        self.purpose.gives_keys()
    }

    /// Whether keys of the pool are in the file.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.link.has_keys()
    }

    /// The generation of the last instruction, installed or not.
    #[must_use]
    pub fn desired_generation(&self) -> Option<Generation> {
        let instructed = self.instructed.as_ref().map(|instructed| instructed.instruction.generation);
        instructed.or_else(|| self.link.fence().map(|fence| fence.generation))
    }

    /// Whether the last request failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Whether no coordinator knows yet what the last pass found.
    #[must_use]
    pub fn has_pending_report(&self) -> bool {
        self.report.is_pending()
    }

    /// Last second of the certificate in use; none if the files cannot be used.
    #[must_use]
    pub fn certificate_not_after(&self) -> Option<UnixTime> {
        self.identity.as_ref().ok().map(Identity::not_after)
    }

    /// The first name of the certificate in use, by which coordinators know this node.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        self.identity.as_ref().ok().and_then(|identity| identity.names().first())
    }

    /// Numbers for the metrics.
    #[must_use]
    pub fn counts(&self) -> &ContactCounts {
        &self.counts
    }

    /// The settings of the contact.
    #[must_use]
    pub fn settings(&self) -> &ContactSettings {
        &self.purpose.settings
    }

    /// The pool of this node: the configured one, unless an operator moved it.
    #[must_use]
    pub fn pool(&self) -> &PoolName {
        &self.pool
    }

    /// Monotonic time since the start.
    fn now(&self) -> Duration {
        clock::monotonic().duration_since(self.started)
    }

    /// Whether a coordinator that has not heard all nodes yet is worth a wait: no other one has heard more of them.
    fn waits_for_others(&self) -> bool {
        self.purpose.cadence == Cadence::Daemon && self.route.has_one()
    }

    fn url(&self) -> String {
        self.purpose.settings.urls.value[self.route.current()].to_string()
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
        let Purpose { settings, source, cadence, .. } = &self.purpose;
        // Report momentary problems promptly, and ask again promptly while our own state is unknown.
        let prompt = self.report.is_momentary() || !self.report.is_known() || self.failure.is_some();
        let prompt = prompt && !self.awaits_others;
        let (wait, next_contact) = match cadence {
            Cadence::Daemon if prompt => (Duration::ZERO, NEXT_CONTACT),
            Cadence::Daemon => {
                let (bears, longest) = (self.bearings[self.route.current()].ask(now), self.link.longest_hold());
                (longest.map_or(bears, |longest| bears.min(longest)), NEXT_CONTACT)
            }
            Cadence::Once => (Duration::ZERO, settings.period),
        };
        let refused = self.failure.as_ref().filter(|failure| failure.reported).map(|failure| failure.kind);
        // The keys of the pool that it was led from are another pool's where it is led to.
        let is_joiner = self.link.fence() != self.link.reported();
        let note = identity.ends_unrenewed(settings.renewal, clock::now()).then_some(CERTIFICATE_ENDS);
        let terms = RequestTerms { wait, next_contact, source: *source, refused, note, is_joiner };
        if self.link.returns(clock::now_ms(), nonce(), now) {
            self.instructed = None;
        }
        let ask = self.link.ask();
        let base = &settings.urls.value[self.route.current()];
        let request = self.report.request(ask, &terms);
        let reply = exchange::send(identity.client(), base, &self.pool, request, self.patience());
        debug!(coordinator = %base, session = %ask.session, seen = %ask.seen, "asking");
        self.flight = Some(Flight { ask, began: now, drift: self.report.drift, waits: !wait.is_zero(), reply });
        if identity.notes().count() == old_notes { News::None } else { News::Pass }
    }

    /// How long one coordinator may take beyond the wait.  While a run of `once` or a start waits for the first answer,
    /// one coordinator that accepts and stays silent must not use up the time of the others.
    fn patience(&self) -> Duration {
        let count = self.purpose.settings.urls.value.len();
        let starts = self.counts.answers == 0 && self.failures() < count as u64;
        let start_timeout = self.purpose.start_timeout;
        let all = match self.purpose.cadence {
            Cadence::Once => ANSWER_PATIENCE,
            Cadence::Daemon if starts && !start_timeout.is_zero() => start_timeout.min(ANSWER_PATIENCE),
            Cadence::Daemon => return ANSWER_PATIENCE,
        };
        share(all, count)
    }

    /// Reads the certificates again if they have changed; unusable ones do not replace those in use.
    fn read_files(&mut self, now: Duration) {
        let Purpose { settings, config, .. } = &self.purpose;
        if matches!(&self.identity, Ok(identity) if !identity.is_stale(settings, now)) {
            return;
        }
        let before = self.identity.as_ref().map(Identity::life).ok();
        let read = Identity::load(settings, config, clock::now(), now);
        match (&mut self.identity, read) {
            (Ok(identity), Ok(new)) => identity.renew(new),
            (Ok(identity), Err(problems)) => identity.keep(problems, now),
            (identity @ Err(_), read) => {
                // Nothing was asked before: without its name a node has no preference.
                self.route = route(settings, read.as_ref().ok());
                *identity = read;
            }
        }
        if self.identity.as_ref().map(Identity::life).ok() != before
            && let Some(renewals) = &mut self.renewals
        {
            renewals.look_at(now);
        }
    }
}

/// The coordinators in the order that this node prefers; without its certificate in the order of the configuration.
fn route(settings: &ContactSettings, identity: Option<&Identity>) -> Route {
    let urls: Vec<String> = settings.urls.value.iter().map(ToString::to_string).collect();
    let node = identity.and_then(|identity| identity.names().first());
    let order = node.map_or_else(|| (0..urls.len()).collect(), |node| preferred(node.as_str(), &urls));
    Route::new(order, Returns::SLOWLY)
}

/// The part of `all` that each of `count` coordinators has; a single one has as long as any request.
fn share(all: Duration, count: usize) -> Duration {
    match u32::try_from(count) {
        Ok(0 | 1) | Err(_) => ANSWER_PATIENCE,
        Ok(count) => (all / count).max(ROUND_MIN),
    }
}

/// The fence in a header; none if the keys are not a pool's.
fn fence_of(record: &Record) -> Option<Fence> {
    let key = |slot: SlotPrint| Some(PoolKey { epoch: slot.epoch?, fingerprint: slot.fingerprint });
    let backup = match record.prints.backup {
        Some(backup) => Some(key(backup)?),
        None => None,
    };
    let slots = Slots { primary: key(record.prints.primary)?, backup };
    Some(Fence { pool_id: record.pool_id?, generation: record.generation?, slots })
}

/// Without randomness (which does not happen) the ordinal alone distinguishes sessions.
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
        assert_eq!(share(secs(3), 1), ANSWER_PATIENCE, "there is no other to ask");
        assert_eq!(share(secs(1), 8), ROUND_MIN, "less is too short for a handshake");
    }
}
