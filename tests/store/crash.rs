//! kill -9 at random moments: what was acknowledged is there, and nothing is there by halves.
//!
//! The test runs itself as a child that walks ([`walk::step`]) and prints the number of each step that the store has
//! acknowledged.  The parent kills it, takes the same steps in memory, and compares everything.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tfo_store::MemoryStore;

use super::open;
use super::walk::{dice, pool_name, see, step};

/// Set in the child: directory, seed and first step, one in each line.
const JOB: &str = "TFO_STORE_WALK";
/// Name of the test below, as libtest knows it.
const TEST: &str = "crash::a_killed_coordinator_loses_nothing_and_leaves_no_half_commit";
/// After so many kills the next run begins with no database, so that kills hit its making, too.
const RUNS_PER_DATABASE: u64 = 10;

/// Steps until it is killed.
fn child(job: &str) {
    let mut lines = job.lines();
    let dir = Path::new(lines.next().unwrap());
    let [seed, first]: [u64; 2] = std::array::from_fn(|_| lines.next().unwrap().parse().unwrap());
    let mut out = std::io::stdout();
    let mut say = |text: String| out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap();
    say("\nstarted\n".to_owned());
    let store = open(dir);
    for index in first.. {
        let begun = tfo_testbed::now();
        step(&store, &pool_name("edge"), seed, index).unwrap();
        say(format!("step {index} {}\n", begun.elapsed().as_micros()));
    }
}

struct Run {
    /// The last acknowledged step, if any.
    acknowledged: Option<u64>,
    micros: Vec<u64>,
}

/// Starts a child, kills it `delay` after it has acknowledged so many steps, and reads what it said.
fn run_and_kill(dir: &Path, seed: u64, first: u64, (steps, delay): (usize, Duration)) -> Run {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]);
    command.env(JOB, format!("{}\n{seed}\n{first}", dir.display()));
    let mut child: Child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let started = lines.by_ref().any(|line| line == "started");
    let mut run = Run { acknowledged: None, micros: Vec::new() };
    read_steps(lines.by_ref().take(steps), &mut run);
    std::thread::sleep(delay);
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(started && ended.is_none(), "the child ends by itself: {}", String::from_utf8_lossy(&output.stderr));
    read_steps(lines, &mut run);
    run
}

fn read_steps(lines: impl Iterator<Item = String>, run: &mut Run) {
    for line in lines {
        // The last line may be cut; a step that was said to be done in half a line was done.
        let mut words = line.split(' ');
        if let (Some("step"), Some(index), Some(micros)) = (words.next(), words.next(), words.next()) {
            run.acknowledged = Some(index.parse().unwrap());
            run.micros.extend(micros.parse::<u64>());
        }
    }
}

#[test]
fn a_killed_coordinator_loses_nothing_and_leaves_no_half_commit() {
    if let Ok(job) = std::env::var(JOB) {
        return child(&job);
    }
    let kills = tfo_testbed::by_size(40, 100, 500);
    let mut rng = dice(std::process::id().into(), 0);
    let (mut steps, mut in_flight, mut before_open, mut micros) = (0, 0, 0, Vec::new());
    let (mut dir, mut model, mut next) = (tfo_testbed::scratch(), MemoryStore::new(), 0);
    let pool = pool_name("edge");
    for kill in 0..kills {
        let seed = kill / RUNS_PER_DATABASE;
        if kill % RUNS_PER_DATABASE == 0 {
            (dir, model, next) = (tfo_testbed::scratch(), MemoryStore::new(), 0);
        }
        // A third of the kills in the first 30 ms, which is making or opening, the others after some dozen steps and
        // somewhere in the next ones.
        let steps_before = if rng.below(3) == 0 { 0 } else { 1 + usize::try_from(rng.below(20)).unwrap() };
        let delay = Duration::from_micros(rng.below(30_000));
        let run = run_and_kill(dir.path(), seed, next, (steps_before, delay));
        before_open += u64::from(run.acknowledged.is_none());
        let acknowledged = run.acknowledged.map_or(next, |last| last + 1);
        while next < acknowledged {
            step(&model, &pool, seed, next).unwrap();
            (next, steps) = (next + 1, steps + 1);
        }
        let store = open(dir.path());
        assert!(store.set_back().is_none(), "a kill is no lost commit");
        let found = see(&store, &pool);
        if found != see(&model, &pool) {
            step(&model, &pool, seed, next).unwrap();
            next += 1;
            in_flight += 1;
            assert_eq!(
                found,
                see(&model, &pool),
                "kill {kill} after {delay:?}: neither step {next} nor the one before"
            );
        }
        micros.extend(run.micros);
    }
    micros.sort_unstable();
    let share = |percent: usize| micros.get(micros.len() * percent / 100).copied().unwrap_or_default();
    eprintln!(
        "{kills} kills, {steps} acknowledged steps; {in_flight} kills between commit and acknowledgement, {before_open} \
         before the first; a step (load + commit) took p50 {} us, p99 {} us",
        share(50),
        share(99)
    );
    assert!(steps > kills, "the children got to work");
}
