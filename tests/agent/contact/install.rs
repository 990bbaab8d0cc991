//! What the pool tells is installed, and acknowledged only then.

use crate::start_ready;
use tfo_testbed::daemon::{Daemon, DaemonHost, key_text};
use tfo_testbed::fake_coordinator::{FakeCoordinator, POOL_ID, source, told};
use tfo_testbed::pki::Ca;
use tfo_testbed::{SOON, need_netns, poll_until, skip_unless};

/// A host, a coordinator that tells nothing yet, and the way from one to the other.
pub(crate) struct Site {
    pub(crate) host: DaemonHost,
    pub(crate) pki: Ca,
    pub(crate) coordinator: FakeCoordinator,
}

impl Site {
    pub(crate) fn new() -> Self {
        let (host, pki) = (DaemonHost::new(), Ca::new("test"));
        pki.equip(&host, "n1.example.org", 90);
        let coordinator = FakeCoordinator::start(host.netns(), &pki);
        let site = Self { host, pki, coordinator };
        site.configure("");
        site
    }

    /// `more` are lines of [source].
    pub(crate) fn configure(&self, more: &str) {
        let source = source(&self.host, &[self.coordinator.url()], more);
        self.host.configure(&source, "verify_interval = \"1s\"");
    }

    /// Another coordinator beside the agent, for one of another CA behind it.
    pub(crate) fn relay_to(&self, ca: &Ca) -> FakeCoordinator {
        FakeCoordinator::start(self.host.netns(), ca)
    }

    /// The same for that one.
    pub(crate) fn configure_for(&self, coordinator: &FakeCoordinator, more: &str) {
        self.host.configure(&source(&self.host, &[coordinator.url()], more), "verify_interval = \"60s\"");
    }

    /// A daemon that has installed this generation, [1, 2], and acknowledged it.
    pub(crate) fn started(&self, generation: u64) -> Daemon {
        self.coordinator.tell(told(generation, "steady", 1, Some(2)));
        let daemon = start_ready(&self.host);
        self.coordinator.acknowledged(generation);
        daemon
    }

    /// Waits until status.json says so.
    #[track_caller]
    pub(crate) fn status(&self, what: &str, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let there = || self.host.path("run/status.json").exists() && is(&self.host.status());
        assert!(poll_until(2 * SOON, there), "not {what}: {}", self.host.status());
        self.host.status()
    }
}

/// Kernel text of two keys.
pub(crate) fn pair(primary: u8, backup: u8) -> String {
    format!("{},{}", key_text(primary), key_text(backup))
}

#[test]
fn the_first_answer_is_installed_before_ready_and_acknowledged_after_it() {
    skip_unless!(need_netns());
    let site = Site::new();
    site.coordinator.tell(told(4, "staged", 1, Some(2)));
    let mut daemon = start_ready(&site.host);
    assert_eq!((site.host.kernel(), site.host.persisted_keys()), (pair(1, 2), Some(pair(1, 2))));
    let file = site.host.persisted().unwrap();
    assert!(file.contains(&format!("# pool_id: {POOL_ID}\n# generation: 4\n# phase: staged\n")), "{file}");
    site.coordinator.acknowledged(4);
    let asked = site.coordinator.asked();
    assert_eq!(asked[0].what, "POST /v1/pools/edge/sync");
    let first = &asked[0].body;
    assert_eq!((&first["seen"], &first["installed"]), (&0.into(), &serde_json::Value::Null));
    let ack = &asked[1].body;
    assert_eq!((&ack["seen"], &ack["session"]), (&4.into(), &first["session"]));
    assert_eq!(ack["installed"]["pool_id"], POOL_ID);
    assert_eq!(asked[0].connection, asked[1].connection, "one connection");
    let status = site.status("connected", |status| status["contact"] == "connected");
    assert_eq!(
        (&status["pool"], &status["generation"], &status["phase"]),
        (&"edge".into(), &4.into(), &"staged".into())
    );
    assert_eq!(status["state"], "ok");
    assert!(status["last_contact_at"].is_string());
    daemon.stop();
}

#[test]
fn a_new_generation_comes_through_the_long_poll() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(1);
    site.coordinator.tell(told(2, "staged", 1, Some(3)));
    site.coordinator.acknowledged(2);
    assert_eq!(site.host.kernel(), pair(1, 3));
    site.coordinator.tell(told(3, "promoted", 3, Some(1)));
    let ack = site.coordinator.acknowledged(3);
    assert_eq!(site.host.kernel(), pair(3, 1));
    assert_eq!((ack.connection, site.coordinator.asked()[0].connection), (0, 0), "one connection for all");
    daemon.stop();
}

#[test]
fn drift_is_repaired_and_reported() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(1);
    let seen = site.coordinator.asked().len();
    site.host.set_kernel(&key_text(9));
    let said = site.coordinator.expect(seen, |body| body["error"] == "drift");
    assert_eq!(site.host.kernel(), pair(1, 2), "repaired before it was said");
    assert_eq!(said.body["wait_secs"], 0, "it is over already");
    site.coordinator.expect(seen + 1, |body| body["error"].is_null() && body["installed"]["generation"] == 1);
    assert_eq!(site.host.status()["drift_repairs"], 1);
    daemon.stop();
}

