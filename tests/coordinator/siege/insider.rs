//! An enrolled node that asks without end, begins a session with each request, and never says the same thing twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use crate::with_first_key;
use tfo_testbed::by_size;
use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::Node;

/// Connections of the flood: as many as one certificate may have.
const FLOODS: usize = 8;

/// Ends the flood with the test, also when it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One more sync of the flood: another session, and another claim about its keys, its counters and its state.
fn flood(evil: &mut Node, turn: u64) -> u16 {
    evil.new_session();
    match turn % 3 {
        0 => evil.installed = serde_json::Value::Null,
        _ => evil.install(),
    }
    // Every edge of a counter, in an order that rises and falls.
    let edges = [0, 1, u64::from(u32::MAX), 1 << 53, 1 << 62, u64::MAX];
    let edge = edges[usize::try_from(turn).unwrap() % edges.len()];
    evil.different = json!({
        "counters": {"passive": edge, "passive_alt_key": edge / 2, "passive_fail": u64::MAX - edge},
        "tcp_fastopen": turn % 4,
        "error": if turn % 3 == 1 { json!("sysctl_file") } else { serde_json::Value::Null },
    });
    evil.sync(0).0
}

#[test]
fn one_node_that_floods_and_flaps_disturbs_no_other() {
    let (mut world, mut nodes) = with_first_key(FAST);
    let evil = nodes.pop().unwrap();
    let generation = world.pool()["generation"].clone();
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for number in 0..FLOODS {
            let mut own = Node::new(evil.client.clone(), &evil.name);
            own.told.clone_from(&evil.told);
            let (stop, asked) = (&stop, &asked);
            scope.spawn(move || {
                for turn in (number as u64..).step_by(FLOODS) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let status = flood(&mut own, turn);
                    // 0: its connection gave way to a ninth.
                    assert!(matches!(status, 0 | 200 | 204 | 400 | 409 | 503), "turn {turn}: {status}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _stop = Stop(&stop);
        for _ in 0..by_size(2, 10, 50) {
            for node in &mut nodes {
                // A poll: what the flood says ends it with nothing new, and takes no key from it.
                let (status, body) = node.sync(1);
                assert_eq!(status, 204, "{}: {body}", node.name);
            }
        }
    });
    assert!(asked.load(Ordering::Relaxed) > FLOODS as u64, "it does flood");
    // Whatever it said: one record, no commit, and the pool does what an operator wants.
    let (_, body) = world.operator().get("/v1/pools/edge/nodes");
    assert_eq!(body["nodes"].as_array().unwrap().len(), 3, "{body}");
    assert_eq!(world.pool()["generation"], generation);
    let (status, body) =
        world.operator().post("/v1/pools/edge/nodes", &json!({"action": "deny", "nodes": [evil.name]}));
    assert_eq!(status, 200, "{body}");
    let (status, body) = world.operator().post("/v1/pools/edge/rotations", &json!({"force": true}));
    assert_eq!(status, 200, "{body}");
    for node in &mut nodes {
        assert!(node.step() > generation.as_u64().unwrap());
    }
    world.must_run();
    let log = world.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn what_a_node_writes_is_text_on_the_page() {
    let (world, mut nodes) = with_first_key(FAST);
    let markup = "<script>alert(1)</script>";
    let evil = nodes.last_mut().unwrap();
    evil.different = json!({"kernel": markup, "agent": format!("\"><img src=x onerror={markup}")});
    assert_eq!(evil.sync(0).0, 204);
    let (status, body) = world.operator().post("/v1/pools/edge/pause", &json!({"reason": markup}));
    assert_eq!(status, 200, "{body}");
    let (_, body) = world.operator().get("/v1/pools/edge/nodes");
    assert!(body.to_string().contains(markup), "it is kept as it was said: {body}");
    // On the pages, in the metrics, in the lists: no element of a peer's.
    let node = format!("/pools/edge/nodes/{}", nodes.last().unwrap().name);
    for path in ["/", "/metrics", "/pools/edge/nodes", "/pools/edge/audit", &node] {
        let (status, page) = world.observed(path).unwrap();
        assert!(status == 200 && !page.contains(markup) && !page.contains("<img"), "{path}: {page}");
    }
    let page = world.observed("/").unwrap().1;
    assert!(page.contains("&lt;script&gt;"), "the reason of the pause is shown, and escaped: {page}");
}
