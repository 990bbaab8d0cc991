//! The cookie that the kernel makes from a key and two addresses.
//!
//! cookie = LE64(SipHash-2-4(key, client address ‖ server address)), addresses in network order: 8 bytes of message for
//! IPv4, 32 for IPv6; ports do not enter (docs/kernel.md#cookie; Linux `__tcp_fastopen_cookie_gen_cipher`, since commit
//! 438ac88009bc in 5.3; earlier kernels used AES and made other cookies from the same key).

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::key::TfoKey;

/// A TCP Fast Open cookie as it stands in the option, 8 bytes (RFC 7413 section 2 allows 4 to 16; Linux uses 8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie([u8; Cookie::BYTES]);

impl Cookie {
    /// Length in bytes (`TCP_FASTOPEN_COOKIE_SIZE`, Linux `include/net/tcp.h`).
    pub const BYTES: usize = 8;

    /// The cookie that a server with this key gives to `client` and accepts from it.
    ///
    /// None if one address is IPv4 and the other IPv6: no SYN has such a header.
    #[must_use]
    pub fn of(key: &TfoKey, client: IpAddr, server: IpAddr) -> Option<Self> {
        let mut hasher = SipHasher24::new_with_key(key.expose());
        match (client, server) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                hasher.write(&client.octets());
                hasher.write(&server.octets());
            }
            (IpAddr::V6(client), IpAddr::V6(server)) => {
                hasher.write(&client.octets());
                hasher.write(&server.octets());
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        }
        Some(Self(hasher.finish().to_le_bytes()))
    }

    /// A cookie read from a packet.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes in wire order.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for Cookie {
    /// 16 hex digits in wire order, as `ip tcp_metrics show` prints `fo_cookie`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siphash_is_the_reference_function() {
        // Aumasson and Bernstein, "SipHash", appendix A: key 00..0f, message 00..0e.
        let key: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let mut hasher = SipHasher24::new_with_key(&key);
        hasher.write(&key[..15]);
        assert_eq!(hasher.finish(), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn the_two_families_do_not_mix() {
        let key = TfoKey::take(&mut [1; 16]);
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(Cookie::of(&key, v4, v6), None);
        assert_eq!(Cookie::of(&key, v6, v4), None);
        assert!(Cookie::of(&key, v4, v4).is_some());
        assert!(Cookie::of(&key, v6, v6).is_some());
    }

    #[test]
    fn direction_matters() {
        let key = TfoKey::take(&mut [1; 16]);
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_ne!(Cookie::of(&key, a, b), Cookie::of(&key, b, a));
    }

    #[test]
    fn a_cookie_is_shown_in_wire_order() {
        let cookie = Cookie::from_bytes([0, 1, 2, 3, 4, 5, 6, 0xff]);
        assert_eq!((cookie.to_string(), format!("{cookie:?}")), ("00010203040506ff".into(), "00010203040506ff".into()));
        assert_eq!(cookie.as_bytes(), &[0, 1, 2, 3, 4, 5, 6, 0xff]);
    }
}
