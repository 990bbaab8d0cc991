//! Drives a fleet: orders on the demo's standard input, answers on its standard output.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::ops::RangeInclusive;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{need_root, need_tool, poll_some, poll_until, scratch};

/// Longest wait for anything; machines that do much else are slow.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Connections in which every client has come round at least six times: 48 clients, in turn in each of six namespaces.
const ROUNDS: u64 = 300;
/// Pairs of a client's address and an address of the fleet, each with a cookie of its own.
pub(crate) const CLIENTS: u64 = 48;
/// Connections that may be under way at a look at the counters, and be counted by one end alone: one in each namespace.
pub(crate) const UNDER_WAY: u64 = 6;

/// One fleet at a time: two cores would be too busy for a fair judgement.
static ALONE: Mutex<()> = Mutex::new(());

/// True if a fleet can be made here; otherwise skips.
#[track_caller]
pub(crate) fn can_run() -> bool {
    need_root() && need_tool("ip")
}

/// A fleet that runs; killed with all that is in it if the test ends before it does.
pub(crate) struct Fleet {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
    directory: tempfile::TempDir,
    _alone: Option<MutexGuard<'static, ()>>,
}

/// What the clients and the kernels counted over a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) connections: u64,
    pub(crate) rejected: u64,
    pub(crate) passive_fail: u64,
    accepted_v4: u64,
    accepted_v6: u64,
    rejected_v6: u64,
    pub(crate) failed: u64,
}

impl Fleet {
    /// Nodes without programs, and a coordinator with an empty pool.
    pub(crate) fn start(nodes: usize) -> Self {
        Self::make(nodes, Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The same beside others, for a test that mostly waits for the clock.
    #[allow(dead_code, reason = "each test binary uses its own part")]
    pub(crate) fn beside(nodes: usize) -> Self {
        Self::make(nodes, None)
    }

    fn make(nodes: usize, alone: Option<MutexGuard<'static, ()>>) -> Self {
        let directory = scratch();
        let errors = File::create(directory.path().join("err")).expect("a scratch file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tfo-demo"));
        command.args(["--driven", "--nodes", &nodes.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().expect("the program starts");
        let (orders, output) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let (line, answers) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).all(|text| line.send(text).is_ok());
        });
        let fleet = Self { child, orders, answers, directory, _alone: alone };
        assert_eq!(fleet.answer(), json!({"ok": "ready"}));
        fleet
    }

    /// The same, with agents, the first key, servers and clients.
    pub(crate) fn up(nodes: usize) -> Self {
        let mut fleet = Self::start(nodes);
        (1..=nodes).for_each(|node| fleet.on("start_agent", node));
        fleet.until("everybody is admitted", |pool| pool["required"] == nodes);
        let first = json!({"mode": "first", "reason": "begin", "expect": {"number": nodes}});
        fleet.command("/rotations", &first);
        fleet.converged();
        fleet.command("/resume", &json!({}));
        (1..=nodes).for_each(|node| fleet.on("serve", node));
        fleet.order(&json!({"do": "start_clients"}));
        fleet.clients_come_round();
        fleet
    }

