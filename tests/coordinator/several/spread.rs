//! 300 agents share three coordinators, and do so again after each of them was restarted (in shortened times: what takes
//! agents up to forty minutes takes these eight seconds).

use std::time::Duration;

use serde_json::json;
use tfo_engine::route::Returns;
use tfo_testbed::coordinator::runtime;
use tfo_testbed::etcd::need_etcd;
use tfo_testbed::pki::Ca;
use tfo_testbed::swarm::{Plan, Swarm, lock};
use tfo_testbed::{PATIENCE, poll_until, skip_unless};

use super::Several;

const AGENTS: usize = 300;
const COORDINATORS: usize = 3;
const RETURNS: Returns = Returns { after: Duration::from_secs(2), spread: Duration::from_secs(6) };

/// Each has a third of them, within fifteen in a hundred.
fn is_even(loads: &[usize]) -> bool {
    let third = AGENTS / COORDINATORS;
    loads.iter().sum::<usize>() == AGENTS && loads.iter().all(|load| load.abs_diff(third) * 100 <= third * 15)
}

#[test]
fn agents_share_the_coordinators_also_after_a_rolling_restart() {
    skip_unless!(need_etcd());
    let authority = Ca::new("swarm");
    let pool = format!(
        "interval = \"7d\"\nexpected_nodes = {AGENTS}\npromote_waves = [\"100%\"]\ndrain_max = \"0s\"\n\
         health_window = \"0s\"\nabsent_after = \"30s\"\n"
    );
    let mut several = Several::started(COORDINATORS, &pool, &[&authority]);
    // By name, because an address of a test is another one each time, and so would be the shares: 96, 98 and 106.
    let servers = (0..COORDINATORS).map(|number| (format!("https://tfo{number}.example.net"), several.api(number)));
    let plan = Plan {
        servers: servers.collect(),
        returns: RETURNS,
        poll_secs: 1,
        strict: true,
        ..Plan::for_one(several.api(0), several.world().ca.pem.clone(), 0..AGENTS)
    };
    let runtime = runtime();
    let swarm = {
        let _inside = runtime.enter();
        Swarm::start(plan, authority)
    };
    assert!(
        poll_until(PATIENCE, || is_even(&swarm.loads())),
        "at first: {:?}, {:?}",
        swarm.loads(),
        lock(&swarm.counts().troubles)
    );
    let operator = several.operator(0);
    let (status, body) = operator.post("/v1/pools/edge/rotations", &json!({"mode": "first", "reason": "begin"}));
    assert_eq!(status, 200, "{body}");
    let all_have_it = |number: usize, several: &Several| {
        several.until(number, "/v1/pools/edge", "converged", |pool| pool["converged"] == AGENTS)
    };
    all_have_it(1, &several);
    assert_eq!(operator.post("/v1/pools/edge/resume", &json!({})).0, 200);

    for number in 0..COORDINATORS {
        assert!(several.process(number).stop().success());
        let are_elsewhere = poll_until(PATIENCE, || {
            let loads = swarm.loads();
            // At any time some of them try whether it is back.
            loads[number] == 0 && loads.iter().sum::<usize>() * 10 >= AGENTS * 9
        });
        assert!(are_elsewhere, "{number} is away: {:?}, {:?}", swarm.loads(), lock(&swarm.counts().troubles));
        several.start(number);
    }
    assert!(!is_even(&swarm.loads()), "they come back slowly: {:?}", swarm.loads());
    let even = poll_until(PATIENCE, || is_even(&swarm.loads()));
    assert!(even, "after the restarts: {:?}, {:?}", swarm.loads(), lock(&swarm.counts().troubles));

    // All of them drive, and none has lost a node.
    let (status, body) = several.operator(2).post("/v1/pools/edge/rotations", &json!({"reason": "after"}));
    assert_eq!(status, 200, "{body}");
    several.until(1, "/v1/pools/edge", "rotated", |pool| {
        pool["phase"] == "steady" && pool["primary"]["epoch"] == 2 && pool["converged"] == AGENTS
    });
    assert!(lock(&swarm.counts().violations).is_empty(), "{:?}", lock(&swarm.counts().violations));
    runtime.block_on(swarm.end());
}
