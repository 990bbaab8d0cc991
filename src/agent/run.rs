//! `tfo-agent run`: one event loop on one thread.  Wakes for the drift poll, the schedule, a stepped clock, the watchdog, and signals.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tracing::{error, info};

use super::check;
use super::contact::{Cadence, Contact, News};
use super::hook::Hook;
use super::locks::{self, HeldLock};
use super::metrics::Metrics;
use super::report::PassReport;
use super::server_bit::{self, PoolKeys};
use super::status::{self, Circumstances};
use super::worker::{PassMode, Worker};
use super::{preflight, source};
use tfo_cli::reload;
use tfo_cli::report::Outcome;
use tfo_config::agent::{AgentSettings, InstallMode, SourceSettings};
use tfo_config::contact::ServerBit;
use tfo_host::kernel::sysctl_d::{self, Record};
use tfo_host::runtime::{clock, log, notify, process, sys};
use tfo_model::problem::{Problem, Severity, chain};
use tfo_model::time::UnixTime;
use tfo_wire::status::State;

/// How long a starting daemon waits for a `once` that is just at it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for another try while something is wrong: a secret that was mounted late should not take an hour.
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// The daemon, from its configuration to its end.
#[must_use]
pub fn run(config: &Path) -> Outcome {
    log::start();
    process::lock_memory();
    let settings = match preflight::ready(config, clock::now()) {
        Ok(settings) => settings,
        Err(problems) => {
            problems.iter().for_each(log::problem);
            return Outcome::Config;
        }
    };
    let locks = match locks::take(&settings, "run", LOCK_PATIENCE, &[]) {
        Ok(locks) => locks,
        Err(problem) => {
            log::problem(&problem);
            return locks::outcome(&problem);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let served = runtime.and_then(|runtime| {
        let served = runtime.block_on(async { Daemon::new(settings, locks)?.serve().await });
        // A name that is still looked up must not hold up the end.
        runtime.shutdown_background();
        served
    });
    match served {
        Ok(()) => Outcome::Done,
        Err(error) => {
            error!(error = %chain(&error), "the event loop cannot run");
            Outcome::Failed
        }
    }
}

/// Whether an error goes on, or a warning says the same again.  An error's message tells which keys are where, and that
/// changes from poll to poll; a warning such as drift is an event.
fn is_same(logged: &Problem, now: &Problem) -> bool {
    match now.severity {
        Severity::Error => {
            (logged.kind, &logged.file, logged.line, &logged.key) == (now.kind, &now.file, now.line, &now.key)
        }
        Severity::Warning => logged == now,
    }
}

struct Daemon {
    worker: Worker,
    locks: Vec<HeldLock>,
    contact: Option<Contact>,
    hook: Hook,
    metrics: Metrics,
    schedule: ScheduleTimer,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    watchdog: Option<Duration>,
    ready: bool,
    /// A reload has begun, and no pass has been made since.
    reloading: bool,
    /// What the last reload was refused for, if it was: said in the status line until one succeeds, because
    /// `systemctl reload` itself shows no reason (docs/systemd.md).
    refused: Option<String>,
    /// Problems of the last pass, so that each is logged once and not at every poll.
    logged: Vec<Problem>,
}

/// Why the loop woke.
enum Wake {
    /// Only the talks with the coordinators have gone on.
    Nothing,
    Pass,
    Watchdog,
    Reload,
    Stop,
}

impl Daemon {
    fn new(settings: AgentSettings, locks: Vec<HeldLock>) -> io::Result<Self> {
        info!(
            version = env!("CARGO_PKG_VERSION"),
            config = %settings.file.display(),
            node = settings.node.as_ref().map(|node| node.as_str()),
            source = source::kind(&settings.source).as_str(),
            "started"
        );
        Ok(Self {
            contact: contact_of(&settings, None),
            hook: Hook::default(),
            metrics: Metrics::new(&settings.metrics),
            worker: Worker::new(settings),
            locks,
            schedule: ScheduleTimer::new()?,
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            watchdog: notify::watchdog_interval(),
            ready: false,
            reloading: false,
            refused: None,
            logged: Vec::new(),
        })
    }

    async fn serve(mut self) -> io::Result<()> {
        let mut next_watchdog = self.watchdog.map(|interval| Instant::now() + interval);
        loop {
            let now = clock::now();
            let report = self.pass(now);
            let wait = self.publish(report, now)?;
            let next_pass = Instant::now() + wait;
            // Readiness may change by time alone, and servers wait for it.
            let deadline = self.contact.as_ref().and_then(Contact::start_deadline).map(Instant::from);
            let next_pass = deadline.map_or(next_pass, |deadline| next_pass.min(deadline));
            loop {
                match self.sleep(next_pass, next_watchdog).await? {
                    Wake::Nothing => {}
                    Wake::Pass => break,
                    Wake::Watchdog => {
                        notify::watchdog();
                        next_watchdog = self.watchdog.map(|interval| Instant::now() + interval);
                    }
                    Wake::Reload => {
                        self.reload().await;
                        break;
                    }
                    Wake::Stop => {
                        info!("stopping; the installed keys stay");
                        notify::stopping();
                        return Ok(());
                    }
                }
            }
        }
    }

    /// One pass, with what a coordinator told, and its result for the coordinator.
    fn pass(&mut self, now: UnixTime) -> PassReport {
        let told = self.contact.as_ref().and_then(Contact::told);
        let mut report = self.worker.pass(now, PassMode::Apply, told);
        if let Some(contact) = &mut self.contact {
            report.problems.extend(check::unacknowledgeable(self.worker.settings()));
            contact.observed(&report);
            report.problems.extend(contact.problems());
        }
        self.heed_pool(&mut report);
        report
    }

    /// What else a node of a pool does: withdraws itself when it is detached, makes no cookies without the pool's keys.
    fn heed_pool(&mut self, report: &mut PassReport) {
        self.hook.reap();
        let runtime_dir = &self.worker.settings().runtime_dir.value;
        let (SourceSettings::Coordinator(source), Some(contact)) = (&self.worker.settings().source, &self.contact)
        else {
            // A reload may have taken the pool away.
            report.problems.extend(server_bit::release_all(runtime_dir, &report.namespaces));
            return;
        };
        self.hook.update(&source.on_detached, Some(contact.standing()));
        report.problems.extend(match source.server_bit {
            ServerBit::Held => {
                let keys = if contact.has_keys() { PoolKeys::Held } else { PoolKeys::Missing };
                server_bit::hold(runtime_dir, keys, &report.namespaces)
            }
            ServerBit::LeftAlone => server_bit::release_all(runtime_dir, &report.namespaces),
        });
    }

    async fn sleep(&mut self, next_pass: Instant, next_watchdog: Option<Instant>) -> io::Result<Wake> {
        // One timer for both, so that an idle agent wakes as seldom as it can.
        let next = next_watchdog.map_or(next_pass, |watchdog| watchdog.min(next_pass));
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Ok(Wake::Stop),
            _ = self.interrupt.recv() => Ok(Wake::Stop),
            _ = self.hangup.recv() => Ok(Wake::Reload),
            news = step(self.contact.as_mut()) => Ok(match news {
                News::None => Wake::Nothing,
                News::Pass => Wake::Pass,
            }),
            fired = self.schedule.fired() => fired.map(|()| Wake::Pass),
            () = tokio::time::sleep_until(next) => Ok(if next == next_pass { Wake::Pass } else { Wake::Watchdog }),
        }
    }

    /// Tells everybody who wants to know what the pass at `now` did; gives the time until the next pass.
    fn publish(&mut self, mut report: PassReport, now: UnixTime) -> io::Result<Duration> {
        let circumstances = Circumstances {
            now: clock::now(),
            drift_repairs: self.worker.drift_repairs(),
            clock_synchronised: sys::clock_synchronised(),
            contact: self.contact.as_ref(),
        };
        let settings = self.worker.settings();
        let written = status::write(&status::status_of(&report, circumstances), &settings.runtime_dir, &settings.file);
        report.problems.extend(written.err());
        report.problems.extend(self.metrics.update(&report, circumstances, &settings.file));
        self.log(&report);
        let mut line = status::line(&report);
        if let Some(refused) = &self.refused {
            line = format!("{refused}; {line}");
        }
        let good = match report.mode {
            InstallMode::Install => report.verified() && self.contact.as_ref().is_none_or(Contact::may_serve),
            InstallMode::LookOnly => true,
        };
        // Without the keys in file and kernel, servers that are ordered after this unit must not start (docs/protocol.md#rule-9).
        // RELOADING=1 is ended by READY=1 (systemd 253 and later wait for it), after the pass that used the new settings.
        let reloaded = std::mem::take(&mut self.reloading) && self.ready;
        if good && !self.ready || reloaded {
            self.ready = true;
            notify::ready(&line);
            sys::release_code();
        } else {
            notify::status(&line);
        }
        let settings = self.worker.settings();
        let wait = settings.install.verify_interval;
        let next_change_at = report.held.as_ref().and_then(|held| held.next_change_at);
        // A change that was due and could not be made is tried again at the retry, not at once and for ever.  Compared with the time
        // that the pass went by: a change that came due since then still fires.
        self.schedule.set(next_change_at.filter(|at| *at > now))?;
        let wrong = report.state() != State::Ok;
        Ok(if wrong { wait.min(RETRY_INTERVAL_MAX) } else { wait })
    }

    fn log(&mut self, report: &PassReport) {
        if let (true, Some(held)) = (report.changed(), &report.held) {
            let prints = &held.prints;
            info!(
                source = report.source.as_str(),
                phase = held.phase.as_str(),
                primary_fp = %prints.primary.fingerprint,
                backup_fp = prints.backup.map(|slot| tracing::field::display(slot.fingerprint)),
                file = report.file_changed,
                namespaces = report.namespaces.iter().filter(|namespace| namespace.changed).count(),
                "installed"
            );
        }
        let known = |problem: &Problem| self.logged.iter().any(|logged| is_same(logged, problem));
        report.problems.iter().filter(|problem| !known(problem)).for_each(log::problem);
        if !self.logged.is_empty() && report.problems.is_empty() {
            info!("all problems are gone");
        }
        self.logged.clone_from(&report.problems);
    }

    /// Takes the new configuration, or keeps the old one running if the new one is broken.
    async fn reload(&mut self) {
        notify::reloading();
        let config = self.worker.settings().file.clone();
        let switched = match preflight::ready(&config, clock::now()) {
            Ok(settings) => self.switch(settings).await.map_err(|problem| vec![problem]),
            Err(problems) => Err(problems),
        };
        self.refused = reload::ended(&config, switched);
        self.reloading = true;
    }

    async fn switch(&mut self, settings: AgentSettings) -> Result<(), Problem> {
        // New namespaces first: if one is another agent's, nothing has changed yet.
        let new = locks::take(&settings, "run", Duration::ZERO, &self.locks)?;
        let needed = locks::identities(&settings)?;
        self.locks.retain(|(identity, _)| needed.contains(identity));
        self.locks.extend(new);
        self.metrics.close().await;
        self.metrics = Metrics::new(&settings.metrics);
        self.worker = Worker::new(settings).succeeding(&self.worker);
        let settings = self.worker.settings();
        if !self.contact.as_ref().is_some_and(|contact| contact.fits(settings)) {
            let new = contact_of(settings, self.worker.record());
            self.contact = new.map(|new| match &self.contact {
                Some(before) => new.succeeding(before),
                None => new,
            });
        }
        Ok(())
    }
}

/// The talks with the coordinators that the settings name, from what is `held` on, or else from the file.
fn contact_of(settings: &AgentSettings, held: Option<&Record>) -> Option<Contact> {
    let persisted = sysctl_d::read(&settings.install.sysctl_file.value).ok();
    let record = held.or_else(|| persisted.as_ref().and_then(sysctl_d::Persisted::record));
    Contact::of(settings, record, Cadence::Daemon)
}

/// The next step of the talks; never, where there are none.
async fn step(contact: Option<&mut Contact>) -> News {
    match contact {
        Some(contact) => contact.step().await,
        None => std::future::pending().await,
    }
}

/// Fires when the slots change next by the wall clock, and when somebody steps that clock.
struct ScheduleTimer(AsyncFd<std::os::fd::OwnedFd>);

impl ScheduleTimer {
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self(sys::watch(timer)?))
    }

    /// Arms it for an instant.  Without one it is armed for the end of time, because only an armed timer notices steps.
    fn set(&self, at: Option<UnixTime>) -> io::Result<()> {
        let tv_sec = i64::try_from(at.unwrap_or(UnixTime::MAX).secs()).map_err(io::Error::other)?;
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: tv_sec.max(1), tv_nsec: 0 },
        };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        match timerfd_settime(self.0.get_ref(), flags, &once) {
            // A step since the last read is reported here too; the timer is armed all the same (timerfd_create(2)).
            Ok(_) | Err(rustix::io::Errno::CANCELED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn fired(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut expirations = [0; 8];
            match rustix::io::read(self.0.get_ref(), &mut expirations) {
                Ok(_) | Err(rustix::io::Errno::CANCELED) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