    fn answer(&self) -> Value {
        let line =
            self.answers.recv_timeout(SOON).unwrap_or_else(|error| panic!("no answer ({error}): {}", self.errors()));
        serde_json::from_str(&line).expect("answers are JSON")
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.directory.path().join("err")).unwrap_or_default()
    }

    /// Gives an order, and gives the whole answer.
    pub(crate) fn send(&mut self, order: &Value) -> Value {
        let orders = self.orders.as_mut().expect("it runs");
        writeln!(orders, "{order}").unwrap_or_else(|error| panic!("{error}: {}", self.errors()));
        self.answer()
    }

    /// Gives an order that has to be obeyed.
    #[track_caller]
    pub(crate) fn order(&mut self, order: &Value) -> Value {
        let answer = self.send(order);
        answer.get("ok").unwrap_or_else(|| panic!("{order}: {answer}\n{}", self.errors())).clone()
    }

    /// An order about one node.
    #[track_caller]
    pub(crate) fn on(&mut self, what: &str, node: usize) {
        self.order(&json!({"do": what, "node": node}));
    }

    /// The pool as the operator sees it; null if the coordinator does not answer.
    pub(crate) fn pool(&mut self) -> Value {
        self.send(&json!({"do": "ask", "method": "GET", "below": ""}))["ok"].take()
    }

    /// Waits until the pool is so.
    #[track_caller]
    pub(crate) fn until(&mut self, wanted: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.until_within(SOON, wanted, is)
    }

    /// The same, for something that takes long.
    #[track_caller]
    pub(crate) fn until_within(&mut self, longest: Duration, wanted: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = poll_some(longest, || {
            last = self.pool();
            is(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("never {wanted}: {last:#}\n{}", self.look()))
    }

    /// Waits until everybody holds what it is told.
    #[track_caller]
    pub(crate) fn converged(&mut self) -> Value {
        self.until("everybody has it", |pool| pool["required"] != 0 && pool["converged"] == pool["required"])
    }

    /// An operator's command, again and again while it comes too early: nodes are not heard yet, the old key is not drained.
    #[track_caller]
    pub(crate) fn command(&mut self, below: &str, body: &Value) -> Value {
        let order = json!({"do": "ask", "method": "POST", "below": below, "body": body});
        let mut last = Value::Null;
        let done = poll_some(SOON, || {
            last = self.send(&order);
            last.get("ok").cloned()
        });
        done.unwrap_or_else(|| panic!("{below} {body}: {last}"))
    }

    /// Asks for a rotation, which begins.
    #[track_caller]
    pub(crate) fn begin_rotation(&mut self) {
        self.command("/rotations", &json!({"reason": "test"}));
    }

    /// The same with fewer nodes than expected; the clients have left the old key.
    #[track_caller]
    pub(crate) fn force_rotation(&mut self) {
        self.clients_come_round();
        self.command("/rotations", &json!({"reason": "test", "force": true}));
    }

    /// Waits until a rotation is over.
    #[track_caller]
    pub(crate) fn settled(&mut self) {
        let is = |pool: &Value| pool["phase"] == "steady" && pool["converged"] == pool["required"];
        self.until("steady", is);
    }

    /// A whole rotation.
    #[track_caller]
    pub(crate) fn rotation(&mut self) {
        self.begin_rotation();
        self.settled();
    }

    /// Waits until the pool waits for exactly this node in this phase.
    #[track_caller]
    pub(crate) fn waits_for(&mut self, phase: &str, node: usize) -> Value {
        let waiting_for = json!([format!("node{node}")]);
        self.until("it waits for one node", |pool| pool["phase"] == phase && pool["waiting_for"] == waiting_for)
    }

    /// Waits until the first wave is promoted, and not yet the second.
    #[track_caller]
    pub(crate) fn half_promoted(&mut self) -> Value {
        let pool = self.until("promoted", |pool| pool["phase"] == "promoted");
        assert_eq!(pool["waves"]["opened"], 1, "{pool:#}");
        pool
    }

    /// Passes the barrier without a node.
    #[track_caller]
    pub(crate) fn leave_behind(&mut self, node: usize) {
        let generation = self.waits_for("staged", node)["generation"].clone();
        let advance = json!({"reason": "test", "generation": generation, "leave": [format!("node{node}")]});
        self.command("/advance", &advance);
    }

    /// Everything that can be counted.
    pub(crate) fn look(&mut self) -> Value {
        self.order(&json!({"do": "look"}))
    }

    /// Waits until the agents of all these nodes say so of themselves.
    #[track_caller]
    pub(crate) fn until_all(&mut self, nodes: usize, wanted: &str, say: impl Fn(&Value) -> bool) {
        let all = poll_until(SOON, || {
            let look = self.look();
            (1..=nodes).all(|node| say(&look["nodes"][format!("node{node}")]["status"]))
        });
        assert!(all, "never {wanted}: {:#}", self.look());
    }

    /// Waits until a node's agent holds the pool's keys and says that all is well.
    #[track_caller]
    pub(crate) fn has_keys(&mut self, node: usize) {
        let name = format!("node{node}");
        let has = poll_until(SOON, || {
            let pool = self.pool();
            let status = self.look()["nodes"][&name]["status"].take();
            let told = [&pool["primary"]["fingerprint"], &pool["backup"]["fingerprint"]];
            let held = [&status["primary"]["fingerprint"], &status["backup"]["fingerprint"]];
            // In the middle of a promotion it may hold them the other way round.
            let same = told == held || (told[0] == held[1] && told[1] == held[0]);
            status["state"] == "ok" && same && !held[0].is_null()
        });
        assert!(has, "{name} has no keys: {:#}", self.look());
    }

    /// What the coordinator has committed, a line each.
    fn audit(&mut self) -> String {
        let audit = self.order(&json!({"do": "ask", "method": "GET", "below": "/audit?after=0"}));
        let entries = audit["entries"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| format!("{entry}\n")).collect()
    }

    fn wait_for_connections(&mut self, more: u64) {
        let before = self.look()["connections"].as_u64().expect("a number");
        let enough = poll_until(SOON, || self.look()["connections"].as_u64() >= Some(before + more));
        assert!(enough, "the clients stand still: {:#}", self.look());
    }

    /// Waits until every client has connected several times more.
    pub(crate) fn clients_come_round(&mut self) {
        self.wait_for_connections(ROUNDS);
    }

    /// What happens in the scenario, and until every client has come round after it.
    #[track_caller]
    pub(crate) fn cost_of(&mut self, name: &str, scenario: impl FnOnce(&mut Self)) -> Cost {
        let before = self.look();
        scenario(self);
        self.clients_come_round();
        let after = self.look();
        let rise = |what: &str| after[what].as_u64().expect("a number") - before[what].as_u64().expect("a number");
        let accepted_v6 = rise("accepted_v6");
        let cost = Cost {
            connections: rise("connections"),
            rejected: rise("rejected"),
            passive_fail: rise("passive_fail"),
            accepted_v4: rise("accepted") - accepted_v6,
            accepted_v6,
            rejected_v6: rise("rejected_v6"),
            failed: rise("failed"),
        };
        println!("{name}: {cost:?}");
        cost
    }

    /// A scenario in which not one connection may lose its cookie.
    #[track_caller]
    pub(crate) fn costs_nothing(&mut self, name: &str, scenario: impl FnOnce(&mut Self)) {
        self.costs(name, 0..=0, scenario);
    }

    /// A scenario that costs so many rejections, and nothing else.
    #[track_caller]
    pub(crate) fn costs(&mut self, name: &str, rejected: RangeInclusive<u64>, scenario: impl FnOnce(&mut Self)) {
        let cost = self.cost_of(name, scenario);
        assert!(cost.connections >= ROUNDS && cost.failed == 0, "{name}: {cost:?}");
        // Half of the clients are on v6, and what costs much costs them too.
        let least = cost.accepted_v4.min(cost.accepted_v6);
        assert!(least >= ROUNDS / 8 && (*rejected.start() == 0 || cost.rejected_v6 > 0), "{name}: {cost:?}");
        let seen = rejected.contains(&cost.rejected) && rejected.contains(&cost.passive_fail);
        assert!(seen, "{name}: {cost:?}\n{}\n{:#}", self.audit(), self.look());
    }

    /// Ends it in order.
    pub(crate) fn end(mut self) {
        drop(self.orders.take());
        let status = poll_some(SOON, || self.child.try_wait().expect("it is our child"));
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", self.errors());
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Usually it has ended; killing the outer process kills all of it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
