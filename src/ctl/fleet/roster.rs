//! The nodes of a pool as text: a table of those that a reader asks for, the worst first, and the lines above it.

use std::collections::BTreeMap;

use owo_colors::AnsiColors;

use super::verdict;
use tfo_cli::plain::{count_of_nodes, plain, wrapped};
use tfo_cli::plan::slot;
use tfo_cli::table::{Cell, Give, Table};
use tfo_cli::terminal::Terminal;
use tfo_model::caveat::Caveat;
use tfo_model::fleet::NodeState;
use tfo_model::ids::NodeId;
use tfo_model::named::Named;
use tfo_model::node::KeySource;
use tfo_model::pattern::NamePattern;
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::{NodeStatus, Nodes, PoolStatus};

/// What a table that is too wide leaves out, what it shortens, and in which order.
const STEPS: [Give; 10] = [
    Give::Drop("AGENT"),
    Give::Drop("BACKUP"),
    Give::Drop("PRIMARY"),
    Give::Shorten("REMARK", 20),
    Give::Drop("CONNECTED"),
    Give::Drop("GENERATION"),
    Give::Shorten("REMARK", 8),
    Give::Shorten("NODE", 12),
    Give::Drop("BEHIND"),
    Give::Drop("LAST REPORT"),
];

/// The order of a list of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Sort {
    /// The worst first.
    #[default]
    State,
    /// By name.
    Name,
    /// The longest without a report first.
    LastReport,
    /// The longest behind first.
    Behind,
}

/// Which nodes are shown, and in which order.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    /// Only these states; empty for all.
    pub(super) states: Vec<NodeState>,
    /// Only names that one of these fits; empty for all.
    pub(super) patterns: Vec<NamePattern>,
    /// Only nodes that need attention.
    pub(super) only_bad: bool,
    /// Their order.
    pub(super) sort: Sort,
}

impl Selection {
    /// The nodes that it selects, in its order.
    pub(super) fn of<'a>(&self, nodes: &'a [NodeStatus]) -> Vec<&'a NodeStatus> {
        let fits = |node: &NodeStatus| {
            (self.states.is_empty() || self.states.iter().any(|state| node.state == *state))
                && (self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.matches(&node.node)))
                && !(self.only_bad && is_fine(node))
        };
        let mut selected: Vec<&NodeStatus> = nodes.iter().filter(|node| fits(node)).collect();
        // Stable, and the API sorts by name: ties are in the order of their names.
        match self.sort {
            Sort::State => selected.sort_by_key(|node| rank(node)),
            Sort::Name => selected.sort_by(|a, b| a.node.cmp(&b.node)),
            Sort::LastReport => selected.sort_by_key(|node| node.last_report_at),
            Sort::Behind => selected.sort_by_key(|node| (node.behind_since.is_none(), node.behind_since)),
        }
        selected
    }
}

/// How bad the state of a node is; 0 is the worst.
fn rank(node: &NodeStatus) -> u8 {
    match &node.state {
        Named::Known(NodeState::Failed) => 0,
        Named::Known(NodeState::Drifted) => 1,
        // A problem that its state does not show, or a state of a later release.
        Named::Unknown(_) => 2,
        _ if node.error.is_some() => 2,
        Named::Known(NodeState::Straggler) => 3,
        Named::Known(NodeState::Silent) => 4,
        Named::Known(NodeState::Disconnected) => 5,
        Named::Known(NodeState::Excluded) => 6,
        Named::Known(NodeState::Denied) => 7,
        Named::Known(NodeState::OneSlot) => 8,
        Named::Known(NodeState::Reporting) => 9,
        Named::Known(NodeState::Moved) => 10,
        Named::Known(NodeState::Converged) => 11,
    }
}

/// Whether a node needs no attention.
fn is_fine(node: &NodeStatus) -> bool {
    rank(node) >= 8
}

fn colour(node: &NodeStatus) -> AnsiColors {
    match rank(node) {
        0..=2 => AnsiColors::Red,
        3..=5 => AnsiColors::Yellow,
        6 | 7 => AnsiColors::Magenta,
        8..=10 => AnsiColors::Cyan,
        _ => AnsiColors::Green,
    }
}

/// What is shown of a pool: lines above, and a table of nodes.
pub(super) struct Roster {
    pub(super) head: Vec<String>,
    /// None without rows.
    pub(super) heading: Option<String>,
    pub(super) rows: Vec<String>,
}

