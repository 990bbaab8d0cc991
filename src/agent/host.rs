//! What this host holds, and the writing of it: the file first, then each namespace's kernel, each read back.

use tfo_config::agent::{AgentSettings, InstallMode};
use tfo_engine::reconcile::ObservedKernel;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::procfs::{self, KeyFile, SlotsTaken, print_of};
use tfo_host::kernel::release::KernelRelease;
use tfo_host::kernel::sysctl_d::{self, Persisted, Record};
use tfo_model::key::KeyPair;
use tfo_model::problem::{Problem, chain};
use tfo_model::state::{BackupSlot, DesiredState};

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
        Err(error) => Look { kernel: Err(error.problem(&site.namespace)), keys: None, bits },
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
        Err(error) => return Err(error.problem(namespace)),
    }
    // `install` has read the slots back and compared them, so this is what the kernel shows.
    let kernel = ObservedKernel { shown: None, backup_slot: site.backup_slot };
    Ok(ObservedKernel { shown: Some(kernel.target(desired.prints.pair())), ..kernel })
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
