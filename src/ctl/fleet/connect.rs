//! From the configuration to the coordinator: files, identity, client, and the pool that a command is for.

use std::future::Future;
use std::path::{Path, PathBuf};

use clap::Args;

use super::ask::Fleet;
use super::renew::next_of;
use tfo_cli::report::{Failure, Format, Outcome, show_problems};
use tfo_config::ctl::{CtlFile, CtlSettings, SYSTEM_FILE, default_files};
use tfo_config::reader::ConfigFile;
use tfo_host::runtime::clock;
use tfo_model::ids::PoolName;
use tfo_model::problem::{Problem, chain};
use tfo_model::time::UnixTime;
use tfo_tls::client::{ClientFiles, ClientIdentity, EXPIRED, EXPIRING, client_identity};
use tfo_wire::base_url::BaseUrl;
use tfo_wire::client::Client;
use tfo_wire::v1::fleet::PoolStatus;

/// The environment variable that names a context.
pub(super) const CONTEXT_VARIABLE: &str = "TFO_CONTEXT";

/// Options of every fleet command, before or after it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConnectArgs {
    /// Configuration file; default ~/.config/tfo-fleet/ctl.toml, then /etc/tfo-fleet/ctl.toml
    #[arg(long, global = true, value_name = "FILE", help_heading = HEADING)]
    pub(super) config: Option<PathBuf>,
    /// Context of the configuration, if not its own choice or TFO_CONTEXT
    #[arg(long, global = true, value_name = "CONTEXT", help_heading = HEADING)]
    pub(super) context: Option<String>,
    /// Pool, if not the one in the configuration
    #[arg(long, global = true, value_name = "POOL", help_heading = HEADING)]
    pub(super) pool: Option<PoolName>,
}

/// How long before the end of the operator's certificate every command says so, in seconds: a week, in which it is renewed
/// with one command.
const END_TOLD_SECS: u64 = 7 * 86_400;

/// Heading of these options in the help.
const HEADING: &str = "Which fleet";

/// The coordinator, and the pool that was named.
pub(super) struct Connection {
    /// The coordinator.
    pub(super) fleet: Fleet,
    /// `--pool`, or `pool` of the configuration.
    named: Option<PoolName>,
    /// `--pool` alone.
    pub(super) argument: Option<PoolName>,
}

impl ConnectArgs {
    /// Reads configuration, certificate and key, and shows warnings; does not connect yet.
    pub(super) fn open(&self, format: Format) -> Result<Connection, Failure> {
        let (connection, notes) = self.prepare(Some(format))?;
        // If stderr is closed, a warning is not worth failing for.
        drop(show_problems(&notes, format));
        Ok(connection)
    }

    /// The same; `notes`: the form of what the connection says on stderr later, none for silence.
    pub(super) fn prepare(&self, notes: Option<Format>) -> Result<(Connection, Vec<Problem>), Failure> {
        let settings = self.settings()?;
        let files = ClientFiles { ca: settings.ca, cert: settings.cert, key: settings.key, crl: None };
        let now = clock::now();
        let mut identity = client_identity(&files, now).map_err(|problems| unusable(problems, &files.cert))?;
        let until = identity.not_after;
        let said = std::mem::take(&mut identity.notes).into_iter().filter_map(|note| described(note, until, now));
        let said = said.collect();
        let named = self.pool.clone().or(settings.pool);
        let fleet = fleet_of(identity, settings.urls, notes)?;
        Ok((Connection { fleet, named, argument: self.pool.clone() }, said))
    }

    /// The settings of the fleet that is named.
    pub(super) fn settings(&self) -> Result<CtlSettings, Failure> {
        let config = |problems| Failure { problems, outcome: Outcome::Config };
        let file = CtlFile::load(&self.file()?).map_err(config)?;
        file.choose(self.context().as_deref()).map_err(|problem| config(vec![problem]))
    }

    /// `--context`, or TFO_CONTEXT.
    pub(super) fn context(&self) -> Option<String> {
        let variable = || std::env::var(CONTEXT_VARIABLE).ok().filter(|name| !name.is_empty());
        self.context.clone().or_else(variable)
    }

    #[cfg(test)]
    pub(crate) fn pool_and_context(&self) -> (String, String) {
        let pool = self.pool.as_ref().map(ToString::to_string);
        (pool.unwrap_or_default(), self.context.clone().unwrap_or_default())
    }

    /// The configuration file that is there.
    pub(super) fn file(&self) -> Result<PathBuf, Failure> {
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

/// A client with these certificates.
pub(super) fn fleet_of(identity: ClientIdentity, urls: Vec<BaseUrl>, notes: Option<Format>) -> Result<Fleet, Failure> {
    let client = Client::new(identity.config).map_err(|error| {
        let remedy = "this is a bug in tfoctl; please report it";
        Failure::new(Outcome::Failed, Problem::error("client", chain(&error), remedy))
    })?;
    Ok(Fleet::new(client, urls, identity.names, notes))
}

/// A note on the operator's certificate, with what an operator does about it; none while there is time.
fn described(note: Problem, until: UnixTime, now: UnixTime) -> Option<Problem> {
    let issue = "issue another one where this one was issued (`tfoctl pki issue --operator NAME`)";
    Some(match note.kind {
        EXPIRING if until.secs_since(now) > END_TOLD_SECS => return None,
        EXPIRING => Problem {
            remedy: format!("`tfoctl renew`; if the coordinator does not have the authority's key, {issue}"),
            ..note
        },
        EXPIRED => {
            let here = "on a host of `tfo-coordinator init`, move it away and run that again";
            Problem { remedy: format!("{issue}; {here}"), ..note }
        }
        _ => note,
    })
}

/// The problems of files that cannot be used; a renewal that was cut off between certificate and key is finished by the next.
fn unusable(mut problems: Vec<Problem>, cert: &Path) -> Failure {
    if next_of(cert).exists() {
        let message = "a renewal of this certificate was cut off";
        problems.push(Problem::error("renewal_cut_off", message, "`tfoctl renew` finishes it").in_file(cert));
    }
    Failure { problems, outcome: Outcome::Config }
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
