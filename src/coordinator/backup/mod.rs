//! A sealed backup of a whole store in one file, also for moving from one kind of store to another.
//!
//! Invariants: the file is authenticated as a whole under the key-encryption key (`envelope`), and every key in it is
//! sealed once more for its pool and epoch, so no key lies open in memory longer than it takes to seal it; a file that
//! does not open, or does not fit the store, changes nothing; an existing pool is never overwritten.
//!
//! An old backup needs no rule of its own, whatever the phase in which it was made: a coordinator that serves an imported
//! pool has not heard from its nodes, so nothing moves before they report.  If one of them is ahead, the pool is frozen
//! until `recover`; if none is, a rotation in the backup continues where it stood (docs/protocol.md#rule-10).  The model
//! check restores stores of every phase.  Tokens that could still be used come back ended, and certificates that are revoked on
//! either side stay revoked (`tfo_store::enrolment`).
//! No rule covers the old coordinator: it must not keep serving the same pool beside the new one.
//!
//! Must not know: the kind of the store, the caller, the output.

mod dated;
mod envelope;

pub use dated::export_dated;
pub use envelope::WRONG_KEY;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use tfo_crypto::seal::{KeyEncryptionKey, SealedKey};
use tfo_engine::rollout::document::{Document, KeyRing, Stage};
use tfo_engine::rollout::history::Written;
use tfo_engine::rollout::parts::{Parts, PoolContent};
use tfo_host::runtime::clock;
use tfo_host::runtime::files::{self, Durability};
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::ids::{PoolId, PoolName};
use tfo_model::problem::{Problem, chain};
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::UnixTime;
use tfo_store::enrolment::Image;
use tfo_store::{CommitError, Enrolments, MemoryStore, PoolImage, ReadStore, ReadWhole, Store};

/// The sealed content.  Persisted: JSON; a field may be added with a serde default, any other change is a new format.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    made_at: UnixTime,
    /// Version of the program that made it; informational.
    release: String,
    pools: Vec<SavedPool>,
    /// Tokens, certificates and their log; empty without `[enrolment]`.
    #[serde(default)]
    enrolment: Image,
}

/// One pool.  Persisted.
#[derive(Debug, Serialize, Deserialize)]
struct SavedPool {
    name: PoolName,
    document: Document,
    parts: Parts,
    keys: Vec<SavedKey>,
    /// Oldest first, up to the revision of the document, as it was written.
    audit: Vec<Written>,
}

/// One key.  Persisted.
#[derive(Debug, Serialize, Deserialize)]
struct SavedKey {
    epoch: Epoch,
    /// A [`SealedKey`] in base64.
    sealed: String,
}

/// One pool of a backup, as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolSummary {
    /// Its name.
    pub pool: PoolName,
    /// Its identity.
    pub pool_id: PoolId,
    /// Revision of its document.
    pub revision: Revision,
    /// Generation of its document.
    pub generation: Generation,
    /// Where its rotation stands.
    pub phase: Phase,
    /// The slot that makes cookies; in a promotion, that of the nodes that are promoted.
    pub primary: Option<SlotPrint>,
    /// The slot that only validates.
    pub backup: Option<SlotPrint>,
    /// Number of known nodes.
    pub nodes: usize,
    /// Number of entries in the audit log.
    pub audit_entries: usize,
}

/// What a backup has of enrolment, as it may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EnrolmentSummary {
    /// Number of tokens.  A restore ends those that could still be used.
    pub tokens: usize,
    /// Number of certificates.
    pub certificates: usize,
    /// How many of them are revoked.
    pub revoked: usize,
    /// Number of entries in the log.
    pub log_entries: usize,
}

impl EnrolmentSummary {
    fn of(image: &Image) -> Self {
        let Image { tokens, certificates, cut_offs: _, log } = image;
        Self {
            tokens: tokens.len(),
            certificates: certificates.len(),
            revoked: image.revoked(),
            log_entries: log.len(),
        }
    }
}

/// Result of [`export`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The file that was written.
    pub file: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Time of the export.
    pub made_at: UnixTime,
    /// Its pools.
    pub pools: Vec<PoolSummary>,
    /// Its tokens and certificates.
    pub enrolment: EnrolmentSummary,
    /// Older backups that were removed to make room; see [`export_dated`].
    pub removed: Vec<PathBuf>,
}

