//! Pools, nodes, the audit log and results of commands as text.  As JSON they are the types of the API.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::verdict::line;
use tfo_cli::plain::{count_of_nodes, names, plain};
use tfo_cli::report::Report;
use tfo_cli::table::Table;
use tfo_host::runtime::clock;
use tfo_model::fleet::{BlockedBy, NodeState};
use tfo_model::named::Named;
use tfo_model::node::KeySource;
use tfo_model::state::SlotPrint;
use tfo_model::time::{UnixTime, duration_text};
use tfo_wire::v1::fleet::{AuditLine, Done, FingerprintCount, NodeStatus, PoolStatus, Pools};

/// Most nodes of one state that are listed without `--all`.
const BEHIND_SHOWN_MAX: usize = 20;

/// A slot: its fingerprint, and the epoch where it has one.
pub(super) fn slot(slot: Option<SlotPrint>) -> String {
    match slot {
        None => "-".to_owned(),
        Some(SlotPrint { epoch: None, fingerprint }) => fingerprint.to_string(),
        Some(SlotPrint { epoch: Some(epoch), fingerprint }) => format!("{fingerprint} ({epoch})"),
    }
}

/// A closed gate in words.
pub(super) fn gate(blocked_by: &Named<BlockedBy>) -> String {
    let words = match blocked_by {
        Named::Known(BlockedBy::Schedule) => "the next rotation is not due",
        Named::Known(BlockedBy::Barrier) => "nodes have not acknowledged",
        Named::Known(BlockedBy::Drain) => "clients still present cookies of the old key",
        Named::Known(BlockedBy::Health) => "the wave is being watched",
        Named::Known(BlockedBy::Absent) => "nodes are absent",
        Named::Known(BlockedBy::ExpectedNodes) => "fewer nodes than expected",
        Named::Known(BlockedBy::Paused) => "paused: resume it",
        Named::Known(BlockedBy::Held) => "held: resume it",
        Named::Known(BlockedBy::NoKey) => {
            "no key yet: `tfoctl rotate --first`, or `tfoctl import` if the nodes share one"
        }
        Named::Known(BlockedBy::Frozen) => "frozen: the store is older than the fleet; recover it",
        Named::Unknown(later) => return plain(later.as_str()),
    };
    words.to_owned()
}

/// A type of the API, which is shown as JSON unchanged.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Shown<T>(pub(super) T);

impl Report for Shown<Pools> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.0.pools.is_empty() {
            return writeln!(out, "the coordinator has no pools: add [pools.NAME] to its configuration");
        }
        let now = clock::now();
        let mut table = Table::new(&["POOL", "PHASE", "GEN", "PRIMARY", "BACKUP", "NODES", "NEXT"]);
        for pool in &self.0.pools {
            let waves = pool.waves.map_or(String::new(), |waves| format!(" {}/{}", waves.opened, waves.of));
            table.row([
                pool.pool.to_string(),
                format!("{}{waves}", pool.phase.as_str()),
                pool.generation.to_string(),
                print(pool.primary),
                print(pool.backup),
                format!("{}/{}", pool.converged, pool.required),
                pool.next_at.map_or_else(|| "-".to_owned(), |at| in_time(at, now)),
            ]);
        }
        table.write(out)?;
        self.0.pools.iter().try_for_each(|pool| {
            writeln!(out, "{}: {}", pool.pool, line(&pool.verdict))?;
            remarks(pool).into_iter().try_for_each(|remark| writeln!(out, "{remark}"))
        })
    }
}

/// How long until then, in its largest unit: a table has no room for more.
fn in_time(at: UnixTime, now: UnixTime) -> String {
    match at.secs_since(now) {
        0 => "now".to_owned(),
        secs => format!("in {}", duration_text(secs).split(' ').next().unwrap_or_default()),
    }
}

/// The fingerprint of a slot.
fn print(slot: Option<SlotPrint>) -> String {
    slot.map_or_else(|| "-".to_owned(), |slot| slot.fingerprint.to_string())
}

/// Lines for what neither the table nor the verdict has; each names the pool.
pub(super) fn remarks(pool: &PoolStatus) -> Vec<String> {
    let mut remarks = Vec::new();
    if !pool.waiting_for.is_empty() {
        remarks.push(format!("waits for {}", names(&pool.waiting_for)));
    }
    if !pool.revoking.is_empty() {
        remarks.push(format!("drives out {}", names(pool.revoking.iter().map(|key| slot(Some(*key))))));
    }
    for slots in &pool.recoverable {
        remarks.push(format!("the fleet holds {}, {}", slot(Some(slots.primary)), slot(slots.backup)));
    }
    if pool.reporting > 0 {
        remarks.push(format!(
            "{} only reporting: keys come from another source, not from this pool",
            count_of_nodes(pool.reporting)
        ));
    }
    if !pool.drives {
        let what = match &pool.policy_differs[..] {
            [] => String::new(),
            differs => format!(" in {}", names(differs)),
        };
        remarks.push(format!(
            "this coordinator does not drive the pool: its configuration differs from the pool's policy{what}"
        ));
    }
    remarks.into_iter().map(|text| format!("{}: {text}", pool.pool)).collect()
}

