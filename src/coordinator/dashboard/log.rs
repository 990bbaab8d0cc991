//! What the pages have of the audit log: the latest rotations with their length, and entries by what a reader looks for.
//!
//! The log is read from its end: each commit makes one revision and one entry, so the entries before a revision are found
//! without the older ones.  Must not know: HTML.

use std::collections::VecDeque;

use tfo_engine::rollout::document::{Actor, AuditEntry};
use tfo_model::count::Revision;
use tfo_model::fleet::Action;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;
use tfo_store::enrolment::{LogEntry, LogPart};
use tfo_store::{AUDIT_READ_MAX, Enrolments, Store, StoreError};

/// Rotations that are shown.
const ROTATIONS_MAX: usize = 8;
/// Entries on one page.
pub(super) const ENTRIES_MAX: usize = 50;
/// Most reads for one page: what fits rarely is found by the next page.
const READS_MAX: usize = 5;

/// A rotation that began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) at: UnixTime,
    /// The operator; none for the schedule.
    pub(super) by: Option<NodeId>,
    /// Whether it is to drive keys out.
    pub(super) is_revoke: bool,
    /// Whether the health gate stopped it.
    pub(super) was_stopped: bool,
}

/// A rotation that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) begun: Begun,
    pub(super) at: UnixTime,
    /// What ended it.
    pub(super) action: Action,
}

/// The latest rotations of a pool.
#[derive(Debug, Default)]
pub(super) struct Rotations {
    read_to: Option<Revision>,
    running: Option<Begun>,
    /// The latest first.
    ended: VecDeque<Ended>,
}

impl Rotations {
    /// Blocking: reads what was committed since the last time, and gives the rotations that ended, the latest first.
    pub(super) fn read(
        &mut self,
        store: &dyn Store,
        pool: &PoolName,
        revision: Revision,
    ) -> Result<Vec<Ended>, StoreError> {
        if self.read_to.is_some_and(|read_to| read_to > revision) {
            // The store was put back.
            *self = Self::default();
        }
        let begin = Revision::new(revision.get().saturating_sub(AUDIT_READ_MAX as u64));
        let mut read_to = self.read_to.map_or(begin, |read_to| read_to.max(begin));
        loop {
            let entries = store.audit(pool, read_to)?;
            for entry in &entries {
                self.take(entry);
                read_to = entry.revision;
            }
            self.read_to = Some(read_to);
            if entries.len() < AUDIT_READ_MAX {
                return Ok(self.ended.iter().cloned().collect());
            }
        }
    }

    fn take(&mut self, entry: &AuditEntry) {
        let runs = matches!(entry.phase, Phase::Staged | Phase::Promoted);
        match (&mut self.running, entry.action) {
            (None, Action::Rotate | Action::Revoke) if runs => {
                let is_revoke = entry.action == Action::Revoke;
                let by = operator(entry).cloned();
                self.running = Some(Begun { at: entry.at, by, is_revoke, was_stopped: false });
            }
            (Some(running), Action::Unhealthy) => running.was_stopped = true,
            (Some(running), Action::Revoke) if runs => running.is_revoke = true,
            (Some(_), action) if !runs => {
                let begun = self.running.take().expect("it runs");
                self.ended.push_front(Ended { begun, at: entry.at, action });
                self.ended.truncate(ROTATIONS_MAX);
            }
            _ => {}
        }
    }
}

/// The operator of an entry; none for the coordinator's own steps.
pub(super) fn operator(entry: &AuditEntry) -> Option<&NodeId> {
    match &entry.actor {
        Actor::Engine => None,
        Actor::Operator(operator) => Some(operator),
    }
}

/// What a reader looks for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) action: Option<Action>,
    pub(super) operator: Option<NodeId>,
    /// Entries that name it, and those that omit names.
    pub(super) node: Option<NodeId>,
}

impl Wanted {
    fn fits(&self, entry: &AuditEntry) -> bool {
        self.action.is_none_or(|action| entry.action == action)
            && self.operator.as_ref().is_none_or(|wanted| operator(entry) == Some(wanted))
            && self.node.as_ref().is_none_or(|node| entry.more > 0 || entry.nodes.contains(node))
    }
}

/// A page of the log.
#[derive(Debug)]
pub(super) struct Page {
    /// The latest first.
    pub(super) entries: Vec<AuditEntry>,
    /// Older ones are before this revision; none if there are none.
    pub(super) older: Option<Revision>,
}

/// Blocking: the latest entries before a revision that fit.
pub(super) fn before(
    store: &dyn Store,
    pool: &PoolName,
    before: Revision,
    wanted: &Wanted,
) -> Result<Page, StoreError> {
    let (mut before, mut entries) = (before.get(), Vec::new());
    for _ in 0..READS_MAX {
        let after = before.saturating_sub(AUDIT_READ_MAX as u64 + 1);
        let read = store.audit(pool, Revision::new(after))?;
        for entry in read.into_iter().rev().filter(|entry| entry.revision.get() < before) {
            if entries.len() == ENTRIES_MAX {
                let older = entries.last().map(|last: &AuditEntry| last.revision);
                return Ok(Page { entries, older });
            }
            if wanted.fits(&entry) {
                entries.push(entry);
            }
        }
        if after == 0 {
            return Ok(Page { entries, older: None });
        }
        before = after + 1;
    }
    Ok(Page { entries, older: Some(Revision::new(before)) })
}

