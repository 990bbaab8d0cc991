//! Every verdict, provoked on a real coordinator, and read from every surface: all of them say the same.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tfo_testbed::config::{FAST, client_files, fast};
use tfo_testbed::coordinator::{Node, OPERATOR, World};
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::{PATIENCE, SOON, poll_some, poll_until, program};

use super::with_first_key;

/// A coordinator, its nodes, and an operator with `tfoctl`.
struct Scene {
    world: World,
    nodes: Vec<Node>,
}

impl Scene {
    fn new((world, nodes): (World, Vec<Node>)) -> Self {
        let operator = world.ca.both(&[OPERATOR]);
        world.put("ops1.crt", operator.cert_pem.as_bytes(), 0o644);
        world.put("ops1.key", operator.key_pem.as_bytes(), 0o600);
        let files = client_files(&world.path("ca.crt"), &world.path("ops1.crt"), &world.path("ops1.key"));
        let config = format!("urls = [\"https://{}\"]\npool = \"edge\"\n{files}", world.api);
        world.put("ctl.toml", config.as_bytes(), 0o644);
        Self { world, nodes }
    }

    /// With a first key on all nodes, and driving.
    fn steady(policy: &str) -> Self {
        Self::new(with_first_key(policy))
    }

    /// The three nodes have come, and the pool is empty.
    fn empty(policy: &str) -> Self {
        let world = World::started(policy);
        let mut nodes = world.nodes();
        nodes.iter_mut().for_each(|node| drop(node.sync(0)));
        Self::new((world, nodes))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut tfoctl = Command::new(program("tfoctl"));
        tfoctl.args(arguments).arg("--config").arg(self.world.path("ctl.toml")).stdin(Stdio::null());
        tfoctl
    }

    fn tfoctl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn order(&self, path: &str, body: &Value) {
        let (status, answer) = self.world.operator().post(&format!("/v1/pools/edge/{path}"), body);
        assert_eq!(status, 200, "{path}: {answer}");
    }

    /// Reads the verdict from every surface once all of them have this kind, and gives what the API has.
    #[track_caller]
    fn surfaces(&self, severity: &str, kind: &str, sentence: &str) -> Value {
        let is_there = |pool: &Value| {
            pool["verdict"]["kind"] == kind
                && pool["verdict"]["severity"] == severity
                && pool["verdict"]["sentence"].as_str().is_some_and(|text| text.contains(sentence))
        };
        let mut told = Vec::new();
        let agreed = poll_some(PATIENCE, || {
            let pool = self.world.until(&format!("{severity} {kind}: {sentence}"), is_there);
            told = self.disagreeing(&pool["verdict"]);
            // The verdict may have changed while it was read.
            told.is_empty().then(|| pool["verdict"].clone())
        });
        agreed.unwrap_or_else(|| panic!("{kind} is not the same everywhere: {told:#?}"))
    }

