//! Gauges of pools and of the server, made at each scrape.  Names and help are the documentation.

use std::collections::BTreeMap;

use super::counters::Metrics;
use crate::pool::{StoreDown, Summary, without_store};
use crate::server::Server;
use tfo_host::runtime::sheet::{Sheet, flag, float};
use tfo_host::runtime::usage;
use tfo_model::fleet::{BlockedBy, PausedBy, Severity, VerdictKind};
use tfo_model::ids::PoolName;
use tfo_model::node::Counters;
use tfo_model::state::Phase;
use tfo_tls::server::ServerTls;
use tfo_wire::v1::coordinators::CoordinatorStatus;
use tfo_wire::v1::fleet::Verdict;

/// What the gauges are read from.
pub struct Scraped<'a> {
    /// Connections and refusals.
    pub server: &'a Server,
    /// The same of the enrolment port.
    pub strangers: Option<&'a Server>,
    /// Certificates.
    pub tls: &'a ServerTls,
    /// Every pool, where the driver and its store answer.
    pub pools: &'a [(PoolName, Result<Summary, StoreDown>)],
    /// What the dashboard remembers of a pool.
    pub remembered: &'a BTreeMap<PoolName, Remembered>,
}

/// What is not in a pool's document, but was seen or is in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remembered {
    /// What its nodes have counted since this coordinator started.
    pub cookies: Counters,
    /// Length of the rotation that ended last.
    pub took_secs: Option<u64>,
}

/// All metrics in the text format 0.0.4.
///
/// # Errors
/// Fails if a metric has a bad name, which is a bug.
pub fn encode(scraped: &Scraped<'_>, counters: &Metrics) -> prometheus::Result<String> {
    let mut sheet = Sheet::default();
    let version = [([env!("CARGO_PKG_VERSION")], 1.0)];
    sheet.gauges("tfo_coordinator_info", "The coordinator that wrote this.", ["version"], version);
    usage::add_to(&mut sheet);
    server(&mut sheet, scraped);
    pools(&mut sheet, scraped.pools);
    caveats(&mut sheet, scraped.pools);
    remembered(&mut sheet, scraped.remembered);
    sheet.encode(counters.gather())
}

/// Reads one number of a pool.
type Read = fn(&Summary) -> f64;

/// The numbers of a pool: name, help, value.
const NUMBERS: [(&str, &str, Read); 12] = [
    ("pool_revision", "Changes of the document.", |pool| float(pool.status.revision.get())),
    ("pool_generation", "Generation of the instructions to the nodes.", |pool| float(pool.status.generation.get())),
    ("pool_required", "Nodes that barriers wait for.", |pool| count(pool.status.required)),
    ("pool_converged", "Of these, nodes that have acknowledged their instruction.", |pool| {
        count(pool.status.converged)
    }),
    ("pool_waiting_for", "Nodes that the pool waits for.", |pool| count(pool.status.waiting_for.len())),
    ("pool_held", "Requests that are held until there is something new.", |pool| count(pool.held)),
    ("pool_key_pairs", "Different pairs of keys that nodes have installed.", |pool| count(pool.fingerprints.len())),
    ("pool_since_timestamp_seconds", "When this phase began.", |pool| float(pool.status.since.secs())),
    ("pool_expected_nodes", "Fewest nodes with which a rotation starts by itself.", |pool| count(pool.expected_nodes)),
    ("pool_rotated_timestamp_seconds", "When the primary changed last.", |pool| float(pool.rotated_at.secs())),
    ("pool_interval_seconds", "Time from one rotation to the next.", |pool| float(pool.interval_secs)),
    ("pool_policy_differs", "Settings in which the configuration file differs from the pool's policy.", |pool| {
        count(pool.status.policy_differs.len())
    }),
];

