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
use tracing::info;

use super::confine;
use super::contact::{Cadence, Contact, News};
use super::hook::Hook;
use super::locks::{self, HeldLock};
use super::looking::Looking;
use super::metrics::Metrics;
use super::preflight;
use super::reconcile::{PassMode, Reconciler};
use super::report::PassReport;
use super::server_bit::{self, PoolKeys};
use super::source;
use super::status::{self, Circumstances};
use tfo_cli::reload;
use tfo_cli::report::{Failure, Outcome};
use tfo_config::agent::{AgentSettings, InstallMode, SourceSettings};
use tfo_config::contact::ServerBit;
use tfo_host::kernel::sysctl_d::{self, Record};
use tfo_host::runtime::confine::Confined;
use tfo_host::runtime::descriptors::Reserve;
use tfo_host::runtime::{clock, event_loop, lock, log, notify, process, sys};
use tfo_model::problem::{Problem, Severity, chain};
use tfo_model::time::UnixTime;
use tfo_wire::status::State;

/// How long a starting daemon waits for a `once` in the middle of a pass.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Longest time between two passes while something is wrong: a secret that was mounted late must not wait an hour.
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// The daemon, from its configuration to its end.
///
/// # Errors
/// Fails if it did not start or had to end; the problems are logged.
pub fn run(config: &Path) -> Result<(), Failure> {
    log::start();
    process::lock_memory();
    start_and_serve(config).inspect_err(|failure| failure.problems.iter().for_each(log::problem))
}

