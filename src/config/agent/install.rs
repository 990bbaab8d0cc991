//! `[install]`: where keys go.

use std::collections::BTreeSet;
use std::time::Duration;

use super::settings::{DEFAULT_SYSCTL_FILE, InstallMode, InstallSettings, default};
use crate::reader::{Findings, Located, Table, absolute};
use tfo_model::ids::NamespaceName;
use tfo_model::namespace_place::NamespacePlace;
use tfo_model::problem::Problem;

/// Default of `install.verify_interval`: a pass costs microseconds, and drift costs cookies until it is repaired.
const DEFAULT_VERIFY_INTERVAL: Duration = Duration::from_secs(30);
/// Range of `install.verify_interval`.
const VERIFY_INTERVAL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
/// Most namespaces besides the own one.
const NAMESPACES_MAX: usize = 256;

pub(super) fn install_section(table: Option<Table<'_, '_>>, findings: &mut Findings) -> InstallSettings {
    let mut settings = InstallSettings {
        sysctl_file: default("install.sysctl_file", DEFAULT_SYSCTL_FILE),
        namespaces: Vec::new(),
        places: Vec::new(),
        verify_interval: DEFAULT_VERIFY_INTERVAL,
        mode: InstallMode::Install,
    };
    let Some(mut table) = table else { return settings };
    let conf = |text: &str| match absolute(text) {
        Ok(path) if path.extension().is_some_and(|extension| extension == "conf") => Ok(path),
        _ => Err("write an absolute path that ends in .conf: nothing else is read at boot (sysctl.d(5))"),
    };
    if let Some(path) = table.parsed("sysctl_file", findings, conf) {
        settings.sysctl_file = path;
    }
    if let Some(names) = table.strings("namespaces", findings) {
        (settings.namespaces, settings.places) = namespaces(&names, findings);
    }
    if let Some(span) = table.span("verify_interval", findings) {
        if VERIFY_INTERVAL_RANGE.contains(&span.value) {
            settings.verify_interval = span.value;
        } else {
            findings.add_at(&span, Problem::error("out_of_range", "this is out of range", "write 1 second to 1 hour"));
        }
    }
    if table.boolean("enabled", findings).is_some_and(|enabled| !enabled.value) {
        settings.mode = InstallMode::LookOnly;
    }
    table.finish(findings);
    settings
}

/// Those that have to be there, and the places of others.
fn namespaces(
    names: &Located<Vec<String>>,
    findings: &mut Findings,
) -> (Vec<Located<NamespaceName>>, Vec<Located<NamespacePlace>>) {
    if names.value.len() > NAMESPACES_MAX {
        let message = format!("the list has more than {NAMESPACES_MAX} namespaces");
        findings.add_at(names, Problem::error("out_of_range", message, "run a second agent inside one of them"));
    }
    let (mut parsed, mut places, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for name in &names.value {
        match name.parse::<NamespacePlace>() {
            Ok(value) if !seen.insert(value.clone()) => {
                findings.add_at(names, Problem::error("bad_value", format!("{name:?} is named twice"), "remove one"));
            }
            Ok(NamespacePlace::Named(value)) => {
                parsed.push(Located { value, key: names.key.clone(), line: names.line });
            }
            Ok(value) => places.push(Located { value, key: names.key.clone(), line: names.line }),
            Err(error) => {
                let message = format!("invalid value {name:?}");
                findings.add_at(names, Problem::error("bad_value", message, error.to_string()));
            }
        }
    }
    (parsed, places)
}
