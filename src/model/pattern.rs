//! Patterns of node names, as the configuration and the commands have them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::NodeId;

/// A pattern of node names: a DNS name in which `*` stands for any characters.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NamePattern(String);

/// The text is not a pattern of node names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a pattern is 1 to 253 characters of a-z, 0-9, \"-\", \".\" and \"*\"")]
pub struct BadPattern;

impl std::str::FromStr for NamePattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let known = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'*');
        if (1..=253).contains(&text.len()) && text.bytes().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadPattern)
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl NamePattern {
    /// Whether only one name fits.
    #[must_use]
    pub fn is_one_name(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether some text fits both patterns.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let (own, other) = (self.0.as_bytes(), other.0.as_bytes());
        // From the end to the beginning: whether the rest of one pattern from here meets the rest of the other.  Below the
        // end of the own pattern there is nothing, which meets nothing.
        let mut below = vec![false; other.len() + 1];
        for i in (0..=own.len()).rev() {
            let mut row = vec![false; other.len() + 1];
            for j in (0..=other.len()).rev() {
                row[j] = match (own.get(i), other.get(j)) {
                    (None, None) => true,
                    (Some(b'*'), _) => below[j] || (j < other.len() && row[j + 1]),
                    (_, Some(b'*')) => row[j + 1] || below[j],
                    (Some(one), Some(two)) => one == two && below[j + 1],
                    (None, Some(_)) | (Some(_), None) => false,
                };
            }
            below = row;
        }
        below[0]
    }

    /// Whether the name fits.  Linear in name times stars; both are bounded.
    #[must_use]
    pub fn matches(&self, node: &NodeId) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = node.as_str().strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> NamePattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_is_a_name_with_stars_and_shown_as_it_was_written() {
        for (text, is_one_name) in [("a.example.org", true), ("*", false), ("cp-0*.example", false)] {
            assert_eq!((pattern(text).to_string().as_str(), pattern(text).is_one_name()), (text, is_one_name));
        }
        assert!("a".repeat(253).parse::<NamePattern>().is_ok());
        for bad in ["", "A", "a b", "a_b", "ä", &"a".repeat(254)] {
            assert_eq!(bad.parse::<NamePattern>(), Err(BadPattern), "{bad}");
        }
    }

    #[test]
    fn a_star_stands_for_any_characters_also_for_none() {
        for (text, fits, does_not) in [
            ("a.b", &["a.b"][..], &["a.b.c", "x.a.b", "a"][..]),
            ("*", &["a", "a.b"], &[]),
            ("a*", &["a", "a.b"], &["b", "b.a"]),
            ("*.b", &["a.b", "a.b.b"], &["b", "a.b.c"]),
            // What one star took is not there for the next part.
            ("a*a", &["aa", "aba"], &["a", "ab"]),
            ("*ab*ab*", &["abab", "xabxabx"], &["ab", "aba", "aab"]),
            ("a*bb*b", &["abbb", "abbxb"], &["abb", "abxb"]),
        ] {
            for name in fits {
                assert!(pattern(text).matches(&name.parse().unwrap()), "{text} {name}");
            }
            for name in does_not {
                assert!(!pattern(text).matches(&name.parse().unwrap()), "{text} {name}");
            }
        }
    }

    #[test]
    fn patterns_meet_if_some_name_fits_both() {
        let cases = [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("*", "a", true),
            ("*.b", "a.*", true),
            ("a*", "b*", false),
            ("*a", "*b", false),
            ("ba", "*a", true),
            ("ab", "a*", true),
            ("a*c", "ac", true),
            ("a*b", "a*c", false),
            ("a", "ab", false),
            ("a*c*e", "ab*de", true),
            ("a*c", "a", false),
            ("aa*", "*a", true),
            ("a*b*c", "a*d*c", true),
        ];
        for (one, other, meet) in cases {
            assert_eq!(pattern(one).meets(&pattern(other)), meet, "{one} {other}");
            assert_eq!(pattern(other).meets(&pattern(one)), meet, "{other} {one}");
        }
    }
}
