//! Serial numbers of the certificates that our own authority issues.

use std::fmt;
use std::str::FromStr;

use crate::serde_as_text;

/// A serial number: 126 random bits, so that none repeats and none can be guessed (CA/Browser Forum asks for 64).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// One made of random bytes.
    #[must_use]
    pub const fn of_random(mut bytes: [u8; 16]) -> Self {
        // Positive, and never with a leading zero that some tools print and others do not.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Self(bytes)
    }

    /// Big-endian bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The text is not a serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a serial number is 32 hex digits, as `pki list` and `openssl x509 -serial` print it")]
pub struct BadSerialNumber;

impl FromStr for SerialNumber {
    type Err = BadSerialNumber;

    fn from_str(text: &str) -> Result<Self, BadSerialNumber> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadSerialNumber);
        }
        u128::from_str_radix(&digits, 16).map(|value| Self(value.to_be_bytes())).map_err(|_| BadSerialNumber)
    }
}

serde_as_text!(SerialNumber);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_printed_as_it_is_read() {
        for bytes in [[0; 16], [0xff; 16], std::array::from_fn(|at| u8::try_from(at).unwrap())] {
            let serial = SerialNumber::of_random(bytes);
            assert_eq!(serial.to_string().parse(), Ok(serial));
            assert!((0x40..0x80).contains(&serial.as_bytes()[0]));
        }
        for bad in ["", "4", "g0000000000000000000000000000000", "400000000000000000000000000000000"] {
            assert_eq!(bad.parse::<SerialNumber>(), Err(BadSerialNumber), "{bad}");
        }
        assert!("40:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00".parse::<SerialNumber>().is_ok());
    }
}
