//! Debian's Prometheus scrapes the agents of a fleet, one that derives its keys, and a coordinator, as docs/how-to/monitoring.md says: in two jobs, with our
//! rules.  What a panel asks for must be there, and every rule must be one that Prometheus can evaluate.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::Value;
use tfo_testbed::config::fast;
use tfo_testbed::daemon::{Daemon, DaemonHost, key_text, lasting};
use tfo_testbed::fake_coordinator::source;
use tfo_testbed::fleet::{Fleet, URL, node};
use tfo_testbed::{PATIENCE, need_netns, need_tool, poll_until, skip_unless};

use super::{OBSERVED, dashboard, drawn, filled_in, rules};

/// Where it listens in the coordinator's namespace.
const PROMETHEUS: &str = "127.0.0.1:9090";
/// The jobs of agents and coordinators, as Grafana has several values of a variable.
const JOBS: [&str; 2] = ["tfo-edge|tfo-derived", "tfo-coordinators"];
/// What Grafana would put in the place of `$__rate_interval`, with a scrape a second.
const INTERVAL: &str = "30s";

/// A running Prometheus; ended when it is dropped.
struct Prometheus<'a> {
    fleet: &'a Fleet,
    child: Child,
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl<'a> Prometheus<'a> {
    fn start(fleet: &'a Fleet) -> Self {
        let agents: Vec<String> = (0..fleet.hosts.len()).map(|number| format!("\"{}\"", metrics_of(number))).collect();
        let derived = metrics_of(fleet.hosts.len());
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [tfo-fleet.rules.yml]\nscrape_configs:\n\
             - {{job_name: tfo-edge, static_configs: [{{targets: [{}]}}]}}\n\
             - {{job_name: tfo-derived, static_configs: [{{targets: [{derived:?}]}}]}}\n\
             - {{job_name: tfo-coordinators, static_configs: [{{targets: [\"{OBSERVED}\"]}}]}}\n",
            agents.join(", ")
        );
        fleet.center.put("tfo-fleet.rules.yml", rules().as_bytes(), 0o644);
        fleet.center.put("prometheus.yml", config.as_bytes(), 0o644);
        let log = std::fs::File::create(fleet.center.path("prometheus.log")).unwrap();
        let mut command = fleet.center.command("setpriv");
        command.args(["--pdeathsig", "KILL", "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"]);
        command.arg(format!("--web.listen-address={PROMETHEUS}")).current_dir(fleet.center.path(""));
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { fleet, child }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.fleet.center.path("prometheus.log")).unwrap_or_default()
    }

    /// The `data` of an answer of its API; none while it does not answer with success.
    fn ask(&self, path: &str) -> Option<Value> {
        self.fleet.center.netns().run(|| {
            let mut connection = TcpStream::connect(PROMETHEUS).ok()?;
            write!(connection, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer).ok()?;
            let mut answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
            (answer["status"] == "success").then(|| answer["data"].take())
        })
    }

    /// The series of a query now; none if Prometheus refuses it.
    fn query(&self, query: &str) -> Option<Vec<Value>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        match self.ask(&format!("/api/v1/query?query={encoded}"))?["result"].take() {
            Value::Array(series) => Some(series),
            _ => None,
        }
    }

    /// Waits until every query has series; gives those that never had any.
    fn without_data<'q>(&self, queries: &'q [String]) -> Vec<&'q String> {
        let mut left: Vec<&String> = queries.iter().collect();
        let all = poll_until(PATIENCE, || {
            left.retain(|query| self.query(query).is_none_or(|series| series.is_empty()));
            left.is_empty()
        });
        assert_eq!(all, left.is_empty());
        left
    }
}

fn metrics_of(number: usize) -> String {
    format!("10.99.0.{}:9440", number + 10)
}

/// A node whose keys come from the clock: it alone knows when they change.
fn deriving(fleet: &Fleet, number: usize) -> (Daemon, DaemonHost) {
    let host = DaemonHost::new();
    host.netns().plug_into(fleet.center.netns(), number);
    host.configure(&lasting(&host), &format!("[metrics]\nlisten = {:?}", metrics_of(number)));
    (host.start(), host)
}

/// A fleet that shows most of what a panel shows: its agents asked before there was a coordinator.
fn busy_fleet() -> Fleet {
    let notify = "[[notify]]\nname = \"log\"\ncommand = [\"/bin/true\"]\n";
    let mut fleet = Fleet::new(3, &format!("{}{notify}", fast(3)));
    for (number, host) in fleet.hosts.iter().enumerate() {
        let listen = metrics_of(number);
        let contact = source(host, &[URL.to_owned()], "start_timeout = \"20s\"\nwait = \"5s\"\nperiod = \"10s\"");
        host.configure(&contact, &format!("verify_interval = \"1s\"\n[metrics]\nlisten = {listen:?}"));
    }
    // Before there is a coordinator: their first requests fail.
    fleet.start_agents();
    fleet.daemons.iter().flatten().for_each(|agent| agent.logs("the exchange failed"));
    fleet.serve();
    fleet.first_key();
    fleet
}

#[test]
fn every_panel_has_data_and_every_rule_is_evaluated() {
    skip_unless!(need_netns() && need_tool("prometheus"));
    let fleet = busy_fleet();
    // In a job of its own, because it has other keys.
    let _derives = deriving(&fleet, fleet.hosts.len());
    let prometheus = Prometheus::start(&fleet);
    let up = |prometheus: &Prometheus<'_>| prometheus.query("up == 1").is_some_and(|series| series.len() == 5);
    assert!(poll_until(PATIENCE, || up(&prometheus)), "{}\n{}", prometheus.log(), fleet.log());
    fleet.rotate();
    fleet.hosts[1].set_kernel(&key_text(9));

    let queries: Vec<String> = drawn(&dashboard()).iter().map(|query| filled_in(query, JOBS, INTERVAL)).collect();
    // The store has never failed.
    let (never, asked): (Vec<String>, Vec<String>) =
        queries.into_iter().partition(|query| query.contains("store_errors"));
    assert!(never.len() == 1 && asked.len() > 40, "{} and {}", never.len(), asked.len());
    let without = prometheus.without_data(&asked);
    assert!(without.is_empty(), "{without:#?}\n{}\n{}", prometheus.log(), fleet.log());
    assert_eq!(prometheus.query(&never[0]), Some(Vec::new()), "it is a query all the same");
    // The other way round a panel is empty, not green.
    let swapped =
        drawn(&dashboard()).iter().map(|query| filled_in(query, ["nothing"; 2], INTERVAL)).collect::<Vec<_>>();
    for query in swapped {
        assert_eq!(prometheus.query(&query), Some(Vec::new()), "{query}");
    }

    // Nodes are named by what they say, not by where they are.
    let info = prometheus.query("tfo_agent_info{source=\"coordinator\"}").unwrap();
    let mut names: Vec<&str> = info.iter().map(|series| series["metric"]["node"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, [node(0), node(1), node(2)]);
    assert!(info.iter().all(|series| series["metric"]["pool"] == "edge"), "{info:#?}");
    let drifted = prometheus
        .query("tfo_agent_drift_repairs_total * on (job, instance) group_left (node, pool) tfo_agent_info > 0")
        .unwrap();
    assert_eq!(drifted.iter().map(|series| &series["metric"]["node"]).collect::<Vec<_>>(), [node(1).as_str()]);
    // Both programs say what they use; an agent may have used less than the hundredth of a second that the kernel counts in.
    for query in
        ["cpu_seconds_total >= 0", "resident_memory_bytes > 0", "open_fds > 0", "max_fds > 0", "start_time_seconds > 0"]
    {
        let count = prometheus.query(&format!("process_{query}")).map(|series| series.len());
        assert_eq!(count, Some(5), "{query}");
    }

    let groups = prometheus.ask("/api/v1/rules").unwrap();
    let all: Vec<&Value> =
        groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    let bad: Vec<_> = all.iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(all.len() > 30 && bad.is_empty(), "{} rules: {bad:#?}", all.len());
    // A fleet that does what it should raises no alarm, but for what was done to it above.
    let alarmed = prometheus.query("ALERTS{severity=\"critical\", alertstate=\"firing\"}").unwrap();
    assert!(alarmed.is_empty(), "{alarmed:#?}");
}
