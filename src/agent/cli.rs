//! The command line of `tfo-agent`: arguments, output, exit codes.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::check::{self, Found};
use super::init::{self, Made};
use super::join::{self, Need, Service, Wish};
use super::preflight::Depth;
use super::reconcile::PassMode;
use super::report::PassReport;
use super::status::{self, OnceOutput};
use super::{confine, oci, once, run};
use tfo_cli::plain::counted;
use tfo_cli::report::{Failure, Format, Outcome, deliver_as, show_problems, write_json};
use tfo_config::agent::DEFAULT_FILE;
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, Severity};

/// Installs the fleet's TCP Fast Open keys on this host, verifies them and reports.
#[derive(Debug, Parser)]
#[command(name = "tfo-agent", version, arg_required_else_help = true, after_help = EXIT_CODES, after_long_help = LONG_HELP)]
pub struct Arguments {
    /// Output on stdout
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused (another agent runs here;
join: the token, the name, or a server of another authority).
once, join --detailed-exit-codes: 0 unchanged, 2 changed (or would, with --dry-run), 1 any error.";

const LONG_HELP: &str = include_str!("long_help.txt");

// Deferred: the arguments of a command are built when it is the one that was given, and `once` ends within milliseconds.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Create a commented configuration and a fresh secret; never overwrites
    #[command(after_help = EXIT_CODES)]
    Init {
        /// Directory for both
        #[arg(long, value_name = "DIR", default_value = "/etc/tfo-fleet")]
        dir: PathBuf,
    },
    /// Become a node of a fleet: one token in, certificate and configuration out
    ///
    /// Makes a key, which never leaves this host, gets a certificate for it from a coordinator that the token names and whose
    /// authority the token pins, writes the configuration where there is none, and checks everything with one sync. The agent
    /// renews the certificate by itself from then on. A run that was cut off is finished by the next one.
    #[command(after_help = EXIT_CODES)]
    Join(JoinArguments),
    /// Run as a daemon: install, verify, repair and report until stopped
    ///
    /// SIGHUP (systemctl reload) applies a new configuration as a whole, or refuses it and keeps the old one. A refused
    /// reload fails; systemctl itself prints no reason, but `systemctl status` shows it in its Status line until a reload
    /// succeeds, and `check --reload` shows it beforehand. Only the daemon can see another agent's lock on a new namespace
    /// and the content of a new credential: then the reload succeeds, and only the Status line shows the refusal.
    #[command(after_help = EXIT_CODES)]
    Run {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
    },
    /// Converge once and exit: for a timer or config management
    #[command(after_help = EXIT_CODES)]
    Once(OnceArguments),
    /// Install this host's keys in a container's network namespace: a createRuntime hook for OCI runtimes
    ///
    /// Reads the state of the container from stdin, and installs the keys of the agent's file before the first process of the
    /// container runs. The daemon finds the namespace too (`[install] namespaces`), and keeps its keys up to date. By default the
    /// container starts whatever happens here.
    #[command(after_help = EXIT_CODES)]
    Hook(HookArguments),
    /// Find everything that would make `run` fail or be unsafe, all at once; write nothing
    #[command(after_help = EXIT_CODES)]
    Check {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
        /// Check only the configuration and its secrets, not the host
        #[arg(long)]
        config_only: bool,
        /// Check what a reload of the daemon would refuse: the configuration, its secrets and the places that it names
        #[arg(long, conflicts_with = "config_only")]
        reload: bool,
    },
}

#[derive(Debug, clap::Args)]
struct HookArguments {
    /// Configuration file, for the place of the agent's keys
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Keep the container from starting if the keys cannot be installed
    #[arg(long)]
    required: bool,
}

