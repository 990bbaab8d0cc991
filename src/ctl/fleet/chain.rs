//! `audit --verify`: reads the whole audit log of a pool, and that of tokens and certificates, as they are stored, and says whether
//! they are what was written, and whether each step is one that the rules allow (`tfo_engine::rollout::history`,
//! `tfo_engine::enrolment_log`).
//!
//! It judges here and not in the coordinator, so that what it says depends on nothing but the log.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::Serialize;

use super::ask::Fleet;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver_as};
use tfo_crypto::checksum::sha256;
use tfo_engine::chained_log::{self, Broken, Fault, Row, Verified};
use tfo_engine::enrolment_log;
use tfo_engine::rollout::history;
use tfo_model::count::Revision;
use tfo_model::digest::Sha256;
use tfo_model::ids::PoolName;
use tfo_wire::v1::chain::{AuditChain, EnrolmentChain};

/// Most pages that are read: more than any store keeps.
const PAGES_MAX: usize = 1_000;

/// An entry as an earlier reader has seen it: `NUMBER:DIGEST`, of the log of a pool `REVISION:DIGEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    number: u64,
    digest: Sha256,
}

impl FromStr for Noted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let noted = text
            .split_once(':')
            .and_then(|(number, digest)| Some(Self { number: number.parse().ok()?, digest: digest.parse().ok()? }));
        noted.ok_or_else(|| "it is a number, a colon and a digest, as an earlier run printed them".to_owned())
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.digest)
    }
}

/// What was found in one log.
#[derive(Debug, Serialize)]
struct Found {
    /// Whether nothing is wrong.
    whole: bool,
    /// Number of entries; null if one is wrong.
    entries: Option<u64>,
    /// The oldest entry.
    first: Option<u64>,
    /// The latest entry.
    last: Option<u64>,
    /// Its digest, which stands for all before it.
    chain: Option<Sha256>,
    /// The first entry that is wrong.
    broken: Option<Wrong>,
}

/// An entry that is wrong.
#[derive(Debug, Serialize)]
struct Wrong {
    #[serde(flatten)]
    at: At,
    kind: &'static str,
    message: String,
    remedy: &'static str,
}

/// Where it is.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum At {
    /// In the log of a pool.
    Revision(u64),
    /// In that of tokens and certificates.
    Number(u64),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(revision) => write!(f, "the entry of revision {revision}"),
            Self::Number(number) => write!(f, "entry {number}"),
        }
    }
}

impl At {
    fn remedy(self, fault: &Fault) -> &'static str {
        match (fault, self) {
            (Fault::Pruned, _) => "compare with a later note; a store keeps a bounded number of entries",
            (Fault::Document | Fault::Illegal(_), Self::Revision(_)) => {
                "`tfoctl pause` the pool, and compare `tfoctl pools` with what the nodes hold (`tfoctl nodes`) before the next \
                 rotation (docs/how-to/audit_not_whole.md)"
            }
            (Fault::Document | Fault::Illegal(_), Self::Number(_)) => {
                "compare `tfoctl nodes` with the hosts that you know, and `tfoctl deny` what you do not \
                 (docs/how-to/audit_not_whole.md)"
            }
            (Fault::Missing | Fault::Moved(_) | Fault::Altered(_) | Fault::Rewritten(_), Self::Revision(_)) => {
                "look who can write to the store, and compare with the log of the coordinators and with a backup \
                 (docs/how-to/audit_not_whole.md); nodes and keys are not touched by it"
            }
            (Fault::Missing | Fault::Moved(_) | Fault::Altered(_) | Fault::Rewritten(_), Self::Number(_)) => {
                "look who can write to the store, and compare with the log of the coordinators and with a backup \
                 (docs/how-to/audit_not_whole.md)"
            }
        }
    }
}

impl Found {
    fn of(result: &Result<Verified, Broken>, at: fn(u64) -> At) -> Self {
        let (verified, broken) = (result.as_ref().ok(), result.as_ref().err());
        Self {
            whole: broken.is_none(),
            entries: verified.map(|verified| verified.entries),
            first: verified.map(|verified| verified.first),
            last: verified.map(|verified| verified.last),
            chain: verified.map(|verified| verified.chain),
            broken: broken.map(|Broken { number, fault }| {
                let at = at(*number);
                Wrong { at, kind: fault.kind(), message: format!("{at} {fault}"), remedy: at.remedy(fault) }
            }),
        }
    }

