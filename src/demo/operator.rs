//! The source of key changes: an operator with a coordinator, the clock with derived keys, or a naive script.

use std::path::Path;

use zeroize::Zeroizing;

use super::args::{Args, Source};
use super::conductor::Conductor;
use super::error::DemoError;
use super::naive::Naive;
use super::network::Network;
use super::node::{File, Supplies};
use tfo_crypto::random;
use tfo_model::time::RotationInterval;

/// How long a derived key is primary, in seconds: the agent's minimum, so that three rotations take half a minute.
const INTERVAL_SECS: u64 = RotationInterval::MIN_SECS;
/// How long it is staged before, in seconds: half the interval tolerates the most clock error (docs/protocol.md#derive-mode).
const STAGE_LEAD_SECS: u64 = INTERVAL_SECS / 2;
/// Length in bytes of the secret that all nodes share.
const SECRET_BYTES: usize = 32;
/// Longest time that a coordinator needs for a rotation: its gates, and the pause before it.
const WALK_SECS_MAX: u64 = 20;
/// Longest time that an agent needs to apply a changed file or a new phase.
const UPTAKE_SECS_MAX: u64 = 10;

const SECRET_FILE: &str = "fleet.secret";

/// The source of the fleet's keys, and how they are changed.
pub(super) enum Operator {
    /// A coordinator rotates on command.
    Conductor(Box<Conductor>),
    /// A script replaces the only key.
    Naive(Naive),
    /// The clock rotates.
    Clock { secret: Zeroizing<Vec<u8>> },
}

impl Operator {
    /// The operator for the source that the arguments name.
    pub(super) fn new(args: &Args, network: &Network) -> Result<Self, DemoError> {
        match args.source {
            _ if args.replace_only => Ok(Self::Naive(Naive::new()?)),
            Source::Coordinator => {
                let conductor = Conductor::start(network.management.clone(), args.nodes, args.coordinators)?;
                Ok(Self::Conductor(Box::new(conductor)))
            }
            Source::Derive => {
                let mut secret = Zeroizing::new(vec![0; SECRET_BYTES]);
                random::fill(&mut secret)?;
                Ok(Self::Clock { secret })
            }
        }
    }

    /// Name of the agents' source.
    pub(super) fn source(args: &Args) -> &'static str {
        match args.source {
            _ if args.replace_only => "naive (one key, replaced everywhere at once)",
            Source::Coordinator if args.coordinators > 1 => "coordinators on an etcd",
            Source::Coordinator => "coordinator",
            Source::Derive => "derive",
        }
    }

    /// The conductor of the coordinator, if there is one.
    pub(super) fn conductor(&mut self) -> Option<&mut Conductor> {
        match self {
            Self::Conductor(conductor) => Some(conductor),
            Self::Naive(_) | Self::Clock { .. } => None,
        }
    }

    /// The source of a node's agent; `directory` is the node's.
    pub(super) fn supplies(&mut self, directory: &Path, node: &str) -> Result<Supplies, DemoError> {
        let shown = directory.display();
        Ok(match self {
            Self::Conductor(conductor) => conductor.supplies(directory, node)?,
            Self::Naive(naive) => naive.supplies(directory),
            Self::Clock { secret } => Supplies {
                source_toml: format!(
                    "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"{shown}/{SECRET_FILE}\"\n\
                     interval = \"{INTERVAL_SECS}s\"\nstage_lead = \"{STAGE_LEAD_SECS}s\""
                ),
                files: vec![File { name: SECRET_FILE, content: secret.clone() }],
            },
        })
    }

    /// Timeout between two rotations, in seconds.
    pub(super) fn rotation_secs_max(&self) -> u64 {
        match self {
            Self::Conductor(_) => WALK_SECS_MAX + UPTAKE_SECS_MAX,
            Self::Naive(_) => Naive::rest().as_secs() + UPTAKE_SECS_MAX,
            Self::Clock { .. } => INTERVAL_SECS + UPTAKE_SECS_MAX,
        }
    }

    /// Does what is due at this tick.
    pub(super) fn act(&mut self) -> Result<(), DemoError> {
        match self {
            Self::Conductor(conductor) => conductor.act(),
            Self::Naive(naive) => naive.act(),
            Self::Clock { .. } => Ok(()),
        }
    }
}
