//! What a coordinator answers in these tests, and an operator with certificates of `tfoctl pki` and a configuration.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tfo_testbed::config::client_files;
pub(crate) use tfo_testbed::fake_coordinator::{FakeCoordinator, Reply};
pub(crate) use tfo_testbed::output::text;
use tfo_testbed::output::{json_of, stderr, stdout};

/// Gives a coordinator one pool, some nodes and no audit log.
pub(crate) fn with_pool<'a>(coordinator: &'a FakeCoordinator, status: &Value, nodes: &Value) -> &'a FakeCoordinator {
    let name = status["pool"].as_str().unwrap();
    let nodes = json!({"pool": name, "nodes": nodes, "fingerprints": fingerprints(nodes)});
    coordinator
        .ok("GET /v1/pools", json!({"pools": [status]}))
        .ok(&format!("GET /v1/pools/{name}"), status.clone())
        .ok(&format!("GET /v1/pools/{name}/nodes"), nodes)
        .ok(&format!("GET /v1/pools/{name}/audit"), json!({"pool": name, "entries": [], "more": false, "read_to": 0}))
        .ok("GET /v1/enrolment/audit", json!({"entries": [], "more": false, "read_to": 0}))
}

/// What the API counts: how many nodes hold which keys, most first.
fn fingerprints(nodes: &Value) -> Value {
    let mut groups: Vec<(Value, Value, usize)> = Vec::new();
    for node in nodes.as_array().unwrap().iter().filter(|node| !node["primary"].is_null()) {
        let (primary, backup) = (&node["primary"]["fingerprint"], &node["backup"]["fingerprint"]);
        match groups.iter_mut().find(|group| group.0 == *primary && group.1 == *backup) {
            Some(group) => group.2 += 1,
            None => groups.push((primary.clone(), backup.clone(), 1)),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.2));
    groups
        .into_iter()
        .map(|(primary, backup, nodes)| json!({"primary": primary, "backup": backup, "nodes": nodes}))
        .collect()
}

/// The body of a refusal.
pub(crate) fn refusal(kind: &str, message: &str) -> Value {
    json!({"kind": kind, "message": message, "request_id": "r-1"})
}

/// An operator with certificates, and a configuration once there is a coordinator to ask.
pub(crate) struct Operator {
    dir: TempDir,
}

impl Operator {
    /// With an authority, `ops1.test` and the coordinator's certificate.
    pub(crate) fn new() -> Self {
        let operator = Self { dir: tfo_testbed::scratch() };
        let pki = operator.path("pki");
        let pki = pki.to_str().unwrap();
        operator.plain(&["pki", "init", "--dir", pki]);
        operator.plain(&["pki", "issue", "--dir", pki, "--operator", "ops1.test"]);
        operator.plain(&["pki", "issue", "--dir", pki, "--coordinator", "c1.test", "--address", "127.0.0.1"]);
        operator
    }

    /// A coordinator with the certificate that it issued.
    pub(crate) fn coordinator(&self) -> FakeCoordinator {
        FakeCoordinator::with_pki(&self.path("pki"), "c1.test")
    }

    /// With one coordinator that has this pool and these nodes.
    pub(crate) fn with(status: &Value, nodes: &Value) -> (Self, FakeCoordinator) {
        let operator = Self::new();
        let coordinator = operator.coordinator();
        with_pool(&coordinator, status, nodes);
        operator.configure(&[&coordinator.url()], "pool = \"edge\"");
        (operator, coordinator)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of this mode.
    pub(crate) fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        tfo_testbed::host::replace(&path, content.as_bytes(), mode);
        path
    }

    /// Writes ctl.toml.
    pub(crate) fn configure(&self, urls: &[&str], more: &str) {
        let file = |name: &str| self.path("pki").join(name);
        let files = client_files(&file("ca.crt"), &file("ops1.test/operator.crt"), &file("ops1.test/operator.key"));
        let text = format!("urls = {urls:?}\n{files}{more}\n");
        self.write("ctl.toml", &text, 0o644);
    }

    /// `tfoctl` without a configuration of its own, and without the user's.
    pub(crate) fn bare(&self) -> Command {
        let mut ctl = Command::new(tfo_testbed::program("tfoctl"));
        ctl.stdin(Stdio::null()).env("HOME", self.dir.path()).env_remove("XDG_CONFIG_HOME");
        ctl
    }

