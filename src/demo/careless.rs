//! An operator who does it wrongly, so that the demo can be seen to notice: nodes that read files, written in a bad order.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::args::Sabotage;
use super::error::DemoError;
use super::node::{File, Node, Supplies};
use tfo_crypto::random;
use tfo_host::runtime::clock;
use tfo_host::runtime::files::{Durability, replace};
use tfo_model::key::{KeyPair, TfoKey};
use tfo_model::key_text::KeyText;

/// From node to node: 8 nodes take 5.6 s, as in docs/kernel.md#a-fleet-under-rotation.
const NODE_TO_NODE: Duration = Duration::from_millis(700);
/// Between two rotations.
const REST: Duration = Duration::from_secs(3);

const KEY_FILE: &str = "keys";

/// Rotates wrongly.
pub(super) struct Careless {
    sabotage: Sabotage,
    current: TfoKey,
    /// What is written next, and for which node.
    plan: VecDeque<(usize, KeyText)>,
    next_at: Option<Instant>,
}

impl Careless {
    pub(super) fn new(sabotage: Sabotage) -> Result<Self, DemoError> {
        Ok(Self { sabotage, current: random::fresh_key()?, plan: VecDeque::new(), next_at: None })
    }

    /// What an agent starts with.
    pub(super) fn supplies(&self, directory: &Path) -> Supplies {
        let content = Zeroizing::new(KeyText::of_key(&self.current).expose().to_vec());
        Supplies {
            source_toml: format!("[source]\nkind = \"file\"\npath = \"{}/{KEY_FILE}\"", directory.display()),
            files: vec![File { name: KEY_FILE, content }],
        }
    }

    /// Longest time of a rotation, in seconds.
    pub(super) fn rotation_secs_max(&self, nodes: usize) -> u64 {
        let steps = match self.sabotage {
            Sabotage::NoStaging => nodes,
            Sabotage::NoBarrier => 2 * nodes,
        };
        REST.as_secs() + (NODE_TO_NODE * 2).as_secs() * u64::try_from(steps).unwrap_or(u64::MAX)
    }

    /// Writes what is due now.
    pub(super) fn act(&mut self, nodes: &[Node]) -> Result<(), DemoError> {
        let now = clock::monotonic();
        if now < *self.next_at.get_or_insert(now + REST) {
            return Ok(());
        }
        if self.plan.is_empty() {
            self.make_plan(nodes.len())?;
        }
        if let Some((node, text)) = self.plan.pop_front() {
            replace(&nodes[node].path(KEY_FILE), text.expose(), 0o400, Durability::Volatile)?;
        }
        self.next_at = Some(now + if self.plan.is_empty() { REST } else { NODE_TO_NODE });
        Ok(())
    }

    fn make_plan(&mut self, nodes: usize) -> Result<(), DemoError> {
        let fresh = random::fresh_key()?;
        match self.sabotage {
            Sabotage::NoStaging => {
                self.plan.extend((0..nodes).map(|node| (node, KeyText::of_key(&fresh))));
            }
            Sabotage::NoBarrier => {
                let pair = |primary: &TfoKey, backup: &TfoKey| {
                    let keys = KeyPair::new(primary.duplicate(), Some(backup.duplicate()));
                    KeyText::of(&keys.expect("two random keys differ"))
                };
                // The last node is not staged when the others are promoted.
                let staged = (0..nodes - 1).map(|node| (node, pair(&self.current, &fresh)));
                let promoted = (0..nodes).map(|node| (node, pair(&fresh, &self.current)));
                self.plan.extend(staged.chain(promoted));
            }
        }
        self.current = fresh;
        Ok(())
    }
}
