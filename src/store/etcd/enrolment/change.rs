//! One change of tokens and certificates.  All coordinators change them, so every change compares `e/at` as it was when the
//! decision was made, and writes it: of two at once one is decided again, by what the other has made of it.
//!
//! A change whose outcome is open is settled: once `e/at` has been written by another transaction, the late one can never take
//! effect, and a read tells whether it has (as a beat does for a pool, docs/protocol.md#rule-18).  Must not know: what is
//! decided.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::enrolment::{LogEntry, LogWritten, chained, end_of, start};
use crate::error::StoreError;
use crate::etcd::failure::Failure;
use crate::etcd::wire::{Compare, Operation, Range, Ranged, Transaction};
use crate::etcd::{EtcdStore, mark, value};
use tfo_engine::chained_log::LogEnd;
use tfo_model::digest::Sha256;

/// Entries of the log that are kept in etcd: its database is shared, and small.
pub(super) const LOG_KEPT: u64 = 10_000;
/// How often a change is decided again because others were faster.
const TRIES: u32 = 32;
/// Longest pause before that, for each time that it was.
const PAUSE: Duration = Duration::from_millis(8);

/// `e/at`.  Persisted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct At {
    /// Random: which transaction wrote it.
    mark: u64,
    /// Number of the last entry of the log.
    pub(super) log: u64,
    /// Its digest; none before the first.
    pub(super) chain: Option<Sha256>,
    /// Number of certificates.
    pub(super) certificates: u64,
}

/// What a decision is made from.
pub(super) struct Found {
    /// What was asked for, in that order.
    ranges: std::vec::IntoIter<Ranged>,
    pub(super) at: At,
    /// An earlier try of this change had an open outcome: it may be what is found.
    pub(super) is_again: bool,
}

impl Found {
    /// The next of the ranges.
    pub(super) fn next(&mut self) -> Ranged {
        self.ranges.next().unwrap_or_default()
    }
}

/// What is decided.
pub(super) enum Decided<T> {
    /// Nothing is to be written.
    Nothing(T),
    /// One transaction.
    Write(Write<T>),
}

/// What one transaction writes.
pub(super) struct Write<T> {
    pub(super) operations: Vec<Operation>,
    pub(super) log: Vec<LogEntry>,
    /// Entries that are linked already, before those.
    pub(super) linked: Vec<LogWritten>,
    /// How many entries of the log are there already that `e/at` does not count.
    pub(super) after: u64,
    /// How many certificates come.
    pub(super) added: u64,
    /// How many go.
    pub(super) removed: u64,
    pub(super) value: T,
}

impl<T> Write<T> {
    pub(super) fn of(value: T) -> Self {
        Self { operations: Vec::new(), log: Vec::new(), linked: Vec::new(), after: 0, added: 0, removed: 0, value }
    }
}

impl At {
    /// Where the chain of the log ends.
    pub(super) fn end(&self) -> LogEnd {
        LogEnd { number: self.log, chain: self.chain.unwrap_or_else(start), kept: LOG_KEPT }
    }
}

impl EtcdStore {
    /// Decides from these ranges, and writes what is decided; again, if another coordinator was faster.
    pub(super) fn change<T, E: From<StoreError>>(
        &self,
        ranges: impl Fn() -> Vec<Range>,
        mut decide: impl FnMut(Found) -> Result<Decided<T>, E>,
    ) -> Result<T, E> {
        let key = self.reader.keys.enrolment().at();
        let mut is_again = false;
        for turn in 0..TRIES {
            let asked = std::iter::once(Range::one(&key)).chain(ranges());
            let mut read = self.reader.client.read_much(asked).map_err(self.reader.unread())?;
            let mut ranges = read.take_ranges().collect::<Vec<_>>().into_iter();
            let (at, written_at) = self.parse_at(ranges.next())?;
            let write = match decide(Found { ranges, at, is_again })? {
                Decided::Nothing(value) => return Ok(value),
                Decided::Write(write) => write,
            };
            let mut written = write.linked.clone();
            let (linked, chain) = chained(end_of(&written, at.end().chain), write.log.iter().cloned());
            written.extend(linked);
            let next = At {
                mark: mark()?,
                log: at.log + write.after + written.len() as u64,
                chain: Some(chain),
                certificates: (at.certificates + write.added).saturating_sub(write.removed),
            };
            let transaction = self.transaction((&write, &written), (at, written_at), next);
            match self.reader.client.write(&transaction) {
                Ok(done) if done.succeeded => return Ok(write.value),
                Ok(mut done) => {
                    let meta = done.take_ranges().next().and_then(|mut meta| meta.kvs.pop());
                    self.reader.take_over_meta(meta.as_ref().map(|meta| &meta.value.0[..]))?;
                    // A random time, so that two do not meet again.
                    std::thread::sleep(PAUSE * (1 + turn.min(8)) * u32::from(next.mark.to_be_bytes()[0]) / 256);
                }
                Err(open @ Failure::Open { .. }) => {
                    if self.settle(next.mark, open)? {
                        return Ok(write.value);
                    }
                    is_again = true;
                }
                Err(failure) => return Err(self.reader.failed("write")(failure).into()),
            }
        }
        let source = "other coordinators change tokens and certificates all the time".into();
        Err(StoreError::Failed { step: "write", place: self.reader.place.clone(), source }.into())
    }

