//! From the configuration to somebody to ask: files, identity, client, and the pool that is meant.

use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::ask::Fleet;
use tfo_cli::report::{Failure, Outcome};
use tfo_config::ctl::{CtlSettings, SYSTEM_FILE, default_files};
use tfo_host::runtime::clock;
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;
use tfo_tls::client::{ClientFiles, client_identity};
use tfo_wire::client::Client;

/// Where to ask, and about what.
#[derive(Debug, Clone, Args)]
pub(super) struct ConnectArgs {
    /// Configuration file; default ~/.config/tfo-fleet/ctl.toml, then /etc/tfo-fleet/ctl.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The pool, if not the one in the configuration
    #[arg(long, value_name = "NAME")]
    pool: Option<PoolName>,
}

/// Coordinators to ask, and the pool that was named.
pub(super) struct Connection {
    /// The coordinators.
    pub(super) fleet: Fleet,
    /// `--pool`, or `pool` of the configuration.
    named: Option<PoolName>,
    /// `--pool` alone.
    pub(super) argument: Option<PoolName>,
}

/// What every order has.
#[derive(Debug, Args)]
pub(super) struct OrderArgs {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    /// Why; for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(super) reason: String,
}

impl ConnectArgs {
    /// Reads configuration, certificate and key; connects to nobody yet.
    pub(super) fn open(&self) -> Result<Connection, Failure> {
        let config = |problems| Failure { problems, outcome: Outcome::Config };
        let settings = CtlSettings::load(&self.file()?).map_err(config)?;
        let files = ClientFiles { ca: settings.ca, cert: settings.cert, key: settings.key };
        let identity = client_identity(&files, clock::now()).map_err(config)?;
        for note in &identity.notes {
            // A warning that nobody can read changes nothing.
            drop(writeln!(io::stderr(), "{note}"));
        }
        let client = Client::new(identity.config).map_err(|error| {
            let message = format!("{error}: {}", failure_cause(&error));
            Failure::new(Outcome::Failed, Problem::error("client", message, "report this: it is a fault of tfoctl"))
        })?;
        let named = self.pool.clone().or(settings.pool);
        let fleet = Fleet::new(client, settings.urls, identity.names);
        Ok(Connection { fleet, named, argument: self.pool.clone() })
    }

    fn file(&self) -> Result<PathBuf, Failure> {
        let tried = match &self.config {
            Some(file) => vec![file.clone()],
            None => default_files(),
        };
        if let Some(file) = tried.iter().find(|file| file.exists()) {
            return Ok(file.clone());
        }
        let names: Vec<String> = tried.iter().map(|file| file.display().to_string()).collect();
        let message = format!("there is no configuration at {}", names.join(" nor at "));
        let remedy =
            format!("write {SYSTEM_FILE} with urls, ca, cert, key and pool, or name a file with --config FILE");
        Err(Failure::new(Outcome::Config, Problem::error("config_missing", message, remedy)))
    }
}

impl Connection {
    /// The pool that is meant: the named one, or the only one there is.
    pub(super) async fn pool(&self) -> Result<PoolName, Failure> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        let pools = self.fleet.pools().await?.pools;
        if let [only] = &pools[..] {
            return Ok(only.pool.clone());
        }
        let names: Vec<&str> = pools.iter().map(|pool| pool.pool.as_str()).collect();
        let message = format!("which pool?  There are {}: {}", names.len(), names.join(", "));
        let problem = Problem::error("no_pool", message, "name it with --pool NAME, or pool = \"NAME\" in ctl.toml");
        Err(Failure::new(Outcome::Config, problem))
    }
}

fn failure_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}

/// Runs a command to its end on this thread.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        let message = format!("cannot start: {error}");
        Failure::new(Outcome::Failed, Problem::error("runtime", message, "look for limits on files or processes"))
    })?;
    let done = runtime.block_on(command);
    // A name that is still looked up must not hold up the end.
    runtime.shutdown_background();
    done
}

/// A problem with a file that was named on the command line.
pub(super) fn in_file(file: &Path, outcome: Outcome, problem: Problem) -> Failure {
    Failure::new(outcome, problem.in_file(file))
}
