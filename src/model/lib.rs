//! Pure types: what a key, a fingerprint, an epoch and a cookie are.
//!
//! Nothing here reads a clock, a file, a socket, the environment or randomness, and nothing logs.
//! The manifest names no crate that could.

pub mod caveat;
pub mod cookie;
pub mod count;
pub mod digest;
pub mod fleet;
pub mod ids;
pub mod kernel;
pub mod key;
pub mod key_text;
pub mod named;
pub mod namespace_place;
pub mod node;
pub mod pattern;
pub mod problem;
pub mod serial;
pub mod state;
pub mod time;
pub mod week;

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};

/// Deserializes what is text outside by its own `FromStr` alone.
///
/// # Errors
/// Fails if it is not text, or as `FromStr` does.
pub fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// serde for what is text outside: written by its `Display`, read by its `FromStr`.
#[macro_export]
macro_rules! serde_as_text {
    ($type:ty) => {
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::from_text(deserializer)
            }
        }
    };
}
