//! What a SPIFFE ID may do at a coordinator: what it is for, and what the configuration says of its name.

use serde_json::{Value, json};

use tfo_testbed::coordinator::{Client, Node, OPERATOR, VIEWER, World};

const DOMAIN: &str = "fleet.example.org";
const A: &str = "a.cache.example.org";

fn world() -> World {
    let mut world = World::new("");
    let text = std::fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let text = text.replace("[access]\n", &format!("[access]\nspiffe_trust_domain = {DOMAIN:?}\n"));
    world.put("coordinator.toml", text.as_bytes(), 0o644);
    world.start();
    world
}

fn id(domain: &str, purpose: &str, name: &str) -> String {
    format!("spiffe://{domain}/tfo/{purpose}/{name}")
}

#[test]
fn the_purpose_of_an_id_and_the_lists_of_the_configuration_decide_together() {
    let world = world();
    let of = |purpose: &str, name: &str| world.client(&[&id(DOMAIN, purpose, name)]);
    let mut node = Node::new(of("node", A), A);
    assert_eq!(node.sync(0).0, 204, "an empty pool");
    assert_eq!(of("operator", OPERATOR).post("/v1/pools/edge/pause", &json!({})).0, 200);
    assert_eq!(of("viewer", VIEWER).get("/v1/pools").0, 200);
    // DNS names are what they were.
    assert_eq!(world.operator().post("/v1/pools/edge/resume", &json!({})).0, 200);
    assert_eq!(world.client(&[VIEWER]).get("/v1/pools").0, 200);

    let pause = |client: &Client| client.post("/v1/pools/edge/pause", &json!({})).1["kind"].clone();
    let look = |client: &Client| client.get("/v1/pools").1["kind"].clone();
    let sync = |client: Client, name: &str| Node::new(client, name).sync(0).1["kind"].clone();
    // A name in a list is worth nothing with an ID that is for something else.
    for purpose in ["node", "viewer", "coordinator"] {
        assert_eq!(pause(&of(purpose, OPERATOR)), "not_allowed", "{purpose}");
    }
    for (purpose, name) in [("node", VIEWER), ("operator", VIEWER), ("coordinator", VIEWER), ("viewer", OPERATOR)] {
        assert_eq!(look(&of(purpose, name)), "not_allowed", "{purpose} {name}");
    }
    for purpose in ["operator", "viewer", "coordinator"] {
        assert_eq!(sync(of(purpose, A), A), "not_a_node", "{purpose}");
    }
    // Nor is the purpose without the name.
    assert_eq!(pause(&of("operator", "ops9.example.org")), "not_allowed");
    assert_eq!(look(&of("viewer", "view9.example.org")), "not_allowed");
    assert_eq!(sync(of("node", "a.other.example.org"), "a.other.example.org"), "not_in_pool");
    // A node with an operator's name, above all, gets no certificate without its ID.
    for purpose in ["node", "operator"] {
        let (status, answer) = of(purpose, OPERATOR).post("/v1/certificate", &json!({"csr": ""}));
        assert_eq!((status, &answer["kind"]), (403, &json!("not_allowed")), "{purpose}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains("SPIFFE"), "{purpose}: {answer}");
    }
    // What is not an ID of the domain names no peer, whatever else is in the certificate.
    for names in [
        vec![id("other.example.org", "operator", OPERATOR)],
        vec![id("other.example.org", "operator", OPERATOR), OPERATOR.to_owned()],
        vec![id(DOMAIN, "node", A), OPERATOR.to_owned()],
        vec![id(DOMAIN, "operator", OPERATOR), id(DOMAIN, "node", A)],
    ] {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let client = world.client(&names);
        assert_eq!((pause(&client), look(&client)), (json!("not_allowed"), json!("not_allowed")), "{names:?}");
        assert_eq!(sync(client, A), "not_allowed", "{names:?}");
    }
    let (_, nodes) = world.operator().get("/v1/pools/edge/nodes");
    let known: Vec<&Value> = nodes["nodes"].as_array().unwrap().iter().map(|node| &node["node"]).collect();
    assert_eq!(known, [A], "only the node has joined");
}
