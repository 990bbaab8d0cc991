//! The outer process: it makes namespaces, starts the fleet inside them, and ends it in order on Ctrl-C.
//!
//! No clean-up is needed at the end: names, mounts, interfaces and files vanish with the namespaces, and every process inside ends with
//! the PID namespace, whose first process dies with this one (`PR_SET_PDEATHSIG`).

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};
use tokio::sync::oneshot;

use super::args::Args;
use super::error::DemoError;
use super::page::Page;
use super::{FLEET_NAME, NAIVE_NUMBERS, OWN_EXECUTABLE, etcd, network};
use tfo_cli::report::Format;
use tfo_host::runtime::sys;

/// A private /run: the agents' locks, the names of the network namespaces, and all files of the demo.
const RUN_DIR: &str = "/run";
/// Mount options.  The size is ample for the logs and files of 64 nodes, and bounds the memory that a bug could use.
const RUN_DIR_OPTIONS: &std::ffi::CStr = c"mode=0755,size=64m";
/// The same with room for an etcd, which sets 64 MiB aside for each of two files of its log.
const RUN_DIR_OPTIONS_ETCD: &std::ffi::CStr = c"mode=0755,size=256m";

/// Runs the fleet inside and returns its exit code.
pub(super) fn run(args: &Args) -> Result<ExitCode, DemoError> {
    network::find_ip()?;
    if args.coordinators > 1 {
        etcd::find()?;
    }
    // In the host's network, which this process leaves.
    let page = if args.page { Some(Page::listen()?) } else { None };
    let page_at = page.as_ref().map(Page::address).transpose()?;
    if let (Some(address), Format::Json) = (&page_at, args.format) {
        // stdout has the last line alone.  If stderr is closed, the page is not looked at.
        drop(writeln!(io::stderr(), "the coordinator's page: {address}"));
    }
    let args = &Args { page_at, ..args.clone() };
    // Before starting any thread: a process with several threads cannot enter a new user namespace (unshare(2)).
    enter_namespaces(args)?;
    if let Some(page) = page {
        page.serve();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(DemoError::step("wait for signals"))?.block_on(supervise(args))
}

fn enter_namespaces(args: &Args) -> Result<(), DemoError> {
    let wanted = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let made = if uid.is_root() { sys::unshare(wanted) } else { Err(Errno::PERM) };
    match made {
        // An ordinary user, or root of a container without CAP_SYS_ADMIN: become root of a user namespace.
        Err(Errno::PERM) => {
            sys::unshare(wanted | UnshareFlags::NEWUSER).map_err(|error| DemoError::Namespaces(error.into()))?;
            map_to_root("/proc/self/uid_map", uid.as_raw())?;
            // Without it gid_map may not be written (user_namespaces(7)).
            std::fs::write("/proc/self/setgroups", "deny").map_err(DemoError::Namespaces)?;
            map_to_root("/proc/self/gid_map", gid.as_raw())?;
        }
        other => other.map_err(|error| DemoError::Namespaces(error.into()))?,
    }
    mount_own_run(args).map_err(|error| DemoError::Namespaces(error.into()))
}

fn map_to_root(path: &str, id: u32) -> Result<(), DemoError> {
    std::fs::write(path, format!("0 {id} 1")).map_err(DemoError::Namespaces)
}

fn mount_own_run(args: &Args) -> Result<(), Errno> {
    // First stop mounts from propagating to the host's mount namespace.
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let options = if args.coordinators > 1 { RUN_DIR_OPTIONS_ETCD } else { RUN_DIR_OPTIONS };
    rustix::mount::mount("tmpfs", RUN_DIR, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options)
}

/// Where a fleet starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the namespaces of this process.
    Here,
    /// In fresh ones: without the keys, cookies, counters and files of the fleet before it.
    Fresh,
}

async fn supervise(args: &Args) -> Result<ExitCode, DemoError> {
    let mut signals = Signals::new()?;
    if !args.naive {
        return signals.await_fleet(args, Place::Here).await.map(|(code, _)| code);
    }
    let naive = Args { replace_only: true, keep: false, ..args.clone() };
    match signals.await_fleet(&naive, Place::Here).await? {
        (code, Wish::GoOn) if code == ExitCode::SUCCESS => {}
        (code, _) => return Ok(code),
    }
    let numbers = std::fs::read_to_string(NAIVE_NUMBERS);
    let numbers = numbers.map_err(DemoError::step("read what the naive rotations did"))?;
    let staged = Args { compare: Some(numbers), ..args.clone() };
    signals.await_fleet(&staged, Place::Fresh).await.map(|(code, _)| code)
}