impl Roster {
    /// The pool, and the nodes that `selection` asks for, at most `most`.
    pub(super) fn of(
        status: &PoolStatus,
        nodes: &Nodes,
        selected: &[&NodeStatus],
        (terminal, now): (Terminal, UnixTime),
    ) -> Self {
        let mut head: Vec<String> = summary(status, nodes);
        if let Some(columns) = terminal.columns {
            head = head.iter().flat_map(|line| wrapped(line, columns)).collect();
        }
        if selected.is_empty() {
            return Self { head, heading: None, rows: Vec::new() };
        }
        let mut table = table(selected, now);
        if let Some(columns) = terminal.columns {
            table.fit(columns, &STEPS);
        }
        Self { head, heading: Some(table.heading()), rows: table.lines(terminal.colours).collect() }
    }
}

/// The verdict, how many nodes hold which keys, and how many are in which state.
fn summary(status: &PoolStatus, nodes: &Nodes) -> Vec<String> {
    let (phase, generation) = (status.phase.as_str(), status.generation);
    let mut lines = vec![
        format!(
            "pool {}: {phase}, generation {generation}, {} of {} required nodes converged",
            status.pool, status.converged, status.required
        ),
        verdict::line(&status.verdict),
    ];
    let mut table = Table::new(&["NODES", "PRIMARY", "BACKUP"]);
    for group in &nodes.fingerprints {
        let backup = group.backup.map_or_else(|| "-".to_owned(), |backup| backup.to_string());
        table.row([group.nodes.to_string(), group.primary.to_string(), backup]);
    }
    if !nodes.fingerprints.is_empty() {
        lines.push(table.heading());
        lines.extend(table.lines(false));
    }
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for node in &nodes.nodes {
        *states.entry(node.state.as_str()).or_default() += 1;
    }
    let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {}", plain(state))).collect();
    lines.push(format!("states: {}", if states.is_empty() { "no nodes".to_owned() } else { states.join(", ") }));
    let mut caveats: BTreeMap<&str, usize> = BTreeMap::new();
    for caveat in nodes.nodes.iter().flat_map(|node| &node.caveats) {
        *caveats.entry(Caveat::shown(caveat)).or_default() += 1;
    }
    lines.extend(caveats.iter().map(|(caveat, count)| format!("{}: {}", count_of_nodes(*count), plain(caveat))));
    let elsewhere = nodes.nodes.iter().filter(|node| node.source != KeySource::Coordinator).count();
    if elsewhere > 0 {
        let count = count_of_nodes(elsewhere);
        lines.push(format!("{count} only reporting: keys come from another source, not from this pool"));
    }
    lines
}

fn table(nodes: &[&NodeStatus], now: UnixTime) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "STATE",
        "GENERATION",
        "PRIMARY",
        "BACKUP",
        "BEHIND",
        "LAST REPORT",
        "CONNECTED",
        "AGENT",
        "REMARK",
    ]);
    for node in nodes {
        let text = |text: Option<String>| Cell::from(text.unwrap_or_else(|| "-".to_owned()));
        table.row([
            Cell::from(node.node.to_string()),
            Cell::coloured(plain(node.state.as_str()), colour(node)),
            text(node.generation.map(|generation| generation.to_string())),
            Cell::from(slot(node.primary)),
            Cell::from(slot(node.backup)),
            text(node.behind_since.map(|since| span(since, now))),
            text(node.last_report_at.map(|at| ago(at, now))),
            text(connection(node, now)),
            text(node.agent.clone()),
            Cell::from(remark(node, now)),
        ]);
    }
    table
}

/// Whether a node has a connection, and for how long; none where that is unknown.
fn connection(node: &NodeStatus, now: UnixTime) -> Option<String> {
    let span = node.connected_since.map(|since| format!(" {}", span(since, now))).unwrap_or_default();
    Some(if node.connected? { format!("for{span}") } else { format!("not{span}") })
}

/// What the other columns do not say.
fn remark(node: &NodeStatus, now: UnixTime) -> String {
    let until = |until: UnixTime| format!(" for {}", short(until.secs_since(now)));
    let excluded = node.excluded.as_ref().map(|why| {
        let left = node.excluded_until.map(until).unwrap_or_default();
        format!("excluded: {}{left}", plain(why.as_str()))
    });
    let moved = node.moved_to.as_ref().map(|pool| format!("moved to {pool}"));
    let caveats = node.caveats.iter().map(|caveat| Some(plain(Caveat::shown(caveat))));
    [node.error.as_deref().map(plain), node.note.as_deref().map(plain), excluded, moved]
        .into_iter()
        .chain(caveats)
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}

