//! An operator who does it wrongly: nodes that read files, written in a bad order.  Clients, kernels and the demo's own
//! judge must notice.  Rotations without staging are those of `tfo-demo --naive` (demo.rs).

use std::time::Duration;

use tfo_crypto::random::fresh_key;
use tfo_model::key::{KeyPair, TfoKey};
use tfo_model::key_text::KeyText;
use tfo_testbed::levers::{Fleet, inside};

const NODES: usize = 4;
/// From node to node.
const NODE_TO_NODE: Duration = Duration::from_millis(700);

/// A fleet that serves with one key from files.
fn with_files(key: &TfoKey) -> Fleet {
    let mut fleet = Fleet::start(NODES);
    for node in 1..=NODES {
        fleet.from_file(node, &KeyText::of_key(key));
        fleet.start_agent(node);
    }
    fleet.until_all(NODES, "ready", |status| status["state"] == "ok" && !status["primary"].is_null());
    fleet.serve_all(NODES);
    fleet
}

/// Writes these keys to the nodes' files, one after the other; at least one in so many connections is rejected.
fn rejects(fleet: &mut Fleet, name: &str, steps: &[(usize, KeyText)], one_in: u64) {
    assert_eq!(fleet.faults(), [""; 0]);
    let cost = fleet.cost_of(name, |fleet| {
        for (node, keys) in steps {
            fleet.replace_keys(*node, keys);
            std::thread::sleep(NODE_TO_NODE);
        }
    });
    assert!(cost.rejected > cost.connections / one_in && cost.passive_fail > 0, "{cost:?}");
    let faults = fleet.faults();
    assert!(faults.iter().any(|fault| fault.contains("connections with a cookie were rejected")), "{faults:?}");
}

#[test]
fn promoting_before_everybody_is_staged_is_seen_to_reject() {
    inside(|| {
        let [old, new] = [fresh_key().unwrap(), fresh_key().unwrap()];
        let mut fleet = with_files(&old);
        let pair = |primary: &TfoKey, backup: &TfoKey| {
            KeyText::of(&KeyPair::new(primary.duplicate(), Some(backup.duplicate())).unwrap())
        };
        let staged = (1..NODES).map(|node| (node, pair(&old, &new)));
        let promoted = (1..=NODES).map(|node| (node, pair(&new, &old)));
        // One node of four does not know the new key for as long as the others take to be promoted.
        rejects(&mut fleet, "the last node is not staged", &staged.chain(promoted).collect::<Vec<_>>(), 100);
        fleet.end();
    });
}
