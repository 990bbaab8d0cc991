//! The fleet inside the namespaces: start it, watch it, end it, judge it.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::NAIVE_NUMBERS;
use super::args::{Args, PROGRAM, Source};
use super::client::{self, ClientControl};
use super::conductor::Conductor;
use super::error::DemoError;
use super::judge::{Evidence, Tally, sum};
use super::network::Network;
use super::node::Node;
use super::operator::Operator;
use super::program::Kit;
use super::sandbox;
use super::screen::{Screen, Title, View};
use super::server::Server;
use super::summary::{self, LastLine, Numbers};
use tfo_cli::report::Format;
use tfo_host::kernel::namespace::NamespaceError;
use tfo_host::kernel::netstat::TfoCounters;
use tfo_host::runtime::clock;
use tfo_host::runtime::files::{Durability, replace};
use tfo_model::key::KeyFingerprint;
use tfo_wire::status::Status;

/// Interval between two looks at the nodes: shorter than every phase, and cheap.
const TICK: Duration = Duration::from_millis(200);
/// Longest time until all agents hold keys; coordinators on an etcd begin by making their pool there.
const UP_SECS_MAX: u64 = 30;
/// How long the clients continue after the last rotation: by then each has connected many times with its earlier cookies.
const TAIL: Duration = Duration::from_secs(2);
/// A rotation this early does not count: some clients do not have a cookie to lose yet.
const WARM_UP: Duration = Duration::from_secs(1);

