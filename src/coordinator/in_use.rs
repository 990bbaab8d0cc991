//! What a running coordinator cannot change: its addresses, its store, its authority and its trust domain.  All other settings are reloaded.
//!
//! The coordinator refuses a reload that changes one of them.  `check --reload`, which makes `systemctl reload` fail then,
//! is another process: it learns what is in use from a file in the service's runtime directory, written once at the start,
//! so the two cannot race.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use tfo_config::coordinator::{ApiSettings, CoordinatorSettings, EtcdPlace, StoreKind, StoreSettings};
use tfo_config::reader::Located;
use tfo_host::runtime::files::{self, Durability, ReplaceError};
use tfo_model::problem::{Problem, Severity};

/// RuntimeDirectory= of the unit, and what systemd calls it for the service (`systemd.exec(5)`).
const DIRECTORY: &str = "/run/tfo-coordinator";
const DIRECTORY_VARIABLE: &str = "RUNTIME_DIRECTORY";
/// The file in it.
const NAME: &str = "in-use.json";

/// Kind of the problem of a setting that a reload cannot change.
pub const NEEDS_RESTART: &str = "needs_restart";

/// The settings that are in use from start to end.  Between two processes of one release: it may change freely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    config: PathBuf,
    listen: SocketAddr,
    observe: Option<SocketAddr>,
    /// The file, or the cluster and all that is said of it; secrets by their places.
    store: String,
    spiffe_trust_domain: Option<String>,
    enrolment: Option<InUseEnrolment>,
}

/// `[enrolment]`, but for the lifetime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InUseEnrolment {
    listen: SocketAddr,
    ca_cert: PathBuf,
    /// The place of the key, never the key.
    ca_key: Option<String>,
}

impl InUse {
    /// Of these settings.
    #[must_use]
    pub fn of(settings: &CoordinatorSettings) -> Self {
        Self {
            config: settings.file.clone(),
            listen: settings.api.listen.value,
            observe: settings.observe.as_ref().map(|at| at.value),
            store: store_of(&settings.store),
            spiffe_trust_domain: settings.access.spiffe_trust_domain.as_ref().map(|domain| domain.value.to_string()),
            enrolment: settings.enrolment.as_ref().map(|enrolment| InUseEnrolment {
                listen: enrolment.listen.value,
                ca_cert: enrolment.ca_cert.value.clone(),
                ca_key: enrolment.ca_key.as_ref().map(|key| key.value.to_string()),
            }),
        }
    }

    /// Of the coordinator that runs as the service, if it serves this configuration file.
    #[must_use]
    pub fn of_service(config: &Path) -> Option<Self> {
        let directory = env::var_os(DIRECTORY_VARIABLE).map_or_else(|| DIRECTORY.into(), PathBuf::from);
        let text = std::fs::read(directory.join(NAME)).ok()?;
        serde_json::from_slice(&text).ok().filter(|in_use: &Self| in_use.config == config)
    }

    /// Says it to [`Self::of_service`], where systemd has made a runtime directory.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn publish(&self) -> Result<(), ReplaceError> {
        let Some(directory) = env::var_os(DIRECTORY_VARIABLE) else { return Ok(()) };
        let text = serde_json::to_vec(self).expect("paths of a configuration file are UTF-8");
        files::replace(&Path::new(&directory).join(NAME), &text, 0o644, Durability::Volatile)
    }

    /// What differs in `settings`: each a problem of this severity at its key.
    #[must_use]
    pub fn changes(&self, settings: &CoordinatorSettings, severity: Severity) -> Vec<Problem> {
        let (new, ApiSettings { listen, .. }) = (Self::of(settings), &settings.api);
        let store = match &settings.store.kind {
            StoreKind::Sqlite { path } => at(path),
            StoreKind::Etcd(cluster) => at(&cluster.urls),
        };
        let observe = settings.observe.as_ref().map_or_else(|| place("observe.listen", None), at);
        let enrolment = settings.enrolment.as_ref().map_or_else(|| place("enrolment", None), |own| at(&own.ca_cert));
        let domain = settings.access.spiffe_trust_domain.as_ref();
        let domain = domain.map_or_else(|| place("access.spiffe_trust_domain", None), at);
        let changes = [
            (at(listen), self.listen != new.listen),
            (observe, self.observe != new.observe),
            (store, self.store != new.store),
            (domain, self.spiffe_trust_domain != new.spiffe_trust_domain),
            (enrolment, self.enrolment != new.enrolment),
        ];
        let problem = |place: Located<()>| {
            let message = "the running coordinator cannot change this; it takes effect at a restart";
            let remedy = "systemctl restart tfo-coordinator: nodes keep their keys, and a running rotation continues";
            place.locate(&settings.file, Problem { severity, ..Problem::error(NEEDS_RESTART, message, remedy) })
        };
        changes.into_iter().filter(|(_, differs)| *differs).map(|(place, _)| problem(place)).collect()
    }
}

