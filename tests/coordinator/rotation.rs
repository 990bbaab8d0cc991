//! A whole rotation, phase by phase.

use super::with_first_key;
use serde_json::json;

use tfo_testbed::config::FAST;

#[test]
fn three_nodes_walk_through_a_rotation_and_nothing_moves_before_its_barrier() {
    let (world, mut nodes) = with_first_key(FAST);
    let steady = world.pool();
    assert_eq!((steady["phase"].as_str(), steady["generation"].as_u64()), (Some("steady"), Some(1)));
    assert_eq!(nodes.iter().map(|node| node.epochs()).collect::<Vec<_>>(), [[1], [1], [1]]);

    let (status, done) = world.operator().post("/v1/pools/edge/rotations", &json!({"reason": "a test"}));
    assert_eq!((status, done["action"].as_str()), (200, Some("rotate")), "{done}");
    for expected in [(2, "staged", vec![1, 2]), (3, "promoted", vec![2, 1])] {
        let (generation, phase, epochs) = expected;
        // Two of three have it: the barrier holds.
        for node in &mut nodes[..2] {
            assert_eq!(node.step(), generation);
            // The phase of its own slots: nothing would tell a promoted node that the promotion has ended.
            let own = if phase == "promoted" { "steady" } else { phase };
            assert_eq!((node.epochs(), node.told["phase"].as_str()), (epochs.clone(), Some(own)));
            assert_eq!(node.sync(0).0, 204);
        }
        let pool = world.until("the third is waited for", |pool| pool["converged"] == 2);
        assert_eq!(pool["waiting_for"], json!(["c.cache.example.org"]));
        assert_eq!((&pool["phase"], &pool["blocked_by"]), (&json!(phase), &json!("barrier")));
        assert_eq!(nodes[2].step(), generation);
        assert_eq!(nodes[2].epochs(), epochs);
        nodes[2].sync(0);
    }
    let pool = world.until("steady again", |pool| pool["phase"] == "steady");
    assert_eq!((pool["generation"].as_u64(), pool["primary"]["epoch"].as_u64()), (Some(3), Some(2)));
    assert_eq!((pool["backup"]["epoch"].as_u64(), pool["blocked_by"].as_str()), (Some(1), Some("schedule")));

    let (_, nodes) = world.operator().get("/v1/pools/edge/nodes");
    assert_eq!(nodes["fingerprints"].as_array().unwrap().len(), 1, "{nodes}");
    assert_eq!(nodes["fingerprints"][0]["nodes"], 3);
    let (_, audit) = world.operator().get("/v1/pools/edge/audit");
    let actions: Vec<_> = audit["entries"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(json!(actions), json!(["first_key", "resume", "rotate", "promote", "settle"]));
    assert_eq!(audit["entries"][2]["operator"], tfo_testbed::coordinator::OPERATOR);
    assert_eq!(audit["entries"][3]["operator"], json!(null));
}
