//! Values: JSON behind a checksum that also covers the key, so that neither a flipped bit nor a value under another key is
//! read.  Persisted: `HEX JSON`.

use std::fmt::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::Pair;
use crate::error::StoreError;
use tfo_crypto::checksum::{CHECKSUM_BYTES, checksum};

/// Characters of the checksum.
const SUM: usize = 2 * CHECKSUM_BYTES;

/// The value of a key.
pub(super) fn print(key: &str, value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_string(value).expect("plain data with text as keys");
    let mut text = sum(key, json.as_bytes());
    text.push(' ');
    text.push_str(&json);
    text.into_bytes()
}

/// The value of a key from its JSON.
pub(super) fn print_text(key: &str, json: &str) -> Vec<u8> {
    format!("{} {json}", sum(key, json.as_bytes())).into_bytes()
}

/// The JSON of a value, and whether its checksum is right.
pub(super) fn text(pair: &Pair) -> (String, bool) {
    let value = &pair.value.0;
    let (stored, json) = value.split_at_checked(SUM + 1).unwrap_or((&[], value));
    let is_intact = stored == format!("{} ", sum(pair.name(), json)).as_bytes();
    (String::from_utf8_lossy(json).into_owned(), is_intact)
}

/// Reads a value.
pub(super) fn parse<T: DeserializeOwned>(pair: &Pair, place: &str) -> Result<T, StoreError> {
    let (key, value) = (pair.name(), &pair.value.0);
    let damaged = |what: String| StoreError::Damaged { place: place.to_owned(), what: format!("\"{key}\": {what}") };
    match value.split_at_checked(SUM) {
        Some((stored, [b' ', json @ ..])) if stored == sum(key, json).as_bytes() => {
            serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))
        }
        Some(_) | None => Err(damaged("its checksum is wrong".to_owned())),
    }
}

fn sum(key: &str, json: &[u8]) -> String {
    checksum(&[key.as_bytes(), json]).iter().fold(String::with_capacity(SUM + 1 + json.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::wire::Bytes;

    #[test]
    fn a_value_is_read_under_its_own_key_and_whole() {
        let value = print("a", &vec![1, 2]);
        let pair = |key: &str, value: &[u8]| Pair { key: key.into(), value: Bytes(value.to_vec()), ..Pair::default() };
        assert_eq!(print_text("a", "[1,2]"), value);
        assert_eq!((text(&pair("a", &value)), text(&pair("b", &value)).1), (("[1,2]".to_owned(), true), false));
        assert_eq!(parse::<Vec<u8>>(&pair("a", &value), "etcd").unwrap(), [1, 2]);
        assert!(parse::<Vec<u8>>(&pair("b", &value), "etcd").is_err());
        for at in 0..value.len() {
            let mut flipped = value.clone();
            flipped[at] ^= 1;
            assert!(parse::<Vec<u8>>(&pair("a", &flipped), "etcd").is_err(), "byte {at}");
            assert!(parse::<Vec<u8>>(&pair("a", &value[..at]), "etcd").is_err(), "cut to {at}");
            assert!(!text(&pair("a", &flipped)).1 && !text(&pair("a", &value[..at])).1, "{at}");
        }
    }
}
