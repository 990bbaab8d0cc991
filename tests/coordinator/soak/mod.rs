//! A fleet of 200 simulated agents and three real ones under faults, for 20 minutes with `tests/run --full`, otherwise for 20 seconds:
//! rotation after rotation while agents vanish, are cut off, are slow, are killed or frozen, and the coordinator is killed.
//!
//! The coordinator is killed only in the first third: the rest is one life, in which growth is measured.
//! Held at every installation of every simulated agent: the invariant of docs/protocol.md#the-theorem against all
//! others, and no generation missed (no agent is excluded, so every barrier waits for all of them).  Held all the time:
//! the same between the kernels of the real agents.  Held at the end: every audit entry is there and in order, all
//! agents hold the last generation, and nothing of the coordinator, nor of an agent, has grown.
//! `TFO_SOAK_SECS` and `TFO_SOAK_SEED` choose a length and repeat the faults of a run.
#![expect(clippy::disallowed_methods, reason = "a test reads the clock")]

mod real;
mod size;

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use real::Agents;
use size::Size;
use tfo_testbed::coordinator::World;
use tfo_testbed::pki::Ca;
use tfo_testbed::random::Dice;
use tfo_testbed::soaked::{Soaked, soaked};
use tfo_testbed::swarm::{Fault, Plan, Swarm, lock};
use tfo_testbed::{NetNs, by_size, need_netns, poll_until, skip_unless};

/// Simulated agents.
const AGENTS: usize = 200;
/// All agents.
const ALL: usize = AGENTS + real::AGENTS;
const FULL_SECS: u64 = 20 * 60;
const SHORT_SECS: u64 = 20;
/// From this length on the fleet has long come back when growth is measured.
const LONG_SECS: u64 = 120;
/// Between two faults.
const FAULT_EVERY: Duration = Duration::from_millis(150);
/// Between two kills of the coordinator, and between two faults of real agents, on average, in faults.
const FAULTS_PER_KILL: u64 = 300;
const FAULTS_PER_REAL_FAULT: u64 = 20;
/// The share of the run in which the coordinator is killed, as a divisor.
const KILLS_UNTIL: u32 = 3;
/// Parts of the coordinator's last life: growth is judged from the second to the last.
const PARTS: usize = 4;

/// What was done.
#[derive(Debug, Default)]
struct Done {
    rotations: u64,
    faults: u64,
    kills: u64,
    /// Of the parts of the coordinator's last life; none where no sample was taken.
    peaks: [Option<Size>; PARTS],
}

