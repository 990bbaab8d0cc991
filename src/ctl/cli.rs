//! The command line of `tfoctl`: its commands, and the function that runs each.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Arg, Args, CommandFactory, Parser, Subcommand};

use super::{completions, fleet, host, pki};
use tfo_cli::report::{Failure, Format, Outcome};

/// Shows and drives the TCP Fast Open keys of a fleet, and looks at one host.
#[derive(Debug, Args)]
#[command(version, arg_required_else_help = true, after_help = EXIT_CODES, after_long_help = LONG_HELP)]
pub struct Arguments {
    /// Form of the output on stdout
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,
    // Read by each command that needs it, before or after which it may stand.
    #[command(flatten)]
    _connect: fleet::ConnectArgs,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused or not allowed, 4 not converged in time,\n\
     130 interrupted.";

const LONG_HELP: &str = include_str!("long_help.txt");

/// The commands by what they are for, as the help lists them.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Look at the fleet", &["check", "pools", "nodes", "watch", "console", "audit", "coordinators", "contexts"]),
    (
        "Change it",
        &[
            "rotate", "pause", "resume", "abort", "advance", "exclude", "include", "deny", "allow", "forget", "move",
            "expect", "import", "recover",
        ],
    ),
    ("This host", HOST),
    ("Certificates", &["token", "renew", "pki"]),
    ("This program", &["completions"]),
];

/// The commands for one host.
const HOST: &[&str] = &["status", "stats", "probe", "verify", "sniff", "get", "cookie", "derive", "keygen"];

impl CommandFactory for Arguments {
    fn command() -> clap::Command {
        let command = Self::augment_args(clap::Command::new("tfoctl"));
        let command = completions::with_names(without_fleet(command));
        let template = template(&command);
        command.help_template(template)
    }

    fn command_for_update() -> clap::Command {
        Self::command()
    }
}

impl Parser for Arguments {}

/// Hides the options that say which fleet where they say nothing.
fn without_fleet(command: clap::Command) -> clap::Command {
    let hidden = |name: &'static str| Arg::new(name).long(name).value_name("TEXT").hide(true);
    let others = HOST.iter().chain(&["pki", "completions"]);
    others.fold(command, |command, name| {
        command.mut_subcommand(name, |own| own.args(["config", "context", "pool"].map(hidden)))
    })
}

/// The help of the program: its commands by group, which clap has no way to do.
fn template(command: &clap::Command) -> String {
    let mut text = "{before-help}{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (group, names) in GROUPS {
        text += &format!("\n{group}:\n");
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            text += &format!("  {name:<12}  {}\n", about.map(ToString::to_string).unwrap_or_default());
        }
    }
    text + "\n`tfoctl help COMMAND` says more.\n\nOptions:\n{options}{after-help}"
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the pools: keys, phase, how many nodes have converged, what they wait for
    Pools(fleet::PoolsArgs),
    /// Say how the pools are and what to do: exit code 0 ok, 1 warning, 2 critical, 3 unknown
    Check(fleet::CheckArgs),
    /// Show how many nodes hold which keys, and which nodes are behind since when
    Nodes(fleet::NodesArgs),
    /// Rotate to a new key, drive keys out (--mode revoke), or make the first key (--first)
    Rotate(fleet::RotateArgs),
    /// Stop the pool at its current phase
    Pause(fleet::CommandArgs),
    /// Resume a paused or held pool
    Resume(fleet::ResumeArgs),
    /// Turn a rotation back, then hold
    Abort(fleet::AbortArgs),
    /// Pass a barrier without the nodes that are behind
    Advance(fleet::CommandArgs),
    /// Give an empty pool the keys that its nodes already hold
    Import(fleet::ImportArgs),
    /// Take over a fleet that is ahead of a restored store
    Recover(fleet::RecoverArgs),
    /// Exclude nodes from barriers for a limited time
    Exclude(fleet::ExcludeArgs),
    /// End the exclusion of nodes
    Include(fleet::NodeArgs),
    /// Give nodes no more keys
    Deny(fleet::NodeArgs),
    /// End the deny of nodes; they come back as new ones
    Allow(fleet::NodeArgs),
    /// Forget nodes; they may come back as new ones
    Forget(fleet::ForgetArgs),
    /// Move nodes to another pool of the same coordinators
    Move(fleet::MoveArgs),
    /// Set how many nodes a rotation needs
    Expect(fleet::ExpectedArgs),
    /// Show who did what, and when
    Audit(fleet::AuditArgs),
    /// Show the pools as they change
    Watch(fleet::WatchArgs),
    /// The coordinator's pages in a browser of this host, with buttons, under your certificate
    Console(fleet::ConsoleArgs),
    /// Show the coordinators of a pool: which beat, how many nodes each has; `forget` one that is gone
    Coordinators(fleet::CoordinatorsArgs),
    /// List the contexts of the configuration, one for each fleet
    Contexts(fleet::ConnectArgs),
    /// Tokens with which nodes enrol: `tfo-agent join`
    Token(fleet::TokenArgs),
    /// Renew your own certificate, with a new key, over the connection that it opens
    ///
    /// The coordinator has the authority's key ([enrolment]) and issues the same name again. The old certificate stays in use
    /// until the new one has worked.
    Renew(fleet::RenewArgs),
    /// Certificates by an authority that is kept off the servers
    Pki(pki::PkiArgs),
    /// This host: keys by fingerprint, agent, kernel, drift; exit code 1 if something is wrong
    Status(host::status::StatusArgs),
    /// The kernel's TFO counters, what they mean, and their rates
    Stats(host::stats::StatsArgs),
    /// Make a key
    Keygen(host::keygen::KeygenArgs),
    /// The keys that a secret gives at a time
    Derive(host::derive::DeriveArgs),
    /// The cookie that a server with these keys gives to a client
    Cookie(host::cookie::CookieArgs),
    /// An http:// request with its first bytes in the SYN
    Get(host::get::GetArgs),
    /// Ask servers whether they do TCP Fast Open, without taking a place in their queue
    Probe(host::probe::Arguments),
    /// Find out whether all nodes behind an address hold the same key
    Verify(host::verify::Arguments),
    /// Show packets with TCP Fast Open, and which key made their cookies
    Sniff(host::sniff::Arguments),
    /// Write what a shell runs for completions, names of nodes among them, to stdout
    Completions(completions::CompletionsArgs),
}

