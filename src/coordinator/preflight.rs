//! Everything that a coordinator opens before it serves: configuration, certificates, key-encryption key, store, pools.
//! All that is wrong is found at once.

use std::path::Path;
use std::sync::Arc;

use tfo_config::coordinator::{ApiSettings, CoordinatorSettings, Named, StoreSettings};
use tfo_config::reader::Located;
use tfo_crypto::random;
use tfo_crypto::seal::KeyEncryptionKey;
use tfo_engine::rollout::document::{Document, KeyRing, Snapshot};
use tfo_engine::rollout::policy::Policy;
use tfo_host::runtime::clock;
use tfo_host::secret::{CREDENTIAL_UNSEEN, SecretPath};
use tfo_model::ids::PoolName;
use tfo_model::problem::{Problem, Severity, first_error};
use tfo_store::{CommitError, PoolImage, SqliteReader, SqliteStore, Store, StoreError};
use tfo_tls::server::{ServerFiles, ServerTls};

/// What it is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The daemon: the store alone, and the certificates.
    Serve,
    /// The same, read only, also beside the coordinator that serves.
    Check,
    /// The store, read only.  A backup is made also where the certificates have run out.
    Export,
    /// The store alone.  A backup is put back also where there are no certificates yet.
    Import,
}

impl Use {
    fn needs_certificates(self) -> bool {
        matches!(self, Self::Serve | Self::Check)
    }

    fn only_reads(self) -> bool {
        matches!(self, Self::Check | Self::Export)
    }
}

/// The settings, and what they name.
pub struct Opened {
    /// What the file says.
    pub settings: CoordinatorSettings,
    /// The store; none if it was only to be read and is not there yet.
    pub store: Option<Arc<dyn Store>>,
    /// What its keys are sealed with.
    pub key: KeyEncryptionKey,
    /// What somebody should look at.
    pub warnings: Vec<Problem>,
}

/// Where the certificates lie.
#[must_use]
pub fn server_files(api: &ApiSettings) -> ServerFiles {
    ServerFiles {
        cert: api.cert.value.clone(),
        key: SecretPath::File(api.key.value.clone()),
        client_ca: api.client_ca.value.clone(),
        crl: api.crl.as_ref().map(|crl| crl.value.clone()),
    }
}

