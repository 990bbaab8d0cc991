//! The public name of a key: see [`KeyFingerprint`].

use ring::digest;

use tfo_model::count::Epoch;
use tfo_model::key::{KeyFingerprint, KeyPair, PairPrint, TfoKey};
use tfo_model::state::{SlotPrint, SlotPrints};

/// Separates this hash from every other use of SHA-256 over the same bytes.
const DOMAIN: &[u8] = b"tfo-fleet/v1/fingerprint";

/// First 8 bytes of SHA-256("tfo-fleet/v1/fingerprint" ‖ the 16 raw key bytes) (docs/reference/json.md).
///
/// Wire v1 and Persisted: never changes, nodes of different releases compare it.
#[must_use]
pub fn fingerprint(key: &TfoKey) -> KeyFingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(DOMAIN);
    context.update(key.expose());
    let hash = context.finish();
    let mut print = [0; KeyFingerprint::BYTES];
    print.copy_from_slice(&hash.as_ref()[..KeyFingerprint::BYTES]);
    KeyFingerprint::from_bytes(print)
}

/// Separates the mark of a secret from every other use of SHA-256 over the same bytes.
const SECRET_DOMAIN: &[u8] = b"tfo-fleet/v1/secret";

/// The public mark of a secret that `tfo-agent init` made: the first 8 bytes of SHA-256("tfo-fleet/v1/secret" ‖ secret), as 16
/// hex digits.  Persisted: config/debian/tfo-agent/postrm computes it again with sha256sum.
#[must_use]
pub fn secret_mark(secret: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(SECRET_DOMAIN);
    context.update(secret);
    context.finish().as_ref()[..KeyFingerprint::BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The fingerprints of both slots.
#[must_use]
pub fn pair_print(keys: &KeyPair) -> PairPrint {
    PairPrint { primary: fingerprint(keys.primary()), backup: keys.backup().map(fingerprint) }
}

/// Both slots as they may be shown; epochs in the order primary, backup.
#[must_use]
pub fn slot_prints(keys: &KeyPair, epochs: [Option<Epoch>; 2]) -> SlotPrints {
    let print = pair_print(keys);
    let [primary, backup] = epochs;
    SlotPrints {
        primary: SlotPrint { epoch: primary, fingerprint: print.primary },
        backup: print.backup.map(|fingerprint| SlotPrint { epoch: backup, fingerprint }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_never_changes() {
        // printf 'tfo-fleet/v1/fingerprint' | cat - <(printf '\x00\x01…\x0f') | sha256sum | cut -c1-16
        let key = TfoKey::take(&mut std::array::from_fn(|i| u8::try_from(i).unwrap()));
        assert_eq!(fingerprint(&key).to_string(), "20bd67f920499964");
    }
}
