//! Tokens and certificates in memory: the simplest statement of what a store does with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::judge::Recorded;
use super::{
    CERTIFICATES_MAX, Certificate, Claim, CutOff, Digest, EnrolError, EnrolRefused, Enrolments, Image, LOG_KEPT,
    LastUse, LogChain, LogEntry, LogPart, LogRow, LogWritten, Logged, ReadEnrolments, Shown, TOKENS_MAX, Token,
    TokenEnd, TokenError, Wish, chained, cut_off, ended, expired, is_outlived, issued, joined, judge, made, met,
    restored, revoked, start,
};
use crate::error::StoreError;
use crate::limits::AUDIT_READ_MAX;
use crate::memory::MemoryStore;
use tfo_crypto::checksum::sha256;
use tfo_engine::chained_log::LogEnd;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_model::serial::SerialNumber;
use tfo_model::time::UnixTime;

/// Everything that is recorded.
#[derive(Debug, Default)]
pub(crate) struct Book {
    tokens: BTreeMap<TokenId, Token>,
    certificates: BTreeMap<SerialNumber, Certificate>,
    cut_offs: BTreeMap<u64, CutOff>,
    log: BTreeMap<u64, LogWritten>,
}

impl Book {
    fn of(&self, node: &NodeId) -> Vec<Certificate> {
        let mut own: Vec<_> = self.certificates.values().filter(|one| one.node == *node).cloned().collect();
        own.sort_by_key(|one| (one.issued_at, one.serial));
        own
    }

    fn judge(&self, wish: &Wish<'_>, now: UnixTime) -> Result<Option<&Token>, EnrolRefused> {
        let token = match wish.claim {
            Claim::Token { id, .. } => self.tokens.get(id),
            Claim::Renewal { .. } => None,
        };
        let key_used = self.certificates.values().any(|one| Some(&one.key) == wish.key);
        let is_cut_off = self.cut_offs.values().any(|plan| plan.nodes.contains(wish.node));
        judge(wish, &Recorded { token, own: &self.of(wish.node), key_used, is_cut_off }, now)?;
        Ok(token)
    }

    fn log(&mut self, entries: impl IntoIterator<Item = LogEntry>) {
        let (written, _) = chained(self.log_end().chain, entries);
        self.take_log(written);
    }

    fn take_log(&mut self, written: Vec<LogWritten>) {
        let first = self.log_end().number + 1;
        self.log.extend((first..).zip(written));
        while self.log.len() as u64 > LOG_KEPT {
            self.log.pop_first();
        }
    }

    fn log_end(&self) -> LogEnd {
        let last = self.log.last_key_value();
        let (number, chain) = last.map_or_else(|| (0, start()), |(number, last)| (*number, last.digest(sha256)));
        LogEnd { number, chain, kept: LOG_KEPT }
    }

    /// Revokes what is not revoked yet of what `wanted` says; gives how many.
    fn revoke(&mut self, at: UnixTime, wanted: impl Fn(&NodeId) -> bool) -> usize {
        let own = self.certificates.values_mut();
        let found = own.filter(|one| one.revoked_at.is_none() && wanted(&one.node));
        found.map(|one| one.revoked_at = Some(at)).count()
    }

    fn tokens(&self) -> Vec<Token> {
        let mut tokens: Vec<Token> = self.tokens.values().cloned().collect();
        tokens.sort_by(|one, other| (one.made_at, &one.id).cmp(&(other.made_at, &other.id)));
        tokens
    }
}

impl ReadEnrolments for MemoryStore {
    fn image(&self) -> Result<Image, StoreError> {
        let book = self.book();
        Ok(Image {
            tokens: book.tokens(),
            certificates: book.certificates.values().cloned().collect(),
            cut_offs: book.cut_offs.values().cloned().collect(),
            log: book.log.values().cloned().collect(),
        })
    }
}

