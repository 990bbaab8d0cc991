//! A fleet of 200 simulated agents under faults, for 20 minutes with `tests/run --full`, else for 20 seconds: rotation
//! after rotation while agents vanish, are cut off, are slow, and the coordinator is killed.
//!
//! Held at every installation of every agent: the invariant of PROTOCOL.md section 1 against all others, no generation
//! missed (nobody is excluded, so every barrier waits for everybody).  Held at the end: every audit entry is there and in
//! order, all agents hold the last generation, and nothing of the coordinator has grown since the warm-up.
//! `TFO_SOAK_SECS` and `TFO_SOAK_SEED` choose a length and repeat the faults of a run.
#![allow(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::disallowed_methods, reason = "a test reads the clock")]

mod support;
#[allow(dead_code, reason = "the benchmark uses all of it")]
#[path = "support/swarm.rs"]
mod swarm;
#[allow(dead_code, reason = "the tests of the coordinator use all of it")]
#[path = "coordinator/world.rs"]
mod world;

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::{full, poll_until};
use swarm::{Authority, Fault, Plan, Swarm, lock};
use world::World;

const AGENTS: usize = 200;
const FULL_SECS: u64 = 20 * 60;
const SHORT_SECS: u64 = 20;
/// Between two faults.
const FAULT_EVERY: Duration = Duration::from_millis(150);
/// Between two kills of the coordinator, on average, in faults.
const FAULTS_PER_KILL: u64 = 300;
/// Parts of the run: growth is judged from the second to the last.
const PARTS: usize = 4;
/// How far the peak of a later part may be above that of an earlier one: what an allocator keeps, and noise.
const RESIDENT_SLACK_KIB: u64 = 8 << 10;
/// Descriptors besides connections: listeners, database, certificates.
const OTHER_FILES: u64 = 64;
/// The WAL is copied at 16 MiB (src/store/sqlite/open.rs); one transaction may come on top.
const WAL_BYTES_MAX: u64 = 24 << 20;
/// Database beyond its size after the warm-up: the audit log is kept.
const ENTRY_BYTES_MAX: u64 = 2 << 10;
const DATABASE_SLACK_BYTES: u64 = 512 << 10;

/// A generator that can be repeated (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// What the coordinator takes at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    resident_kib: u64,
    files: u64,
    database: u64,
    wal: u64,
}

impl Size {
    fn of(world: &World) -> Self {
        let pid = world.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let bytes = |name| std::fs::metadata(world.path(name)).map_or(0, |metadata| metadata.len());
        Self {
            resident_kib: resident.split_whitespace().next().unwrap().parse().unwrap(),
            files: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64,
            database: bytes("state.db"),
            wal: bytes("state.db-wal"),
        }
    }

    fn peak(self, other: Self) -> Self {
        Self {
            resident_kib: self.resident_kib.max(other.resident_kib),
            files: self.files.max(other.files),
            database: self.database.max(other.database),
            wal: self.wal.max(other.wal),
        }
    }
}

