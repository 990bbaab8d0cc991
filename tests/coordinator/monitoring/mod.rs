//! Prometheus rules and Grafana dashboard: well formed, tested, and about nothing that is not exported.
//!
//! What is exported is asked of the programs themselves: a coordinator and an agent of a fleet that has rotated, and an agent
//! that derives its keys.  A rule that misspells a name or a label value would never fire, and would look healthy.

mod scraped;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tfo_testbed::config::fast;
use tfo_testbed::daemon::{DaemonHost, lasting};
use tfo_testbed::fleet::Fleet;
use tfo_testbed::{need_netns, need_tool, skip_unless};

/// Names with which a series of ours begins.
const OURS: [&str; 2] = ["tfo_agent_", "tfo_coordinator_"];

/// Where the rest is named.
const SOURCES: [&str; 2] =
    [include_str!("../../../src/agent/metrics.rs"), include_str!("../../../src/coordinator/metrics/counters.rs")];

/// Where the coordinator of [`Fleet`] is observed.
const OBSERVED: &str = "127.0.0.1:9441";

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn rules() -> String {
    std::fs::read_to_string(in_repository("config/prometheus/tfo-fleet.rules.yml")).unwrap()
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(in_repository("config/grafana/tfo-fleet.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every query of the panels.
fn drawn(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// Every query of the dashboard, its variables too, with what Grafana would put in the place of `$…`.
fn queries(dashboard: &Value) -> Vec<String> {
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let asked = variables.filter_map(|variable| variable["query"]["query"].as_str()).map(str::to_owned);
    let queries = drawn(dashboard).into_iter().chain(asked);
    queries.map(|query| filled_in(&query, [".*"; 2], "5m")).collect()
}

/// A query with these jobs of agents and coordinators, and all of the rest, as Grafana would ask it.
fn filled_in(query: &str, [agents, coordinators]: [&str; 2], interval: &str) -> String {
    let query = query.replace("$__rate_interval", interval).replace("$coordinators", coordinators);
    query.replace("$job", agents).replace("$instance", ".*").replace("$pool", ".*")
}

/// What series there are: for each name the values of each label.
type Exported = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// `name="value"` pairs between braces; our values have neither quotes nor commas in them.
fn labels(inside: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    inside.split(',').filter_map(|matcher| {
        let (name, rest) = matcher.trim().split_once(['=', '!'])?;
        let (operator, value) = rest.split_at(rest.find('"')?);
        Some((name, operator, value.trim_matches('"')))
    })
}

fn export(text: &str, exported: &mut Exported) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, inside) =
            series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.trim_end_matches('}')));
        let found = exported.entry(name.to_owned()).or_default();
        for (label, _, value) in labels(inside) {
            found.entry(label.to_owned()).or_default().insert(value.to_owned());
        }
    }
}

/// Every selector of ours in a text: the name, and what stands in its braces.
fn selectors(text: &str) -> Vec<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = OURS.iter().filter_map(|ours| rest.find(ours)).min() {
        let begins = rest[..at].chars().next_back().is_none_or(|before| !is_name(before));
        let end = rest[at..].find(|c| !is_name(c)).map_or(rest.len(), |length| at + length);
        let inside =
            rest[end..].strip_prefix('{').and_then(|braces| braces.split_once('}')).map_or("", |(in_it, _)| in_it);
        if begins {
            found.push((&rest[at..end], inside));
        }
        rest = &rest[end..];
    }
    found
}

/// What a text asks for and no program exports.
fn unknown(text: &str, exported: &Exported) -> Vec<String> {
    let mut unknown = Vec::new();
    for (name, inside) in selectors(text) {
        let Some(found) = exported.get(name) else {
            // Counters of errors have no series before the first one.
            if !name.ends_with("_errors_total") || !SOURCES.iter().any(|source| source.contains(&format!("\"{name}\"")))
            {
                unknown.push(name.to_owned());
            }
            continue;
        };
        // job and instance come from Prometheus.
        for (label, _, values) in labels(inside).filter(|(label, ..)| !matches!(*label, "job" | "instance")) {
            let known = |value: &str| found.get(label).is_some_and(|known| known.contains(value));
            let any = values == ".*" && found.contains_key(label);
            unknown.extend(
                values
                    .split('|')
                    .filter(|value| !any && !known(value))
                    .map(|value| format!("{name}{{{label}={value}}}")),
            );
        }
    }
    unknown
}

/// All that agents and coordinators export.
fn exported() -> Exported {
    let mut exported = Exported::new();
    // With what is exported only where it is used.
    let notify = "[[notify]]\nname = \"log\"\ncommand = [\"/bin/true\"]\n";
    let fleet = Fleet::running(1, &format!("{}{notify}", fast(1)));
    fleet.first_key();
    fleet.rotate();
    export(&scrape(&fleet), &mut exported);
    export(&std::fs::read_to_string(fleet.hosts[0].path("tfo.prom")).unwrap(), &mut exported);
    let host = DaemonHost::new();
    host.configure(&lasting(&host), &format!("[metrics]\ntextfile = {:?}", host.path("tfo.prom")));
    host.once_ok();
    export(&std::fs::read_to_string(host.path("tfo.prom")).unwrap(), &mut exported);
    exported
}