/// Whether the user has asked for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    GoOn,
    End,
}

/// The signals that end the demo.
struct Signals {
    interrupt: UnixSignal,
    terminate: UnixSignal,
    hangup: UnixSignal,
}

impl Signals {
    fn new() -> Result<Self, DemoError> {
        let handler = |kind| signal(kind).map_err(DemoError::step("handle signals"));
        Ok(Self {
            interrupt: handler(SignalKind::interrupt())?,
            terminate: handler(SignalKind::terminate())?,
            hangup: handler(SignalKind::hangup())?,
        })
    }

    /// Starts a fleet, and waits for its end.
    async fn await_fleet(&mut self, args: &Args, place: Place) -> Result<(ExitCode, Wish), DemoError> {
        let (mut control, mut ended) = launch(args, place)?;
        let mut wish = Wish::GoOn;
        loop {
            tokio::select! {
                status = &mut ended => return exit_code(status).map(|code| (code, wish)),
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
                _ = self.hangup.recv() => {}
            }
            wish = Wish::End;
            // The first signal closes the pipe, which asks for an orderly end.  The second exits at once, and the kernel kills the rest.
            if control.take().is_none() {
                return Ok((ExitCode::FAILURE, wish));
            }
        }
    }
}

type Ended = oneshot::Receiver<io::Result<ExitStatus>>;

/// Starts the fleet as the first process of a new PID namespace.
///
/// Uses a thread of its own: after that unshare, a thread cannot start another one (`clone(2)`, EINVAL).  `PR_SET_PDEATHSIG` fires when
/// the thread that started the process ends, so this thread lives as long as the program.
fn launch(args: &Args, place: Place) -> Result<(Option<ChildStdin>, Ended), DemoError> {
    let (words, args) = (args.to_words(), args.clone());
    let (started, starting) = mpsc::channel();
    let (tell_end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let fresh = match place {
            Place::Here => Ok(()),
            Place::Fresh => {
                sys::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS).and_then(|()| mount_own_run(&args))
            }
        };
        let made = fresh.and_then(|()| sys::unshare(UnshareFlags::NEWPID));
        let child = made.map_err(io::Error::from).and_then(|()| {
            let mut command = Command::new(OWN_EXECUTABLE);
            // A process group of its own, so that the terminal's Ctrl-C reaches only this process.
            command.arg0(FLEET_NAME).args(words).stdin(Stdio::piped()).process_group(0).spawn()
        });
        // The receiver is gone only if the process is ending anyway.
        match child {
            Ok(mut child) => {
                drop(started.send(Ok(child.stdin.take())));
                drop(tell_end.send(child.wait()));
            }
            Err(error) => drop(started.send(Err(error))),
        }
    });
    let control = starting.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
    Ok((control.map_err(DemoError::step("start the fleet in a PID namespace of its own"))?, ended))
}

fn exit_code(status: Result<io::Result<ExitStatus>, oneshot::error::RecvError>) -> Result<ExitCode, DemoError> {
    let status = status.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
    let status = status.map_err(DemoError::step("wait for the fleet"))?;
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
        None => Err(DemoError::Killed(status)),
    }
}

/// In the fleet's process: ties its life to the outer process.  The returned channel closes when the user ends the demo.
pub(super) fn tie_to_parent() -> Result<mpsc::Receiver<()>, DemoError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| DemoError::step("end with the program that started us")(error.into()))?;
    // If the outer process died before that call, the pipe is closed, and the reader below notices at once.
    let stdin = io::stdin();
    let mut pipe = [PollFd::new(&stdin, PollFlags::IN)];
    let polled = rustix::event::poll(&mut pipe, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok();
    let events = pipe[0].revents();
    if polled && events.contains(PollFlags::HUP) && !events.contains(PollFlags::IN) {
        return Err(DemoError::Stopped);
    }
    let (alive, stop) = mpsc::channel();
    std::thread::spawn(move || {
        // The pipe carries no data: the read returns when the other end is closed.
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        drop(alive);
    });
    Ok(stop)
}
