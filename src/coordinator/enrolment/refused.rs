//! Attempts that were refused, counted and folded, so that a flood cannot fill the log of enrolment: what is alike is one
//! entry, the first time at once and from then on one each hour.
//!
//! Invariant: a client without a token makes at most one entry for each reason and hour.  Counts of the last hour are lost if
//! the process is killed; metrics and log lines are not folded here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Enrolment;
use tfo_model::fleet::EnrolAction;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_model::time::UnixTime;
use tfo_store::StoreError;
use tfo_store::enrolment::LogEntry;

/// Most kinds of attempts that are told apart; the others are counted together.
const KINDS_MAX: usize = 64;
/// Most names that one entry has.
const NAMES_MAX: usize = 20;
/// Shortest time between two entries of one kind, in seconds.
const FOLDED_SECS: u64 = 3_600;

/// What was refused.  Equal ones are folded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Attempt {
    /// The token, if there is one with that id: ids of a stranger's own make are not kept.
    pub token: Option<TokenId>,
    /// The pool, if it is known.
    pub pool: Option<PoolName>,
    /// Why.
    pub reason: String,
}

/// Whether an attempt is of a kind that was not seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It is: an entry is due.
    New,
    /// It was counted.
    Counted,
}

/// Attempts of one kind.
#[derive(Debug, Default, Clone)]
struct Folded {
    /// Since the last entry.
    count: u64,
    names: BTreeSet<NodeId>,
    address: Option<IpAddr>,
    last_at: Option<UnixTime>,
    told_at: Option<UnixTime>,
}

/// What was refused since the last entries.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<Attempt, Folded>);

/// Which entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Those that are due.
    Due,
    /// All: the process ends.
    All,
}

impl Refused {
    fn note(&mut self, attempt: Attempt, name: Option<&NodeId>, from: Option<IpAddr>, now: UnixTime) -> News {
        let is_full = self.0.len() >= KINDS_MAX && !self.0.contains_key(&attempt);
        let others = || Attempt { reason: "other reasons".to_owned(), ..Attempt::default() };
        let folded = self.0.entry(if is_full { others() } else { attempt }).or_default();
        let is_new = folded.count == 0 && folded.told_at.is_none();
        folded.count += 1;
        (folded.address, folded.last_at) = (from, Some(now));
        if folded.names.len() < NAMES_MAX {
            folded.names.extend(name.cloned());
        }
        if is_new { News::New } else { News::Counted }
    }

    /// The entries that are to be written now.
    fn entries(&self, which: Which, now: UnixTime) -> Vec<(Attempt, LogEntry)> {
        let is_due = |folded: &Folded| match folded.told_at {
            Some(told) => which == Which::All || told.plus(FOLDED_SECS) <= now || told > now,
            None => true,
        };
        let all = self.0.iter().filter(|(_, folded)| folded.count > 0 && is_due(folded));
        all.map(|(attempt, folded)| {
            let Attempt { token, pool, reason } = attempt.clone();
            let entry = LogEntry {
                pool,
                token,
                address: folded.address,
                count: folded.count,
                reason,
                ..LogEntry::new(EnrolAction::Refused, folded.last_at.unwrap_or(now))
            };
            (attempt.clone(), entry.about(folded.names.iter()))
        })
        .collect()
    }

    /// These were written.  What came meanwhile stays, and what has been quiet for long goes.
    fn told(&mut self, entries: &[(Attempt, LogEntry)], now: UnixTime) {
        for (attempt, entry) in entries {
            if let Some(folded) = self.0.get_mut(attempt) {
                folded.count = folded.count.saturating_sub(entry.count);
                folded.told_at = Some(now);
                folded.names.clear();
            }
        }
        let is_quiet =
            |folded: &Folded| folded.count == 0 && folded.told_at.is_none_or(|told| told.plus(FOLDED_SECS) <= now);
        self.0.retain(|_, folded| !is_quiet(folded));
    }
}

impl Enrolment {
    /// Counts an attempt that was refused.
    pub fn refused(&self, attempt: Attempt, name: Option<&NodeId>, from: Option<IpAddr>, now: UnixTime) -> News {
        self.lock_refused().note(attempt, name, from, now)
    }

    /// Writes what was refused into the log, as far as that is due.
    ///
    /// # Errors
    /// Fails if the store cannot be written; the counts stay.
    pub fn log_refused(&self, now: UnixTime) -> Result<(), StoreError> {
        self.write_refused(Which::Due, now)
    }

    /// The same, all of it: before the process ends.
    ///
    /// # Errors
    /// As [`Self::log_refused`].
    pub fn log_all_refused(&self, now: UnixTime) -> Result<(), StoreError> {
        self.write_refused(Which::All, now)
    }

    fn write_refused(&self, which: Which, now: UnixTime) -> Result<(), StoreError> {
        let entries = self.lock_refused().entries(which, now);
        if !entries.is_empty() {
            let lines: Vec<LogEntry> = entries.iter().map(|(_, entry)| entry.clone()).collect();
            self.store.add_to_log(&lines)?;
        }
        self.lock_refused().told(&entries, now);
        Ok(())
    }

    fn lock_refused(&self) -> std::sync::MutexGuard<'_, Refused> {
        // Counts of what is only shown.
        self.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

    fn attempt(reason: &str) -> Attempt {
        Attempt { reason: reason.to_owned(), ..Attempt::default() }
    }

    /// The entries that are due, as (reason, count); they are written.
    fn write(refused: &mut Refused, which: Which, now: UnixTime) -> Vec<(String, u64)> {
        let entries = refused.entries(which, now);
        refused.told(&entries, now);
        entries.into_iter().map(|(_, entry)| (entry.reason, entry.count)).collect()
    }

    #[test]
    fn a_flood_is_two_entries_an_hour_and_nothing_of_it_is_lost() {
        let mut refused = Refused::default();
        let mut told = Vec::new();
        for second in 0..7_200 {
            let now = NOW.plus(second);
            for reason in ["wrong secret", "unknown"] {
                let news = refused.note(attempt(reason), None, None, now);
                assert_eq!(news == News::New, second == 0, "{second}");
            }
            told.extend(write(&mut refused, Which::Due, now));
        }
        assert_eq!(told.len(), 4, "{told:?}");
        told.extend(write(&mut refused, Which::All, NOW.plus(7_200)));
        let sum = |reason: &str| told.iter().filter(|(of, _)| of == reason).map(|(_, count)| count).sum::<u64>();
        assert_eq!((sum("wrong secret"), sum("unknown")), (7_200, 7_200));
        // After a quiet hour it is news again.
        assert_eq!(write(&mut refused, Which::Due, NOW.plus(11_000)), []);
        assert_eq!(refused.note(attempt("unknown"), None, None, NOW.plus(11_000)), News::New);
    }

    #[test]
    fn kinds_and_names_are_bounded() {
        let mut refused = Refused::default();
        for number in 0..1_000 {
            let name = format!("n{number}.example.org").parse().unwrap();
            refused.note(attempt(&format!("kind {number}")), Some(&name), None, NOW);
            refused.note(attempt("kind 0"), Some(&name), None, NOW);
        }
        let entries = refused.entries(Which::Due, NOW);
        assert_eq!(entries.len(), KINDS_MAX + 1);
        assert!(entries.iter().all(|(_, entry)| entry.nodes.len() <= NAMES_MAX));
        assert_eq!(entries.iter().map(|(_, entry)| entry.count).sum::<u64>(), 2_000);
    }
}
