//! How long a cookie tells who its client is (docs/kernel.md#privacy), over a day of rotations in virtual time.

use super::*;

const HOUR: u64 = 3_600;
/// Seconds between two looks: ticks, nodes that acknowledge, and clients.
const STEP: u64 = 15;
/// What a rotation takes by itself: a step for each commit, and the health window of each wave.
const ROTATION_MAX: u64 = 300;

/// A client and the cookie that it got last.
struct Client {
    every: u64,
    cookie: Option<KeyFingerprint>,
    rejected: u64,
}

/// When a key made its first cookie, and when a node took one last.
type Life = (u64, u64);

#[test]
fn a_day_of_hourly_rotations_rejects_no_client_and_follows_none_beyond_two_hours() {
    let mut document = document(Stage::Steady { current: key(2), backup: Some(key(1)) });
    document.policy.interval_secs = HOUR;
    document.policy.drain_max_secs = HOUR;
    document.policy.promote_waves.insert(0, WaveRule::Names("a".parse().unwrap()));
    assert_eq!(document.policy.cookie_lifetime_secs(), 2 * HOUR);
    // One that comes all the time, one that stays away for nearly an interval.
    let mut clients = [STEP, HOUR - ROTATION_MAX].map(|every| Client { every, cookie: None, rejected: 0 });
    let mut lives: BTreeMap<KeyFingerprint, Life> = BTreeMap::new();
    let (mut rotations, mut fresh) = (0, 100);
    for at in (0..26 * HOUR / STEP).map(|look| look * STEP) {
        let snapshot = pool(document.clone(), &["a", "b"], &[]);
        let presence = presence();
        let now = Now { wall: UnixTime::from_secs(at), presence: &presence };
        if let Ok(Step::Commit(proposal)) = handle(&snapshot, now, &Input::Tick, Some(fingerprint(fresh))) {
            fresh += 1;
            rotations += u64::from(proposal.audit.action == Action::Settle);
            document = proposal.document;
        }
        let slots = ["a", "b"].map(|name| instruction_for(&document, &node(name), SlotCount::Two).unwrap().slots);
        for slots in &slots {
            for key in [Some(slots.primary), slots.backup].into_iter().flatten() {
                // A key that is staged has no cookie yet.
                if let Some((_, last)) = lives.get_mut(&key.fingerprint) {
                    *last = at;
                }
            }
            lives.entry(slots.primary.fingerprint).or_insert((at, at));
        }
        for client in clients.iter_mut().filter(|client| at % client.every < STEP) {
            let slots = &slots[usize::from(at / client.every % 2 == 1)];
            let taken = [Some(slots.primary), slots.backup].map(|key| key.map(|key| key.fingerprint));
            client.rejected += u64::from(client.cookie.is_some() && !taken.contains(&client.cookie));
            client.cookie = Some(slots.primary.fingerprint);
        }
    }
    assert!(rotations >= 24, "{rotations} rotations");
    for Client { every, rejected, .. } in clients {
        assert_eq!(rejected, 0, "of the client that comes every {every} s");
    }
    for (key, (first, last)) in lives {
        assert!(last - first <= 2 * HOUR + ROTATION_MAX, "{key}: from {first} to {last}");
    }
}
