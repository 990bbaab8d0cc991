//! Tokens and certificates in etcd, of all coordinators together: a use that one of them takes is taken for all.
//!
//! Invariants: what is decided is decided from one revision of etcd, and holds if no coordinator has changed anything of
//! enrolment since (`change`); what has more parts than a transaction takes is done in steps each of which may be the last one
//! of this process, and a second run finishes it (`bulk`).  Must not know: HTTP, keys, what is signed.

mod bulk;
mod change;
mod read;

use std::collections::BTreeSet;
use std::net::IpAddr;

use self::change::{Decided, Found, Write};
use super::reader::EtcdReader;
use super::wire::{Operation, Range};
use super::{EtcdStore, value};
use crate::enrolment::{
    CERTIFICATES_MAX, Certificate, Claim, CutOff, EnrolError, EnrolRefused, Enrolments, Image, LastUse, LogChain,
    LogEntry, LogPart, Logged, PER_NODE_MAX, ReadEnrolments, Recorded, Shown, TOKENS_MAX, Token, TokenEnd, TokenError,
    Wish, expired, is_outlived, issued, judge, made, met, revoked,
};
use crate::error::StoreError;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_model::time::UnixTime;

/// Tokens, or entries, of one transaction: each is two operations at most.
const SOME: usize = 50;
/// Most certificates that one transaction drops, three operations each; the next one drops the next.
const DROPPED_MAX: usize = 20;
/// Most certificates that one transaction revokes beside a new one: more than a node has that can be used.
const REPLACED_MAX: usize = PER_NODE_MAX + 8;

/// What is recorded of a wish, as it was read.
struct Known {
    token: Option<Token>,
    own: Vec<Certificate>,
    key_used: bool,
    is_cut_off: bool,
}

impl EtcdStore {
    /// What a wish is judged by.
    fn ranges_of(&self, wish: &Wish<'_>) -> Vec<Range> {
        let keys = self.reader.keys.enrolment();
        let token = match wish.claim {
            Claim::Token { id, .. } => Some(Range::one(&keys.token(id))),
            Claim::Renewal { .. } => None,
        };
        let key = wish.key.map(|key| Range::one(&keys.public_key(key)).count_only());
        [Range::under(&keys.certificates_of(wish.node)), Range::under(&keys.plans())]
            .into_iter()
            .chain(token)
            .chain(key)
            .collect()
    }

    fn known(&self, wish: &Wish<'_>, found: &mut Found) -> Result<Known, StoreError> {
        let own = self.reader.certificates_in(found.next().kvs)?;
        let plans = self.reader.plans_in(found.next().kvs)?;
        let token = match wish.claim {
            Claim::Token { .. } => self.reader.parse_one(Some(found.next()))?,
            Claim::Renewal { .. } => None,
        };
        let key_used = wish.key.is_some() && found.next().count > 0;
        Ok(Known { token, own, key_used, is_cut_off: plans.iter().any(|plan| plan.nodes.contains(wish.node)) })
    }

    fn put_token(&self, token: &Token) -> Operation {
        let key = self.reader.keys.enrolment().token(&token.id);
        Operation::put(&key, value::print(&key, token))
    }

    /// Writes a certificate that is there in the place of itself, or as a new one.
    fn put_certificate(&self, one: &Certificate) -> impl Iterator<Item = Operation> + use<> {
        let keys = self.reader.keys.enrolment();
        let key = keys.certificate(&one.node, &one.serial);
        let put = Operation::put(&key, value::print(&key, one));
        let list = one.revoked_at.map(|_| {
            let key = keys.revoked(&one.serial);
            Operation::put(&key, value::print(&key, one))
        });
        std::iter::once(put).chain(list)
    }

    /// What says that its public key is used.
    fn put_public_key(&self, one: &Certificate) -> Operation {
        let key = self.reader.keys.enrolment().public_key(&one.key);
        Operation::put(&key, value::print(&key, &(&one.node, &one.serial)))
    }

    fn drop_certificate(&self, one: &Certificate) -> [Operation; 3] {
        let keys = self.reader.keys.enrolment();
        [keys.certificate(&one.node, &one.serial), keys.public_key(&one.key), keys.revoked(&one.serial)]
            .map(|key| Operation::delete(&key))
    }

