//! A fleet that has a static key comes under a coordinator, while it serves.

use serde_json::{Value, json};

use crate::harness::{Fleet, can_run};

#[test]
fn a_static_key_is_taken_over_and_rotated_away() {
    if !can_run() {
        return;
    }
    let mut fleet = Fleet::start(4);
    fleet.order(&json!({"do": "share_static_key"}));
    (1..=4).for_each(|node| fleet.on("serve", node));
    fleet.order(&json!({"do": "start_clients"}));
    fleet.clients_come_round();
    fleet.costs_nothing("a static key imported and rotated away", |fleet| {
        (1..=4).for_each(|node| fleet.on("start_agent", node));
        fleet.until("everybody is admitted", |pool| pool["required"] == 4);
        let done = fleet.order(&json!({"do": "import", "expect": 4}));
        assert_eq!((&done["phase"], &done["action"]), (&json!("steady"), &json!("import")));
        fleet.converged();
        let held = |pool: &Value| pool["primary"]["fingerprint"].clone();
        let old = held(&fleet.pool());
        fleet.command("/resume", &json!({}));
        fleet.rotation();
        assert_eq!(fleet.pool()["backup"]["fingerprint"], old);
        fleet.rotation();
        assert_ne!(fleet.pool()["backup"]["fingerprint"], old);
    });
    fleet.end();
}

#[test]
fn a_first_key_is_refused_where_a_static_key_serves() {
    if !can_run() {
        return;
    }
    let mut fleet = Fleet::start(2);
    fleet.order(&json!({"do": "share_static_key"}));
    (1..=2).for_each(|node| fleet.on("start_agent", node));
    fleet.until("everybody is admitted", |pool| pool["required"] == 2);
    let first = json!({"do": "ask", "method": "POST", "below": "/rotations",
                       "body": {"mode": "first", "reason": "test", "expect": {"number": 2}}});
    let refused = fleet.send(&first);
    let message = refused["error"]["message"].as_str();
    assert!(message.is_some_and(|message| message.ends_with("already; import it")), "{refused}");
    fleet.end();
}
