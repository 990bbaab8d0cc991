//! What an operator may want at any moment.

use std::collections::BTreeSet;

use tfo_engine::rollout::barrier::{Barrier, recoverable};
use tfo_engine::rollout::document::Snapshot;
use tfo_engine::rollout::input::{Command, Expectation, RevokeKeys};
use tfo_engine::rollout::record::{Exclusion, Membership};
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

use super::fleet::Fleet;

impl Fleet {
    /// Any command; the engine refuses what is wrong.
    pub(crate) fn whim(&mut self, snapshot: &Snapshot) -> Command {
        let ids = self.node_ids();
        let node = ids[usize::try_from(self.random.below(ids.len() as u64)).unwrap()].clone();
        let is =
            |wanted: fn(Membership) -> bool| snapshot.nodes.get(&node).is_some_and(|record| wanted(record.membership));
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
            // The same dice for both, so that a seed stays what it is.
            6 if is(|membership| matches!(membership, Membership::Excluded(Exclusion::Operator { .. }))) => {
                Command::Include { nodes: [node].into() }
            }
            6 => {
                let until = UnixTime::from_secs(1_700_000_000 + self.now + 120);
                Command::Exclude { nodes: [node].into(), until }
            }
            7 if is(|membership| membership == Membership::Excluded(Exclusion::Denied)) => {
                Command::Allow { nodes: [node].into() }
            }
            7 => forget(node),
            8 => Command::Rotate { force: self.random.once_in(2) },
            9 => Command::Deny { nodes: [node].into() },
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
        denied.map(|(node, _)| Command::Allow { nodes: [node.clone()].into() })
    }

    /// After a restore: what is reported under the highest generation.
    pub(crate) fn recovery(&self, snapshot: &Snapshot) -> Option<Command> {
        recoverable(snapshot).first().map(|slots| Command::Recover { slots: *slots })
    }
}

fn forget(node: NodeId) -> Command {
    Command::Forget { nodes: [node].into(), expected: Expectation::Keep }
}
