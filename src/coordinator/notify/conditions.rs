//! What operators are told of, as a function of what was seen before and what is seen now.
//!
//! A verdict is raised once it was seen in two looks, and has recovered after [`QUIET_LOOKS`] looks without it, so that one
//! that flickers is told once.  One that a worse verdict hides is neither: a frozen pool may still be split.  What was told
//! is kept over restarts ([`super::state`]), so a restart repeats nothing and loses nothing.
//!
//! Must not know: clocks, drivers, how an event is delivered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use tfo_crypto::checksum::sha256;
use tfo_model::count::{Epoch, Generation};
use tfo_model::fleet::{NoticeKind, NoticeState, Severity, VerdictKind};
use tfo_model::ids::{NodeId, PoolId, PoolName};
use tfo_model::named::Named;
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::Verdict;
use tfo_wire::v1::notify::{Ending, Event, Rotation, VERSION};

/// Looks that a verdict must be seen in a row before it is told: one may be a moment between two reports.
const RAISE_LOOKS: u8 = 2;
/// Looks without a verdict after which it has recovered: ten seconds.
const QUIET_LOOKS: u8 = 5;
/// Certificates that still end are told again after this time, in seconds: by then others may have joined them.
const AGAIN_SECS: u64 = 86_400;
/// Separates this hash from every other use of SHA-256.
const DOMAIN: &str = "tfo-fleet/v1/event";

/// What is seen of a pool.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Its name.
    pub(super) pool: PoolName,
    /// Its identity.
    pub(super) pool_id: PoolId,
    /// The verdict on it.
    pub(super) verdict: Verdict,
    /// Where it stands; none if its store is not reached.
    pub(super) standing: Option<Standing>,
}

/// Where a pool stands, as far as events need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// The phase.
    pub(super) phase: Phase,
    /// The generation.
    pub(super) generation: Generation,
    /// The primary of most nodes.
    pub(super) primary: Option<SlotPrint>,
    /// Their backup.
    pub(super) backup: Option<SlotPrint>,
    /// Whether it holds: then the primary changed by a first key, an abort or a recovery.
    pub(super) holds: bool,
}

/// What was seen and told before.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Conditions {
    pools: BTreeMap<PoolName, OfPool>,
    /// The coordinator's own certificates.
    own: BTreeMap<NoticeKind, Told>,
}

/// The same of one pool.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct OfPool {
    /// What lasts.
    told: BTreeMap<NoticeKind, Told>,
    /// The primary of the last rest between two rotations.
    primary: Option<Epoch>,
    /// A verdict that was seen, and not yet often enough.
    #[serde(skip)]
    fresh: Option<(NoticeKind, u8)>,
}

/// Something that lasts, and was told.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    since: UnixTime,
    /// When it was told last.
    at: UnixTime,
    /// Certificates that were ending then.
    #[serde(default)]
    ending: Vec<Ending>,
    /// Looks without it.
    #[serde(skip)]
    quiet: u8,
}

/// Who tells, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Teller<'a> {
    /// First name of the coordinator's certificate.
    pub(super) coordinator: Option<&'a NodeId>,
    /// By wall clock.
    pub(super) now: UnixTime,
}