fn pools(sheet: &mut Sheet, pools: &[(PoolName, Result<Summary, StoreDown>)]) {
    let reached = pools.iter().map(|(name, summary)| ([name.as_str()], flag(summary.is_ok())));
    let help = "1 if the pool's driver reaches its store.";
    sheet.gauges("tfo_coordinator_pool_store_reached", help, ["pool"], reached);
    let known = || pools.iter().filter_map(|(name, summary)| Some((name.as_str(), summary.as_ref().ok()?)));
    for (name, help, read) in NUMBERS {
        let values = known().map(|(pool, summary)| ([pool], read(summary)));
        sheet.gauges(&format!("tfo_coordinator_{name}"), help, ["pool"], values);
    }
    verdicts(sheet, pools);
    let paused = known().flat_map(|(pool, summary)| {
        let by = summary.status.paused.as_ref().map(|paused| paused.by.clone());
        PausedBy::ALL.into_iter().map(move |author| ([pool, author.as_str()], flag(by == Some(author.into()))))
    });
    let help = "1 if an operator, or the health gate, paused it.";
    sheet.gauges("tfo_coordinator_pool_paused", help, ["pool", "by"], paused);
    let next = known().filter_map(|(pool, summary)| Some(([pool], float(summary.next_rotation_at?.secs()))));
    let help = "When the next rotation is due; absent while none starts by itself, or one runs.";
    sheet.gauges("tfo_coordinator_pool_next_rotation_timestamp_seconds", help, ["pool"], next);
    let ends = known().filter_map(|(pool, summary)| Some(([pool], float(summary.certificate_until?.secs()))));
    let help = "Last second of the first certificate of a node to end, of those that have connected since the start.";
    sheet.gauges("tfo_coordinator_pool_certificate_expiry_timestamp_seconds", help, ["pool"], ends);
    let phases = known().flat_map(|(pool, summary)| {
        Phase::ALL.into_iter().map(move |phase| ([pool, phase.as_str()], flag(phase == summary.status.phase)))
    });
    sheet.gauges("tfo_coordinator_pool_phase", "1 for the present phase.", ["pool", "phase"], phases);
    let gates = known().flat_map(|(pool, summary)| {
        let closed = move |gate: BlockedBy| flag(summary.status.blocked_by == Some(gate.into()));
        BlockedBy::ALL.into_iter().map(move |gate| ([pool, gate.as_str()], closed(gate)))
    });
    sheet.gauges("tfo_coordinator_pool_blocked", "1 for the gate that is closed.", ["pool", "gate"], gates);
    let nodes = known().flat_map(|(pool, summary)| {
        summary.states.iter().map(move |(state, nodes)| ([pool, state.as_str()], count(*nodes)))
    });
    sheet.gauges("tfo_coordinator_pool_nodes", "Nodes by state.", ["pool", "state"], nodes);
    coordinators(sheet, &known().collect::<Vec<_>>());
}

/// The coordinators of each pool, as its store knows them.
fn coordinators(sheet: &mut Sheet, pools: &[(&str, &Summary)]) {
    let each = |read: fn(&CoordinatorStatus) -> f64| {
        pools.iter().flat_map(move |(pool, summary)| {
            summary.coordinators.iter().map(move |one| ([*pool, one.name.as_str()], read(one)))
        })
    };
    let help = "Nodes whose sessions are open at this coordinator.";
    sheet.gauges("tfo_coordinator_pool_coordinator_nodes", help, ["pool", "coordinator"], each(|one| count(one.nodes)));
    let help = "1 if this coordinator has not beaten for some beats.";
    sheet.gauges(
        "tfo_coordinator_pool_coordinator_silent",
        help,
        ["pool", "coordinator"],
        each(|one| flag(one.silent)),
    );
}

/// What limits or endangers TFO on nodes although their keys are right.
fn caveats(sheet: &mut Sheet, pools: &[(PoolName, Result<Summary, StoreDown>)]) {
    let known = pools.iter().filter_map(|(name, summary)| Some((name.as_str(), summary.as_ref().ok()?)));
    let nodes = known.flat_map(|(pool, summary)| {
        summary.caveats.iter().map(move |(caveat, nodes)| ([pool, caveat.as_str()], count(*nodes)))
    });
    let help =
        "Nodes whose kernel or settings limit or endanger TFO, of those heard since the start; kernels by version.";
    sheet.gauges("tfo_coordinator_pool_caveats", help, ["pool", "caveat"], nodes);
}

