//! A few real agents among the simulated ones, each with a kernel of its own: they are killed and frozen too.
//!
//! The first is only ever frozen: it lives as long as the run, and must not grow.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::size::Taken;
use tfo_testbed::coordinator::World;
use tfo_testbed::daemon::{Daemon, DaemonHost};
use tfo_testbed::fake_coordinator::source;
use tfo_testbed::random::Dice;
use tfo_testbed::{NetNs, now, poll_until};

/// How many.
pub(crate) const AGENTS: usize = 3;
/// The coordinator's address on their wires.
pub(crate) const ADDRESS: &str = "10.99.0.1";
/// Longest wait until they have what the pool says, after a fault and the pauses that follow it.
const SETTLED_MAX: Duration = Duration::from_secs(60);

/// One agent and its host.
struct Agent {
    host: DaemonHost,
    daemon: Option<Daemon>,
    /// When what was done to it ends.
    until: Option<Instant>,
}

/// All of them.
pub(crate) struct Agents(Vec<Agent>);

/// A host with a certificate and a configuration.
fn host(center: &NetNs, world: &World, number: usize) -> DaemonHost {
    let host = DaemonHost::new();
    host.netns().plug_into(center, number);
    world.ca.equip(&host, &format!("real{number}.cache.example.org"), 90);
    let url = format!("https://{ADDRESS}:{}", world.api.port());
    let rest = "start_timeout = \"60s\"\nwait = \"5s\"\nperiod = \"10s\"";
    host.configure(&source(&host, &[url], rest), "verify_interval = \"1s\"");
    host
}

impl Agents {
    /// Starts them all.
    pub(crate) fn start(center: &NetNs, world: &World) -> Self {
        // The hosts' namespaces are entered by file, whatever namespace the test is in.
        let hosts = (0..AGENTS).map(|number| host(center, world, number));
        Self(hosts.map(|host| Agent { daemon: Some(host.start()), host, until: None }).collect())
    }

    /// Kills one or freezes it, for so long.
    pub(crate) fn fault(&mut self, dice: &mut Dice, time: Duration) {
        let at = usize::try_from(dice.below(AGENTS as u64)).unwrap();
        let (kill, agent) = (dice.below(2) == 0 && at > 0, &mut self.0[at]);
        if agent.until.is_some() {
            return;
        }
        if kill {
            // Killed -9, and waited for.
            agent.daemon = None;
        } else if let Some(daemon) = &agent.daemon {
            daemon.signal(Signal::STOP);
        }
        agent.until = Some(now() + time);
    }

    /// Ends faults whose time is over, and compares the kernels.
    pub(crate) fn tend(&mut self) {
        for agent in &mut self.0 {
            if agent.until.is_some_and(|until| until <= now()) {
                agent.mend();
            }
        }
        self.compare();
    }

    /// Two kernels at one moment: one is read before and after the other, and was the same (docs/protocol.md#the-theorem).
    fn compare(&self) {
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            let [a, b] = [&self.0[a].host, &self.0[b].host];
            let (before, other, after) = (a.kernel(), b.kernel(), a.kernel());
            let (one, two): (Vec<&str>, Vec<&str>) = (before.split(',').collect(), other.split(',').collect());
            let fits = two.contains(&one[0]) && one.contains(&two[0]);
            assert!(before != after || fits, "{before} beside {other}");
        }
    }

    /// Ends all faults.
    pub(crate) fn mend(&mut self) {
        self.0.iter_mut().filter(|agent| agent.until.is_some()).for_each(Agent::mend);
    }

    /// Waits until every agent has what the pool says.
    pub(crate) fn settled(&self, pool: &Value) {
        for Agent { host, daemon, .. } in &self.0 {
            let status = || -> Value {
                serde_json::from_slice(&std::fs::read(host.path("run/status.json")).unwrap_or_default())
                    .unwrap_or_default()
            };
            let has = || {
                let status = status();
                let same = ["generation", "primary", "backup"].iter().all(|what| status[what] == pool[what]);
                same && status["state"] == "ok" && status["contact"] == "connected"
            };
            let log = || daemon.as_ref().map_or_else(String::new, Daemon::log);
            assert!(poll_until(SETTLED_MAX, has), "{pool:#} {:#} {}", status(), log());
            assert_eq!(status()["drift_repairs"], 0, "{}", log());
            assert_eq!((host.persisted_keys(), host.sysctl_d().len()), (Some(host.kernel()), 1));
            assert_eq!(host.sysctl_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    /// What the one that lives as long as the run takes.
    pub(crate) fn eldest(&self) -> Taken {
        Taken::by(self.0[0].daemon.as_ref().unwrap().pid())
    }

    /// Ends them in order.
    pub(crate) fn end(&mut self) {
        self.0.iter_mut().for_each(|agent| agent.daemon.as_mut().unwrap().stop());
    }
}

impl Agent {
    fn mend(&mut self) {
        self.until = None;
        match &self.daemon {
            Some(daemon) => daemon.signal(Signal::CONT),
            None => self.daemon = Some(self.host.start()),
        }
    }
}
