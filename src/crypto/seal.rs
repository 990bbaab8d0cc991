//! Keys at rest: sealed with AES-256-GCM under a key-encryption key that the operator keeps outside the store.
//!
//! Invariants: every sealing takes a fresh random nonce; a sealed key opens only as the key of the pool and the epoch
//! that it was sealed for, because both are authenticated with it.  Must not know: where sealed keys are stored.

use std::fmt;
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use zeroize::Zeroizing;

use super::random::{self, NoRandomness};
use tfo_model::count::Epoch;
use tfo_model::ids::PoolId;
use tfo_model::key::TfoKey;

/// Separates sealed keys from sealed checks; the parts that follow have fixed lengths, 32 and 8 bytes.
const KEY_DOMAIN: &[u8] = b"tfo-fleet/v1/sealed-key";
/// See [`KEY_DOMAIN`]; 16 bytes follow.
const CHECK_DOMAIN: &[u8] = b"tfo-fleet/v1/store-check";
/// Separates sealed files from both; the rest is the file's header.
const FILE_DOMAIN: &[u8] = b"tfo-fleet/v1/sealed-file";
/// What the public name of a key-encryption key is made of.
const ID_DOMAIN: &[u8] = b"tfo-fleet/v1/kek-id";
/// Bytes of that name.
const ID_BYTES: usize = 8;
/// Bytes of the authentication tag of AES-256-GCM (NIST SP 800-38D, the longest).
const TAG_BYTES: usize = 16;

/// Why bytes cannot be a key-encryption key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyEncryptionKey {
    /// Wrong length.
    #[error("a key-encryption key is {} raw bytes, not {bytes}", KeyEncryptionKey::BYTES)]
    Length {
        /// Number of bytes given.
        bytes: usize,
    },
    /// One byte repeated: a file that was made with `truncate` or `head -c 32 /dev/zero`.
    #[error("a key-encryption key of one repeated byte can be guessed")]
    Repeated,
}

/// A sealed key does not open: another key-encryption key, another pool or epoch, or damaged bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed key does not open")]
pub struct DoesNotOpen;

/// One key as it lies in a store: nonce, ciphertext and tag.  Persisted.  Reveals nothing without the key-encryption
/// key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedKey([u8; SealedKey::BYTES]);

impl SealedKey {
    /// Length in bytes: 12 of nonce, 16 of ciphertext, 16 of tag.
    pub const BYTES: usize = NONCE_LEN + TfoKey::BYTES + TAG_BYTES;

