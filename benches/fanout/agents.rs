//! Simulated agents in processes of their own, and how the parent asks them where they stand.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::coordinator::Coordinator;
use super::{PATIENCE, ROLE};
use std::sync::atomic::Ordering;
use tfo_testbed::pki::Ca;
use tfo_testbed::swarm::{Plan, Swarm, lock};

/// Agents of one process: each needs a descriptor.
const AGENTS_PER_PROCESS: usize = 10_000;
/// What agents bear of a long poll, in seconds: the agent's default.
const POLL_SECS: u64 = 300;
/// Names another time.
const POLL: &str = "TFO_FANOUT_POLL";

/// What agents bear of a long poll in this run, in seconds.
pub(crate) fn poll_secs() -> u64 {
    std::env::var(POLL).map_or(POLL_SECS, |secs| secs.parse().expect("a number of seconds"))
}

/// All processes of agents.
pub(crate) struct Crowd(Vec<Process>);

struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// What agents have seen so far, all together.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connected: usize,
    pub(crate) handshakes: u64,
    pub(crate) violations: usize,
    /// Answers and ends that are not as they should be, for people.
    pub(crate) troubles: String,
    troubles_each: std::collections::BTreeMap<String, u64>,
    generations: std::collections::BTreeMap<u64, usize>,
}

impl Seen {
    /// How many hold this generation.
    pub(crate) fn on(&self, generation: u64) -> usize {
        self.generations.get(&generation).copied().unwrap_or(0)
    }

    fn add(&mut self, one: &Value) {
        let number = |name: &str| one[name].as_u64().expect("a number");
        self.connected += usize::try_from(number("connected")).expect("small");
        self.handshakes += number("handshakes");
        self.violations += usize::try_from(number("violations")).expect("small");
        for (kind, count) in one["troubles"].as_object().expect("a map") {
            *self.troubles_each.entry(kind.clone()).or_default() += count.as_u64().expect("a number");
        }
        for (generation, count) in one["generations"].as_object().expect("a map") {
            let count = usize::try_from(count.as_u64().expect("a number")).expect("small");
            *self.generations.entry(generation.parse().expect("a number")).or_default() += count;
        }
        self.troubles = shown(&self.troubles_each);
    }

    /// Troubles since then.
    pub(crate) fn since(&self, before: &Self) -> String {
        let mut new = self.troubles_each.clone();
        for (kind, count) in &before.troubles_each {
            if let Some(own) = new.get_mut(kind) {
                *own -= count;
            }
        }
        shown(&new)
    }
}

fn shown(troubles: &std::collections::BTreeMap<String, u64>) -> String {
    let mut text = String::new();
    for (kind, count) in troubles.iter().filter(|(_, count)| **count > 0) {
        let comma = if text.is_empty() { "" } else { ", " };
        write!(text, "{comma}{count} x {kind}").expect("memory");
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

impl Crowd {
    /// Starts agents 0 to `size`; they come at once, a hundred at a time.
    pub(crate) fn start(coordinators: &[Coordinator], size: usize) -> Self {
        let own = std::env::current_exe().expect("the path of this program");
        let mut processes = Vec::new();
        for from in (0..size).step_by(AGENTS_PER_PROCESS) {
            let to = size.min(from + AGENTS_PER_PROCESS);
            let child = Command::new(&own).env(ROLE, "agents").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut child = child.expect("it starts");
            let mut stdin = child.stdin.take().expect("piped");
            let servers: Vec<_> = coordinators.iter().map(|one| (&one.name, one.api)).collect();
            let ca = coordinators[0].authority();
            let told = json!({"servers": servers, "ca": ca, "from": from, "to": to, "poll_secs": poll_secs()});
            writeln!(stdin, "{told}").expect("it reads");
            let stdout = BufReader::new(child.stdout.take().expect("piped"));
            processes.push(Process { child, stdin, stdout });
        }
        Self(processes)
    }

    /// Where all stand now.
    pub(crate) fn seen(&mut self) -> Seen {
        let mut seen = Seen::default();
        for process in &mut self.0 {
            writeln!(process.stdin, "?").expect("it reads");
        }
        for process in &mut self.0 {
            let mut line = String::new();
            process.stdout.read_line(&mut line).expect("it answers");
            seen.add(&serde_json::from_str(&line).expect("JSON"));
        }
        seen
    }

    /// Looks until it is so.
    pub(crate) fn wait(&mut self, what: &str, is: impl Fn(&Seen) -> bool) {
        let start = Instant::now();
        loop {
            let seen = self.seen();
            if is(&seen) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no {what}: {seen:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for process in &mut self.0 {
            process.child.kill().ok();
            process.child.wait().ok();
        }
    }
}

/// A process of agents.
pub(crate) fn run() {
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    let told: Value = serde_json::from_str(&lines.next().expect("the parent writes")).expect("JSON");
    let number = |name: &str| usize::try_from(told[name].as_u64().expect("a number")).expect("small");
    let authority = Ca::load(&PathBuf::from(told["ca"].as_str().expect("text")));
    let servers: Vec<(String, SocketAddr)> =
        serde_json::from_value(told["servers"].clone()).expect("names and addresses");
    let (agents, poll_secs) = (number("from")..number("to"), told["poll_secs"].as_u64().expect("a number"));
    let plan = Plan { poll_secs, servers, ..Plan::for_one(([127, 0, 0, 1], 0).into(), authority.pem.clone(), agents) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a thread");
    let swarm = {
        let _inside = runtime.enter();
        Swarm::start(plan, authority)
    };
    for _ in lines {
        let counts = swarm.counts();
        let report = json!({
            "connected": swarm.connected(),
            "handshakes": counts.handshakes.load(Ordering::Relaxed),
            "violations": lock(&counts.violations).len(),
            "troubles": *lock(&counts.troubles),
            "generations": swarm.generations(),
        });
        println!("{report}");
    }
}