/// What pools have done, and their nodes have counted.
fn remembered(sheet: &mut Sheet, remembered: &BTreeMap<PoolName, Remembered>) {
    let cookies = remembered.iter().flat_map(|(pool, remembered)| {
        let Counters { passive, passive_alt_key, passive_fail } = remembered.cookies;
        let accepted = passive.saturating_sub(passive_alt_key);
        let results = [("accepted", accepted), ("accepted_by_backup", passive_alt_key), ("rejected", passive_fail)];
        results.map(|(result, count)| ([pool.as_str(), result], count))
    });
    let help = "Cookies that the nodes have counted which report here, since this coordinator started.";
    sheet.counters("tfo_coordinator_pool_cookies_total", help, ["pool", "result"], cookies);
    let took = remembered.iter().filter_map(|(pool, remembered)| Some(([pool.as_str()], float(remembered.took_secs?))));
    let help = "Length of the rotation that ended last.";
    sheet.gauges("tfo_coordinator_pool_rotation_duration_seconds", help, ["pool"], took);
}

/// The verdict on every pool, also on one whose store is not reached.
fn verdicts(sheet: &mut Sheet, pools: &[(PoolName, Result<Summary, StoreDown>)]) {
    let verdicts: Vec<(&PoolName, Verdict)> = pools
        .iter()
        .map(|(name, summary)| {
            (
                name,
                summary
                    .as_ref()
                    .map_or_else(|down| without_store(name, *down), |summary| summary.status.verdict.clone()),
            )
        })
        .collect();
    let kinds = verdicts.iter().flat_map(|(pool, verdict)| {
        let is = move |kind: VerdictKind| flag(verdict.kind == kind);
        VerdictKind::ALL.into_iter().map(move |kind| ([pool.as_str(), kind.as_str()], is(kind)))
    });
    let help = "1 for the kind of the verdict on the pool.";
    sheet.gauges("tfo_coordinator_pool_verdict", help, ["pool", "kind"], kinds);
    let severities = verdicts.iter().map(|(pool, verdict)| {
        let severity = Severity::ALL.into_iter().zip(0u64..).find(|(severity, _)| verdict.severity == *severity);
        ([pool.as_str()], severity.map_or(0.0, |(_, number)| float(number)))
    });
    let help = "Severity of the verdict: 0 ok, 1 notice, 2 warning, 3 critical.";
    sheet.gauges("tfo_coordinator_pool_verdict_severity", help, ["pool"], severities);
}

fn server(sheet: &mut Sheet, scraped: &Scraped<'_>) {
    let expiries = scraped.tls.expiries();
    let connections = count(scraped.server.connections());
    sheet.gauge("tfo_coordinator_connections", "Open connections of the API.", connections);
    let help = "Last second of the coordinator's certificate.";
    let expiry = float(expiries.certificate.secs());
    sheet.gauge("tfo_coordinator_certificate_expiry_timestamp_seconds", help, expiry);
    let help = "Last second of the first CA to expire.";
    sheet.gauge("tfo_coordinator_client_ca_expiry_timestamp_seconds", help, float(expiries.client_ca.secs()));
    let help = "When the revocation list expires; then no new node is let in.";
    let crl = expiries.crl.map(|crl| float(crl.secs()));
    sheet.gauge("tfo_coordinator_crl_expiry_timestamp_seconds", help, crl);
    let help = "Problems of certificate files that are not in use because of them.";
    sheet.gauge("tfo_coordinator_certificate_problems", help, count(scraped.tls.broken().len()));
    let help = "Connections and requests refused before their route.";
    let refusals = scraped.server.refusals();
    let refused = refusals.counts().map(|(reason, count)| ([reason.as_str()], count));
    sheet.counters("tfo_coordinator_refused_total", help, ["reason"], refused);
    let Some(strangers) = scraped.strangers else { return };
    let connections = count(strangers.connections());
    sheet.gauge("tfo_coordinator_enrolment_connections", "Open connections of the enrolment port.", connections);
    let help =
        "Connections and requests refused at the enrolment port, those with a token that is of no use among them.";
    let refusals = strangers.refusals();
    let refused = refusals.counts().map(|(reason, count)| ([reason.as_str()], count));
    sheet.counters("tfo_coordinator_enrolment_refused_total", help, ["reason"], refused);
}

fn count(count: usize) -> f64 {
    float(count as u64)
}