/// All of `[store]` but the key-encryption keys, as text.
fn store_of(settings: &StoreSettings) -> String {
    match &settings.kind {
        StoreKind::Sqlite { path } => path.value.display().to_string(),
        StoreKind::Etcd(cluster) => {
            let EtcdPlace { urls, prefix, ca, identity, user, name, name_lock } = &**cluster;
            let identity = identity.as_ref().map(|(cert, key)| (&cert.value, key.value.to_string()));
            let user = user.as_ref().map(|(user, password)| (&user.value, password.value.to_string()));
            let (urls, name) = (urls.value.iter().map(ToString::to_string), name.as_ref().map(|name| &name.value));
            let urls: Vec<String> = urls.collect();
            format!("{urls:?} {} {:?} {identity:?} {user:?} {name:?} {:?}", prefix.value, ca.value, name_lock.value)
        }
    }
}

/// The place of a setting, whatever its value is.
fn at<T>(setting: &Located<T>) -> Located<()> {
    place(&setting.key, setting.line)
}

fn place(key: &str, line: Option<usize>) -> Located<()> {
    Located { value: (), key: key.to_owned(), line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_config::reader::ConfigFile;

    fn settings(more: &str) -> CoordinatorSettings {
        settings_with(more, "[access]\noperators = []\n")
    }

    fn settings_with(more: &str, access: &str) -> CoordinatorSettings {
        let text = format!(
            "[api]\ncert = \"/c.crt\"\nkey = \"/c.key\"\nclient_ca = \"/ca.crt\"\n{more}{access}\
             [pools.edge]\nnodes = [\"*.example.org\"]\n"
        );
        CoordinatorSettings::parse(Path::new("/c.toml"), &text).unwrap()
    }

    #[test]
    fn addresses_and_the_store_need_a_restart_and_nothing_else() {
        let before = "[store]\nkey_encryption_key = \"credential:kek\"\n";
        let in_use = InUse::of(&settings(before));
        let changed = |more: &str| {
            let problems = in_use.changes(&settings(more), Severity::Error);
            let keys = problems.into_iter().map(|problem| (problem.key.unwrap(), problem.line));
            keys.collect::<Vec<_>>()
        };
        assert_eq!(changed(before), []);
        assert_eq!(changed(&format!("crl = \"/crl.pem\"\n{before}")), [], "files of TLS are read again");
        assert_eq!(changed(&format!("listen = \"[::]:9444\"\n{before}")), [("api.listen".to_owned(), Some(5))]);
        assert_eq!(changed(&format!("{before}[observe]\nlisten = \"\"\n")), [("observe.listen".to_owned(), None)]);
        let trusting = settings_with(before, "[access]\noperators = []\nspiffe_trust_domain = \"d\"\n");
        let found = in_use.changes(&trusting, Severity::Error);
        let keys: Vec<_> = found.into_iter().map(|problem| problem.key.unwrap()).collect();
        assert_eq!(keys, ["access.spiffe_trust_domain"], "open connections have their names by it");
        let moved = "[store]\npath = \"/s.db\"\nkey_encryption_key = \"/kek\"\n";
        // The keys are read again: a rekey needs no restart.
        let keys = ["store.path"].map(str::to_owned);
        assert_eq!(changed(moved).into_iter().map(|(key, _)| key).collect::<Vec<_>>(), keys);
    }

    #[test]
    fn it_goes_to_another_process_whole() {
        let in_use = InUse::of(&settings("[store]\nkey_encryption_key = \"/kek\"\n"));
        let text = serde_json::to_vec(&in_use).unwrap();
        assert_eq!(serde_json::from_slice::<InUse>(&text).unwrap(), in_use);
    }
}
