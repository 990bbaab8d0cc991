//! `tfo-coordinator serve`: one event loop for signals, reload and the watchdog; the work is elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::connections::Connections;
use super::dashboard::{self, Dashboard, Observed};
use super::enrolment::{self, Enrolment};
use super::in_use::InUse;
use super::metrics::counters::Metrics;
use super::notify::{self as notifications, Notifier};
use super::pool::{Pool, Pools, Watched};
use super::preflight::{self, Opened};
use super::routes::{self, Api, SharedBodies, operator_in};
use super::server::{Drained, Limits, Server, listen};
use super::store::{self, Served};
use tfo_cli::reload;
use tfo_cli::report::Outcome;
use tfo_config::coordinator::CoordinatorSettings;
use tfo_config::reader::ConfigFile;
use tfo_engine::rollout::policy::Policy;
use tfo_host::runtime::{clock, log, notify, process};
use tfo_model::ids::{CoordinatorName, PoolName};
use tfo_model::problem::{Problem, Severity, chain, first_error};
use tfo_store::{ETCD_SCHEMA, Enrolments, Store};
use tfo_tls::identity::Peer;
use tfo_tls::server::ServerTls;
use tfo_wire::v1::fleet::COMMAND_BYTES_MAX;

/// How often the revocation list and the coordinator's own certificate are looked at.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// Shortest time between two looks that a request asked for.
const KEEP_PAUSE: Duration = Duration::from_millis(500);

/// How often the status line is renewed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Open files that are reserved for the store, the certificates and the other listener.
const FILES_KEPT: usize = 384;

/// Fewest connections, however low the limit of open files is.
const CONNECTIONS_MIN: usize = 64;

/// One part in this many of all sockets may be those of peers that have not shown a certificate.
const STRANGERS_PART: usize = 4;

/// Most connections: about 1.5 GiB of buffers.
const CONNECTIONS_MAX: usize = 65_536;

/// Runs the daemon, from its configuration to its end.
#[must_use]
pub fn serve(config: &Path) -> Outcome {
    serve_as(config, ETCD_SCHEMA, |store| store)
}