/// What becomes of an older file at the place of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the export is refused.
    Keep,
    /// It is replaced, if it is a backup or empty.
    Replace,
}

/// Kind of the refusal to overwrite a file.
pub const EXISTS: &str = "backup_exists";

/// Result of [`import`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The file that was read.
    pub file: PathBuf,
    /// Time of the export, by the clock of that host.
    pub made_at: UnixTime,
    /// Version of the program that made it.
    pub release: String,
    /// Pools that were created in the store.
    pub made: Vec<PoolSummary>,
    /// Pools that already existed, exactly as in the backup: left by an import that was cut short.
    pub present: Vec<PoolSummary>,
    /// Tokens and certificates of the backup.
    pub enrolment: EnrolmentSummary,
}

/// Writes the whole store to `to`, 0600, in one step.
///
/// Each pool is one consistent state, also of a store that is being served, and also in the middle of a rotation; pools do
/// not depend on each other.
///
/// # Errors
/// Fails, without a change to `to`, if it exists and is not to be replaced, if the store has no pool, if `to` is another
/// kind of file, or if the store cannot be read or the file cannot be written.
pub fn export(
    store: &dyn ReadWhole,
    kek: &KeyEncryptionKey,
    to: &Path,
    existing: Existing,
) -> Result<Exported, Problem> {
    check_target(to, existing)?;
    let names = store.pools().map_err(|error| error.problem())?;
    if names.is_empty() {
        let remedy = "check store.path; an existing backup was left unchanged";
        return Err(Problem::error("backup_empty", "the store has no pool, so there is nothing to export", remedy));
    }
    let pools = names.into_iter().map(|name| save(store, kek, name)).collect::<Result<Vec<_>, _>>()?;
    // After the pools: a node that one of them has forgotten is cut off here, or there is a plan to do it.
    let enrolment = store.image().map_err(|error| error.problem())?;
    let (summaries, summary) = (pools.iter().map(SavedPool::summary).collect(), EnrolmentSummary::of(&enrolment));
    let made_at = clock::now();
    let content = Content { made_at, release: env!("CARGO_PKG_VERSION").to_owned(), pools, enrolment };
    let body = serde_json::to_vec(&content).map_err(|error| failed("write", to, &error))?;
    if body.len() + envelope::SEAL_BYTES > envelope::BODY_BYTES_MAX {
        return Err(too_large(to));
    }
    let file = envelope::seal(kek, body).map_err(|error| failed("seal", to, &error))?;
    let written = match existing {
        Existing::Keep => files::place(to, &file, 0o600),
        Existing::Replace => files::replace(to, &file, 0o600, Durability::Synced),
    };
    written.map_err(|error| if error.name_exists() { exists(to) } else { failed("write", to, &error) })?;
    let (file_name, bytes) = (to.to_owned(), file.len() as u64);
    Ok(Exported { file: file_name, bytes, made_at, pools: summaries, enrolment: summary, removed: Vec::new() })
}

/// Creates the pools of the backup `from` in the store, each in one transaction, with new seals of the store's own.
///
/// Nothing is written before all of the file was read and judged.  An existing pool is never touched: if it is exactly
/// that of the backup it is skipped, so an import that was cut short can be run again.
///
/// # Errors
/// Fails without a change if the file does not open under `kek`, is not a backup, is damaged or of a newer format, or if
/// the store has another pool of one of its names.  If the store cannot be written it fails with some pools created.
pub fn import(
    store: &dyn Store,
    enrolments: &dyn Enrolments,
    kek: &KeyEncryptionKey,
    from: &Path,
) -> Result<Imported, Problem> {
    let body = envelope::open(kek, &read(from)?, from)?;
    let content: Content = serde_json::from_slice(&body).map_err(|error| envelope::damaged(from, error))?;
    let pools = content.pools.into_iter().map(|pool| pool.open(kek, from)).collect::<Result<Vec<_>, _>>()?;
    // A store that cannot fail judges all pools before one is made in the real store.
    let trial = MemoryStore::new();
    for pool in &pools {
        pool.make(&trial).map_err(|error| envelope::damaged(from, chain(&error)))?;
    }
    let mut imported = Imported {
        file: from.to_owned(),
        made_at: content.made_at,
        release: content.release,
        made: Vec::new(),
        present: Vec::new(),
        enrolment: EnrolmentSummary::of(&content.enrolment),
    };
    let mut missing = Vec::new();
    for pool in pools {
        if pool.is_in(store)? {
            imported.present.push(pool.summary);
        } else {
            missing.push(pool);
        }
    }
    // First: pools without them could be served, and would take back revocations.
    let restored = enrolments.restore(&content.enrolment, clock::now());
    restored.map_err(|error| cut_short(&[], RECORDS, error.into()))?;
    let mut done = if content.enrolment.is_empty() { Vec::new() } else { vec![RECORDS.to_owned()] };
    for pool in missing {
        pool.make(store).map_err(|error| cut_short(&done, &format!("pool {}", pool.name), error))?;
        done.push(pool.name.to_string());
        imported.made.push(pool.summary);
    }
    Ok(imported)
}

