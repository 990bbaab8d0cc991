use super::*;
use crate::chained_log::{Broken, Row, Verified};
use crate::rollout::document::{Actor, BarrierCount};
use tfo_model::fleet::Action;
use tfo_model::key::KeyFingerprint;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// A digest that tells texts apart, which is all that a chain asks of it here.
fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut state = [0xcbf2_9ce4_8422_2325_u64; 4];
    for (index, byte) in bytes.iter().enumerate() {
        let lane = &mut state[index % 4];
        *lane = (*lane ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mixed = state.iter().fold(0_u64, |sum, lane| sum.rotate_left(17) ^ lane);
    let mut digest = [0; 32];
    for (part, lane) in digest.chunks_mut(8).zip(state) {
        part.copy_from_slice(&(lane ^ mixed).to_be_bytes());
    }
    digest
}

fn pool() -> PoolId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn key(epoch: u64) -> PoolKey {
    let byte = u8::try_from(epoch).unwrap();
    PoolKey { epoch: Epoch::new(epoch).unwrap(), fingerprint: KeyFingerprint::from_bytes([byte; 8]) }
}

fn generation(number: u64) -> Generation {
    Generation::new(number)
}

fn steady(current: u64, backup: Option<u64>) -> Held {
    Held::Steady { current: key(current), backup: backup.map(key) }
}

fn staged(current: u64, next: u64, prior: Option<u64>) -> Held {
    Held::Staged { current: key(current), next: key(next), prior_backup: prior.map(key) }
}

fn promoted(current: u64, next: u64, opened: usize) -> Held {
    let staged_generation = generation(2);
    Held::Promoted { current: key(current), next: key(next), staged_generation, opened, waves: 2 }
}

fn made(stage: Held, next: u64) -> Made {
    let next_epoch = Epoch::new(next).unwrap();
    Made { stage, next_epoch, revoking: BTreeSet::new(), paused: false, hold: None }
}

fn held(made: Made, hold: HoldReason) -> Made {
    Made { hold: Some(hold), ..made }
}

fn revoking(made: Made, epochs: &[u64]) -> Made {
    Made { revoking: epochs.iter().map(|epoch| key(*epoch)).collect(), ..made }
}

fn paused(made: Made) -> Made {
    Made { paused: true, ..made }
}

fn is_operators(action: Action) -> bool {
    !matches!(
        action,
        Action::Promote
            | Action::OpenWave
            | Action::TakeIn
            | Action::Settle
            | Action::DropRevoked
            | Action::Unhealthy
            | Action::Rotate
    )
}

fn entry(action: Action, at: u64, made: &Made) -> AuditEntry {
    let operator = Actor::Operator("ops1.example.org".parse().unwrap());
    let phase = match made.stage {
        Held::Empty => Phase::Empty,
        Held::Steady { .. } => Phase::Steady,
        Held::Staged { .. } => Phase::Staged,
        Held::Promoted { .. } => Phase::Promoted,
    };
    AuditEntry {
        at: UnixTime::from_secs(1_790_000_000),
        revision: Revision::ZERO,
        generation: generation(at),
        phase,
        actor: if is_operators(action) { operator } else { Actor::Engine },
        action,
        nodes: BTreeSet::new(),
        more: 0,
        reason: String::new(),
        barrier: BarrierCount { required: 4, needed: 2, behind: 0 },
    }
}

/// A log of these steps: action, generation after it, what it made.
fn log(steps: &[(Action, u64, Made)]) -> Vec<Written> {
    let mut before = start(hash, &pool());
    let link = |(index, (action, at, made)): (usize, &(Action, u64, Made))| {
        let revision = Revision::new(index as u64 + 1);
        let entry = AuditEntry { revision, ..entry(*action, *at, made) };
        let document = digest_of(hash, &format!("document {revision}"));
        let written = Written::new(Link { before, first: Revision::new(1), document, made: made.clone(), entry });
        before = written.digest(hash);
        written
    };
    steps.iter().enumerate().map(link).collect()
}

/// First key, a rotation in two waves, and the next one.
fn rotation() -> Vec<(Action, u64, Made)> {
    vec![
        (Action::FirstKey, 1, held(made(steady(1, None), 2), HoldReason::FirstKey)),
        (Action::Resume, 1, made(steady(1, None), 2)),
        (Action::Rotate, 2, made(staged(1, 2, None), 3)),
        (Action::Promote, 3, made(promoted(1, 2, 0), 3)),
        (Action::OpenWave, 3, made(promoted(1, 2, 1), 3)),
        (Action::Settle, 3, made(steady(2, Some(1)), 3)),
        (Action::Rotate, 4, made(staged(2, 3, Some(1)), 4)),
    ]
}

fn end(log: &[Written]) -> LogEnd {
    let last = log.last().unwrap();
    let (revision, document) = (last.link().entry.revision, last.link().document);
    LogEnd { revision, document, chain: last.digest(hash), kept: 100 }
}

/// The log as a store has it.
type Rows = Vec<(Revision, String)>;

fn rows(log: &[Written]) -> Rows {
    log.iter().map(|one| (one.link().entry.revision, one.text().to_owned())).collect()
}

fn row(revision: Revision, text: &str) -> Row<'_> {
    Row { number: revision.get(), text, is_intact: true }
}