    /// The surfaces that do not say what the API says, with what they say.
    fn disagreeing(&self, verdict: &Value) -> Vec<String> {
        let text = |name: &str| verdict[name].as_str().unwrap();
        let (severity, kind, sentence) = (text("severity"), text("kind"), text("sentence"));
        let next = verdict["next"].as_str().map_or_else(String::new, |next| format!("; next: {next}"));
        let line = format!("{severity}: {sentence}{next}");
        let (code, number) = match severity {
            "ok" => (0, 0),
            "notice" => (0, 1),
            "warning" => (1, 2),
            _ => (2, 3),
        };
        let mut wrong = Vec::new();
        let mut expect = |surface: &str, is_right: bool, said: &str| {
            if !is_right {
                wrong.push(format!("{surface}: {said} instead of {line}"));
            }
        };
        for arguments in [&["pools"][..], &["nodes"], &["check"]] {
            let output = self.tfoctl(arguments);
            let said = stdout(&output);
            let own = if arguments == ["nodes"] { line.clone() } else { format!("edge: {line}") };
            expect(arguments[0], said.lines().any(|said| said == own), &said);
        }
        for arguments in [&["check"][..], &["pools", "--detailed-exit-codes"], &["nodes", "--detailed-exit-codes"]] {
            let ended = self.tfoctl(arguments).status.code();
            expect(arguments[0], ended == Some(code), &format!("exit code {ended:?}"));
        }
        let json = self.tfoctl(&["pools", "--format", "json"]).stdout;
        let json: Value = serde_json::from_slice(&json).unwrap();
        expect("pools --format json", json["pools"][0]["verdict"] == *verdict, &json.to_string());
        let watched = self.watched();
        expect("watch", watched.ends_with(&line), &watched);

        let (_, page) = self.world.observed("/").unwrap();
        let html = |text: &str| text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
        let title = format!("<title>{}: edge {} - ", severity.to_uppercase(), kind.replace('_', " "));
        expect("title", page.contains(&title), &page);
        let shown = format!("<strong>{severity}</strong>: {}</p>", html(sentence));
        if let Some(docs) = verdict["docs"].as_str() {
            let (path, anchor) = docs.split_once('#').unwrap_or((docs, ""));
            let more = self.world.observed(&format!("/docs/{path}")).unwrap();
            let leads = page.contains(&format!("href=\"/docs/{docs}\"")) && more.0 == 200;
            expect("docs", leads && (anchor.is_empty() || more.1.contains(&format!("id=\"{anchor}\""))), &page);
        }
        expect("page", page.contains(&shown) && page.contains(&format!("class=\"verdict {severity}\"")), &page);
        let (_, metrics) = self.world.observed("/metrics").unwrap();
        let kinds = format!("tfo_coordinator_pool_verdict{{kind=\"{kind}\",pool=\"edge\"}} 1");
        let numbers = format!("tfo_coordinator_pool_verdict_severity{{pool=\"edge\"}} {number}");
        let all = metrics.matches("tfo_coordinator_pool_verdict{").count();
        expect("metrics", metrics.contains(&kinds) && metrics.contains(&numbers) && all == 14, &metrics);
        let log = self.world.log();
        let level = ["INFO", "INFO", "WARN", "ERROR"][number];
        let is_logged =
            |said: &str| said.contains(level) && said.contains("verdict") && said.contains(&format!("kind={kind}"));
        expect("log", log.lines().any(is_logged), &log);
        wrong
    }

