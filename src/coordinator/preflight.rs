//! Everything that a coordinator opens before it serves: configuration, certificates, key-encryption key, store, pools.
//! All problems are found at once.

use std::collections::BTreeSet;
use std::path::Path;

use super::credential::{self, Secret};
use super::enrolment;
use super::in_use::InUse;
use super::notify;
use super::store::{self, Filled, Served};
use tfo_config::coordinator::{ApiSettings, CoordinatorSettings, Named, StoreSettings, advice};
use tfo_config::reader::{ConfigFile, Located};
use tfo_crypto::random;
use tfo_crypto::seal::{KeyEncryptionKey, KeyEncryptionKeys};
use tfo_engine::rollout::document::{Document, KeyRing};
use tfo_engine::rollout::parts::{Parts, PoolContent};
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::proposed::FilePolicy;
use tfo_host::runtime::clock;
use tfo_host::secret::{CREDENTIAL_UNSEEN, SecretPath};
use tfo_model::ids::PoolName;
use tfo_model::problem::{Problem, Severity, first_error};
use tfo_store::{CommitError, PoolImage, ReadStore, ReadWhole, Store};
use tfo_tls::server::{ServerFiles, ServerTls};

/// The settings, and what they name.
pub struct Opened<S> {
    /// The contents of the configuration file.
    pub settings: CoordinatorSettings,
    /// The store.
    pub store: S,
    /// What seals its keys: for backups.
    pub keys: KeyEncryptionKeys,
    /// Problems that do not keep a coordinator from its work.
    pub warnings: Vec<Problem>,
}

/// Kind of the problem of a store that is to be read and does not exist yet.
pub const NO_STORE: &str = "no_store";

/// Paths of the certificates.
#[must_use]
pub fn server_files(api: &ApiSettings) -> ServerFiles {
    ServerFiles {
        cert: api.cert.value.clone(),
        key: SecretPath::File(api.key.value.clone()),
        client_ca: api.client_ca.value.clone(),
        crl: api.crl.as_ref().map(|crl| crl.value.clone()),
    }
}

/// Opens everything that `serve` needs but the sockets: the certificates, and the store, which no other process serves.
///
/// # Errors
/// Fails with all problems that keep a coordinator from serving.
pub fn open_to_serve(config: &Path, newest_schema: i64) -> Result<Opened<Served>, Vec<Problem>> {
    let serves = |settings: &CoordinatorSettings, keys| store::open_alone(settings, keys, newest_schema);
    open(config, |settings| check_certificates(settings, config), serves)
}

/// Opens the store to `import` a backup, which works without certificates: there may be none yet.
///
/// # Errors
/// Fails with all problems that keep the store from being used.
pub fn open_to_import(config: &Path) -> Result<Opened<Filled>, Vec<Problem>> {
    open(config, |_| Vec::new(), store::open_to_import)
}

/// Opens the store read only to `export` it, also beside a coordinator that serves, and with expired certificates.
///
/// # Errors
/// Fails with all problems that keep the store from being read; with [`NO_STORE`] if there is none yet.
pub fn open_to_export(config: &Path) -> Result<Opened<Box<dyn ReadWhole>>, Vec<Problem>> {
    let Opened { settings, store, keys, warnings } =
        open(config, |_| Vec::new(), |settings, key| Ok((store::open_beside(settings, key)?, None)))?;
    match store {
        Some(store) => Ok(Opened { settings, store, keys, warnings }),
        None => {
            let problem = Problem::error(NO_STORE, "the store does not exist yet", "start the coordinator first");
            Err(vec![problem.in_file(config)])
        }
    }
}

