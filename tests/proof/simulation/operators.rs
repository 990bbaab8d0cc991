//! What an operator may want at any moment.

use std::collections::BTreeSet;

use tfo_engine::rollout::barrier::{Barrier, recoverable};
use tfo_engine::rollout::document::Snapshot;
use tfo_engine::rollout::input::{Command, RevokeKeys};
use tfo_model::time::UnixTime;

use super::fleet::Fleet;

impl Fleet {
    /// Any command; the engine refuses what is wrong.
    pub(crate) fn whim(&mut self, snapshot: &Snapshot) -> Command {
        let ids = self.node_ids();
        let node = ids[usize::try_from(self.random.below(ids.len() as u64)).unwrap()].clone();
        let held: Vec<_> = snapshot.document.keys_held().into_iter().collect();
        match self.random.below(12) {
            0 => Command::Pause,
            1 => Command::Resume { force: false },
            2 => Command::Abort { force: false },
            3 => Command::Abort { force: true },
            4 => Command::Revoke { keys: RevokeKeys::AllInstructed, deny: BTreeSet::new() },
            5 => {
                let key = held[usize::try_from(self.random.below(held.len() as u64)).unwrap()];
                Command::Revoke { keys: RevokeKeys::Epochs([key.epoch].into()), deny: BTreeSet::new() }
            }
            6 => Command::Exclude { node, until: UnixTime::from_secs(1_700_000_000 + self.now + 120) },
            7 => Command::Forget { node },
            8 => Command::Rotate { force: self.random.once_in(2) },
            9 => Command::Deny { node },
            10 => Command::Revoke { keys: RevokeKeys::AllInstructed, deny: BTreeSet::from([node]) },
            _ => {
                let leave = Barrier::of_opened(snapshot).waiting_for.into_iter().collect();
                Command::Advance { generation: snapshot.document.generation, leave }
            }
        }
    }

    /// After the faults no node stays denied.
    pub(crate) fn amnesty(snapshot: &Snapshot) -> Option<Command> {
        let denied = snapshot.nodes.iter().find(|(_, record)| record.is_denied());
        denied.map(|(node, _)| Command::Forget { node: node.clone() })
    }

    /// After a restore: what is reported under the highest generation.
    pub(crate) fn recovery(&self, snapshot: &Snapshot) -> Option<Command> {
        recoverable(snapshot).first().map(|slots| Command::Recover { slots: *slots })
    }
}
