//! Everything that uses `ring` or BLAKE2: fingerprints, derivation, fresh keys.

pub mod derive;
pub mod fingerprint;
pub mod random;