/// Runs the demo as PID 1 of the namespaces.
pub(super) fn run(args: &Args) -> Result<ExitCode, DemoError> {
    let stop = sandbox::tie_to_parent()?;
    let rotations_wanted = (!args.keep).then_some(args.rotations);
    let page = args.page_at.clone();
    let title = Title { nodes: args.nodes.into(), source: Operator::source(args), rotations_wanted, page };
    let mut screen = Screen::new(title, args.format);
    let fleet = Fleet::start(args, &stop, &mut screen)?;
    let evidence = fleet.run(rotations_wanted, &stop, &mut screen)?;
    screen.close().map_err(tell_failed)?;
    let faults = if args.replace_only { evidence.faults_of_naive() } else { evidence.faults() };
    for fault in &faults {
        // If stderr is closed, the exit code remains.
        drop(writeln!(io::stderr(), "{PROGRAM}: {fault}"));
    }
    let numbers = Numbers::of(&evidence);
    if args.replace_only {
        hand_over(args, &numbers)?;
    } else {
        conclude(args, numbers)?;
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Leaves the numbers of the naive run where the outer process finds them.
fn hand_over(args: &Args, numbers: &Numbers) -> Result<(), DemoError> {
    let text = serde_json::to_vec(numbers).map_err(|error| tell_failed(error.into()))?;
    replace(Path::new(NAIVE_NUMBERS), &text, 0o400, Durability::Volatile)?;
    if args.format == Format::Json {
        return Ok(());
    }
    let sentence = summary::sentence(numbers, None);
    writeln!(io::stdout(), "{sentence}; now the same with staged rotations\n").map_err(tell_failed)
}

/// The end of the output.
fn conclude(args: &Args, numbers: Numbers) -> Result<(), DemoError> {
    let naive: Option<Numbers> = match &args.compare {
        Some(text) => Some(serde_json::from_str(text).map_err(|error| tell_failed(error.into()))?),
        None => None,
    };
    let mut text = String::new();
    if args.format == Format::Text {
        text = naive.as_ref().map_or_else(String::new, |naive| summary::table(&numbers, naive) + "\n");
        text += &summary::sentence(&numbers, naive.as_ref());
        text.push('\n');
    }
    // People have read it by then; what reads a pipe wants numbers.
    if args.format == Format::Json || !io::stdout().is_terminal() {
        text += &serde_json::to_string(&LastLine::of(numbers, naive)).map_err(|error| tell_failed(error.into()))?;
        text.push('\n');
    }
    io::stdout().write_all(text.as_bytes()).map_err(tell_failed)
}

fn tell_failed(source: io::Error) -> DemoError {
    DemoError::step("write to standard output")(source)
}

type ClientThread = JoinHandle<Result<(), NamespaceError>>;

/// Nodes with agents and servers, and clients that connect to them.
struct Fleet {
    operator: Operator,
    nodes: Vec<Node>,
    servers: Vec<Server>,
    clients: Vec<ClientThread>,
    tally: Arc<Tally>,
    control: ClientControl,
    rotations: Rotations,
}

impl Fleet {
    /// Starts agents first, then listeners, then clients: for a listener without a key, the kernel would generate one
    /// (docs/kernel.md#the-key-file).
    fn start(args: &Args, stop: &Receiver<()>, screen: &mut Screen) -> Result<Self, DemoError> {
        screen.step("building the network").map_err(tell_failed)?;
        let network = Network::make(args.nodes)?;
        if args.source == Source::Coordinator {
            let text = match args.coordinators {
                1 => "starting the coordinator".to_owned(),
                count => format!("starting etcd and {count} coordinators"),
            };
            screen.step(&text).map_err(tell_failed)?;
        }
        let mut operator = Operator::new(args, &network)?;
        screen.step("starting an agent in every node").map_err(tell_failed)?;
        let mut nodes = Vec::new();
        for namespace in (1..=args.nodes).map(|node| network.node(node)) {
            nodes.push(Node::start(&Kit::own(), namespace, |directory, name| operator.supplies(directory, name))?);
        }
        let agreed = wait_until_agreed(&mut operator, &mut nodes, stop)?;
        screen.step("starting servers and clients").map_err(tell_failed)?;
        let mut servers = Vec::new();
        for node in &nodes {
            servers.push(Server::start(&node.files.namespace)?);
        }
        let (tally, control) = (Arc::new(Tally::default()), ClientControl::default());
        let start_client = |site| client::start(site, Arc::clone(&tally), control.clone());
        let clients = network.clients.into_iter().map(start_client).collect();
        let rotations = Rotations { agreed, done: 0 };
        Ok(Self { operator, nodes, servers, clients, tally, control, rotations })
    }

    /// Watches the fleet until its end, then stops all parts in order.
    fn run(mut self, wanted: Option<u16>, stop: &Receiver<()>, screen: &mut Screen) -> Result<Evidence, DemoError> {
        let watched = self.watch(wanted, stop, screen);
        self.control.stop();
        let mut faults: Vec<String> = watched.err().iter().map(ToString::to_string).collect();
        for client in self.clients {
            match client.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => faults.push(error.to_string()),
                Err(_) => faults.push(DemoError::Worker("client").to_string()),
            }
        }
        // After the last client, before the last agent.
        let counters = read_counters(&self.nodes)?;
        self.nodes.iter().for_each(Node::ask_to_end);
        let went_well = faults.is_empty();
        for node in self.nodes {
            // After an earlier fault, this one is only its consequence.
            if let (Err(error), true) = (node.wait_for_end(), went_well) {
                faults.push(error.to_string());
            }
        }
        if let Some(Err(error)) = self.operator.conductor().map(Conductor::end).filter(|_| went_well) {
            faults.push(error.to_string());
        }
        Ok(Evidence {
            totals: self.tally.totals(),
            passive_fail: sum(&counters, |node| node.passive_fail),
            rotations: self.rotations.done,
            rotations_wanted: wanted,
            faults,
        })
    }

    fn watch(&mut self, wanted: Option<u16>, stop: &Receiver<()>, screen: &mut Screen) -> Result<(), DemoError> {
        let start = clock::monotonic();
        let patience_secs = self.operator.rotation_secs_max();
        let mut last_rotation = start;
        loop {
            self.operator.act()?;
            let statuses = self.look()?;
            let elapsed = clock::monotonic().duration_since(start);
            if self.rotations.observe(&statuses, elapsed) {
                last_rotation = clock::monotonic();
            }
            let news = self.operator.conductor().map_or_else(|| Ok(Vec::new()), Conductor::news)?;
            let events = self.operator.conductor().map(Conductor::events).unwrap_or_default();
            let view = View {
                events: &events,
                crew: self.operator.conductor().and_then(|conductor| conductor.crew().map(str::to_owned)),
                elapsed,
                now: clock::now(),
                statuses: &statuses,
                counters: &read_counters(&self.nodes)?,
                totals: self.tally.totals(),
                rotations: self.rotations.done,
                pool: self.operator.conductor().and_then(|conductor| conductor.pool()),
                news: &news,
            };
            screen.show(&view).map_err(tell_failed)?;
            let all_done = wanted.is_some_and(|wanted| self.rotations.done >= wanted);
            if all_done && clock::left_of(TAIL, last_rotation).is_zero() {
                return Ok(());
            }
            if clock::left_of(Duration::from_secs(patience_secs), last_rotation).is_zero() {
                return Err(late("the fleet did not rotate", patience_secs, &mut self.operator));
            }
            if wait(stop) == Wish::End {
                return Ok(());
            }
        }
    }

    /// Reads the status of every agent, and checks that our own threads run.
    fn look(&mut self) -> Result<Vec<Status>, DemoError> {
        if self.servers.iter().any(Server::has_ended) {
            return Err(DemoError::Worker("server"));
        }
        if self.clients.iter().any(JoinHandle::is_finished) {
            return Err(DemoError::Worker("client"));
        }
        let mut statuses = Vec::with_capacity(self.nodes.len());
        for node in &mut self.nodes {
            statuses.push(node.good_status()?);
        }
        Ok(statuses)
    }
}

fn read_counters(nodes: &[Node]) -> Result<Vec<TfoCounters>, DemoError> {
    nodes.iter().map(Node::counters).collect()
}

/// The user's wish to continue or to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    GoOn,
    End,
}

