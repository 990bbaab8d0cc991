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
        // From the end to the beginning: whether the rest of one pattern from here meets the rest of the other.
        let mut below = vec![false; other.len() + 1];
        for i in (0..=own.len()).rev() {
            let mut row = vec![false; other.len() + 1];
            for j in (0..=other.len()).rev() {
                row[j] = match (own.get(i), other.get(j)) {
                    (None, None) => true,
                    (Some(b'*'), _) => below[j] || (j < other.len() && row[j + 1]),
                    (_, Some(b'*')) => row[j + 1] || (i < own.len() && below[j]),
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
