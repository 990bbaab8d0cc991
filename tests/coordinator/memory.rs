//! What an agent that waits takes of its coordinator's memory.
//!
//! Of the growth from some agents to many: what the first ones bring is there once for all of them.

use std::fs;
use std::time::Duration;

use serde_json::json;

use tfo_testbed::coordinator::World;
use tfo_testbed::pki::Ca;
use tfo_testbed::swarm::{Plan, Swarm};
use tfo_testbed::{by_size, poll_until};

/// Agents in all; fewer in the short run, in which a build without optimisation shakes hands with them.
const AGENTS: usize = 2_000;
const AGENTS_SHORT: usize = 800;
/// One part in so many comes first.
const FIRST_PART: usize = 4;
/// Most that one of the others may take: 10.4 KiB were measured, and 11.3 with fewer, of a build without optimisation; a release
/// takes as much (docs/explanation/fan-out.md).  hyper's buffers alone would be 16 KiB more, those of rustls four.
const EACH_KIB_MAX: usize = 12;
const EACH_KIB_MAX_SHORT: usize = 13;
/// Longest wait for agents to come.
const PATIENCE: Duration = Duration::from_secs(300);

fn resident_kib(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn an_agent_that_waits_takes_little_memory() {
    tfo_host::runtime::process::raise_file_limit();
    let all = by_size(AGENTS_SHORT, AGENTS, AGENTS);
    let first = all / FIRST_PART;
    let mut world = World::new(&format!(
        "interval = \"7d\"\nexpected_nodes = {first}\npromote_waves = [\"100%\"]\ndrain_max = \"0s\"\n\
         health_window = \"0s\"\n"
    ));
    let authority = Ca::new("swarm");
    world.put("ca.crt", format!("{}{}", world.ca.pem, authority.pem).as_bytes(), 0o644);
    world.start();
    authority.save(&world.path("authority"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let come = |agents: std::ops::Range<usize>| {
        let _inside = runtime.enter();
        let plan = Plan { poll_secs: 50, ..Plan::for_one(world.api, world.ca.pem.clone(), agents) };
        Swarm::start(plan, Ca::load(&world.path("authority")))
    };
    let holds = |swarm: &Swarm, agents: usize| {
        let is_so = poll_until(PATIENCE, || swarm.connected() == agents && swarm.generations() == [(1, agents)].into());
        assert!(is_so, "{} came, of {agents}: {:?}", swarm.connected(), swarm.generations());
    };
    let early = come(0..first);
    assert!(poll_until(PATIENCE, || early.connected() == first), "{} came", early.connected());
    let (status, body) =
        world.operator().post("/v1/pools/edge/rotations", &json!({"mode": "first", "reason": "memory"}));
    assert_eq!(status, 200, "{body}");
    holds(&early, first);
    let before = resident_kib(world.pid());
    let late = come(first..all);
    holds(&late, all - first);
    let after = resident_kib(world.pid());
    let each = after.saturating_sub(before) * 1_024 / (all - first);
    eprintln!(
        "{each} bytes for each of {} more agents ({before} KiB with {first}, {after} KiB with {all})",
        all - first
    );
    let most = by_size(EACH_KIB_MAX_SHORT, EACH_KIB_MAX, EACH_KIB_MAX);
    assert!(each <= most << 10, "{each} bytes for each agent");
    runtime.block_on(async {
        early.end().await;
        late.end().await;
    });
    assert!(world.stop().success());
}