fn scrape(fleet: &Fleet) -> String {
    fleet.center.netns().run(|| {
        let mut connection = TcpStream::connect(OBSERVED).unwrap();
        connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body.to_owned()
    })
}

#[test]
fn rules_and_dashboard_ask_for_nothing_that_is_not_exported() {
    skip_unless!(need_netns());
    let exported = exported();
    let queries = queries(&dashboard()).join("\n");
    assert_eq!(unknown(&rules(), &exported), [""; 0]);
    assert_eq!(unknown(&queries, &exported), [""; 0]);
    let page = include_str!("../../../docs/reference/metrics.md");
    let family = |name: &String| {
        let parts = ["_bucket", "_sum", "_count"];
        parts.iter().find_map(|part| name.strip_suffix(*part)).unwrap_or(name).to_owned()
    };
    let missing: Vec<String> =
        exported.keys().map(family).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert_eq!(missing, [""; 0], "docs/reference/metrics.md does not have them");
    // The same with what would be a mistake.
    for wrong in [
        "tfo_agent_verifyed == 0",
        "tfo_agent_state{state=\"broken\"}",
        "max(tfo_coordinator_pool_blocked{pool=~\".*\", gate=~\"barrier|barier\"})",
        "tfo_agent_key{node=~\".*\"}",
    ] {
        assert_eq!(unknown(wrong, &exported).len(), 1, "{wrong}");
    }
}

#[test]
fn the_alerts_fire_when_they_should_and_only_then() {
    skip_unless!(need_tool("promtool"));
    for arguments in [
        &["check", "rules", "config/prometheus/tfo-fleet.rules.yml"][..],
        &["test", "rules", "tests/coordinator/monitoring/rules.test.yml", "tests/coordinator/monitoring/days.test.yml"],
    ] {
        promtool(arguments);
    }
    // Every alert has a case in which it fires.
    let cases = ["rules.test.yml", "days.test.yml"]
        .map(|name| std::fs::read_to_string(in_repository(&format!("tests/coordinator/monitoring/{name}"))).unwrap())
        .concat();
    let rules = rules();
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let untested: Vec<_> = alerts.iter().filter(|alert| !cases.contains(&format!("alertname=\"{alert}\""))).collect();
    assert!(alerts.len() > 20 && untested.is_empty(), "{untested:?}");
}

/// Grafana asks Prometheus, so each query must be one.
#[test]
fn the_queries_of_the_dashboard_are_well_formed() {
    skip_unless!(need_tool("promtool"));
    let dashboard = dashboard();
    let queries = queries(&dashboard);
    let asked = queries.iter().filter(|query| !query.starts_with("label_values("));
    let records = asked.enumerate().map(|(at, query)| {
        let query = serde_json::to_string(query).unwrap();
        format!("      - record: panel:tfo:{at}\n        expr: {query}\n")
    });
    let text = format!("groups:\n  - name: dashboard\n    rules:\n{}", records.collect::<String>());
    let dir = tfo_testbed::scratch();
    let file = dir.path().join("dashboard.yml");
    std::fs::write(&file, text).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
    // What a panel needs to be shown; no two at one place.
    let panels = dashboard["panels"].as_array().unwrap();
    let places: BTreeSet<String> = panels.iter().map(|panel| panel["gridPos"].to_string()).collect();
    assert_eq!(places.len(), panels.len());
    assert!(panels.iter().all(|panel| panel["title"].is_string() && panel["type"].is_string()));
    assert!(queries.len() > 25, "{queries:?}");
    // A number that is made up where nothing is scraped would be green.
    assert!(queries.iter().all(|query| !query.contains("vector(")), "{queries:?}");
    // What every coordinator of a pool says is not added up.
    for query in queries.iter().map(String::as_str).chain(rules().lines()) {
        assert_eq!(added_up(query), [""; 0], "{query}");
    }
    assert_eq!(
        added_up("sum by (pool) (tfo_coordinator_pool_required{pool=~\".*\"})"),
        ["tfo_coordinator_pool_required"]
    );
    // Coordinators and agents have jobs of their own.
    for query in drawn(&dashboard) {
        for (name, inside) in selectors(&query) {
            let job = if name.starts_with("tfo_coordinator_") { "$coordinators" } else { "$job" };
            assert!(inside.contains(&format!("job=~\"{job}\"")), "{name}{{{inside}}}");
        }
    }
}

/// Gauges of a pool that a query adds up, as if each were of one coordinator alone.
fn added_up(query: &str) -> Vec<&str> {
    let is_added = |name: &str| {
        let before = query.split(name).next().unwrap_or_default();
        let Some((function, _)) = before.rsplit_once('(') else { return false };
        let function = function.trim_end();
        let function =
            if function.ends_with(')') { function.rsplit_once(" by ").unwrap_or_default().0 } else { function };
        ["sum", "avg"].iter().any(|adds| function.ends_with(adds))
    };
    let of_pools = |name: &&str| name.starts_with("tfo_coordinator_pool_") && !name.ends_with("_total");
    selectors(query).into_iter().map(|(name, _)| name).filter(of_pools).filter(|name| is_added(name)).collect()
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(in_repository("")).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{arguments:?}: {said}");
}