    /// `tfoctl` with ctl.toml.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut ctl = self.bare();
        ctl.args(arguments).arg("--config").arg(self.path("ctl.toml"));
        ctl
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it to its end, with this exit code; gives stdout and stderr.
    #[track_caller]
    pub(crate) fn ends(&self, arguments: &[&str], code: i32) -> (String, String) {
        let output = self.run(arguments);
        let (stdout, stderr) = (stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
        (stdout, stderr)
    }

    /// Runs it with 0 and a silent stderr; gives stdout.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let (stdout, stderr) = self.ends(arguments, 0);
        assert_eq!(stderr, "", "{arguments:?}");
        stdout
    }

    /// Runs it with `--format json`: one line of JSON.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.run(&[arguments, &["--format", "json"]].concat());
        tfo_testbed::output::code(&output, code);
        json_of(&output)
    }

    /// Starts it with pipes.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[track_caller]
    pub(crate) fn plain(&self, arguments: &[&str]) {
        let output = self.bare().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    }
}

/// A fingerprint that is this digit all over.
pub(crate) fn print(digit: char) -> String {
    digit.to_string().repeat(16)
}

/// A slot.
pub(crate) fn key(epoch: u64, digit: char) -> Value {
    json!({"epoch": epoch, "fingerprint": print(digit)})
}

/// Pool `edge`, steady and converged; `with` replaces fields.
pub(crate) fn pool(with: Value) -> Value {
    let mut status = json!({
        "pool": "edge", "pool_id": "0123456789abcdef0123456789abcdef", "revision": 40, "generation": 12,
        "phase": "steady", "primary": key(7, 'a'), "backup": key(6, 'b'), "verdict": verdict("ok", "agree", "3 nodes accept each other's cookies", Value::Null), "paused": null, "hold": null, "expect": null,
        "required": 3, "converged": 3, "reporting": 0, "waiting_for": [], "next_at": "2020-11-23T22:00:00Z",
        "blocked_by": "schedule", "since": "2026-11-22T22:00:00Z", "waves": null, "revoking": [], "recoverable": [],
        "policy_differs": [], "policy_waits": false, "calendar": null, "deaf_since": null, "expected_nodes": 3, "expected_in_file": false, "unseen": 0,
        "next_exclusion_at": null, "waiver": null, "rotate_refused": null, "cookie_lifetime_secs": 172_800
    });
    merge(&mut status, with);
    status
}

/// So many seconds ago.
pub(crate) fn ago(secs: u64) -> Value {
    json!(tfo_model::time::UnixTime::from_secs(tfo_testbed::unix_now() - secs))
}

/// A verdict of the coordinator.
pub(crate) fn verdict(severity: &str, kind: &str, sentence: &str, next: Value) -> Value {
    json!({
        "severity": severity, "kind": kind, "since": "2026-11-22T22:00:00Z", "sentence": sentence, "nodes": [],
        "more": 0, "numbers": {}, "next": next, "docs": null
    })
}

/// A node that holds what [`pool`] says.
pub(crate) fn node(name: &str, with: Value) -> Value {
    let mut node = json!({
        "node": name, "state": "converged", "generation": 12, "primary": key(7, 'a'), "backup": key(6, 'b'),
        "last_report_at": "2026-11-22T22:00:00Z", "behind_since": null, "source": "coordinator", "error": null,
        "kernel": "6.1.0", "agent": "0.1.0", "tcp_fastopen": 3, "excluded": null, "excluded_until": null, "moved_to": null,
        "connected": null, "connected_since": null, "certificate_until": null, "note": null, "caveats": [], "namespaces": null
    });
    merge(&mut node, with);
    node
}

/// Three of them.
pub(crate) fn three() -> Value {
    json!([node("cp1.test", json!({})), node("cp2.test", json!({})), node("cp3.test", json!({}))])
}

/// What a command did.
pub(crate) fn done(action: &str, with: Value) -> Value {
    let mut done = json!({
        "pool": "edge", "revision": 41, "generation": 13, "phase": "staged", "action": action, "nodes": [], "more": 0
    });
    merge(&mut done, with);
    done
}

/// One line of the audit log.
pub(crate) fn audit(revision: u64, action: &str, operator: Option<&str>, reason: &str) -> Value {
    json!({
        "at": "2026-11-22T22:00:00Z", "revision": revision, "generation": 13, "phase": "staged",
        "operator": operator, "action": action, "nodes": [], "more": 0, "reason": reason
    })
}

/// A page of it.
pub(crate) fn page(entries: &[Value]) -> Reply {
    Reply::Json(200, json!({"pool": "edge", "entries": entries, "more": false, "read_to": 0}))
}

fn merge(into: &mut Value, with: Value) {
    let (Value::Object(into), Value::Object(with)) = (into, with) else { panic!("objects") };
    into.extend(with);
}