    fn transaction<T>(
        &self,
        (write, written): (&Write<T>, &[LogWritten]),
        (at, written_at): (At, i64),
        next: At,
    ) -> Transaction {
        let keys = self.reader.keys.enrolment();
        let put = |key: String, value: Vec<u8>| Operation::put(&key, value);
        let mut success = vec![put(keys.at(), value::print(&keys.at(), &next))];
        for (number, one) in (at.log + write.after + 1..).zip(written) {
            let key = keys.entry(number);
            let text = value::print_text(&key, one.text());
            success.push(put(key, text));
        }
        if let Some(last_gone) = next.log.checked_sub(LOG_KEPT).filter(|_| next.log > at.log) {
            success.push(Operation::delete_between(&keys.entry(0), &keys.entry(last_gone + 1)));
        }
        success.extend(write.operations.iter().cloned());
        Transaction {
            compare: self.compares_at(written_at),
            success,
            failure: vec![Operation::Range(Range::one(&self.reader.keys.meta()))],
        }
    }

    /// What every change compares.
    pub(super) fn compares_at(&self, written_at: i64) -> Vec<Compare> {
        let at = self.reader.keys.enrolment().at();
        vec![Compare::is(&self.reader.keys.meta(), &self.reader.meta()), Compare::is_of(&at, written_at)]
    }

    /// `e/at`, and the revision of etcd that wrote it.
    pub(super) fn parse_at(&self, range: Option<Ranged>) -> Result<(At, i64), StoreError> {
        let Some(pair) = range.and_then(|mut range| range.kvs.pop()) else { return Ok((At::default(), 0)) };
        Ok((self.reader.parse(&pair)?, pair.mod_revision))
    }

    /// Makes sure that the transaction of this mark has taken effect or never will.  False: it has not, or others have written
    /// since.
    fn settle(&self, of: u64, open: Failure) -> Result<bool, StoreError> {
        let key = self.reader.keys.enrolment().at();
        let mut why = open;
        for _ in 0..TRIES {
            let read = self.reader.client.read([Range::one(&key)]);
            let (at, written_at) = match read {
                Ok(mut read) => self.parse_at(read.take_ranges().next())?,
                Err(failure) => {
                    why = failure;
                    break;
                }
            };
            if at.mark == of {
                return Ok(true);
            }
            let success = vec![Operation::put(&key, value::print(&key, &At { mark: mark()?, ..at }))];
            let failure = vec![Operation::Range(Range::one(&self.reader.keys.meta()))];
            let fence = Transaction { compare: self.compares_at(written_at), success, failure };
            match self.reader.client.write(&fence) {
                Ok(done) if done.succeeded => return Ok(false),
                // The late one was faster, or another coordinator, which may have raised the schema.
                Ok(mut done) => {
                    let meta = done.take_ranges().next().and_then(|mut meta| meta.kvs.pop());
                    self.reader.take_over_meta(meta.as_ref().map(|meta| &meta.value.0[..]))?;
                }
                Err(failure @ Failure::Open { .. }) => why = failure,
                Err(failure) => {
                    why = failure;
                    break;
                }
            }
        }
        let (step, place) = ("write", self.reader.place.clone());
        Err(StoreError::Failed { step, place, source: why.into() })
    }
}
