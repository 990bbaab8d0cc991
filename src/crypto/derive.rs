//! Keys from a shared secret and a counter.
//!
//! Wire v1: both derivations are contracts between hosts, releases and other programs, and never change.

use blake2::Blake2bMac;
use blake2::digest::{FixedOutput, consts::U16};
use ring::hkdf;
use zeroize::{Zeroize, Zeroizing};

use tfo_model::key::TfoKey;
use tfo_model::time::RotationInterval;

/// Shortest secret in bytes: 256 bits, which tofurkey needs too.
pub const SECRET_BYTES_MIN: usize = 32;
/// Longest secret in bytes; a longer file is certainly not a secret.
pub const SECRET_BYTES_MAX: usize = 4_096;

/// Bytes of a secret that tofurkey uses; it never reads the rest.
const TOFURKEY_SECRET_BYTES: usize = 32;

/// A shared secret, wiped when dropped.
pub struct Secret(Zeroizing<Vec<u8>>);

/// Why bytes cannot be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Fewer than 32 bytes.
    #[error("the secret has {0} bytes; it needs at least {SECRET_BYTES_MIN}")]
    TooShort(usize),
    /// More than 4096 bytes.
    #[error("the secret has more than {SECRET_BYTES_MAX} bytes")]
    TooLong,
    /// All bytes are the same, as in a file that was never filled.
    #[error("the secret is one byte repeated")]
    OneByte,
}

impl Secret {
    /// Checks and takes the secret's bytes.
    ///
    /// # Errors
    /// Fails if they are fewer than 32, more than 4096, or all the same.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, BadSecret> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(BadSecret::TooShort(bytes.len()));
        }
        if bytes.len() > SECRET_BYTES_MAX {
            return Err(BadSecret::TooLong);
        }
        // tofurkey reads only the first 32 bytes, so those must not be constant either.
        if bytes[..TOFURKEY_SECRET_BYTES].iter().all(|byte| *byte == bytes[0]) {
            return Err(BadSecret::OneByte);
        }
        Ok(Self(bytes))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// HKDF-SHA-256 (RFC 5869): salt empty, ikm = the secret, info = "tfo-fleet/v1/key" ‖ BE64(interval in seconds) ‖
/// BE64(counter); the 16 output bytes are the raw key.
#[must_use]
pub fn hkdf_sha256(secret: &Secret, interval: RotationInterval, counter: u64) -> TfoKey {
    struct KeyLength;
    impl hkdf::KeyType for KeyLength {
        fn len(&self) -> usize {
            TfoKey::BYTES
        }
    }
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&secret.0);
    let (interval, counter) = (interval.secs().to_be_bytes(), counter.to_be_bytes());
    let info: [&[u8]; 3] = [b"tfo-fleet/v1/key", &interval, &counter];
    let mut bytes = [0; TfoKey::BYTES];
    prk.expand(&info, KeyLength)
        .and_then(|okm| okm.fill(&mut bytes))
        .expect("16 bytes are less than the 255 blocks that HKDF can give");
    TfoKey::take(&mut bytes)
}

