//! Tells operators what they should not have to ask for: a command or a webhook for each `[[notify]]`.
//!
//! `conditions` decides what is news, `queue` what waits for a target, `state` keeps both over restarts; `command` and
//! `webhook` deliver, `trial` is `notify-test`.  Here is the loop that has them work together.
//!
//! Invariants: no driver waits for it, because it reads what drivers have left; each event is on the disk before it is sent,
//! so it is told at least once; each queue is bounded, and what it drops is counted and logged.  Must not know: keys.

mod command;
mod conditions;
mod queue;
mod state;
mod trial;
mod webhook;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use self::conditions::{Seen, Standing, Teller};
use self::queue::Failed;
use self::state::State;
pub use self::trial::try_targets;
use self::webhook::Webhook;
use super::dashboard::GOOD_MS_MAX;
use super::metrics::counters::{Metrics, Notified};
use super::pool::{Pool, PoolNames, without_store};
use super::routes::Api;
use tfo_config::coordinator::{CoordinatorSettings, NotifyBy, NotifySettings};
use tfo_host::runtime::{clock, log};
use tfo_host::secret::CREDENTIAL_UNSEEN;
use tfo_model::fleet::NodeState;
use tfo_model::named::Named;
use tfo_model::problem::{Problem, chain};
use tfo_model::time::UnixTime;
use tfo_tls::server::ServerTls;
use tfo_wire::v1::notify::{CERTIFICATES_MAX, Ending, Event};

/// How often the pools are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often certificates are: that is a look at every node.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(60);
/// A node's certificate ends soon, in seconds: a week, or a quarter of its life where enrolment makes it shorter, by when it
/// should have been renewed.
const NODE_SECS: u64 = 7 * 86_400;
const NODE_LIFE_PART: u64 = 4;
/// The same of the coordinator's own files, as the alerts have it.
const OWN_SECS: u64 = 14 * 86_400;
const CA_SECS: u64 = 30 * 86_400;
const CRL_SECS: u64 = 7 * 86_400;

/// What a configuration file says about it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The file, for problems.
    file: PathBuf,
    targets: Vec<NotifySettings>,
    /// Seconds before its end at which a node's certificate ends soon.
    node_secs: u64,
}

impl Wanted {
    /// Of these settings.
    #[must_use]
    pub fn of(settings: &CoordinatorSettings) -> Self {
        let lifetime = settings.enrolment.as_ref().map(|enrolment| enrolment.node_lifetime.value.as_secs());
        Self {
            file: settings.file.clone(),
            targets: settings.notify.clone(),
            node_secs: lifetime.map_or(NODE_SECS, |lifetime| NODE_SECS.min(lifetime / NODE_LIFE_PART)),
        }
    }
}

/// Blocking: what is wrong with the targets, as far as this process can see; none of it keeps a coordinator from its work.
#[must_use]
pub fn check(settings: &CoordinatorSettings) -> Vec<Problem> {
    let file = &settings.file;
    let mut found = Vec::new();
    for target in &settings.notify {
        match &target.by {
            NotifyBy::Webhook { url, ca, secret } => {
                let problems = Webhook { file, url, ca, secret }.open().err().unwrap_or_default();
                // Only the service sees its credentials.
                found.extend(problems.into_iter().filter(|problem| problem.kind != CREDENTIAL_UNSEEN));
            }
            NotifyBy::Command(words) => {
                let program = words.value.first().map(String::as_str).unwrap_or_default();
                if let Err(error) = access(program, Access::EXEC_OK) {
                    let message = format!("cannot execute {program}: {error}");
                    let remedy = "install it; under systemd the unit must also let it be executed: \
                                  systemd/examples/coordinator-notify.conf";
                    found.push(words.locate(file, Problem::error("notify_command", message, remedy)));
                }
            }
        }
    }
    found.into_iter().map(|problem| Problem { severity: tfo_model::problem::Severity::Warning, ..problem }).collect()
}

