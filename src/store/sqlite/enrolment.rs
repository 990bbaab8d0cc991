//! Tokens and certificates in the database.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::reader::locked;
use super::rows::{Rows, TextRow, int, sum};
use super::{SqliteReader, SqliteStore};
use crate::enrolment::{
    CERTIFICATES_MAX, Certificate, Claim, CutOff, EnrolError, EnrolRefused, Enrolments, Image, LOG_KEPT, LastUse,
    LogChain, LogEntry, LogPart, LogRow, LogWritten, Logged, ReadEnrolments, Recorded, Shown, TOKENS_MAX, Token,
    TokenEnd, TokenError, Wish, below, chained, cut_off, end_of, ended, expired, is_outlived, issued, joined, judge,
    made, met, restored, revoked, start,
};
use crate::error::{CommitError, StoreError};
use crate::limits::AUDIT_READ_MAX;
use tfo_engine::chained_log::LogEnd;
use tfo_engine::enrolment_log::Link;
use tfo_model::digest::Sha256;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_model::time::UnixTime;

/// The tables.  The columns beside a text are in it, too: they are there to be looked up by.  Persisted.
pub(super) const TABLES: &str = "
    CREATE TABLE token (
        id TEXT NOT NULL UNIQUE,
        text TEXT NOT NULL,
        sum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE certificate (
        serial TEXT NOT NULL UNIQUE,
        node TEXT NOT NULL,
        key BLOB NOT NULL UNIQUE,
        revoked INTEGER NOT NULL,
        text TEXT NOT NULL,
        sum BLOB NOT NULL
    ) STRICT;
    CREATE INDEX certificate_of_node ON certificate (node);
    CREATE INDEX certificate_revoked ON certificate (serial) WHERE revoked = 1;
    CREATE TABLE cut_off (
        id TEXT NOT NULL UNIQUE,
        text TEXT NOT NULL,
        sum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE enrolment_log (
        number INTEGER PRIMARY KEY,
        text TEXT NOT NULL,
        sum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE enrolment_end (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        text TEXT NOT NULL,
        sum BLOB NOT NULL
    ) STRICT;
    ";

/// `enrolment_end`: where the log ends, so that the loss of its last entry is noticed.  Persisted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct End {
    /// Number of the last entry.
    number: u64,
    /// Its digest.
    chain: Sha256,
}

impl<'a> Rows<'a> {
    fn tokens(self) -> Result<Vec<Token>, StoreError> {
        let rows: Vec<(String, TextRow)> =
            self.all("SELECT id, text, sum FROM token", [], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        let mut tokens: Vec<Token> =
            rows.iter().map(|(id, text)| self.parse(text, &["token", id])).collect::<Result<_, _>>()?;
        tokens.sort_by(|one, other| (one.made_at, &one.id).cmp(&(other.made_at, &other.id)));
        Ok(tokens)
    }

    fn token(self, id: &TokenId) -> Result<Option<Token>, StoreError> {
        let sql = "SELECT text, sum FROM token WHERE id = ?1";
        let row: Option<TextRow> = self.one(sql, [id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        row.map(|row| self.parse(&row, &["token", id.as_str()])).transpose()
    }

    fn put_token(self, token: &Token) -> Result<(), CommitError> {
        let (text, sum) = self.print(token, &["token", token.id.as_str()])?;
        let sql = "INSERT INTO token (id, text, sum) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (id) DO UPDATE SET text = excluded.text, sum = excluded.sum";
        self.write(sql, params![token.id.as_str(), text, sum]).map(drop)
    }

    fn drop_token(self, id: &TokenId) -> Result<(), CommitError> {
        self.write("DELETE FROM token WHERE id = ?1", [id.as_str()]).map(drop)
    }

    fn certificates_where(self, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<Certificate>, StoreError> {
        let rows: Vec<(String, TextRow)> =
            self.all(sql, parameters, |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        rows.iter().map(|(serial, text)| self.parse(text, &["certificate", serial])).collect()
    }

    fn certificates_of(self, node: &NodeId) -> Result<Vec<Certificate>, StoreError> {
        let sql = "SELECT serial, text, sum FROM certificate WHERE node = ?1";
        let mut own = self.certificates_where(sql, [node.as_str()])?;
        own.sort_by_key(|one| (one.issued_at, one.serial));
        Ok(own)
    }

    fn put_certificate(self, one: &Certificate) -> Result<(), CommitError> {
        let serial = one.serial.to_string();
        let (text, sum) = self.print(one, &["certificate", &serial])?;
        let sql = "INSERT INTO certificate (serial, node, key, revoked, text, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                   ON CONFLICT (serial) DO UPDATE SET revoked = excluded.revoked, text = excluded.text, sum = excluded.sum";
        let revoked = i64::from(one.revoked_at.is_some());
        self.write(sql, params![serial, one.node.as_str(), one.key.0, revoked, text, sum]).map(drop)
    }

    fn drop_certificate(self, one: &Certificate) -> Result<(), CommitError> {
        self.write("DELETE FROM certificate WHERE serial = ?1", [one.serial.to_string()]).map(drop)
    }

    fn count(self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, StoreError> {
        let count: Option<i64> = self.one(sql, parameters, |row| row.get(0))?;
        Ok(usize::try_from(count.unwrap_or_default()).unwrap_or(usize::MAX))
    }

    /// The token of a claim that holds.
    fn judged(self, wish: &Wish<'_>, now: UnixTime) -> Result<Result<Option<Token>, EnrolRefused>, StoreError> {
        let token = match wish.claim {
            Claim::Token { id, .. } => self.token(id)?,
            Claim::Renewal { .. } => None,
        };
        let is_cut_off = self.cut_offs()?.iter().any(|plan| plan.nodes.contains(wish.node));
        let own = self.certificates_of(wish.node)?;
        let key = wish.key.map(|key| key.0);
        let key_used = self.count("SELECT count(*) FROM certificate WHERE key = ?1", [key])? > 0;
        let judged = judge(wish, &Recorded { token: token.as_ref(), own: &own, key_used, is_cut_off }, now);
        Ok(judged.map(|()| token))
    }

    fn recorded(
        self,
        certificate: &Certificate,
        claim: Claim<'_>,
        from: Option<IpAddr>,
    ) -> Result<Result<bool, EnrolRefused>, CommitError> {
        let (node, now) = (&certificate.node, certificate.issued_at);
        let mut token = match self.judged(&Wish { node, key: Some(&certificate.key), claim }, now)? {
            Ok(token) => token,
            Err(refused) => return Ok(Err(refused)),
        };
        let outlived = self.certificates_of(node)?.into_iter().filter(|one| is_outlived(one, now));
        let count = || self.count("SELECT count(*) FROM certificate", []);
        if count()? >= CERTIFICATES_MAX {
            let revoked = self.revoked_certificates()?;
            let gone = revoked.iter().filter(|one| is_outlived(one, now) && one.node != *node);
            gone.into_iter().try_for_each(|one| self.drop_certificate(one))?;
        }
        outlived.into_iter().try_for_each(|one| self.drop_certificate(&one))?;
        if count()? >= CERTIFICATES_MAX {
            return Ok(Err(EnrolRefused::Full));
        }
        let replaces = token.as_ref().is_some_and(|token| token.replace);
        let replaced = if replaces { self.revoke(node, now)? } else { 0 };
        if let Some(token) = &mut token {
            token.used += 1;
            token.last_use = Some(LastUse { node: node.clone(), at: now });
            self.put_token(token)?;
        }
        self.put_certificate(certificate)?;
        self.log(&issued(certificate, (claim, token.as_ref()), replaced as u64, from))?;
        Ok(Ok(replaced > 0))
    }

    /// Revokes the certificates of a node that are not revoked; gives how many.
    fn revoke(self, node: &NodeId, at: UnixTime) -> Result<usize, CommitError> {
        let mut count = 0;
        for one in self.certificates_of(node)?.into_iter().filter(|one| one.revoked_at.is_none()) {
            self.put_certificate(&Certificate { revoked_at: Some(at), ..one })?;
            count += 1;
        }
        Ok(count)
    }

    fn cut_offs(self) -> Result<Vec<CutOff>, StoreError> {
        let rows: Vec<(String, TextRow)> = self.all("SELECT id, text, sum FROM cut_off ORDER BY id", [], |row| {
            Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))
        })?;
        rows.iter().map(|(id, text)| self.parse(text, &["cut_off", id])).collect()
    }

    fn put_cut_off(self, plan: &CutOff) -> Result<(), CommitError> {
        let id = cut_off_id(plan);
        let (text, sum) = self.print(plan, &["cut_off", &id])?;
        self.write("INSERT OR IGNORE INTO cut_off (id, text, sum) VALUES (?1, ?2, ?3)", params![id, text, sum])
            .map(drop)
    }

    /// The number of the last entry of the log.
    pub(super) fn log_number(self) -> Result<i64, StoreError> {
        Ok(self.enrolment_end()?.number.cast_signed())
    }

    fn enrolment_end(self) -> Result<End, StoreError> {
        let sql = "SELECT text, sum FROM enrolment_end";
        let row: Option<TextRow> = self.one(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        row.map_or(Ok(End { number: 0, chain: start() }), |row| self.parse(&row, &["enrolment_end"]))
    }

    fn log(self, entries: &[LogEntry]) -> Result<(), CommitError> {
        let (written, _) = chained(self.enrolment_end()?.chain, entries.iter().cloned());
        self.take_log(&written)
    }

    /// Adds entries that are linked already.
    fn take_log(self, written: &[LogWritten]) -> Result<(), CommitError> {
        let mut end = self.enrolment_end()?;
        end.chain = end_of(written, end.chain);
        for one in written {
            end.number += 1;
            let sum = sum(one.text(), &["enrolment_log", &end.number.to_string()]);
            let sql = "INSERT INTO enrolment_log (number, text, sum) VALUES (?1, ?2, ?3)";
            self.write(sql, params![int(end.number)?, one.text(), sum])?;
        }
        let (text, sum) = self.print(&end, &["enrolment_end"])?;
        let sql = "INSERT INTO enrolment_end (id, text, sum) VALUES (1, ?1, ?2) \
                   ON CONFLICT (id) DO UPDATE SET text = excluded.text, sum = excluded.sum";
        self.write(sql, params![text, sum])?;
        let oldest = int(end.number.saturating_sub(LOG_KEPT))?;
        self.write("DELETE FROM enrolment_log WHERE number <= ?1", [oldest]).map(drop)
    }

    /// Entries after a number as they are stored, be they right or not.
    fn log_rows(self, after: u64) -> Result<Vec<LogRow>, StoreError> {
        let sql = "SELECT number, text, sum FROM enrolment_log WHERE number > ?1 ORDER BY number LIMIT ?2";
        let (after, limit) =
            (i64::try_from(after).unwrap_or(i64::MAX), i64::try_from(AUDIT_READ_MAX).unwrap_or(i64::MAX));
        let rows: Vec<(i64, TextRow)> =
            self.all(sql, [after, limit], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        let row = |(number, (text, stored)): (i64, TextRow)| {
            let is_intact = sum(&text, &["enrolment_log", &number.to_string()]) == stored;
            LogRow { number: number.cast_unsigned(), text, is_intact }
        };
        Ok(rows.into_iter().map(row).collect())
    }

    fn logged(self, part: LogPart) -> Result<Vec<Logged>, StoreError> {
        let (sql, number) = match part {
            LogPart::After(number) => {
                ("SELECT number, text, sum FROM enrolment_log WHERE number > ?1 ORDER BY number LIMIT ?2", number)
            }
            LogPart::Before(number) => {
                ("SELECT number, text, sum FROM enrolment_log WHERE number < ?1 ORDER BY number DESC LIMIT ?2", number)
            }
        };
        let (number, limit) =
            (i64::try_from(number).unwrap_or(i64::MAX), i64::try_from(AUDIT_READ_MAX).unwrap_or(i64::MAX));
        let rows: Vec<(i64, TextRow)> =
            self.all(sql, [number, limit], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        let entry = |(number, text): &(i64, TextRow)| {
            let Link { entry, .. } = self.parse(text, &["enrolment_log", &number.to_string()])?;
            Ok(Logged { number: number.cast_unsigned(), entry })
        };
        let mut found: Vec<Logged> = rows.iter().map(entry).collect::<Result<_, StoreError>>()?;
        found.sort_by_key(|logged| logged.number);
        Ok(found)
    }

    fn image(self) -> Result<Image, StoreError> {
        let mut log: Vec<LogWritten> = Vec::new();
        let mut after = 0;
        loop {
            let page = self.log_rows(after)?;
            let Some(last) = page.last() else { break };
            after = last.number;
            for LogRow { number, text, is_intact } in page {
                let written = LogWritten::parse(text).ok().filter(|_| is_intact);
                let damaged = || self.place.damaged(format!("entry {number} of the log of enrolment is not right"));
                log.push(written.ok_or_else(damaged)?);
            }
        }
        let certificates = self.certificates_where("SELECT serial, text, sum FROM certificate ORDER BY serial", [])?;
        Ok(Image { tokens: self.tokens()?, certificates, cut_offs: self.cut_offs()?, log })
    }

    fn restored(self, image: &Image, at: UnixTime) -> Result<(), CommitError> {
        let mut changes = 0;
        for token in &image.tokens {
            if self.token(&token.id)?.is_none() {
                self.put_token(&ended(token, at))?;
                changes += 1;
            }
        }
        for saved in &image.certificates {
            let serial = saved.serial.to_string();
            let sql = "SELECT serial, text, sum FROM certificate WHERE serial = ?1 OR key = ?2";
            let found = self.certificates_where(sql, params![serial, saved.key.0])?;
            let put = match found.iter().find(|one| one.serial == saved.serial) {
                Some(stored) => Some(joined(stored, saved)).filter(|both| both != stored),
                None => found.is_empty().then(|| saved.clone()),
            };
            if let Some(put) = put {
                self.put_certificate(&put)?;
                changes += 1;
            }
        }
        let plans = self.cut_offs()?;
        for plan in image.cut_offs.iter().filter(|plan| !plans.iter().any(|known| known.id == plan.id)) {
            self.put_cut_off(plan)?;
            changes += 1;
        }
        if changes == 0 {
            return Ok(());
        }
        if self.log_number()? == 0 {
            self.take_log(&image.log)?;
        }
        self.log(&[restored(image, at)])
    }

    fn added(self, token: &Token, now: UnixTime) -> Result<Result<(), TokenError>, CommitError> {
        if self.token(&token.id)?.is_some() {
            return Ok(Err(TokenError::Exists));
        }
        let before =
            if self.count("SELECT count(*) FROM token", [])? < TOKENS_MAX { Vec::new() } else { self.tokens()? };
        let (ended, usable): (Vec<_>, Vec<_>) = before.iter().partition(|one| one.has_ended(now));
        if usable.len() >= TOKENS_MAX {
            return Ok(Err(TokenError::TooMany));
        }
        let kept = before.iter().filter(|one| !one.is_forgotten(now)).count();
        let gone = ended.into_iter().filter(|one| kept >= TOKENS_MAX || one.is_forgotten(now));
        gone.into_iter().try_for_each(|one| self.drop_token(&one.id))?;
        self.put_token(token)?;
        self.log(&[made(token)])?;
        Ok(Ok(()))
    }

    fn revoked_certificates(self) -> Result<Vec<Certificate>, StoreError> {
        self.certificates_where("SELECT serial, text, sum FROM certificate WHERE revoked = 1", [])
    }

    /// Reads everything, to find all damage.
    pub(super) fn check_enrolments(self) -> Result<(), StoreError> {
        self.image().map(drop)
    }
}

/// The id of a plan as its row has it.
fn cut_off_id(plan: &CutOff) -> String {
    format!("{:016x}", plan.id)
}

impl ReadEnrolments for SqliteReader {
    fn image(&self) -> Result<Image, StoreError> {
        self.reading(|rows| rows.image())
    }
}

impl ReadEnrolments for SqliteStore {
    fn image(&self) -> Result<Image, StoreError> {
        self.reader.image()
    }
}

impl Enrolments for SqliteStore {
    fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.reader.reading(|rows| rows.tokens())
    }

    fn add_token(&self, token: &Token, now: UnixTime) -> Result<(), TokenError> {
        self.writing(&mut locked(&self.writer), |rows| rows.added(token, now)).map_err(below)?
    }

    fn revoke_token(&self, id: &TokenId, end: &TokenEnd) -> Result<Option<Token>, StoreError> {
        let done = self.writing(&mut locked(&self.writer), |rows| {
            let Some(mut token) = rows.token(id)? else { return Ok(None) };
            if token.revoked.is_none() {
                token.revoked = Some(end.clone());
                rows.put_token(&token)?;
                rows.log(&[revoked(&token, end)])?;
            }
            Ok(Some(token))
        });
        done.map_err(below)
    }

    fn log_expired(&self, now: UnixTime) -> Result<(), StoreError> {
        if !self.tokens()?.iter().any(|token| token.is_newly_expired(now)) {
            return Ok(());
        }
        let logged = self.writing(&mut locked(&self.writer), |rows| {
            for token in rows.tokens()?.into_iter().filter(|token| token.is_newly_expired(now)) {
                rows.log(&[expired(&token)])?;
                rows.put_token(&Token { expiry_logged: true, ..token })?;
            }
            Ok(())
        });
        logged.map_err(below)
    }

    fn judge(&self, wish: &Wish<'_>, now: UnixTime) -> Result<Option<PoolName>, EnrolError> {
        self.lock.check()?;
        let token = self.reader.reading(|rows| rows.judged(wish, now))??;
        Ok(token.map(|token| token.pool))
    }

    fn record(&self, certificate: &Certificate, claim: Claim<'_>, from: Option<IpAddr>) -> Result<bool, EnrolError> {
        let recorded = self.writing(&mut locked(&self.writer), |rows| rows.recorded(certificate, claim, from));
        Ok(recorded.map_err(below)??)
    }

    fn meet(&self, shown: &Shown<'_>) -> Result<bool, StoreError> {
        let serial = shown.serial.to_string();
        let met = self.writing(&mut locked(&self.writer), |rows| {
            let known = rows.count("SELECT count(*) FROM certificate WHERE serial = ?1", [serial])? > 0;
            if known || rows.count("SELECT count(*) FROM certificate", [])? >= CERTIFICATES_MAX {
                return Ok(false);
            }
            rows.put_certificate(&shown.certificate())?;
            rows.log(&[met(shown)])?;
            Ok(true)
        });
        met.map_err(below)
    }

    fn certificates(&self, node: &NodeId) -> Result<Vec<Certificate>, StoreError> {
        self.reader.reading(|rows| rows.certificates_of(node))
    }

    fn plan_cut_off(&self, plan: &CutOff) -> Result<(), StoreError> {
        self.writing(&mut locked(&self.writer), |rows| rows.put_cut_off(plan)).map_err(below)
    }

    fn cut_offs(&self) -> Result<Vec<CutOff>, StoreError> {
        self.reader.reading(|rows| rows.cut_offs())
    }

    fn finish_cut_off(&self, plan: &CutOff, nodes: &BTreeSet<NodeId>, at: UnixTime) -> Result<usize, StoreError> {
        let finished = self.writing(&mut locked(&self.writer), |rows| {
            let mut count = 0;
            for node in nodes {
                count += rows.revoke(node, at)?;
            }
            if count > 0 {
                rows.log(&[cut_off(plan, nodes, count as u64, at)])?;
            }
            rows.write("DELETE FROM cut_off WHERE id = ?1", [cut_off_id(plan)])?;
            Ok(count)
        });
        finished.map_err(below)
    }

    fn revoked(&self) -> Result<Vec<Certificate>, StoreError> {
        self.reader.reading(|rows| rows.revoked_certificates())
    }

    fn log(&self, part: LogPart) -> Result<Vec<Logged>, StoreError> {
        self.reader.reading(|rows| rows.logged(part))
    }

    fn log_chain(&self, after: u64) -> Result<LogChain, StoreError> {
        self.reader.reading(|rows| {
            let End { number, chain } = rows.enrolment_end()?;
            Ok(LogChain { end: LogEnd { number, chain, kept: LOG_KEPT }, rows: rows.log_rows(after)? })
        })
    }

    fn add_to_log(&self, entries: &[LogEntry]) -> Result<(), StoreError> {
        self.writing(&mut locked(&self.writer), |rows| rows.log(entries)).map_err(below)
    }

    fn restore(&self, image: &Image, at: UnixTime) -> Result<(), StoreError> {
        self.writing(&mut locked(&self.writer), |rows| rows.restored(image, at)).map_err(below)
    }
}