fn say(text: &str) {
    // Past libtest, which would keep it to itself.
    std::io::stderr().write_all(format!("soak: {text}\n").as_bytes()).unwrap();
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn a_fleet_rotates_for_long_and_nothing_grows_or_is_missed() {
    skip_unless!(need_netns());
    let secs = number("TFO_SOAK_SECS").unwrap_or(by_size(SHORT_SECS, SHORT_SECS, FULL_SECS));
    let seed = number("TFO_SOAK_SEED").unwrap_or_else(|| tfo_crypto::random::fresh_u64().unwrap()).max(1);
    say(&format!("{AGENTS} agents and {} real ones, {secs} s, TFO_SOAK_SEED={seed}", real::AGENTS));
    // Threads and processes that are started inside stay inside.
    let center = NetNs::new();
    center.become_hub();
    center.run(|| soak(&center, secs, Dice::new(seed)));
}

fn soak(center: &NetNs, secs: u64, dice: Dice) {
    let mut world = World::new(&format!(
        "interval = \"7d\"\nexpected_nodes = {ALL}\npromote_waves = [\"10%\", \"100%\"]\ndrain_max = \"0s\"\n\
         health_window = \"0s\"\n"
    ));
    open(&world);
    let authority = Ca::new("swarm");
    world.put("ca.crt", format!("{}{}", world.ca.pem, authority.pem).as_bytes(), 0o644);
    world.start();
    let plan = Plan { strict: true, ..Plan::for_one(world.api, world.ca.pem.clone(), 0..AGENTS) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let swarm = {
        let _inside = runtime.enter();
        Swarm::start(plan, authority)
    };
    let mut real = Agents::start(center, &world);
    begin(&world, &swarm);
    let done = shake(&mut world, (&swarm, &mut real), dice, Duration::from_secs(secs));
    real.mend();
    real.settled(&settle(&world, &swarm));
    judge(&world, &swarm, &done, secs >= LONG_SECS);
    real.end();
    runtime.block_on(swarm.end());
    assert!(world.stop().success());
    soaked(Soaked::Real, Duration::from_secs(secs));
}

/// Lets the real agents reach the coordinator over their wires too: this network has no other clients.
fn open(world: &World) {
    let server = world.ca.both(&["localhost", "127.0.0.1", real::ADDRESS]);
    world.put("server.crt", server.cert_pem.as_bytes(), 0o644);
    world.put("server.key", server.key_pem.as_bytes(), 0o600);
    let config = std::fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let (here, anywhere) = (format!("\"{}\"", world.api), format!("\"0.0.0.0:{}\"", world.api.port()));
    world.put("coordinator.toml", config.replace(&here, &anywhere).as_bytes(), 0o644);
}

/// Every agent has the first key, and rotations may start.
fn begin(world: &World, swarm: &Swarm) {
    assert!(poll_until(Duration::from_secs(60), || swarm.connected() == AGENTS), "{} came", swarm.connected());
    let operator = world.operator();
    let (status, body) = operator.post("/v1/pools/edge/rotations", &json!({"mode": "first", "reason": "soak"}));
    assert_eq!(status, 200, "{body}");
    world.until("everybody has the first key", |pool| pool["converged"] == ALL);
    let (status, body) = operator.post("/v1/pools/edge/resume", &json!({}));
    assert_eq!(status, 200, "{body}");
}

/// Faults and rotations until the time is over.
fn shake(world: &mut World, (swarm, real): (&Swarm, &mut Agents), mut dice: Dice, length: Duration) -> Done {
    let (mut done, start) = (Done::default(), Instant::now());
    let (operator, calm) = (world.operator(), length / KILLS_UNTIL);
    // On a busy machine one round can be longer than a part.
    while start.elapsed() < length || done.peaks.iter().any(Option::is_none) {
        std::thread::sleep(FAULT_EVERY);
        let time = Duration::from_millis(dice.below(2_000));
        done.faults += 1;
        real.tend();
        let none_yet = done.kills == 0 && start.elapsed() > calm / 2;
        if start.elapsed() < calm && (dice.below(FAULTS_PER_KILL) == 0 || none_yet) {
            world.kill();
            std::thread::sleep(time / 2);
            world.start();
            done.kills += 1;
        } else if dice.below(FAULTS_PER_REAL_FAULT) == 0 {
            real.fault(&mut dice, time);
        } else {
            disturb(swarm, &mut dice, time);
        }
        // Refused while one runs, or, after a kill, before the coordinator has heard every agent.
        let (status, _) = operator.post("/v1/pools/edge/rotations", &json!({"mode": "normal", "reason": "soak"}));
        done.rotations += u64::from(status == 200);
        assert!(lock(&swarm.counts().violations).is_empty(), "{:?}", lock(&swarm.counts().violations));
        if let Some(life) = start.elapsed().checked_sub(calm) {
            let part = life.as_millis() * PARTS as u128 / (length - calm).as_millis();
            let first_empty = done.peaks.iter().position(Option::is_none).unwrap_or(PARTS - 1);
            let peak = &mut done.peaks[usize::try_from(part).unwrap().min(first_empty)];
            let revision = operator.get("/v1/pools/edge").1["revision"].as_u64().unwrap();
            let sample = Size::of(world, real.eldest(), revision);
            *peak = Some(peak.map_or(sample, |peak| peak.peak(sample)));
        }
    }
    done
}

/// Does something to a simulated agent.
fn disturb(swarm: &Swarm, dice: &mut Dice, time: Duration) {
    let agent = usize::try_from(dice.below(AGENTS as u64)).unwrap();
    swarm.fault(
        agent,
        match dice.below(3) {
            0 => Fault::Vanish(time),
            1 => Fault::Cut,
            _ => Fault::Slow(time),
        },
    );
}

/// Without faults everything comes to rest at one generation; gives the pool.
fn settle(world: &World, swarm: &Swarm) -> Value {
    let mut last = (Value::Null, String::new());
    let rests = poll_until(Duration::from_secs(120), || {
        let pool = world.operator().get("/v1/pools/edge").1;
        let generations = swarm.generations();
        let generation = pool["generation"].as_u64().unwrap_or(0);
        let rests = pool["phase"] == "steady" && generations.get(&generation) == Some(&AGENTS);
        last = (pool, format!("{generations:?}"));
        rests
    });
    assert!(rests, "no rest: {last:#?}\n{:?}", lock(&swarm.counts().troubles));
    last.0
}

fn judge(world: &World, swarm: &Swarm, done: &Done, long: bool) {
    let entries = audit(world);
    let mut text = String::new();
    for (part, peak) in done.peaks.iter().enumerate() {
        write!(text, "\nsoak: part {} of {PARTS} of the last life: {peak:?}", part + 1).unwrap();
    }
    say(&format!(
        "{} rotations, {} faults, {} kills of the coordinator, {} audit entries, generation {}; troubles {:?}{text}",
        done.rotations,
        done.faults,
        done.kills,
        entries.len(),
        swarm.generations().keys().next().unwrap(),
        *lock(&swarm.counts().troubles)
    ));
    assert!(lock(&swarm.counts().violations).is_empty(), "{:?}", lock(&swarm.counts().violations));
    assert!(done.rotations > 0 && done.kills > 0, "{done:?}");
    let staged = entries.iter().filter(|entry| entry["action"] == "rotate").count() as u64;
    // One whose answer was lost with its coordinator may have been done.
    assert!((done.rotations..=done.rotations + done.kills).contains(&staged), "{staged} staged, {done:?}");
    // Zeros in place of a part would show growth that is none, or hide it.
    let parts = done.peaks.map(|peak| peak.expect("it lasts until each part of the last life has a sample"));
    let grown = size::grown(&parts, ALL as u64, long);
    assert!(grown.is_empty(), "{grown:?}: {parts:#?}");
}

/// The whole audit log: revision by revision, with the steps of the walk in their order.
fn audit(world: &World) -> Vec<Value> {
    let (operator, mut entries) = (world.operator(), Vec::<Value>::new());
    loop {
        let after = entries.last().map_or(0, |entry| entry["revision"].as_u64().unwrap());
        let (status, page) = operator.get(&format!("/v1/pools/edge/audit?after={after}"));
        assert_eq!(status, 200, "{page}");
        entries.extend(page["entries"].as_array().unwrap().iter().cloned());
        if page["more"] != true {
            break;
        }
    }
    // Every barrier waits for every agent.
    let excluded: Vec<&Value> = entries.iter().filter(|entry| entry["action"] == "exclude").collect();
    assert!(excluded.is_empty(), "{excluded:?}");
    let number = |entry: &Value, name: &str| entry[name].as_u64().unwrap();
    for pair in entries.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        assert_eq!(number(after, "revision"), number(before, "revision") + 1, "{before} {after}");
        let tells = ["first_key", "rotate", "promote"].iter().any(|action| after["action"] == **action);
        let raised = number(after, "generation") - number(before, "generation");
        assert_eq!(raised, u64::from(tells), "{before} {after}");
        assert!(before["at"].as_str() <= after["at"].as_str(), "{before} {after}");
        let text = |entry: &Value| entry["action"].as_str().unwrap().to_owned();
        let may_follow: &[&str] = match text(after).as_str() {
            "rotate" => &["settle", "resume"],
            "promote" => &["rotate"],
            "open_wave" | "take_in" => &["promote", "open_wave", "take_in"],
            "settle" => &["promote", "open_wave", "take_in"],
            _ => continue,
        };
        assert!(may_follow.contains(&text(before).as_str()), "{before} {after}");
    }
    entries
}