/// The task that looks, and tells.  It ends when this is dropped, with the commands that it runs.
pub struct Notifier {
    wanted: watch::Sender<Arc<Wanted>>,
    stop: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Notifier {
    /// Blocking: reads what was told before, and starts.
    #[must_use]
    pub fn start(api: Arc<Api>, tls: Arc<ServerTls>, store: &Path, wanted: Wanted) -> Self {
        let path = state::path(store);
        let state = State::load(&path).unwrap_or_else(|problem| {
            if !wanted.targets.is_empty() {
                log::problem(&problem);
            }
            State::default()
        });
        let (wanted, changes) = watch::channel(Arc::new(wanted));
        let (ended, results) = mpsc::channel(tfo_config::coordinator::NOTIFY_TARGETS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let known = changes.borrow().clone();
        let keeper =
            Keeper { api, tls, path, saved: state.clone(), state, wanted: known, ended, stop: Arc::clone(&stop) };
        let task = AbortOnDropHandle::new(tokio::spawn(keeper.keep(changes, results)));
        Self { wanted, stop, _task: task }
    }

    /// Takes another configuration.
    pub fn reload(&self, wanted: Wanted) {
        // An error: the task has panicked, which is in the log.
        self.wanted.send(Arc::new(wanted)).ok();
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // A command runs on a thread, which no task can abort.
        self.stop.store(true, Ordering::Release);
    }
}

/// How a delivery ended.
struct Ended {
    target: String,
    result: Result<(), String>,
}

struct Keeper {
    api: Arc<Api>,
    tls: Arc<ServerTls>,
    path: PathBuf,
    state: State,
    /// What is on the disk.
    saved: State,
    wanted: Arc<Wanted>,
    ended: mpsc::Sender<Ended>,
    stop: Arc<AtomicBool>,
}

impl Keeper {
    async fn keep(mut self, mut changes: watch::Receiver<Arc<Wanted>>, mut results: mpsc::Receiver<Ended>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut certificates = tokio::time::interval(CERTIFICATES_EVERY);
        certificates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.forget_targets();
        loop {
            tokio::select! {
                _ = looks.tick() => self.look(),
                _ = certificates.tick() => self.look_at_certificates().await,
                Some(ended) = results.recv() => self.take(ended),
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.wanted = changes.borrow_and_update().clone();
                    self.forget_targets();
                }
            }
            if self.wanted.targets.is_empty() {
                continue;
            }
            self.save().await;
            self.deliver();
        }
    }

    /// Looks at what the drivers have made of their pools.
    fn look(&mut self) {
        if self.wanted.targets.is_empty() {
            return;
        }
        let own = self.tls.own_hosts().0.into_iter().next();
        let teller = Teller { coordinator: own.as_ref(), now: clock::now() };
        let pools = self.api.pools.load_full();
        self.state.conditions.keep(|name| pools.contains_key(name));
        for seen in pools.values().filter_map(|pool| seen(pool)) {
            let events = self.state.conditions.look(&seen, teller);
            events.into_iter().for_each(|event| self.tell(event));
        }
    }

    /// Looks at when certificates end.
    async fn look_at_certificates(&mut self) {
        if self.wanted.targets.is_empty() {
            return;
        }
        let own = self.tls.own_hosts().0.into_iter().next();
        let now = clock::now();
        let teller = Teller { coordinator: own.as_ref(), now };
        let mut events = Vec::new();
        events.extend(self.state.conditions.certificates(None, ending_of_own(&self.tls, now), teller));
        for pool in self.api.pools.load_full().values() {
            let Some(seen) = seen(pool) else { continue };
            let Ok(Ok(nodes)) = pool.nodes(PoolNames::new()).await else { continue };
            let before = self.state.conditions.ending_before(&seen.pool);
            let ours = nodes.nodes.iter().filter(|node| !is_out(&node.state));
            let mut ending: Vec<Ending> = ours
                .filter_map(|node| {
                    // Until it connects again after a restart, what is known of it is what was told.
                    let told =
                        || before.iter().find(|told| told.name.as_ref() == Some(&node.node)).map(|told| told.until);
                    let until = node.certificate_until.or_else(told)?;
                    let is_soon = until.secs_since(now) < self.wanted.node_secs;
                    is_soon.then(|| Ending { until, of: "node".to_owned(), name: Some(node.node.clone()) })
                })
                .collect();
            ending.sort();
            ending.truncate(CERTIFICATES_MAX);
            events.extend(self.state.conditions.certificates(Some(&seen), ending, teller));
        }
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// Queues an event for every target that is told of its kind.
    fn tell(&mut self, event: Event) {
        let Named::Known(kind) = event.kind else { return };
        for target in self.wanted.targets.iter().filter(|target| target.events.contains(&kind)) {
            let name = &target.name.value;
            if let Some(dropped) = self.state.queues.entry(name.clone()).or_default().push(event.clone()) {
                lost(&self.api.metrics, name, &dropped, "too many events wait for it");
            }
        }
    }

    /// Drops what waits for targets that are gone.
    fn forget_targets(&mut self) {
        let names: Vec<&String> = self.wanted.targets.iter().map(|target| &target.name.value).collect();
        let metrics = &self.api.metrics;
        metrics.notify_targets(&names);
        self.state.queues.retain(|name, queue| {
            let is_there = names.contains(&name);
            if !is_there && queue.len() > 0 {
                warn!(target_name = %name, events = queue.len(), "a [[notify]] is gone, with the events that waited for it");
            }
            is_there
        });
    }

    /// Writes what has changed, before anything is sent.
    async fn save(&mut self) {
        if self.state == self.saved {
            return;
        }
        let (path, mut state) = (self.path.clone(), self.state.clone());
        let written = tokio::task::spawn_blocking(move || state.save(&path).map(|()| state)).await;
        match written {
            Ok(Ok(state)) => self.saved = state,
            // Tried again at the next look.
            Ok(Err(problem)) => log::problem(&problem),
            Err(error) => error!(%error, "writing what was told panicked"),
        }
    }

    /// Begins the deliveries that are due.
    fn deliver(&mut self) {
        for target in &self.wanted.targets {
            let name = &target.name.value;
            let Some(queue) = self.state.queues.get_mut(name) else { continue };
            self.api.metrics.notify_waiting(name, queue.len());
            let Some(event) = queue.begin(clock::now()) else { continue };
            let (ended, target, stop) = (self.ended.clone(), target.clone(), Arc::clone(&self.stop));
            let file = self.wanted.file.clone();
            tokio::spawn(async move {
                let result = deliver(&target, &file, &event, &stop).await;
                // An error: the coordinator stops, and the event is told again after the restart.
                ended.send(Ended { target: target.name.value, result }).await.ok();
            });
        }
    }

    /// Takes the end of a delivery.
    fn take(&mut self, ended: Ended) {
        let Ended { target, result } = ended;
        let Some(queue) = self.state.queues.get_mut(&target) else { return };
        let metrics = &self.api.metrics;
        match result {
            Ok(()) => {
                if let Some(event) = queue.delivered() {
                    metrics.notified(&target, Notified::Sent);
                    let (kind, state, id) = (event.kind, event.state, event.id);
                    info!(target_name = %target, %kind, %state, id, "operators were told");
                }
            }
            Err(error) => {
                metrics.notified(&target, Notified::Failed);
                let failures = queue.failures();
                match queue.failed(clock::now()) {
                    Failed::Again if failures == 0 => {
                        warn!(target_name = %target, error, "operators were not told; it is tried again for a day");
                    }
                    Failed::Again => debug!(target_name = %target, error, failures, "operators were not told"),
                    Failed::GivenUp(event) => lost(metrics, &target, &event, &error),
                }
            }
        }
        self.api.metrics.notify_waiting(&target, queue.len());
    }
}

fn lost(metrics: &Metrics, target: &str, event: &Event, why: &str) {
    metrics.notified(target, Notified::Dropped);
    let pool = event.pool.as_ref().map(ToString::to_string);
    let (kind, state, id) = (&event.kind, &event.state, &event.id);
    error!(target_name = %target, %kind, %state, pool, id, why, "operators are not told of an event");
}

/// What the driver made of its pool, or that its store is not reached; none before its first look.
fn seen(pool: &Pool) -> Option<Seen> {
    let judged = pool.judged()?;
    let (name, pool_id) = (pool.name().clone(), pool.pool_id());
    if pool.good_ms_ago().is_none_or(|ago| ago > GOOD_MS_MAX) {
        let verdict = without_store(&name, pool.store_down());
        return Some(Seen { pool: name, pool_id, verdict, standing: None });
    }
    let standing = Standing {
        phase: judged.phase,
        generation: judged.generation,
        primary: judged.primary,
        backup: judged.backup,
        holds: judged.holds,
    };
    Some(Seen { pool: name, pool_id, verdict: judged.verdict.clone(), standing: Some(standing) })
}

/// Whether the pool has nothing to do with a node's certificate.
fn is_out(state: &Named<NodeState>) -> bool {
    *state == NodeState::Denied || *state == NodeState::Moved
}

/// The coordinator's own certificates that end soon.
fn ending_of_own(tls: &ServerTls, now: UnixTime) -> Vec<Ending> {
    let ends = tls.expiries();
    let own = [
        ("coordinator", Some(ends.certificate), OWN_SECS),
        ("client_ca", Some(ends.client_ca), CA_SECS),
        ("crl", ends.crl, CRL_SECS),
    ];
    let soon = own.into_iter().filter_map(|(of, until, secs)| {
        let until = until.filter(|until| until.secs_since(now) < secs)?;
        Some(Ending { until, of: of.to_owned(), name: None })
    });
    let mut ending: Vec<Ending> = soon.collect();
    ending.sort();
    ending
}

/// Delivers one event; an error is a text for the log.
async fn deliver(target: &NotifySettings, file: &Path, event: &Event, stop: &Arc<AtomicBool>) -> Result<(), String> {
    let body = serde_json::to_vec(event).map_err(|error| error.to_string())?;
    let panicked = |error: tokio::task::JoinError| error.to_string();
    match target.by.clone() {
        NotifyBy::Command(words) => {
            let stop = Arc::clone(stop);
            let run = move || command::run(&words.value, &body, command::RUN_MAX, &stop);
            tokio::task::spawn_blocking(run).await.map_err(panicked)?.map_err(|error| chain(&error))
        }
        NotifyBy::Webhook { url, ca, secret } => {
            let file = file.to_owned();
            let open = move || Webhook { file: &file, url: &url, ca: &ca, secret: &secret }.open();
            let opened = tokio::task::spawn_blocking(open).await.map_err(panicked)?;
            let opened = opened.map_err(|problems| {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                problems.join("; ")
            })?;
            opened.send(&event.id, body, clock::now()).await
        }
    }
}
