//! The fleet on one machine: nodes behind one address, real agents, live TCP Fast Open clients, key rotations.
//!
//! One program plays four roles, selected by the name it is started under, so `tfo-demo` needs no other program:
//!
//! * `tfo-demo` (what the user starts, `sandbox`): makes the user, network, mount and PID namespaces, starts the fleet in them, turns
//!   signals into an orderly shutdown.
//! * `tfo-demo-fleet` (`fleet`): PID 1 inside.  It builds the network, starts servers, agents and clients, watches, judges.  When it
//!   ends, for any reason, the kernel kills every process left in its PID namespace; and the kernel kills it when `tfo-demo` dies.
//! * `tfo-agent`: the same program as on real nodes, once in every node's network namespace.
//! * `tfo-coordinator`: the real program too, in a network namespace that only the nodes and the demo's operator reach.
//!
//! With `--coordinators` there are several of the latter, on an `etcd` of the host, which is the one other program.
//!
//! With `--naive` there are two fleets, one after the other, each in namespaces of its own: `naive` changes keys as a script would.
//!
//! Invariant: nothing outlives the program.  Names, mounts and files are in a mount namespace and a tmpfs that go with the processes.

pub mod api;
mod args;
mod authority;
pub mod client;
mod conductor;
pub mod coordinator;
pub mod error;
mod etcd;
mod fleet;
pub mod judge;
mod naive;
pub mod network;
pub mod node;
mod operator;
mod page;
pub mod program;
mod sandbox;
mod screen;
pub mod server;
mod summary;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use args::{Args, PROGRAM, Source};
use error::DemoError;
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_model::problem::{Problem, chain};

/// Name under which the program is the fleet inside the namespaces.
const FLEET_NAME: &str = "tfo-demo-fleet";
/// Name under which the program is an agent.
const AGENT_NAME: &str = "tfo-agent";
/// Name under which the program is a coordinator.
const COORDINATOR_NAME: &str = "tfo-coordinator";
/// All files of the demo, in its own tmpfs.
const DEMO_DIR: &str = "/run/tfo-demo";
/// What the first fleet of `--naive` leaves for the second.
const NAIVE_NUMBERS: &str = "/run/tfo-demo/naive.json";
/// This program, also when its file was moved, replaced or hidden by a mount since it was started (proc(5)).
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// Runs the program that the first argument names, with the other arguments.
///
/// `agent` and `coordinator` are the main functions of `tfo-agent` and `tfo-coordinator`.  They are parameters because the demo uses
/// these programs only as an outside user does: by command line, configuration, status.json and API.
#[must_use]
pub fn main_with(
    arguments: impl Iterator<Item = OsString>,
    agent: impl FnOnce(std::vec::IntoIter<OsString>) -> ExitCode,
    coordinator: impl FnOnce(std::vec::IntoIter<OsString>) -> ExitCode,
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let name = arguments.first().and_then(|name| Path::new(name).file_name()).and_then(OsStr::to_str);
    // For ps and top, which would otherwise show the last part of OWN_EXECUTABLE.  Nothing depends on it.
    match name {
        Some(AGENT_NAME) => rustix::thread::set_name(c"tfo-agent").unwrap_or_default(),
        Some(COORDINATOR_NAME) => rustix::thread::set_name(c"tfo-coordinator").unwrap_or_default(),
        Some(FLEET_NAME) => rustix::thread::set_name(c"tfo-demo-fleet").unwrap_or_default(),
        _ => {}
    }
    match name {
        Some(AGENT_NAME) => return agent(arguments.into_iter()),
        Some(COORDINATOR_NAME) => return coordinator(arguments.into_iter()),
        _ => {}
    }
    let args: Args = match tfo_cli::frame::parse(arguments.iter().cloned()) {
        Ok(args) => args,
        Err(outcome) => return outcome.into(),
    };
    if (args.page || args.coordinators > 1) && args.source == Source::Derive {
        let message = "derived keys have no coordinator: there is no --page to show, and there are no --coordinators";
        let remedy = "leave out --source, or the others";
        let failure = Failure::new(Outcome::Config, Problem::error("usage", message, remedy));
        // If stderr is closed, the exit code remains.
        drop(failure.show(Format::of(&arguments)));
        return failure.outcome.into();
    }
    let done = if name == Some(FLEET_NAME) { fleet::run(&args) } else { sandbox::run(&args) };
    let format = Format::of(&arguments);
    done.unwrap_or_else(|error| report(&error, format))
}

fn report(error: &DemoError, format: Format) -> ExitCode {
    if format == Format::Json {
        let remedy = error.remedy().map_or_else(String::new, |remedy| remedy.to_string());
        let failure = Failure::new(Outcome::Failed, Problem::error("demo", chain(error), remedy));
        // If nothing reads it, the exit code remains.
        drop(failure.show(format));
        return failure.outcome.into();
    }
    let mut text = format!("{PROGRAM}: {}", chain(error));
    if let Some(remedy) = error.remedy() {
        text += &format!("\n{PROGRAM}: {remedy}");
    }
    // If stderr is closed, the exit code remains.
    drop(writeln!(std::io::stderr(), "{text}"));
    ExitCode::FAILURE
}
