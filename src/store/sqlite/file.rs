//! The database file by name, as every error about it shows it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::error::StoreError;

/// The database file, with links resolved.
#[derive(Debug, Clone)]
pub(super) struct DatabaseFile(pub(super) PathBuf);

impl DatabaseFile {
    /// The file beside it whose name ends in `suffix`: `-wal`, `-shm`, `.lock`.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.0.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Its path for errors.
    pub(super) fn text(&self) -> String {
        self.0.display().to_string()
    }

    /// The content contradicts itself.
    pub(super) fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { place: self.text(), what: what.into() }
    }

    /// For a call of SQLite that failed; its messages name tables and columns, never values.
    pub(super) fn sql(&self, step: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
        move |error| {
            let place = self.text();
            match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => StoreError::Full { place, source: error.into() },
                Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                    StoreError::Unwritable { place, source: error.into() }
                }
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    StoreError::Damaged { place, what: error.to_string() }
                }
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    StoreError::Busy { place, source: error.into() }
                }
                _ => StoreError::Failed { step, place, source: error.into() },
            }
        }
    }
}

/// For a system call on `path` that failed.
pub(super) fn file_error(step: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |error| {
        let place = path.display().to_string();
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotFound => {
                StoreError::Unwritable { place, source: error.into() }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::Full { place, source: error.into() }
            }
            _ => StoreError::Failed { step, place, source: error.into() },
        }
    }
}