/// A pool of a backup whose keys are open.
struct OpenPool {
    name: PoolName,
    content: PoolContent,
    keys: KeyRing,
    audit: Vec<Written>,
    summary: PoolSummary,
}

impl SavedPool {
    fn summary(&self) -> PoolSummary {
        let (primary, backup) = match &self.document.stage {
            Stage::Empty => (None, None),
            Stage::Steady { current, backup } => (Some(current.shown()), backup.map(|key| key.shown())),
            Stage::Staged { current, next, .. } => (Some(current.shown()), Some(next.shown())),
            Stage::Promoted { current, next, .. } => (Some(next.shown()), Some(current.shown())),
        };
        PoolSummary {
            pool: self.name.clone(),
            pool_id: self.document.pool_id,
            revision: self.document.revision,
            generation: self.document.generation,
            phase: self.document.stage.phase(),
            primary,
            backup,
            nodes: self.parts.merge().values().filter(|record| record.is_known()).count(),
            audit_entries: self.audit.len(),
        }
    }

    fn open(self, kek: &KeyEncryptionKey, from: &Path) -> Result<OpenPool, Problem> {
        let summary = self.summary();
        let mut keys = KeyRing::default();
        for SavedKey { epoch, sealed } in &self.keys {
            let damaged = || envelope::damaged(from, format!("the key of epoch {epoch} of pool {}", self.name));
            let bytes = STANDARD.decode(sealed).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?;
            let key = kek.open(&self.document.pool_id, *epoch, &SealedKey::from_bytes(bytes)).map_err(|_| damaged())?;
            keys.insert(*epoch, key);
        }
        let content = PoolContent::new(self.document, self.parts);
        Ok(OpenPool { name: self.name, content, keys, audit: self.audit, summary })
    }
}

impl OpenPool {
    fn make(&self, store: &dyn Store) -> Result<(), CommitError> {
        store.create(&self.name, &PoolImage { content: &self.content, keys: &self.keys, audit: &self.audit })
    }

    /// Whether the store has exactly this pool.
    fn is_in(&self, store: &dyn ReadStore) -> Result<bool, Problem> {
        let Some(state) = store.load(&self.name).map_err(|error| error.problem())? else { return Ok(false) };
        if state.content == self.content {
            return Ok(true);
        }
        let message = format!(
            "pool {} already exists in the store, at revision {}; nothing was changed",
            self.name,
            state.content.snapshot().document.revision
        );
        let remedy = "import into a store without that pool: move the database away, or set store.path to another one";
        Err(Problem::error("pool_exists", message, remedy))
    }
}

