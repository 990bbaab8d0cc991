//! Looks by change (docs/protocol.md#rule-11): after each one, what is kept is what a look at all nodes finds, and a tick that
//! a coordinator need not take comes to what the last one came to.

use std::time::Duration;

use tfo_engine::rollout::document::Snapshot;
use tfo_engine::rollout::input::{Refused, Step, Wait};
use tfo_engine::rollout::sync::PoolView;
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

use super::coordinators::Coordinator;
use super::fleet::Fleet;

/// Of so many seeds one compares every look with one at all nodes, ...
const WHOLE_SEEDS_EVERY: u64 = 16;
/// ... and the others one of so many looks of each coordinator, those after a fault of it, and the last.
const LOOKS_EVERY: u64 = 32;

/// Which looks are compared with a look at all nodes: what is kept wrongly stays wrong until its node is looked at again.
#[derive(Clone, Copy)]
pub(super) struct Compared {
    every: u64,
    left: u64,
}

impl Compared {
    pub(super) fn of_seed(seed: u64, c: usize) -> Self {
        let every = if seed.is_multiple_of(WHOLE_SEEDS_EVERY) { 1 } else { LOOKS_EVERY };
        Self { every, left: 3 * c as u64 % every }
    }

    /// The next look is one of them.
    pub(super) fn next(&mut self) {
        self.left = 0;
    }

    fn takes(&mut self) -> bool {
        let is_taken = self.left == 0;
        self.left = if is_taken { self.every } else { self.left } - 1;
        is_taken
    }
}

/// What a tick waited for, and by which wall clock the next ones come to the same.
pub(super) struct Rest {
    from: UnixTime,
    until: UnixTime,
    wait: Wait,
}

impl Coordinator {
    /// Looks at what has changed, or at another snapshot instead.
    pub(super) fn look(&mut self, monotonic: Duration, snapshot: &Snapshot, instead: Option<&Snapshot>) {
        let changes = std::mem::take(&mut self.copied.changes);
        let compared = self.compared.takes().then(|| self.life.clone());
        let mut is_news = self.life.follow(monotonic, snapshot, &changes);
        if let Some(mut looked) = compared {
            looked.observe(monotonic, snapshot);
            assert_eq!(self.life, looked, "what is kept by {changes:?} is not what a look at all nodes finds");
            let kept = PoolView::kept(&self.life, &snapshot.document);
            assert_eq!(kept, PoolView::of(snapshot, self.life.presence()), "by {changes:?}");
        }
        if let Some(instead) = instead {
            self.life.observe(monotonic, instead);
            is_news = true;
        }
        if is_news || !changes.is_empty() {
            self.rest = None;
        }
    }

    /// Hears a node that has nothing new to say.
    pub(super) fn hear(&mut self, monotonic: Duration, node: &NodeId) {
        if self.life.hear(monotonic, node) {
            self.rest = None;
        }
        self.presence.deaf_secs = None;
        self.presence.absent.remove(node);
        self.presence.overdue.remove(node);
    }
}

impl Fleet {
    /// The last looks.
    pub(super) fn look_at_last(&mut self) {
        for c in 0..self.coordinators.len() {
            self.coordinators[c].compared.next();
            if let Some(copy) = self.read(c, c == 0) {
                self.observe(c, copy.snapshot());
            }
        }
    }

    /// A tick was taken, although the pool may rest.
    pub(super) fn check_rest(&mut self, c: usize, snapshot: &Snapshot, step: &Result<Step, Refused>) {
        let wall = self.wall(c);
        let Coordinator { rest, .. } = &mut self.coordinators[c];
        let waits = |step: &Result<Step, Refused>| match step {
            Ok(Step::Wait(Wait { blocked_by, waiting_for, .. })) => Some((*blocked_by, waiting_for.clone())),
            Ok(_) | Err(_) => None,
        };
        let is_resting = rest.as_ref().is_some_and(|rest| (rest.from..rest.until).contains(&wall));
        if let Some(Rest { wait, .. }) = rest.as_ref().filter(|_| is_resting) {
            let expected = Some((wait.blocked_by, wait.waiting_for.clone()));
            assert_eq!(waits(step), expected, "a pool that rests does not move: {step:?}");
            self.summary.count("ticks that need not be taken", 1);
            return;
        }
        *rest = match step {
            Ok(Step::Wait(wait)) => {
                wait.rests_until(&snapshot.document, wall).map(|until| Rest { from: wall, until, wait: wait.clone() })
            }
            Ok(_) | Err(_) => None,
        };
    }
}
