//! What the pool tells is installed, and acknowledged only then.

use crate::support::daemon::{Daemon, DaemonHost, SOON, key_text};
use crate::support::fake_coordinator::{FakeCoordinator, POOL_ID, Pki, source, told};
use crate::support::{need_netns, poll_until};

/// A host, a coordinator that tells nothing yet, and the way from one to the other.
pub(crate) struct Site {
    pub(crate) host: DaemonHost,
    pub(crate) pki: Pki,
    pub(crate) coordinator: FakeCoordinator,
}

impl Site {
    pub(crate) fn new() -> Self {
        let (host, pki) = (DaemonHost::new(), Pki::new());
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

    /// A daemon that has installed generation 1, [1, 2], and acknowledged it.
    pub(crate) fn started(&self) -> Daemon {
        self.coordinator.tell(told(1, "steady", 1, Some(2)));
        let daemon = self.host.start();
        daemon.ready();
        self.coordinator.acknowledged(1);
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
    if !need_netns() {
        return;
    }
    let site = Site::new();
    site.coordinator.tell(told(4, "staged", 1, Some(2)));
    let mut daemon = site.host.start();
    daemon.ready();
    assert_eq!((site.host.kernel(), site.host.persisted_keys()), (pair(1, 2), Some(pair(1, 2))));
    let file = site.host.persisted().unwrap();
    assert!(file.contains(&format!("# pool_id: {POOL_ID}\n# generation: 4\n# phase: staged\n")), "{file}");
    site.coordinator.acknowledged(4);
    let asked = site.coordinator.asked();
    assert_eq!(asked[0].path, "/v1/pools/text/sync");
    let first = &asked[0].body;
    assert_eq!((&first["seen"], &first["installed"]), (&0.into(), &serde_json::Value::Null));
    let ack = &asked[1].body;
    assert_eq!((&ack["seen"], &ack["session"]), (&4.into(), &first["session"]));
    assert_eq!(ack["installed"]["pool_id"], POOL_ID);
    assert_eq!(asked[0].connection, asked[1].connection, "one connection");
    let status = site.status("connected", |status| status["contact"] == "connected");
    assert_eq!(
        (&status["pool"], &status["generation"], &status["phase"]),
        (&"text".into(), &4.into(), &"staged".into())
    );
    assert_eq!(status["state"], "ok");
    assert!(status["last_contact_at"].is_string());
    daemon.stop();
}

#[test]
fn a_new_generation_comes_through_the_long_poll() {
    if !need_netns() {
        return;
    }
    let site = Site::new();
    let mut daemon = site.started();
    site.coordinator.tell(told(2, "staged", 1, Some(3)));
    site.coordinator.acknowledged(2);
    assert_eq!(site.host.kernel(), pair(1, 3));
    site.coordinator.tell(told(3, "promoted", 3, Some(1)));
    let ack = site.coordinator.acknowledged(3);
    assert_eq!(site.host.kernel(), pair(3, 1));
    assert_eq!((ack.connection, site.coordinator.asked()[0].connection), (0, 0), "one connection for all");
    daemon.stop();
}
