//! What this host holds, and how it is written: the file first, then the kernel of each namespace, each read back.

use tfo_config::agent::{AgentSettings, InstallMode};
use tfo_engine::reconcile::ObservedKernel;
use tfo_host::examine::{Unseen, read_kernel};
use tfo_host::kernel::namespace::{Namespace, NamespaceError};
use tfo_host::kernel::procfs::{KeyFile, SlotsTaken, print_of};
use tfo_host::kernel::release;
use tfo_host::kernel::sysctl_d::{self, Persisted, Record};
use tfo_host::runtime::descriptors;
use tfo_host::runtime::lock::NamespaceLock;
use tfo_model::kernel::KernelVersion;
use tfo_model::key::{KeyPair, PairPrint};
use tfo_model::problem::{Problem, chain};
use tfo_model::state::BackupSlot;

/// A namespace that the agent manages.
#[derive(Debug)]
pub struct ManagedNamespace {
    /// The namespace.
    pub namespace: Namespace,
    /// Whether its kernel keeps a backup.
    pub backup_slot: BackupSlot,
    /// What it held after our last write; drift is a difference from it.
    pub verified: Option<PairPrint>,
    /// Of one that was found: no other agent manages it.
    _lock: Option<NamespaceLock>,
}

impl ManagedNamespace {
    /// One that was found, with its lock.
    #[must_use]
    pub fn found(namespace: Namespace, lock: Option<NamespaceLock>) -> Self {
        Self { namespace, backup_slot: backup_slot(), verified: None, _lock: lock }
    }
}

/// A kernel of unknown release is tried; one that keeps only the primary shows it at the first write.
fn backup_slot() -> BackupSlot {
    release::running().map_or(BackupSlot::Present, KernelVersion::backup_slot)
}

/// What one namespace was seen to hold.
#[derive(Debug)]
pub struct Observation {
    /// Its kernel, if it could be read.
    pub kernel: Result<ObservedKernel, Problem>,
    /// The keys themselves, if they form a valid pair.
    pub keys: Option<KeyPair>,
    /// `net.ipv4.tcp_fastopen`.
    pub bits: Option<i32>,
    /// Whether it came and is gone again, which is not a problem.
    pub gone: bool,
}

/// All namespaces that the settings name, the own one first.
#[must_use]
pub fn namespaces(settings: &AgentSettings) -> Vec<ManagedNamespace> {
    let backup_slot = backup_slot();
    let named = settings.install.namespaces.iter().map(|name| Namespace::Named(name.value.clone()));
    std::iter::once(Namespace::Own)
        .chain(named)
        .map(|namespace| ManagedNamespace { namespace, backup_slot, verified: None, _lock: None })
        .collect()
}

/// Reads one namespace's kernel.
#[must_use]
pub fn observe(managed: &ManagedNamespace, key_file: &KeyFile) -> Observation {
    let ManagedNamespace { namespace, backup_slot, .. } = managed;
    let (bits, shown) = read_kernel(namespace, key_file);
    let failed = |problem| Observation { kernel: Err(problem), keys: None, bits, gone: false };
    match shown {
        Ok(shown) => {
            let kernel = ObservedKernel { shown: print_of(&shown), backup_slot: *backup_slot };
            let keys = shown.and_then(|(primary, backup)| KeyPair::new(primary, backup).ok());
            Observation { kernel: Ok(kernel), keys, bits, gone: false }
        }
        Err(Unseen::NotEntered(error)) => {
            Observation { gone: namespace.is_gone(&error), ..failed(not_entered(namespace, &error)) }
        }
        Err(Unseen::NotRead(error)) => failed(error.problem(namespace)),
    }
}

/// The problem that a namespace of `install.namespaces` cannot be entered.
#[must_use]
pub fn not_entered(namespace: &Namespace, error: &NamespaceError) -> Problem {
    let remedy = format!("create it with `ip netns add {namespace}`, or remove it from install.namespaces");
    descriptors::problem_of(error, Problem::error("namespace", chain(error), remedy))
}

/// Writes `keys`, whose fingerprints are `pair`, to one kernel, reads them back, and notes whether it has a backup slot.
///
/// None if it is gone meanwhile.
///
/// # Errors
/// Fails with the problem; the kernel then holds its old keys or, after a failed read-back, those of another writer.
pub fn write_kernel(
    managed: &mut ManagedNamespace,
    key_file: &KeyFile,
    keys: &KeyPair,
    pair: PairPrint,
) -> Result<Option<ObservedKernel>, Problem> {
    let namespace = &managed.namespace;
    let written = match namespace.within(|| key_file.install(keys)) {
        Ok(written) => written,
        Err(error) if namespace.is_gone(&error) => return Ok(None),
        Err(error) => {
            let problem = Problem::error("namespace", chain(&error), "run `tfo-agent check`");
            return Err(descriptors::problem_of(&error, problem));
        }
    };
    match written {
        // What a kernel does counts more than its release: distributions backport.
        Ok(SlotsTaken::All) if keys.backup().is_some() => managed.backup_slot = BackupSlot::Present,
        Ok(SlotsTaken::All) => {}
        Ok(SlotsTaken::PrimaryAlone) => managed.backup_slot = BackupSlot::Absent,
        Err(error) => return Err(error.problem(namespace)),
    }
    // `install` read the slots back and compared them, so this is what the kernel holds.
    let kernel = ObservedKernel { shown: None, backup_slot: managed.backup_slot };
    Ok(Some(ObservedKernel { shown: Some(kernel.target(pair)), ..kernel }))
}

/// Reads the sysctl.d file; none, and a problem, if it cannot be read.
pub fn read_file(settings: &AgentSettings, problems: &mut Vec<Problem>) -> Option<Persisted> {
    let place = &settings.install.sysctl_file;
    sysctl_d::read(&place.value)
        .map_err(|error| {
            let message = format!("cannot read {}: {error}", place.value.display());
            let problem =
                Problem::error("sysctl_file", message, "make it readable for this user: it records the installed keys");
            problems.push(place.locate(&settings.file, descriptors::problem_of(&error, problem)));
        })
        .ok()
}

/// Writes the sysctl.d file.
///
/// # Errors
/// Fails with the problem.
pub fn write_file(settings: &AgentSettings, record: &Record, keys: &KeyPair) -> Result<(), Problem> {
    assert!(settings.install.mode == InstallMode::Install, "install.enabled = false: nothing is written");
    let place = &settings.install.sysctl_file;
    sysctl_d::write(&place.value, record, keys).map_err(|error| {
        let remedy = "make the directory writable, and free disk space; the agent tries again at every pass";
        let problem = descriptors::problem_of(&error, Problem::error("sysctl_file", chain(&error), remedy));
        place.locate(&settings.file, problem)
    })
}
