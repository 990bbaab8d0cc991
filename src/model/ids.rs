//! Names that come from outside: parsed once, bounded, printable; after that they cannot be wrong.
//!
//! A clone shares the text, because a coordinator names each of ten thousand nodes at every look.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::serde_as_text;

/// A name that breaks the rules of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub struct BadName {
    rule: &'static str,
}

/// The first 16 bytes of a name as a number that compares as the text does, so most comparisons need not read the text,
/// which is elsewhere in memory.  A shorter name is padded with zeros, which no name contains.
fn head(text: &str) -> u128 {
    let mut bytes = [0; 16];
    let len = text.len().min(bytes.len());
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    u128::from_be_bytes(bytes)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:ident, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Eq)]
        pub struct $name {
            head: u128,
            text: Arc<str>,
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.text)
            }
        }

        impl Ord for $name {
            #[inline]
            fn cmp(&self, other: &Self) -> Ordering {
                self.head.cmp(&other.head).then_with(|| {
                    if Arc::ptr_eq(&self.text, &other.text) { Ordering::Equal } else { self.text.cmp(&other.text) }
                })
            }
        }

        // Hand-written: the derived impl compares the text even if both are the same allocation.
        impl PartialEq for $name {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other) == Ordering::Equal
            }
        }

        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.text.hash(state);
            }
        }

        impl PartialOrd for $name {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.text
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                if $check(text) { Ok(Self { head: head(text), text: text.into() }) } else { Err(BadName { rule: $rule }) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }

        serde_as_text!($name);
    };
}

name! {
    /// A node: a DNS name of at most 253 characters (RFC 1123 section 2.1), lower case.
    NodeId, is_dns_name,
    "a node's name is a lower-case DNS name: labels of a-z, 0-9 and \"-\", at most 63 characters each and 253 in all"
}

name! {
    /// A coordinator: a DNS name like that of a node.
    CoordinatorName, is_dns_name,
    "a coordinator's name is a lower-case DNS name: labels of a-z, 0-9 and \"-\", at most 63 characters each and 253 in all"
}

name! {
    /// The operator's name of a pool.
    PoolName, is_pool_name,
    "a pool's name is 1 to 63 characters of a-z, 0-9, \".\", \"_\", \"-\", starting with a letter or digit"
}

name! {
    /// The public part of an enrolment token: it names the token in lists, in the audit log and in errors.
    TokenId, is_token_id,
    "a token's id is 12 characters of 0-9 and a-f"
}

/// Joins two lists in the order of nodes in one pass.  Looking up each node of the first in the second would be most of
/// what a coordinator of ten thousand nodes does.
pub fn merge_join<'a, A, B>(
    left: impl Iterator<Item = (&'a NodeId, A)>,
    right: impl Iterator<Item = (&'a NodeId, B)>,
) -> impl Iterator<Item = (&'a NodeId, A, Option<B>)> {
    let mut right = right.peekable();
    left.map(move |(node, of_left)| {
        while right.next_if(|(other, _)| *other < node).is_some() {}
        let of_right = right.next_if(|(other, _)| *other == node).map(|(_, of_right)| of_right);
        (node, of_left, of_right)
    })
}

/// The identity of a pool: 128 random bits made once, as 32 lower-case hex digits.
///
/// A pool that was made again under an old name has another one, and nodes of the old pool refuse it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(u128);

impl PoolId {
    /// The random bits.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl FromStr for PoolId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let number = if is_pool_id(text) { u128::from_str_radix(text, 16).ok() } else { None };
        number.map(Self).ok_or(BadName { rule: "a pool_id is 32 lower-case hex digits" })
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolId(\"{self}\")")
    }
}

serde_as_text!(PoolId);

name! {
    /// The name of a network namespace under /run/netns.
    NamespaceName, is_file_name,
    "a namespace is a name under /run/netns: 1 to 255 characters of A-Z, a-z, 0-9, \".\", \"_\", \"-\", not starting with a dot"
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_pool_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_pool_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_token_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_file_name(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_as_their_texts_do() {
        let texts = [
            "a",
            "a.b",
            "a-b",
            "ab",
            "cp3050.example.org",
            "cp3050.example.net",
            "cp3050.example.o",
            "cp3050.example.",
        ];
        let names = texts.map(|text| text.parse::<PoolName>().unwrap());
        for (text, name) in texts.iter().zip(&names) {
            for (other_text, other) in texts.iter().zip(&names) {
                assert_eq!(name.cmp(other), text.cmp(other_text), "{text} {other_text}");
                assert_eq!(name == other, text == other_text, "{text} {other_text}");
            }
            assert_eq!(name.cmp(&text.parse().unwrap()), Ordering::Equal, "{text}");
        }
    }

    #[test]
    fn node_names_are_dns_names() {
        for good in ["a", "cp3050.example.org", "0-9.x"] {
            assert!(good.parse::<NodeId>().is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", ".", "a.", "-a", "a-", "A.example", "a b", "a/b", "ä", &long, "*.example"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pools_have_a_name_and_an_identity() {
        for bad in ["", "-a", "Text", "a/b", &"a".repeat(64)] {
            assert!(bad.parse::<PoolName>().is_err(), "{bad}");
        }
        assert!("edge".parse::<PoolName>().is_ok());
        let pool_id = "0123456789abcdef0123456789abcdef";
        assert_eq!(pool_id.parse::<PoolId>().unwrap().to_string(), pool_id, "with its leading zero");
        let parsed = pool_id.parse::<PoolId>().unwrap();
        assert_eq!(format!("{parsed:?}"), format!("PoolId({pool_id:?})"));
        assert_eq!(parsed.to_bytes()[..9], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01]);
        for bad in ["", "0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef"] {
            assert!(bad.parse::<PoolId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_namespace_cannot_leave_its_directory() {
        assert!("cache-1".parse::<NamespaceName>().is_ok());
        for bad in ["", ".", "..", "../x", "a/b", ".hidden", "a\0"] {
            assert!(bad.parse::<NamespaceName>().is_err(), "{bad:?}");
        }
    }
}
