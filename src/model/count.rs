//! The three ordinals, which are never interchangeable: [`Epoch`] of a key, [`Generation`] of an instruction,
//! [`Revision`] of a change of the document (docs/protocol.md#rule-2).

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ordinal of a *key*; used once, also when its rotation is aborted (docs/protocol.md#rule-1).
///
/// With a coordinator it counts keys; with derived keys it is the unix second at which the key becomes primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(NonZeroU64);

impl Epoch {
    /// The first epoch of a pool.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The epoch of this ordinal; none for 0.
    #[must_use]
    pub const fn new(ordinal: u64) -> Option<Self> {
        match NonZeroU64::new(ordinal) {
            Some(ordinal) => Some(Self(ordinal)),
            None => None,
        }
    }

    /// The ordinal, from 1.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The epoch after this one; none after the last that fits.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Epoch {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// The counter of this value.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The value.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this one; none after the last that fits.
            #[must_use]
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

counter! {
    /// Ordinal of an *instruction*: rises exactly when the slots that some node is instructed to hold change.  Nodes
    /// fence on it.
    Generation
}

counter! {
    /// Ordinal of a *change of the document*: rises with every commit.  The token of the compare-and-swap.
    Revision
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_start_at_one_and_end_without_wrapping() {
        assert_eq!(Epoch::new(0), None);
        assert_eq!(Epoch::FIRST.get(), 1);
        assert_eq!(Epoch::FIRST.next(), Epoch::new(2));
        assert_eq!(Epoch::new(u64::MAX).and_then(Epoch::next), None);
        assert!("0".parse::<Epoch>().is_err());
        let twelve = "12".parse::<Epoch>().unwrap();
        assert_eq!((twelve.get(), twelve.to_string()), (12, "12".to_owned()));
    }

    #[test]
    fn counters_do_not_wrap() {
        assert_eq!(Generation::ZERO.next(), Some(Generation::new(1)));
        assert_eq!(Revision::new(u64::MAX).next(), None);
        let twelve = "12".parse::<Generation>().unwrap();
        assert_eq!((twelve.get(), twelve.to_string()), (12, "12".to_owned()));
    }
}
