//! `hold_server_bit`: a host without its pool's keys makes no cookies at all (docs/protocol.md#rule-9).
//!
//! Invariant: 0x2 is set again only where it was cleared here.  A file in the runtime directory keeps the list of these
//! namespaces over a restart; a reboot resets all bits.

use std::path::Path;

use super::report::NamespaceReport;
use tfo_host::kernel::procfs;
use tfo_host::runtime::files::{self, Durability};
use tfo_model::caveat::SERVER_BIT;
use tfo_model::problem::{Problem, chain};

/// Name of the file in the runtime directory.
const FILE: &str = "server-bit.held";

/// The pool's keys in the sysctl.d file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKeys {
    /// In the file; each kernel is judged by itself.
    Held,
    /// Not in the file.
    Missing,
}

/// Clears 0x2 where the keys are missing, and sets it again where it was cleared.
pub fn hold(runtime_dir: &Path, keys: PoolKeys, namespaces: &[NamespaceReport]) -> Option<Problem> {
    let place = runtime_dir.join(FILE);
    let lacks = |namespace: &&NamespaceReport| match keys {
        PoolKeys::Missing => true,
        // A kernel that cannot be read keeps what works there.
        PoolKeys::Held => namespace.readable && !namespace.verified,
    };
    let has = |namespace: &&NamespaceReport| keys == PoolKeys::Held && namespace.verified;
    let cleared = clear(&place, namespaces.iter().filter(lacks));
    let released = release(&place, namespaces.iter().filter(has));
    cleared.and(released).err().map(problem)
}

/// Sets 0x2 again wherever it was cleared here.
pub fn release_all(runtime_dir: &Path, namespaces: &[NamespaceReport]) -> Option<Problem> {
    release(&runtime_dir.join(FILE), namespaces.iter()).err().map(problem)
}

/// Whether 0x2 was cleared here, and not set again.
#[must_use]
pub fn is_held(runtime_dir: &Path) -> bool {
    runtime_dir.join(FILE).exists()
}

fn problem(message: String) -> Problem {
    let remedy = "add ReadWritePaths=-/proc/sys/net/ipv4/tcp_fastopen to the unit (examples/hold-server-bit.conf)";
    Problem::error("server_bit", message, remedy)
}

fn held(place: &Path) -> Vec<String> {
    std::fs::read_to_string(place).map_or_else(|_| Vec::new(), |text| text.lines().map(str::to_owned).collect())
}

fn keep(place: &Path, held: &[String]) -> Result<(), String> {
    if held.is_empty() {
        return std::fs::remove_file(place).map_err(|error| format!("cannot remove {}: {error}", place.display()));
    }
    if let Some(directory) = place.parent().filter(|directory| !directory.is_dir()) {
        // The write below reports a missing directory.
        drop(super::status::make_directory(directory));
    }
    files::replace(place, held.join("\n").as_bytes(), 0o644, Durability::Volatile).map_err(|error| chain(&error))
}

fn clear<'a>(place: &Path, namespaces: impl Iterator<Item = &'a NamespaceReport>) -> Result<(), String> {
    let mut held = held(place);
    for namespace in namespaces {
        let Some(bits) = namespace.bits.filter(|bits| bits & SERVER_BIT != 0) else { continue };
        let name = namespace.namespace.name();
        if !held.iter().any(|other| other == name) {
            held.push(name.to_owned());
            // Record ownership before clearing the bit, so that a crash never leaves it cleared without a record.
            keep(place, &held)?;
        }
        set(namespace, bits & !SERVER_BIT)?;
        tracing::warn!(
            namespace = name,
            "the pool's keys are missing: the server side of TFO is off until they are installed"
        );
    }
    Ok(())
}

fn release<'a>(place: &Path, namespaces: impl Iterator<Item = &'a NamespaceReport>) -> Result<(), String> {
    let mut held = held(place);
    let before = held.len();
    for namespace in namespaces {
        let name = namespace.namespace.name();
        let Some(at) = held.iter().position(|held| held == name) else { continue };
        if let Some(bits) = namespace.bits.filter(|bits| bits & SERVER_BIT == 0) {
            set(namespace, bits | SERVER_BIT)?;
            tracing::info!(namespace = name, "the server side of TFO is on again");
        }
        held.remove(at);
    }
    if held.len() == before { Ok(()) } else { keep(place, &held) }
}

fn set(namespace: &NamespaceReport, bits: i32) -> Result<(), String> {
    let written = namespace.namespace.within(|| procfs::set_tcp_fastopen_bits(bits)).map_err(|error| chain(&error))?;
    written.map_err(|error| format!("namespace {}: cannot write net.ipv4.tcp_fastopen: {error}", namespace.namespace))
}