/// Whether a node needs no attention.
fn is_fine(node: &NodeStatus) -> bool {
    let is_good = match &node.state {
        Named::Known(NodeState::Converged | NodeState::Reporting | NodeState::OneSlot) => true,
        Named::Known(
            NodeState::Straggler
            | NodeState::Silent
            | NodeState::Drifted
            | NodeState::Excluded
            | NodeState::Denied
            | NodeState::Failed,
        )
        | Named::Unknown(_) => false,
    };
    is_good && node.error.is_none()
}

/// The nodes that are listed one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// Those that need attention, up to a bound.
    Behind,
    /// All.
    All,
}

/// Nodes at a glance: how many hold which keys, whether they accept each other's cookies, which are behind.
pub(super) fn write_nodes(
    out: &mut dyn Write,
    status: &PoolStatus,
    (nodes, fingerprints): (&[NodeStatus], &[FingerprintCount]),
    listed: Listed,
) -> io::Result<()> {
    let (phase, generation) = (status.phase.as_str(), status.generation);
    writeln!(
        out,
        "pool {}: {phase}, generation {generation}, {} of {} required nodes converged",
        status.pool, status.converged, status.required
    )?;
    writeln!(out, "{}", line(&status.verdict))?;
    let mut table = Table::new(&["NODES", "PRIMARY", "BACKUP"]);
    for group in fingerprints {
        let backup = group.backup.map_or_else(|| "-".to_owned(), |backup| backup.to_string());
        table.row([group.nodes.to_string(), group.primary.to_string(), backup]);
    }
    if !fingerprints.is_empty() {
        table.write(out)?;
    }
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        *states.entry(node.state.as_str()).or_default() += 1;
    }
    let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {}", plain(state))).collect();
    writeln!(out, "states: {}", if states.is_empty() { "no nodes".to_owned() } else { states.join(", ") })?;
    let elsewhere = nodes.iter().filter(|node| node.source != KeySource::Coordinator).count();
    if elsewhere > 0 {
        let count = count_of_nodes(elsewhere);
        writeln!(out, "{count} only reporting: keys come from another source, not from this pool")?;
    }
    let shown: Vec<&NodeStatus> = nodes.iter().filter(|node| listed == Listed::All || !is_fine(node)).collect();
    if shown.is_empty() {
        return if nodes.is_empty() { Ok(()) } else { writeln!(out, "no node is behind") };
    }
    let most = if listed == Listed::All { usize::MAX } else { BEHIND_SHOWN_MAX };
    write_table(out, &shown[..shown.len().min(most)])?;
    match shown.len().saturating_sub(most) {
        0 => Ok(()),
        more => writeln!(out, "and {more} more; --all lists every node"),
    }
}

fn write_table(out: &mut dyn Write, nodes: &[&NodeStatus]) -> io::Result<()> {
    let now = clock::now();
    let mut table =
        Table::new(&["NODE", "STATE", "GENERATION", "PRIMARY", "BACKUP", "BEHIND SINCE", "LAST REPORT", "REMARK"]);
    for node in nodes {
        let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let why = [node.excluded.as_ref().map(|why| format!("excluded: {why}")), node.error.clone()];
        table.row([
            node.node.to_string(),
            node.state.to_string(),
            dash(node.generation.map(|generation| generation.to_string())),
            slot(node.primary),
            slot(node.backup),
            dash(node.behind_since.map(|since| ago(since, now))),
            dash(node.last_report_at.map(|at| ago(at, now))),
            why.into_iter().flatten().collect::<Vec<_>>().join("; "),
        ]);
    }
    table.write(out)
}

/// An instant and how long ago it was.
fn ago(at: UnixTime, now: UnixTime) -> String {
    format!("{at} ({} ago)", duration_text(now.secs_since(at)))
}

impl Report for Shown<Done> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Done { pool, revision, generation, phase, action, nodes } = &self.0;
        write!(
            out,
            "{}: done in pool {pool}; generation {generation}, {}, revision {revision}",
            plain(action.as_str()),
            phase.as_str()
        )?;
        if nodes.is_empty() { writeln!(out) } else { writeln!(out, "; {}", names(nodes)) }
    }
}

/// One line of the audit log.
pub(super) fn audit_line(line: &AuditLine) -> String {
    let who = line.operator.as_ref().map_or_else(|| "coordinator".to_owned(), ToString::to_string);
    let mut text = format!(
        "{}  r{} g{}  {}  {who}  {}",
        line.at,
        line.revision,
        line.generation,
        line.phase.as_str(),
        plain(line.action.as_str())
    );
    if !line.nodes.is_empty() {
        text += &format!("  [{}]", names(&line.nodes));
    }
    if !line.reason.is_empty() {
        text += &format!("  \"{}\"", plain(&line.reason));
    }
    text
}