impl Conditions {
    /// Takes what is seen of a pool, and gives what is to be told.
    pub(super) fn look(&mut self, seen: &Seen, teller: Teller<'_>) -> Vec<Event> {
        let known = self.pools.entry(seen.pool.clone()).or_default();
        let event =
            |what, since| Event { verdict: Some(seen.verdict.clone()), ..event(what, since, teller, Some(seen)) };
        let mut events: Vec<Event> = Vec::new();
        let present = notice(&seen.verdict);
        known.fresh = match (present, known.fresh) {
            (Some(kind), _) if known.told.contains_key(&kind) => None,
            (Some(kind), Some((before, looks))) if before == kind => Some((kind, looks + 1)),
            (Some(kind), _) => Some((kind, 1)),
            (None, _) => None,
        };
        if let Some((kind, _)) = known.fresh.take_if(|(_, looks)| *looks >= RAISE_LOOKS) {
            let since = seen.verdict.since.unwrap_or(teller.now);
            known.told.insert(kind, Told { since, at: teller.now, ending: Vec::new(), quiet: 0 });
            events.push(event((kind, NoticeState::Raised), since));
        }
        let is_verdict = |kind: NoticeKind| kind != NoticeKind::CertificateEnds;
        for (kind, told) in known.told.iter_mut().filter(|(kind, _)| is_verdict(**kind)) {
            let lasts = present == Some(*kind) || hides(&seen.verdict, *kind);
            told.quiet = if lasts { 0 } else { told.quiet + 1 };
            if told.quiet >= QUIET_LOOKS {
                events.push(event((*kind, NoticeState::Recovered), told.since));
            }
        }
        known.told.retain(|_, told| told.quiet < QUIET_LOOKS);
        if let Some(ended) = seen.standing.and_then(|standing| known.ended(standing)) {
            let done = event((NoticeKind::RotationEnded, NoticeState::Done), teller.now);
            // By its key alone, so that every coordinator of the pool gives it the same name.
            let id = id(Some(seen.pool_id), NoticeKind::RotationEnded, NoticeState::Done, &ended.primary.fingerprint);
            events.push(Event { id, rotation: Some(ended), ..done });
        }
        events
    }

    /// Takes the certificates that end soon: of the nodes of a pool, or the coordinator's own.
    pub(super) fn certificates(&mut self, of: Option<&Seen>, ending: Vec<Ending>, teller: Teller<'_>) -> Option<Event> {
        let told = match of {
            Some(seen) => &mut self.pools.entry(seen.pool.clone()).or_default().told,
            None => &mut self.own,
        };
        let kind = NoticeKind::CertificateEnds;
        let verdict = of.map(|seen| seen.verdict.clone());
        let event =
            |state, since| Event { verdict, certificates: ending.clone(), ..event((kind, state), since, teller, of) };
        match told.get_mut(&kind) {
            None if ending.is_empty() => None,
            Some(before) if ending.is_empty() => {
                let since = before.since;
                told.remove(&kind);
                Some(event(NoticeState::Recovered, since))
            }
            None => {
                told.insert(kind, Told { since: teller.now, at: teller.now, ending: ending.clone(), quiet: 0 });
                Some(event(NoticeState::Raised, teller.now))
            }
            Some(before) if teller.now.secs_since(before.at) >= AGAIN_SECS => {
                (before.at, before.ending) = (teller.now, ending.clone());
                let day = Event { since: before.since, ..event(NoticeState::Raised, teller.now) };
                Some(day)
            }
            Some(before) => {
                before.ending = ending;
                None
            }
        }
    }

    /// The certificates of a pool's nodes that were ending at the last look.
    #[must_use]
    pub(super) fn ending_before(&self, pool: &PoolName) -> Vec<Ending> {
        let told = self.pools.get(pool).and_then(|known| known.told.get(&NoticeKind::CertificateEnds));
        told.map(|told| told.ending.clone()).unwrap_or_default()
    }

    /// Forgets pools that are gone.
    pub(super) fn keep(&mut self, is_there: impl Fn(&PoolName) -> bool) {
        self.pools.retain(|pool, _| is_there(pool));
    }
}

impl OfPool {
    /// The rotation that has ended since the last rest.
    fn ended(&mut self, standing: Standing) -> Option<Rotation> {
        let Standing { phase, generation, primary, backup, holds } = standing;
        let primary = primary.filter(|_| phase == Phase::Steady)?;
        let before = std::mem::replace(&mut self.primary, primary.epoch);
        let is_next = before.is_some() && primary.epoch > before;
        (is_next && !holds).then_some(Rotation { generation, primary, backup })
    }
}

