//! `agent.toml`: see config/agent.toml, which has every key with its default, unit and range.

mod install;
mod settings;
mod source;

pub use settings::{
    AgentSettings, Algorithm, DEFAULT_FILE, DEFAULT_RUNTIME_DIR, DEFAULT_SYSCTL_FILE, DeriveEntry, DeriveSettings,
    Holds, InstallMode, InstallSettings, MetricsSettings, Named, NamedSecret, SourceSettings,
};

use std::path::{Path, PathBuf};

use self::install::install_section;
use self::settings::default;
use self::source::source_section;
use super::contact::report_section;
use super::reader::{ConfigFile, Findings, Located, Table, absolute};
use tfo_model::ids::NodeId;
use tfo_model::problem::Problem;
use tfo_model::state::Confinement;

impl ConfigFile for AgentSettings {
    type Named = Named;

    fn convert(file: &Path, mut root: Table<'_, '_>, findings: &mut Findings, named: &mut Named) -> Option<Self> {
        let agent = root.table("agent", findings).map(|table| agent_section(table, findings));
        let (node, runtime_dir, confinement) = agent.unwrap_or((None, None, Confinement::Full));
        let source = match root.table("source", findings) {
            Some(table) => source_section(table, findings, named),
            None => {
                let remedy = "add [source] with kind = \"derive\", \"coordinator\", \"file\" or \"random\"";
                let problem = Problem::error("missing_key", "there is no [source] section", remedy);
                findings.add_at(&root.place("source", findings), problem);
                None
            }
        };
        let install = root.table("install", findings);
        let install = install_section(install, findings);
        let metrics = match root.table("metrics", findings) {
            Some(table) => metrics_section(table, findings),
            None => MetricsSettings { textfile: None, listen: None },
        };
        let report = root.table("report", findings).and_then(|table| report_section(table, findings));
        if let (Some(SourceSettings::Coordinator(_)), Some(report)) = (&source, &report) {
            let remedy = "remove [report]: an agent with a coordinator reports to it anyway";
            findings.add_at(&report.urls, Problem::error("bad_value", "[report] is for the other sources", remedy));
        }
        root.finish(findings);
        named.install = Some(install.clone());
        named.textfile.clone_from(&metrics.textfile);
        let runtime_dir = runtime_dir.unwrap_or_else(|| default("agent.runtime_dir", DEFAULT_RUNTIME_DIR));
        let node_is_named = node.is_some();
        named.runtime_dir = Some(runtime_dir.clone());
        let node = node.or_else(host_name);
        Some(Self {
            file: file.to_owned(),
            node,
            node_is_named,
            runtime_dir,
            confinement,
            source: source?,
            install,
            metrics,
            report,
        })
    }
}

/// The name of this host; none if a node cannot have it.
#[must_use]
pub fn host_name() -> Option<NodeId> {
    rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase().parse().ok()
}

fn agent_section(
    mut table: Table<'_, '_>,
    findings: &mut Findings,
) -> (Option<NodeId>, Option<Located<PathBuf>>, Confinement) {
    let node = table.parsed("node", findings, str::parse::<NodeId>);
    let runtime_dir = table.parsed("runtime_dir", findings, absolute);
    let landlock = table.boolean("landlock", findings).is_none_or(|landlock| landlock.value);
    table.finish(findings);
    (node.map(|node| node.value), runtime_dir, if landlock { Confinement::Full } else { Confinement::Off })
}

fn metrics_section(mut table: Table<'_, '_>, findings: &mut Findings) -> MetricsSettings {
    let textfile = table.parsed("textfile", findings, |text| match text {
        "" => Ok(None),
        _ if text.ends_with(".prom") => absolute(text).map(Some),
        _ => Err("write an absolute path that ends in .prom (node_exporter reads no other), or \"\" for none"),
    });
    let listen = table.parsed("listen", findings, |text| match text {
        "" => Ok::<_, &str>(None),
        _ => text.parse().map(Some).map_err(|_| "write ADDRESS:PORT, for example \"127.0.0.1:9440\", or \"\" for none"),
    });
    table.finish(findings);
    MetricsSettings { textfile: textfile.and_then(Located::transpose), listen: listen.and_then(Located::transpose) }
}

impl<T> Located<Option<T>> {
    fn transpose(self) -> Option<Located<T>> {
        let Self { value, key, line } = self;
        value.map(|value| Located { value, key, line })
    }
}
