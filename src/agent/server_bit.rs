//! `hold_server_bit`: a host without its pool's keys makes no cookies at all (PROTOCOL.md rule 9).
//!
//! Invariant: 0x2 is set again only where it was cleared here; which namespaces these are survives a restart in the runtime
//! directory, and a reboot sets all bits anew.

use std::path::{Path, PathBuf};

use super::host::chain;
use super::report::NamespaceReport;
use crate::kernel::procfs::{self, SERVER_BIT};
use crate::model::problem::Problem;
use crate::runtime::files::{self, Durability};

/// Name of the file in the runtime directory.
const FILE: &str = "server-bit.held";

/// Clears 0x2 while the keys are missing, and sets it again where it was cleared.
pub fn hold(runtime_dir: &Path, keys_are_there: bool, namespaces: &[NamespaceReport]) -> Option<Problem> {
    let place = runtime_dir.join(FILE);
    let done = if keys_are_there { release(&place, namespaces) } else { clear(&place, namespaces) };
    done.err().map(|message| {
        let remedy = "add ReadWritePaths=-/proc/sys/net/ipv4/tcp_fastopen to the unit (examples/hold-server-bit.conf)";
        Problem::error("server_bit", message, remedy)
    })
}

fn held(place: &PathBuf) -> Vec<String> {
    std::fs::read_to_string(place).map_or_else(|_| Vec::new(), |text| text.lines().map(str::to_owned).collect())
}

fn clear(place: &PathBuf, namespaces: &[NamespaceReport]) -> Result<(), String> {
    let mut held = held(place);
    for namespace in namespaces {
        let Some(bits) = namespace.bits.filter(|bits| bits & SERVER_BIT != 0) else { continue };
        let name = namespace.namespace.name();
        if !held.iter().any(|other| other == name) {
            held.push(name.to_owned());
            // Before the bit: who cleared it must be known whenever it is.
            let text = held.join("\n");
            files::replace(place, text.as_bytes(), 0o644, Durability::Volatile).map_err(|error| chain(&error))?;
        }
        set(namespace, bits & !SERVER_BIT)?;
        tracing::warn!(
            namespace = name,
            "there are no keys of the pool: the server side of TFO is off until there are"
        );
    }
    Ok(())
}

fn release(place: &PathBuf, namespaces: &[NamespaceReport]) -> Result<(), String> {
    let held = held(place);
    if held.is_empty() {
        return Ok(());
    }
    for namespace in namespaces.iter().filter(|namespace| held.iter().any(|name| name == namespace.namespace.name())) {
        if let Some(bits) = namespace.bits.filter(|bits| bits & SERVER_BIT == 0) {
            set(namespace, bits | SERVER_BIT)?;
            tracing::info!(namespace = namespace.namespace.name(), "the server side of TFO is on again");
        }
    }
    std::fs::remove_file(place).map_err(|error| format!("cannot remove {}: {error}", place.display()))
}

fn set(namespace: &NamespaceReport, bits: i32) -> Result<(), String> {
    let written = namespace.namespace.within(|| procfs::set_tcp_fastopen_bits(bits)).map_err(|error| chain(&error))?;
    written.map_err(|error| format!("namespace {}: cannot write net.ipv4.tcp_fastopen: {error}", namespace.namespace))
}
