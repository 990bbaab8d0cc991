//! What can be seen of this host: the agent's files, the kernel, the clock.  Judges nothing.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tfo_config::agent::{
    AgentSettings, DEFAULT_RUNTIME_DIR, DEFAULT_SYSCTL_FILE, InstallMode, InstallSettings, Named, SourceSettings,
};
use tfo_host::kernel::boot_order::{self, BootOrder};
use tfo_host::kernel::namespace::{Namespace, NamespaceError};
use tfo_host::kernel::procfs::{self, KernelError, KeyFile, print_of};
use tfo_host::kernel::release::{self, KernelRelease};
use tfo_host::kernel::sysctl_d::{self, Persisted, Record};
use tfo_host::runtime::{files, sys};
use tfo_model::ids::NamespaceName;
use tfo_model::key::{PairPrint, TfoKey};
use tfo_model::problem::Problem;
use tfo_model::state::{BackupSlot, SlotPrints};
use tfo_model::time::UnixTime;
use tfo_wire::status::{FILE_NAME, Status, VERSION};

/// Longest status.json, in bytes: 256 namespaces with room to spare.
const STATUS_BYTES_MAX: u64 = 1 << 20;

/// Everything that was seen.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) now: UnixTime,
    pub(super) host: String,
    pub(super) release: String,
    /// None: the release has a name that nobody knows.
    pub(super) backup_slot: Option<BackupSlot>,
    pub(super) config: Config,
    pub(super) status_path: PathBuf,
    /// None: there is no such file.
    pub(super) status: Option<Result<Status, String>>,
    pub(super) file_path: PathBuf,
    pub(super) file: FileState,
    pub(super) boot: BootOrder,
    pub(super) clock_synchronised: Option<bool>,
    pub(super) namespaces: Vec<Site>,
}

/// What the agent's configuration says that matters here.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) present: bool,
    pub(super) mode: InstallMode,
    /// How late a change may be made, in seconds; none without a schedule.
    pub(super) tolerance_secs: Option<u64>,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
}

/// The sysctl.d file.
#[derive(Debug)]
pub(super) enum FileState {
    Absent,
    Foreign,
    Unreadable(io::Error),
    Ours(Box<Record>),
}

/// One namespace.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) namespace: Namespace,
    /// `net.ipv4.tcp_fastopen`.
    pub(super) bits: Option<i32>,
    pub(super) kernel: Kernel,
}

/// What its kernel holds.
#[derive(Debug)]
pub(super) enum Kernel {
    Unset,
    Keys { print: PairPrint, zero: bool },
    NotEntered(NamespaceError),
    NotRead(KernelError),
}

impl Facts {
    /// The keys that should be in the kernel, by the agent's own account.
    pub(super) fn held(&self) -> Option<SlotPrints> {
        let told = self.told().and_then(|status| Some(SlotPrints { primary: status.primary?, backup: status.backup }));
        told.or_else(|| self.record().map(|record| record.prints))
    }

    /// What the agent told.
    pub(super) fn told(&self) -> Option<&Status> {
        self.status.as_ref().and_then(|status| status.as_ref().ok())
    }

    /// What the agent wrote down for the next boot.
    pub(super) fn record(&self) -> Option<&Record> {
        if let FileState::Ours(record) = &self.file { Some(record) } else { None }
    }
}

