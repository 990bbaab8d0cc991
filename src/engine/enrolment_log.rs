//! The log of enrolment as a chain: each entry names the digest of the one before, so that one that was changed, removed or put
//! elsewhere is found ([`Verifier`]).
//!
//! It is not the log of a pool (`rollout::history`): no document follows from it, and its entries have numbers, which begin
//! again at one in a store that took it over from another.  What an entry says is judged as far as the log itself tells: a
//! token that was revoked or used up lets no node in.  Must not know: how a digest is made (it is passed in), stores, what
//! else an entry says.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::chained_log::{Broken, Chain, Fault, LogEnd, Row, Verified};
use super::rollout::history::Hash;
use tfo_model::digest::Sha256;
use tfo_model::fleet::EnrolAction;
use tfo_model::ids::TokenId;
use tfo_model::named::Named;

/// What is hashed begins with what it is, so that a digest of one kind is none of another.
const START: &str = "tfo-fleet/v1/enrolment/start\n";
const ENTRY: &str = "tfo-fleet/v1/enrolment/entry\n";

/// What comes before the first entry.
#[must_use]
pub fn start(hash: Hash) -> Sha256 {
    Sha256(hash(START.as_bytes()))
}

/// The digest of an entry as it is stored.
#[must_use]
pub fn digest_of(hash: Hash, text: &str) -> Sha256 {
    Sha256(hash(format!("{ENTRY}{text}").as_bytes()))
}

/// An entry in its chain.  Persisted, as the text of which the digest is made; a field may be added with a serde default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link<E> {
    /// Digest of the entry before it.
    pub before: Sha256,
    /// What it says.
    pub entry: E,
}

/// A link and its text, which is kept as it was written: later releases may print the same differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound(serialize = "E: Clone", deserialize = "E: DeserializeOwned"))]
pub struct Written<E> {
    text: String,
    entry: E,
}

impl<E: Serialize> Written<E> {
    /// Writes an entry after the one with that digest.
    ///
    /// # Panics
    /// Never: an entry is plain data with text as keys.
    #[must_use]
    pub fn new(before: Sha256, entry: E) -> Self {
        let link = Link { before, entry };
        let text = serde_json::to_string(&link).expect("plain data with text as keys");
        Self { text, entry: link.entry }
    }
}

impl<E: DeserializeOwned> Written<E> {
    /// Reads the text of one.
    ///
    /// # Errors
    /// Fails if it is not one.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        let Link { entry, .. } = serde_json::from_str(&text)?;
        Ok(Self { text, entry })
    }
}

impl<E> Written<E> {
    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it says.
    #[must_use]
    pub fn entry(&self) -> &E {
        &self.entry
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self, hash: Hash) -> Sha256 {
        digest_of(hash, &self.text)
    }
}

impl<E: DeserializeOwned> TryFrom<String> for Written<E> {
    type Error = serde_json::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(text)
    }
}

impl<E> From<Written<E>> for String {
    fn from(written: Written<E>) -> Self {
        written.text
    }
}

/// What the judgement asks of an entry.
#[derive(Debug, Deserialize)]
struct Said {
    action: Named<EnrolAction>,
    token: Option<TokenId>,
}

/// Reads a log, the oldest entry first.
#[derive(Debug)]
pub struct Verifier {
    hash: Hash,
    chain: Chain,
    made: BTreeSet<TokenId>,
    ended: BTreeSet<TokenId>,
}

impl Verifier {
    /// Of a log of which nothing was read.
    #[must_use]
    pub fn new(hash: Hash) -> Self {
        Self { hash, chain: Chain::default(), made: BTreeSet::new(), ended: BTreeSet::new() }
    }

    /// Of a log in which an earlier reader has seen that the entry of this number has this digest.
    #[must_use]
    pub fn expect(self, number: u64, digest: Sha256) -> Self {
        Self { chain: self.chain.expect(number, digest), ..self }
    }

