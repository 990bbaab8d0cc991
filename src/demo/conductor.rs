//! The operator of the coordinator's pool: the first key, then one rotation after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Method;

use super::coordinator::Coordinator;
use super::error::DemoError;
use super::node::Supplies;
use super::program::Kit;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::node::Expected;
use tfo_model::state::Phase;
use tfo_wire::client::ClientError;
use tfo_wire::v1::fleet::{AuditLine, Command, Done, PoolStatus, RotationMode, RotationRequest};

/// Pause between two rotations, so that their phases can be read.  Longer than the fleet's tail, so that no rotation is cut off.
const REST: Duration = Duration::from_secs(4);

/// Asks a coordinator for rotations.
pub(super) struct Conductor {
    coordinator: Coordinator,
    nodes: usize,
    /// The pool as last seen; none before the first answer.
    pool: Option<PoolStatus>,
    seen: Revision,
    /// Reason of the last refusal, if the last command was refused.
    refused: Option<String>,
    /// When the pool came to rest.
    rest: Option<Instant>,
}

impl Conductor {
    pub(super) fn start(namespace: Namespace, nodes: u8) -> Result<Self, DemoError> {
        let coordinator = Coordinator::start(&Kit::own(), namespace, nodes)?;
        let seen = Revision::new(0);
        Ok(Self { coordinator, nodes: nodes.into(), pool: None, seen, refused: None, rest: None })
    }

    pub(super) fn supplies(&self, directory: &Path, node: &str) -> Result<Supplies, DemoError> {
        self.coordinator.supplies(directory, node)
    }

    /// The pool as last seen.
    pub(super) fn pool(&self) -> Option<&PoolStatus> {
        self.pool.as_ref()
    }

    /// Commits since the last call.
    pub(super) fn news(&mut self) -> Result<Vec<AuditLine>, DemoError> {
        let Some(audit) = answered(self.coordinator.api.audit(self.seen)?)? else { return Ok(Vec::new()) };
        self.seen = audit.entries.last().map_or(self.seen, |entry| entry.revision);
        Ok(audit.entries)
    }

    /// Reads the pool, and gives the command that is due.
    pub(super) fn act(&mut self) -> Result<(), DemoError> {
        self.coordinator.must_run()?;
        let Some(pool) = answered(self.coordinator.api.pool()?)? else { return Ok(()) };
        let everywhere = pool.required >= self.nodes && pool.converged == pool.required;
        let at_rest = pool.phase == Phase::Steady && pool.hold.is_none();
        if pool.phase == Phase::Empty && pool.required >= self.nodes {
            let (mode, expect) = (RotationMode::First, Some(Expected::Number(self.nodes)));
            let first =
                RotationRequest { reason: "the first key".to_owned(), mode, expect, ..RotationRequest::default() };
            self.command("/rotations", &first)?;
        } else if pool.phase == Phase::Steady && pool.hold.is_some() && everywhere {
            let all = Command { reason: "all nodes have it".to_owned(), ..Command::default() };
            self.command("/resume", &all)?;
        } else if at_rest && self.rest.is_some_and(|since| clock::left_of(REST, since).is_zero()) {
            let rotation = RotationRequest { reason: "the demo's".to_owned(), ..RotationRequest::default() };
            self.command("/rotations", &rotation)?;
        }
        self.rest = if at_rest { self.rest.or_else(|| Some(clock::monotonic())) } else { None };
        self.pool = Some(pool);
        Ok(())
    }

    /// Gives a command.  If it is refused as too early (nodes are missing, the old key is not drained), the next tick repeats it.
    fn command<B: serde::Serialize>(&mut self, below: &str, body: &B) -> Result<(), DemoError> {
        let answer = self.coordinator.api.ask::<B, Done>(&Method::POST, below, Some(body))?;
        self.refused = answer.as_ref().err().map(ToString::to_string);
        answered(answer).map(drop)
    }

    /// The coordinator's reason for waiting, if it gave one.
    pub(super) fn excuse(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Ends the coordinator with SIGTERM.
    pub(super) fn end(&mut self) -> Result<(), DemoError> {
        self.coordinator.end()
    }
}

/// The answer; none if the command was refused or no coordinator answers yet.  An unreadable answer is an error.
fn answered<A>(answer: Result<A, ClientError>) -> Result<Option<A>, DemoError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ClientError::Unreachable { .. } | ClientError::Refused { .. }) => Ok(None),
        Err(error @ (ClientError::Tls { .. } | ClientError::BadAnswer { .. })) => Err(error.into()),
    }
}
