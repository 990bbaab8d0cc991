//! Who stands behind the agents: one coordinator as in the demo, or whatever else a test puts there.

use std::path::Path;
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::Value;
use tfo_demo::coordinator::Coordinator;
use tfo_demo::error::DemoError;
use tfo_demo::network::Network;
use tfo_demo::node::Supplies;
use tfo_model::problem::chain;
use tfo_wire::client::ClientError;

use super::{DIRECTORY, Fleet, done, kit, number};

/// What the nodes of a fleet have their keys from.
pub trait Center {
    /// The source of a node's agent.
    ///
    /// # Errors
    /// Fails if a certificate cannot be made.
    fn supplies(&self, directory: &Path, node: &str) -> Result<Supplies, DemoError>;

    /// Asks as an operator; `below` is the path below the pool.
    ///
    /// # Errors
    /// The message is a coordinator's, or says that none answers.
    fn ask(&self, method: &Method, below: &str, body: Option<&Value>) -> Result<Value, String>;

    /// Ends it in order.
    fn end(&mut self);
}

impl Center for Coordinator {
    fn supplies(&self, directory: &Path, node: &str) -> Result<Supplies, DemoError> {
        Self::supplies(self, directory, node)
    }

    fn ask(&self, method: &Method, below: &str, body: Option<&Value>) -> Result<Value, String> {
        done(self.api.ask::<Value, Value>(method, below, body)).map_err(|error| match error {
            ClientError::Refused { body: Some(body), .. } => body.message,
            error => chain(&error),
        })
    }

    #[track_caller]
    fn end(&mut self) {
        done(Self::end(self));
    }
}

impl Fleet {
    /// The network, a coordinator with an empty pool, and nodes without programs.
    pub fn start(nodes: usize) -> Self {
        let kit = kit();
        let network = done(Network::make(number(nodes)));
        let coordinator = done(Coordinator::start(&kit, network.management.clone(), number(nodes)));
        Self::around(coordinator, network, nodes)
    }

    /// The same, with agents, the first key, servers and clients.
    pub fn up(nodes: usize) -> Self {
        let mut fleet = Self::start(nodes);
        fleet.begin(nodes);
        fleet
    }

    /// kill -9.
    pub fn kill_coordinator(&mut self) {
        done(self.center.kill());
    }

    pub fn start_coordinator(&mut self) {
        done(self.center.run());
    }

    /// Changes its configuration, whose last section is the pool, and starts it again; gives the text before.
    pub fn change_coordinator(&mut self, change: impl FnOnce(&str) -> String) -> String {
        let file = Path::new(DIRECTORY).join("coordinator/coordinator.toml");
        let before = std::fs::read_to_string(&file).expect("the coordinator has a file");
        std::fs::write(&file, change(&before)).expect("the file is ours");
        self.kill_coordinator();
        self.start_coordinator();
        before
    }

    /// The same for one of several, by number from 0.
    pub fn kill_coordinator_of(&mut self, number: usize) {
        done(self.center.kill_one(number));
    }

    pub fn start_coordinator_of(&mut self, number: usize) {
        done(self.center.run_one(number));
    }

    /// Moves the pool from the coordinator's file to an etcd, which so many coordinators share from then on; each agent is told
    /// of all of them.
    #[track_caller]
    pub fn move_to_etcd(&mut self, count: u8) {
        let directory = self.kit.directory.join("coordinator");
        let file = |name: &str| directory.join(name);
        Center::end(&mut self.center);
        std::fs::rename(file("coordinator.toml"), file("sqlite.toml")).expect("the coordinator has it");
        self.coordinator_command(&["export", "--config"], &[&file("sqlite.toml"), Path::new("--to"), &file("backup")]);
        let nodes: Vec<usize> = self.members.keys().map(|node| usize::from(*node)).collect();
        done(self.center.equip(number(nodes.len()), count));
        let from = [&*file("coordinator.toml"), Path::new("--from"), &file("backup")];
        self.coordinator_command(&["import", "--config"], &from);
        (0..usize::from(count)).for_each(|number| self.start_coordinator_of(number));
        for node in nodes {
            self.timer(node, None);
            self.reload_agent(node);
        }
    }

    /// Runs a command of `tfo-coordinator` where the coordinators run, to its good end.
    #[track_caller]
    fn coordinator_command(&self, words: &[&str], rest: &[&Path]) {
        let run = || Command::new(&self.kit.coordinator).args(words).args(rest).stdin(Stdio::null()).output();
        let output = done(self.network.management.within(run)).expect("it starts");
        assert!(output.status.success(), "{words:?}: {}", crate::output::said(&output));
    }
}

impl<C: Center> Fleet<C> {
    /// Makes a node one whose agent a timer runs so often, or one with a daemon; nothing runs it yet.
    pub fn timer(&mut self, node: usize, period_secs: Option<u64>) {
        let files = self.files(node);
        let mut supplies = done(self.center.supplies(&files.path(""), files.name()));
        let lines = supplies.source_toml.lines().filter(|line| period_secs.is_none() || !line.starts_with("period ="));
        supplies.source_toml = lines.map(|line| format!("{line}\n")).collect();
        supplies.source_toml += &period_secs.map_or_else(String::new, |secs| format!("period = \"{secs}s\"\n"));
        done(files.supply(&supplies));
    }
}