/// What a verdict is told as.
fn notice(verdict: &Verdict) -> Option<NoticeKind> {
    let Named::Known(kind) = verdict.kind else { return None };
    let is_critical = verdict.severity == Severity::Critical;
    if !is_critical && verdict.severity != Severity::Warning {
        return None;
    }
    match kind {
        VerdictKind::Split => Some(NoticeKind::Split),
        VerdictKind::Frozen => Some(NoticeKind::Frozen),
        VerdictKind::StoppedByHealth => Some(NoticeKind::StoppedByHealth),
        VerdictKind::Deaf => Some(NoticeKind::Deaf),
        // Otherwise nodes that are absent at a restart, which `absent` tells in time.
        VerdictKind::Blind => is_critical.then_some(NoticeKind::Blind),
        VerdictKind::Paused => Some(NoticeKind::Paused),
        VerdictKind::Held => Some(NoticeKind::Held),
        VerdictKind::NoKey => Some(NoticeKind::NoKey),
        VerdictKind::ExpectedNodes => Some(NoticeKind::ExpectedNodes),
        VerdictKind::Absent => Some(NoticeKind::Absent),
        // Certificates are told of by themselves, also under a worse verdict.
        VerdictKind::Agree | VerdictKind::Rotating | VerdictKind::OnlyReports | VerdictKind::CertificateEnds => None,
    }
}

/// Whether a pool may be in this condition although its verdict is another one: only one is shown, the worst.
fn hides(verdict: &Verdict, told: NoticeKind) -> bool {
    let Named::Known(kind) = verdict.kind else { return true };
    match kind {
        // Nodes were not heard, or the store was not: nothing can be known of the rest.
        VerdictKind::Blind | VerdictKind::Deaf | VerdictKind::Frozen => true,
        VerdictKind::Split => told != NoticeKind::Frozen,
        VerdictKind::StoppedByHealth => !matches!(told, NoticeKind::Frozen | NoticeKind::Split),
        VerdictKind::Paused | VerdictKind::Rotating => {
            matches!(told, NoticeKind::Held | NoticeKind::ExpectedNodes | NoticeKind::Absent)
        }
        VerdictKind::Held | VerdictKind::ExpectedNodes => {
            matches!(told, NoticeKind::ExpectedNodes | NoticeKind::Absent)
        }
        VerdictKind::NoKey
        | VerdictKind::Absent
        | VerdictKind::Agree
        | VerdictKind::OnlyReports
        | VerdictKind::CertificateEnds => false,
    }
}

fn event(what: (NoticeKind, NoticeState), since: UnixTime, teller: Teller<'_>, of: Option<&Seen>) -> Event {
    let (kind, state) = what;
    let pool_id = of.map(|seen| seen.pool_id);
    Event {
        version: VERSION,
        id: id(pool_id, kind, state, &since),
        kind: kind.into(),
        state: state.into(),
        at: teller.now,
        since,
        coordinator: teller.coordinator.cloned(),
        pool: of.map(|seen| seen.pool.clone()),
        pool_id,
        verdict: None,
        rotation: None,
        certificates: Vec::new(),
    }
}