/// The same as a release that writes schemas of etcd up to `newest_schema`, and with what is made of its store: whatever stands
/// between the drivers and the store.
#[must_use]
pub fn serve_as(config: &Path, newest_schema: i64, through: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Outcome {
    log::start();
    process::lock_growing_memory();
    process::keep_large_blocks_apart();
    let opened = match preflight::open_to_serve(config, newest_schema) {
        Ok(mut opened) => {
            opened.store.pools = through(opened.store.pools);
            opened
        }
        Err(problems) => {
            problems.iter().for_each(log::problem);
            return Outcome::Config;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(async { Daemon::start(opened).await?.run().await }));
    match served {
        Ok(outcome) => outcome,
        Err(error) => {
            error!(%error, "the coordinator cannot serve");
            Outcome::Failed
        }
    }
}

struct Daemon {
    config: PathBuf,
    settings: CoordinatorSettings,
    in_use: InUse,
    store: Arc<dyn Store>,
    /// The name under which this process writes into it.
    by: CoordinatorName,
    api: Arc<Api>,
    tls: Arc<ServerTls>,
    shutdown: CancellationToken,
    servers: Vec<JoinHandle<Drained>>,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// Why the last reload was refused, if it was: shown in the status line until one succeeds, because `systemctl reload`
    /// itself shows no reason (docs/systemd.md).
    refused: Option<String>,
    /// Renews the revocation list.
    keeper: Option<AbortOnDropHandle<()>>,
    /// Tells operators what they do not ask for.
    notifier: Option<Notifier>,
}

/// Why the loop woke.
enum Wake {
    Look,
    Watchdog,
    Reload,
    Stop,
}

impl Daemon {
    /// Starts everything; drivers start to count presence when the listener is open.
    async fn start(opened: Opened<Served>) -> io::Result<Self> {
        let Opened { settings, store, warnings, .. } = opened;
        warnings.iter().for_each(log::problem);
        let failed = |problems: Vec<Problem>| {
            problems.iter().for_each(log::problem);
            io::Error::other("see the problems above")
        };
        let domain = settings.access.spiffe_trust_domain.as_ref().map(|domain| domain.value.clone());
        let tls = ServerTls::load(preflight::server_files(&settings.api), domain).map_err(failed)?;
        let listener = listen_at(settings.api.listen.value)?;
        let observer = settings.observe.as_ref().map(|at| listen_at(at.value)).transpose()?;
        let Served { pools: store, enrolments, by } = store;
        let enrolment =
            open_enrolment(&settings, (enrolments, by.clone()), &tls).map_err(|problem| failed(vec![problem]))?;
        let strangers = match &settings.enrolment {
            Some(enrolment) => Some(listen_at(enrolment.listen.value)?),
            None => None,
        };
        let api = Arc::new(Api {
            pools: ArcSwap::default(),
            access: ArcSwap::from_pointee(settings.access.clone()),
            metrics: Arc::new(Metrics::new()),
            bodies: SharedBodies::default(),
            own_names: Box::new({
                let tls = Arc::clone(&tls);
                move |name| tls.is_own_name(name)
            }),
            connections: Arc::default(),
            enrolment,
            keep: Notify::new(),
        });
        tls.give_grace_to(operators(&api));
        let shutdown = CancellationToken::new();
        let mut daemon = Self {
            config: settings.file.clone(),
            in_use: InUse::of(&settings),
            settings,
            store,
            by,
            api,
            tls,
            shutdown,
            servers: Vec::new(),
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            refused: None,
            keeper: None,
            notifier: None,
        };
        info!(
            version = env!("CARGO_PKG_VERSION"),
            config = %daemon.config.display(),
            listen = %daemon.settings.api.listen.value,
            "started"
        );
        daemon.apply(&daemon.settings).await.map_err(|problem| failed(vec![problem]))?;
        if let Err(error) = daemon.in_use.publish() {
            warn!(error = chain(&error), "cannot say what is in use: a reload that needs a restart will not fail");
        }
        let files = usize::try_from(process::raise_file_limit()).unwrap_or(usize::MAX);
        let server = Server::new(limits(files)).keeping_places(operators(&daemon.api));
        let server = Arc::new(server.counting(Arc::clone(&daemon.api.connections)));
        let strangers = daemon.api.enrolment.clone().zip(strangers);
        let door = strangers.as_ref().map(|_| Arc::new(Server::new(Limits::strangers())));
        let dashboard = Dashboard::start(Observed {
            api: Arc::clone(&daemon.api),
            server: Arc::clone(&server),
            strangers: door.clone(),
            tls: Arc::clone(&daemon.tls),
            names: daemon.settings.observe_names.clone(),
        });
        if let Some(observer) = observer {
            let (router, shutdown) = (dashboard::plain(&dashboard), daemon.shutdown.clone());
            daemon.servers.push(tokio::spawn(async move {
                Server::new(Limits::observe()).serve_plain(observer, router, shutdown).await
            }));
        }
        if let Some(((enrolment, listener), door)) = strangers.zip(door) {
            daemon.enrol(enrolment, door, listener);
        }
        let wanted = notifications::Wanted::of(&daemon.settings);
        let (api, store) = (Arc::clone(&daemon.api), store::local_file(&daemon.settings.store));
        daemon.notifier = Some(Notifier::start(api, Arc::clone(&daemon.tls), store, wanted));
        let (tls, shutdown) = (Arc::clone(&daemon.tls), daemon.shutdown.clone());
        let router = routes::router(Arc::clone(&daemon.api)).merge(dashboard::for_readers(&dashboard));
        daemon.servers.push(tokio::spawn(async move { server.serve(listener, tls, router, shutdown).await }));
        Ok(daemon)
    }

    /// Starts what enrols nodes, and what keeps the revocation list.
    fn enrol(&mut self, enrolment: Arc<Enrolment>, door: Arc<Server>, listener: TcpListener) {
        let (tls, shutdown) = (Arc::clone(&self.tls), self.shutdown.clone());
        let own = (tls, enrolment.authority().clone());
        let router = routes::enrolment_router(Arc::clone(&self.api));
        self.servers.push(tokio::spawn(async move { door.serve_strangers(listener, own, router, shutdown).await }));
        self.keeper = Some(AbortOnDropHandle::new(tokio::spawn(keep(Arc::clone(&self.api), enrolment))));
    }

    /// Applies access, policies and pools, all or nothing: new pools are started first, and nothing after that can fail.
    /// Pools that are gone from the settings are ended.
    async fn apply(&self, settings: &CoordinatorSettings) -> Result<(), Problem> {
        let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.api.metrics));
        let connections = Arc::clone(&self.api.connections);
        let (before, file, by) = (self.api.pools.load_full(), self.config.clone(), self.by.clone());
        let wanted = settings.pools.iter().map(|(name, policy)| (name.clone(), policy.value.clone()));
        let wanted: BTreeMap<PoolName, Policy> = wanted.collect();
        let (api, access) = (Arc::clone(&self.api), Arc::new(settings.access.clone()));
        let work = move || {
            let stored = store.pools().map_err(|error| error.problem())?;
            let mut pools = start_pools((&store, &by), &before, (&metrics, &connections), &wanted)?;
            for name in stored.iter().filter(|name| !wanted.contains_key(*name)) {
                log::problem(&preflight::not_configured(name).in_file(&file));
            }
            api.access.store(access);
            // Only at the start no pool runs yet.
            let is_reload = !before.is_empty();
            for (name, policy) in wanted {
                if let Some(running) = before.get(&name) {
                    pools.insert(name.clone(), Arc::clone(running));
                }
                if let (Some(pool), true) = (pools.get(&name), is_reload) {
                    pool.propose_policy(policy);
                }
            }
            // No request reaches a pool that has ended.  Dropping a pool here ends its driver, and waits for that.
            api.pools.store(Arc::new(pools));
            drop(before);
            Ok(())
        };
        let taken = tokio::task::spawn_blocking(work).await;
        taken.unwrap_or_else(|error| {
            Err(Problem::error("internal", error.to_string(), "this is a bug; please report it"))
        })
    }

    async fn run(mut self) -> io::Result<Outcome> {
        notify::ready(&self.status_line());
        let mut look = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watchdog = notify::watchdog_interval();
        // Without a watchdog its arm does nothing.
        let mut alive = tokio::time::interval(watchdog.unwrap_or(Duration::from_secs(3_600)));
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = tokio::select! {
                biased;
                _ = self.terminate.recv() => Wake::Stop,
                _ = self.interrupt.recv() => Wake::Stop,
                _ = self.hangup.recv() => Wake::Reload,
                _ = alive.tick() => Wake::Watchdog,
                _ = look.tick() => Wake::Look,
            };
            match wake {
                Wake::Stop => break,
                Wake::Watchdog => notify::watchdog(),
                Wake::Reload => self.reload().await,
                Wake::Look => {
                    notify::status(&self.status_line());
                }
            }
            if let Some(pool) = self.api.pools.load().values().find(|pool| pool.has_ended()) {
                error!(pool = %pool.name(), "a driver has ended: its log says why, or it is a bug; the service manager restarts this program");
                self.end().await;
                return Ok(Outcome::Failed);
            }
        }
        info!("stopping; the nodes keep their keys");
        notify::stopping();
        self.end().await;
        Ok(Outcome::Done)
    }

    /// Lets requests finish, and then the drivers, which write what they have queued.
    async fn end(&mut self) {
        self.shutdown.cancel();
        // With the commands that it runs.
        self.notifier = None;
        for server in self.servers.drain(..) {
            match server.await {
                Ok(Drained { cut: 0 }) => {}
                Ok(Drained { cut }) => warn!(cut, "cut connections that did not end in time"),
                Err(error) => warn!(%error, "a server has panicked"),
            }
        }
        self.keeper = None;
        if let Some(enrolment) = self.api.enrolment.clone() {
            let written = tokio::task::spawn_blocking(move || enrolment.log_all_refused(clock::now())).await;
            if let Ok(Err(error)) = written {
                warn!(%error, "refused attempts of the last hour are not in the log of enrolment");
            }
        }
        let pools = self.api.pools.swap(Arc::default());
        // Ending a driver waits for its commit: not on the event loop.
        if let Err(error) = tokio::task::spawn_blocking(move || drop(pools)).await {
            warn!(%error, "a driver has panicked");
        }
    }

    fn status_line(&self) -> String {
        let pools = self.api.pools.load();
        let names: Vec<&str> = pools.keys().map(PoolName::as_str).collect();
        let refused = self.refused.as_ref().map(|refused| format!("{refused}; ")).unwrap_or_default();
        let list = self.tls.list_notice(clock::now()).map(|notice| format!("{notice}; ")).unwrap_or_default();
        format!("{refused}{list}serving {} on {}", names.join(", "), self.settings.api.listen.value)
    }

    /// Applies the new configuration, or keeps the old one if the new one is invalid.
    async fn reload(&mut self) {
        notify::reloading();
        let config = self.config.clone();
        let read = tokio::task::spawn_blocking(move || read_again(&config)).await;
        let read = read.unwrap_or_else(|error| {
            Err(vec![Problem::error(
                "internal",
                format!("reading the configuration panicked: {error}"),
                "this is a bug; please report it",
            )])
        });
        let taken = match read {
            Ok(settings) => self.take(settings).await,
            Err(problems) => Err(problems),
        };
        let files = taken.is_ok().then(|| preflight::server_files(&self.settings.api));
        self.refused = reload::ended(&self.config, taken);
        let tls = Arc::clone(&self.tls);
        let look = move || match files {
            Some(files) => tls.reload_from(files),
            None => tls.reload(),
        };
        // It logs what it does.
        if let Err(error) = tokio::task::spawn_blocking(look).await {
            error!(%error, "checking the certificates panicked");
        }
        notify::ready(&self.status_line());
    }

    /// Takes over everything that a running coordinator can change.
    ///
    /// # Errors
    /// Fails, without a change, with every setting that needs a restart, or because a pool cannot be started.
    async fn take(&mut self, settings: CoordinatorSettings) -> Result<(), Vec<Problem>> {
        let changes = self.in_use.changes(&settings, Severity::Error);
        if !changes.is_empty() {
            return Err(changes);
        }
        self.take_keys(&settings).await.map_err(|problem| vec![problem])?;
        self.apply(&settings).await.map_err(|problem| vec![problem])?;
        if let (Some(own), Some(enrolment)) = (&settings.enrolment, &self.api.enrolment) {
            enrolment.set_node_lifetime(own.node_lifetime.value);
        }
        if let Some(notifier) = &self.notifier {
            notifier.reload(notifications::Wanted::of(&settings));
        }
        self.settings = settings;
        Ok(())
    }
}