fn start_and_serve(config: &Path) -> Result<(), Failure> {
    let settings = preflight::ready(config, clock::now())?;
    let locks = locks::take(&settings, "run", LOCK_PATIENCE, &[])?;
    lock::sweep();
    // While there is one thread.
    let confined = confine::begin(&settings);
    let runtime = event_loop::new();
    let runtime = runtime.map_err(no_event_loop)?;
    let served =
        runtime.block_on(async { Daemon::new(settings, locks, confined).map_err(no_event_loop)?.serve().await });
    // A name lookup in flight must not hold up the end.
    runtime.shutdown_background();
    served
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn no_event_loop(error: io::Error) -> Failure {
    let message = format!("the event loop cannot run: {}", chain(&error));
    Failure::new(Outcome::Failed, Problem::error("event_loop", message, "check the limits of this process"))
}

/// Whether an error persists, or a warning repeats.  The message of an error includes where which keys are, which changes
/// from pass to pass; a warning such as drift is an event.
fn is_same(logged: &Problem, now: &Problem) -> bool {
    match now.severity {
        Severity::Error => {
            (logged.kind, &logged.file, logged.line, &logged.key) == (now.kind, &now.file, now.line, &now.key)
        }
        Severity::Warning => logged == now,
    }
}

struct Daemon {
    reconciler: Reconciler,
    locks: Vec<HeldLock>,
    confined: Confined,
    contact: Option<Contact>,
    hook: Hook,
    metrics: Metrics,
    schedule: ScheduleTimer,
    looking: Looking,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    watchdog: Option<Duration>,
    ready: bool,
    /// A reload has begun, and no pass followed yet.
    reloading: bool,
    /// Why the last reload was refused; in the status line until one succeeds, because `systemctl reload` itself shows no
    /// reason (docs/systemd.md).
    refused: Option<String>,
    /// Problems of the last pass, so that each is logged once and not at every pass.
    logged: Vec<Problem>,
}

/// Why the loop woke.
enum Wake {
    /// Only the contact with the coordinators made progress.
    Nothing,
    Pass,
    Watchdog,
    Reload,
    Stop,
}

impl Daemon {
    fn new(settings: AgentSettings, locks: Vec<HeldLock>, confined: Confined) -> io::Result<Self> {
        info!(
            version = env!("CARGO_PKG_VERSION"),
            config = %settings.file.display(),
            node = settings.node.as_ref().map(|node| node.as_str()),
            source = source::kind(&settings.source).as_str(),
            landlock = confined.level.as_str(),
            "started"
        );
        Ok(Self {
            contact: contact_of(&settings, None),
            hook: Hook::default(),
            metrics: Metrics::new(&settings.metrics),
            looking: Looking::new(&settings, Instant::now())?,
            reconciler: Reconciler::of_daemon(settings),
            locks,
            confined,
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

    async fn serve(mut self) -> Result<(), Failure> {
        let mut next_watchdog = self.watchdog.map(|interval| Instant::now() + interval);
        let mut reserve = Reserve::default();
        loop {
            reserve.release();
            // Two agents would undo each other's work for ever: the one without a lock ends.
            locks::keep(self.reconciler.settings(), "run", &mut self.locks)?;
            let now = clock::now();
            let report = self.pass(now);
            let wait = self.publish(report, now).map_err(no_event_loop)?;
            reserve.refill();
            let next_pass = Instant::now() + wait;
            // Readiness may change by time alone, and servers wait for it.
            let deadline = self.contact.as_ref().and_then(Contact::start_deadline).map(Instant::from);
            let next_pass = deadline.map_or(next_pass, |deadline| next_pass.min(deadline));
            loop {
                // A node withdraws itself before its pool excludes it: that second is not for the next look at the kernel.
                let detaches_at = self.contact.as_ref().and_then(Contact::detaches_at).map(Instant::from);
                let next_pass = detaches_at.map_or(next_pass, |at| next_pass.min(at));
                match self.sleep(next_pass, next_watchdog).await.map_err(no_event_loop)? {
                    Wake::Nothing => {}
                    Wake::Pass => break,
                    Wake::Watchdog => {
                        reserve.lend(notify::watchdog);
                        next_watchdog = self.watchdog.map(|interval| Instant::now() + interval);
                    }
                    Wake::Reload => {
                        reserve.release();
                        self.reload().await;
                        break;
                    }
                    Wake::Stop => {
                        info!("stopping; the installed keys stay");
                        reserve.lend(notify::stopping);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// One pass with the coordinator's instruction, and its result for the coordinator.
    fn pass(&mut self, now: UnixTime) -> PassReport {
        let instructed = self.contact.as_ref().and_then(Contact::offer);
        let mut report = self.reconciler.pass(now, PassMode::Apply, instructed);
        if let Some(contact) = &mut self.contact {
            report.problems.extend(preflight::unacknowledgeable(self.reconciler.settings()));
            contact.observed(&report);
            report.problems.extend(contact.problems());
            report.awaits_first_key = contact.serves_without_key();
        }
        self.heed_pool(&mut report);
        report
    }

    /// A node of a pool also withdraws itself when it is detached, and makes no cookies without the pool's keys.
    fn heed_pool(&mut self, report: &mut PassReport) {
        self.hook.reap();
        let runtime_dir = &self.reconciler.settings().runtime_dir.value;
        let (SourceSettings::Coordinator(source), Some(contact)) = (&self.reconciler.settings().source, &self.contact)
        else {
            // A reload may have removed the pool.
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
        // One timer for both, so that an idle agent wakes as rarely as possible.
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
            looked = self.looking.step() => Ok(match looked? {
                News::None => Wake::Nothing,
                News::Pass => Wake::Pass,
            }),
            fired = self.schedule.fired() => fired.map(|()| Wake::Pass),
            () = tokio::time::sleep_until(next) => Ok(if next == next_pass { Wake::Pass } else { Wake::Watchdog }),
        }
    }

    /// Publishes what the pass at `now` did: status, metrics, log, systemd.  Returns the time until the next pass.
    fn publish(&mut self, mut report: PassReport, now: UnixTime) -> io::Result<Duration> {
        let settings = self.reconciler.settings();
        let circumstances = Circumstances {
            now: clock::now(),
            drift_repairs: self.reconciler.drift_repairs(),
            clock_synchronised: sys::clock_synchronised(),
            node: settings.node.as_ref(),
            contact: self.contact.as_ref(),
            confinement: self.confined.level,
        };
        let written = status::write(&status::status_of(&report, circumstances), &settings.runtime_dir, &settings.file);
        report.problems.extend(written.err());
        report.problems.extend(self.metrics.update(&report, circumstances, &settings.file));
        self.log(&report);
        let mut line = status::line(&report);
        if let Some(refused) = &self.refused {
            line = format!("{refused}; {line}");
        }
        let good = match report.mode {
            InstallMode::Install if report.awaits_first_key => true,
            InstallMode::Install => report.verified() && self.contact.as_ref().is_none_or(Contact::may_serve),
            InstallMode::LookOnly => true,
        };
        // Without the keys in file and kernel, unless the pool has none yet, servers that are ordered after this unit must not start (docs/protocol.md#rule-9).
        // RELOADING=1 is ended by READY=1 (systemd 253 and later wait for it), after the pass that used the new settings.
        let reloaded = std::mem::take(&mut self.reloading) && self.ready;
        if good && !self.ready || reloaded {
            self.ready = true;
            notify::ready(&line);
            sys::release_code();
        } else {
            notify::status(&line);
        }
        let settings = self.reconciler.settings();
        let wait = settings.install.verify_interval;
        let next_change_at = report.held.as_ref().and_then(|held| held.next_change_at);
        // A change that was due and failed is retried after the wait, not at once in a loop.  Compared with the time of the
        // pass, so that a change that came due since then still fires.
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
            info!("all problems are resolved");
        }
        self.logged.clone_from(&report.problems);
    }

    /// Applies the new configuration, or keeps the old one if the new one is broken.
    async fn reload(&mut self) {
        notify::reloading();
        let config = self.reconciler.settings().file.clone();
        let switched = match preflight::ready(&config, clock::now()) {
            Ok(settings) => self.switch(settings).await,
            Err(failure) => Err(failure),
        };
        self.refused = reload::ended(&config, switched.map_err(|failure| failure.problems));
        self.reloading = true;
    }

    async fn switch(&mut self, settings: AgentSettings) -> Result<(), Failure> {
        if let Some(problem) = confine::refuses(&self.confined, &settings) {
            return Err(Failure::new(Outcome::Config, problem));
        }
        // New namespaces first: if one is another agent's, nothing has changed yet.
        let new = locks::take(&settings, "run", Duration::ZERO, &self.locks)?;
        let needed = locks::identities(&settings)?;
        self.locks.retain(|lock| needed.contains(&lock.identity));
        self.locks.extend(new);
        self.metrics.close().await;
        self.metrics = Metrics::new(&settings.metrics);
        self.looking = Looking::new(&settings, Instant::now()).map_err(no_event_loop)?;
        self.reconciler.let_go();
        self.reconciler = Reconciler::of_daemon(settings).succeeding(&self.reconciler);
        let settings = self.reconciler.settings();
        if !self.contact.as_ref().is_some_and(|contact| contact.fits(settings)) {
            let new = contact_of(settings, self.reconciler.record());
            self.contact = new.map(|new| match &self.contact {
                Some(before) => new.succeeding(before),
                None => new,
            });
        }
        Ok(())
    }
}

/// The contact with the coordinators of the settings; its fence is what is `held` or, without that, what the file has.
fn contact_of(settings: &AgentSettings, held: Option<&Record>) -> Option<Contact> {
    let persisted = sysctl_d::read(&settings.install.sysctl_file.value).ok();
    let record = held.or_else(|| persisted.as_ref().and_then(sysctl_d::Persisted::record));
    Contact::of(settings, record, Cadence::Daemon)
}

/// The next step of the contact; never returns without one.
async fn step(contact: Option<&mut Contact>) -> News {
    match contact {
        Some(contact) => contact.step().await,
        None => std::future::pending().await,
    }
}

/// Fires when the slots change next by the wall clock, and when that clock is stepped.
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