/// The derivation of tofurkey 1.x: BLAKE2b with a 16-byte digest, key = the first 32 bytes of the secret, salt =
/// LE64(counter) ‖ 0⁸, personal = "tofurkey" ‖ 0⁸.
///
/// tofurkey prints the digest's bytes in order, four to a group, while the kernel reads each group as a
/// little-endian number (docs/kernel.md#byte-order): the raw key is the digest with the bytes of each group reversed.
#[must_use]
pub fn tofurkey(secret: &Secret, counter: u64) -> TfoKey {
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&counter.to_le_bytes());
    let mut personal = [0; 16];
    personal[..8].copy_from_slice(b"tofurkey");
    let mac = Blake2bMac::<U16>::new_with_salt_and_personal(Some(&secret.0[..TOFURKEY_SECRET_BYTES]), &salt, &personal)
        .expect("a 32-byte key, 16-byte salt and 16-byte personal are BLAKE2b's own limits or less");
    let mut digest = mac.finalize_fixed();
    for group in digest.chunks_exact_mut(4) {
        group.reverse();
    }
    let mut bytes: [u8; TfoKey::BYTES] = digest.into();
    digest.zeroize();
    TfoKey::take(&mut bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(bytes: &[u8]) -> Result<Secret, BadSecret> {
        Secret::new(Zeroizing::new(bytes.to_vec()))
    }

    #[test]
    fn weak_secrets_are_refused() {
        assert_eq!(secret(&[]).err(), Some(BadSecret::TooShort(0)));
        assert_eq!(secret(&[1; 31]).err(), Some(BadSecret::TooShort(31)));
        assert_eq!(secret(&[7; 64]).err(), Some(BadSecret::OneByte));
        assert_eq!(secret(&[0; 4_097]).err(), Some(BadSecret::TooLong));
        let mut late = [7; 64];
        late[63] = 8;
        assert_eq!(secret(&late).err(), Some(BadSecret::OneByte), "tofurkey would see one byte repeated");
    }

    #[test]
    fn the_interval_and_the_counter_are_bound() {
        let ikm: Vec<u8> = (0..32).collect();
        let ikm = secret(&ikm).unwrap();
        let day = RotationInterval::DEFAULT;
        let hour = RotationInterval::from_secs(3_600).unwrap();
        assert!(!hkdf_sha256(&ikm, day, 1).same_as(&hkdf_sha256(&ikm, day, 2)));
        assert!(!hkdf_sha256(&ikm, day, 1).same_as(&hkdf_sha256(&ikm, hour, 1)));
        assert!(hkdf_sha256(&ikm, day, 1).same_as(&hkdf_sha256(&ikm, day, 1)));
    }

    #[test]
    fn a_known_hkdf_key() {
        // Python: hmac.new(hmac.new(bytes(32), bytes(range(32)), 'sha256').digest(), b'tfo-fleet/v1/key' +
        // (86400).to_bytes(8) + (20000).to_bytes(8) + b'\1', 'sha256')
        let ikm: Vec<u8> = (0..32).collect();
        let key = hkdf_sha256(&secret(&ikm).unwrap(), RotationInterval::DEFAULT, 20_000);
        let hex: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "13cbf958bf0c63170ed41c036924bdd1");
    }

    #[test]
    fn the_vector_that_tofurkey_publishes() {
        // tofurkey 1.3.4, t/: this secret, interval 86400, time 1000000, with its own lead of half an interval.
        use tfo_engine::schedule::{Entry, Rule, Schedule};
        use tfo_model::time::{StageLead, UnixTime};
        let hex = "363ec6a05e76eedeb9eb73bc5c25ca5f13f7c1df70c9af3531db4c83d23a8f6b";
        let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        let secret = secret(&bytes).unwrap();
        let interval = RotationInterval::from_secs(86_400).unwrap();
        let rule = Rule::Periodic { interval, lead: StageLead::half_of(interval) };
        let schedule = Schedule::new(vec![Entry { rule, not_before: None }]).unwrap();
        let slots = schedule.slots_at(UnixTime::from_secs(1_000_000));
        let [primary, backup] = [slots.primary, slots.backup.unwrap()];
        let keys = [primary, backup].map(|key| tofurkey(&secret, key.counter.unwrap()));
        // The kernel's text: each group a little-endian number.
        let text = |key: &TfoKey| {
            let groups = key.expose().chunks(4).map(|g| format!("{:08x}", u32::from_le_bytes(g.try_into().unwrap())));
            groups.collect::<Vec<_>>().join("-")
        };
        assert_eq!(text(&keys[0]), "c998252e-8f89667d-31961e08-3897526b");
        assert_eq!(text(&keys[1]), "1c9ca1a5-9d295055-f8e3d4df-7107b577");
    }
}
