//! The store that the settings name, opened: to serve it, to read it, or to import into it.
//!
//! Must not know: certificates of the API, pools, the command line.

use std::path::Path;
use std::sync::Arc;

use tfo_config::coordinator::{CoordinatorSettings, EtcdPlace, StoreKind, StoreSettings};
use tfo_crypto::seal::KeyEncryptionKeys;
use tfo_host::runtime::clock;
use tfo_model::ids::CoordinatorName;
use tfo_model::problem::Problem;
use tfo_store::{
    ETCD_SCHEMA, Enrolments, EtcdReader, EtcdSettings, EtcdStore, EtcdUser, Patience, ReadWhole, Rekeyed, SqliteReader,
    SqliteStore, Store, StoreError,
};
use tfo_tls::client;
use tfo_tls::server::ServerTls;
use zeroize::Zeroizing;

/// Longest password of an etcd user.
const PASSWORD_BYTES_MAX: usize = 1_024;

/// A store to be served.
pub struct Served {
    /// Its pools.
    pub pools: Arc<dyn Store>,
    /// Its tokens and certificates.
    pub enrolments: Arc<dyn Enrolments>,
    /// The name under which this process writes.
    pub by: CoordinatorName,
}

/// The name under which a coordinator writes into a store that has one coordinator at a time: the same in all its lives,
/// so that nodes keep their sessions.
fn only_name() -> CoordinatorName {
    "coordinator".parse().expect("it is a DNS name")
}

/// Opens the store for this process, with a warning if it lacks what an earlier run had committed.  In etcd the process writes
/// schemas up to `newest_schema`, which is [`ETCD_SCHEMA`] but in tests of an upgrade.
///
/// # Errors
/// Fails if it cannot be used, or another process has it, or this coordinator's name in it.
pub fn open_alone(
    settings: &CoordinatorSettings,
    keys: KeyEncryptionKeys,
    newest_schema: i64,
) -> Result<(Served, Option<Problem>), Problem> {
    let (config, store) = (&settings.file, &settings.store);
    let failed = |error: StoreError| locate(config, store, &error);
    match &store.kind {
        StoreKind::Sqlite { path } => {
            let opened = Arc::new(SqliteStore::open(&path.value, keys).map_err(failed)?);
            let set_back = opened.set_back().map(|problem| path.locate(config, problem.clone()));
            let enrolments: Arc<dyn Enrolments> = Arc::clone(&opened) as _;
            Ok((Served { pools: opened, enrolments, by: only_name() }, set_back))
        }
        StoreKind::Etcd(place) => {
            let by = name(settings, place)?;
            let cluster = EtcdSettings { newest_schema, ..cluster(config, place, Patience::Serving)? };
            let opened = EtcdStore::open(cluster, keys).map_err(failed)?;
            opened.take_name(&by, &place.name_lock.value, clock::now()).map_err(failed)?;
            let opened = Arc::new(opened);
            Ok((Served { enrolments: Arc::clone(&opened) as _, pools: opened, by }, None))
        }
    }
}

/// A store to be filled.
pub struct Filled {
    /// Its pools.
    pub pools: Arc<dyn Store>,
    /// Its tokens and certificates.
    pub enrolments: Arc<dyn Enrolments>,
}

/// Opens the store to import pools into it; an etcd store may be served meanwhile, because a pool that exists is not touched.
///
/// # Errors
/// Fails if it cannot be used, or another process has its file.
pub fn open_to_import(
    settings: &CoordinatorSettings,
    keys: KeyEncryptionKeys,
) -> Result<(Filled, Option<Problem>), Problem> {
    let (config, store) = (&settings.file, &settings.store);
    match &store.kind {
        StoreKind::Sqlite { .. } => {
            let (Served { pools, enrolments, .. }, warning) = open_alone(settings, keys, ETCD_SCHEMA)?;
            Ok((Filled { pools, enrolments }, warning))
        }
        StoreKind::Etcd(place) => {
            let opened = EtcdStore::open(cluster(config, place, Patience::Command)?, keys);
            let opened = opened.map_err(|error| locate(config, store, &error))?;
            let opened = Arc::new(opened);
            Ok((Filled { enrolments: Arc::clone(&opened) as _, pools: opened }, None))
        }
    }
}

