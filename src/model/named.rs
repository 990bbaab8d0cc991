//! Enums that travel as text: one name for each variant, in the API, in files, in metrics and in the log.
//!
//! [`named_enum!`](crate::named_enum) makes them.  A reader that has to live with peers of later releases takes a
//! [`Named`], which keeps a name that this release does not know.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of a later release that is kept, in characters; ours have fewer than 20.
pub const UNKNOWN_CHARS_MAX: usize = 64;

/// Makes an enum of unit variants with one name each: `ALL`, `as_str`, and the text forms of `Display`, `FromStr` and
/// serde, which are that name.  The order of values is that of their names, as every output sorts them.
#[macro_export]
macro_rules! named_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $enum:ident { $($(#[$note:meta])* $variant:ident = $name:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis enum $enum { $($(#[$note])* $variant,)+ }

        impl $enum {
            /// Every variant.
            $vis const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name used in every output.
            #[must_use]
            $vis const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl AsRef<str> for $enum {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl ::std::fmt::Display for $enum {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::std::str::FromStr for $enum {
            type Err = $crate::named::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err($crate::named::UnknownName::new(name)),
                }
            }
        }

        impl Ord for $enum {
            fn cmp(&self, other: &Self) -> ::std::cmp::Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl PartialOrd for $enum {
            fn partial_cmp(&self, other: &Self) -> Option<::std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        $crate::serde_as_text!($enum);
    };
}

/// A name that this release does not know.  Longer than [`UNKNOWN_CHARS_MAX`] it is cut, and ends in `…`.
///
/// It is text of a peer: a terminal gets it without its control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[error("unknown name {0:?}")]
pub struct UnknownName(Box<str>);

impl UnknownName {
    /// Keeps the text, as far as it is short enough.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(match text.char_indices().nth(UNKNOWN_CHARS_MAX) {
            None => text.into(),
            Some((end, _)) => format!("{}…", &text[..end]).into(),
        })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a peer calls by name: a `T`, or something that a later release has.
///
/// Reading one never fails because of its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Named<T> {
    /// This release has it.
    Known(T),
    /// A later release has it; it can only be shown.
    Unknown(UnknownName),
}

impl<T: AsRef<str>> Named<T> {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(known) => known.as_ref(),
            Self::Unknown(unknown) => unknown.as_str(),
        }
    }
}

impl<T: Copy> Named<T> {
    /// The value, if this release has it.
    #[must_use]
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(known) => Some(*known),
            Self::Unknown(_) => None,
        }
    }
}

impl<T> From<T> for Named<T> {
    fn from(known: T) -> Self {
        Self::Known(known)
    }
}

impl<T: PartialEq> PartialEq<T> for Named<T> {
    fn eq(&self, other: &T) -> bool {
        matches!(self, Self::Known(known) if known == other)
    }
}

impl<T: FromStr<Err = UnknownName>> FromStr for Named<T> {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(name.parse().map_or_else(Self::Unknown, Self::Known))
    }
}

impl<T: AsRef<str>> fmt::Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<T: AsRef<str>> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: FromStr<Err = UnknownName>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    named_enum! {
        /// Two letters.
        enum Letter {
            /// The second.
            Beta = "beta",
            /// The first.
            Alpha = "alpha",
        }
    }

    #[test]
    fn a_variant_has_one_name_and_sorts_by_it() {
        assert_eq!(Letter::ALL.map(Letter::as_str), ["beta", "alpha"]);
        for letter in Letter::ALL {
            assert_eq!(letter.to_string().parse(), Ok(letter));
            assert_eq!(letter.as_str().parse(), Ok(Named::Known(letter)));
            assert_eq!(Named::Known(letter).known(), Some(letter));
        }
        assert!(Letter::Alpha < Letter::Beta);
        assert_eq!(format!("{:>6}", Letter::Beta), "  beta");
        for bad in ["", "Beta", " beta", "gamma"] {
            assert_eq!(bad.parse::<Letter>(), Err(UnknownName::new(bad)));
        }
        assert_eq!("gam\u{1b}ma".parse::<Letter>().unwrap_err().to_string(), r#"unknown name "gam\u{1b}ma""#);
    }

    #[test]
    fn an_unknown_name_is_kept_and_a_long_one_is_cut() {
        let read = |text: &str| text.parse::<Named<Letter>>().unwrap();
        for text in ["", "gamma", "gam\u{1b}ma", &"ä".repeat(UNKNOWN_CHARS_MAX)] {
            assert_eq!(read(text).to_string(), text);
            assert_eq!(read(text).known(), None);
        }
        let long = "ä".repeat(UNKNOWN_CHARS_MAX + 1);
        assert_eq!(read(&long).to_string(), format!("{}…", "ä".repeat(UNKNOWN_CHARS_MAX)));
        assert!(read("alpha") == Letter::Alpha && read("alpha") != Letter::Beta && read("gamma") != Letter::Beta);
    }
}