    /// `log` is its name, `unit` what its entries are counted by; `note` begins the line with what is to be noted.
    fn write_text(&self, out: &mut dyn Write, (log, unit): (&str, &str), note: &str) -> io::Result<()> {
        if let Some(Wrong { message, remedy, .. }) = &self.broken {
            writeln!(out, "{log} is not whole: {message}")?;
            return writeln!(out, "{remedy}");
        }
        let (Some(entries), Some(first), Some(last)) = (self.entries, self.first, self.last) else { return Ok(()) };
        writeln!(out, "{log} is whole: {entries} entries, {unit}{first} to {last}")?;
        let Some(digest) = self.chain else { return Ok(()) };
        writeln!(out, "{note} {}", Noted { number: last, digest })
    }
}

/// The result.
#[derive(Debug, Serialize)]
struct Shown {
    pool: PoolName,
    #[serde(flatten)]
    audit: Found,
    enrolment: Found,
}

impl Report for Shown {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let log = format!("the audit log of pool {}", self.pool);
        if self.audit.entries == Some(0) {
            writeln!(out, "{log} is empty, as its document is")?;
        } else {
            let note = "note this elsewhere, and give it to a later run: --noted";
            self.audit.write_text(out, (&log, "revisions "), note)?;
        }
        // A fleet without tokens has nothing to be told of them.
        if self.enrolment.entries == Some(0) {
            return Ok(());
        }
        let log = "the log of tokens and certificates";
        self.enrolment.write_text(out, (log, ""), "note this, too: --noted-enrolment")
    }
}

/// What earlier runs have printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notes {
    pub(super) pool: Option<Noted>,
    pub(super) enrolment: Option<Noted>,
}

/// Verifies the log of a pool, and that of tokens and certificates.
///
/// # Errors
/// Fails if one of them cannot be read.
pub(super) async fn verify(fleet: &Fleet, pool: PoolName, notes: Notes, format: Format) -> Result<Outcome, Failure> {
    let audit = verify_pool(fleet, &pool, notes.pool).await?;
    let enrolment = verify_enrolment(fleet, notes.enrolment).await?;
    let outcome = if audit.is_ok() && enrolment.is_ok() { Outcome::Done } else { Outcome::Failed };
    let (audit, enrolment) = (Found::of(&audit, At::Revision), Found::of(&enrolment, At::Number));
    deliver_as(&Shown { pool, audit, enrolment }, format, outcome)
}

async fn verify_pool(
    fleet: &Fleet,
    pool: &PoolName,
    noted: Option<Noted>,
) -> Result<Result<Verified, Broken>, Failure> {
    let mut page = fleet.chain(pool, Revision::ZERO).await?;
    let mut verifier = history::Verifier::new(sha256, page.pool_id);
    if let Some(Noted { number, digest }) = noted {
        verifier = verifier.expect(number, digest);
    }
    let mut result = Ok(());
    for _ in 0..PAGES_MAX {
        let Some(last) = page.entries.last().map(|last| last.revision) else { break };
        result = page.entries.iter().try_for_each(|entry| {
            verifier.take(Row { number: entry.revision.get(), text: &entry.text, is_intact: entry.intact })
        });
        if result.is_err() || last >= page.revision {
            break;
        }
        page = fleet.chain(pool, last).await?;
    }
    let AuditChain { revision, document, chain, kept, .. } = page;
    Ok(result.and_then(|()| verifier.finish(&history::LogEnd { revision, document, chain, kept })))
}

async fn verify_enrolment(fleet: &Fleet, noted: Option<Noted>) -> Result<Result<Verified, Broken>, Failure> {
    let mut page = fleet.enrolment_chain(0).await?;
    let mut verifier = enrolment_log::Verifier::new(sha256);
    if let Some(Noted { number, digest }) = noted {
        verifier = verifier.expect(number, digest);
    }
    let mut result = Ok(());
    for _ in 0..PAGES_MAX {
        let Some(last) = page.entries.last().map(|last| last.number) else { break };
        result = page.entries.iter().try_for_each(|entry| {
            verifier.take(Row { number: entry.number, text: &entry.text, is_intact: entry.intact })
        });
        if result.is_err() || last >= page.number {
            break;
        }
        page = fleet.enrolment_chain(last).await?;
    }
    let EnrolmentChain { number, chain, kept, .. } = page;
    Ok(result.and_then(|()| verifier.finish(&chained_log::LogEnd { number, chain, kept })))
}
