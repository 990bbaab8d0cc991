//! A program of the fleet as a child process: start, log and end.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::error::DemoError;
use super::{DEMO_DIR, OWN_EXECUTABLE};
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::clock;

/// Timeout for a program to end after SIGTERM.
const END_MAX: Duration = Duration::from_secs(5);
/// How much of a log to show when its program has failed.
const LOG_LINES_SHOWN: usize = 8;

/// Directory and executables of a fleet.
#[derive(Debug, Clone)]
pub struct Kit {
    /// Directory of all its files.
    pub directory: PathBuf,
    /// The executable of an agent, started under the name `tfo-agent`.
    pub agent: PathBuf,
    /// The executable of a coordinator, started under the name `tfo-coordinator`.
    pub coordinator: PathBuf,
}

impl Kit {
    /// The demo's parts: this executable is both programs.
    pub(crate) fn own() -> Self {
        Self { directory: DEMO_DIR.into(), agent: OWN_EXECUTABLE.into(), coordinator: OWN_EXECUTABLE.into() }
    }
}

/// A started program.
pub struct Program {
    /// Name for messages, for example `the agent of node1`.
    who: String,
    log: PathBuf,
    child: Child,
}

/// How to start a program.
pub struct Launch<'a> {
    /// Name for messages.
    pub who: String,
    /// The executable.
    pub executable: &'a Path,
    /// The name that the executable is started under, which selects its role.
    pub name: &'a str,
    /// The first argument: the subcommand.
    pub command: &'a str,
    /// The value of `--config`.
    pub config: &'a Path,
    /// File that stdout and stderr are appended to.
    pub log: PathBuf,
}

impl Program {
    /// Starts the program in a network namespace, with an empty environment.
    pub fn start(namespace: &Namespace, launch: Launch<'_>) -> Result<Self, DemoError> {
        let Launch { who, executable, name, command, config, log } = launch;
        let mut program = Command::new(executable);
        program.arg0(name).args([command, "--config"]).arg(config);
        Self::start_other(namespace, (who, log), program)
    }

    /// The same with a program that is not ours: its name for messages, its log, and what starts it.
    pub fn start_other(
        namespace: &Namespace,
        (who, log): (String, PathBuf),
        mut program: Command,
    ) -> Result<Self, DemoError> {
        let start = || -> std::io::Result<Child> {
            let output = File::options().create(true).append(true).open(&log)?;
            program.env_clear().stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()
        };
        let child = namespace.within(start)?.map_err(DemoError::step(format!("start {who}")))?;
        Ok(Self { who, log, child })
    }

    /// The exit status, if the program has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, DemoError> {
        self.child.try_wait().map_err(DemoError::step(format!("look after {}", self.who)))
    }

    /// Fails if the program has ended.
    pub fn must_run(&mut self) -> Result<(), DemoError> {
        self.ended()?.map_or(Ok(()), |status| Err(self.fault(format!("ended ({status})"))))
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        // If the program has ended already, waiting for it shows that.
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap_or_default();
    }

    /// Waits for the program's end after SIGTERM.
    ///
    /// # Errors
    /// Fails if the program does not end in time, or ends with another exit code than 0.
    pub fn wait_for_end(mut self) -> Result<(), DemoError> {
        match self.poll_end(clock::monotonic())? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.fault(format!("failed ({status})"))),
            None => Err(self.fault(format!("did not end within {} s", END_MAX.as_secs()))),
        }
    }

    /// Kills the program with SIGKILL.
    pub fn kill(mut self) -> Result<(), DemoError> {
        let what = format!("kill {}", self.who);
        self.child.kill().and_then(|()| self.child.wait()).map(drop).map_err(DemoError::step(what))
    }

    /// Waits until the program has ended by itself, and returns its exit code.
    pub fn exit_code(mut self) -> Result<Option<i32>, DemoError> {
        match self.poll_end(clock::monotonic())? {
            Some(status) => Ok(status.code()),
            None => Err(self.fault(format!("did not end within {} s", END_MAX.as_secs()))),
        }
    }

    fn poll_end(&mut self, since: Instant) -> Result<Option<ExitStatus>, DemoError> {
        loop {
            let ended = self.ended()?;
            if ended.is_some() || clock::left_of(END_MAX, since).is_zero() {
                return Ok(ended);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// An error of this program, with the end of its log.
    pub fn fault(&self, what: String) -> DemoError {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
        DemoError::Program { who: self.who.clone(), what, log }
    }
}