/// Reads one pool: first its state, then the log up to it; entries never change, and a log only grows.
fn save(store: &dyn ReadStore, kek: &KeyEncryptionKey, name: PoolName) -> Result<SavedPool, Problem> {
    let gone = || Problem::error("store_changed", format!("pool {name} was removed while it was read"), "export again");
    let state = store.load(&name).map_err(|error| error.problem())?.ok_or_else(gone)?;
    let (document, parts) = (state.content.snapshot().document.clone(), state.content.parts().clone());
    let mut keys = Vec::new();
    for epoch in state.keys.epochs().collect::<BTreeSet<_>>() {
        let key = state.keys.key(epoch).expect("the ring has the epochs that it lists");
        let sealed = kek.seal(&document.pool_id, epoch, key).map_err(|error| {
            Problem::error("export_failed", format!("cannot seal a key of pool {name}: {error}"), RETRY)
        })?;
        keys.push(SavedKey { epoch, sealed: STANDARD.encode(sealed.as_bytes()) });
    }
    let mut audit: Vec<Written> = Vec::new();
    let mut after = Revision::ZERO;
    loop {
        let page = store.chain(&name, after).map_err(|error| error.problem())?.ok_or_else(gone)?;
        let is_last = page.rows.last().is_none_or(|last| last.revision >= document.revision);
        after = page.rows.last().map_or(after, |last| last.revision);
        for row in page.rows.into_iter().filter(|row| row.revision <= document.revision) {
            audit.push(row.written().ok_or_else(|| not_right(&name, row.revision))?);
        }
        if is_last {
            return Ok(SavedPool { name, document, parts, keys, audit });
        }
    }
}

/// An entry of the audit log that no backup takes over as if it were right.
fn not_right(pool: &PoolName, revision: Revision) -> Problem {
    let message = format!("the audit entry of revision {revision} of pool {pool} is not what was written");
    let remedy =
        "look with `tfoctl audit --verify`; `tfo-coordinator check` tells whether more of the store is damaged";
    Problem::error("audit_altered", message, remedy)
}

const RETRY: &str = "fix the cause and try again; nothing was changed";

/// A typing error must not replace a key or a database with a backup, nor a script the only good backup.
fn check_target(to: &Path, existing: Existing) -> Result<(), Problem> {
    if existing == Existing::Keep {
        // A dangling link counts too.
        return if to.symlink_metadata().is_ok() { Err(exists(to)) } else { Ok(()) };
    }
    match is_backup(to) {
        Ok(true) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("replace", to, &error)),
        Ok(false) => {
            let remedy = "give a file that does not exist or is empty, or an older backup, which --force replaces";
            Err(Problem::error("backup_target", "not a backup file; it is not overwritten", remedy).in_file(to))
        }
    }
}

/// Whether a file is a backup, or empty.
fn is_backup(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    files::open_regular(path)?.take(envelope::MAGIC.len() as u64).read_to_end(&mut head)?;
    Ok(head.is_empty() || head == envelope::MAGIC)
}

fn exists(to: &Path) -> Problem {
    let remedy = "name another file; --force replaces an older backup";
    Problem::error(EXISTS, "the file exists; it is not overwritten", remedy).in_file(to)
}

fn read(from: &Path) -> Result<Vec<u8>, Problem> {
    let unreadable = |error: io::Error| {
        let remedy = "give a file that `tfo-coordinator export` made, and that this user can read";
        Problem::error("backup_unreadable", format!("cannot read the backup: {error}"), remedy).in_file(from)
    };
    let file: File = files::open_regular(from).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(envelope::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > envelope::FILE_BYTES_MAX && bytes.starts_with(envelope::MAGIC) {
        return Err(envelope::damaged(from, "it is longer than any backup"));
    }
    Ok(bytes)
}

fn too_large(to: &Path) -> Problem {
    let message = format!("the backup would be larger than {} MiB", envelope::BODY_BYTES_MAX >> 20);
    Problem::error("backup_too_large", message, "`tfoctl forget` nodes that are gone for good").in_file(to)
}

fn failed(step: &str, to: &Path, error: &dyn std::error::Error) -> Problem {
    let message = format!("cannot {step} the backup: {}", chain(error));
    Problem::error("export_failed", message, RETRY).in_file(to)
}

/// What an import calls the part that belongs to no pool.
const RECORDS: &str = "tokens and certificates";

/// The problem of an import that stopped at `what`; what is done is complete.
fn cut_short(done: &[String], what: &str, error: CommitError) -> Problem {
    let done =
        if done.is_empty() { "nothing was changed".to_owned() } else { format!("imported: {}", done.join(", ")) };
    let cause = match error {
        CommitError::Store(error) => error.problem(),
        other => Problem::error("import_failed", chain(&other), "make sure that no other process writes to the store"),
    };
    let message = format!("cannot import {what}: {} ({done})", cause.message);
    let remedy = format!("{}; then import again: what is there is skipped", cause.remedy);
    Problem { message, remedy, ..cause }
}
