//! What was told, and what is still to be told, over restarts: one file beside the store.
//!
//! It is written after each change and before an event is sent, so an event is sent at least once, and after a crash perhaps
//! twice with the same id.  No secrets: verdicts, names and fingerprints.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::conditions::Conditions;
use super::queue::Queue;
use tfo_host::runtime::files::{self, Durability};
use tfo_model::problem::{Problem, chain};

/// The file's name, in the directory of the store.
const NAME: &str = "notify.json";
/// The format's number.
const VERSION: u32 = 1;

/// Persisted: of another version it is not read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// What was seen and told.
    pub(super) conditions: Conditions,
    /// What waits, by the name of its target.
    pub(super) queues: BTreeMap<String, Queue>,
}

/// Where it is: beside the store, where the service may write.
#[must_use]
pub(super) fn path(store: &Path) -> PathBuf {
    store.with_file_name(NAME)
}

impl State {
    /// Blocking: reads the file; empty before the first one.
    ///
    /// # Errors
    /// Fails if there is a file that cannot be used: what is so now is told as news then.
    pub(super) fn load(path: &Path) -> Result<Self, Problem> {
        let failed = |what: String| {
            let remedy = "nothing: what is so now is told again, and the file is written again";
            Problem::warning("notify_state", format!("cannot use what was told before: {what}"), remedy).in_file(path)
        };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error.to_string())),
        };
        let state: Self = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        if state.version == VERSION { Ok(state) } else { Err(failed(format!("it has version {}", state.version))) }
    }

    /// Blocking: replaces the file.
    ///
    /// # Errors
    /// Fails if it cannot be written; then a restart tells again what was told since.
    pub(super) fn save(&mut self, path: &Path) -> Result<(), Problem> {
        self.version = VERSION;
        let text = serde_json::to_vec(self).expect("plain structs with string keys");
        files::replace(path, &text, 0o600, Durability::Synced).map_err(|error| {
            let remedy = "make the directory of the store writable, and its disk not full";
            Problem::warning("notify_state", chain(&error), remedy).in_file(path)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::conditions::{Teller, test};
    use super::*;
    use tfo_model::time::UnixTime;

    #[test]
    fn what_waits_is_there_after_a_restart_and_what_cannot_be_read_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(&dir.path().join("state.db"));
        assert_eq!(State::load(&path).unwrap(), State::default());
        let mut state = State::default();
        let event = test(Teller { coordinator: None, now: UnixTime::from_secs(9) }, 1);
        state.queues.entry("pager".to_owned()).or_default().push(event);
        state.save(&path).unwrap();
        assert_eq!(State::load(&path).unwrap(), state);
        for bad in ["", "{}", "{\"version\":2,\"conditions\":{\"pools\":{},\"own\":{}},\"queues\":{}}"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(State::load(&path).unwrap_err().kind, "notify_state", "{bad}");
        }
        let missing = dir.path().join("missing/notify.json");
        assert_eq!(state.save(&missing).unwrap_err().kind, "notify_state");
    }
}
