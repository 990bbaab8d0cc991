//! Collects what `status` shows: the agent's configuration and report, and the host as [`tfo_host::examine`] sees it.
//! `judge` draws the conclusions.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tfo_config::agent::{AgentSettings, DEFAULT_RUNTIME_DIR, DEFAULT_SYSCTL_FILE, InstallMode, Named, SourceSettings};
use tfo_config::reader::ConfigFile;
use tfo_host::examine::{FileState, HostFacts, examine};
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::namespace_found::find;
use tfo_host::kernel::sysctl_d::Record;
use tfo_host::runtime::files;
use tfo_model::ids::NamespaceName;
use tfo_model::problem::Problem;
use tfo_model::state::SlotPrints;
use tfo_model::time::UnixTime;
use tfo_wire::status::{FILE_NAME, Status, VERSION};

/// Longest status.json, in bytes: 256 namespaces with room to spare.
const STATUS_BYTES_MAX: u64 = 1 << 20;

/// The collected facts.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) now: UnixTime,
    pub(super) config: Config,
    pub(super) status_path: PathBuf,
    /// None: the file does not exist.
    pub(super) status: Option<Result<Status, String>>,
    pub(super) file_path: PathBuf,
    pub(super) host: HostFacts,
}

/// The part of the agent's configuration that `status` needs.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) present: bool,
    pub(super) mode: InstallMode,
    /// How late a change may be made, in seconds; none without a schedule.
    pub(super) tolerance_secs: Option<u64>,
    /// Problems of the configuration file.
    pub(super) problems: Vec<Problem>,
}

impl Facts {
    /// The keys that should be in the kernel, according to the agent.
    pub(super) fn held(&self) -> Option<SlotPrints> {
        let reported = self.reported();
        let reported = reported.and_then(|status| Some(SlotPrints { primary: status.primary?, backup: status.backup }));
        reported.or_else(|| self.record().map(|record| record.prints))
    }

    /// The agent's report, if there is a readable one.
    pub(super) fn reported(&self) -> Option<&Status> {
        self.status.as_ref().and_then(|status| status.as_ref().ok())
    }

    /// What the agent recorded for the next boot.
    pub(super) fn record(&self) -> Option<&Record> {
        if let FileState::Ours(record) = &self.host.file { Some(record) } else { None }
    }
}

/// Collects all facts.
pub(super) fn gather(config_path: &Path, names: &[NamespaceName], now: UnixTime) -> Facts {
    let mut named = Named::default();
    let config = read_config(config_path, &mut named);
    let runtime_dir = named.runtime_dir.map_or_else(|| DEFAULT_RUNTIME_DIR.into(), |place| place.value);
    let (file_path, managed, places) = named.install.map_or_else(
        || (DEFAULT_SYSCTL_FILE.into(), Vec::new(), Vec::new()),
        |install| {
            let names = install.namespaces.into_iter().map(|name| name.value).collect::<Vec<_>>();
            (install.sysctl_file.value, names, install.places)
        },
    );
    let status_path = runtime_dir.join(FILE_NAME);
    let status = read_status(&status_path);
    let namespaces = if names.is_empty() {
        let reported = status.as_ref().and_then(|status| status.as_ref().ok());
        let reported = reported.into_iter().flat_map(|status| &status.namespaces);
        // Those that come and go are looked for again.
        let lasting = reported.filter(|namespace| !namespace.found);
        let reported = lasting.filter_map(|namespace| namespace.name.parse::<NamespaceName>().ok());
        let mut all = managed;
        all.extend(reported.filter(|name| name.as_str() != Namespace::Own.name()));
        all.sort();
        all.dedup();
        let mut all: Vec<Namespace> =
            std::iter::once(Namespace::Own).chain(all.into_iter().map(Namespace::Named)).collect();
        let known = all.iter().filter_map(|namespace| namespace.identity().ok()).collect();
        all.extend(find(places.iter().map(|place| &place.value), &known).namespaces);
        all
    } else {
        crate::host::namespaces::chosen(names)
    };
    Facts { now, config, status_path, status, host: examine(&file_path, namespaces), file_path }
}

fn read_config(path: &Path, named: &mut Named) -> Config {
    let present = path.exists();
    let loaded = present.then(|| AgentSettings::load_noting(path, named));
    let mode = named.install.as_ref().map_or(InstallMode::Install, |install| install.mode);
    let (tolerance_secs, problems) = match loaded {
        Some(Ok(AgentSettings { source: SourceSettings::Derive(derive), .. })) => {
            (derive.schedule.skew_tolerance_secs(), Vec::new())
        }
        Some(Ok(_)) | None => (None, Vec::new()),
        Some(Err(problems)) => (None, problems),
    };
    Config { present, mode, tolerance_secs, problems }
}

fn read_status(path: &Path) -> Option<Result<Status, String>> {
    let mut text = Vec::new();
    let read = files::open_regular(path).and_then(|file| file.take(STATUS_BYTES_MAX).read_to_end(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.to_string())),
        Ok(_) => Some(match serde_json::from_slice::<Status>(&text) {
            Ok(status) if status.version == VERSION => Ok(status),
            Ok(status) => Err(format!("it has version {}; this tfoctl reads version {VERSION}", status.version)),
            Err(error) => Err(error.to_string()),
        }),
    }
}
