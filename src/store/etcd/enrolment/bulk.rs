//! What may be about thousands of names, in several transactions: plans to cut nodes off, a restore, room for more
//! certificates.  Each transaction leaves a state that a second run of the same finishes.

use std::collections::BTreeSet;

use super::SOME;
use super::change::{Decided, LOG_KEPT, Write};
use crate::enrolment::{Certificate, CutOff, Image, LogWritten, Token, cut_off, ended, is_outlived, joined, restored};
use crate::error::StoreError;
use crate::etcd::wire::{Operation, Range, Transaction};
use crate::etcd::{EtcdStore, value};
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// Names in one part of a plan: half a megabyte of the longest ones.
const NAMES_OF_PART: usize = 2_000;
/// Certificates that one transaction writes: three operations each.
const CERTIFICATES_OF_WRITE: usize = 30;

impl EtcdStore {
    /// See [`crate::Enrolments::plan_cut_off`].  A long plan is there in parts, the first ones first: the order is given after
    /// the last one.
    pub(super) fn put_plan(&self, plan: &CutOff) -> Result<(), StoreError> {
        let keys = self.reader.keys.enrolment();
        let names: Vec<&NodeId> = plan.nodes.iter().collect();
        for (number, some) in names.chunks(NAMES_OF_PART).enumerate() {
            let key = keys.plan_part(plan.id, number);
            let part = CutOff { nodes: some.iter().map(|node| (*node).clone()).collect(), ..plan.clone() };
            self.change(
                || vec![Range::one(&key).count_only()],
                |mut found| {
                    if found.next().count > 0 {
                        return Ok::<_, StoreError>(Decided::Nothing(()));
                    }
                    let operations = vec![Operation::put(&key, value::print(&key, &part))];
                    Ok(Decided::Write(Write { operations, ..Write::of(()) }))
                },
            )?;
        }
        Ok(())
    }

    /// See [`crate::Enrolments::finish_cut_off`].  The plan goes last.
    pub(super) fn carry_out(&self, plan: &CutOff, nodes: &BTreeSet<NodeId>, at: UnixTime) -> Result<usize, StoreError> {
        let keys = self.reader.keys.enrolment();
        let (names, mut count) = (nodes.iter().collect::<Vec<_>>(), 0);
        for some in names.chunks(SOME) {
            let about: BTreeSet<NodeId> = some.iter().map(|node| (*node).clone()).collect();
            loop {
                let revoked = self.change(
                    || some.iter().map(|node| Range::under(&keys.certificates_of(node))).collect(),
                    |mut found| {
                        let mut left = Vec::new();
                        for _ in some {
                            left.extend(self.reader.certificates_in(found.next().kvs)?);
                        }
                        left.retain(|one| one.revoked_at.is_none());
                        left.truncate(CERTIFICATES_OF_WRITE);
                        if left.is_empty() {
                            return Ok::<_, StoreError>(Decided::Nothing(0));
                        }
                        let revoke = |one: &Certificate| Certificate { revoked_at: Some(at), ..one.clone() };
                        let operations = left.iter().flat_map(|one| self.put_certificate(&revoke(one))).collect();
                        let log = vec![cut_off(plan, &about, left.len() as u64, at)];
                        Ok(Decided::Write(Write { operations, log, ..Write::of(left.len()) }))
                    },
                )?;
                count += revoked;
                if revoked < CERTIFICATES_OF_WRITE {
                    break;
                }
            }
        }
        let all = keys.plan(plan.id);
        self.change(
            || vec![Range::under(&all).count_only()],
            |mut found| {
                if found.next().count == 0 {
                    return Ok::<_, StoreError>(Decided::Nothing(()));
                }
                let operations = vec![Operation::delete_under(&all)];
                Ok(Decided::Write(Write { operations, ..Write::of(()) }))
            },
        )?;
        Ok(count)
    }

    /// Drops revoked certificates that ended long ago.  Gives whether there were any.
    pub(super) fn make_room(&self, now: UnixTime) -> Result<bool, StoreError> {
        let keys = self.reader.keys.enrolment();
        let (pairs, _) = self.reader.client.read_all(&keys.all_revoked(), 0).map_err(self.reader.unread())?;
        let mut gone: Vec<Certificate> = pairs.iter().map(|pair| self.reader.parse(pair)).collect::<Result<_, _>>()?;
        gone.retain(|one| is_outlived(one, now));
        for some in gone.chunks(CERTIFICATES_OF_WRITE) {
            self.change(
                || some.iter().map(|one| Range::one(&keys.certificate(&one.node, &one.serial)).count_only()).collect(),
                |mut found| {
                    let there: Vec<_> = some.iter().filter(|_| found.next().count > 0).collect();
                    let operations = there.iter().flat_map(|one| self.drop_certificate(one)).collect();
                    let removed = there.len() as u64;
                    Ok::<_, StoreError>(Decided::Write(Write { operations, removed, ..Write::of(()) }))
                },
            )?;
        }
        Ok(!gone.is_empty())
    }

