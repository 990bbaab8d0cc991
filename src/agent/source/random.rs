//! Keys for one host: a fresh one every interval, the previous one as backup.
//!
//! The sysctl.d file is their only record, so they survive a restart or a reboot.

use std::collections::BTreeMap;

use super::{Installed, Offer, desired};
use tfo_crypto::random::fresh_key;
use tfo_engine::reconcile::ClockUse;
use tfo_model::count::Epoch;
use tfo_model::key::KeyPair;
use tfo_model::node::KeySource;
use tfo_model::problem::Problem;
use tfo_model::state::{DesiredState, Phase};
use tfo_model::time::{RotationInterval, UnixTime};

/// The installed keys while they are young enough, otherwise a fresh primary.
pub(super) fn offer(
    interval: RotationInterval,
    now: UnixTime,
    installed: Option<&Installed<'_>>,
) -> Result<Offer, Problem> {
    let own = installed.filter(|installed| installed.source == KeySource::Random.as_str());
    let born = own.and_then(|own| own.prints.primary.epoch);
    let desired = match (own, born) {
        (Some(own), Some(born)) if now < UnixTime::from_secs(born.get()).plus(interval.secs()) => {
            // A key from further in the future was made by a wrong clock, and would live until then: it counts as made now.  Its
            // backup may have been made a moment before it, and has cookies.
            let is_possible = UnixTime::from_secs(born.get()) <= now.plus(interval.secs());
            let born = if is_possible { born } else { Epoch::new(now.secs()).unwrap_or(born) };
            let next = UnixTime::from_secs(born.get()).plus(interval.secs());
            let epochs = [Some(born), own.prints.backup.and_then(|slot| slot.epoch)];
            desired(own.keys.duplicate(), epochs, Phase::Steady, Some(next))
        }
        _ => rotated(interval, now, installed)?,
    };
    // A clock that goes back by less than half an interval only makes this key live that much longer.
    Ok(Offer { desired, clock: ClockUse::Within(interval.secs() / 2), generators: BTreeMap::new(), joints: Vec::new() })
}

fn rotated(
    interval: RotationInterval,
    now: UnixTime,
    installed: Option<&Installed<'_>>,
) -> Result<DesiredState, Problem> {
    let no_randomness = |error: tfo_crypto::random::NoRandomness| {
        Problem::error("no_randomness", error.to_string(), "wait: the agent tries again, and the installed keys stay")
    };
    let fresh = fresh_key().map_err(no_randomness)?;
    // The key that made cookies until now, even the kernel's own: its cookies stay valid for one more interval.
    let (previous, epoch) = match installed {
        Some(installed) => (Some(installed.keys.primary().duplicate()), installed.prints.primary.epoch),
        None => (None, None),
    };
    let keys = KeyPair::new(fresh, previous).expect("a fresh key is neither zero nor an older key");
    Ok(desired(keys, [Epoch::new(now.secs()), epoch], Phase::Steady, Some(now.plus(interval.secs()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_crypto::fingerprint::pair_print;

    const NOW: UnixTime = UnixTime::from_secs(10_000);

    fn offer_after(previous: &DesiredState, source: &str, now: UnixTime) -> DesiredState {
        let installed = Installed { source, keys: &previous.keys, prints: previous.prints };
        offer(RotationInterval::from_secs(100).unwrap(), now, Some(&installed)).unwrap().desired
    }

    fn first() -> DesiredState {
        offer(RotationInterval::from_secs(100).unwrap(), NOW, None).unwrap().desired
    }

    #[test]
    fn a_key_lives_an_interval_and_is_then_the_backup() {
        let first = first();
        assert_eq!((first.prints.backup, first.next_change_at), (None, Some(NOW.plus(100))));
        let young = offer_after(&first, KeySource::Random.as_str(), NOW.plus(99));
        assert_eq!((young.prints, young.next_change_at), (first.prints, first.next_change_at));
        let second = offer_after(&first, KeySource::Random.as_str(), NOW.plus(100));
        assert_eq!(second.prints.backup, Some(first.prints.primary));
        assert_eq!(second.prints.primary.epoch, Epoch::new(10_100));
        assert_eq!(offer_after(&first, KeySource::Random.as_str(), NOW.minus(100)).prints, first.prints);
        let made_by_a_wrong_clock = offer_after(&second, KeySource::Random.as_str(), NOW.minus(101));
        assert_eq!(pair_print(&made_by_a_wrong_clock.keys), second.prints.pair(), "both have cookies");
        assert_eq!(made_by_a_wrong_clock.prints.primary.epoch, Epoch::new(9_899));
        assert_eq!(made_by_a_wrong_clock.next_change_at, Some(NOW.minus(1)));
        let third = offer_after(&second, KeySource::Random.as_str(), NOW.plus(200));
        assert_eq!(third.prints.backup, Some(second.prints.primary), "the first key is gone");
        assert_eq!(pair_print(&third.keys), third.prints.pair());
    }

    #[test]
    fn keys_of_another_source_are_kept_as_backup_once() {
        let foreign = first();
        let taken_over = offer_after(&foreign, "derive", NOW.plus(1));
        assert_eq!(taken_over.prints.backup, Some(foreign.prints.primary));
    }
}