#[derive(Debug, clap::Args)]
struct JoinArguments {
    // Not the token itself: arguments are visible to every user of the host.
    /// File with the token of `tfoctl token create`, mode 0400 or 0600; "-" reads stdin
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Name of this node, a DNS name; default: agent.node of the configuration, or the host's name
    #[arg(long, value_name = "NAME")]
    name: Option<NodeId>,
    /// Do nothing, and succeed, if this host has a good certificate of that name: for config management
    #[arg(long)]
    if_needed: bool,
    /// Enable and start tfo-agent.service at the end
    #[arg(long)]
    enable: bool,
    /// Write nothing and use no token, show whether this host would join
    #[arg(long)]
    dry_run: bool,
    // As for `once`.
    /// Exit with 0 nothing to do, 2 joined (or would), 1 any error
    #[arg(long)]
    detailed_exit_codes: bool,
    /// Configuration file; written if it is missing
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Directory of the certificate with its key, unless the configuration names another file
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tfo-agent")]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct OnceArguments {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Write nothing, show what would be written
    #[arg(long)]
    dry_run: bool,
    // Read before the arguments are parsed, because wrong arguments have such a code too.
    /// Exit with 0 unchanged, 2 changed (or would), 1 any error
    #[arg(long)]
    detailed_exit_codes: bool,
}

/// The exit code with `--detailed-exit-codes`.
fn detailed_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Done => 0,
        Outcome::Changed => 2,
        Outcome::Failed
        | Outcome::Config
        | Outcome::Refused
        | Outcome::NotConverged
        | Outcome::Interrupted
        | Outcome::Warning
        | Outcome::Critical
        | Outcome::Unknown => 1,
    }
}

/// The whole program: parses the arguments and runs the command.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Also where the arguments are wrong.
    let detailed = arguments.iter().any(|argument| argument == "--detailed-exit-codes");
    let outcome = tfo_cli::frame::run(arguments, |Arguments { command, format }| match command {
        Command::Init { dir } => init_command(&dir, format),
        Command::Join(arguments) => join_command(arguments, format),
        Command::Run { config } => Ok(run_command(&config)),
        Command::Hook(HookArguments { config, required }) => hook_command(&config, required, format),
        Command::Once(arguments) => once_command(&arguments, format).map_err(Failure::undelivered),
        Command::Check { config, config_only, reload } => {
            let depth = match (config_only, reload) {
                (true, _) => Depth::Config,
                (false, true) => Depth::Places,
                (false, false) => Depth::Host,
            };
            check_command(&config, depth, format).map_err(Failure::undelivered)
        }
    });
    ExitCode::from(if detailed { detailed_code(outcome) } else { outcome.code() })
}

// One command's frame must not be part of another's: a page of stack that is touched costs microseconds, and all of them together
// are 20 pages (docs/explanation/one-shot.md).  So each of these stays a function.

#[inline(never)]
fn run_command(config: &Path) -> Outcome {
    run::run(config).map_or_else(|failure| failure.outcome, |()| Outcome::Done)
}

#[inline(never)]
fn init_command(directory: &Path, format: Format) -> Result<Outcome, Failure> {
    let made = init::init(directory).map_err(|problem| Failure::new(Outcome::Failed, problem))?;
    if format == Format::Json {
        let files = made.iter().map(|made| match made {
            Made::New(path) => serde_json::json!({"path": path, "made": true}),
            Made::Kept(path) => serde_json::json!({"path": path, "made": false}),
        });
        print_json(&serde_json::json!({"files": files.collect::<Vec<_>>()})).map_err(Failure::undelivered)?;
        return Ok(Outcome::Done);
    }
    let mut text = String::new();
    for made in &made {
        text += &match made {
            Made::New(path) => format!("made  {}\n", path.display()),
            Made::Kept(path) => format!("kept  {} (it was there)\n", path.display()),
        };
    }
    text += "Next: copy the secret to every node (0400), then `tfo-agent check` and `tfo-agent once`.\n";
    io::stdout().lock().write_all(text.as_bytes()).map_err(Failure::undelivered)?;
    Ok(Outcome::Done)
}