/// The whole program: parses the arguments and runs the command.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match completions::answer(&arguments) {
        Some(outcome) => outcome.into(),
        None => tfo_cli::frame::main_with(arguments, |arguments| run(&arguments)),
    }
}

fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let format = arguments.format;
    match &arguments.command {
        Command::Pools(own) => fleet::pools(own, format),
        Command::Check(own) => fleet::check(own, format),
        Command::Nodes(own) => fleet::list_nodes(own, format),
        Command::Rotate(own) => fleet::rotate(own, format),
        Command::Pause(own) => fleet::pause(own, format),
        Command::Resume(own) => fleet::resume(own, format),
        Command::Abort(own) => fleet::abort(own, format),
        Command::Advance(own) => fleet::advance(own, format),
        Command::Import(own) => fleet::import(own, format),
        Command::Recover(own) => fleet::recover(own, format),
        Command::Exclude(own) => fleet::exclude(own, format),
        Command::Include(own) => fleet::include(own, format),
        Command::Deny(own) => fleet::deny(own, format),
        Command::Allow(own) => fleet::allow(own, format),
        Command::Expect(own) => fleet::expect(own, format),
        Command::Forget(own) => fleet::forget(own, format),
        Command::Move(own) => fleet::move_nodes(own, format),
        Command::Audit(own) => fleet::audit(own, format),
        Command::Watch(own) => fleet::watch(own, format),
        Command::Console(own) => fleet::console(own, format),
        Command::Coordinators(own) => fleet::coordinators(own, format),
        Command::Contexts(own) => fleet::contexts(own, format),
        Command::Token(own) => fleet::token(own, format),
        Command::Renew(own) => fleet::renew(own, format),
        Command::Pki(own) => pki::run(own, format),
        Command::Status(own) => host::status::run(own, format),
        Command::Stats(own) => host::stats::run(own, format),
        Command::Keygen(own) => host::keygen::run(own, format),
        Command::Derive(own) => host::derive::run(own, format),
        Command::Cookie(own) => host::cookie::run(own, format),
        Command::Get(own) => host::get::run(own, format),
        Command::Probe(own) => host::probe::run(own, format),
        Command::Verify(own) => host::verify::run(own, format),
        Command::Sniff(own) => host::sniff::run(own, format),
        Command::Completions(own) => completions::completions(own),
    }
}

/// What a shell has to run for completions: for the packages.
///
/// # Errors
/// Fails for a shell that is not known.
pub fn completions_for(shell: &str) -> std::io::Result<Vec<u8>> {
    completions::registration(shell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_is_in_one_group() {
        let command = Arguments::command();
        command.clone().debug_assert();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut all: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        all.sort_unstable();
        assert_eq!(grouped, all);
    }

    #[test]
    fn the_fleet_may_be_named_before_and_after_the_command() {
        let named = |words: &str| {
            let parsed = Arguments::try_parse_from(words.split(' ')).map(|arguments| arguments.command);
            match parsed {
                Ok(Command::Contexts(own)) => own.pool_and_context(),
                other => panic!("{words}: {other:?}"),
            }
        };
        let both = ("edge".to_owned(), "lab".to_owned());
        for words in [
            "tfoctl --pool edge --context lab contexts",
            "tfoctl contexts --pool edge --context lab",
            "tfoctl --context lab contexts --pool edge",
        ] {
            assert_eq!(named(words), both, "{words}");
        }
    }
}