fn verified(rows: &[(Revision, String)], end: &LogEnd) -> Result<Verified, (u64, &'static str)> {
    let mut verifier = Verifier::new(hash, pool());
    let read = rows.iter().try_for_each(|(revision, text)| verifier.take(row(*revision, text)));
    let named = |broken: Broken| (broken.number, broken.fault.kind());
    read.map_err(named)?;
    verifier.finish(end).map_err(named)
}

#[test]
fn a_whole_log_is_right_and_each_harm_is_named() {
    let log = log(&rotation());
    let (good, end) = (rows(&log), end(&log));
    let expected = Verified { entries: 7, first: 1, last: 7, chain: end.chain };
    assert_eq!(verified(&good, &end), Ok(expected));
    let harmed = |harm: &dyn Fn(&mut Rows)| {
        let mut rows = good.clone();
        harm(&mut rows);
        verified(&rows, &end).unwrap_err()
    };
    let alter = |at: usize| {
        move |rows: &mut Rows| {
            rows[at].1 = rows[at].1.replace("\"reason\":\"\"", "\"reason\":\"x\"");
        }
    };
    for at in 0..7 {
        assert_eq!(harmed(&alter(at)), (at as u64 + 1, "audit_altered"), "{at}");
        let missing = harmed(&|rows| drop(rows.remove(at)));
        // Without the first one it is the oldest that is missing, which only the end tells.
        assert_eq!(missing, (at as u64 + 1, "audit_missing"), "{at}");
        let other = (at + 1) % 7;
        let swapped = harmed(&|rows| {
            let text = std::mem::take(&mut rows[at].1);
            rows[at].1 = std::mem::replace(&mut rows[other].1, text);
        });
        assert_eq!(swapped, (at.min(other) as u64 + 1, "audit_moved"), "{at}");
    }
    assert_eq!(harmed(&|rows| rows[3].1.truncate(40)), (4, "audit_altered"));
    assert_eq!(harmed(&Vec::clear), (1, "audit_missing"));
    let other = LogEnd { document: digest_of(hash, "another"), ..end };
    assert_eq!(verified(&good, &other), Err((7, "audit_document")));
    let mut verifier = Verifier::new(hash, pool());
    let torn = Row { is_intact: false, ..row(Revision::new(1), &good[0].1) };
    assert_eq!(verifier.take(torn).map_err(|broken| broken.fault.kind()), Err("audit_altered"));
    // The log of another pool.
    let other = "f".repeat(32).parse().unwrap();
    let foreign = Verifier::new(hash, other).take(Row { is_intact: true, ..torn });
    assert_eq!(foreign.map_err(|broken| broken.fault.kind()), Err("audit_altered"));
    // A pool without entries.
    let nothing = LogEnd { revision: Revision::ZERO, chain: start(hash, &pool()), ..end };
    assert_eq!(verified(&[], &nothing).map(|verified| verified.entries), Ok(0));
}

#[test]
fn a_pruned_log_is_right_and_lacks_no_more() {
    let log = log(&rotation());
    let end = LogEnd { kept: 3, ..end(&log) };
    let rows = rows(&log);
    assert_eq!(verified(&rows[4..], &end).map(|verified| verified.first), Ok(5));
    // One more that a store has not removed yet.
    assert_eq!(verified(&rows[3..], &end).map(|verified| verified.first), Ok(4));
    assert_eq!(verified(&rows[5..], &end), Err((5, "audit_missing")));
}

