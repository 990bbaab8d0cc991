//! `coordinators`, and `coordinators forget`.

use serde_json::{Value, json};

use super::fake::{Operator, Reply, ago, pool, refusal, three};

const PATH: &str = "/v1/pools/edge/coordinators";

fn coordinator(name: &str, with: &[(&str, Value)]) -> Value {
    let mut one = json!({
        "name": name, "answers": false, "release": "0.1.0", "life": 4, "nodes": 100, "beat_at": ago(200), "silent": false,
        "clock_ahead_secs": 0, "policy_differs": []
    });
    for (key, value) in with {
        one[key] = value.clone();
    }
    one
}

#[test]
fn they_are_listed_and_one_that_is_gone_is_forgotten() {
    let (operator, api) = Operator::with(&pool(json!({})), &three());
    let all = json!({"pool": "edge", "coordinators": [
        coordinator("tfo1", &[("answers", json!(true))]),
        coordinator("tfo2", &[("clock_ahead_secs", json!(75)), ("policy_differs", json!(["interval", "nodes"]))]),
        coordinator("tfo3", &[("silent", json!(true)), ("clock_ahead_secs", Value::Null), ("nodes", json!(2)), ("beat_at", ago(7_300))]),
        coordinator("tfo4", &[("release", Value::Null), ("life", Value::Null), ("beat_at", Value::Null), ("nodes", json!(0))]),
    ]});
    api.ok(&format!("GET {PATH}"), all.clone());
    let shown = operator.ok(&["coordinators"]);
    let lines: Vec<Vec<&str>> =
        shown.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(
        lines,
        [
            vec!["NAME", "RELEASE", "LIFE", "NODES", "BEAT", "CLOCK", "NOTE"],
            vec!["tfo1", "0.1.0", "4", "100", "3m ago", "+0s", "answers"],
            vec![
                "tfo2",
                "0.1.0",
                "4",
                "100",
                "3m ago",
                "+75s",
                "its clock is off; its file differs in interval, nodes"
            ],
            vec!["tfo3", "0.1.0", "4", "2", "2h ago", "-", "silent: its nodes are to ask another one"],
            vec!["tfo4", "-", "-", "0", "-", "+0s"],
        ],
        "{shown}"
    );
    assert_eq!(operator.json(&["coordinators"], 0), all, "as the API has it");

    let left = json!({"pool": "edge", "coordinators": [coordinator("tfo1", &[])]});
    api.ok(&format!("POST {PATH}"), left.clone());
    let forgotten = operator.json(&["coordinators", "forget", "tfo3", "--reason", "its host is gone"], 0);
    assert_eq!(forgotten, left);
    let orders = api.orders();
    assert_eq!((orders.len(), &orders[0].body), (1, &json!({"forget": "tfo3", "reason": "its host is gone"})));
    let alive = Reply::Json(409, refusal("refused", "tfo2 is alive, it beats: stop it first"));
    api.on(&format!("POST {PATH}"), [alive]);
    let (_, stderr) = operator.ends(&["coordinators", "forget", "tfo2"], 3);
    assert!(stderr.contains("tfo2 is alive"), "{stderr}");
    operator.ends(&["coordinators", "forget", "not a name"], 2);
}
