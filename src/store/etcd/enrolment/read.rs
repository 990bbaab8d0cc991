//! Reading what is recorded of enrolment.

use std::collections::BTreeMap;

use super::change::{At, LOG_KEPT};
use crate::enrolment::{Certificate, CutOff, Image, LogChain, LogPart, LogRow, LogWritten, Logged, Token};
use crate::error::StoreError;
use crate::etcd::failure::Failure;
use crate::etcd::keys::number;
use crate::etcd::reader::{COLD_TRIES, EtcdReader};
use crate::etcd::value;
use crate::etcd::wire::{Pair, Range};
use crate::limits::AUDIT_READ_MAX;
use tfo_engine::enrolment_log::Link;

impl EtcdReader {
    /// All of it, at one revision.
    pub(super) fn enrolments(&self) -> Result<Image, StoreError> {
        let all = self.keys.enrolment().all;
        for _ in 0..COLD_TRIES {
            match self.client.read_all(&all, 0) {
                Ok((pairs, _)) => return self.image_of(pairs),
                // etcd forgets old revisions faster than they are read.
                Err(Failure::Compacted { .. }) => {}
                Err(failure) => return Err(failure.of_reading(&self.place)),
            }
        }
        Err(Failure::Compacted { url: self.client.members() }.of_reading(&self.place))
    }

    fn image_of(&self, pairs: Vec<Pair>) -> Result<Image, StoreError> {
        let keys = self.keys.enrolment();
        let (mut tokens, mut certificates, mut plans, mut log) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut at = At::default();
        for pair in pairs {
            let key = pair.name();
            if key == keys.at() {
                at = self.parse(&pair)?;
            } else if key.starts_with(&keys.tokens()) {
                tokens.push(pair);
            } else if key.starts_with(&keys.certificates()) {
                certificates.push(self.parse::<Certificate>(&pair)?);
            } else if key.starts_with(&keys.plans()) {
                plans.push(pair);
            } else if let Some(number) = number(key, &keys.log()) {
                let (text, is_intact) = value::text(&pair);
                let written = LogWritten::parse(text).ok().filter(|_| is_intact);
                let damaged = || self.damaged(format!("entry {number} of the log of enrolment is not right"));
                log.push((number, written.ok_or_else(damaged)?));
            }
        }
        if certificates.len() as u64 != at.certificates {
            return Err(self.damaged("certificates are missing"));
        }
        certificates.sort_by_key(|one| one.serial);
        let log = log.into_iter().filter(|(number, _)| *number <= at.log).map(|(_, written)| written).collect();
        Ok(Image { tokens: self.tokens_in(tokens)?, certificates, cut_offs: self.plans_in(plans)?, log })
    }

    pub(super) fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let (pairs, _) = self.client.read_all(&self.keys.enrolment().tokens(), 0).map_err(self.unread())?;
        self.tokens_in(pairs)
    }

    /// Tokens, the oldest first.
    pub(super) fn tokens_in(&self, pairs: Vec<Pair>) -> Result<Vec<Token>, StoreError> {
        let mut tokens: Vec<Token> = pairs.iter().map(|pair| self.parse(pair)).collect::<Result<_, _>>()?;
        tokens.sort_by(|one, other| (one.made_at, &one.id).cmp(&(other.made_at, &other.id)));
        Ok(tokens)
    }

    /// Certificates of one node, the oldest first.
    pub(super) fn certificates_in(&self, pairs: Vec<Pair>) -> Result<Vec<Certificate>, StoreError> {
        let mut own: Vec<Certificate> = pairs.iter().map(|pair| self.parse(pair)).collect::<Result<_, _>>()?;
        own.sort_by_key(|one| (one.issued_at, one.serial));
        Ok(own)
    }

    /// Plans by id, each from its parts.
    pub(super) fn plans_in(&self, pairs: Vec<Pair>) -> Result<Vec<CutOff>, StoreError> {
        let mut plans: BTreeMap<u64, CutOff> = BTreeMap::new();
        for pair in &pairs {
            let part: CutOff = self.parse(pair)?;
            match plans.get_mut(&part.id) {
                Some(plan) => plan.nodes.extend(part.nodes),
                None => drop(plans.insert(part.id, part)),
            }
        }
        Ok(plans.into_values().collect())
    }

    pub(super) fn log_part(&self, part: LogPart) -> Result<Vec<Logged>, StoreError> {
        let keys = self.keys.enrolment();
        let mut read = self.client.read([Range::one(&keys.at())]).map_err(self.unread())?;
        let at: At = self.parse_one(read.take_ranges().next())?.unwrap_or_default();
        let most = AUDIT_READ_MAX as u64;
        // Numbers rise by one, so the first one of a part is known.
        let (first, end) = match part {
            LogPart::After(number) => {
                let first = number.saturating_add(1);
                let oldest = (at.log.saturating_sub(LOG_KEPT) + 1).max(first);
                (first, oldest.saturating_add(most).min(at.log + 1))
            }
            LogPart::Before(number) => {
                let end = number.min(at.log + 1);
                (end.saturating_sub(most), end)
            }
        };
        if first >= end {
            return Ok(Vec::new());
        }
        let range = Range::between(&keys.entry(first), &keys.entry(end));
        let mut read = self.client.read_much([range]).map_err(self.unread())?;
        let pairs = read.take_ranges().next().unwrap_or_default().kvs;
        let logged = |pair: &Pair| {
            let number = number(pair.name(), &keys.log()).unwrap_or_default();
            let Link { entry, .. } = self.parse(pair)?;
            Ok(Logged { number, entry })
        };
        pairs.iter().map(logged).collect()
    }

    /// The log as it is stored, and where it ends, at one revision.
    pub(super) fn log_chain(&self, after: u64) -> Result<LogChain, StoreError> {
        let keys = self.keys.enrolment();
        let limit = i64::try_from(AUDIT_READ_MAX).unwrap_or(i64::MAX);
        let entries = Range::from(&keys.entry(after.saturating_add(1)), &keys.log()).limit(limit);
        let mut read = self.client.read_much([Range::one(&keys.at()), entries]).map_err(self.unread())?;
        let mut ranges = read.take_ranges();
        let at: At = self.parse_one(ranges.next())?.unwrap_or_default();
        let row = |pair: &Pair| {
            let (text, is_intact) = value::text(pair);
            LogRow { number: number(pair.name(), &keys.log()).unwrap_or_default(), text, is_intact }
        };
        // What a restore that was cut short has left there is not counted, and written over by the next entries.
        let rows = ranges.next().unwrap_or_default().kvs;
        let rows = rows.iter().map(row).filter(|row| row.number <= at.log).collect();
        Ok(LogChain { end: at.end(), rows })
    }
}