#[test]
fn a_log_that_was_written_again_differs_from_what_was_noted() {
    let (first, mut steps) = (log(&rotation()), rotation());
    steps[4].2 = paused(made(promoted(1, 2, 0), 3));
    steps[4].0 = Action::Pause;
    steps.truncate(5);
    let second = log(&steps);
    let verify = |log: &[Written], at: u64, digest: Sha256| {
        let mut verifier = Verifier::new(hash, pool()).expect(at, digest);
        rows(log).iter().try_for_each(|(revision, text)| verifier.take(row(*revision, text)))?;
        verifier.finish(&end(log))
    };
    let kind = |result: Result<Verified, Broken>| result.map(|_| "right").unwrap_or_else(|broken| broken.fault.kind());
    let digest = |log: &[Written], at: usize| log[at - 1].digest(hash);
    assert_eq!(kind(verify(&first, 5, digest(&first, 5))), "right");
    assert_eq!(kind(verify(&second, 4, digest(&first, 4))), "right", "they are the same so far");
    assert_eq!(kind(verify(&second, 5, digest(&first, 5))), "audit_rewritten");
    assert_eq!(kind(verify(&second, 7, digest(&first, 7))), "audit_missing");
    let mut late = Verifier::new(hash, pool()).expect(1, digest(&first, 1));
    rows(&first)[4..].iter().try_for_each(|(revision, text)| late.take(row(*revision, text))).unwrap();
    assert_eq!(kind(late.finish(&LogEnd { kept: 3, ..end(&first) })), "audit_pruned");
}

