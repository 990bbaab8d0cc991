//! A fleet that has a static key comes under a coordinator, while it serves.

use reqwest::Method;
use serde_json::{Value, json};

use tfo_testbed::levers::{Fleet, inside};

#[test]
fn a_static_key_is_taken_over_and_rotated_away() {
    inside(|| {
        let mut fleet = Fleet::start(4);
        fleet.share_static_key();
        fleet.serve_all(4);
        fleet.costs_nothing("a static key imported and rotated away", |fleet| {
            (1..=4).for_each(|node| fleet.start_agent(node));
            fleet.until("everybody is admitted", |pool| pool["required"] == 4);
            let done = fleet.import(4);
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
    });
}

#[test]
fn a_first_key_is_refused_where_a_static_key_serves() {
    inside(|| {
        let mut fleet = Fleet::start(2);
        fleet.share_static_key();
        (1..=2).for_each(|node| fleet.start_agent(node));
        fleet.until("everybody is admitted", |pool| pool["required"] == 2);
        let first = json!({"mode": "first", "reason": "test", "expect": {"number": 2}});
        let refused = fleet.ask(&Method::POST, "/rotations", Some(&first)).expect_err("there is a key already");
        assert!(refused.contains(" nodes share key "), "{refused}");
        fleet.end();
    });
}
