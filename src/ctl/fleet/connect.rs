//! From the configuration to the coordinators: files, identity, client, and the pool that a command is for.

use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::ask::Fleet;
use tfo_cli::report::{Failure, Outcome};
use tfo_config::ctl::{CtlSettings, SYSTEM_FILE, default_files};
use tfo_host::runtime::clock;
use tfo_model::ids::PoolName;
use tfo_model::problem::{Problem, chain};
use tfo_tls::client::{ClientFiles, client_identity};
use tfo_wire::client::Client;
use tfo_wire::v1::fleet::PoolStatus;

/// Options of every fleet command.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectArgs {
    /// Configuration file; default ~/.config/tfo-fleet/ctl.toml, then /etc/tfo-fleet/ctl.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Pool, if not the one in the configuration
    #[arg(long, value_name = "NAME")]
    pool: Option<PoolName>,
}

/// The coordinators, and the pool that was named.
pub(super) struct Connection {
    /// The coordinators.
    pub(super) fleet: Fleet,
    /// `--pool`, or `pool` of the configuration.
    named: Option<PoolName>,
    /// `--pool` alone.
    pub(super) argument: Option<PoolName>,
}

impl ConnectArgs {
    /// Reads configuration, certificate and key; does not connect yet.
    pub(super) fn open(&self) -> Result<Connection, Failure> {
        let config = |problems| Failure { problems, outcome: Outcome::Config };
        let settings = CtlSettings::load(&self.file()?).map_err(config)?;
        let files = ClientFiles { ca: settings.ca, cert: settings.cert, key: settings.key, crl: None };
        let identity = client_identity(&files, clock::now()).map_err(config)?;
        for note in &identity.notes {
            // If stderr is closed, a warning is not worth failing for.
            drop(writeln!(io::stderr(), "{note}"));
        }
        let client = Client::new(identity.config).map_err(|error| {
            Failure::new(
                Outcome::Failed,
                Problem::error("client", chain(&error), "this is a bug in tfoctl; please report it"),
            )
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
        let message = format!("found no configuration at {}", names.join(" or "));
        let remedy =
            format!("write {SYSTEM_FILE} with urls, ca, cert, key and pool, or name a file with --config FILE");
        Err(Failure::new(Outcome::Config, Problem::error("config_missing", message, remedy)))
    }
}

impl Connection {
    /// The pool of `--pool`, or all.
    pub(super) async fn looked_at(&self) -> Result<Vec<PoolStatus>, Failure> {
        match &self.argument {
            Some(pool) => Ok(vec![self.fleet.status(pool).await?]),
            None => Ok(self.fleet.pools().await?.pools),
        }
    }

    /// The pool that a command is for: the named one, or the only one.
    pub(super) async fn pool(&self) -> Result<PoolName, Failure> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        let pools = self.fleet.pools().await?.pools;
        if let [only] = &pools[..] {
            return Ok(only.pool.clone());
        }
        let names: Vec<&str> = pools.iter().map(|pool| pool.pool.as_str()).collect();
        let message = match &names[..] {
            [] => "the coordinator has no pools".to_owned(),
            names => format!("there are {} pools: {}", names.len(), names.join(", ")),
        };
        let problem = Problem::error("no_pool", message, "choose one with --pool NAME, or pool = \"NAME\" in ctl.toml");
        Err(Failure::new(Outcome::Config, problem))
    }
}

/// Runs a command to its end on this thread.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        let message = format!("cannot start the event loop: {error}");
        Failure::new(
            Outcome::Failed,
            Problem::error("runtime", message, "check the limits on open files and processes"),
        )
    })?;
    let done = runtime.block_on(command);
    // A pending name lookup must not delay the end.
    runtime.shutdown_background();
    done
}
