//! The command line of `tfo-coordinator`: arguments, output, exit codes.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use super::backup::{self, Existing, Exported};
use super::init::{self, DEFAULT_POOL, Layout, Wish};
use super::notify;
use super::preflight::{self, Found, Opened, Purpose};
use super::{rekey, serve, service_user};
use tfo_cli::plain::counted;
use tfo_cli::report::{Failure, Format, Outcome, deliver, show, show_problems, write_json};
use tfo_config::coordinator::DEFAULT_FILE;
use tfo_host::runtime::clock;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::pattern::NamePattern;
use tfo_model::problem::{Problem, Severity};
use tfo_store::ReadWhole;

/// Generates the TCP Fast Open keys of a fleet, and takes it through their rotations.
#[derive(Debug, Parser)]
#[command(name = "tfo-coordinator", version, arg_required_else_help = true, after_help = EXIT_CODES, after_long_help = LONG_HELP)]
pub struct Arguments {
    /// Output on stdout
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// Default of `export --keep`: two weeks of nights.
const BACKUPS_KEPT: NonZeroUsize = NonZeroUsize::new(14).expect("it is not zero");

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused.";

const LONG_HELP: &str = include_str!("long_help.txt");

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a coordinator of this host: authority, certificates, keys, configuration, and root as an operator
    ///
    /// Looks at every place first: what is there and does not belong there is named, and nothing is changed. A run that was
    /// cut off is finished by the next one, and a whole second run does nothing. Nodes then join with a token of `tfoctl
    /// token create`. For an authority that is kept off the servers there is `tfoctl pki`.
    #[command(after_help = EXIT_CODES)]
    Init(InitArguments),
    /// Run as a daemon until stopped
    ///
    /// SIGHUP (systemctl reload) applies a new configuration as a whole, or refuses it and keeps the old one. A refused
    /// reload fails; systemctl itself prints no reason, but `systemctl status` shows it in its Status line until a reload
    /// succeeds, and `check` shows it beforehand.
    #[command(after_help = EXIT_CODES)]
    Serve {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
    },
    /// Find everything that would make `serve` fail, all at once; changes nothing
    ///
    /// With the default FILE root checks as the service's user, tfo-coordinator. Only the service can read a credential: if
    /// the key-encryption key is one, `check` looks at what the unit loads, and not at the store.
    #[command(after_help = EXIT_CODES)]
    Check {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
        /// For `systemctl reload`: a change that the running service takes only at a restart is an error, not a warning
        #[arg(long)]
        reload: bool,
    },
    /// Send a test event to each [[notify]], and say what became of it
    ///
    /// It is sent by this process: root sends as the service's user, outside of the unit's sandbox. Only the service can read
    /// a credential, so a webhook whose secret is one is tried with a file, or by an event of the running coordinator.
    #[command(after_help = EXIT_CODES)]
    NotifyTest {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
        /// Only to the [[notify]] with this name
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
    /// Write a sealed backup of all pools, even while the coordinator serves and a rotation runs
    ///
    /// Only the service can read a credential: if the key-encryption key is one, start tfo-coordinator-backup.service,
    /// which runs this command, and tfo-coordinator-backup.timer to have it run every night.
    #[command(after_help = EXIT_CODES)]
    Export(ExportArgs),
    /// Import the pools of a sealed backup into a store that lacks them; refused while a coordinator serves it
    #[command(after_help = EXIT_CODES)]
    Import {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
        /// Backup file to read
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
    },
    /// Seal all keys with store.key_encryption_key_next, which takes the place of the present key-encryption key
    ///
    /// Coordinators that serve the store serve it on: each must have both keys, from its configuration and a reload. Only the
    /// service can read a credential: give this command files, or run it in a unit that loads the same credentials.
    #[command(after_help = EXIT_CODES)]
    Rekey {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
    },
}

fn replace_key(config: &Path, format: Format) -> Result<ExitCode, Failure> {
    if config == Path::new(DEFAULT_FILE)
        && let Some(user) = service_user::find().filter(|_| rustix::process::geteuid().is_root())
    {
        let mut arguments = vec!["rekey"];
        if format == Format::Json {
            arguments.extend(["--format", "json"]);
        }
        return user.run(&arguments).map_err(|problem| Failure::new(Outcome::Failed, problem));
    }
    deliver(&rekey::rekey(config)?, format).map(ExitCode::from)
}

#[derive(Debug, Args)]
struct InitArguments {
    /// DNS name of the coordinator, by which nodes and operators connect
    #[arg(long, value_name = "NAME")]
    name: NodeId,
    /// IP address by which it is reached besides (repeatable)
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// Pool of the nodes
    #[arg(long, value_name = "POOL", default_value = DEFAULT_POOL)]
    pool: PoolName,
    /// Names of its nodes, such as '*.cache.example.org' (repeatable); default: the hosts of the coordinator's domain
    #[arg(long, value_name = "PATTERN")]
    nodes: Vec<NamePattern>,
    /// Enable and start tfo-coordinator.service at the end
    #[arg(long)]
    enable: bool,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    #[command(flatten)]
    place: ExportPlace,
    /// Replace FILE if it is an older backup
    #[arg(long, conflicts_with = "dir")]
    force: bool,
    /// How many backups stay in DIR, the new one included; older ones are removed
    #[arg(long, value_name = "N", conflicts_with = "to", default_value_t = BACKUPS_KEPT)]
    keep: NonZeroUsize,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ExportPlace {
    /// Backup file to write; one that exists is not overwritten without --force
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Directory for a backup named by its time
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The whole program: parses the arguments and runs the command.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    tfo_cli::frame::main_with(arguments, |arguments: Arguments| run(&arguments.command, arguments.format))
}

fn run(command: &Command, format: Format) -> Result<ExitCode, Failure> {
    match command {
        Command::Init(arguments) => initialise(arguments, format),
        Command::Serve { config } => Ok(serve::serve(config).into()),
        Command::Check { config, reload } => {
            check(config, if *reload { Purpose::Reload } else { Purpose::Start }, format)
        }
        Command::NotifyTest { config, to } => notify_test(config, to.as_deref(), format),
        Command::Export(arguments) => {
            with_store(preflight::open_to_export(&arguments.config), format, |opened| export(arguments, opened))
        }
        Command::Import { config, from } => with_store(preflight::open_to_import(config), format, |opened| {
            let import = |key| backup::import(&*opened.store.pools, &*opened.store.enrolments, key, from);
            match (import(opened.keys.present()), opened.keys.next()) {
                // One of the two made it.
                (Err(problem), Some(next)) if problem.kind == backup::WRONG_KEY => import(next),
                (imported, _) => imported,
            }
        }),
        Command::Rekey { config } => replace_key(config, format),
    }
}

fn initialise(arguments: &InitArguments, format: Format) -> Result<ExitCode, Failure> {
    let InitArguments { name, address, pool, nodes, enable } = arguments;
    let refused = |problem| Failure::new(Outcome::Config, problem);
    let nodes = match (&nodes[..], init::default_nodes(name)) {
        ([], Some(default)) => vec![default],
        ([], None) => {
            let message = format!("{name} has no domain whose hosts could be the nodes");
            let remedy = "say which names the nodes have: --nodes PATTERN";
            return Err(refused(Problem::error("no_nodes", message, remedy)));
        }
        (own, _) => own.to_vec(),
    };
    let wish = Wish { name: name.clone(), addresses: address.clone(), pool: pool.clone(), nodes };
    let layout = Layout::of_host().map_err(|problem| Failure::new(Outcome::Failed, problem))?;
    let mut made = init::init(&wish, &layout, clock::now())?;
    if *enable {
        init::enable()?;
        made.enabled = true;
    }
    deliver(&made, format).map(ExitCode::from)
}

fn notify_test(config: &Path, to: Option<&str>, format: Format) -> Result<ExitCode, Failure> {
    if config == Path::new(DEFAULT_FILE)
        && let Some(user) = service_user::find().filter(|_| rustix::process::geteuid().is_root())
    {
        let mut arguments = vec!["notify-test"];
        arguments.extend(to.iter().flat_map(|to| ["--to", to]));
        if format == Format::Json {
            arguments.extend(["--format", "json"]);
        }
        return user.run(&arguments).map_err(|problem| Failure::new(Outcome::Failed, problem));
    }
    let tried = notify::try_targets(config, to).map_err(|problems| Failure { outcome: Outcome::Config, problems })?;
    show(&tried, format).map_err(Failure::undelivered)?;
    Ok(if tried.is_good() { Outcome::Done } else { Outcome::Failed }.into())
}

fn check(config: &Path, purpose: Purpose, format: Format) -> Result<ExitCode, Failure> {
    let user = service_user::find();
    if config == Path::new(DEFAULT_FILE)
        && let Some(user) = user.filter(|_| rustix::process::geteuid().is_root())
    {
        let mut arguments = vec!["check"];
        arguments.extend((purpose == Purpose::Reload).then_some("--reload"));
        if format == Format::Json {
            arguments.extend(["--format", "json"]);
        }
        return user.run(&arguments).map_err(|problem| Failure::new(Outcome::Failed, problem));
    }
    let Found { problems, unseen } = preflight::check(config, purpose);
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let outcome = if errors == 0 { Outcome::Done } else { Outcome::Config };
    if format == Format::Json {
        let checked = serde_json::json!({"ok": errors == 0, "problems": problems});
        write_json(&mut io::stdout().lock(), &checked).map_err(Failure::undelivered)?;
        return Ok(outcome.into());
    }
    show_problems(&problems, format).map_err(Failure::undelivered)?;
    let as_user = if user.is_some_and(|user| user.is_us()) { ", read as the service's user" } else { "" };
    let counts = format!("{}, {}", counted(errors, "error"), counted(problems.len() - errors, "warning"));
    let unseen = unseen.map(|unseen| format!("; {unseen}")).unwrap_or_default();
    writeln!(io::stdout().lock(), "{}{as_user}: {counts}{unseen}", config.display()).map_err(Failure::undelivered)?;
    Ok(outcome.into())
}

fn export(arguments: &ExportArgs, opened: &Opened<Box<dyn ReadWhole>>) -> Result<Exported, Problem> {
    let ExportArgs { place: ExportPlace { to, dir }, force, keep, .. } = arguments;
    let existing = if *force { Existing::Replace } else { Existing::Keep };
    // As the store is sealed: the other key may be gone tomorrow.
    let sealer = opened.store.sealed_by().map_err(|error| error.problem())?;
    let key = opened.keys.all().find(|key| sealer.as_ref() == Some(key.id())).unwrap_or(opened.keys.present());
    match (to, dir) {
        (Some(to), _) => backup::export(&*opened.store, key, to, existing),
        (None, Some(dir)) => backup::export_dated(&*opened.store, key, dir, *keep),
        (None, None) => unreachable!("clap asks for one of them"),
    }
}

fn with_store<S, T: Serialize>(
    opened: Result<Opened<S>, Vec<Problem>>,
    format: Format,
    work: impl FnOnce(&Opened<S>) -> Result<T, Problem>,
) -> Result<ExitCode, Failure> {
    let opened = opened.map_err(|problems| {
        let has = |kind: &str| problems.iter().any(|problem| problem.kind == kind);
        let outcome = if has(preflight::NO_STORE) { Outcome::Failed } else { Outcome::Config };
        Failure { outcome: if has("store_in_use") { Outcome::Refused } else { outcome }, problems }
    })?;
    show_problems(&opened.warnings, format).map_err(Failure::undelivered)?;
    let done = work(&opened).map_err(|problem| {
        let outcome = if REFUSALS.contains(&problem.kind) { Outcome::Refused } else { Outcome::Failed };
        Failure::new(outcome, problem)
    })?;
    // As a value, whose keys are sorted.
    let done = serde_json::to_value(done).unwrap_or_default();
    writeln!(io::stdout().lock(), "{done}").map_err(Failure::undelivered)?;
    Ok(Outcome::Done.into())
}

/// Problems of backups that are refusals, not failures.
const REFUSALS: [&str; 2] = [backup::EXISTS, "pool_exists"];
