//! The operator of the coordinator's pool: the first key, then one rotation after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Method;

use super::coordinator::{self, Coordinator};
use super::error::DemoError;
use super::node::Supplies;
use super::program::Kit;
use tfo_cli::plain::count_of_nodes;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::node::Expected;
use tfo_model::state::Phase;
use tfo_wire::client::ClientError;
use tfo_wire::v1::coordinators::CoordinatorStatus;
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
    /// None: there is one coordinator.
    crew: Option<Crew>,
}

/// Several coordinators, the last of which is killed once.
struct Crew {
    /// The last one.
    victim: usize,
    fate: Fate,
    /// Who has how many nodes, as last seen.
    shown: String,
    /// What has happened since the last view.
    events: Vec<String>,
}

/// What has become of one coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It waits for the middle of a rotation.
    Untouched,
    Killed,
    /// It was started again.
    Back,
}

impl Conductor {
    pub(super) fn start(namespace: Namespace, nodes: u8, coordinators: u8) -> Result<Self, DemoError> {
        let coordinator = Coordinator::start_several(&Kit::own(), namespace, nodes, coordinators)?;
        let seen = Revision::new(0);
        let victim = usize::from(coordinators) - 1;
        let crew = Crew { victim, fate: Fate::Untouched, shown: String::new(), events: Vec::new() };
        let crew = (coordinators > 1).then_some(crew);
        Ok(Self { coordinator, nodes: nodes.into(), pool: None, seen, refused: None, rest: None, crew })
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

    /// Who has how many nodes; none with one coordinator.
    pub(super) fn crew(&self) -> Option<&str> {
        self.crew.as_ref().map(|crew| crew.shown.as_str())
    }

    /// What has happened to coordinators since the last call.
    pub(super) fn events(&mut self) -> Vec<String> {
        self.crew.as_mut().map(|crew| std::mem::take(&mut crew.events)).unwrap_or_default()
    }

    /// Kills one of several coordinators in the middle of the first rotation, and starts it again after that.
    fn tend(&mut self, pool: &PoolStatus) -> Result<(), DemoError> {
        let Some(crew) = &mut self.crew else { return Ok(()) };
        let name = coordinator::name(crew.victim);
        match (crew.fate, pool.phase) {
            (Fate::Untouched, Phase::Promoted) => {
                self.coordinator.kill_one(crew.victim)?;
                crew.fate = Fate::Killed;
                crew.events.push(format!("coordinator {name} is killed in the middle of the rotation"));
            }
            (Fate::Killed, Phase::Steady) => {
                self.coordinator.run_one(crew.victim)?;
                crew.fate = Fate::Back;
                crew.events.push(format!("the rotation has ended without {name}, which starts again"));
            }
            _ => {}
        }
        if let Some(all) = answered(self.coordinator.api.coordinators()?)? {
            let one = |one: CoordinatorStatus| {
                let is_dead = crew.fate == Fate::Killed && one.name.as_str() == name;
                format!("{} {}", one.name, if is_dead { "killed".to_owned() } else { count_of_nodes(one.nodes) })
            };
            crew.shown = all.coordinators.into_iter().map(one).collect::<Vec<_>>().join(", ");
        }
        Ok(())
    }

    /// Reads the pool, and gives the command that is due.
    pub(super) fn act(&mut self) -> Result<(), DemoError> {
        self.coordinator.must_run()?;
        let Some(pool) = answered(self.coordinator.api.pool()?)? else { return Ok(()) };
        self.tend(&pool)?;
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

    /// Ends the coordinators with SIGTERM.
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
