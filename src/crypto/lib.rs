//! Everything that uses `ring` or BLAKE2: fingerprints, derivation, fresh keys, sealing at rest, checksums.

pub mod checksum;
pub mod derive;
pub mod fingerprint;
pub mod generator;
pub mod random;
pub mod seal;
