//! `tfo-coordinator notify-test`: sends a test event to each target, or to one, and says what became of it.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::conditions::{Teller, test};
use super::deliver;
use tfo_cli::report::Report;
use tfo_config::coordinator::CoordinatorSettings;
use tfo_config::reader::ConfigFile;
use tfo_crypto::random;
use tfo_host::runtime::clock;
use tfo_model::problem::Problem;
use tfo_tls::server::ServerTls;

/// What became of the test events.
#[derive(Debug, Serialize)]
pub struct Tried {
    targets: Vec<TriedTarget>,
}

/// What became of one.
#[derive(Debug, Serialize)]
struct TriedTarget {
    name: String,
    id: String,
    /// Null: it was taken.
    error: Option<String>,
}

impl Tried {
    /// Whether every target has taken its event.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.targets.iter().all(|target| target.error.is_none())
    }
}

impl Report for Tried {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.targets.iter().try_for_each(|TriedTarget { name, id, error }| match error {
            None => writeln!(out, "{name}: told (event {id})"),
            Some(error) => writeln!(out, "{name}: not told: {error}"),
        })
    }
}

/// Sends a test event to every target, or to this one.
///
/// # Errors
/// Fails if the configuration is wrong, or has no such target.
pub fn try_targets(config: &Path, only: Option<&str>) -> Result<Tried, Vec<Problem>> {
    let settings = CoordinatorSettings::load(config)?;
    let wanted = settings.notify.iter().filter(|target| only.is_none_or(|only| target.name.value == only));
    let wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() {
        let names: Vec<&str> = settings.notify.iter().map(|target| target.name.value.as_str()).collect();
        let (message, remedy) = match only {
            Some(only) if !names.is_empty() => {
                (format!("there is no [[notify]] with the name {only:?}"), format!("known names: {}", names.join(", ")))
            }
            _ => {
                ("the file has no [[notify]]".to_owned(), "add one: docs/how-to/monitoring.md#notifications".to_owned())
            }
        };
        return Err(vec![Problem::error("no_notify", message, remedy).in_file(config)]);
    }
    let internal = |error: String| vec![Problem::error("internal", error, "this is a bug; please report it")];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| internal(error.to_string()))?;
    let mut nonce = [0; 16];
    random::fill(&mut nonce).map_err(|error| internal(error.to_string()))?;
    let own = ServerTls::names_in(&settings.api.cert.value).into_iter().next();
    let stop = Arc::new(AtomicBool::new(false));
    let mut targets = Vec::new();
    for target in wanted {
        let event = test(Teller { coordinator: own.as_ref(), now: clock::now() }, u128::from_be_bytes(nonce));
        let error = runtime.block_on(deliver(target, config, &event, &stop)).err();
        targets.push(TriedTarget { name: target.name.value.clone(), id: event.id, error });
    }
    Ok(Tried { targets })
}