    /// The first line of `tfoctl watch`.
    fn watched(&self) -> String {
        let mut watch = self.command(&["watch"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
        watch.kill().unwrap();
        watch.wait().unwrap();
        line.trim_end().to_owned()
    }
}

/// Cookies that a node has counted so far.
fn counters(passive: u64, passive_fail: u64) -> Value {
    json!({"counters": {"passive": passive, "passive_alt_key": 0, "passive_fail": passive_fail}})
}

#[test]
fn an_empty_pool_and_its_first_key() {
    let mut scene = Scene::empty(FAST);
    let verdict = scene.surfaces("warning", "no_key", "the pool has no key yet, and 3 nodes wait for it");
    assert_eq!(verdict["next"], "tfoctl rotate --first --pool edge");
    scene.order("rotations", &json!({"mode": "first", "expect": {"number": 3}}));
    scene.nodes[..2].iter_mut().for_each(Node::converge);
    let verdict = scene.surfaces("warning", "held", "2 of 3 have it; missing: c.cache.example.org");
    assert_eq!(verdict["nodes"], json!(["c.cache.example.org"]));
    scene.nodes[2].converge();
    let verdict = scene.surfaces("warning", "held", "3 nodes have the pool's first key, as expected");
    assert_eq!(verdict["next"], "tfoctl resume --pool edge");
    scene.order("resume", &json!({}));
    let verdict = scene.surfaces("ok", "agree", "3 nodes accept each other's cookies; the next rotation is due at ");
    assert_eq!((&verdict["next"], &verdict["numbers"]["required"]), (&Value::Null, &json!(3)));
}

#[test]
fn a_rotation_its_pause_and_its_abort() {
    let mut scene = Scene::steady(FAST);
    scene.order("rotations", &json!({}));
    scene.nodes[..2].iter_mut().for_each(Node::converge);
    let verdict =
        scene.surfaces("notice", "rotating", "a rotation runs: 2 of 3 nodes have the next key as their backup");
    assert_eq!(verdict["nodes"], json!(["c.cache.example.org"]));
    scene.order("pause", &json!({"reason": "lunch"}));
    let verdict =
        scene.surfaces("warning", "paused", "paused by ops1.example.org (\"lunch\"); the rotation stands still");
    assert_eq!(verdict["next"], "tfoctl resume --pool edge");
    assert_eq!(scene.world.pool()["paused"]["operator"], "ops1.example.org");
    assert!(scene.world.observed("/metrics").unwrap().1.contains("pool_paused{by=\"operator\",pool=\"edge\"} 1"));
    scene.order("resume", &json!({}));
    scene.order("abort", &json!({}));
    scene.nodes.iter_mut().for_each(Node::converge);
    scene.surfaces("warning", "held", "no rotation starts until `resume`: the last one was aborted");
}

#[test]
fn a_stop_by_the_health_gate_names_shares_and_nodes_everywhere() {
    let policy = FAST.replace("[\"100%\"]", "[\"a*\", \"100%\"]").replace("\"0s\"\n", "\"1h\"\n");
    let policy = policy.replace("drain_max = \"1h\"", "drain_max = \"0s\"");
    assert!(policy.contains("health_window = \"1h\"") && policy.contains("drain_max = \"0s\""), "{policy}");
    let mut scene = Scene::steady(&policy);
    let name = scene.nodes[0].name.clone();
    let count = |scene: &mut Scene, passive, failed| {
        scene.nodes[0].different = counters(passive, failed);
        scene.nodes[0].sync(0);
    };
    scene.order("rotations", &json!({}));
    scene.nodes[0].different = counters(0, 0);
    scene.nodes[0].converge();
    count(&mut scene, 900, 1);
    scene.nodes[1..].iter_mut().for_each(Node::converge);
    scene.world.until("promoted", |pool| pool["phase"] == "promoted");
    scene.nodes[0].converge();
    count(&mut scene, 1_850, 51);
    let stopped = "the health gate stopped the rotation in wave 1 of 2: 5% of the cookies are rejected now (5% when it \
                   stopped, 0.1% before the promotion); worst: a.cache.example.org";
    let verdict = scene.surfaces("critical", "stopped_by_health", stopped);
    assert_eq!((&verdict["next"], &verdict["nodes"]), (&json!("tfoctl abort --pool edge"), &json!([name])));
    assert_eq!(verdict["docs"], "how-to/stopped_by_health.md");
    // It gets worse, and the shares of the stop stay.
    count(&mut scene, 1_850, 1_001);
    scene.surfaces("critical", "stopped_by_health", "51.2% of the cookies are rejected now (5% when it stopped, 0.1%");
    let paused = scene.world.pool()["paused"].clone();
    assert_eq!(
        (&paused["by"], &paused["worst"], &paused["rejected_ppm"]),
        (&json!("health"), &json!([name]), &json!(50_000))
    );
    let (_, audit) = scene.world.operator().get("/v1/pools/edge/audit");
    let last = audit["entries"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["action"], &last["nodes"]), (&json!("unhealthy"), &json!([name])));
    assert_eq!(last["reason"], "5% of the cookies are rejected, 0.1% before the promotion");
    assert!(scene.world.observed("/metrics").unwrap().1.contains("pool_paused{by=\"health\",pool=\"edge\"} 1"));
    let log = scene.world.log();
    assert!(
        log.lines().any(|line| line.contains("WARN") && line.contains("the health gate stops the rotation")),
        "{log}"
    );
    scene.order("abort", &json!({}));
    scene.surfaces("warning", "held", "the health gate stopped the last one, which was aborted (5% of the cookies");
}

#[test]
fn fewer_nodes_than_expected_are_told_before_it_bites_and_when_it_does() {
    let scene = Scene::steady(&FAST.replace("interval = \"1d\"", "interval = \"20s\""));
    scene.order("nodes", &json!({"action": {"forget": {}}, "nodes": ["c.cache.example.org"]}));
    let verdict = scene.surfaces("warning", "expected_nodes", "will not start: 2 of 3 expected nodes are here");
    assert!(verdict["sentence"].as_str().unwrap().starts_with("the next rotation, at "), "{verdict}");
    let metrics = scene.world.observed("/metrics").unwrap().1;
    assert!(metrics.contains("tfo_coordinator_pool_expected_nodes{pool=\"edge\"} 3"), "{metrics}");
    assert!(metrics.contains("tfo_coordinator_pool_next_rotation_timestamp_seconds{pool=\"edge\"} 1"), "{metrics}");
    let due = poll_until(PATIENCE, || scene.world.pool()["blocked_by"] == "expected_nodes");
    assert!(due, "{}", scene.world.pool());
    scene.surfaces("warning", "expected_nodes", "does not start: 2 of 3 expected nodes are here");
}

#[test]
fn broken_nodes_are_told_before_the_next_rotation_waits_for_them() {
    let mut scene = Scene::steady(FAST);
    scene.nodes[2].different = json!({"error": "boot_order"});
    scene.nodes[2].sync(0);
    let verdict = scene.surfaces("warning", "absent", "will wait for c.cache.example.org (failed)");
    assert_eq!(verdict["next"], "tfoctl exclude c.cache.example.org --pool edge");
    scene.nodes[2].different = json!({});
    scene.nodes[2].sync(0);
    scene.surfaces("ok", "agree", "3 nodes accept");
}

#[test]
fn a_split_says_who_refuses_whose_cookies_and_ends_with_its_command() {
    let mut scene = Scene::steady(&fast(2));
    scene.order("rotations", &json!({}));
    scene.nodes[..2].iter_mut().for_each(Node::converge);
    let behind = |scene: &Scene, phase: &str| {
        let pool = scene.world.until(phase, |pool| pool["phase"] == phase && pool["converged"] == 2);
        json!({"generation": pool["generation"], "leave": pool["waiting_for"]})
    };
    let leave = behind(&scene, "staged");
    scene.order("advance", &leave);
    scene.world.until("promoted without c", |pool| pool["phase"] == "promoted");
    scene.nodes[..2].iter_mut().for_each(Node::converge);
    scene.world.until("steady without c", |pool| pool["phase"] == "steady");
    scene.surfaces("warning", "absent", "1 node is left out as absent or left behind: c.cache.example.org");
    // It is back, and installs nothing: its session was closed, it is told, and it still holds the old keys.
    assert!(poll_until(SOON, || scene.nodes[2].sync(0).0 == 204), "{}", scene.world.log());
    let key = scene.world.pool()["primary"]["fingerprint"].as_str().unwrap().to_owned();
    let told = format!("split: 1 node refuses the cookies of 2 others (key {key}): c.cache.example.org; ");
    let verdict = scene.surfaces("critical", "split", &told);
    assert_eq!(verdict["next"], "tfoctl exclude c.cache.example.org --pool edge");
    assert_eq!(verdict["numbers"], json!({"out_of_step": 1, "refused": 2, "refusing": 0}));
    let ended = scene.tfoctl(&["exclude", "c.cache.example.org", "--pool", "edge", "--yes"]);
    assert!(ended.status.success(), "{ended:?}");
    scene.surfaces("ok", "agree", "2 nodes accept each other's cookies");
}

#[test]
fn a_frozen_pool_and_a_coordinator_that_has_heard_no_node() {
    let mut scene = Scene::steady(FAST);
    assert!(scene.world.stop().success());
    scene.world.start();
    let verdict = scene.surfaces("notice", "blind", "3 of 3 nodes have not reported since this coordinator started");
    assert_eq!(verdict["nodes"].as_array().map(Vec::len), Some(3));
    scene.nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    scene.surfaces("ok", "agree", "3 nodes accept");
    scene.nodes[1].seen = 9;
    scene.nodes[1].sync(0);
    let verdict = scene.surfaces(
        "critical",
        "frozen",
        "b.cache.example.org reports generation 9, and this store has given out only 1",
    );
    assert_eq!(verdict["next"], "tfoctl recover --pool edge");
}

#[test]
fn nodes_that_only_report_agree_or_split() {
    let mut scene = Scene::empty(FAST);
    let report = |scene: &mut Scene, node: usize, key: &str| {
        scene.nodes[node].new_session();
        scene.nodes[node].different = json!({"source": "derive", "installed": {
            "pool_id": null, "generation": null,
            "primary": {"epoch": 1_790_000_000, "fingerprint": key.repeat(16)}, "backup": null,
        }});
        assert_eq!(scene.nodes[node].sync(0).0, 204);
    };
    (0..3).for_each(|node| report(&mut scene, node, "a"));
    scene.surfaces("ok", "only_reports", "3 nodes only report: their keys come from another source");
    report(&mut scene, 2, "b");
    let told = "split: 1 node refuses the cookies of 2 others (key aaaaaaaaaaaaaaaa), and the other way round: c.cache.example.org";
    scene.surfaces("critical", "split", told);
}

#[test]
fn certificates_that_end_are_told_before_their_nodes_are_lost() {
    let mut scene = Scene::steady(FAST);
    scene.surfaces("ok", "agree", "3 nodes accept each other's cookies");
    let note = |scene: &mut Scene, note: Value| {
        scene.nodes[1].new_session();
        scene.nodes[1].different = note;
        assert_eq!(scene.nodes[1].sync(0).0, 204);
    };
    note(&mut scene, json!({"note": "certificate_ends"}));
    let sentence =
        "the certificate of 1 node ends and was not renewed: b.cache.example.org; from the end on no rotation";
    let verdict = scene.surfaces("warning", "certificate_ends", sentence);
    assert_eq!(verdict["next"], "tfoctl nodes b.cache.example.org --pool edge");
    note(&mut scene, json!({}));
    scene.surfaces("ok", "agree", "3 nodes accept each other's cookies");
}

#[test]
fn a_store_that_cannot_be_read_is_blind_where_it_can_be_said_and_unknown_elsewhere() {
    let scene = Scene::steady(FAST);
    let store = rusqlite::Connection::open(scene.world.path("state.db")).unwrap();
    let flags = rusqlite::functions::FunctionFlags::SQLITE_UTF8;
    store.create_scalar_function("only_tfo_coordinator_writes_here", 0, flags, |_| Ok(true)).unwrap();
    let sum: Vec<u8> = store.query_row("SELECT sum FROM pool", (), |row| row.get(0)).unwrap();
    // What a disk may do: it is noticed at the next look.
    store.execute("UPDATE pool SET sum = x'00'", ()).unwrap();
    let is_blind = || {
        let (_, page) = scene.world.observed("/").unwrap();
        let (_, metrics) = scene.world.observed("/metrics").unwrap();
        page.contains("<title>CRITICAL: edge blind - ")
            && page.contains("<strong>critical</strong>: the store cannot be reached")
            && metrics.contains("tfo_coordinator_pool_verdict{kind=\"blind\",pool=\"edge\"} 1")
            && metrics.contains("tfo_coordinator_pool_verdict_severity{pool=\"edge\"} 3")
    };
    assert!(poll_until(SOON, is_blind), "{}", scene.world.observed("/").unwrap().1);
    let output = scene.tfoctl(&["check"]);
    let said = stderr(&output);
    assert!(output.status.code() == Some(3) && said.contains("remedy"), "{output:?}");
    store.execute("UPDATE pool SET sum = ?1", [sum]).unwrap();
    scene.surfaces("ok", "agree", "3 nodes accept each other's cookies");
}