impl Daemon {
    /// Takes the key-encryption keys over that the settings name; one of them is that of the store.
    async fn take_keys(&self, settings: &CoordinatorSettings) -> Result<(), Problem> {
        let (keys, store) = (preflight::keys_of(settings)?, Arc::clone(&self.store));
        let taken = tokio::task::spawn_blocking(move || store.set_keys(keys)).await;
        match taken {
            Ok(taken) => taken.map_err(|error| store::locate(&settings.file, &settings.store, &error)),
            Err(error) => Err(Problem::error("internal", error.to_string(), "this is a bug; please report it")),
        }
    }
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    listen(address).map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// The authority, if the settings have one.
fn open_enrolment(
    settings: &CoordinatorSettings,
    store: (Arc<dyn Enrolments>, CoordinatorName),
    tls: &Arc<ServerTls>,
) -> Result<Option<Arc<Enrolment>>, Problem> {
    let Some(own) = &settings.enrolment else { return Ok(None) };
    let opened = enrolment::open(&settings.file, &settings.api, own)?;
    Ok(Some(Arc::new(Enrolment::new(opened, store, Arc::clone(tls)))))
}

/// Renews what ends by itself and finishes what was left behind, until it is aborted.  A problem is logged when it comes, and
/// once a day.
async fn keep(api: Arc<Api>, enrolment: Arc<Enrolment>) {
    let mut logged: (Vec<Problem>, u64) = (Vec::new(), 0);
    let mut ticks = tokio::time::interval(KEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Kinds of refused attempts are bounded, but each of them can come at any moment.
            () = api.keep.notified() => tokio::time::sleep(KEEP_PAUSE).await,
        }
        let left = routes::finish_cut_offs(&api).await.err();
        let enrolment = Arc::clone(&enrolment);
        // Files and signatures: not on the event loop.
        let kept = tokio::task::spawn_blocking(move || enrolment.keep(clock::now())).await;
        let problems: Vec<Problem> = kept.unwrap_or_default().into_iter().chain(left).collect();
        let day = clock::now().secs() / 86_400;
        if (&problems, day) != (&logged.0, logged.1) {
            problems.iter().for_each(log::problem);
        }
        logged = (problems, day);
    }
}

