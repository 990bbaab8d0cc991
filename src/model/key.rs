//! The key, its public fingerprint, and the ordered pair that a network namespace holds.
//!
//! Invariants: key bytes live only in [`TfoKey`] and are wiped when it is dropped; nothing here can
//! print them.  A [`KeyPair`] is never all-zero in a slot and never holds one key twice.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::serde_as_text;

/// One TCP Fast Open key: 128 secret bits, in the kernel's own byte order (docs/kernel.md#byte-order).
///
/// It has no `Clone`, `Eq`, `Hash`, `Display` or `Serialize`, and its `Debug` prints no byte, so that a key can
/// only leave through the two greppable exits [`TfoKey::expose`] and [`TfoKey::duplicate`].
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TfoKey([u8; TfoKey::BYTES]);

impl TfoKey {
    /// Length of a key in bytes (`TCP_FASTOPEN_KEY_LENGTH`, Linux `include/net/tcp.h`).
    pub const BYTES: usize = 16;

    /// Takes the bytes over and wipes their source.
    #[must_use]
    pub fn take(bytes: &mut [u8; Self::BYTES]) -> Self {
        let key = Self(*bytes);
        bytes.zeroize();
        key
    }

    /// The secret bytes.  Every caller is a place where a key may leak: keep them few.
    #[must_use]
    pub fn expose(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// A second copy, for the few owners that need one.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0)
    }

    /// Whether both are the same key, in constant time.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// Whether this is the all-zero key, which the kernel shows for "none set" (docs/kernel.md#the-key-file).
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.ct_eq(&[0; Self::BYTES]).into()
    }
}

impl fmt::Debug for TfoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TfoKey")
    }
}

/// Public name of a key: the first 8 bytes of SHA-256("tfo-fleet/v1/fingerprint" ‖ key), as 16 hex digits.
///
/// Made by `crypto::fingerprint`.  A fingerprint of a random 128-bit key reveals nothing about it, so it may be
/// logged, compared, reported and shown anywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyFingerprint(u64);

impl KeyFingerprint {
    /// Length in bytes.
    pub const BYTES: usize = 8;

    /// Wraps the truncated hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// The truncated hash.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 16 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 16 lower-case hex digits")]
pub struct BadFingerprint;

impl FromStr for KeyFingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Self, BadFingerprint> {
        let canonical = text.len() == 2 * Self::BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Err(BadFingerprint);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| BadFingerprint)
    }
}

serde_as_text!(KeyFingerprint);

/// The slots of one network namespace: the primary makes and validates cookies, the backup only validates.
#[derive(Debug)]
pub struct KeyPair {
    primary: TfoKey,
    backup: Option<TfoKey>,
}

/// Why two keys do not make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyPairError {
    /// A slot would hold a key that anyone can guess.
    #[error("an all-zero key cannot be used: the kernel shows it for \"none set\", and its cookies can be forged")]
    ZeroKey,
    /// The backup slot would hold the primary: the previous key would be lost silently.
    #[error("the backup key equals the primary key")]
    PrimaryIsBackup,
}

impl KeyPair {
    /// Makes the ordered pair.
    ///
    /// # Errors
    /// Fails if a key is all zeros, or if both are the same key.
    pub fn new(primary: TfoKey, backup: Option<TfoKey>) -> Result<Self, KeyPairError> {
        if primary.is_zero() || backup.as_ref().is_some_and(TfoKey::is_zero) {
            return Err(KeyPairError::ZeroKey);
        }
        if backup.as_ref().is_some_and(|key| key.same_as(&primary)) {
            return Err(KeyPairError::PrimaryIsBackup);
        }
        Ok(Self { primary, backup })
    }

    /// The key that makes cookies.
    #[must_use]
    pub fn primary(&self) -> &TfoKey {
        &self.primary
    }

    /// The key that only validates.
    #[must_use]
    pub fn backup(&self) -> Option<&TfoKey> {
        self.backup.as_ref()
    }

