//! Whether a coordinator has so many more nodes than the others that it sends some of them elsewhere.
//!
//! Nodes spread by themselves ([`crate::route`]); this is for fleets whose lists of coordinators differ, and for the time
//! after restarts.  Must not know: which nodes.

/// Below so many nodes no coordinator is crowded.
const CROWD_MIN: usize = 100;
/// While a coordinator is crowded, one in so many answers without news sends its node elsewhere: of a large fleet less than
/// one in a hundred in a second.
pub const ELSEWHERE_PARTS: usize = 8;

/// Whether a coordinator with `own` nodes has more than one and a half of the mean; `others` are those of the other
/// coordinators that beat.
#[must_use]
pub fn is_crowded(own: usize, others: &[usize]) -> bool {
    let all = own + others.iter().sum::<usize>();
    let count = others.len() + 1;
    count > 1 && own >= CROWD_MIN && 2 * count * own > 3 * all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_with_more_than_one_and_a_half_of_the_mean_is_crowded() {
        for (own, others, crowded) in [
            (1_000, &[][..], false),
            (1_000, &[0], true),
            (1_000, &[334], false),
            (1_000, &[333], true),
            (1_000, &[500, 500], false),
            // One of three is dead, and back without any.
            (150, &[150, 0], false),
            (151, &[149, 0], true),
            (99, &[0, 0], false),
            (100, &[0, 0], true),
        ] {
            assert_eq!(is_crowded(own, others), crowded, "{own} {others:?}");
        }
    }
}