/// Looks at everything.
pub(super) fn gather(config_path: &Path, names: &[NamespaceName], now: UnixTime) -> Facts {
    let (config, places) = read_config(config_path);
    let status_path = places.runtime_dir.join(FILE_NAME);
    let status = read_status(&status_path);
    let file = read_file(&places.sysctl_file);
    // The scan takes its own file for written, so it is told of it only if that is true.
    let own = if matches!(file, FileState::Ours(_) | FileState::Unreadable(_)) {
        places.sysctl_file.as_path()
    } else {
        Path::new("")
    };
    let boot = boot_order::scan(Path::new("/"), own);
    let namespaces = if names.is_empty() {
        let told = status.as_ref().and_then(|status| status.as_ref().ok());
        let told = told.into_iter().flat_map(|status| &status.namespaces).filter_map(|told| told.name.parse().ok());
        let mut named: Vec<NamespaceName> = places.namespaces;
        named.extend(told.filter(|name: &NamespaceName| name.as_str() != Namespace::Own.name()));
        named.sort();
        named.dedup();
        std::iter::once(Namespace::Own).chain(named.into_iter().map(Namespace::Named)).collect()
    } else {
        crate::host::namespaces::chosen(names)
    };
    let uname = rustix::system::uname();
    Facts {
        now,
        host: uname.nodename().to_string_lossy().into_owned(),
        release: release::running_text(),
        backup_slot: KernelRelease::running().map(KernelRelease::backup_slot),
        config,
        status_path,
        status,
        file_path: places.sysctl_file,
        file,
        boot,
        clock_synchronised: sys::clock_synchronised(),
        namespaces: namespaces.into_iter().map(look).collect(),
    }
}

/// Where the agent's files are.
struct Places {
    runtime_dir: PathBuf,
    sysctl_file: PathBuf,
    namespaces: Vec<NamespaceName>,
}

fn read_config(path: &Path) -> (Config, Places) {
    let mut named = Named::default();
    let present = path.exists();
    let loaded = present.then(|| AgentSettings::load_noting(path, &mut named));
    let install = |install: Option<&InstallSettings>| {
        let file = install.map(|install| install.sysctl_file.value.clone());
        let names =
            install.map_or_else(Vec::new, |install| install.namespaces.iter().map(|name| name.value.clone()).collect());
        (file.unwrap_or_else(|| DEFAULT_SYSCTL_FILE.into()), names)
    };
    let (sysctl_file, namespaces) = install(named.install.as_ref());
    let runtime_dir = named.runtime_dir.map_or_else(|| DEFAULT_RUNTIME_DIR.into(), |place| place.value);
    let mode = named.install.as_ref().map_or(InstallMode::Install, |install| install.mode);
    let (tolerance_secs, problems) = match loaded {
        Some(Ok(AgentSettings { source: SourceSettings::Derive(derive), .. })) => {
            (derive.schedule.skew_tolerance_secs(), Vec::new())
        }
        Some(Ok(_)) | None => (None, Vec::new()),
        Some(Err(problems)) => (None, problems),
    };
    (Config { present, mode, tolerance_secs, problems }, Places { runtime_dir, sysctl_file, namespaces })
}

fn read_status(path: &Path) -> Option<Result<Status, String>> {
    let mut text = Vec::new();
    let read = files::open_regular(path).and_then(|file| file.take(STATUS_BYTES_MAX).read_to_end(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.to_string())),
        Ok(_) => Some(match serde_json::from_slice::<Status>(&text) {
            Ok(status) if status.version == VERSION => Ok(status),
            Ok(status) => Err(format!("it has version {}, and this program knows version {VERSION}", status.version)),
            Err(error) => Err(error.to_string()),
        }),
    }
}

fn read_file(path: &Path) -> FileState {
    match sysctl_d::read(path) {
        Ok(Persisted::Absent) => FileState::Absent,
        Ok(Persisted::Foreign) => FileState::Foreign,
        Ok(Persisted::Ours { record, .. }) => FileState::Ours(Box::new(record)),
        Err(error) => FileState::Unreadable(error),
    }
}

fn look(namespace: Namespace) -> Site {
    let (bits, kernel) = match namespace.within(|| (procfs::tcp_fastopen_bits(), KeyFile::default().read())) {
        Err(error) => (None, Kernel::NotEntered(error)),
        Ok((bits, Err(error))) => (bits, Kernel::NotRead(error)),
        Ok((bits, Ok(shown))) => {
            let zero = shown
                .as_ref()
                .is_some_and(|(primary, backup)| primary.is_zero() || backup.as_ref().is_some_and(TfoKey::is_zero));
            (bits, print_of(&shown).map_or(Kernel::Unset, |print| Kernel::Keys { print, zero }))
        }
    };
    Site { namespace, bits, kernel }
}
