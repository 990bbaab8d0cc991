//! In which order coordinators take a step that each of them may take (docs/protocol.md#rule-2).
//!
//! All see the same news at about the same time, and one commit succeeds: the keys and the calls of the others would be for
//! nothing.  So each waits a moment for every one that comes before it, in an order that is another one at each
//! revision.  Nothing depends on it: one that comes first and does nothing is not waited for any longer.
//!
//! Must not know: clocks.

use std::hash::Hasher;
use std::time::Duration;

use siphasher::sip::SipHasher24;

use super::document::Document;
use tfo_model::ids::CoordinatorName;

/// How long to wait for each coordinator that comes before: longer than its commit takes, and than news of it.
pub const TURN: Duration = Duration::from_millis(100);
/// Most that are waited for.
const TURNS_MAX: u32 = 10;

/// Key of the hash that orders coordinators; not a secret.
const ORDER_KEY: [u8; 16] = *b"tfo-fleet/v1/trn";

/// How long the coordinator `own` waits with a step from this document that it could take now; `others` are those that live.
#[must_use]
pub fn wait_before<'a>(
    document: &Document,
    own: &CoordinatorName,
    others: impl IntoIterator<Item = &'a CoordinatorName>,
) -> Duration {
    let place = |name: &CoordinatorName| {
        let mut hasher = SipHasher24::new_with_key(&ORDER_KEY);
        hasher.write(&document.pool_id.to_bytes());
        hasher.write(&document.revision.get().to_be_bytes());
        hasher.write(name.as_str().as_bytes());
        hasher.finish()
    };
    let own = (place(own), own);
    let before = others.into_iter().filter(|other| (place(other), *other) < own).count();
    TURN * u32::try_from(before).unwrap_or(TURNS_MAX).min(TURNS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::policy::Policy;
    use tfo_model::count::Revision;
    use tfo_model::time::UnixTime;

    fn names(count: usize) -> Vec<CoordinatorName> {
        (0..count).map(|number| format!("c{number}").parse().unwrap()).collect()
    }

    fn waits(document: &Document, names: &[CoordinatorName]) -> Vec<Duration> {
        let wait = |own| wait_before(document, own, names.iter().filter(|other| *other != own));
        names.iter().map(wait).collect()
    }

    #[test]
    fn each_waits_for_those_before_it_and_every_revision_has_another_order() {
        let pool_id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let mut document =
            Document::new(pool_id, Policy::with_defaults(vec!["*".parse().unwrap()]), UnixTime::from_secs(0));
        let names = names(4);
        let mut first = [0_u32; 4];
        for revision in 0..400 {
            document.revision = Revision::new(revision);
            let waits = waits(&document, &names);
            first[waits.iter().position(Duration::is_zero).unwrap()] += 1;
            let mut sorted = waits.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3].map(|turns| TURN * turns), "at {revision}: {waits:?}");
        }
        assert!(first.iter().all(|times| *times > 70), "each comes first now and then: {first:?}");
        let other = "fedcba9876543210fedcba9876543210".parse().unwrap();
        let elsewhere = |revision| {
            let at =
                |pool_id| waits(&Document { pool_id, revision: Revision::new(revision), ..document.clone() }, &names);
            at(pool_id) != at(other)
        };
        assert!((0..10).any(elsewhere), "and every pool");
    }

    #[test]
    fn one_that_is_alone_does_not_wait_and_none_waits_for_long() {
        let pool_id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let document =
            Document::new(pool_id, Policy::with_defaults(vec!["*".parse().unwrap()]), UnixTime::from_secs(0));
        assert_eq!(waits(&document, &names(1)), [Duration::ZERO]);
        assert_eq!(waits(&document, &names(50)).into_iter().max(), Some(TURN * TURNS_MAX));
    }
}
