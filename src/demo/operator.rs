//! Who changes the keys: nobody with derived keys, for the clock does it; with sabotage an operator who leaves the staging out.

use std::path::Path;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::args::{Args, Sabotage, Source};
use super::error::DemoError;
use super::node::{Node, Supplies};
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
/// Longest time for an agent to take up a changed file or a new phase.
const UPTAKE_SECS_MAX: u64 = 10;

const SECRET_FILE: &str = "fleet.secret";
const KEY_FILE: &str = "keys";

/// Where the fleet's keys come from, and what is done to change them.
pub(super) enum Operator {
    /// The clock rotates.
    Clock { secret: Zeroizing<Vec<u8>> },
    /// Each node is given the new key alone, one after the other.
    Careless { key: KeyText, next_node: usize, next_at: Option<Instant> },
}

impl Operator {
    /// The one that the arguments ask for.
    pub(super) fn new(args: &Args) -> Result<Self, DemoError> {
        match (args.sabotage, args.source) {
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
    pub(super) fn source(&self) -> &'static str {
        match self {
            Self::Clock { .. } => "derive",
            Self::Careless { .. } => "file (sabotage: no staging)",
        }
    }

    /// What every agent starts with; `directory` is its node's.
    pub(super) fn supplies(&self, directory: &Path) -> Supplies {
        let directory = directory.display();
        match self {
            Self::Clock { secret } => Supplies {
                source_toml: format!(
                    "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"{directory}/{SECRET_FILE}\"\n\
                     interval = \"{INTERVAL_SECS}s\"\nstage_lead = \"{STAGE_LEAD_SECS}s\""
                ),
                file_name: SECRET_FILE,
                content: secret.clone(),
            },
            Self::Careless { key, .. } => Supplies {
                source_toml: format!("[source]\nkind = \"file\"\npath = \"{directory}/{KEY_FILE}\""),
                file_name: KEY_FILE,
                content: Zeroizing::new(key.expose().to_vec()),
            },
        }
    }

    /// Longest time between two rotations of `nodes` nodes, in seconds; after that something is wrong.
    pub(super) fn rotation_secs_max(&self, nodes: usize) -> u64 {
        let nodes = u64::try_from(nodes).unwrap_or(u64::MAX);
        match self {
            Self::Clock { .. } => INTERVAL_SECS + UPTAKE_SECS_MAX,
            Self::Careless { .. } => REST.as_secs() + (NODE_TO_NODE * 2).as_secs() * nodes + UPTAKE_SECS_MAX,
        }
    }

    /// Does what is due now.
    pub(super) fn act(&mut self, nodes: &[Node]) -> Result<(), DemoError> {
        let Self::Careless { key, next_node, next_at } = self else { return Ok(()) };
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
