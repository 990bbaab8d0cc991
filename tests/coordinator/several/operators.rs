//! What operators see of several coordinators, and how one that is gone is forgotten.

use rustix::process::Signal;
use serde_json::{Value, json};
use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::Node;
use tfo_testbed::etcd::need_etcd;
use tfo_testbed::{PATIENCE, poll_until, skip_unless};

use super::Several;

const PATH: &str = "/v1/pools/edge/coordinators";

/// What is shown of one.
fn of<'a>(shown: &'a Value, name: &str) -> &'a Value {
    let all = shown["coordinators"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

/// Asks one coordinator to forget another one; the status, and what it says.
fn forget(several: &Several, asked: usize, name: &str) -> (u16, String) {
    let (status, body) = several.operator(asked).post(PATH, &json!({"forget": name, "reason": "gone"}));
    (status, body["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_coordinator_that_stands_still_is_shown_and_forgotten_and_ends_when_it_wakes_up() {
    skip_unless!(need_etcd());
    let pool = format!("{FAST}absent_after = \"30s\"\n");
    let mut several = Several::started(3, &pool, &[]);
    let refused = forget(&several, 0, "tfo2");
    assert!(refused.0 == 409 && refused.1.contains("has just started"), "{refused:?}");
    let mut nodes: Vec<Node> =
        [0, 1, 2].map(|number| several.node(number, &format!("n{number}.cache.example.org"))).into();
    let are_in = poll_until(PATIENCE, || nodes.iter_mut().all(|node| node.sync(0).0 == 204));
    assert!(are_in, "{:?}", nodes[0].sync(0));

    // Each shows all: what they run, and whom they have.
    let shown = several.until(0, PATH, "all beat", |shown| {
        let is_good = |name: &str| {
            let one = of(shown, name);
            one["nodes"] == 1 && one["silent"] == false && one["clock_ahead_secs"].is_i64() && one["life"] == 1
        };
        ["tfo0", "tfo1", "tfo2"].into_iter().all(is_good)
    });
    assert_eq!(of(&shown, "tfo1")["release"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        [of(&shown, "tfo0")["answers"].clone(), of(&shown, "tfo1")["answers"].clone()],
        [json!(true), json!(false)]
    );
    assert_eq!(of(&shown, "tfo2")["policy_differs"], json!([]));
    // A file that is not the pool's policy and was before: shown by all, and nothing else.
    let other = pool.replace("1d", "2d");
    several.configure(1, &other);
    several.process(1).signal(Signal::HUP);
    several.until(2, "/v1/pools/edge", "the reload makes it the pool's", |pool| {
        pool["policy_differs"] == json!(["interval"])
    });
    several.until(1, PATH, "the others differ", |shown| of(shown, "tfo2")["policy_differs"] == json!(["interval"]));

    let refused = forget(&several, 0, "tfo0");
    assert!(refused.0 == 409 && refused.1.contains("the one that answers"), "{refused:?}");
    let refused = forget(&several, 0, "tfo9");
    assert!(refused.0 == 409 && refused.1.contains("there are tfo0, tfo1, tfo2"), "{refused:?}");
    let alive = poll_until(PATIENCE, || forget(&several, 0, "tfo2").1.contains("is alive"));
    assert!(alive, "{:?}", forget(&several, 0, "tfo2"));

    // It stands still, and its node is with it.
    several.process(2).signal(Signal::STOP);
    let held = poll_until(PATIENCE, || forget(&several, 0, "tfo2").1.contains("1 node heard by tfo2 last (n2.cache"));
    assert!(held, "{:?}", forget(&several, 0, "tfo2"));
    let mut moved = several.node(1, "n2.cache.example.org");
    assert!(poll_until(PATIENCE, || moved.sync(0).0 == 204), "{:?}", moved.sync(0));
    let gone = poll_until(PATIENCE, || forget(&several, 0, "tfo2").0 == 200);
    assert!(gone, "{:?}", forget(&several, 0, "tfo2"));
    for asked in [0, 1] {
        let shown = several.until(asked, PATH, "forgotten", |shown| of(shown, "tfo2").is_null());
        assert_eq!(of(&shown, "tfo1")["nodes"], 2, "{shown:#}");
    }
    // No node was lost.
    several.until(0, "/v1/pools/edge", "whole", |pool| pool["unseen"] == 0 && pool["required"] == 3);

    // Its name is not its own any more; the next process of that name is there again.
    several.process(2).signal(Signal::CONT);
    assert!(!several.process(2).ended().success(), "{}", several.process(2).log());
    several.start(2);
    let back = several.until(0, PATH, "back", |shown| of(shown, "tfo2")["clock_ahead_secs"].is_i64());
    assert!(of(&back, "tfo2")["life"].as_u64() > Some(2) && of(&back, "tfo2")["nodes"] == 0, "{back:#}");
}
