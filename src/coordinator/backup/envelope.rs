//! The file around a backup: a header that identifies it, and one sealed body.  Persisted.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | [`MAGIC`] |
//! | 4 | format, big endian |
//! | 16 | identity of this backup, random |
//! | 44 | key check: distinguishes another key-encryption key from a damaged file |
//! | 8 | length of the body, big endian: distinguishes a cut file from a damaged one |
//! | 16 | checksum of all of the above |
//! | rest | the body: nonce, ciphertext and tag of AES-256-GCM; the tag covers the header, too |
//!
//! Magic and format keep their place in every later format.  The checksum and the length only make errors clear; trust
//! comes from the tag, which covers everything.  Must not know: the content of the body.

use std::path::Path;

use tfo_crypto::checksum::{CHECKSUM_BYTES, checksum};
use tfo_crypto::random::{self, NoRandomness};
use tfo_crypto::seal::{KeyEncryptionKey, SealedKey};
use tfo_model::problem::Problem;

/// First bytes of every backup.
pub(super) const MAGIC: &[u8; 16] = b"tfo-fleet backup";
/// The format of this release.  Raised when an older release would misread a newer file; 1 and 2 were those of builds before the
/// first release, which nothing reads.
const FORMAT: u32 = 3;
/// Largest body in bytes, sealed.  A pool of 1000 nodes with a full audit log is about 30 MiB.
pub(super) const BODY_BYTES_MAX: usize = 512 << 20;

/// Kind of the problem that a backup was sealed with another key-encryption key.
pub const WRONG_KEY: &str = "backup_wrong_key";

const ID_BYTES: usize = 16;
const HEADER_BYTES: usize = MAGIC.len() + 4 + ID_BYTES + SealedKey::BYTES + 8 + CHECKSUM_BYTES;
/// Longest file in bytes.
pub(super) const FILE_BYTES_MAX: usize = HEADER_BYTES + BODY_BYTES_MAX;
/// Bytes that AES-256-GCM adds: nonce and tag.
pub(super) const SEAL_BYTES: usize = 12 + 16;

/// A header and a sealed body.
pub(super) fn seal(kek: &KeyEncryptionKey, body: Vec<u8>) -> Result<Vec<u8>, NoRandomness> {
    let mut id = [0; ID_BYTES];
    random::fill(&mut id)?;
    let mut file = Vec::with_capacity(HEADER_BYTES + body.len() + SEAL_BYTES);
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&FORMAT.to_be_bytes());
    file.extend_from_slice(&id);
    file.extend_from_slice(kek.seal_check(&id)?.as_bytes());
    file.extend_from_slice(&((body.len() + SEAL_BYTES) as u64).to_be_bytes());
    file.extend_from_slice(&checksum(&[&file]));
    let sealed = kek.seal_file(&file, body)?;
    file.extend_from_slice(&sealed);
    Ok(file)
}

/// The body of a backup; `path` is named in the problem.
pub(super) fn open(kek: &KeyEncryptionKey, file: &[u8], path: &Path) -> Result<Vec<u8>, Problem> {
    let mut rest = file;
    let mut take = |count: usize| {
        let (head, tail) = rest.split_at_checked(count)?;
        rest = tail;
        Some(head)
    };
    if take(MAGIC.len()).is_none_or(|magic| magic != MAGIC) {
        return Err(foreign(path));
    }
    let cut = || damaged(path, format!("it is cut off after {} bytes", file.len()));
    let format = u32::from_be_bytes(take(4).ok_or_else(cut)?.try_into().expect("four bytes"));
    if format > FORMAT {
        return Err(newer(path, format));
    }
    if format < FORMAT {
        return Err(older(path));
    }
    let id: [u8; ID_BYTES] = take(ID_BYTES).ok_or_else(cut)?.try_into().expect("as many as were taken");
    let check = SealedKey::from_bytes(take(SealedKey::BYTES).ok_or_else(cut)?.try_into().expect("as many"));
    let length = u64::from_be_bytes(take(8).ok_or_else(cut)?.try_into().expect("eight bytes"));
    let sum = take(CHECKSUM_BYTES).ok_or_else(cut)?;
    if checksum(&[&file[..HEADER_BYTES - sum.len()]]) != *sum {
        return Err(damaged(path, "the checksum of its header is wrong"));
    }
    if rest.len() as u64 != length {
        return Err(damaged(path, format!("its body has {} bytes instead of {length}", rest.len())));
    }
    if !kek.opens_check(&id, &check) {
        return Err(wrong_key(path));
    }
    kek.open_file(&file[..HEADER_BYTES], rest.to_vec()).map_err(|_| damaged(path, "its content was changed"))
}

/// Not a file that [`seal`] made.
pub(super) fn foreign(path: &Path) -> Problem {
    let remedy = "give a file that `tfo-coordinator export` made";
    Problem::error("backup_foreign", "not a backup file of tfo-coordinator", remedy).in_file(path)
}

fn newer(path: &Path, format: u32) -> Problem {
    let message = format!("it has format {format}, and this release supports up to {FORMAT}; nothing was changed");
    Problem::error("backup_newer", message, "import it with the release that made it, or a later one").in_file(path)
}

fn older(path: &Path) -> Problem {
    let message = "it was made by a build before the first release; nothing was changed";
    let remedy = "create the pool again and `tfoctl import` what the nodes hold: no client notices";
    Problem::error("backup_older", message, remedy).in_file(path)
}

fn wrong_key(path: &Path) -> Problem {
    let message = "it is sealed with another key-encryption key; nothing was changed";
    let remedy = "set store.key_encryption_key to the key of the coordinator that made the backup";
    Problem::error(WRONG_KEY, message, remedy).in_file(path)
}

/// The problem of a file that differs from what was written.
pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> Problem {
    let message = format!("the backup is damaged: {what}; nothing was changed");
    Problem::error("backup_damaged", message, "import another backup, or copy this one again from its source")
        .in_file(path)
}