/// Reads the configuration and opens the rest; `open_store` gives a store, and a warning if there is one.
fn open<S>(
    config: &Path,
    check_certificates: impl FnOnce(&CoordinatorSettings) -> Vec<Problem>,
    open_store: impl FnOnce(&CoordinatorSettings, KeyEncryptionKeys) -> Result<(S, Option<Problem>), Problem>,
) -> Result<Opened<S>, Vec<Problem>> {
    let mut named = Named::default();
    let settings = CoordinatorSettings::load_noting(config, &mut named);
    let place = named.key_encryption_key.as_ref();
    let keys = place.map(|place| key_encryption_keys(config, place, named.key_encryption_key_next.as_ref()));
    let settings = match settings {
        Ok(settings) => settings,
        Err(mut problems) => {
            problems.extend(keys.and_then(Result::err));
            return Err(problems);
        }
    };
    let mut problems = check_certificates(&settings);
    let opened = keys.expect("settings name the key").and_then(|keys| {
        let (store, warning) = open_store(&settings, keys.clone())?;
        problems.extend(warning);
        Ok((keys, store))
    });
    match opened {
        Ok((keys, store)) if first_error(&problems).is_none() => {
            Ok(Opened { settings, store, keys, warnings: problems })
        }
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

/// What a `check` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To find what a start would make of the configuration.
    Start,
    /// To find what a reload of the running service would make of it.
    Reload,
}

/// The findings of `check`.
pub struct Found {
    /// All problems and warnings of opening, and the changes to come.
    pub problems: Vec<Problem>,
    /// What could not be looked at, although nothing is wrong with it, and why.
    pub unseen: Option<String>,
}

/// Looks at everything that the configuration names.  Changes nothing.
#[must_use]
pub fn check(config: &Path, purpose: Purpose) -> Found {
    let mut found = Found { problems: Vec::new(), unseen: None };
    let opened = open(
        config,
        |settings| check_certificates(settings, config),
        |settings, key| Ok((store::open_beside(settings, key)?, None)),
    );
    match opened {
        Ok(Opened { settings, store, warnings, .. }) => {
            found.problems = warnings;
            found.problems.extend(store.map(|store| policies(&settings, &*store, purpose)).unwrap_or_default());
            found.problems.extend(store::examine(&settings));
        }
        Err(problems) => found.take(problems, config),
    }
    // Once more, because what cannot be opened does not keep the rest from being looked at.
    let Ok(settings) = CoordinatorSettings::load(config) else { return found };
    found.problems.extend(advice(&settings));
    if let Some(in_use) = InUse::of_service(config) {
        let severity = match purpose {
            Purpose::Start => Severity::Warning,
            Purpose::Reload => Severity::Error,
        };
        found.problems.extend(in_use.changes(&settings, severity));
    }
    found
}

impl Found {
    /// Takes the problems of opening; for a credential that only the service can see, what is wrong with its source.
    fn take(&mut self, problems: Vec<Problem>, config: &Path) {
        let mut named = Named::default();
        drop(CoordinatorSettings::load_noting(config, &mut named));
        let secrets = [
            (named.key_encryption_key, Secret::KeyEncryptionKey),
            (named.key_encryption_key_next, Secret::KeyEncryptionKey),
            (named.authority_key, Secret::AuthorityKey),
        ];
        for problem in problems {
            let is_its_place = |place: &Located<SecretPath>| problem.key.as_deref() == Some(&*place.key);
            let secret = secrets.iter().find(|(place, _)| place.as_ref().is_some_and(is_its_place));
            match secret {
                Some((Some(place @ Located { value: SecretPath::Credential(name), .. }), secret))
                    if problem.kind == CREDENTIAL_UNSEEN =>
                {
                    let found = credential::problem_of(name, *secret);
                    self.problems.extend(found.map(|problem| place.locate(config, problem)));
                    self.unseen = Some(match secret {
                        Secret::KeyEncryptionKey => {
                            format!("the store was not looked at: only the service can read {}", place.value)
                        }
                        Secret::AuthorityKey => {
                            format!("the authority was not looked at: only the service can read {}", place.value)
                        }
                    });
                }
                _ => self.problems.push(problem),
            }
        }
    }
}

/// The certificates, whether one of them can be revoked, and what operators are told by.
fn check_certificates(settings: &CoordinatorSettings, config: &Path) -> Vec<Problem> {
    let api = &settings.api;
    let mut problems = ServerTls::check(&server_files(api));
    // Where nodes enrol here, a node of that name would be refused with the reason.
    let names = if settings.enrolment.is_some() { BTreeSet::new() } else { ServerTls::names_in(&api.cert.value) };
    for name in names {
        for pool in settings.pools.values().filter(|pool| pool.value.nodes.iter().any(|one| one.matches(&name))) {
            let message = format!("{name} fits a pattern of nodes, and is the coordinator's own name");
            let remedy = "nothing, if no node has that name: the coordinator's certificate never gets keys; otherwise narrow \
                          the pattern";
            let problem = Problem::warning("names_overlap", message, remedy).at_key(format!("{}.nodes", pool.key));
            problems.push(pool.locate(config, problem));
        }
    }
    if let Some(settings) = &settings.enrolment {
        problems.extend(enrolment::check(config, api, settings));
    }
    problems.extend(notify::check(settings));
    if api.crl.is_none() {
        let message = "there is no revocation list: a certificate whose key was stolen stays valid until it expires";
        let remedy = "add crl = \"/etc/tfo-fleet/crl.pem\" to [api], and copy crl.pem there (`tfoctl pki init` has made \
                      it); then reload";
        problems.push(Problem::warning("no_crl", message, remedy).in_file(config).at_key("api.crl"));
    }
    problems
}

fn policies(settings: &CoordinatorSettings, store: &dyn ReadStore, purpose: Purpose) -> Vec<Problem> {
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
        let problem = found.and_then(|(document, _)| policy_differs(&policy.value, &document, purpose));
        problems.extend(problem.map(|problem| policy.locate(&settings.file, problem)));
    }
    for name in stored.iter().filter(|name| !settings.pools.contains_key(*name)) {
        problems.push(not_configured(name).in_file(&settings.file));
    }
    problems
}