/// Reads and opens everything but the sockets.
///
/// # Errors
/// Fails with all problems that keep a coordinator from serving.
pub fn open(config: &Path, usage: Use) -> Result<Opened, Vec<Problem>> {
    let mut named = Named::default();
    let settings = CoordinatorSettings::load_noting(config, &mut named);
    let keys = named.key_encryption_key.as_ref().map(|place| key_encryption_keys(config, place));
    let settings = match settings {
        Ok(settings) => settings,
        Err(mut problems) => {
            problems.extend(keys.and_then(Result::err));
            return Err(problems);
        }
    };
    let mut problems =
        if usage.needs_certificates() { ServerTls::check(&server_files(&settings.api)) } else { Vec::new() };
    let opened = keys.expect("settings name the key").and_then(|[key, for_store]| {
        let (store, warning) = open_store(config, &settings.store, (for_store, usage))?;
        problems.extend(warning);
        Ok((key, store))
    });
    match opened {
        Ok((key, store)) if first_error(&problems).is_none() => Ok(Opened { settings, store, key, warnings: problems }),
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

/// What `check` says: all that [`open`] finds, warnings too, and what will become of the policies.  Changes nothing.
#[must_use]
pub fn check(config: &Path) -> Vec<Problem> {
    match open(config, Use::Check) {
        Ok(mut opened) => {
            let mut problems = std::mem::take(&mut opened.warnings);
            problems
                .extend(opened.store.as_ref().map(|store| policies(&opened.settings, &**store)).unwrap_or_default());
            problems
        }
        Err(mut problems) => {
            problems.iter_mut().filter(|problem| problem.kind == CREDENTIAL_UNSEEN).for_each(only_the_service_sees);
            problems
        }
    }
}

/// systemd shows a credential to the service's main process alone: not to whoever types `check`, and not to ExecReload=
/// (systemd issue 35227).  A coordinator that starts without it says so.
fn only_the_service_sees(problem: &mut Problem) {
    problem.severity = Severity::Warning;
    problem.remedy =
        "none, if the unit has LoadCredential= for it: only the service sees it; so the store is not looked at"
            .to_owned();
}

fn policies(settings: &CoordinatorSettings, store: &dyn Store) -> Vec<Problem> {
    let mut problems = Vec::new();
    let stored = match store.pools() {
        Ok(stored) => stored,
        Err(error) => return vec![error.problem()],
    };
    for (name, policy) in &settings.pools {
        let found = match store.document(name) {
            Ok(found) => found,
            Err(error) => return vec![error.problem()],
        };
        let differs = found.map(|(document, _)| policy.value.differs_from(&document.policy)).unwrap_or_default();
        if !differs.is_empty() {
            let message = format!("differs from the pool's policy in {}", differs.join(", "));
            let remedy =
                "nothing to do: the coordinator takes it over when it starts or reloads, before the next rotation";
            problems.push(policy.locate(&settings.file, Problem::warning("policy_differs", message, remedy)));
        }
    }
    for name in stored.iter().filter(|name| !settings.pools.contains_key(*name)) {
        problems.push(not_configured(name).in_file(&settings.file));
    }
    problems
}

/// A pool that is stored, and that the file does not have.
#[must_use]
pub fn not_configured(name: &PoolName) -> Problem {
    let message =
        format!("pool {name} is in the store and not in this file: it is not served, and its nodes keep their keys");
    Problem::warning("pool_not_configured", message, format!("add [pools.{name}], or leave it so"))
}

/// Twice the same: for the store, and for backups.
fn key_encryption_keys(config: &Path, place: &Located<SecretPath>) -> Result<[KeyEncryptionKey; 2], Problem> {
    // One byte more, so that too long is told as what it is.
    let bytes = place.read_for(config, KeyEncryptionKey::BYTES + 1)?;
    let key = || KeyEncryptionKey::from_bytes(&bytes);
    key().and_then(|first| Ok([first, key()?])).map_err(|error| {
        let remedy = "make one with `head -c 32 /dev/urandom`, and keep a copy apart from the store: without it every key \
                      in the store is lost";
        place.locate(config, Problem::error("kek", error.to_string(), remedy))
    })
}

/// A store, none if it was only to be read and is not there yet; and what has to be said of it.
type MaybeStore = (Option<Arc<dyn Store>>, Option<Problem>);

fn open_store(
    config: &Path,
    settings: &StoreSettings,
    (key, usage): (KeyEncryptionKey, Use),
) -> Result<MaybeStore, Problem> {
    let path = &settings.path.value;
    let opened = if usage.only_reads() {
        // Made when it is served for the first time.
        if !path.exists() && path.parent().is_some_and(Path::is_dir) {
            return Ok((None, None));
        }
        SqliteReader::open(path, key).map(|store| (Some(Arc::new(store) as Arc<dyn Store>), None))
    } else {
        SqliteStore::open(path, key).map(|store| {
            let set_back = store.set_back().map(|problem| settings.path.locate(config, problem.clone()));
            (Some(Arc::new(store) as Arc<dyn Store>), set_back)
        })
    };
    opened.map_err(|error| {
        let problem = error.problem();
        if matches!(error, StoreError::WrongKey { .. }) {
            settings.key_encryption_key.locate(config, problem)
        } else {
            settings.path.locate(config, problem)
        }
    })
}

/// Makes the pools that the file has and the store lacks: empty, with an identity of their own.
///
/// # Errors
/// Fails if the store cannot be read or written, or if there is no randomness.
pub fn make_pools<'a>(
    store: &dyn Store,
    pools: impl Iterator<Item = (&'a PoolName, &'a Policy)>,
) -> Result<(), Problem> {
    let stored = store.pools().map_err(|error| error.problem())?;
    for (name, policy) in pools.filter(|(name, _)| !stored.contains(name)) {
        let mut bytes = [0; 16];
        random::fill(&mut bytes).map_err(|error| {
            Problem::error("no_randomness", error.to_string(), "look at the kernel's log; getrandom(2) fails")
        })?;
        let pool_id = format!("{:032x}", u128::from_be_bytes(bytes)).parse().expect("32 hex digits");
        let document = Document::new(pool_id, policy.clone(), clock::now());
        let snapshot = Snapshot { document, nodes: std::collections::BTreeMap::new() };
        let image = PoolImage { snapshot: &snapshot, keys: &KeyRing::default(), audit: &[] };
        match store.create(name, &image) {
            Ok(()) => {
                tracing::info!(pool = %name, pool_id = %snapshot.document.pool_id, "pool made; it has no key yet")
            }
            Err(CommitError::PoolExists { .. }) => {}
            Err(CommitError::Store(error)) => return Err(error.problem()),
            Err(error) => return Err(Problem::error("store_failed", error.to_string(), "report this to us")),
        }
    }
    Ok(())
}
