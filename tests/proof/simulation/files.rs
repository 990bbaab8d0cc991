//! The coordinators' configuration files, which differ and change, and a ghost that knows every start and reload: it
//! tells whether a coordinator may set the pool's policy (docs/protocol.md#rule-11).

use tfo_engine::rollout::document::Document;
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::proposed::FilePolicy;
use tfo_testbed::random::Dice;

/// Different policies of all files together: no more than a document remembers.
const POLICIES: usize = 12;

/// What lets a coordinator set the pool's policy, once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// It started with this file: only if the pool never had its policy.
    Start(usize),
    /// It was reloaded with this file.
    Reload(usize),
}

/// The file of one coordinator.
struct File {
    /// Which policy is on its disk.
    on_disk: usize,
    /// The one that it was when it was read.
    in_use: usize,
    /// Why it was read.
    because: fn(usize) -> Leave,
    read: FilePolicy,
    leaves: Vec<Leave>,
}

pub(crate) struct Files {
    /// All policies that a file ever has.
    policies: Vec<Policy>,
    files: Vec<File>,
    /// The policies that the pool of the present store has had, by their places.
    had: Vec<usize>,
    /// The same in the backup.
    had_in_backup: Vec<usize>,
    dice: Dice,
}

impl Files {
    /// A file for each coordinator, each with another policy; the pool was made by the first of them.
    pub(crate) fn new(mut dice: Dice, coordinators: usize, mut make: impl FnMut(&mut Dice) -> Policy) -> Self {
        let policies: Vec<Policy> =
            (0..POLICIES).map(|number| Policy { drain_min_samples: 100 + number as u64, ..make(&mut dice) }).collect();
        let file = |on_disk: usize| File {
            on_disk,
            in_use: on_disk,
            because: Leave::Start,
            read: FilePolicy::at_start(policies[on_disk].clone()),
            leaves: vec![Leave::Start(on_disk)],
        };
        let files = (0..coordinators).map(file).collect();
        Self { files, policies, had: vec![0], had_in_backup: Vec::new(), dice }
    }

    pub(crate) fn first(&self) -> &Policy {
        &self.policies[0]
    }

    /// Somebody writes a file: an older one, or one that no pool has seen.
    pub(crate) fn write(&mut self, c: usize) {
        self.files[c].on_disk = self.dice.index(POLICIES);
    }

    /// The coordinator starts; whether with a policy that the pool has replaced.
    pub(crate) fn start(&mut self, c: usize) -> bool {
        let file = &mut self.files[c];
        (file.in_use, file.because) = (file.on_disk, Leave::Start);
        file.read = FilePolicy::at_start(self.policies[file.on_disk].clone());
        file.leaves = vec![Leave::Start(file.on_disk)];
        self.had.contains(&file.on_disk) && self.had.last() != Some(&file.on_disk)
    }

    pub(crate) fn reload(&mut self, c: usize) {
        let file = &mut self.files[c];
        (file.in_use, file.because) = (file.on_disk, Leave::Reload);
        file.read.reload(self.policies[file.on_disk].clone());
        file.leaves.push(Leave::Reload(file.on_disk));
    }

    /// What the coordinator proposes.
    pub(crate) fn proposal(&mut self, c: usize, document: &Document) -> Option<Policy> {
        self.files[c].read.proposal(document).cloned()
    }

    /// What a coordinator that drives by its file sets: whatever it has read, whenever the pool has another one.
    pub(crate) fn own(&self, c: usize, document: &Document) -> Option<Policy> {
        let own = &self.policies[self.files[c].in_use];
        (*own != document.policy).then(|| own.clone())
    }

    /// This coordinator has set this policy.  What let it, for the summary.
    pub(crate) fn set(&mut self, c: usize, policy: &Policy) -> &'static str {
        let number = self.policies.iter().position(|known| known == policy).expect("it is from a file");
        let is_new = !self.had.contains(&number);
        let lets = |leave: &Leave| *leave == Leave::Reload(number) || (*leave == Leave::Start(number) && is_new);
        let leaves = &mut self.files[c].leaves;
        // The oldest: it may have been decided before a reload.
        let Some(place) = leaves.iter().position(lets) else {
            panic!(
                "coordinator {c} sets policy {number}, which no start or reload lets it; the pool has had {:?}",
                self.had
            );
        };
        let leave = leaves.remove(place);
        self.had.retain(|known| *known != number);
        self.had.push(number);
        match leave {
            Leave::Start(_) => "policies taken at a start",
            Leave::Reload(_) => "policies taken at a reload",
        }
    }

    pub(crate) fn back_up(&mut self) {
        self.had_in_backup.clone_from(&self.had);
    }

    pub(crate) fn put_back(&mut self) {
        self.had.clone_from(&self.had_in_backup);
        for file in &mut self.files {
            // It may have been taken, and lost before the coordinator has seen that.
            let leave = (file.because)(file.in_use);
            if file.read.is_pending() && !file.leaves.contains(&leave) {
                file.leaves.push(leave);
            }
        }
    }

    /// Coordinators whose file is still proposed.
    pub(crate) fn pending(&self) -> usize {
        self.files.iter().filter(|file| file.read.is_pending()).count()
    }

    /// Coordinators whose file is not the pool's policy.
    pub(crate) fn differing(&self, document: &Document) -> usize {
        self.files.iter().filter(|file| !file.read.differs(document).is_empty()).count()
    }

    pub(crate) fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }
}