/// Tells operators from other peers, by the access of the moment.
fn operators(api: &Arc<Api>) -> impl Fn(&Peer) -> bool + Send + Sync + 'static {
    let api = Arc::clone(api);
    move |peer| operator_in(peer, &api.access.load()).is_some()
}

/// Bounds for a process that may have so many open files: what strangers can take leaves most of them to the fleet.
fn limits(files: usize) -> Limits {
    let defaults = Limits::default();
    let free = files.saturating_sub(FILES_KEPT);
    let handshakes_max = (free / STRANGERS_PART / Limits::SOCKETS_PER_HANDSHAKE).clamp(1, defaults.handshakes_max);
    let connections_max = free.saturating_sub(handshakes_max * Limits::SOCKETS_PER_HANDSHAKE);
    let connections_max = connections_max.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
    Limits { body_bytes_max: COMMAND_BYTES_MAX, connections_max, handshakes_max, ..defaults }
}

/// Blocking: reads the configuration for a reload; fails if anything is wrong with it or with the certificates.
fn read_again(config: &Path) -> Result<CoordinatorSettings, Vec<Problem>> {
    let settings = CoordinatorSettings::load(config)?;
    notifications::check(&settings).iter().for_each(log::problem);
    let problems = ServerTls::check(&preflight::server_files(&settings.api));
    if first_error(&problems).is_some() { Err(problems) } else { Ok(settings) }
}

/// Blocking: creates new pools, and starts those that are not running yet; returns only those.
fn start_pools(
    (store, by): (&Arc<dyn Store>, &CoordinatorName),
    before: &Pools,
    (metrics, connections): (&Arc<Metrics>, &Arc<Connections>),
    wanted: &BTreeMap<PoolName, Policy>,
) -> Result<Pools, Problem> {
    preflight::make_pools(&**store, wanted.iter())?;
    let new = wanted.iter().filter(|(name, _)| !before.contains_key(*name));
    let started = new.map(|(name, policy)| {
        let seen = Watched { metrics: Arc::clone(metrics), connections: Arc::clone(connections) };
        let pool = Pool::start((Arc::clone(store), by.clone()), name.clone(), policy.clone(), seen);
        Ok((name.clone(), Arc::new(pool.map_err(|error| error.problem())?)))
    });
    started.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_leave_most_sockets_to_the_fleet() {
        let expected = [(0, 1, 64), (448, 3, 64), (1_024, 32, 480), (4_096, 185, 2_787), (65_536, 1_000, 60_152)];
        for (files, handshakes, connections) in expected {
            let limits = limits(files);
            assert_eq!((limits.handshakes_max, limits.connections_max), (handshakes, connections), "{files}");
        }
    }
}
