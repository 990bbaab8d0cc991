//! Detached before excluded, by the real agent and the real coordinator (docs/protocol.md#rule-11).
//!
//! A relay between the two shortens the period that the agent declares, so that the shortest `absent_after` decides when
//! it is absent, and cuts the agent off at the worst moment: its last request was recorded, and is answered only when the
//! coordinator has held it for as long as it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::contact::install::Site;
use serde_json::{Value, json};
use tfo_testbed::coordinator::{Client, World};
use tfo_testbed::fake_coordinator::Reply;
use tfo_testbed::{PATIENCE, SOON, need_netns, now, poll_until, skip_unless};

const NAME: &str = "n1.cache.example.org";
const PERIOD_SECS: u64 = 5;
/// How long the agent lets a request be held: no longer than a third of `absent_after`.
const WAIT_SECS: u64 = 10;

/// The agent's way to the coordinator.
#[derive(Default)]
struct Way {
    /// Nothing gets through after the next request that waits for news.
    cut: AtomicBool,
    last_is_through: AtomicBool,
    last_is_answered: AtomicBool,
}

impl Way {
    fn pass(&self, coordinator: &Client, body: &Value) -> Reply {
        let is_last = self.cut.load(Ordering::SeqCst) && body["wait_secs"] == WAIT_SECS;
        if self.last_is_through.load(Ordering::SeqCst) {
            return Reply::Hang;
        }
        self.last_is_through.store(is_last, Ordering::SeqCst);
        let mut body = body.clone();
        body["next_contact_secs"] = PERIOD_SECS.into();
        let (status, answer) = coordinator.post("/v1/pools/edge/sync", &body);
        self.last_is_answered.store(is_last, Ordering::SeqCst);
        match status {
            0 => Reply::Drop,
            204 => Reply::Raw(204, String::new()),
            status => Reply::Json(status, answer),
        }
    }
}

#[test]
fn an_agent_that_is_cut_off_is_detached_before_it_is_excluded() {
    skip_unless!(need_netns());
    let site = Site::new();
    let world = World::started("absent_after = \"30s\"\npromote_waves = [\"100%\"]\n");
    world.ca.equip(&site.host, NAME, 90);
    let coordinator = site.relay_to(&world.ca);
    site.configure_for(&coordinator, &format!("wait = \"{WAIT_SECS}s\""));
    let way = Arc::new(Way::default());
    let (passing, client) = (Arc::clone(&way), world.client(&[NAME]));
    coordinator.relay(move |body| passing.pass(&client, body));
    let mut daemon = site.host.start();
    world.until("known", |pool| pool["required"] == 1);
    let mut other = world.node("b.cache.example.org");
    world.first_key(std::slice::from_mut(&mut other));
    let both = |pool: &Value| (&pool["required"], &pool["converged"]) == (&json!(2), &json!(2));
    world.until("both have the first key", both);
    site.status("connected", |status| status["contact"] == "connected");

    way.cut.store(true, Ordering::SeqCst);
    let is_answered = || way.last_is_answered.load(Ordering::SeqCst);
    let answered = poll_until(2 * SOON, || {
        other.sync(0);
        is_answered()
    });
    assert!(answered, "{}", world.log());
    // A rotation waits for the agent from now on.
    let order = json!({"mode": "normal", "force": true, "reason": "the agent is in the way"});
    let (status, body) = world.operator().post("/v1/pools/edge/rotations", &order);
    assert_eq!(status, 200, "{body}");
    let (began, mut detached_after, mut excluded_after) = (now(), None::<Duration>, None::<Duration>);
    let over = poll_until(PATIENCE, || {
        if other.sync(0).0 == 200 {
            other.install();
        }
        // In this order: it must have been seen detached before.
        let nodes = world.operator().get("/v1/pools/edge/nodes").1;
        let agent = nodes["nodes"].as_array().into_iter().flatten().find(|node| node["node"] == NAME);
        let is_excluded = agent.is_some_and(|node| node["excluded"] == "absent");
        if detached_after.is_none() && !is_excluded && site.host.status()["contact"] == "detached" {
            detached_after = Some(began.elapsed());
        }
        excluded_after = is_excluded.then(|| began.elapsed());
        is_excluded
    });
    assert!(over, "never excluded: {:#}\n{}", world.pool(), world.log());
    println!("detached after {detached_after:?}, excluded after {excluded_after:?}");
    assert!(detached_after.is_some(), "excluded after {excluded_after:?}, and not detached: {}", site.host.status());
    assert_eq!(site.host.status()["contact"], "detached");
    daemon.stop();
}
