//! Steps of scenarios: waiting for the pool, driving rotations, and counting the cost for the clients.

use std::ops::RangeInclusive;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Center, Fleet};
use crate::{PATIENCE, poll_some, poll_until};

/// Number of connections after which every client has connected at least six times: 48 clients in six namespaces, in turn.
const ROUNDS: u64 = 300;
/// Pairs of a client's address and an address of the fleet, each with a cookie of its own.
pub const CLIENTS: u64 = 48;
/// Connections that may be under way at a look at the counters, and be counted by one end alone: one in each namespace.
pub const UNDER_WAY: u64 = 6;

/// What the clients and the kernels counted over a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub connections: u64,
    pub rejected: u64,
    pub passive_fail: u64,
    accepted_v4: u64,
    accepted_v6: u64,
    rejected_v6: u64,
    pub failed: u64,
}

impl<C: Center> Fleet<C> {
    /// The pool as the operator sees it; null if the coordinator does not answer.
    pub fn pool(&mut self) -> Value {
        self.ask(&Method::GET, "", None).unwrap_or(Value::Null)
    }

    /// Waits until the pool is so.
    #[track_caller]
    pub fn until(&mut self, wanted: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.until_within(PATIENCE, wanted, is)
    }

    /// Waits longer.
    #[track_caller]
    pub fn until_within(&mut self, longest: Duration, wanted: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = poll_some(longest, || {
            last = self.pool();
            is(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("never {wanted}: {last:#}\n{}", self.look()))
    }

    /// Waits until all nodes have converged.
    #[track_caller]
    pub fn converged(&mut self) -> Value {
        self.until("all nodes have converged", |pool| pool["required"] != 0 && pool["converged"] == pool["required"])
    }

    /// Gives an operator's command, and repeats it while it is too early: nodes have not reported yet, or the old key is not drained.
    #[track_caller]
    pub fn command(&mut self, below: &str, body: &Value) -> Value {
        let mut last = String::new();
        let done =
            poll_some(PATIENCE, || self.ask(&Method::POST, below, Some(body)).map_err(|error| last = error).ok());
        done.unwrap_or_else(|| panic!("{below} {body}: {last}"))
    }

    /// Asks for a rotation, which begins.
    #[track_caller]
    pub fn begin_rotation(&mut self) {
        self.command("/rotations", &json!({"reason": "test"}));
    }

    /// The same with fewer nodes than expected; the clients have left the old key.
    #[track_caller]
    pub fn force_rotation(&mut self) {
        self.clients_come_round();
        self.command("/rotations", &json!({"reason": "test", "force": true}));
    }

    /// Waits until a rotation is over.
    #[track_caller]
    pub fn settled(&mut self) {
        let is = |pool: &Value| pool["phase"] == "steady" && pool["converged"] == pool["required"];
        self.until("steady", is);
    }

    /// A whole rotation.
    #[track_caller]
    pub fn rotation(&mut self) {
        self.begin_rotation();
        self.settled();
    }

    /// Waits until the pool waits for exactly this node in this phase.
    #[track_caller]
    pub fn waits_for(&mut self, phase: &str, node: usize) -> Value {
        let waiting_for = json!([format!("node{node}")]);
        self.until("it waits for one node", |pool| pool["phase"] == phase && pool["waiting_for"] == waiting_for)
    }

    /// Waits until the first wave is promoted, and not yet the second.
    #[track_caller]
    pub fn half_promoted(&mut self) -> Value {
        let pool = self.until("promoted", |pool| pool["phase"] == "promoted");
        assert_eq!(pool["waves"]["opened"], 1, "{pool:#}");
        pool
    }

    /// Passes the barrier without a node.
    #[track_caller]
    pub fn leave_behind(&mut self, node: usize) {
        let generation = self.waits_for("staged", node)["generation"].clone();
        let advance = json!({"reason": "test", "generation": generation, "leave": [format!("node{node}")]});
        self.command("/advance", &advance);
    }

    /// Waits until the agents of all these nodes say so of themselves.
    #[track_caller]
    pub fn until_all(&mut self, nodes: usize, wanted: &str, say: impl Fn(&Value) -> bool) {
        let all = poll_until(PATIENCE, || {
            let look = self.look();
            (1..=nodes).all(|node| say(&look["nodes"][format!("node{node}")]["status"]))
        });
        assert!(all, "never {wanted}: {:#}", self.look());
    }

    /// Waits until a node's agent holds the pool's keys and says that all is well.
    #[track_caller]
    pub fn has_keys(&mut self, node: usize) {
        let name = format!("node{node}");
        let has = poll_until(PATIENCE, || {
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
        let audit = self.ask(&Method::GET, "/audit?after=0", None).unwrap_or(Value::Null);
        let entries = audit["entries"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| format!("{entry}\n")).collect()
    }

    fn wait_for_connections(&mut self, more: u64) {
        let before = self.look()["connections"].as_u64().expect("a number");
        let enough = poll_until(PATIENCE, || self.look()["connections"].as_u64() >= Some(before + more));
        assert!(enough, "the clients stand still: {:#}", self.look());
    }

    /// Waits until every client has connected several times more.
    pub fn clients_come_round(&mut self) {
        self.wait_for_connections(ROUNDS);
    }

    /// What happens in the scenario, and until every client has come round after it.
    #[track_caller]
    pub fn cost_of(&mut self, name: &str, scenario: impl FnOnce(&mut Self)) -> Cost {
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
    pub fn costs_nothing(&mut self, name: &str, scenario: impl FnOnce(&mut Self)) {
        self.costs(name, 0..=0, scenario);
    }

    /// A scenario that costs so many rejections, and nothing else.
    #[track_caller]
    pub fn costs(&mut self, name: &str, rejected: RangeInclusive<u64>, scenario: impl FnOnce(&mut Self)) {
        let cost = self.cost_of(name, scenario);
        assert!(cost.connections >= ROUNDS && cost.failed == 0, "{name}: {cost:?}");
        // Half of the clients are on v6, and what costs much costs them too.
        let least = cost.accepted_v4.min(cost.accepted_v6);
        assert!(least >= ROUNDS / 8 && (*rejected.start() == 0 || cost.rejected_v6 > 0), "{name}: {cost:?}");
        let seen = rejected.contains(&cost.rejected) && rejected.contains(&cost.passive_fail);
        assert!(seen, "{name}: {cost:?}\n{}\n{:#}", self.audit(), self.look());
    }
}
