//! What is counted while the coordinator works.

use std::time::Instant;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use tfo_host::runtime::clock;
use tfo_model::fleet::Action;
use tfo_model::ids::PoolName;
use tfo_model::named_enum;

/// Upper bounds in seconds: a commit is an fsync or two.
const SECONDS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The counters since the start.
pub struct Metrics {
    registry: Registry,
    syncs: IntCounterVec,
    commands: IntCounterVec,
    commits: IntCounterVec,
    commit_seconds: HistogramVec,
    records: IntCounterVec,
    record_seconds: HistogramVec,
    store_errors: IntCounterVec,
    certificates: IntCounterVec,
    notifications: IntCounterVec,
    notifications_waiting: IntGaugeVec,
}

named_enum! {
    /// What became of an event, or of an attempt to tell it.
    pub enum Notified {
        /// The target has taken it.
        Sent = "sent",
        /// The target was not reached, or refused it: it is tried again.
        Failed = "failed",
        /// Too many waited, or it was tried for too long.
        Dropped = "dropped",
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels).expect("the name is good");
            registry.register(Box::new(made.clone())).expect("the name is new");
            made
        };
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let made = HistogramVec::new(options, &["pool"]).expect("the name is good");
            registry.register(Box::new(made.clone())).expect("the name is new");
            made
        };
        let help = "Events that wait for a [[notify]].";
        let waiting = IntGaugeVec::new(Opts::new("tfo_coordinator_notifications_waiting", help), &["target"]);
        let notifications_waiting = waiting.expect("the name is good");
        registry.register(Box::new(notifications_waiting.clone())).expect("the name is new");
        Self {
            notifications: counter(
                "tfo_coordinator_notifications_total",
                "Events told by a [[notify]], attempts that failed, and events dropped.",
                &["target", "result"],
            ),
            notifications_waiting,
            syncs: counter("tfo_coordinator_syncs_total", "Requests of nodes by their answer.", &["pool", "result"]),
            commands: counter(
                "tfo_coordinator_commands_total",
                "Commands of operators by their outcome.",
                &["pool", "result"],
            ),
            commits: counter("tfo_coordinator_commits_total", "Changes of the document.", &["pool", "action"]),
            commit_seconds: histogram(
                "tfo_coordinator_commit_duration_seconds",
                "Duration of a change of the document.",
            ),
            records: counter("tfo_coordinator_records_written_total", "Records of nodes written.", &["pool"]),
            record_seconds: histogram(
                "tfo_coordinator_record_write_duration_seconds",
                "Duration of a write of records.",
            ),
            store_errors: counter("tfo_coordinator_store_errors_total", "Failures of the store.", &["pool", "kind"]),
            certificates: counter(
                "tfo_coordinator_certificates_total",
                "Requests of nodes for a certificate by their outcome.",
                &["request", "result"],
            ),
            registry,
        }
    }

    /// A sync of a node got this answer: `told`, `nothing`, or the kind of the error.
    pub fn sync_answered(&self, pool: &PoolName, result: &str) {
        self.syncs.with_label_values(&[pool.as_str(), result]).inc();
    }

    /// A command ended like this: `done`, or the kind of the error.
    pub fn command_ended(&self, pool: &PoolName, result: &str) {
        self.commands.with_label_values(&[pool.as_str(), result]).inc();
    }

    /// The document was changed.
    pub fn committed(&self, pool: &PoolName, action: Action) {
        self.commits.with_label_values(&[pool.as_str(), action.as_str()]).inc();
    }

    /// A commit that began at `start` succeeded or failed.
    pub fn commit_took(&self, pool: &PoolName, start: Instant) {
        self.commit_seconds.with_label_values(&[pool.as_str()]).observe(seconds_since(start));
    }

    /// A write of records that began at `start` is over.
    pub fn records_written(&self, pool: &PoolName, count: usize, start: Instant) {
        self.records.with_label_values(&[pool.as_str()]).inc_by(count as u64);
        self.record_seconds.with_label_values(&[pool.as_str()]).observe(seconds_since(start));
    }

    /// A request for a certificate, `enrol`, `renewal` or `person`, ended like this: `done`, or the kind of the error.
    pub fn certified(&self, request: &str, result: &str) {
        self.certificates.with_label_values(&[request, result]).inc();
    }

    /// These are the targets of notifications: their series are there from the start, and no others are.
    pub fn notify_targets(&self, names: &[&String]) {
        self.notifications_waiting.reset();
        for name in names {
            self.notifications_waiting.with_label_values(&[name.as_str()]).set(0);
            for result in Notified::ALL {
                self.notifications.with_label_values(&[name.as_str(), result.as_str()]).inc_by(0);
            }
        }
    }

    /// An event was told, was not, or is not told any more.
    pub fn notified(&self, target: &str, result: Notified) {
        self.notifications.with_label_values(&[target, result.as_str()]).inc();
    }

    /// So many events wait for this target.
    pub fn notify_waiting(&self, target: &str, events: usize) {
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        self.notifications_waiting.with_label_values(&[target]).set(events);
    }

    /// The store failed.
    pub fn store_failed(&self, pool: &PoolName, kind: &str) {
        self.store_errors.with_label_values(&[pool.as_str(), kind]).inc();
    }

    /// Everything counted so far.
    #[must_use]
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn seconds_since(start: Instant) -> f64 {
    clock::monotonic().duration_since(start).as_secs_f64()
}