/// Opens the store read only; none if it is not there yet, because the first `serve` makes it.
///
/// # Errors
/// Fails if it cannot be read.
pub fn open_beside(
    settings: &CoordinatorSettings,
    keys: KeyEncryptionKeys,
) -> Result<Option<Box<dyn ReadWhole>>, Problem> {
    let (config, store) = (&settings.file, &settings.store);
    let opened: Result<Option<Box<dyn ReadWhole>>, StoreError> = match &store.kind {
        StoreKind::Sqlite { path } => {
            let path = &path.value;
            if !path.exists() && path.parent().is_some_and(Path::is_dir) {
                return Ok(None);
            }
            SqliteReader::open(path, keys).map(|reader| Some(Box::new(reader) as _))
        }
        StoreKind::Etcd(place) => {
            // What `serve` would say of it.
            name(settings, place)?;
            let opened = EtcdReader::open(cluster(config, place, Patience::Command)?, keys);
            opened.map(|reader| reader.map(|reader| Box::new(reader) as _))
        }
    };
    opened.map_err(|error| locate(config, store, &error))
}

/// What is to be known of a cluster besides that the store opens; nothing of a file.
#[must_use]
pub fn examine(settings: &CoordinatorSettings) -> Vec<Problem> {
    let (config, store) = (&settings.file, &settings.store);
    let StoreKind::Etcd(place) = &store.kind else { return Vec::new() };
    let examined = cluster(config, place, Patience::Command)
        .and_then(|cluster| cluster.examine().map_err(|error| locate(config, store, &error)));
    match examined {
        Ok(warnings) => warnings.into_iter().map(|warning| place.urls.locate(config, warning)).collect(),
        Err(problem) => vec![problem],
    }
}

/// Seals the keys of the store with the next of these keys.
///
/// # Errors
/// Fails if the store keeps its key, with the reason.
pub fn rekey(settings: &CoordinatorSettings, keys: KeyEncryptionKeys) -> Result<Rekeyed, Problem> {
    let (config, store) = (&settings.file, &settings.store);
    let done = match &store.kind {
        StoreKind::Sqlite { path } => SqliteStore::rekey(&path.value, &keys),
        StoreKind::Etcd(place) => EtcdStore::rekey(cluster(config, place, Patience::Command)?, keys, clock::now()),
    };
    done.map_err(|error| locate(config, store, &error))
}

/// The name of this coordinator: as configured, or the first one in its certificate, by the alphabet.
fn name(settings: &CoordinatorSettings, place: &EtcdPlace) -> Result<CoordinatorName, Problem> {
    if let Some(name) = &place.name {
        return Ok(name.value.clone());
    }
    let cert = &settings.api.cert;
    let names = ServerTls::names_in(&cert.value);
    names.first().and_then(|name| name.as_str().parse().ok()).ok_or_else(|| {
        let message = "this coordinator has no name: its certificate has no host name (subjectAltName, dNSName)";
        let problem =
            Problem::error("missing_key", message, "add name = \"tfo1.example.org\" to [store], another for each");
        cert.locate(&settings.file, problem)
    })
}

/// The file in the state directory beside which other state of this coordinator lies.
#[must_use]
pub fn local_file(settings: &StoreSettings) -> &Path {
    match &settings.kind {
        StoreKind::Sqlite { path } => &path.value,
        StoreKind::Etcd(place) => &place.name_lock.value,
    }
}

/// How to reach the cluster, with what the settings name.
fn cluster(config: &Path, place: &EtcdPlace, patience: Patience) -> Result<EtcdSettings, Problem> {
    let now = clock::now();
    let tls = match &place.identity {
        None => client::anonymous_config(&place.ca.value, now),
        Some((cert, key)) => client::client_config(&place.ca.value, &cert.value, &key.value, now)
            .map_err(|mut problems| problems.swap_remove(0)),
    };
    let user = match &place.user {
        None => None,
        Some((name, password)) => {
            let bytes = password.read_for(config, PASSWORD_BYTES_MAX)?;
            let text = std::str::from_utf8(&bytes).map(|text| text.trim_end_matches(['\r', '\n']));
            let text = text.map_err(|_| {
                let problem = Problem::error("bad_value", "the password is not UTF-8", "write it as text, on one line");
                password.locate(config, problem)
            })?;
            Some(EtcdUser { name: name.value.clone(), password: Zeroizing::new(text.to_owned()) })
        }
    };
    let url = |url: &tfo_wire::base_url::BaseUrl| url.to_string().parse().expect("it was parsed before");
    let urls = place.urls.value.iter().map(url).collect();
    let (prefix, newest_schema) = (place.prefix.value.clone(), ETCD_SCHEMA);
    Ok(EtcdSettings { urls, prefix, tls: tls?, user, newest_schema, patience })
}

/// The problem of a store at the setting that is to blame.
pub(crate) fn locate(config: &Path, settings: &StoreSettings, error: &StoreError) -> Problem {
    let problem = error.problem();
    match (&settings.kind, error) {
        (_, StoreError::WrongKey { .. }) => settings.key_encryption_key.locate(config, problem),
        (StoreKind::Sqlite { path }, _) => path.locate(config, problem),
        (StoreKind::Etcd(place), _) => place.urls.locate(config, problem),
    }
}
