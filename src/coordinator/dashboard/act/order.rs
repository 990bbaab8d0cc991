//! What an operator can do from a page: which buttons a pool or a node has, what an order will do, and what its operator saw
//! when it was asked for.
//!
//! Must not know: requests, HTML.

use std::collections::BTreeSet;
use std::fmt;

use axum::http::StatusCode;

use crate::dashboard::look::Look;
use tfo_cli::plan::members::{InFile, Meant, is_excluded, is_here};
use tfo_cli::plan::{Plan, rotations, steps};
use tfo_crypto::checksum::sha256;
use tfo_engine::rollout::input::{Command, Expectation, RevokeKeys};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::node::KeySource;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::{NodeStatus, PoolStatus};

/// How long a node can be excluded from a page; the first is what it begins with.
pub(in crate::dashboard) const SPANS: [&str; 4] = ["24h", "1h", "8h", "7d"];

/// The longest of [`SPANS`], in seconds.
pub(super) const EXCLUDE_SECS_MAX: u64 = 7 * 86_400;

/// What an operator can do from a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dashboard) enum Act {
    Pause,
    Resume,
    Abort,
    Advance,
    Rotate,
    Revoke,
    Exclude,
    Include,
    Forget,
}

impl Act {
    pub(super) const ALL: [Self; 9] = [
        Self::Pause,
        Self::Resume,
        Self::Abort,
        Self::Advance,
        Self::Rotate,
        Self::Revoke,
        Self::Exclude,
        Self::Include,
        Self::Forget,
    ];

    /// Its name in an address, and in the log.
    pub(in crate::dashboard) const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Advance => "advance",
            Self::Rotate => "rotate",
            Self::Revoke => "revoke",
            Self::Exclude => "exclude",
            Self::Include => "include",
            Self::Forget => "forget",
        }
    }

    /// Whether it is about a node: never, always, or as it is asked (none).
    const fn is_about_node(self) -> Option<bool> {
        match self {
            Self::Pause | Self::Resume | Self::Abort | Self::Advance | Self::Rotate => Some(false),
            Self::Exclude | Self::Include | Self::Forget => Some(true),
            Self::Revoke => None,
        }
    }

    /// What has a meaning for a pool as it is.
    pub(in crate::dashboard) fn of_pool(status: &PoolStatus) -> Vec<Self> {
        let runs = matches!(status.phase, Phase::Staged | Phase::Promoted);
        let stands = status.paused.is_some() || status.hold.is_some();
        let has_key = status.phase != Phase::Empty;
        let offered = [
            (has_key && status.paused.is_none(), Self::Pause),
            (has_key && stands, Self::Resume),
            (runs, Self::Abort),
            (!status.waiting_for.is_empty(), Self::Advance),
            (status.phase == Phase::Steady && !stands, Self::Rotate),
            (has_key, Self::Revoke),
        ];
        offered.into_iter().filter_map(|(is, act)| is.then_some(act)).collect()
    }

    /// What has a meaning for a node as it is.
    pub(in crate::dashboard) fn of_node(node: &NodeStatus) -> Vec<Self> {
        let offered = [
            (is_here(node) && !is_excluded(node), Self::Exclude),
            (is_excluded(node), Self::Include),
            (true, Self::Forget),
            (is_here(node) && node.source == KeySource::Coordinator, Self::Revoke),
        ];
        offered.into_iter().filter_map(|(is, act)| is.then_some(act)).collect()
    }

    /// The command that does the same.
    pub(in crate::dashboard) fn line(self, pool: &PoolName, node: Option<&NodeId>, span: &str) -> String {
        match (self, node) {
            (Self::Revoke, Some(node)) => format!("tfoctl rotate --mode revoke --deny {node} --pool {pool}"),
            (Self::Revoke, None) => format!("tfoctl rotate --mode revoke --pool {pool}"),
            (Self::Exclude, Some(node)) => format!("tfoctl exclude {node} --for {span} --pool {pool}"),
            (act, Some(node)) => format!("tfoctl {} {node} --pool {pool}", act.name()),
            (act, None) => format!("tfoctl {} --pool {pool}", act.name()),
        }
    }
}

/// What an operator saw: the document by its revision, and the rest of what an order depends on by a checksum.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dashboard) struct Seen {
    pub(super) revision: Revision,
    rest: u64,
}