/// The warning for a file that is not the pool's policy, and what becomes of it.
fn policy_differs(policy: &Policy, document: &Document, purpose: Purpose) -> Option<Problem> {
    let mut file = FilePolicy::at_start(policy.clone());
    let differs = file.differs(document).join(", ");
    // It settles if a start would not propose it.
    file.proposal(document);
    let (then, remedy) = match purpose {
        Purpose::Start if file.is_pending() => {
            ("a start makes it the pool's, between rotations", "nothing to do, if the change is meant")
        }
        Purpose::Start => {
            let then = "it was the pool's before, so a start leaves the pool's policy as it is";
            (then, "write the present policy, or reload the running coordinator: that makes this one the pool's again")
        }
        Purpose::Reload => {
            ("the reload makes it the pool's, between rotations", "nothing to do, if the change is meant")
        }
    };
    let message = format!("differs from the pool's policy in {differs}: {then}");
    (!differs.is_empty()).then(|| Problem::warning("policy_differs", message, remedy))
}

/// The warning for a stored pool that the configuration file does not have.
#[must_use]
pub fn not_configured(name: &PoolName) -> Problem {
    let message =
        format!("pool {name} is in the store but not in this file: it is not served, and its nodes keep their keys");
    Problem::warning("pool_not_configured", message, format!("add [pools.{name}] to serve it; otherwise nothing to do"))
}

/// The present key-encryption key, and the next one if there is one.
fn key_encryption_keys(
    config: &Path,
    present: &Located<SecretPath>,
    next: Option<&Located<SecretPath>>,
) -> Result<KeyEncryptionKeys, Problem> {
    let read = |place: &Located<SecretPath>| {
        // One byte more, so that a file that is too long is reported as such.
        let bytes = place.read_for(config, KeyEncryptionKey::BYTES + 1)?;
        KeyEncryptionKey::from_bytes(&bytes).map_err(|error| {
            let remedy = "generate one with `head -c 32 /dev/urandom`, and keep a copy apart from the store: without it all keys in \
                          the store are lost";
            place.locate(config, Problem::error("kek", error.to_string(), remedy))
        })
    };
    Ok(KeyEncryptionKeys::new(read(present)?, next.map(read).transpose()?))
}

/// What seals the keys in the store of these settings, read again.
///
/// # Errors
/// Fails if a key cannot be read, or cannot be one.
pub fn keys_of(settings: &CoordinatorSettings) -> Result<KeyEncryptionKeys, Problem> {
    let StoreSettings { key_encryption_key, key_encryption_key_next, .. } = &settings.store;
    key_encryption_keys(&settings.file, key_encryption_key, key_encryption_key_next.as_ref())
}

/// Creates the pools that the file has and the store lacks: empty, with an identity of their own.
///
/// # Errors
/// Fails if the store cannot be read or written, or if the system has no randomness.
pub fn make_pools<'a>(
    store: &dyn Store,
    pools: impl Iterator<Item = (&'a PoolName, &'a Policy)>,
) -> Result<(), Problem> {
    let stored = store.pools().map_err(|error| error.problem())?;
    for (name, policy) in pools.filter(|(name, _)| !stored.contains(name)) {
        let mut bytes = [0; 16];
        random::fill(&mut bytes).map_err(|error| {
            Problem::error("no_randomness", error.to_string(), "getrandom(2) fails; check the kernel's log")
        })?;
        let pool_id = format!("{:032x}", u128::from_be_bytes(bytes)).parse().expect("32 hex digits");
        let document = Document::new(pool_id, policy.clone(), clock::now());
        let content = PoolContent::new(document, Parts::default());
        let image = PoolImage { content: &content, keys: &KeyRing::default(), audit: &[] };
        match store.create(name, &image) {
            Ok(()) => {
                tracing::info!(pool = %name, %pool_id, "pool created; it has no key yet")
            }
            Err(CommitError::PoolExists { .. }) => {}
            Err(CommitError::Store(error)) => return Err(error.problem()),
            Err(error) => {
                return Err(Problem::error("store_failed", error.to_string(), "this is a bug; please report it"));
            }
        }
    }
    Ok(())
}
