//! What this host holds, and the writing of it: the file first, then each namespace's kernel, each read back.

use std::fmt::Write as _;

use crate::config::agent::{AgentSettings, InstallMode};
use crate::crypto::fingerprint::fingerprint;
use crate::engine::reconcile::ObservedKernel;
use crate::kernel::namespace::Namespace;
use crate::kernel::procfs::{self, KeyFile, ShownKeys, SlotsTaken};
use crate::kernel::release::KernelRelease;
use crate::kernel::sysctl_d::{self, Persisted, Record};
use crate::model::key::{KeyPair, PairPrint};
use crate::model::problem::Problem;
use crate::model::state::{BackupSlot, DesiredState};

/// Fingerprints of what a kernel shows.
#[must_use]
pub fn print_of(shown: &ShownKeys) -> Option<PairPrint> {
    shown
        .as_ref()
        .map(|(primary, backup)| PairPrint { primary: fingerprint(primary), backup: backup.as_ref().map(fingerprint) })
}

/// One error with all its causes, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("writing to a string cannot fail");
        cause = error.source();
    }
    text
}

/// One namespace and what is known of its kernel.
#[derive(Debug)]
pub struct Site {
    /// The namespace.
    pub namespace: Namespace,
    /// Whether its kernel keeps a backup.
    pub backup_slot: BackupSlot,
}

/// What one look at a namespace showed.
#[derive(Debug)]
pub struct Look {
    /// Its kernel, if it could be read.
    pub kernel: Result<ObservedKernel, Problem>,
    /// The keys themselves, where there are any that may be installed.
    pub keys: Option<KeyPair>,
    /// `net.ipv4.tcp_fastopen`.
    pub bits: Option<i32>,
}

/// All namespaces that the settings name, the own one first.
#[must_use]
pub fn sites(settings: &AgentSettings) -> Vec<Site> {
    // A kernel of unknown release is asked; one that keeps only the primary shows it at the first write.
    let backup_slot = KernelRelease::running().map_or(BackupSlot::Present, KernelRelease::backup_slot);
    let named = settings.install.namespaces.iter().map(|name| Namespace::Named(name.value.clone()));
    std::iter::once(Namespace::Own).chain(named).map(|namespace| Site { namespace, backup_slot }).collect()
}

/// Reads one namespace's kernel.
#[must_use]
pub fn look(site: &Site, key_file: &KeyFile) -> Look {
    let (shown, bits) = match site.namespace.within(|| (key_file.read(), procfs::tcp_fastopen_bits())) {
        Ok(looked) => looked,
        Err(error) => {
            let remedy =
                format!("make it with `ip netns add {}`, or take it out of install.namespaces", site.namespace);
            let problem = Problem::error("namespace", chain(&error), remedy);
            return Look { kernel: Err(problem), keys: None, bits: None };
        }
    };
    match shown {
        Ok(shown) => {
            let kernel = ObservedKernel { shown: print_of(&shown), backup_slot: site.backup_slot };
            let keys = shown.and_then(|(primary, backup)| KeyPair::new(primary, backup).ok());
            Look { kernel: Ok(kernel), keys, bits }
        }
        Err(error) => Look { kernel: Err(kernel_problem(&site.namespace, &error)), keys: None, bits },
    }
}

/// Writes one namespace's kernel, reads it back, and notes what its slots are.
///
/// # Errors
/// Fails with what is wrong; the kernel holds its old keys then, or, after a failed read-back, those of another writer.
pub fn write_kernel(site: &mut Site, key_file: &KeyFile, desired: &DesiredState) -> Result<ObservedKernel, Problem> {
    let namespace = &site.namespace;
    let written = namespace
        .within(|| key_file.install(&desired.keys))
        .map_err(|error| Problem::error("namespace", chain(&error), "see `tfo-agent check`"))?;
    match written {
        // What a kernel was seen to do counts for more than its release: distributions backport.
        Ok(SlotsTaken::All) if desired.keys.backup().is_some() => site.backup_slot = BackupSlot::Present,
        Ok(SlotsTaken::All) => {}
        Ok(SlotsTaken::PrimaryAlone) => site.backup_slot = BackupSlot::Absent,
        Err(error) => return Err(kernel_problem(namespace, &error)),
    }
    // `install` has read the slots back and compared them, so this is what the kernel shows.
    let kernel = ObservedKernel { shown: None, backup_slot: site.backup_slot };
    Ok(ObservedKernel { shown: Some(kernel.target(desired.prints.pair())), ..kernel })
}

fn kernel_problem(namespace: &Namespace, error: &procfs::KernelError) -> Problem {
    use procfs::KernelError as E;
    let (kind, path, remedy) = match error {
        E::NoFile(path) => {
            ("kernel_file_missing", path, "use a kernel with IPv4 TFO, and no ProcSubset=pid in the unit")
        }
        E::NotAllowed { path, .. } => (
            "kernel_not_allowed",
            path,
            "run as root or with CAP_NET_ADMIN, and with ReadWritePaths= for this file in the unit",
        ),
        E::Read { path, .. } => ("kernel_read", path, "look at the host: this file can always be read"),
        E::Write { path, .. } => ("kernel_write", path, "look at the host: this file can always be written"),
        E::Strange { path, .. } => ("kernel_read", path, "set the key once by hand, or report this kernel to us"),
        E::ReadBack(path) => (
            "kernel_read_back",
            path,
            "find the other program that writes the key (timers, cron, tofurkey) and stop it",
        ),
    };
    Problem::error(kind, format!("namespace {namespace}: {}", chain(error)), remedy).in_file(path)
}

/// Reads our sysctl.d file; one that cannot be read is a problem and nothing to go on.
pub fn look_at_file(settings: &AgentSettings, problems: &mut Vec<Problem>) -> Persisted {
    let place = &settings.install.sysctl_file;
    sysctl_d::read(&place.value).unwrap_or_else(|error| {
        let message = format!("cannot read {}: {error}", place.value.display());
        let problem =
            Problem::error("sysctl_file", message, "make it readable for this user; it holds the memory of the keys");
        problems.push(place.locate(&settings.file, problem));
        Persisted::Foreign
    })
}

/// Writes our sysctl.d file.
///
/// # Errors
/// Fails with what is wrong and what the file says now.
pub fn write_file(settings: &AgentSettings, record: &Record, keys: &KeyPair) -> Result<(), Problem> {
    assert!(settings.install.mode == InstallMode::Install, "a host that only looks is never written");
    let place = &settings.install.sysctl_file;
    sysctl_d::write(&place.value, record, keys).map_err(|error| {
        let remedy = "make the directory writable and give the disk room; it is tried again at every poll";
        place.locate(&settings.file, Problem::error("sysctl_file", chain(&error), remedy))
    })
}