#[inline(never)]
fn join_command(arguments: JoinArguments, format: Format) -> Result<Outcome, Failure> {
    let JoinArguments { token_file, name, if_needed, enable, dry_run, config, dir, .. } = arguments;
    let need = if if_needed { Need::WithoutCertificate } else { Need::Always };
    let service = if enable { Service::Enabled } else { Service::LeftAlone };
    let (config, directory) = (config.as_path(), dir.as_path());
    let mode = if dry_run { PassMode::DryRun } else { PassMode::Apply };
    let joined = join::join(&Wish { config, directory, token_file: &token_file, name, need, service, mode })?;
    if format == Format::Text {
        show_problems(&joined.problems, format).map_err(Failure::undelivered)?;
    }
    let outcome = match (joined.is_well(), joined.joined) {
        (false, _) => Outcome::Failed,
        (true, true) => Outcome::Changed,
        (true, false) => Outcome::Done,
    };
    deliver_as(&joined, format, outcome)
}

#[inline(never)]
fn hook_command(config: &Path, required: bool, format: Format) -> Result<Outcome, Failure> {
    match oci::run(config, io::stdin().lock()) {
        Ok(_) => Ok(Outcome::Done),
        Err(problem) if required => Err(Failure::new(Outcome::Failed, problem)),
        Err(problem) => {
            // The runtime keeps what a hook says on stderr, if anything.
            show_problems(&[Problem { severity: Severity::Warning, ..problem }], format)
                .map_err(Failure::undelivered)?;
            Ok(Outcome::Done)
        }
    }
}

#[inline(never)]
fn check_command(config: &Path, depth: Depth, format: Format) -> io::Result<Outcome> {
    let Found { report, config_ok } = check::check(config, clock::now(), depth);
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => {
            show_problems(&report.problems, format)?;
            let mut out = io::stdout().lock();
            report.write_facts(&mut out)?;
            let errors = report.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
            let warnings = counted(report.problems.len() - errors, "warning");
            writeln!(out, "{}: {}, {warnings}", config.display(), counted(errors, "error"))?;
        }
    }
    Ok(match (report.ok, config_ok) {
        (true, _) => Outcome::Done,
        (false, true) => Outcome::Failed,
        (false, false) => Outcome::Config,
    })
}

#[inline(never)]
fn once_command(arguments: &OnceArguments, format: Format) -> io::Result<Outcome> {
    let mode = if arguments.dry_run { PassMode::DryRun } else { PassMode::Apply };
    let done = once::run(&arguments.config, mode, confine::begin);
    let (outcome, problems, report) = match &done {
        Ok(report) if report.has_error() => (Outcome::Failed, report.problems.as_slice(), Some(report)),
        Ok(report) if report.changed() => (Outcome::Changed, report.problems.as_slice(), Some(report)),
        Ok(report) => (Outcome::Done, report.problems.as_slice(), Some(report)),
        Err(failure) => (failure.outcome, failure.problems.as_slice(), None),
    };
    match (format, report) {
        (Format::Json, Some(report)) => print_json(&OnceOutput::of(report, mode))?,
        (Format::Json, None) => print_json(&OnceOutput::refused(problems, mode))?,
        (Format::Text, report) => {
            show_problems(problems, format)?;
            if let Some(report) = report {
                show_report(report, mode)?;
            }
        }
    }
    Ok(outcome)
}

fn show_report(report: &PassReport, mode: PassMode) -> io::Result<()> {
    let word = |changed: bool| match (changed, mode) {
        (false, _) => "unchanged",
        (true, PassMode::Apply) => "written",
        (true, PassMode::DryRun) => "would be written",
    };
    let mut text = format!("{}\n{}: {}\n", status::line(report), report.file.display(), word(report.file_changed));
    for namespace in &report.namespaces {
        text += &format!("namespace {}: {}\n", namespace.namespace, word(namespace.changed));
    }
    io::stdout().lock().write_all(text.as_bytes())
}

fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    write_json(&mut io::stdout().lock(), value)
}