    /// A second copy of both keys.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { primary: self.primary.duplicate(), backup: self.backup.as_ref().map(TfoKey::duplicate) }
    }
}

/// Fingerprints of a [`KeyPair`]: what is compared to find drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairPrint {
    /// Fingerprint of the primary.
    pub primary: KeyFingerprint,
    /// Fingerprint of the backup, if the slot is used.
    pub backup: Option<KeyFingerprint>,
}

impl PairPrint {
    /// The same slots on a kernel without a backup slot (before Linux 5.3, commit 9092a76d3cf8).
    #[must_use]
    pub fn primary_alone(self) -> Self {
        Self { backup: None, ..self }
    }

    /// The safety property for two nodes: whether a cookie made by `self` is accepted by `other`.
    #[must_use]
    pub fn minted_is_accepted_by(&self, other: &Self) -> bool {
        self.primary == other.primary || Some(self.primary) == other.backup
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> TfoKey {
        TfoKey::take(&mut [byte; 16])
    }

    #[test]
    fn a_pair_refuses_zero_keys_and_one_key_twice() {
        assert_eq!(KeyPair::new(key(0), None).err(), Some(KeyPairError::ZeroKey));
        assert_eq!(KeyPair::new(key(1), Some(key(0))).err(), Some(KeyPairError::ZeroKey));
        assert_eq!(KeyPair::new(key(1), Some(key(1))).err(), Some(KeyPairError::PrimaryIsBackup));
        assert!(KeyPair::new(key(1), Some(key(2))).is_ok());
        assert!(KeyPair::new(key(1), None).is_ok());
    }

    #[test]
    fn debug_shows_no_byte() {
        let pair = KeyPair::new(key(0xab), Some(key(0xcd))).unwrap();
        let shown = format!("{pair:?}");
        assert_eq!(shown, "KeyPair { primary: TfoKey, backup: Some(TfoKey) }");
    }

    #[test]
    fn taking_a_key_wipes_its_source() {
        let mut bytes = [7; 16];
        let taken = TfoKey::take(&mut bytes);
        assert_eq!(bytes, [0; 16]);
        assert_eq!(taken.expose(), &[7; 16]);
    }

    #[test]
    fn fingerprints_read_back_and_refuse_other_spellings() {
        let print = KeyFingerprint::from_bytes([0, 1, 2, 3, 4, 5, 6, 0xff]);
        assert_eq!(print.to_string(), "00010203040506ff");
        assert_eq!("00010203040506ff".parse(), Ok(print));
        for bad in ["", "00010203040506f", "00010203040506FF", "+0010203040506ff", "00010203040506ffa"] {
            assert_eq!(bad.parse::<KeyFingerprint>(), Err(BadFingerprint), "{bad}");
        }
        assert_eq!((format!("{print:?}"), print.to_bytes()), (print.to_string(), [0, 1, 2, 3, 4, 5, 6, 0xff]));
    }

    /// The property of docs/protocol.md#the-theorem, for one direction.
    #[test]
    fn a_cookie_is_accepted_by_both_slots_of_the_other_node() {
        let pair = |primary, backup: Option<u8>| PairPrint {
            primary: KeyFingerprint::from_bytes([primary; 8]),
            backup: backup.map(|byte| KeyFingerprint::from_bytes([byte; 8])),
        };
        for (made_by, read_by, is_accepted) in [
            (pair(1, Some(2)), pair(1, Some(2)), true),
            (pair(1, Some(2)), pair(2, Some(1)), true),
            (pair(1, None), pair(1, Some(3)), true),
            (pair(1, Some(2)), pair(2, Some(3)), false),
            (pair(1, Some(2)), pair(2, None), false),
            (pair(1, None), pair(2, None), false),
        ] {
            assert_eq!(made_by.minted_is_accepted_by(&read_by), is_accepted, "{made_by:?} {read_by:?}");
        }
        assert_eq!(pair(1, Some(2)).primary_alone(), pair(1, None));
    }
}