#[test]
fn what_cannot_be_made_durable_is_neither_installed_nor_acknowledged() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(1);
    // A directory in the place of the temporary file: it can neither be made nor removed.
    let obstacle = site.host.path("sysctl.d/50-tcp_fastopen_key.conf.tmp");
    std::fs::create_dir(&obstacle).unwrap();
    site.coordinator.tell(told(2, "staged", 1, Some(3)));
    let said = site.coordinator.expect(0, |body| body["error"] == "sysctl_file");
    assert_eq!((&said.body["seen"], &said.body["installed"]["generation"]), (&2.into(), &1.into()));
    assert_eq!((site.host.kernel(), site.host.persisted_keys()), (pair(1, 2), Some(pair(1, 2))));
    let status = site.status("degraded", |status| status["error"]["kind"] == "sysctl_file");
    assert_eq!((&status["generation"], &status["state"]), (&1.into(), &"degraded".into()));
    std::fs::remove_dir(&obstacle).unwrap();
    site.coordinator.acknowledged(2);
    assert_eq!((site.host.kernel(), site.host.persisted_keys()), (pair(1, 3), Some(pair(1, 3))));
    assert!(
        !site
            .coordinator
            .asked()
            .iter()
            .any(|asked| { asked.body["installed"]["generation"] == 2 && !asked.body["error"].is_null() })
    );
    daemon.stop();
}

#[test]
fn another_file_that_wins_at_boot_is_no_acknowledgement() {
    skip_unless!(need_netns());
    let site = Site::new();
    site.coordinator.tell(told(1, "steady", 1, None));
    std::fs::create_dir(site.host.path("boot")).unwrap();
    let other = site.host.write("boot/99-other.conf", format!("net.ipv4.tcp_fastopen_key = {}\n", key_text(7)), 0o600);
    let boot = site.host.text_path("boot");
    let script = format!(
        "exec unshare --mount --propagation=private sh -ec 'mount --bind {boot} /etc/sysctl.d; exec \"$@\"' sh \"$@\""
    );
    let mut daemon = site.host.start_with(&script);
    let said = site.coordinator.expect(0, |body| body["installed"]["generation"] == 1);
    assert_eq!(said.body["error"], "boot_order");
    daemon.ready();
    site.status("told", |status| status["error"]["kind"] == "boot_order");
    std::fs::remove_file(other).unwrap();
    site.coordinator.acknowledged(1);
    daemon.stop();
}

#[test]
fn keys_of_nobody_are_reported_as_such() {
    skip_unless!(need_netns());
    let site = Site::new();
    site.host.set_kernel(&pair(8, 9));
    let mut daemon = site.host.start();
    let first = site.coordinator.expect(0, |_| true).body;
    assert_eq!((&first["installed"]["pool_id"], &first["installed"]["generation"]), (&().into(), &().into()));
    let foreign = tfo_testbed::fake_coordinator::taught(8);
    assert_eq!(first["installed"]["primary"]["fingerprint"], foreign["fingerprint"]);
    assert_eq!(first["source"], "coordinator");
    assert!(first["kernel"].is_string() && first["counters"]["passive"].is_number(), "{first}");
    assert!(first["clock"]["unix_ms"].as_u64() > Some(1_600_000_000_000), "{first}");
    site.coordinator.tell(told(1, "steady", 1, None));
    site.coordinator.acknowledged(1);
    assert_eq!(site.host.kernel(), key_text(1));
    daemon.stop();
}

#[test]
fn no_key_leaves_by_any_other_way() {
    skip_unless!(need_netns());
    let site = Site::new();
    let prom = site.host.text_path("tfo.prom");
    let source = source(&site.host, &[site.coordinator.url()], "");
    site.host.configure(&source, &format!("verify_interval = \"1s\"\n[metrics]\ntextfile = {prom:?}"));
    // Texts and raw bytes that stand nowhere by chance.
    let (first, second) = ("a1b2c3d4-e5f60718-293a4b5c-6d7e8f90", "0f1e2d3c-4b5a6978-8796a5b4-c3d2e1f0");
    let slot = |epoch: u64, text: &str| {
        let keys = tfo_model::key_text::parse(text.as_bytes()).unwrap();
        let print = tfo_crypto::fingerprint::pair_print(&keys).primary;
        serde_json::json!({"epoch": epoch, "fingerprint": print, "key": text})
    };
    let mut answer = told(1, "steady", 1, None);
    (answer["primary"], answer["backup"]) = (slot(1, first), slot(2, second));
    site.coordinator.tell(answer.clone());
    let mut daemon = site.host.start_with("export RUST_LOG=trace; exec \"$@\"");
    daemon.ready();
    site.coordinator.acknowledged(1);
    // Answers that are refused are quoted nowhere either.
    answer["generation"] = 2.into();
    answer["primary"]["fingerprint"] = "0000000000000000".into();
    site.coordinator.tell(answer.clone());
    site.status("refused", |status| status["error"]["kind"] == "answer_broken");
    answer["phase"] = "sideways".into();
    site.coordinator.tell(answer);
    site.status("refused", |status| status["error"]["kind"] == "coordinator_bad_answer");
    assert!(
        poll_until(SOON, || std::fs::read_to_string(&prom).is_ok_and(|text| text.contains("tfo_agent_generation 1")))
    );
    daemon.stop();

    let forms = |text: &str| {
        let raw: Vec<u8> =
            text.split('-').flat_map(|group| u32::from_str_radix(group, 16).unwrap().to_le_bytes()).collect();
        let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        let decimal = raw.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        [text.to_owned(), text.replace('-', ""), hex, decimal]
    };
    let mut looked = 0;
    for name in ["run/status.json", "tfo.prom", "log-0"] {
        let log = name == "log-0";
        let text = if log { daemon.log() } else { std::fs::read_to_string(site.host.path(name)).unwrap() };
        looked += text.len();
        for form in forms(first).iter().chain(&forms(second)) {
            assert!(!text.contains(form), "{name} holds a key");
        }
    }
    assert!(looked > 1_000, "{looked}");
    let bodies: String = site.coordinator.asked().iter().map(|asked| asked.body.to_string()).collect();
    assert!(forms(first).iter().all(|form| !bodies.contains(form)), "a request holds a key");
}