impl Seen {
    pub(super) fn of(act: Act, status: &PoolStatus) -> Self {
        // Another store may have a pool of the same name, and who is behind changes without a commit.
        let mut rest = format!("{}\n{}\n", status.pool_id, status.generation);
        if act == Act::Advance {
            status.waiting_for.iter().for_each(|node| rest.extend([node.as_str(), "\n"]));
        }
        let sum = sha256(rest.as_bytes());
        let rest = u64::from_be_bytes(std::array::from_fn(|at| sum[at]));
        Self { revision: status.revision, rest }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.revision, self.rest)
    }
}

/// An order as it is asked for, with the pool as it is.
pub(in crate::dashboard) struct Order<'a> {
    act: Act,
    pub(super) status: &'a PoolStatus,
    nodes: &'a [NodeStatus],
    node: Option<&'a NodeStatus>,
    until: UnixTime,
    pub(super) lower_expected: bool,
}

/// Why a page has nothing to offer.
pub(in crate::dashboard) struct Nothing {
    pub(super) status: StatusCode,
    pub(super) heading: &'static str,
    pub(super) text: String,
}

impl Nothing {
    pub(super) fn new(status: StatusCode, heading: &'static str, text: impl Into<String>) -> Self {
        Self { status, heading, text: text.into() }
    }
}

impl<'a> Order<'a> {
    pub(super) fn of(act: Act, look: &'a Look, node: Option<&NodeId>, until: UnixTime) -> Result<Self, Nothing> {
        let (status, nodes) = (&look.summary.status, &look.nodes[..]);
        if act.is_about_node().is_some_and(|is| is != node.is_some()) {
            return Err(Nothing::new(
                StatusCode::BAD_REQUEST,
                "Which node?",
                "The address does not fit what it is to do.",
            ));
        }
        let known = node.map(|name| nodes.iter().find(|known| known.node == *name).ok_or(name));
        let node = known.transpose().map_err(|name| {
            let text = format!("This pool knows no node {name}: nothing was done.");
            Nothing::new(StatusCode::NOT_FOUND, "Unknown node", text)
        })?;
        Ok(Self { act, status, nodes, node, until, lower_expected: false })
    }

    pub(super) fn meant(&self) -> Meant<'a> {
        Meant::new(self.status, self.node.into_iter().cloned().collect())
    }

    fn named(&self) -> BTreeSet<NodeId> {
        self.node.iter().map(|node| node.node.clone()).collect()
    }

    /// What it will do.
    pub(super) fn plan(&self) -> Result<Plan, Nothing> {
        let (status, conflict) = (self.status, StatusCode::CONFLICT);
        let nothing = |text: String| Nothing::new(conflict, "There is nothing to do", text);
        Ok(match self.act {
            Act::Pause => steps::pause(status),
            Act::Resume => steps::resume(status, false),
            Act::Abort => steps::abort(status)
                .ok_or_else(|| nothing(format!("The pool is {}: no rotation runs.", status.phase.as_str())))?,
            Act::Advance => steps::advance(status, self.nodes, clock::now())
                .ok_or_else(|| nothing("The pool waits for no node: it has no barrier to pass.".to_owned()))?,
            Act::Rotate => rotations::rotate(status, false).harmless(),
            Act::Revoke => rotations::revoke(status, &BTreeSet::new(), &self.named()),
            Act::Exclude => self.meant().exclude(self.until),
            Act::Include => self.meant().include(),
            Act::Forget => self.meant().forget(self.lower_expected).map_err(|InFile { message, remedy }| {
                Nothing::new(conflict, "Refused", format!("{message}. What to do: {remedy}."))
            })?,
        })
    }

    pub(super) fn command(&self) -> Command {
        let nodes = self.named();
        match self.act {
            Act::Pause => Command::Pause,
            Act::Resume => Command::Resume { force: false },
            Act::Abort => Command::Abort { force: false },
            Act::Advance => Command::Advance {
                generation: self.status.generation,
                leave: self.status.waiting_for.iter().cloned().collect(),
            },
            Act::Rotate => Command::Rotate { force: false },
            Act::Revoke => Command::Revoke { keys: RevokeKeys::AllInstructed, deny: nodes },
            Act::Exclude => Command::Exclude { nodes, until: self.until },
            Act::Include => Command::Include { nodes },
            Act::Forget => {
                let expected = if self.lower_expected { Expectation::Lower } else { Expectation::Keep };
                Command::Forget { nodes, expected }
            }
        }
    }

    /// What an operator has to type, where a click is not enough.
    pub(super) fn to_type(&self) -> Option<&str> {
        let name = self.node.map_or(self.status.pool.as_str(), |node| node.node.as_str());
        (self.act == Act::Revoke).then_some(name)
    }
}
