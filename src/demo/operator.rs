//! Who changes the keys: an operator with a coordinator; nobody with derived keys, for the clock does it; with sabotage an operator who
//! leaves something out.

use std::path::Path;

use zeroize::Zeroizing;

use super::args::{Args, Sabotage, Source};
use super::careless::Careless;
use super::conductor::Conductor;
use super::error::DemoError;
use super::network::Network;
use super::node::{File, Node, Supplies};
use tfo_crypto::random;
use tfo_model::time::RotationInterval;

/// How long a derived key is primary, in seconds: the shortest that the agent takes, so that three rotations are seen in half a minute.
const INTERVAL_SECS: u64 = RotationInterval::MIN_SECS;
/// How long it is staged before, in seconds: half of that tolerates the most clock error (docs/protocol.md#derive-mode).
const STAGE_LEAD_SECS: u64 = INTERVAL_SECS / 2;
/// Bytes of the secret that all nodes share.
const SECRET_BYTES: usize = 32;
/// Longest time that a coordinator needs for a rotation: its gates, and the rest before it.
const WALK_SECS_MAX: u64 = 20;
/// Longest time for an agent to take up a changed file or a new phase.
const UPTAKE_SECS_MAX: u64 = 10;

const SECRET_FILE: &str = "fleet.secret";

/// Where the fleet's keys come from, and what is done to change them.
pub(super) enum Operator {
    /// A coordinator rotates when it is asked to.
    Conductor(Box<Conductor>),
    /// The clock rotates.
    Clock { secret: Zeroizing<Vec<u8>> },
    /// Somebody who does it wrongly.
    Careless(Box<Careless>),
}

impl Operator {
    /// The one that the arguments ask for.
    pub(super) fn new(args: &Args, network: &Network) -> Result<Self, DemoError> {
        match (args.sabotage, args.source) {
            (None, Source::Coordinator) => {
                let conductor = Conductor::start(network.management.clone(), args.nodes)?;
                Ok(Self::Conductor(Box::new(conductor)))
            }
            (Some(sabotage), _) => Ok(Self::Careless(Box::new(Careless::new(sabotage)?))),
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
            (Some(Sabotage::NoBarrier), _) => "file (sabotage: no barrier)",
            (None, Source::Coordinator) => "coordinator",
            (None, Source::Derive) => "derive",
        }
    }

    /// The coordinator's operator, if there is one.
    pub(super) fn conductor(&mut self) -> Option<&mut Conductor> {
        match self {
            Self::Conductor(conductor) => Some(conductor),
            Self::Clock { .. } | Self::Careless(_) => None,
        }
    }

    /// What the agent of a node starts with; `directory` is the node's.
    pub(super) fn supplies(&self, directory: &Path, node: &str) -> Result<Supplies, DemoError> {
        let shown = directory.display();
        Ok(match self {
            Self::Conductor(conductor) => conductor.supplies(directory, node)?,
            Self::Clock { secret } => Supplies {
                source_toml: format!(
                    "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"{shown}/{SECRET_FILE}\"\n\
                     interval = \"{INTERVAL_SECS}s\"\nstage_lead = \"{STAGE_LEAD_SECS}s\""
                ),
                files: vec![File { name: SECRET_FILE, content: secret.clone() }],
            },
            Self::Careless(careless) => careless.supplies(directory),
        })
    }

    /// Longest time between two rotations of `nodes` nodes, in seconds; after that something is wrong.
    pub(super) fn rotation_secs_max(&self, nodes: usize) -> u64 {
        match self {
            Self::Conductor(_) => WALK_SECS_MAX + UPTAKE_SECS_MAX,
            Self::Clock { .. } => INTERVAL_SECS + UPTAKE_SECS_MAX,
            Self::Careless(careless) => careless.rotation_secs_max(nodes) + UPTAKE_SECS_MAX,
        }
    }

    /// Does what is due now.
    pub(super) fn act(&mut self, nodes: &[Node]) -> Result<(), DemoError> {
        match self {
            Self::Conductor(conductor) => conductor.act(),
            Self::Clock { .. } => Ok(()),
            Self::Careless(careless) => careless.act(nodes),
        }
    }
}
