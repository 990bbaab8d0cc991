//! The coordinator under test: its files, its process, its operator, and the times in its log.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::PATIENCE;
use super::figures::Percentiles;
use tfo_testbed::config::CoordinatorToml;
use tfo_testbed::free_port;
use tfo_testbed::pki::{Ca, client_config};

/// Who commands.
const OPERATOR: &str = "ops1.example.org";

/// What the coordinators of one pool share: certificates and the key-encryption key.
pub(crate) struct Files {
    dir: PathBuf,
    authority: Ca,
}

impl Files {
    /// In a directory of this name.
    pub(crate) fn new(name: &str) -> Rc<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fanout-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory under target/");
        let authority = Ca::new("fanout");
        let server = authority.both(&["localhost"]);
        authority.save(&dir.join("authority"));
        let mut kek = [0; 32];
        tfo_crypto::random::fill(&mut kek).expect("randomness");
        let (cert, key) = (server.cert_pem.as_bytes(), server.key_pem.as_bytes());
        for (name, content) in
            [("ca.crt", authority.pem.as_bytes()), ("server.crt", cert), ("server.key", key), ("kek", &kek)]
        {
            put(&dir.join(name), content);
        }
        Rc::new(Self { dir, authority })
    }

    /// The authority of the agents.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.join("authority")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.dir.display());
        } else {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

fn put(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("a directory of ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
}

pub(crate) struct Coordinator {
    program: PathBuf,
    dir: PathBuf,
    pub(crate) name: String,
    pub(crate) api: SocketAddr,
    observe: SocketAddr,
    child: Option<Child>,
    operator: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    // Dropped last.
    files: Rc<Files>,
}

/// A line of its log.
pub(crate) enum Line {
    Committed(String),
    Written(usize),
}

impl Coordinator {
    /// This program with a store of its own, for so many agents.
    pub(crate) fn new(program: &Path, size: usize) -> Self {
        Self::with(program, (Files::new(&size.to_string()), 0), size, &own_store)
    }

    /// This program as one of several: with a store of its own, or with this one.
    pub(crate) fn with(
        program: &Path,
        (files, number): (Rc<Files>, usize),
        size: usize,
        store: &dyn Fn(&str, &Path) -> String,
    ) -> Self {
        let (name, dir) = (format!("tfo{number}"), files.dir.join(number.to_string()));
        fs::create_dir_all(&dir).expect("a directory of ours");
        let (api, observe) = (free_port(), free_port());
        let of = CoordinatorToml::of(&files.dir, api, observe);
        let store = store(&name, &dir);
        let config = CoordinatorToml { operators: &[OPERATOR], store, ..of };
        let config = config.with_pools(&format!(
            "[pools.edge]\nnodes = [\"*.cache.example.org\"]\ninterval = \"7d\"\nexpected_nodes = {size}\n\
             promote_waves = [\"100%\"]\ndrain_max = \"0s\"\nhealth_window = \"0s\"\n"
        ));
        put(&dir.join("coordinator.toml"), config.as_bytes());
        let operator = client(&files.authority);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { program: program.to_owned(), dir, name, api, observe, child: None, operator, runtime, files }
    }

    /// The authority of its agents.
    pub(crate) fn authority(&self) -> PathBuf {
        self.files.authority()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Starts it, and waits until it is ready.
    pub(crate) fn start(&mut self) {
        let log = File::options().append(true).create(true).open(self.log()).expect("a directory of ours");
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--config").arg(self.dir.join("coordinator.toml"));
        // The times of its writes are told at level debug.
        command.env_remove("NOTIFY_SOCKET").env("TFO_LOG", "debug");
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts"));
        let start = Instant::now();
        while !self.is_ready() {
            assert!(start.elapsed() < PATIENCE, "the coordinator does not come up: {}", self.log().display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let asked = self.operator.get(format!("http://{}/readyz", self.observe));
        self.runtime.block_on(async { asked.send().await.is_ok_and(|answer| answer.status().is_success()) })
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn post(&self, path: &str, body: &Value) {
        let url = format!("https://localhost:{}/v1/pools/edge{path}", self.api.port());
        let asked = self.operator.post(url).json(body);
        let text = self.runtime.block_on(async {
            let answer = asked.send().await.expect("the coordinator answers");
            (answer.status(), answer.text().await.unwrap_or_default())
        });
        assert!(text.0.is_success(), "{path}: {text:?}");
    }

    pub(crate) fn first_key(&self, size: usize) {
        self.post("/rotations", &json!({"mode": "first", "reason": "bench", "expect": {"number": size}}));
    }

    /// Ends the hold of the first key, as soon as the coordinator lets it: all have acknowledged.
    pub(crate) fn resume(&self) {
        let start = Instant::now();
        loop {
            let url = format!("https://localhost:{}/v1/pools/edge", self.api.port());
            let asked = self.operator.get(url);
            let pool = self.runtime.block_on(async { asked.send().await.ok()?.json::<Value>().await.ok() });
            let pool = pool.unwrap_or_default();
            if pool["required"].as_u64() > Some(0) && pool["required"] == pool["converged"] {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "the first key does not converge: {pool:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.post("/resume", &json!({"reason": "bench"}));
    }

    /// Orders a rotation.
    pub(crate) fn order_rotation(&self) {
        self.post("/rotations", &json!({"mode": "normal", "reason": "bench"}));
    }

    /// How long its log is.
    pub(crate) fn logged(&self) -> u64 {
        fs::metadata(self.log()).expect("it logs").len()
    }

    /// What its log says after that.
    pub(crate) fn lines_after(&self, from: u64) -> Vec<(Timestamp, Line)> {
        let log = fs::read(self.log()).expect("it logs");
        lines(&String::from_utf8_lossy(&log[usize::try_from(from).expect("a small file")..]))
    }

    /// One rotation: the times of its two phases, from the commit to the write of each acknowledgement.
    pub(crate) fn rotate(&self, size: usize) -> Vec<Percentiles> {
        let from = self.logged();
        self.order_rotation();
        let start = Instant::now();
        loop {
            let lines = self.lines_after(from);
            if is_settled(&lines) {
                return phases(&lines, size);
            }
            assert!(start.elapsed() < PATIENCE, "the rotation does not end: {}", self.log().display());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lines of `[store]` for a file in this directory.
pub(crate) fn own_store(_: &str, dir: &Path) -> String {
    format!("path = \"{}/state.db\"\n", dir.display())
}

/// Whether a rotation has ended.
pub(crate) fn is_settled(lines: &[(Timestamp, Line)]) -> bool {
    lines.iter().any(|(_, line)| matches!(line, Line::Committed(action) if action == "settle"))
}

fn lines(log: &str) -> Vec<(Timestamp, Line)> {
    let line = |line: &str| {
        let at: Timestamp = line.split_once(' ')?.0.parse().ok()?;
        let value = |name: &str| Some(line.split_once(name)?.1.split(' ').next()?.to_owned());
        if line.contains(" committed ") {
            return Some((at, Line::Committed(value(" action=")?.trim_matches('"').to_owned())));
        }
        let written = line.contains("records written");
        written.then(|| Some((at, Line::Written(value(" records=")?.parse().ok()?))))?
    };
    log.lines().filter_map(line).collect()
}

/// Of each commit that tells the nodes something: how long after it each record was stored, up to the next commit,
/// which all of them had to be stored for.
pub(crate) fn phases(lines: &[(Timestamp, Line)], size: usize) -> Vec<Percentiles> {
    let mut phases = Vec::new();
    let mut told: Option<(Timestamp, Vec<Duration>)> = None;
    for (at, line) in lines {
        match line {
            Line::Written(count) => {
                if let Some((since, times)) = &mut told {
                    let after = at.duration_since(*since).unsigned_abs();
                    times.extend(std::iter::repeat_n(after, *count));
                }
            }
            Line::Committed(action) => {
                if let Some((_, mut times)) = told.take() {
                    assert!(times.len() >= size, "the barrier passed with {} of {size} acknowledgements", times.len());
                    // Earlier ones are of nodes whose long poll was just over.
                    let own = times.len() - size;
                    phases.push(Percentiles::of(&mut times[own..]));
                }
                if action != "settle" {
                    told = Some((*at, Vec::new()));
                }
            }
        }
    }
    phases
}

/// Somebody with the operator's certificate.
fn client(authority: &Ca) -> reqwest::Client {
    let tls = client_config(&authority.pem, Some(&authority.both(&[OPERATOR])));
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(Duration::from_secs(60))
        .build()
        .expect("a client")
}