    /// Wraps stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

/// The key-encryption key of a store: 256 bits.
///
/// ring keeps the expanded key for the life of the value and does not wipe it; the process is not dumpable and does not
/// swap (`runtime::process`).
pub struct KeyEncryptionKey {
    key: LessSafeKey,
    id: KekId,
}

/// The public name of a key-encryption key: 16 hex digits, which reveal nothing of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KekId(String);

impl KekId {
    fn of(bytes: &[u8]) -> Self {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), ID_DOMAIN);
        Self(tag.as_ref()[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key-encryption keys that a coordinator has: the present one, and the next one while one takes the other's place.
#[derive(Debug, Clone)]
pub struct KeyEncryptionKeys {
    present: Arc<KeyEncryptionKey>,
    next: Option<Arc<KeyEncryptionKey>>,
}

impl From<KeyEncryptionKey> for KeyEncryptionKeys {
    fn from(key: KeyEncryptionKey) -> Self {
        Self::new(key, None)
    }
}

impl KeyEncryptionKeys {
    /// These two; the same twice is one.
    #[must_use]
    pub fn new(present: KeyEncryptionKey, next: Option<KeyEncryptionKey>) -> Self {
        let next = next.filter(|next| next.id != present.id).map(Arc::new);
        Self { present: Arc::new(present), next }
    }

    /// The present one.
    #[must_use]
    pub fn present(&self) -> &KeyEncryptionKey {
        &self.present
    }

    /// The next one.
    #[must_use]
    pub fn next(&self) -> Option<&KeyEncryptionKey> {
        self.next.as_deref()
    }

    /// All of them, the present one first.
    pub fn all(&self) -> impl Iterator<Item = &KeyEncryptionKey> {
        [Some(&*self.present), self.next.as_deref()].into_iter().flatten()
    }

    /// The one that made this value of [`KeyEncryptionKey::seal_check`]: that of the store.
    #[must_use]
    pub fn of_check(&self, store: &[u8; 16], check: &SealedKey) -> Option<&KeyEncryptionKey> {
        self.all().find(|key| key.opens_check(store, check))
    }

    /// Opens what one of them has sealed for this pool and epoch.
    ///
    /// # Errors
    /// As [`KeyEncryptionKey::open`].
    pub fn open(&self, pool_id: &PoolId, epoch: Epoch, sealed: &SealedKey) -> Result<TfoKey, DoesNotOpen> {
        self.all().find_map(|key| key.open(pool_id, epoch, sealed).ok()).ok_or(DoesNotOpen)
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyEncryptionKey")
    }
}

impl KeyEncryptionKey {
    /// Length in bytes.
    pub const BYTES: usize = 32;

    /// Takes the raw bytes of a credential or a file.
    ///
    /// # Errors
    /// Fails unless there are 32, or if they are one byte repeated.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadKeyEncryptionKey> {
        let length = BadKeyEncryptionKey::Length { bytes: bytes.len() };
        if bytes.len() != Self::BYTES {
            return Err(length);
        }
        if bytes.windows(2).all(|pair| pair[0] == pair[1]) {
            return Err(BadKeyEncryptionKey::Repeated);
        }
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| length)?;
        Ok(Self { key: LessSafeKey::new(key), id: KekId::of(bytes) })
    }

    /// Its public name.
    #[must_use]
    pub fn id(&self) -> &KekId {
        &self.id
    }

    /// Seals a key as the key of this pool and epoch.
    ///
    /// # Errors
    /// Fails if the system gives no randomness for the nonce.
    pub fn seal(&self, pool_id: &PoolId, epoch: Epoch, key: &TfoKey) -> Result<SealedKey, NoRandomness> {
        self.seal_bytes(&key_context(pool_id, epoch), key.expose())
    }

    /// Opens what was sealed for this pool and epoch.
    ///
    /// # Errors
    /// Fails if it was sealed under another key or for another place, or was changed.
    pub fn open(&self, pool_id: &PoolId, epoch: Epoch, sealed: &SealedKey) -> Result<TfoKey, DoesNotOpen> {
        let mut bytes = self.open_bytes(&key_context(pool_id, epoch), sealed)?;
        Ok(TfoKey::take(&mut bytes))
    }

    /// A value that later identifies this key-encryption key as that of the store with this identity.
    ///
    /// # Errors
    /// Fails if the system gives no randomness for the nonce.
    pub fn seal_check(&self, store: &[u8; 16]) -> Result<SealedKey, NoRandomness> {
        self.seal_bytes(&[CHECK_DOMAIN, store].concat(), &[0; TfoKey::BYTES])
    }

    /// Whether [`Self::seal_check`] with this key and this store made the value.
    #[must_use]
    pub fn opens_check(&self, store: &[u8; 16], check: &SealedKey) -> bool {
        self.open_bytes(&[CHECK_DOMAIN, store].concat(), check).is_ok()
    }

    /// Seals the content of a file as a whole: nonce, ciphertext and tag.  The header is authenticated with it.
    ///
    /// # Errors
    /// Fails if the system gives no randomness for the nonce.
    pub fn seal_file(&self, header: &[u8], content: Vec<u8>) -> Result<Vec<u8>, NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        random::fill(&mut nonce)?;
        let (context, mut bytes) = ([FILE_DOMAIN, header].concat(), content);
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut bytes)
            .expect("no vector is near the 64 GiB of AES-GCM");
        bytes.splice(..0, nonce);
        Ok(bytes)
    }

    /// Opens what [`Self::seal_file`] made with this header.
    ///
    /// # Errors
    /// Fails if it was sealed under another key or for another place, or was changed.
    pub fn open_file(&self, header: &[u8], sealed: Vec<u8>) -> Result<Vec<u8>, DoesNotOpen> {
        let mut bytes = sealed;
        let nonce = bytes.get(..NONCE_LEN).ok_or(DoesNotOpen)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| DoesNotOpen)?;
        let context = [FILE_DOMAIN, header].concat();
        let plain =
            self.key.open_within(nonce, Aad::from(context), &mut bytes, NONCE_LEN..).map_err(|_| DoesNotOpen)?;
        let length = plain.len();
        bytes.truncate(length);
        Ok(bytes)
    }

    fn seal_bytes(&self, context: &[u8], plain: &[u8; TfoKey::BYTES]) -> Result<SealedKey, NoRandomness> {
        // 96 random bits: fine for 2^32 sealings under one key (NIST SP 800-38D section 8.3); a pool makes one a
        // rotation.
        let mut nonce = [0; NONCE_LEN];
        random::fill(&mut nonce)?;
        let mut bytes = Zeroizing::new(*plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), bytes.as_mut())
            .expect("16 bytes are below the limit of AES-GCM");
        let mut sealed = [0; SealedKey::BYTES];
        sealed[..NONCE_LEN].copy_from_slice(&nonce);
        sealed[NONCE_LEN..NONCE_LEN + TfoKey::BYTES].copy_from_slice(bytes.as_ref());
        sealed[NONCE_LEN + TfoKey::BYTES..].copy_from_slice(tag.as_ref());
        Ok(SealedKey(sealed))
    }

    fn open_bytes(&self, context: &[u8], sealed: &SealedKey) -> Result<Zeroizing<[u8; TfoKey::BYTES]>, DoesNotOpen> {
        let (nonce, rest) = sealed.0.split_at(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| DoesNotOpen)?;
        let mut buffer = Zeroizing::new([0; TfoKey::BYTES + TAG_BYTES]);
        buffer.copy_from_slice(rest);
        let plain = self.key.open_in_place(nonce, Aad::from(context), buffer.as_mut()).map_err(|_| DoesNotOpen)?;
        let mut bytes = Zeroizing::new([0; TfoKey::BYTES]);
        bytes.copy_from_slice(plain);
        Ok(bytes)
    }
}

