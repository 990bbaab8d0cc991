//! A coordinator's name, which one process has at a time.
//!
//! Beats fence a process whose name another one has taken (docs/protocol.md#rule-18), and it ends.  If the service manager
//! then starts it again, it must not take the name back from a process that is alive: so a process that finds the name in
//! the hands of another one looks for beats first.  It need not if the other has given the name back, or held a lock on this
//! host that this process has now, so that it is dead.  Must not know: pools' contents.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::reader::EtcdReader;
use super::value;
use super::wire::{Compare, Operation, Range, Transaction};
use crate::contract::ReadStore;
use crate::error::{Cause, StoreError};
use tfo_crypto::seal::KekId;
use tfo_engine::rollout::parts::Stamp;
use tfo_model::ids::CoordinatorName;

/// A process that has not beaten for so many beats is dead, or stands still: its next write finds that it has lost the name.
const BEATS_TO_LIVE: u32 = 3;
/// How often beats are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// `c/NAME`.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// Which lock file the process holds: boot, device and number of the file.
    lock: String,
    /// For people: process and host.
    note: String,
    /// Version of the program; for people.
    release: String,
    /// The process has ended in order.
    pub(super) gone: bool,
    /// The latest schema that it writes.
    #[serde(default = "Holder::first_schema")]
    pub(super) schema: i64,
    /// The names of the key-encryption keys that it has: see [`super::rekey`].
    #[serde(default)]
    keys: Vec<String>,
}

impl Holder {
    /// Of releases that did not say it.
    const fn first_schema() -> i64 {
        1
    }

    /// Whether the process may still run, and has not this key-encryption key.
    pub(super) fn lacks(&self, kek: &KekId) -> bool {
        !self.gone && !self.keys.iter().any(|own| own == kek.as_str())
    }
}

/// A name that this process has; dropped, its lock is free.
#[derive(Debug)]
pub(super) struct HeldName {
    key: String,
    /// What this process has written.
    value: Vec<u8>,
    holder: Holder,
    _lock: File,
}

impl HeldName {
    /// See [`super::EtcdStore::take_name`].
    pub(super) fn take(reader: &EtcdReader, name: &CoordinatorName, lock: &Path) -> Result<Self, StoreError> {
        let (file, identity) = hold(lock)?;
        let key = reader.keys.name(name);
        let mut read = reader.client.read([Range::one(&key)]).map_err(reader.unread())?;
        let found = read.take_ranges().next().and_then(|mut range| range.kvs.pop());
        let before: Option<Holder> = found.as_ref().map(|pair| reader.parse(pair)).transpose()?;
        let may_live = before.filter(|holder| !holder.gone && holder.lock != identity);
        if let Some(holder) = may_live
            && beats(reader, name)?
        {
            return Err(in_use(reader, name, &holder.note));
        }
        let uname = rustix::system::uname();
        let note = format!("pid {} on {}", std::process::id(), uname.nodename().to_string_lossy());
        let release = env!("CARGO_PKG_VERSION").to_owned();
        let holder = Holder { lock: identity, note, release, gone: false, schema: reader.newest, keys: keks(reader) };
        let value = value::print(&key, &holder);
        let put = Transaction {
            compare: vec![
                Compare::is(&reader.keys.meta(), &reader.meta()),
                Compare::is_of(&key, found.map_or(0, |pair| pair.mod_revision)),
            ],
            success: vec![Operation::put(&key, value.clone())],
            failure: Vec::new(),
        };
        let done = reader.client.write(&put).map_err(reader.failed("write"))?;
        if !done.succeeded {
            return Err(in_use(reader, name, "another process that has just started"));
        }
        Ok(Self { key, value, holder, _lock: file })
    }