    /// Reads the next entry.
    ///
    /// # Errors
    /// Fails with the first entry that is wrong.
    pub fn take(&mut self, row: Row<'_>) -> Result<(), Broken> {
        let Ok(Link { before, entry }) = serde_json::from_str::<Link<Said>>(row.text) else {
            return Fault::Altered("it cannot be read").of(row.number);
        };
        self.chain.follows(&row, before)?;
        self.judge(entry).or_else(|why| Fault::Illegal(why).of(row.number))?;
        self.chain.add(row.number, digest_of(self.hash, row.text))
    }

    fn judge(&mut self, said: Said) -> Result<(), &'static str> {
        let (Some(action), Some(token)) = (said.action.known(), said.token) else { return Ok(()) };
        match action {
            EnrolAction::TokenMade if !self.made.insert(token.clone()) => Err("there is a token with this id"),
            EnrolAction::Enrolled if self.ended.contains(&token) => Err("its token was revoked or used up before"),
            EnrolAction::TokenRevoked | EnrolAction::TokenUsedUp => {
                self.ended.insert(token);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// After the last entry.
    ///
    /// # Errors
    /// Fails if entries are missing at one of the ends, or if the last one is not the one that the store names.
    pub fn finish(self, end: &LogEnd) -> Result<Verified, Broken> {
        let is_empty = self.chain.is_empty();
        let verified = self.chain.finish(start(self.hash), end, 0)?;
        // A number is given to entries alone, unlike the revision of a document.
        if is_empty && end.number > 0 { Fault::Missing.of(1) } else { Ok(verified) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No digest for any other use: it tells texts apart.
    fn hash(bytes: &[u8]) -> [u8; 32] {
        let mut sum = [0; 32];
        for (at, byte) in bytes.iter().enumerate() {
            sum[at % 32] = u8::rotate_left(sum[at % 32] ^ byte, 3).wrapping_add(u8::try_from(at % 251).unwrap());
        }
        sum
    }

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Entry {
        action: String,
        token: Option<String>,
        reason: String,
    }

    fn entry(action: &str, token: &str) -> Entry {
        let token = (!token.is_empty()).then(|| token.to_owned());
        Entry { action: action.to_owned(), token, reason: String::new() }
    }

    const ONE: &str = "0123456789ab";

    fn log(entries: &[(&str, &str)]) -> Vec<String> {
        let mut before = start(hash);
        let write = |(action, token): &(&str, &str)| {
            let written = Written::new(before, entry(action, token));
            before = written.digest(hash);
            String::from(written)
        };
        entries.iter().map(write).collect()
    }

    fn life() -> Vec<String> {
        log(&[
            ("token_made", ONE),
            ("enrolled", ONE),
            ("token_used_up", ONE),
            ("renewed", ""),
            ("of_a_later_release", ONE),
        ])
    }

    fn read(rows: &[(u64, &str)], end: LogEnd, noted: Option<(u64, Sha256)>) -> Result<Verified, (u64, &'static str)> {
        let mut verifier = Verifier::new(hash);
        if let Some((number, digest)) = noted {
            verifier = verifier.expect(number, digest);
        }
        let taken =
            rows.iter().try_for_each(|(number, text)| verifier.take(Row { number: *number, text, is_intact: true }));
        let verified = taken.and_then(|()| verifier.finish(&end));
        verified.map_err(|broken| (broken.number, broken.fault.kind()))
    }

    fn numbered(log: &[String]) -> Vec<(u64, &str)> {
        (1..).zip(log.iter().map(String::as_str)).collect()
    }

    fn end_of(log: &[String], kept: u64) -> LogEnd {
        let chain = log.last().map_or_else(|| start(hash), |last| digest_of(hash, last));
        LogEnd { number: log.len() as u64, chain, kept }
    }

    #[test]
    fn a_whole_log_is_whole_also_without_its_oldest_entries() {
        let log = life();
        let rows = numbered(&log);
        let verified = |entries, first| Verified { entries, first, last: 5, chain: end_of(&log, 100).chain };
        assert_eq!(read(&rows, end_of(&log, 100), None), Ok(verified(5, 1)));
        assert_eq!(read(&rows[2..], end_of(&log, 3), None), Ok(verified(3, 3)));
        assert_eq!(read(&rows, end_of(&log, 100), Some((2, digest_of(hash, &log[1])))), Ok(verified(5, 1)));
        assert_eq!(read(&[], end_of(&[], 100), None).map(|verified| verified.entries), Ok(0));
        // A text is read back as it was written, also through JSON.
        let written: Written<Entry> = Written::parse(log[1].clone()).unwrap();
        assert_eq!((written.text(), written.entry()), (log[1].as_str(), &entry("enrolled", ONE)));
        let through: Written<Entry> = serde_json::from_str(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(through, written);
    }

    #[test]
    fn each_harm_is_named() {
        let log = life();
        let (rows, end) = (numbered(&log), end_of(&log, 100));
        let forged: Vec<String> =
            log.iter().map(|text| text.replace("\"reason\":\"\"", "\"reason\":\"as agreed\"")).collect();
        let with = |at: usize, text| {
            let mut rows = rows.clone();
            rows[at].1 = text;
            rows
        };
        let without = |at: usize| {
            let mut rows = rows.clone();
            rows.remove(at);
            rows
        };
        let other = start(hash);
        type Case<'a> = (&'a str, Vec<(u64, &'a str)>, LogEnd, Option<(u64, Sha256)>, (u64, &'a str));
        let cases: [Case<'_>; 12] = [
            ("altered", with(1, &forged[1]), end, None, (2, "audit_altered")),
            ("altered, the last one", with(4, &forged[4]), end, None, (5, "audit_altered")),
            ("not JSON", with(2, "{"), end, None, (3, "audit_altered")),
            ("another one in its place", with(1, &log[3]), end, None, (1, "audit_altered")),
            ("the first one is gone", without(0), end, None, (1, "audit_missing")),
            ("one is gone", without(2), end, None, (3, "audit_missing")),
            ("the last one is gone", without(4), end, None, (5, "audit_missing")),
            ("all are gone", Vec::new(), end, None, (1, "audit_missing")),
            ("one too many", rows.clone(), LogEnd { number: 4, ..end }, None, (5, "audit_missing")),
            ("another digest was noted", rows.clone(), end, Some((3, other)), (3, "audit_rewritten")),
            ("a later one was noted", rows.clone(), end, Some((9, other)), (9, "audit_missing")),
            (
                "an older one was noted",
                rows[2..].to_vec(),
                LogEnd { kept: 3, ..end },
                Some((1, other)),
                (1, "audit_pruned"),
            ),
        ];
        for (what, rows, end, noted, expected) in cases {
            assert_eq!(read(&rows, end, noted), Err(expected), "{what}");
        }
        let mut verifier = Verifier::new(hash);
        let broken = verifier.take(Row { number: 1, text: &log[0], is_intact: false }).unwrap_err();
        assert_eq!(broken.fault.kind(), "audit_altered");
    }

    #[test]
    fn a_token_that_has_ended_lets_no_node_in() {
        let two = "ba9876543210";
        for (entries, at) in [
            (&[("token_made", ONE), ("token_used_up", ONE), ("enrolled", ONE)][..], Some(3)),
            (&[("token_revoked", ONE), ("enrolled", ONE)], Some(2)),
            (&[("token_made", ONE), ("token_made", ONE)], Some(2)),
            // By the clock of another coordinator it has not expired.
            (&[("token_made", ONE), ("token_expired", ONE), ("enrolled", ONE)], None),
            (&[("token_revoked", ONE), ("enrolled", two), ("renewed", "")], None),
        ] {
            let log = log(entries);
            let read = read(&numbered(&log), end_of(&log, 100), None).map(drop);
            assert_eq!(read, at.map_or(Ok(()), |at| Err((at, "audit_illegal"))), "{entries:?}");
        }
    }
}