    fn recorded(
        &self,
        certificate: &Certificate,
        claim: Claim<'_>,
        from: Option<IpAddr>,
        mut found: Found,
    ) -> Result<Decided<bool>, EnrolError> {
        let (node, now) = (&certificate.node, certificate.issued_at);
        let wish = Wish { node, key: Some(&certificate.key), claim };
        let Known { mut token, own, key_used, is_cut_off } = self.known(&wish, &mut found)?;
        let replaces = token.as_ref().is_some_and(|token| token.replace);
        if found.is_again && own.iter().any(|one| one.serial == certificate.serial) {
            // What it has replaced is not known any more; at worst a list is looked at without need.
            return Ok(Decided::Nothing(replaces));
        }
        judge(&wish, &Recorded { token: token.as_ref(), own: &own, key_used, is_cut_off }, now)?;
        let (outlived, left): (Vec<_>, Vec<_>) = own.iter().partition(|one| is_outlived(one, now));
        let dropped = &outlived[..outlived.len().min(DROPPED_MAX)];
        if found.at.certificates.saturating_sub(dropped.len() as u64) >= CERTIFICATES_MAX as u64 {
            return Err(EnrolRefused::Full.into());
        }
        let mut operations: Vec<Operation> = dropped.iter().flat_map(|one| self.drop_certificate(one)).collect();
        let mut live: Vec<_> = left.into_iter().filter(|one| replaces && one.revoked_at.is_none()).collect();
        // Those that can be used come first; of those that have ended a transaction has no room for all.
        live.sort_by_key(|one| std::cmp::Reverse(one.not_after));
        live.truncate(REPLACED_MAX);
        for one in &live {
            operations.extend(self.put_certificate(&Certificate { revoked_at: Some(now), ..(*one).clone() }));
        }
        if let Some(token) = &mut token {
            token.used += 1;
            token.last_use = Some(LastUse { node: node.clone(), at: now });
            operations.push(self.put_token(token));
        }
        operations.extend(self.put_certificate(certificate));
        operations.push(self.put_public_key(certificate));
        let log = issued(certificate, (claim, token.as_ref()), live.len() as u64, from);
        let removed = dropped.len() as u64;
        Ok(Decided::Write(Write { operations, log, added: 1, removed, ..Write::of(!live.is_empty()) }))
    }

    /// Adds a token, if `all` of them need not be looked at for that.  None: they must.
    fn added(
        &self,
        token: &Token,
        now: UnixTime,
        is_whole: bool,
        mut found: Found,
    ) -> Result<Decided<Option<bool>>, TokenError> {
        let keys = self.reader.keys.enrolment();
        let same: Option<Token> = self.reader.parse_one(Some(found.next()))?;
        if let Some(same) = same {
            let is_ours = found.is_again && same == *token;
            return if is_ours { Ok(Decided::Nothing(Some(true))) } else { Err(TokenError::Exists) };
        }
        let all = found.next();
        let mut write = Write::of(Some(true));
        let is_full = usize::try_from(all.count).unwrap_or(usize::MAX) >= TOKENS_MAX;
        if is_full && !is_whole {
            return Ok(Decided::Nothing(None));
        }
        // Once it was full, all that ended long ago go, in as many steps as it takes.
        if is_whole {
            let before = self.reader.tokens_in(all.kvs)?;
            let (ended, usable): (Vec<_>, Vec<_>) = before.iter().partition(|one| one.has_ended(now));
            if usable.len() >= TOKENS_MAX {
                return Err(TokenError::TooMany);
            }
            let kept = before.iter().filter(|one| !one.is_forgotten(now)).count();
            let gone = ended.into_iter().filter(|one| kept >= TOKENS_MAX || one.is_forgotten(now));
            write.operations = gone.map(|one| Operation::delete(&keys.token(&one.id))).collect();
            if write.operations.len() > SOME {
                write.operations.truncate(SOME);
                return Ok(Decided::Write(Write { value: Some(false), ..write }));
            }
        }
        write.operations.push(self.put_token(token));
        write.log.push(made(token));
        Ok(Decided::Write(write))
    }
}

impl ReadEnrolments for EtcdReader {
    fn image(&self) -> Result<Image, StoreError> {
        self.enrolments()
    }
}

impl ReadEnrolments for EtcdStore {
    fn image(&self) -> Result<Image, StoreError> {
        self.reader.enrolments()
    }
}

