//! `[[pools.NAME.freeze]]`: a rotation that is due waits for the end of a span, every surface says until when, and a reload
//! that removes the span lets it start.

use serde_json::json;

use rustix::process::Signal;
use tfo_host::runtime::clock;
use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::World;

#[test]
fn a_due_rotation_waits_for_the_calendar_and_starts_without_it() {
    // Due ten seconds after the first key.
    let every_10_s = FAST.replace("interval = \"1d\"", "interval = \"10s\"");
    let (from, until) = (clock::now().minus(60), clock::now().plus(3_600));
    let span = format!("[[pools.edge.freeze]]\nfrom = \"{from}\"\nuntil = \"{until}\"\nreason = \"sale\"\n");
    let mut world = World::new(&format!("{every_10_s}{span}"));
    world.start();
    let mut nodes = world.nodes();
    world.first_key(&mut nodes);
    let waits = world.until("held back", |pool| pool["blocked_by"] == "calendar");
    let until = until.to_string();
    assert_eq!((&waits["phase"], &waits["next_at"]), (&json!("steady"), &json!(until)));
    assert_eq!(waits["calendar"], json!({"from": from.to_string(), "until": until, "reason": "sale"}));
    let sentence = waits["verdict"]["sentence"].as_str().unwrap();
    assert!(sentence.ends_with(&format!("due at {until}: the calendar lets none start before (sale)")), "{sentence}");
    assert_eq!(waits["verdict"]["severity"], "ok");
    let (_, page) = world.observed("/").unwrap();
    assert!(page.contains("The calendar lets none start from ") && page.contains(": sale."), "{page}");
    let (_, metrics) = world.observed("/metrics").unwrap();
    assert!(metrics.contains("pool_blocked{gate=\"calendar\",pool=\"edge\"} 1"), "{metrics}");

    let rotate = |force: bool| {
        let order = json!({"reason": "a test", "force": force});
        world.operator().post("/v1/pools/edge/rotations", &order)
    };
    let (status, refused) = rotate(false);
    assert_eq!(status, 409, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains(&format!("lets no rotation start before {until} (sale)")));
    assert_eq!(waits["rotate_refused"]["until"], until);

    // It is a part of the policy: a reload takes it away, and the rotation starts by itself.
    world.configure(&every_10_s);
    world.signal(Signal::HUP);
    let staged = world.until("started", |pool| pool["phase"] == "staged");
    assert_eq!(staged["calendar"], json!(null));
    // What runs is not stopped by a span that begins meanwhile, nor is what is forced.
    world.configure(&format!("{every_10_s}{span}"));
    world.signal(Signal::HUP);
    for node in &mut nodes {
        node.step();
    }
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    for node in &mut nodes {
        node.step();
    }
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    world.until("back in the calendar", |pool| pool["phase"] == "steady" && !pool["calendar"].is_null());
    let (status, done) = rotate(true);
    assert_eq!((status, &done["action"]), (200, &json!("rotate")), "{done}");
}
