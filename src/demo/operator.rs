//! Who changes the keys: an operator with a coordinator; nobody with derived keys, for the clock does it; with sabotage an operator who
//! leaves the staging out.

use std::path::Path;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::args::{Args, Sabotage, Source};
use super::conductor::Conductor;
use super::error::DemoError;
use super::network::Network;
use super::node::{File, Node, Supplies};
use crate::crypto::random;
use crate::kernel::text::KeyText;
use crate::model::time::RotationInterval;
use crate::runtime::clock;
use crate::runtime::files::{Durability, replace};

/// How long a derived key is primary, in seconds: the shortest that the agent takes, so that three rotations are seen in half a minute.
const INTERVAL_SECS: u64 = RotationInterval::MIN_SECS;
/// How long it is staged before, in seconds: half of that tolerates the most clock error (PROTOCOL.md section 3).
const STAGE_LEAD_SECS: u64 = INTERVAL_SECS / 2;
/// Bytes of the secret that all nodes share.
const SECRET_BYTES: usize = 32;
/// The sabotage's time from node to node: 8 nodes take 5.6 s, as in KERNEL.md section 7.
const NODE_TO_NODE: Duration = Duration::from_millis(700);
/// The sabotage's rest between two rotations.
const REST: Duration = Duration::from_secs(3);
/// Longest time that a coordinator needs for a rotation: its gates, and the rest before it.
const WALK_SECS_MAX: u64 = 20;
/// Longest time for an agent to take up a changed file or a new phase.
const UPTAKE_SECS_MAX: u64 = 10;

const SECRET_FILE: &str = "fleet.secret";
const KEY_FILE: &str = "keys";

/// Where the fleet's keys come from, and what is done to change them.
pub(super) enum Operator {
    /// A coordinator rotates when it is asked to.
    Conductor(Box<Conductor>),
    /// The clock rotates.
    Clock { secret: Zeroizing<Vec<u8>> },
    /// Each node is given the new key alone, one after the other.
    Careless { key: KeyText, next_node: usize, next_at: Option<Instant> },
}

impl Operator {
    /// The one that the arguments ask for.
    pub(super) fn new(args: &Args, network: &Network) -> Result<Self, DemoError> {
        match (args.sabotage, args.source) {
            (None, Source::Coordinator) => {
                let conductor = Conductor::start(network.management.clone(), args.nodes)?;
                Ok(Self::Conductor(Box::new(conductor)))
            }
            (Some(Sabotage::NoStaging), _) => {
                let key = KeyText::of_key(&random::fresh_key()?);
                Ok(Self::Careless { key, next_node: 0, next_at: None })
            }
            (None, Source::Derive) => {
                let mut secret = Zeroizing::new(vec![0; SECRET_BYTES]);
                random::fill(&mut secret)?;
                Ok(Self::Clock { secret })
            }
        }
    }

    /// Name of the agents' source.
    pub(super) fn source(args: &Args) -> &'static str {
        match (args.sabotage, args.source) {
            (Some(Sabotage::NoStaging), _) => "file (sabotage: no staging)",
            (None, Source::Coordinator) => "coordinator",
            (None, Source::Derive) => "derive",
        }
    }

    /// The coordinator's operator, if there is one.
    pub(super) fn conductor(&mut self) -> Option<&mut Conductor> {
        match self {
            Self::Conductor(conductor) => Some(conductor),
            Self::Clock { .. } | Self::Careless { .. } => None,
        }
    }

    /// What the agent of a node starts with; `directory` is the node's.
    pub(super) fn supplies(&self, directory: &Path, node: &str) -> Result<Supplies, DemoError> {
        let one_file = |name, content| vec![File { name, content }];
        let shown = directory.display();
        Ok(match self {
            Self::Conductor(conductor) => conductor.supplies(directory, node)?,
            Self::Clock { secret } => Supplies {
                source_toml: format!(
                    "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"{shown}/{SECRET_FILE}\"\n\
                     interval = \"{INTERVAL_SECS}s\"\nstage_lead = \"{STAGE_LEAD_SECS}s\""
                ),
                files: one_file(SECRET_FILE, secret.clone()),
            },
            Self::Careless { key, .. } => Supplies {
                source_toml: format!("[source]\nkind = \"file\"\npath = \"{shown}/{KEY_FILE}\""),
                files: one_file(KEY_FILE, Zeroizing::new(key.expose().to_vec())),
            },
        })
    }

    /// Longest time between two rotations of `nodes` nodes, in seconds; after that something is wrong.
    pub(super) fn rotation_secs_max(&self, nodes: usize) -> u64 {
        let nodes = u64::try_from(nodes).unwrap_or(u64::MAX);
        match self {
            Self::Conductor(_) => WALK_SECS_MAX + UPTAKE_SECS_MAX,
            Self::Clock { .. } => INTERVAL_SECS + UPTAKE_SECS_MAX,
            Self::Careless { .. } => REST.as_secs() + (NODE_TO_NODE * 2).as_secs() * nodes + UPTAKE_SECS_MAX,
        }
    }

    /// Does what is due now.
    pub(super) fn act(&mut self, nodes: &[Node]) -> Result<(), DemoError> {
        let (key, next_node, next_at) = match self {
            Self::Conductor(conductor) => return conductor.act(),
            Self::Clock { .. } => return Ok(()),
            Self::Careless { key, next_node, next_at } => (key, next_node, next_at),
        };
        let now = clock::monotonic();
        if now < *next_at.get_or_insert(now + REST) {
            return Ok(());
        }
        if *next_node == 0 {
            *key = KeyText::of_key(&random::fresh_key()?);
        }
        replace(&nodes[*next_node].path(KEY_FILE), key.expose(), 0o400, Durability::Volatile)?;
        *next_node = (*next_node + 1) % nodes.len();
        *next_at = Some(now + if *next_node == 0 { REST } else { NODE_TO_NODE });
        Ok(())
    }
}