    /// See [`crate::Enrolments::restore`].
    pub(super) fn take_over(&self, image: &Image, at: UnixTime) -> Result<(), StoreError> {
        let here = self.reader.enrolments()?;
        let tokens: BTreeSet<_> = here.tokens.iter().map(|one| &one.id).collect();
        let missing: Vec<&Token> = image.tokens.iter().filter(|one| !tokens.contains(&one.id)).collect();
        let certificates = pending(&here, image);
        let known: BTreeSet<u64> = here.cut_offs.iter().map(|plan| plan.id).collect();
        let plans: Vec<&CutOff> = image.cut_offs.iter().filter(|plan| !known.contains(&plan.id)).collect();
        if missing.is_empty() && certificates.is_empty() && plans.is_empty() {
            return Ok(());
        }
        self.take_log(&image.log)?;
        // First, so that a run that is cut short has told of what it did.
        self.change(Vec::new, |_| {
            Ok::<_, StoreError>(Decided::Write(Write { log: vec![restored(image, at)], ..Write::of(()) }))
        })?;
        for some in missing.chunks(SOME) {
            self.take_tokens(some, at)?;
        }
        for some in certificates.chunks(CERTIFICATES_OF_WRITE) {
            self.take_certificates(some)?;
        }
        plans.into_iter().try_for_each(|plan| self.put_plan(plan))
    }

    fn take_tokens(&self, some: &[&Token], at: UnixTime) -> Result<(), StoreError> {
        let keys = self.reader.keys.enrolment();
        self.change(
            || some.iter().map(|one| Range::one(&keys.token(&one.id)).count_only()).collect(),
            |mut found| {
                let absent = some.iter().filter(|_| found.next().count == 0);
                let operations = absent.map(|one| self.put_token(&ended(one, at))).collect();
                Ok(Decided::Write(Write { operations, ..Write::of(()) }))
            },
        )
    }

    fn take_certificates(&self, some: &[&Certificate]) -> Result<(), StoreError> {
        let keys = self.reader.keys.enrolment();
        let ranges = |one: &&Certificate| {
            let key = Range::one(&keys.public_key(&one.key)).count_only();
            [Range::one(&keys.certificate(&one.node, &one.serial)), key]
        };
        self.change(
            || some.iter().flat_map(ranges).collect(),
            |mut found| {
                let mut write = Write::of(());
                for saved in some {
                    let stored: Option<Certificate> = self.reader.parse_one(Some(found.next()))?;
                    let key_used = found.next().count > 0;
                    if let Some(stored) = stored {
                        write.operations.extend(self.put_certificate(&joined(&stored, saved)));
                    } else if !key_used {
                        write.operations.extend(self.put_certificate(saved));
                        write.operations.push(self.put_public_key(saved));
                        write.added += 1;
                    }
                }
                Ok(Decided::Write(write))
            },
        )
    }

    /// Writes the log of a backup, if there is none here: under the numbers from one on, which no reader looks at before `e/at`
    /// counts them, and that comes last.
    fn take_log(&self, log: &[LogWritten]) -> Result<(), StoreError> {
        let keys = self.reader.keys.enrolment();
        let log = &log[log.len().saturating_sub(usize::try_from(LOG_KEPT).unwrap_or(usize::MAX))..];
        let mut read = self.reader.client.read([Range::one(&keys.at())]).map_err(self.reader.unread())?;
        let (at, written_at) = self.parse_at(read.take_ranges().next())?;
        if at.log > 0 || log.is_empty() {
            return Ok(());
        }
        let rest = log.len() % SOME;
        let (first, last) = log.split_at(log.len() - if rest == 0 { SOME } else { rest });
        for (number, some) in first.chunks(SOME).enumerate() {
            let put = |(number, one): (usize, &LogWritten)| {
                let key = keys.entry(number as u64 + 1);
                Operation::put(&key, value::print_text(&key, one.text()))
            };
            let success = (number * SOME..).zip(some).map(put).collect();
            let transaction = Transaction { compare: self.compares_at(written_at), success, failure: Vec::new() };
            let done = self.reader.client.write(&transaction).map_err(self.reader.failed("write"))?;
            if !done.succeeded {
                // Another coordinator has begun a log meanwhile, which stays.
                return Ok(());
            }
        }
        self.change(Vec::new, |found| {
            if found.at.log > 0 {
                return Ok(Decided::Nothing(()));
            }
            Ok(Decided::Write(Write { linked: last.to_vec(), after: first.len() as u64, ..Write::of(()) }))
        })
    }
}

/// The certificates of an image that are not here, or not as they would be together.
fn pending<'a>(here: &Image, image: &'a Image) -> Vec<&'a Certificate> {
    let stored: std::collections::BTreeMap<_, _> = here.certificates.iter().map(|one| (one.serial, one)).collect();
    let mut keys: BTreeSet<_> = here.certificates.iter().map(|one| one.key).collect();
    let is_pending = |saved: &&Certificate| match stored.get(&saved.serial) {
        Some(stored) => joined(stored, saved) != **stored,
        None => keys.insert(saved.key),
    };
    image.certificates.iter().filter(is_pending).collect()
}
