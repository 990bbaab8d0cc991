//! Tokens and certificates in memory: the simplest statement of what a store does with them.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::Recorded;
use super::{
    CERTIFICATES_MAX, Certificate, Claim, EnrolError, EnrolRefused, Enrolments, LastUse, TOKENS_MAX, Token, TokenEnd,
    TokenError, Wish, is_outlived, judge,
};
use crate::error::StoreError;
use crate::memory::MemoryStore;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_model::serial::SerialNumber;
use tfo_model::time::UnixTime;

/// Everything that is recorded.
#[derive(Debug, Default)]
pub(crate) struct Book {
    tokens: BTreeMap<TokenId, Token>,
    certificates: BTreeMap<SerialNumber, Certificate>,
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
            Claim::Renewal => None,
        };
        let key_used = self.certificates.values().any(|one| Some(&one.key) == wish.key);
        judge(wish, &Recorded { token, own: &self.of(wish.node), key_used }, now)?;
        Ok(token)
    }
}

impl Enrolments for MemoryStore {
    fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let mut tokens: Vec<Token> = self.book().tokens.values().cloned().collect();
        tokens.sort_by(|one, other| (one.made_at, &one.id).cmp(&(other.made_at, &other.id)));
        Ok(tokens)
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
        Ok(())
    }

    fn revoke_token(&self, id: &TokenId, end: &TokenEnd) -> Result<Option<Token>, StoreError> {
        Ok(self.book().tokens.get_mut(id).map(|token| {
            token.revoked.get_or_insert_with(|| end.clone());
            token.clone()
        }))
    }

    fn judge(&self, wish: &Wish<'_>, now: UnixTime) -> Result<Option<PoolName>, EnrolError> {
        Ok(self.book().judge(wish, now)?.map(|token| token.pool.clone()))
    }

    fn record(&self, certificate: &Certificate, claim: Claim<'_>) -> Result<bool, EnrolError> {
        let mut book = self.book();
        let now = certificate.issued_at;
        let wish = Wish { node: &certificate.node, key: Some(&certificate.key), claim };
        let token = book.judge(&wish, now)?.map(|token| (token.id.clone(), token.replace));
        let node = &certificate.node;
        book.certificates.retain(|_, one| one.node != *node || !is_outlived(one, now));
        if book.certificates.len() >= CERTIFICATES_MAX {
            book.certificates.retain(|_, one| one.revoked_at.is_none() || !is_outlived(one, now));
        }
        if book.certificates.len() >= CERTIFICATES_MAX {
            return Err(EnrolRefused::Full.into());
        }
        let mut revoked = false;
        if let Some((id, replace)) = token {
            if let Some(token) = book.tokens.get_mut(&id) {
                token.used += 1;
                token.last_use = Some(LastUse { node: node.clone(), at: now });
            }
            if replace {
                for one in book.certificates.values_mut().filter(|one| one.node == *node && one.revoked_at.is_none()) {
                    one.revoked_at = Some(now);
                    revoked = true;
                }
            }
        }
        book.certificates.insert(certificate.serial, certificate.clone());
        Ok(revoked)
    }

    fn certificates(&self, node: &NodeId) -> Result<Vec<Certificate>, StoreError> {
        Ok(self.book().of(node))
    }

    fn revoke(&self, nodes: &BTreeSet<NodeId>, at: UnixTime) -> Result<usize, StoreError> {
        let mut book = self.book();
        let own = book.certificates.values_mut();
        let found = own.filter(|one| one.revoked_at.is_none() && nodes.contains(&one.node));
        Ok(found.map(|one| one.revoked_at = Some(at)).count())
    }

    fn revoked(&self) -> Result<Vec<Certificate>, StoreError> {
        Ok(self.book().certificates.values().filter(|one| one.revoked_at.is_some()).cloned().collect())
    }
}