/// All that is known of one node.
pub(super) fn page(status: &PoolStatus, node: &NodeStatus, now: UnixTime) -> Vec<String> {
    let at = |at: Option<UnixTime>| at.map_or_else(|| "-".to_owned(), |at| format!("{at} ({})", ago(at, now)));
    let until = |until: UnixTime| match until.secs_since(now) {
        0 => format!("{until} (past)"),
        left => format!("{until} (in {})", short(left)),
    };
    let text = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| plain(text));
    let mut fields: Vec<(&str, String)> = vec![
        ("pool", format!("{}, {}, generation {}", status.pool, status.phase.as_str(), status.generation)),
        ("state", plain(node.state.as_str())),
    ];
    if let Some(error) = &node.error {
        fields.push(("problem", plain(error)));
    }
    if let Some(note) = &node.note {
        fields.push(("note", plain(note)));
    }
    if let Some(since) = node.behind_since {
        // The coordinator keeps it in memory.
        fields.push(("behind since", format!("{since} ({}), as this coordinator has seen it", ago(since, now))));
    }
    if let Some(why) = &node.excluded {
        let ends =
            node.excluded_until.map_or_else(|| "until its next sync".to_owned(), |at| format!("until {}", until(at)));
        fields.push(("excluded", format!("{}, {ends}", plain(why.as_str()))));
    }
    if let Some(pool) = &node.moved_to {
        let text = format!("to pool {pool}: set `pool = \"{pool}\"` in its agent.toml; `tfoctl forget` ends the order");
        fields.push(("moved", text));
    }
    let connected = match node.connected {
        None => "unknown: it asks by a timer, or has not asked this coordinator since its start".to_owned(),
        Some(true) => format!("since {}", at(node.connected_since)),
        Some(false) => format!("no, since {}", at(node.connected_since)),
    };
    fields.extend([
        ("generation", node.generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string())),
        ("primary", slot(node.primary)),
        ("backup", slot(node.backup)),
        ("keys from", plain(node.source.as_str())),
        ("last report", at(node.last_report_at)),
        ("connected", connected),
        ("certificate", node.certificate_until.map_or_else(|| "-".to_owned(), |at| format!("until {}", until(at)))),
        ("kernel", text(node.kernel.as_ref())),
        ("agent", text(node.agent.as_ref())),
        ("tcp_fastopen", node.tcp_fastopen.map_or_else(|| "-".to_owned(), |bits| bits.to_string())),
    ]);
    fields.extend(node.namespaces.map(|count| ("namespaces", count.to_string())));
    fields.extend(node.caveats.iter().map(|caveat| ("caveat", plain(Caveat::shown(caveat)))));
    let widest = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let title = format!("node {}", node.node);
    let lines = fields.into_iter().map(|(name, value)| format!("{name:<widest$}  {value}"));
    std::iter::once(title).chain(lines).collect()
}

/// The name that was probably meant.
pub(super) fn near<'a>(name: &NodeId, nodes: &'a [NodeStatus]) -> Option<&'a NodeId> {
    let prefix = |node: &&NodeId| node.as_str().split('.').next() == name.as_str().split('.').next();
    let mut fitting = nodes.iter().map(|node| &node.node).filter(prefix);
    // `cp3` for `cp3.example.org`; of two, neither.
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// How long ago it was, in its largest unit.
fn ago(at: UnixTime, now: UnixTime) -> String {
    format!("{} ago", span(at, now))
}

fn span(since: UnixTime, now: UnixTime) -> String {
    short(now.secs_since(since))
}

/// A duration in its largest unit alone: seconds up to two minutes, minutes up to two hours, hours up to two days.
fn short(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs}s"),
        120..7_200 => format!("{}m", secs / 60),
        7_200..172_800 => format!("{}h", secs / 3_600),
        _ => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caveats_are_in_the_remark_of_their_node() {
        let node: NodeStatus = serde_json::from_value(serde_json::json!({
            "node": "cp1", "state": "converged", "generation": 1, "primary": null, "backup": null, "last_report_at": null,
            "behind_since": null, "source": "coordinator", "error": "drift", "kernel": "6.1.155", "agent": "0.1.0",
            "tcp_fastopen": 1, "excluded": null, "caveats": ["cve_2025_40186", "tfo_off", "moon\u{7}light"]
        }))
        .unwrap();
        let named = "kernel in the range of CVE-2025-40186 by version (a distribution may have fixed it)";
        let shown = remark(&node, UnixTime::from_secs(0));
        assert_eq!(shown, format!("drift; {named}; server side of TFO off; moon\u{fffd}light"));
    }

    #[test]
    fn durations_have_one_unit() {
        let of =
            [(0, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (172_799, "47h"), (200_000, "2d")];
        for (secs, text) in of {
            assert_eq!(short(secs), text);
        }
    }
}