    /// Says which key-encryption keys this process has now, if it still has the name.
    pub(super) fn tell_keys(&mut self, reader: &EtcdReader) -> Result<(), StoreError> {
        let holder = Holder { keys: keks(reader), ..self.holder.clone() };
        let value = value::print(&self.key, &holder);
        let put = Transaction {
            compare: vec![Compare::is(&self.key, &self.value)],
            success: vec![Operation::put(&self.key, value.clone())],
            failure: Vec::new(),
        };
        let done = reader.client.write(&put).map_err(reader.failed("write"))?;
        if done.succeeded {
            (self.holder, self.value) = (holder, value);
        }
        Ok(())
    }

    /// Gives the name back, if this process still has it.  A courtesy: without it the next process elsewhere waits.
    pub(super) fn release(self, reader: &EtcdReader) {
        let gone = Holder { gone: true, ..self.holder };
        let put = Transaction {
            compare: vec![Compare::is(&self.key, &self.value)],
            success: vec![Operation::put(&self.key, value::print(&self.key, &gone))],
            failure: Vec::new(),
        };
        // In a thread of its own: this may be the end of a thread that runs tasks, which must not wait for others.
        let released = std::thread::scope(|scope| scope.spawn(|| reader.client.write(&put).map(drop)).join());
        match released {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the name was not given back"),
            Err(_) => tracing::error!("giving the name back panicked"),
        }
    }
}

/// The public names of what this process has.
fn keks(reader: &EtcdReader) -> Vec<String> {
    reader.sealing().keks.all().map(|key| key.id().to_string()).collect()
}

fn in_use(reader: &EtcdReader, name: &CoordinatorName, holder: &str) -> StoreError {
    StoreError::InUse { place: format!("the name {name} in {}", reader.place), holder: holder.to_owned() }
}

/// Whether a process of this name beats: looks until it does, or has not for some beats of every pool.
fn beats(reader: &EtcdReader, name: &CoordinatorName) -> Result<bool, StoreError> {
    let pools = reader.pools()?;
    let mut patience = Duration::ZERO;
    for pool in &pools {
        let document = reader.document(pool)?;
        patience = document.map_or(patience, |(document, _)| patience.max(document.policy.beat() * BEATS_TO_LIVE));
    }
    let stamps = || -> Result<Vec<Option<Stamp>>, StoreError> {
        let keys = pools.iter().map(|pool| Range::one(&reader.keys.pool(pool).stamp(name)));
        let mut read = reader.client.read(keys).map_err(|failure: Failure| failure.of_reading(&reader.place))?;
        let found: Vec<_> = read.take_ranges().collect();
        found.into_iter().map(|range| reader.parse_one(Some(range))).collect()
    };
    if pools.is_empty() {
        return Ok(false);
    }
    let (first, mut waited) = (stamps()?, Duration::ZERO);
    if !patience.is_zero() {
        tracing::info!(%name, seconds = patience.as_secs(), "the name was not given back: looking whether its last process is alive");
    }
    while waited < patience {
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
        if stamps()? != first {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Holds the lock file, and says which it is.
fn hold(path: &Path) -> Result<(File, String), StoreError> {
    let place = || path.display().to_string();
    let failed = |error: std::io::Error| {
        let (place, denied) = (place(), error.kind() == ErrorKind::PermissionDenied);
        let source = Cause::from(error);
        if denied {
            StoreError::Unwritable { place, source }
        } else {
            StoreError::Failed { step: "lock", place, source }
        }
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
    let file = File::from(opened);
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(StoreError::InUse { place: place(), holder: "another process of this host".to_owned() });
        }
        Err(error) => return Err(failed(error.into())),
    }
    let found = file.metadata().map_err(failed)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed)?;
    Ok((file, format!("{} {}:{}", boot.trim(), found.dev(), found.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_is_held_once_and_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("name.lock");
        let (first, identity) = hold(&path).unwrap();
        assert!(matches!(hold(&path), Err(StoreError::InUse { .. })));
        drop(first);
        assert_eq!(hold(&path).unwrap().1, identity, "the next process of this host knows that it is the same");
        assert_ne!(hold(&dir.path().join("other.lock")).unwrap().1, identity);
    }
}