fn key_context(pool_id: &PoolId, epoch: Epoch) -> Vec<u8> {
    [KEY_DOMAIN, pool_id.to_string().as_bytes(), &epoch.get().to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::fresh_key;

    fn kek(seed: u8) -> KeyEncryptionKey {
        KeyEncryptionKey::from_bytes(&std::array::from_fn::<u8, 32, _>(|i| seed.wrapping_add(i.try_into().unwrap())))
            .unwrap()
    }

    fn pool(digit: &str) -> PoolId {
        digit.repeat(32).parse().unwrap()
    }

    #[test]
    fn a_key_opens_only_where_it_was_sealed_for() {
        let (key, two) = (fresh_key().unwrap(), Epoch::new(2).unwrap());
        let sealed = kek(1).seal(&pool("a"), two, &key).unwrap();
        assert!(kek(1).open(&pool("a"), two, &sealed).unwrap().same_as(&key));
        assert_eq!(kek(2).open(&pool("a"), two, &sealed).err(), Some(DoesNotOpen), "another key-encryption key");
        assert_eq!(kek(1).open(&pool("b"), two, &sealed).err(), Some(DoesNotOpen), "another pool");
        assert_eq!(kek(1).open(&pool("a"), Epoch::FIRST, &sealed).err(), Some(DoesNotOpen), "another epoch");
        for at in 0..SealedKey::BYTES {
            let mut bytes = *sealed.as_bytes();
            bytes[at] ^= 0x10;
            let flipped = SealedKey::from_bytes(bytes);
            assert_eq!(kek(1).open(&pool("a"), two, &flipped).err(), Some(DoesNotOpen), "byte {at}");
        }
    }

    #[test]
    fn one_key_is_never_sealed_twice_alike() {
        let key = fresh_key().unwrap();
        let seal = || kek(1).seal(&pool("a"), Epoch::FIRST, &key).unwrap();
        assert_ne!(seal(), seal());
        let sealed = seal();
        assert!(!sealed.as_bytes().windows(4).any(|part| key.expose().windows(4).any(|bytes| bytes == part)));
    }

    #[test]
    fn a_check_tells_the_key_and_the_store() {
        let check = kek(1).seal_check(&[7; 16]).unwrap();
        assert!(kek(1).opens_check(&[7; 16], &check));
        assert!(!kek(2).opens_check(&[7; 16], &check) && !kek(1).opens_check(&[8; 16], &check));
    }

    #[test]
    fn two_keys_open_what_either_sealed_and_their_names_reveal_nothing() {
        let (key, one) = (fresh_key().unwrap(), Epoch::FIRST);
        let both = KeyEncryptionKeys::new(kek(1), Some(kek(2)));
        for seed in [1, 2] {
            let sealed = kek(seed).seal(&pool("a"), one, &key).unwrap();
            assert!(both.open(&pool("a"), one, &sealed).unwrap().same_as(&key));
            let check = kek(seed).seal_check(&[7; 16]).unwrap();
            assert_eq!(both.of_check(&[7; 16], &check).unwrap().id(), kek(seed).id());
        }
        let sealed = kek(3).seal(&pool("a"), one, &key).unwrap();
        assert_eq!(both.open(&pool("a"), one, &sealed).err(), Some(DoesNotOpen));
        assert!(KeyEncryptionKeys::new(kek(1), Some(kek(1))).next().is_none());
        // Persisted: coordinators compare them.
        assert_eq!((kek(1).id().as_str().len(), kek(1).id() == kek(2).id()), (16, false));
        assert_eq!(kek(1).id(), kek(1).id());
    }

    #[test]
    fn a_file_opens_whole_and_with_its_header_alone() {
        let content = || b"{\"pools\":[]}".to_vec();
        let sealed = kek(1).seal_file(b"header", content()).unwrap();
        assert_eq!(sealed.len(), NONCE_LEN + content().len() + TAG_BYTES);
        assert_eq!(kek(1).open_file(b"header", sealed.clone()), Ok(content()));
        assert_eq!(kek(2).open_file(b"header", sealed.clone()), Err(DoesNotOpen));
        assert_eq!(kek(1).open_file(b"Header", sealed.clone()), Err(DoesNotOpen));
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(kek(1).open_file(b"header", flipped), Err(DoesNotOpen), "byte {at}");
            assert_eq!(kek(1).open_file(b"header", sealed[..at].to_vec()), Err(DoesNotOpen), "cut to {at}");
        }
        assert_ne!(kek(1).seal_file(b"header", content()).unwrap(), sealed, "never twice alike");
    }

    #[test]
    fn what_can_be_guessed_is_no_key_encryption_key() {
        let bad = |bytes: &[u8]| KeyEncryptionKey::from_bytes(bytes).err();
        assert_eq!(bad(&[]), Some(BadKeyEncryptionKey::Length { bytes: 0 }));
        assert_eq!(bad(&[1; 33]), Some(BadKeyEncryptionKey::Length { bytes: 33 }));
        assert_eq!(bad(&[0; 32]), Some(BadKeyEncryptionKey::Repeated));
        assert_eq!(format!("{:?}", kek(1)), "KeyEncryptionKey");
    }
}
