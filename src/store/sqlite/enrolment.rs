//! Tokens and certificates in the database.

use std::collections::BTreeSet;

use rusqlite::params;

use super::SqliteStore;
use super::reader::locked;
use super::rows::{Rows, TextRow};
use crate::enrolment::{
    CERTIFICATES_MAX, Certificate, Claim, EnrolError, EnrolRefused, Enrolments, LastUse, Recorded, TOKENS_MAX, Token,
    TokenEnd, TokenError, Wish, below, is_outlived, judge,
};
use crate::error::{CommitError, StoreError};
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
    ";

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
            Claim::Renewal => None,
        };
        let own = self.certificates_of(wish.node)?;
        let key = wish.key.map(|key| key.0);
        let key_used = self.count("SELECT count(*) FROM certificate WHERE key = ?1", [key])? > 0;
        let judged = judge(wish, &Recorded { token: token.as_ref(), own: &own, key_used }, now);
        Ok(judged.map(|()| token))
    }

    fn recorded(self, certificate: &Certificate, claim: Claim<'_>) -> Result<Result<bool, EnrolRefused>, CommitError> {
        let (node, now) = (&certificate.node, certificate.issued_at);
        let token = match self.judged(&Wish { node, key: Some(&certificate.key), claim }, now)? {
            Ok(token) => token,
            Err(refused) => return Ok(Err(refused)),
        };
        let (outlived, own): (Vec<_>, Vec<_>) =
            self.certificates_of(node)?.into_iter().partition(|one| is_outlived(one, now));
        let count = || self.count("SELECT count(*) FROM certificate", []);
        if count()? >= CERTIFICATES_MAX {
            let revoked = self.revoked_certificates()?;
            let gone = revoked.iter().filter(|one| is_outlived(one, now) && one.node != *node);
            gone.into_iter().try_for_each(|one| self.drop_certificate(one))?;
        }
        outlived.iter().try_for_each(|one| self.drop_certificate(one))?;
        if count()? >= CERTIFICATES_MAX {
            return Ok(Err(EnrolRefused::Full));
        }
        let replaces = token.as_ref().is_some_and(|token| token.replace);
        let mut revoked = false;
        for one in own.into_iter().filter(|one| replaces && one.revoked_at.is_none()) {
            self.put_certificate(&Certificate { revoked_at: Some(now), ..one })?;
            revoked = true;
        }
        if let Some(mut token) = token {
            token.used += 1;
            token.last_use = Some(LastUse { node: node.clone(), at: now });
            self.put_token(&token)?;
        }
        self.put_certificate(certificate)?;
        Ok(Ok(revoked))
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
        Ok(Ok(()))
    }

    fn revoked_certificates(self) -> Result<Vec<Certificate>, StoreError> {
        self.certificates_where("SELECT serial, text, sum FROM certificate WHERE revoked = 1", [])
    }

    /// Reads everything, to find all damage.
    pub(super) fn check_enrolments(self) -> Result<(), StoreError> {
        self.tokens()?;
        self.certificates_where("SELECT serial, text, sum FROM certificate", []).map(drop)
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
        let revoked = self.writing(&mut locked(&self.writer), |rows| {
            let Some(mut token) = rows.token(id)? else { return Ok(None) };
            if token.revoked.is_none() {
                token.revoked = Some(end.clone());
                rows.put_token(&token)?;
            }
            Ok(Some(token))
        });
        revoked.map_err(below)
    }

    fn judge(&self, wish: &Wish<'_>, now: UnixTime) -> Result<Option<PoolName>, EnrolError> {
        self.lock.check()?;
        let token = self.reader.reading(|rows| rows.judged(wish, now))??;
        Ok(token.map(|token| token.pool))
    }

    fn record(&self, certificate: &Certificate, claim: Claim<'_>) -> Result<bool, EnrolError> {
        let recorded = self.writing(&mut locked(&self.writer), |rows| rows.recorded(certificate, claim));
        Ok(recorded.map_err(below)??)
    }

    fn certificates(&self, node: &NodeId) -> Result<Vec<Certificate>, StoreError> {
        self.reader.reading(|rows| rows.certificates_of(node))
    }

    fn revoke(&self, nodes: &BTreeSet<NodeId>, at: UnixTime) -> Result<usize, StoreError> {
        let revoked = self.writing(&mut locked(&self.writer), |rows| {
            let mut count = 0;
            for node in nodes {
                for one in rows.certificates_of(node)?.into_iter().filter(|one| one.revoked_at.is_none()) {
                    rows.put_certificate(&Certificate { revoked_at: Some(at), ..one })?;
                    count += 1;
                }
            }
            Ok(count)
        });
        revoked.map_err(below)
    }

    fn revoked(&self) -> Result<Vec<Certificate>, StoreError> {
        self.reader.reading(|rows| rows.revoked_certificates())
    }
}