impl Enrolments for EtcdStore {
    fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.reader.tokens()
    }

    fn add_token(&self, token: &Token, now: UnixTime) -> Result<(), TokenError> {
        let keys = self.reader.keys.enrolment();
        let mut is_whole = false;
        loop {
            let all = || {
                let all = Range::under(&keys.tokens());
                if is_whole { all } else { all.count_only() }
            };
            let ranges = || vec![Range::one(&keys.token(&token.id)), all()];
            match self.change(ranges, |found| self.added(token, now, is_whole, found))? {
                Some(true) => return Ok(()),
                // Some of those that ended are gone.
                Some(false) => {}
                None => is_whole = true,
            }
        }
    }

    fn revoke_token(&self, id: &TokenId, end: &TokenEnd) -> Result<Option<Token>, StoreError> {
        let ranges = || vec![Range::one(&self.reader.keys.enrolment().token(id))];
        self.change(ranges, |mut found| {
            let Some(mut token) = self.reader.parse_one::<Token>(Some(found.next()))? else {
                return Ok(Decided::Nothing(None));
            };
            if token.revoked.is_some() {
                return Ok(Decided::Nothing(Some(token)));
            }
            token.revoked = Some(end.clone());
            let (operations, log) = (vec![self.put_token(&token)], vec![revoked(&token, end)]);
            Ok(Decided::Write(Write { operations, log, ..Write::of(Some(token)) }))
        })
    }

    fn log_expired(&self, now: UnixTime) -> Result<(), StoreError> {
        // Each coordinator looks each minute, and as a rule there is nothing.
        while self.tokens()?.iter().any(|token| token.is_newly_expired(now)) {
            let ranges = || vec![Range::under(&self.reader.keys.enrolment().tokens())];
            self.change(ranges, |mut found| {
                let tokens = self.reader.tokens_in(found.next().kvs)?;
                let mut write = Write::of(());
                for token in tokens.into_iter().filter(|token| token.is_newly_expired(now)).take(SOME) {
                    write.log.push(expired(&token));
                    write.operations.push(self.put_token(&Token { expiry_logged: true, ..token }));
                }
                Ok::<_, StoreError>(if write.log.is_empty() { Decided::Nothing(()) } else { Decided::Write(write) })
            })?;
        }
        Ok(())
    }

    fn judge(&self, wish: &Wish<'_>, now: UnixTime) -> Result<Option<PoolName>, EnrolError> {
        self.change(
            || self.ranges_of(wish),
            |mut found| {
                let Known { token, own, key_used, is_cut_off } = self.known(wish, &mut found)?;
                judge(wish, &Recorded { token: token.as_ref(), own: &own, key_used, is_cut_off }, now)?;
                Ok(Decided::Nothing(token.map(|token| token.pool)))
            },
        )
    }

    fn record(&self, certificate: &Certificate, claim: Claim<'_>, from: Option<IpAddr>) -> Result<bool, EnrolError> {
        let wish = Wish { node: &certificate.node, key: Some(&certificate.key), claim };
        let record = || self.change(|| self.ranges_of(&wish), |found| self.recorded(certificate, claim, from, found));
        match record() {
            Err(EnrolError::Refused(EnrolRefused::Full)) if self.make_room(certificate.issued_at)? => record(),
            recorded => recorded,
        }
    }

    fn meet(&self, shown: &Shown<'_>) -> Result<bool, StoreError> {
        let key = self.reader.keys.enrolment().certificate(shown.node, &shown.serial);
        self.change(
            || vec![Range::one(&key).count_only()],
            |mut found| {
                if found.next().count > 0 || found.at.certificates >= CERTIFICATES_MAX as u64 {
                    return Ok(Decided::Nothing(false));
                }
                let one = shown.certificate();
                let operations = self.put_certificate(&one).chain([self.put_public_key(&one)]).collect();
                Ok(Decided::Write(Write { operations, log: vec![met(shown)], added: 1, ..Write::of(true) }))
            },
        )
    }

    fn certificates(&self, node: &NodeId) -> Result<Vec<Certificate>, StoreError> {
        let prefix = self.reader.keys.enrolment().certificates_of(node);
        let mut read = self.reader.client.read([Range::under(&prefix)]).map_err(self.reader.unread())?;
        self.reader.certificates_in(read.take_ranges().next().unwrap_or_default().kvs)
    }

    fn plan_cut_off(&self, plan: &CutOff) -> Result<(), StoreError> {
        self.put_plan(plan)
    }

    fn cut_offs(&self) -> Result<Vec<CutOff>, StoreError> {
        let plans = self.reader.keys.enrolment().plans();
        let (pairs, _) = self.reader.client.read_all(&plans, 0).map_err(self.reader.unread())?;
        self.reader.plans_in(pairs)
    }

    fn finish_cut_off(&self, plan: &CutOff, nodes: &BTreeSet<NodeId>, at: UnixTime) -> Result<usize, StoreError> {
        self.carry_out(plan, nodes, at)
    }

    fn revoked(&self) -> Result<Vec<Certificate>, StoreError> {
        let all = self.reader.keys.enrolment().all_revoked();
        let (pairs, _) = self.reader.client.read_all(&all, 0).map_err(self.reader.unread())?;
        pairs.iter().map(|pair| self.reader.parse(pair)).collect()
    }

    fn log(&self, part: LogPart) -> Result<Vec<Logged>, StoreError> {
        self.reader.log_part(part)
    }

    fn log_chain(&self, after: u64) -> Result<LogChain, StoreError> {
        self.reader.log_chain(after)
    }

    fn add_to_log(&self, entries: &[LogEntry]) -> Result<(), StoreError> {
        entries.chunks(SOME).try_for_each(|some| {
            self.change(Vec::new, |_| Ok(Decided::Write(Write { log: some.to_vec(), ..Write::of(()) })))
        })
    }

    fn restore(&self, image: &Image, at: UnixTime) -> Result<(), StoreError> {
        self.take_over(image, at)
    }
}
