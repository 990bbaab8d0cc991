//! What an agent may still do once it has started: write its file, its runtime directory and the key, and connect to its
//! coordinators' ports (docs/explanation/threat-model.md).  Beside the unit's sandbox, and where there is none: in a container, or
//! for `once` from cron.

use std::path::{Path, PathBuf};

use super::server_bit;
use super::status;
use tfo_config::agent::{AgentSettings, InstallMode, SourceSettings};
use tfo_config::contact::{Renewal, ServerBit};
use tfo_host::kernel::procfs::{BITS_PATH, KEY_PATH};
use tfo_host::runtime::confine::{Allowed, Confined, confine};
use tfo_host::runtime::lock;
use tfo_model::namespace_place::NamespacePlace;
use tfo_model::problem::Problem;
use tfo_model::state::Confinement;

/// A namespace has files of its own under the names of these, and others come and go: a rule for one of them would not hold for the next.
const SYSCTLS: &str = "/proc/sys";
/// DNS over TCP, for long answers: names of coordinators are looked up.
const DNS_PORT: u16 = 53;

/// Confines this process to the work of these settings, as far as the kernel can.
///
/// Not with `on_detached`: what the hook may do is the operator's to say, and it would be confined as well.
#[must_use]
pub fn begin(settings: &AgentSettings) -> Confined {
    if settings.confinement == Confinement::Off || has_hook(settings) || sees_processes(settings) {
        return Confined::not(Confinement::Off);
    }
    // A rule needs the directory.
    if !settings.runtime_dir.value.is_dir() {
        drop(status::make_directory(&settings.runtime_dir.value));
    }
    confine(allowed(settings))
}

/// Leaves this process as it is: it starts a program afterwards.
#[must_use]
pub fn not_at_all(_: &AgentSettings) -> Confined {
    Confined::not(Confinement::Off)
}

/// Whether it looks at other processes: under Landlock it sees those alone that it has started (ptrace(2), PTRACE_MODE_READ).
fn sees_processes(settings: &AgentSettings) -> bool {
    let of_processes = |place: &NamespacePlace| matches!(place, NamespacePlace::Unit(_) | NamespacePlace::Cgroup(_));
    settings.install.places.iter().any(|place| of_processes(&place.value))
}

fn has_hook(settings: &AgentSettings) -> bool {
    matches!(&settings.source, SourceSettings::Coordinator(source) if !source.on_detached.is_empty())
}

/// Why these settings take a restart: the process has given up what they need.
#[must_use]
pub fn refuses(confined: &Confined, settings: &AgentSettings) -> Option<Problem> {
    let mut lacking = confined.lacks(&allowed(settings));
    let is_confined = matches!(confined.level, Confinement::Full | Confinement::Partial);
    if is_confined && has_hook(settings) {
        lacking.push("execute on_detached".to_owned());
    }
    if is_confined && sees_processes(settings) {
        lacking.push("see the processes of units and cgroups".to_owned());
    }
    (!lacking.is_empty()).then(|| {
        let message =
            format!("this agent has confined itself at its start (Landlock), and cannot {}", lacking.join(", "));
        let remedy = "restart it: `systemctl restart tfo-agent`; the installed keys stay";
        Problem::error("needs_restart", message, remedy).in_file(&settings.file)
    })
}

/// The directory, or where it may be made later: a rule needs one that is there.  Never the root, below which is everything.
fn present(directory: PathBuf) -> PathBuf {
    let there = directory.ancestors().find(|ancestor| ancestor.is_dir() && ancestor.parent().is_some());
    there.map_or_else(|| directory.clone(), Path::to_path_buf)
}

fn allowed(settings: &AgentSettings) -> Allowed {
    let mut allowed = Allowed::default();
    let runtime_dir = &settings.runtime_dir.value;
    let parent = |file: &Path| file.parent().unwrap_or(Path::new("/")).to_owned();
    allowed.directories.extend([runtime_dir.clone(), lock::DIRECTORY.into()]);
    allowed.directories.extend(settings.metrics.textfile.iter().map(|textfile| present(parent(&textfile.value))));
    if settings.install.mode == InstallMode::Install {
        allowed.directories.insert(parent(&settings.install.sysctl_file.value));
        allowed.files.insert(KEY_PATH.into());
        if !settings.install.namespaces.is_empty() || !settings.install.places.is_empty() {
            allowed.files.insert(SYSCTLS.into());
        }
    }
    let holds = matches!(&settings.source, SourceSettings::Coordinator(source) if source.server_bit == ServerBit::Held);
    if holds || server_bit::is_held(runtime_dir) {
        allowed.files.insert(BITS_PATH.into());
    }
    if let Some(contact) = settings.contact() {
        allowed.connect.extend(contact.urls.value.iter().map(tfo_wire::base_url::BaseUrl::port));
        if contact.urls.value.iter().any(tfo_wire::base_url::BaseUrl::has_name) {
            allowed.connect.insert(DNS_PORT);
        }
        if contact.renewal == Renewal::ByAgent {
            allowed.directories.extend([parent(&contact.files.cert), parent(&contact.files.ca)]);
        }
    }
    allowed.bind.extend(settings.metrics.listen.iter().map(|listen| listen.value.port()));
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_config::reader::ConfigFile as _;

    /// The settings of an agent of a coordinator, with these lines more in `[source]` and `[install]`.
    fn settings(source: &str, install: &str) -> AgentSettings {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[source]\nkind = \"coordinator\"\nurls = [\"https://c1.example.org:9443\", \"https://192.0.2.1:9543\"]\n\
             pool = \"edge\"\nca = \"/etc/ca.crt\"\ncert = \"/etc/node.crt\"\nkey = \"/etc/node.key\"\n{source}\n\
             [install]\nsysctl_file = \"/etc/sysctl.d/50-x.conf\"\n{install}\n[agent]\nruntime_dir = \"/run/tfo-x\"\n"
        );
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, text).unwrap();
        AgentSettings::load(&file).unwrap()
    }

    #[test]
    fn it_reaches_its_coordinators_and_writes_its_own_places_alone() {
        let allowed = allowed(&settings("", ""));
        assert_eq!(allowed.connect, [DNS_PORT, 9443, 9543].into());
        assert_eq!(allowed.bind, [].into());
        assert_eq!(allowed.files, [PathBuf::from(KEY_PATH)].into());
        for directory in ["/etc/sysctl.d", "/run/tfo-x"] {
            assert!(allowed.directories.contains(Path::new(directory)), "{allowed:?}");
        }
        assert!(!allowed.directories.contains(Path::new("/etc")), "{allowed:?}");
    }

    #[test]
    fn what_starts_or_looks_at_other_programs_is_not_confined_and_takes_a_restart() {
        let full = Confined::not(Confinement::Full);
        for (source, install, why) in [
            ("on_detached = [\"/usr/bin/true\"]", "", "execute on_detached"),
            ("", "namespaces = [\"unit:nginx.service\"]", "see the processes of units and cgroups"),
        ] {
            let settings = settings(source, install);
            assert_eq!(begin(&settings).level, Confinement::Off, "{why}");
            let problem = refuses(&full, &settings).unwrap();
            assert!(problem.kind == "needs_restart" && problem.message.contains(why), "{problem:?}");
            assert_eq!(refuses(&Confined::not(Confinement::Off), &settings), None);
        }
    }
}