/// What was done.
#[derive(Debug, Default)]
struct Done {
    rotations: u64,
    faults: u64,
    kills: u64,
    peaks: [Size; PARTS],
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
    let secs = number("TFO_SOAK_SECS").unwrap_or(if full() { FULL_SECS } else { SHORT_SECS });
    let seed = number("TFO_SOAK_SEED").unwrap_or_else(|| tfo_fleet::crypto::random::fresh_u64().unwrap()).max(1);
    say(&format!("{AGENTS} agents, {secs} s, TFO_SOAK_SEED={seed}"));
    let mut world = World::new(&format!(
        "interval = \"7d\"\nexpected_nodes = {AGENTS}\npromote_waves = [\"10%\", \"100%\"]\ndrain_max = \"0s\"\n\
         health_window = \"0s\"\n"
    ));
    let authority = Authority::new();
    world.put("ca.crt", format!("{}{}", world.authority.pem, authority.pem).as_bytes(), 0o644);
    world.start();
    let plan = Plan {
        server: world.api,
        server_ca: world.authority.pem.clone(),
        agents: 0..AGENTS,
        poll_secs: 5,
        strict: true,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let swarm = {
        let _inside = runtime.enter();
        Swarm::start(plan, authority)
    };
    begin(&world, &swarm);
    let done = shake(&mut world, &swarm, Dice(seed), Duration::from_secs(secs));
    settle(&world, &swarm);
    judge(&world, &swarm, &done);
    runtime.block_on(swarm.end());
    assert!(world.stop().success());
}

/// Everybody has the first key, and rotations may start.
fn begin(world: &World, swarm: &Swarm) {
    assert!(poll_until(Duration::from_secs(60), || swarm.connected() == AGENTS), "{} came", swarm.connected());
    let operator = world.operator();
    let (status, body) = operator.post("/v1/pools/text/rotations", &json!({"mode": "first", "reason": "soak"}));
    assert_eq!(status, 200, "{body}");
    world.until("everybody has the first key", |pool| pool["converged"] == AGENTS);
    let (status, body) = operator.post("/v1/pools/text/resume", &json!({}));
    assert_eq!(status, 200, "{body}");
}

/// Faults and rotations until the time is over.
fn shake(world: &mut World, swarm: &Swarm, mut dice: Dice, length: Duration) -> Done {
    let (mut done, start) = (Done::default(), Instant::now());
    let operator = world.operator();
    while start.elapsed() < length {
        std::thread::sleep(FAULT_EVERY);
        let agent = usize::try_from(dice.roll(AGENTS as u64)).unwrap();
        let time = Duration::from_millis(dice.roll(2_000));
        done.faults += 1;
        if dice.roll(FAULTS_PER_KILL) == 0 || (done.kills == 0 && start.elapsed() > length / 2) {
            world.kill();
            std::thread::sleep(time / 2);
            world.start();
            done.kills += 1;
        } else {
            swarm.fault(
                agent,
                match dice.roll(3) {
                    0 => Fault::Vanish(time),
                    1 => Fault::Cut,
                    _ => Fault::Slow(time),
                },
            );
        }
        // Refused while one runs, or before everybody was heard after a kill.
        let (status, _) = operator.post("/v1/pools/text/rotations", &json!({"mode": "normal", "reason": "soak"}));
        done.rotations += u64::from(status == 200);
        let part = (start.elapsed().as_millis() * PARTS as u128 / length.as_millis()).min(PARTS as u128 - 1);
        let peak = &mut done.peaks[usize::try_from(part).unwrap()];
        *peak = peak.peak(Size::of(world));
        assert!(lock(&swarm.counts().violations).is_empty(), "{:?}", lock(&swarm.counts().violations));
    }
    done
}

/// Without faults everything comes to rest at one generation.
fn settle(world: &World, swarm: &Swarm) {
    let mut last = (Value::Null, String::new());
    let rests = poll_until(Duration::from_secs(120), || {
        let pool = world.operator().get("/v1/pools/text").1;
        let generations = swarm.generations();
        let generation = pool["generation"].as_u64().unwrap_or(0);
        let rests = pool["phase"] == "steady" && generations.get(&generation) == Some(&AGENTS);
        last = (pool, format!("{generations:?}"));
        rests
    });
    assert!(rests, "no rest: {last:#?}\n{:?}", lock(&swarm.counts().troubles));
}

fn judge(world: &World, swarm: &Swarm, done: &Done) {
    let entries = audit(world);
    let mut text = String::new();
    for (part, peak) in done.peaks.iter().enumerate() {
        write!(text, "\nsoak: part {} of {PARTS}: {peak:?}", part + 1).unwrap();
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
    let staged = entries.iter().filter(|entry| entry["action"] == "stage").count() as u64;
    // One whose answer was lost with its coordinator may have been done.
    assert!((done.rotations..=done.rotations + done.kills).contains(&staged), "{staged} staged, {done:?}");
    let (early, late) = (done.peaks[1], done.peaks[PARTS - 1]);
    assert!(late.resident_kib <= early.resident_kib + early.resident_kib / 4 + RESIDENT_SLACK_KIB, "{done:?}");
    for peak in done.peaks {
        // An agent that was cut and came back may hold two for a moment.
        assert!(peak.files <= 2 * AGENTS as u64 + OTHER_FILES && peak.wal <= WAL_BYTES_MAX, "{done:?}");
    }
    let grown = late.database.saturating_sub(early.database);
    assert!(grown <= DATABASE_SLACK_BYTES + ENTRY_BYTES_MAX * entries.len() as u64, "{done:?}");
}

/// The whole audit log: revision by revision, with the steps of the walk in their order.
fn audit(world: &World) -> Vec<Value> {
    let (operator, mut entries) = (world.operator(), Vec::<Value>::new());
    loop {
        let after = entries.last().map_or(0, |entry| entry["revision"].as_u64().unwrap());
        let (status, page) = operator.get(&format!("/v1/pools/text/audit?after={after}"));
        assert_eq!(status, 200, "{page}");
        entries.extend(page["entries"].as_array().unwrap().iter().cloned());
        if page["more"] != true {
            break;
        }
    }
    let number = |entry: &Value, name: &str| entry[name].as_u64().unwrap();
    for pair in entries.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        assert_eq!(number(after, "revision"), number(before, "revision") + 1, "{before} {after}");
        let tells = ["first_key", "stage", "promote"].iter().any(|action| after["action"] == **action);
        let raised = number(after, "generation") - number(before, "generation");
        assert_eq!(raised, u64::from(tells), "{before} {after}");
        let text = |entry: &Value| entry["action"].as_str().unwrap().to_owned();
        let may_follow: &[&str] = match text(after).as_str() {
            "stage" => &["settle", "resume"],
            "promote" => &["stage"],
            "open_wave" | "take_in" => &["promote", "open_wave", "take_in"],
            "settle" => &["promote", "open_wave", "take_in"],
            _ => continue,
        };
        assert!(may_follow.contains(&text(before).as_str()), "{before} {after}");
    }
    entries
}
