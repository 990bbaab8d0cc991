//! Checksums of stored rows: they find bits that a disk has flipped, and do not protect against an attacker.  And the plain
//! SHA-256, where a format asks for it.

use ring::{digest, hmac};

/// Separates this hash from every other use of SHA-256.
const DOMAIN: &[u8] = b"tfo-fleet/v1/row";

/// Length of a checksum in bytes.
pub const CHECKSUM_BYTES: usize = 16;

/// The first 16 bytes of SHA-256 over the parts, each with its length.  Persisted: never changes.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> [u8; CHECKSUM_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(DOMAIN);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let hash = context.finish();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hash.as_ref()[..CHECKSUM_BYTES]);
    sum
}

/// SHA-256: by it a page's Content-Security-Policy names the page's own script.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// HMAC-SHA256 (RFC 2104) over the parts, one after the other: by it a receiver knows who sent them.
#[must_use]
pub fn hmac_sha256(secret: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    parts.iter().for_each(|part| context.update(part));
    let mut tag = [0; 32];
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_eq!(checksum(&[b"ab", b"c"]), checksum(&[b"ab", b"c"]));
        assert_ne!(checksum(&[b"ab", b"c"]), checksum(&[b"a", b"bc"]));
        assert_ne!(checksum(&[b"ab"]), checksum(&[b"ab", b""]));
    }

    #[test]
    fn the_tag_is_that_of_rfc_4231() {
        // Its test case 2.
        let tag = hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn the_checksum_never_changes() {
        // printf 'tfo-fleet/v1/row\0\0\0\0\0\0\0\001a' | sha256sum | cut -c1-32
        let hex: String = checksum(&[b"a"]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "59ec72b115688a26041290bcd15873aa");
    }
}
