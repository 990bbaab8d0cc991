//! Fresh keys and secrets from the system's randomness.

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use tfo_model::key::TfoKey;

/// The system gave no randomness (`getrandom(2)` failed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no randomness")]
pub struct NoRandomness;

/// A fresh key, never all zeros.
///
/// # Errors
/// Fails if the system gives no randomness.
pub fn fresh_key() -> Result<TfoKey, NoRandomness> {
    loop {
        let mut bytes = Zeroizing::new([0; TfoKey::BYTES]);
        fill(bytes.as_mut())?;
        let key = TfoKey::take(&mut bytes);
        if !key.is_zero() {
            return Ok(key);
        }
    }
}

/// A random number over all of `u64`.
///
/// # Errors
/// Fails if the system gives no randomness.
pub fn fresh_u64() -> Result<u64, NoRandomness> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Fills `bytes` with randomness.
///
/// # Errors
/// Fails if the system gives none.
pub fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    SystemRandom::new().fill(bytes).map_err(|_| NoRandomness)
}