impl Enrolments for MemoryStore {
    fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        Ok(self.book().tokens())
    }

    fn add_token(&self, token: &Token, now: UnixTime) -> Result<(), TokenError> {
        let mut book = self.book();
        if book.tokens.contains_key(&token.id) {
            return Err(TokenError::Exists);
        }
        let usable = book.tokens.values().filter(|one| !one.has_ended(now)).count();
        if usable >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        if book.tokens.len() >= TOKENS_MAX {
            book.tokens.retain(|_, one| !one.is_forgotten(now));
        }
        if book.tokens.len() >= TOKENS_MAX {
            book.tokens.retain(|_, one| !one.has_ended(now));
        }
        book.tokens.insert(token.id.clone(), token.clone());
        book.log([made(token)]);
        Ok(())
    }

    fn revoke_token(&self, id: &TokenId, end: &TokenEnd) -> Result<Option<Token>, StoreError> {
        let mut book = self.book();
        let Some(token) = book.tokens.get_mut(id) else { return Ok(None) };
        let is_new = token.revoked.is_none();
        token.revoked.get_or_insert_with(|| end.clone());
        let token = token.clone();
        book.log(is_new.then(|| revoked(&token, end)));
        Ok(Some(token))
    }

    fn log_expired(&self, now: UnixTime) -> Result<(), StoreError> {
        let mut book = self.book();
        let mut entries = Vec::new();
        for token in book.tokens.values_mut().filter(|token| token.is_newly_expired(now)) {
            token.expiry_logged = true;
            entries.push(expired(token));
        }
        book.log(entries);
        Ok(())
    }

    fn judge(&self, wish: &Wish<'_>, now: UnixTime) -> Result<Option<PoolName>, EnrolError> {
        Ok(self.book().judge(wish, now)?.map(|token| token.pool.clone()))
    }

    fn record(&self, certificate: &Certificate, claim: Claim<'_>, from: Option<IpAddr>) -> Result<bool, EnrolError> {
        let mut book = self.book();
        let now = certificate.issued_at;
        let wish = Wish { node: &certificate.node, key: Some(&certificate.key), claim };
        let mut token = book.judge(&wish, now)?.cloned();
        let node = &certificate.node;
        book.certificates.retain(|_, one| one.node != *node || !is_outlived(one, now));
        if book.certificates.len() >= CERTIFICATES_MAX {
            book.certificates.retain(|_, one| one.revoked_at.is_none() || !is_outlived(one, now));
        }
        if book.certificates.len() >= CERTIFICATES_MAX {
            return Err(EnrolRefused::Full.into());
        }
        let replaces = token.as_ref().is_some_and(|token| token.replace);
        let replaced = if replaces { book.revoke(now, |one| one == node) } else { 0 };
        if let Some(token) = &mut token {
            token.used += 1;
            token.last_use = Some(LastUse { node: node.clone(), at: now });
            book.tokens.insert(token.id.clone(), token.clone());
        }
        book.certificates.insert(certificate.serial, certificate.clone());
        book.log(issued(certificate, (claim, token.as_ref()), replaced as u64, from));
        Ok(replaced > 0)
    }

    fn meet(&self, shown: &Shown<'_>) -> Result<bool, StoreError> {
        let mut book = self.book();
        if book.certificates.contains_key(&shown.serial) || book.certificates.len() >= CERTIFICATES_MAX {
            return Ok(false);
        }
        book.certificates.insert(shown.serial, shown.certificate());
        book.log([met(shown)]);
        Ok(true)
    }

    fn certificates(&self, node: &NodeId) -> Result<Vec<Certificate>, StoreError> {
        Ok(self.book().of(node))
    }

    fn plan_cut_off(&self, plan: &CutOff) -> Result<(), StoreError> {
        self.book().cut_offs.insert(plan.id, plan.clone());
        Ok(())
    }

    fn cut_offs(&self) -> Result<Vec<CutOff>, StoreError> {
        Ok(self.book().cut_offs.values().cloned().collect())
    }

    fn finish_cut_off(&self, plan: &CutOff, nodes: &BTreeSet<NodeId>, at: UnixTime) -> Result<usize, StoreError> {
        let mut book = self.book();
        book.cut_offs.remove(&plan.id);
        let count = book.revoke(at, |node| nodes.contains(node));
        book.log((count > 0).then(|| cut_off(plan, nodes, count as u64, at)));
        Ok(count)
    }

    fn revoked(&self) -> Result<Vec<Certificate>, StoreError> {
        Ok(self.book().certificates.values().filter(|one| one.revoked_at.is_some()).cloned().collect())
    }

    fn log(&self, part: LogPart) -> Result<Vec<Logged>, StoreError> {
        let book = self.book();
        let logged =
            |(number, written): (&u64, &LogWritten)| Logged { number: *number, entry: written.entry().clone() };
        Ok(match part {
            LogPart::After(number) => {
                book.log.range(number.saturating_add(1)..).take(AUDIT_READ_MAX).map(logged).collect()
            }
            LogPart::Before(number) => {
                let mut last: Vec<_> = book.log.range(..number).rev().take(AUDIT_READ_MAX).map(logged).collect();
                last.reverse();
                last
            }
        })
    }

    fn log_chain(&self, after: u64) -> Result<LogChain, StoreError> {
        let book = self.book();
        let row = |(number, written): (&u64, &LogWritten)| LogRow {
            number: *number,
            text: written.text().to_owned(),
            is_intact: true,
        };
        let rows = book.log.range(after.saturating_add(1)..).take(AUDIT_READ_MAX).map(row).collect();
        Ok(LogChain { end: book.log_end(), rows })
    }

    fn add_to_log(&self, entries: &[LogEntry]) -> Result<(), StoreError> {
        self.book().log(entries.iter().cloned());
        Ok(())
    }

    fn restore(&self, image: &Image, at: UnixTime) -> Result<(), StoreError> {
        let mut book = self.book();
        let before = (book.tokens.len(), book.certificates.len(), book.cut_offs.len());
        for token in &image.tokens {
            book.tokens.entry(token.id.clone()).or_insert_with(|| ended(token, at));
        }
        let mut keys: BTreeSet<Digest> = book.certificates.values().map(|one| one.key).collect();
        let mut revoked = 0;
        for saved in &image.certificates {
            if let Some(stored) = book.certificates.get_mut(&saved.serial) {
                let both = joined(stored, saved);
                revoked += usize::from(both != *stored);
                *stored = both;
            } else if keys.insert(saved.key) {
                book.certificates.insert(saved.serial, saved.clone());
            }
        }
        for plan in &image.cut_offs {
            book.cut_offs.entry(plan.id).or_insert_with(|| plan.clone());
        }
        if before != (book.tokens.len(), book.certificates.len(), book.cut_offs.len()) || revoked > 0 {
            if book.log.is_empty() {
                book.take_log(image.log.clone());
            }
            book.log([restored(image, at)]);
        }
        Ok(())
    }
}