/// What the steps of a rotation may be, and what they may not be.
#[test]
fn a_step_that_no_rule_allows_is_named() {
    use Action as A;
    let one = || made(steady(1, None), 2);
    let two = || made(steady(2, Some(1)), 3);
    let stage = || made(staged(2, 3, Some(1)), 4);
    let wave = |opened| made(promoted(2, 3, opened), 4);
    let empty = || Made::start();
    let first = || held(one(), HoldReason::FirstKey);
    let aborted = |made| held(made, HoldReason::Aborted);
    // Before, generation before; action, generation after, after; whether it is allowed.
    let cases: Vec<(Made, u64, Action, u64, Made, bool)> = vec![
        (empty(), 0, A::FirstKey, 1, first(), true),
        (empty(), 0, A::FirstKey, 1, one(), false),
        (empty(), 0, A::FirstKey, 0, first(), false),
        (empty(), 0, A::FirstKey, 1, held(made(steady(2, None), 3), HoldReason::FirstKey), false),
        (one(), 1, A::FirstKey, 2, first(), false),
        (empty(), 0, A::Import, 1, held(two(), HoldReason::FirstKey), true),
        (empty(), 0, A::FirstKey, 1, held(two(), HoldReason::FirstKey), false),
        (empty(), 0, A::Import, 1, held(made(steady(1, Some(2)), 3), HoldReason::FirstKey), false),
        (two(), 5, A::Rotate, 6, stage(), true),
        (two(), 5, A::Rotate, 5, stage(), false),
        (two(), 5, A::Rotate, 6, made(staged(2, 4, Some(1)), 5), false),
        (two(), 5, A::Rotate, 6, made(staged(1, 3, Some(1)), 4), false),
        (two(), 5, A::Rotate, 6, made(staged(2, 3, None), 4), false),
        (revoking(two(), &[1]), 5, A::Rotate, 6, made(staged(2, 3, None), 4), true),
        (paused(two()), 5, A::Rotate, 6, paused(stage()), false),
        (aborted(two()), 5, A::Rotate, 6, aborted(stage()), false),
        (aborted(revoking(two(), &[2])), 5, A::Rotate, 6, aborted(revoking(stage(), &[2])), true),
        (stage(), 2, A::Promote, 3, wave(0), true),
        (stage(), 2, A::Promote, 3, wave(1), false),
        (stage(), 3, A::Promote, 4, wave(0), false),
        (two(), 2, A::Promote, 3, wave(0), false),
        (revoking(stage(), &[2]), 2, A::Promote, 3, revoking(wave(0), &[2]), false),
        (wave(0), 3, A::OpenWave, 3, wave(1), true),
        (wave(0), 3, A::OpenWave, 4, wave(1), false),
        (wave(1), 3, A::OpenWave, 3, wave(2), false),
        (paused(wave(0)), 3, A::OpenWave, 3, paused(wave(1)), false),
        (wave(0), 3, A::TakeIn, 3, wave(0), true),
        (wave(0), 3, A::TakeIn, 3, wave(1), false),
        (wave(0), 3, A::Unhealthy, 3, paused(wave(0)), true),
        (stage(), 3, A::Unhealthy, 3, paused(stage()), false),
        (wave(1), 3, A::Settle, 3, made(steady(3, Some(2)), 4), true),
        (wave(0), 3, A::Settle, 3, made(steady(3, Some(2)), 4), false),
        (wave(1), 3, A::Settle, 3, made(steady(3, None), 4), false),
        (revoking(wave(1), &[2]), 3, A::Settle, 3, revoking(made(steady(3, Some(2)), 4), &[2]), false),
        (revoking(wave(1), &[2]), 3, A::DropRevoked, 4, made(steady(3, None), 4), true),
        (wave(1), 3, A::DropRevoked, 4, made(steady(3, None), 4), false),
        (revoking(two(), &[1]), 3, A::DropRevoked, 4, made(steady(2, None), 3), true),
        (two(), 3, A::DropRevoked, 4, made(steady(2, None), 3), false),
        (stage(), 3, A::Abort, 4, aborted(made(steady(2, Some(1)), 4)), true),
        (stage(), 3, A::Abort, 4, made(steady(2, Some(1)), 4), false),
        (stage(), 3, A::Abort, 4, aborted(made(steady(2, Some(3)), 4)), false),
        (wave(0), 3, A::Abort, 4, aborted(made(steady(2, Some(3)), 4)), true),
        (wave(0), 3, A::Abort, 4, aborted(made(steady(3, Some(2)), 4)), false),
        (two(), 3, A::Abort, 4, aborted(two()), false),
        (two(), 3, A::Revoke, 3, revoking(two(), &[2]), true),
        (two(), 3, A::Revoke, 4, revoking(two(), &[2]), false),
        (two(), 3, A::Revoke, 3, revoking(made(steady(1, Some(2)), 3), &[1]), false),
        (revoking(two(), &[1]), 3, A::Revoke, 3, revoking(two(), &[2]), false),
        (stage(), 3, A::Revoke, 4, aborted(made(steady(2, Some(1)), 4)), true),
        (wave(0), 3, A::Revoke, 4, revoking(aborted(made(steady(2, Some(3)), 4)), &[3]), true),
        (wave(0), 3, A::Revoke, 4, aborted(made(steady(2, Some(3)), 4)), false),
        (two(), 3, A::Pause, 3, paused(two()), true),
        (paused(two()), 3, A::Pause, 3, paused(two()), false),
        (paused(two()), 3, A::Resume, 3, two(), true),
        (two(), 3, A::Resume, 3, two(), false),
        (paused(first()), 3, A::Resume, 3, first(), true),
        (first(), 3, A::Resume, 3, first(), false),
        (two(), 3, A::Recover, 1_000_003, held(made(steady(7, Some(6)), 8), HoldReason::Recovered), true),
        (two(), 3, A::Recover, 4, held(made(steady(7, Some(6)), 8), HoldReason::Recovered), false),
        (two(), 3, A::Recover, 1_000_003, held(made(steady(7, Some(6)), 7), HoldReason::Recovered), false),
        (two(), 3, A::Deny, 3, two(), true),
        (two(), 3, A::Deny, 3, made(steady(1, Some(2)), 3), false),
        (two(), 3, A::Forget, 4, two(), false),
        (two(), 3, A::SetPolicy, 3, two(), true),
        (stage(), 3, A::SetPolicy, 3, stage(), false),
        (two(), 3, A::Exclude, 2, two(), false),
    ];
    for (before, from, action, to, after, allowed) in &cases {
        let good = entry(*action, *to, after);
        let judged = judge((generation(*from), before), (&good, after));
        assert_eq!(judged.is_ok(), *allowed, "{action}: {before:?} to {after:?}: {judged:?}");
        if !allowed {
            continue;
        }
        let judged = |entry: AuditEntry| judge((generation(*from), before), (&entry, after));
        let needs_barrier = matches!(action, A::Rotate | A::Promote | A::OpenWave | A::Settle | A::DropRevoked);
        for barrier in
            [BarrierCount { required: 4, needed: 2, behind: 1 }, BarrierCount { required: 1, needed: 2, behind: 0 }]
        {
            assert_eq!(judged(AuditEntry { barrier, ..good.clone() }).is_err(), needs_barrier, "{action}");
        }
        let wrong = if good.phase == Phase::Staged { Phase::Steady } else { Phase::Staged };
        assert!(judged(AuditEntry { phase: wrong, ..good.clone() }).is_err(), "{action}");
        let other = match good.actor {
            Actor::Engine => Actor::Operator("ops1.example.org".parse().unwrap()),
            Actor::Operator(_) => Actor::Engine,
        };
        let either = matches!(action, A::Rotate | A::Exclude | A::SetPolicy);
        assert_eq!(judged(AuditEntry { actor: other, ..good.clone() }).is_ok(), either, "{action}");
    }
    // Within a log it is named with its revision.
    let mut steps = rotation();
    steps[4] = (A::Settle, 3, made(steady(2, Some(1)), 3));
    let log = log(&steps);
    assert_eq!(verified(&rows(&log), &end(&log)), Err((5, "audit_illegal")));
}
