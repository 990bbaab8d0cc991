//! Fresh serial numbers.

use tfo_crypto::random::{self, NoRandomness};
use tfo_model::serial::SerialNumber;

/// A new one: random, so that none repeats and none can be guessed.
///
/// # Errors
/// Fails if the system gives no randomness.
pub fn fresh() -> Result<SerialNumber, NoRandomness> {
    let mut bytes = [0; 16];
    random::fill(&mut bytes)?;
    Ok(SerialNumber::of_random(bytes))
}