/// Names what happened, not its telling.
fn id(pool: Option<PoolId>, kind: NoticeKind, state: NoticeState, which: &dyn std::fmt::Display) -> String {
    let pool = pool.map(|pool| pool.to_string()).unwrap_or_default();
    let hash = sha256(format!("{DOMAIN}\n{pool}\n{kind}\n{state}\n{which}\n").as_bytes());
    hash[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An event by which an operator tries whether it is told.
#[must_use]
pub(super) fn test(teller: Teller<'_>, nonce: u128) -> Event {
    let event = event((NoticeKind::Test, NoticeState::Done), teller.now, teller, None);
    Event { id: id(None, NoticeKind::Test, NoticeState::Done, &nonce), ..event }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(severity: Severity, kind: VerdictKind) -> Verdict {
        Verdict {
            severity: severity.into(),
            kind: kind.into(),
            since: Some(UnixTime::from_secs(50)),
            sentence: "as it is".to_owned(),
            nodes: Vec::new(),
            more: 0,
            numbers: BTreeMap::new(),
            next: None,
            docs: None,
        }
    }

    fn seen(severity: Severity, kind: VerdictKind) -> Seen {
        let pool_id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        Seen { pool: "edge".parse().unwrap(), pool_id, verdict: verdict(severity, kind), standing: None }
    }

    fn teller(now: u64) -> Teller<'static> {
        Teller { coordinator: None, now: UnixTime::from_secs(now) }
    }

    /// What is told in so many looks at this verdict.
    fn told(conditions: &mut Conditions, severity: Severity, kind: VerdictKind, looks: u64) -> Vec<String> {
        let seen = seen(severity, kind);
        let events = (0..looks).flat_map(|look| conditions.look(&seen, teller(100 + look)));
        events.map(|event| format!("{} {}", event.kind, event.state)).collect()
    }

    const OK: (Severity, VerdictKind) = (Severity::Ok, VerdictKind::Agree);
    const SPLIT: (Severity, VerdictKind) = (Severity::Critical, VerdictKind::Split);

    #[test]
    fn what_lasts_is_told_once_and_once_more_when_it_is_over() {
        let mut conditions = Conditions::default();
        assert_eq!(told(&mut conditions, OK.0, OK.1, 9), [""; 0]);
        assert_eq!(told(&mut conditions, SPLIT.0, SPLIT.1, 1), [""; 0], "one look may be a moment");
        assert_eq!(told(&mut conditions, OK.0, OK.1, 1), [""; 0]);
        assert_eq!(told(&mut conditions, SPLIT.0, SPLIT.1, 1), [""; 0], "not in a row");
        assert_eq!(told(&mut conditions, SPLIT.0, SPLIT.1, 5), ["split raised"]);
        // It flickers.
        assert_eq!(told(&mut conditions, OK.0, OK.1, 4), [""; 0]);
        assert_eq!(told(&mut conditions, SPLIT.0, SPLIT.1, 3), [""; 0]);
        assert_eq!(told(&mut conditions, OK.0, OK.1, 9), ["split recovered"]);
        assert_eq!(told(&mut conditions, SPLIT.0, SPLIT.1, 2), ["split raised"]);
    }

    #[test]
    fn what_a_worse_verdict_hides_has_not_recovered() {
        let mut conditions = Conditions::default();
        assert_eq!(told(&mut conditions, SPLIT.0, SPLIT.1, 2), ["split raised"]);
        for kind in [VerdictKind::Blind, VerdictKind::Deaf, VerdictKind::Frozen] {
            let expected: &[&str] = match kind {
                VerdictKind::Blind => &["blind raised"],
                VerdictKind::Deaf => &["deaf raised"],
                _ => &["frozen raised"],
            };
            assert_eq!(told(&mut conditions, Severity::Critical, kind, 20), expected);
        }
        let over = told(&mut conditions, OK.0, OK.1, 5);
        assert_eq!(over, ["blind recovered", "deaf recovered", "frozen recovered", "split recovered"]);
        // A pause hides no split.
        assert_eq!(told(&mut conditions, SPLIT.0, SPLIT.1, 2), ["split raised"]);
        assert_eq!(
            told(&mut conditions, Severity::Warning, VerdictKind::Paused, 9),
            ["paused raised", "split recovered"]
        );
    }

    #[test]
    fn a_restart_repeats_nothing_and_loses_nothing() {
        let mut conditions = Conditions::default();
        assert_eq!(told(&mut conditions, SPLIT.0, SPLIT.1, 2), ["split raised"]);
        let restarted = |conditions: &Conditions| -> Conditions {
            serde_json::from_slice(&serde_json::to_vec(conditions).unwrap()).unwrap()
        };
        // It was down while the split lasted, and has not heard its nodes yet.
        let mut again = restarted(&conditions);
        assert_eq!(told(&mut again, Severity::Notice, VerdictKind::Blind, 20), [""; 0]);
        assert_eq!(told(&mut again, SPLIT.0, SPLIT.1, 20), [""; 0]);
        // It was down while the split ended, and something else began.
        let mut again = restarted(&conditions);
        assert_eq!(
            told(&mut again, Severity::Critical, VerdictKind::StoppedByHealth, 9),
            ["stopped_by_health raised", "split recovered"]
        );
    }

    #[test]
    fn only_what_asks_for_something_is_told() {
        for kind in VerdictKind::ALL {
            for severity in [Severity::Ok, Severity::Notice] {
                assert_eq!(told(&mut Conditions::default(), severity, kind, 5), [""; 0], "{severity} {kind}");
            }
            let critical = told(&mut Conditions::default(), Severity::Critical, kind, 5);
            let never = matches!(
                kind,
                VerdictKind::Agree | VerdictKind::Rotating | VerdictKind::OnlyReports | VerdictKind::CertificateEnds
            );
            assert_eq!(critical.len(), usize::from(!never), "{kind}");
        }
        assert_eq!(told(&mut Conditions::default(), Severity::Warning, VerdictKind::Blind, 5), [""; 0]);
    }

    fn resting(epoch: u64, phase: Phase, holds: bool) -> Seen {
        let print = |epoch| SlotPrint {
            epoch: Epoch::new(epoch),
            fingerprint: tfo_model::key::KeyFingerprint::from_bytes(epoch.to_be_bytes()),
        };
        let (primary, backup, generation) = (Some(print(epoch)), None, Generation::new(2 * epoch));
        let standing = Some(Standing { phase, generation, primary, backup, holds });
        Seen { standing, ..seen(OK.0, OK.1) }
    }

    #[test]
    fn a_rotation_has_ended_when_the_pool_rests_with_the_next_key() {
        let mut conditions = Conditions::default();
        let mut ended = |epoch, phase, holds| {
            let events = conditions.look(&resting(epoch, phase, holds), teller(100));
            events.into_iter().map(|event| (event.id, event.rotation.unwrap().generation.get())).next()
        };
        assert_eq!(ended(3, Phase::Steady, false), None, "the first look knows no rotation");
        assert_eq!(ended(3, Phase::Staged, false), None);
        assert_eq!(ended(4, Phase::Promoted, false), None);
        let (id, generation) = ended(4, Phase::Steady, false).unwrap();
        assert_eq!((id.len(), generation), (32, 8));
        assert_eq!(ended(4, Phase::Steady, false), None, "once");
        assert_eq!(ended(3, Phase::Steady, true), None, "a restored store");
        assert_eq!(ended(5, Phase::Steady, true), None, "recover");
        // Of another coordinator the same event has the same name.
        let mut other = Conditions::default();
        other.look(&resting(3, Phase::Steady, false), teller(1));
        assert_eq!(other.look(&resting(4, Phase::Steady, false), teller(900))[0].id, id);
    }

    #[test]
    fn certificates_are_told_once_a_day_until_they_are_renewed() {
        let mut conditions = Conditions::default();
        let ending = |until| Ending { until: UnixTime::from_secs(until), of: "crl".to_owned(), name: None };
        let of_pool = seen(OK.0, OK.1);
        for of in [None, Some(&of_pool)] {
            let mut told = |ending: &[Ending], now| conditions.certificates(of, ending.to_vec(), teller(now));
            assert_eq!(told(&[], 0), None);
            let first = told(&[ending(900_000)], 100).unwrap();
            assert_eq!((first.state, first.certificates.len()), (NoticeState::Raised.into(), 1));
            assert_eq!(told(&[ending(900_000), ending(900_001)], 86_499), None);
            let again = told(&[ending(900_000), ending(900_001)], 86_500).unwrap();
            assert_eq!((again.state, again.since.secs()), (NoticeState::Raised.into(), 100));
            assert!(again.id != first.id && again.certificates.len() == 2);
            assert_eq!(told(&[ending(900_000)], 86_501), None);
            let over = told(&[], 90_000).unwrap();
            assert_eq!((over.state, over.since.secs()), (NoticeState::Recovered.into(), 100));
            assert_eq!(told(&[], 90_001), None);
        }
    }
}