/// Waits until the next tick, or until the user ends the demo.
fn wait(stop: &Receiver<()>) -> Wish {
    match stop.recv_timeout(TICK) {
        Err(RecvTimeoutError::Timeout) => Wish::GoOn,
        Ok(_) | Err(RecvTimeoutError::Disconnected) => Wish::End,
    }
}

/// Waits until all agents hold one primary.
fn wait_until_agreed(
    operator: &mut Operator,
    nodes: &mut [Node],
    stop: &Receiver<()>,
) -> Result<KeyFingerprint, DemoError> {
    let start: Instant = clock::monotonic();
    loop {
        operator.act()?;
        let mut primaries = Vec::with_capacity(nodes.len());
        for node in &mut *nodes {
            // An agent without keys may report a failure while it waits for the first ones.
            primaries.push(node.status()?.as_ref().and_then(primary));
        }
        if let Some(agreed) = common(primaries) {
            return Ok(agreed);
        }
        if clock::left_of(Duration::from_secs(UP_SECS_MAX), start).is_zero() {
            return Err(late("the agents did not agree on a key", UP_SECS_MAX, operator));
        }
        if wait(stop) == Wish::End {
            return Err(DemoError::Stopped);
        }
    }
}

/// A timeout error with the coordinator's reason, if it gave one.
fn late(what: &str, secs: u64, operator: &mut Operator) -> DemoError {
    let excuse = operator.conductor().and_then(|conductor| conductor.excuse().map(|said| format!(" ({said})")));
    DemoError::Late { what: format!("{what}{}", excuse.unwrap_or_default()), secs }
}

/// The fingerprint of the key that a node makes cookies with.
fn primary(status: &Status) -> Option<KeyFingerprint> {
    status.primary.map(|slot| slot.fingerprint)
}

/// The primary of all nodes, if they agree.
fn common(primaries: impl IntoIterator<Item = Option<KeyFingerprint>>) -> Option<KeyFingerprint> {
    let different: BTreeSet<Option<KeyFingerprint>> = primaries.into_iter().collect();
    if different.len() == 1 { different.into_iter().next().flatten() } else { None }
}

/// Counts how often the whole fleet has changed to another primary.
#[derive(Debug)]
struct Rotations {
    agreed: KeyFingerprint,
    done: u16,
}

impl Rotations {
    /// Whether a rotation was completed since the last look; `elapsed` is how long the clients have been connecting.
    fn observe(&mut self, statuses: &[Status], elapsed: Duration) -> bool {
        let found = common(statuses.iter().map(primary));
        let Some(agreed) = found.filter(|agreed| *agreed != self.agreed) else { return false };
        self.agreed = agreed;
        if elapsed < WARM_UP {
            return false;
        }
        self.done = self.done.saturating_add(1);
        true
    }
}