/// Blocking: the latest entries about tokens and certificates of this pool, and of none, that fit; the latest first.
pub(super) fn enrolment(store: &dyn Enrolments, pool: &PoolName, wanted: &Wanted) -> Result<Vec<LogEntry>, StoreError> {
    let fits = |entry: &LogEntry| {
        wanted.action.is_none()
            && entry.pool.as_ref().is_none_or(|own| own == pool)
            && wanted.operator.as_ref().is_none_or(|wanted| entry.operator.as_ref() == Some(wanted))
            && wanted.node.as_ref().is_none_or(|node| entry.more > 0 || entry.nodes.contains(node))
    };
    let latest = store.log(LogPart::Before(u64::MAX))?.into_iter().rev().map(|logged| logged.entry);
    Ok(latest.filter(fits).take(ENTRIES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_engine::rollout::document::BarrierCount;
    use tfo_model::count::Generation;

    fn entry(revision: u64, at: u64, action: Action, phase: Phase) -> AuditEntry {
        AuditEntry {
            at: UnixTime::from_secs(at),
            revision: Revision::new(revision),
            generation: Generation::ZERO,
            phase,
            actor: Actor::Engine,
            action,
            nodes: [].into(),
            more: 0,
            reason: String::new(),
            barrier: BarrierCount { required: 1, needed: 1, behind: 0 },
        }
    }

    #[test]
    fn a_rotation_lasts_from_its_first_commit_to_the_commit_that_makes_the_pool_steady() {
        let mut rotations = Rotations::default();
        for (at, action, phase) in [
            // It began before what was read.
            (5, Action::OpenWave, Phase::Promoted),
            (6, Action::Settle, Phase::Steady),
            (10, Action::Rotate, Phase::Staged),
            (11, Action::Exclude, Phase::Staged),
            (12, Action::Promote, Phase::Promoted),
            (40, Action::Settle, Phase::Steady),
            (50, Action::Rotate, Phase::Staged),
            (55, Action::Promote, Phase::Promoted),
            (56, Action::Unhealthy, Phase::Promoted),
            (60, Action::Abort, Phase::Steady),
            (70, Action::Resume, Phase::Steady),
            (80, Action::Rotate, Phase::Staged),
        ] {
            rotations.take(&entry(at, at, action, phase));
        }
        let ended: Vec<_> = rotations
            .ended
            .iter()
            .map(|ended| (ended.begun.at.secs(), ended.at.secs(), ended.action, ended.begun.was_stopped))
            .collect();
        assert_eq!(ended, [(50, 60, Action::Abort, true), (10, 40, Action::Settle, false)]);
        assert_eq!(rotations.running.map(|begun| begun.at.secs()), Some(80));
    }

    #[test]
    fn the_log_is_read_from_its_end_in_pages_without_gaps() {
        use tfo_engine::rollout::document::{Document, KeyRing};
        use tfo_engine::rollout::parts::{Parts, PoolContent};
        use tfo_engine::rollout::policy::Policy;
        use tfo_store::{ChainHead, MemoryStore, PoolImage};

        let store = MemoryStore::default();
        let mut document = Document::new(
            format!("{:032x}", 7).parse().unwrap(),
            Policy::with_defaults(vec!["*".parse().unwrap()]),
            UnixTime::from_secs(1),
        );
        document.revision = Revision::new(2_345);
        let of = |revision: u64| if revision.is_multiple_of(1_000) { Action::Pause } else { Action::Resume };
        let audit: Vec<_> = (1..=2_345).map(|at| entry(at, at, of(at), Phase::Steady)).collect();
        let mut chain = ChainHead::start(&document.pool_id);
        let audit: Vec<_> = audit.into_iter().map(|entry| chain.add(&document, entry, u64::MAX)).collect();
        let content = PoolContent::new(document, Parts::default());
        let pool: PoolName = "edge".parse().unwrap();
        let image = PoolImage { content: &content, keys: &KeyRing::default(), audit: &audit };
        store.create(&pool, &image).unwrap();

        let (mut next, mut found) = (Some(Revision::new(2_346)), Vec::new());
        while let Some(revision) = next {
            let page = before(&store, &pool, revision, &Wanted::default()).unwrap();
            assert!(page.entries.len() <= ENTRIES_MAX);
            found.extend(page.entries.iter().map(|entry| entry.revision.get()));
            next = page.older;
        }
        assert_eq!(found, (1..=2_345).rev().collect::<Vec<_>>());

        let wanted = Wanted { action: Some(Action::Pause), ..Wanted::default() };
        let page = before(&store, &pool, Revision::new(2_346), &wanted).unwrap();
        let found: Vec<_> = page.entries.iter().map(|entry| entry.revision.get()).collect();
        assert_eq!((found, page.older), (vec![2_000, 1_000], None));
        let mut rotations = Rotations::default();
        assert_eq!(rotations.read(&store, &pool, Revision::new(2_345)).unwrap(), []);
        assert_eq!(rotations.read_to, Some(Revision::new(2_345)));
    }
}
