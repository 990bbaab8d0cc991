//! TCP options, as far as TCP Fast Open needs them.  Pure; no input panics.
//!
//! Fast Open is option 34 (RFC 7413 section 4.1.1) or, in older kernels, the shared experimental option 254 with the identifier
//! 0xF989 (RFC 6994; RFC 7413 section 4.1.1; Linux `include/net/tcp.h`, `TCPOPT_FASTOPEN_MAGIC`).  Without a cookie it asks for one.

use std::{fmt, iter};

use tfo_model::cookie::Cookie;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const FAST_OPEN: u8 = 34;
const EXPERIMENTAL: u8 = 254;
const EXPERIMENT_ID: [u8; 2] = [0xf9, 0x89];

/// Maximum segment size of our SYNs: Ethernet's 1500 bytes less the IPv6 and TCP headers.  The server never sends data.
const OUR_SEGMENT_BYTES_MAX: u16 = 1440;

/// TCP option that carries Fast Open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Option 34.
    Standard,
    /// Option 254 with 0xF989.
    Experimental,
}

impl Form {
    /// The option's kind.
    #[must_use]
    pub const fn kind(self) -> u8 {
        match self {
            Self::Standard => FAST_OPEN,
            Self::Experimental => EXPERIMENTAL,
        }
    }
}

/// The options of a TCP header, each as kind (IANA "TCP Option Kind Numbers") and content; padding is skipped.
///
/// Ends at the end mark, and at the first option with an impossible length.  etherparse's own reader ends at the first kind that it
/// does not know, and it does not know Fast Open.
pub fn options(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    iter::from_fn(move || {
        while let [NO_OPERATION, behind @ ..] = rest {
            rest = behind;
        }
        let [kind, length, ..] = *rest else { return None };
        let (option, behind) = rest.split_at_checked(length.into()).filter(|_| kind != END)?;
        // The length includes the bytes of kind and length.
        let content = option.get(2..)?;
        rest = behind;
        Some((kind, content))
    })
}

/// A received cookie, of any length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireCookie {
    bytes: [u8; WireCookie::BYTES_MAX],
    length: u8,
}

impl WireCookie {
    /// Longest content of an option: 40 bytes of options less kind and length.
    pub const BYTES_MAX: usize = 38;

    fn new(content: &[u8]) -> Option<Self> {
        let length = u8::try_from(content.len()).ok()?;
        let mut bytes = [0; Self::BYTES_MAX];
        bytes.get_mut(..content.len())?.copy_from_slice(content);
        Some(Self { bytes, length })
    }

    /// The bytes in wire order.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The cookie, if it has the length of a Linux cookie.
    #[must_use]
    pub fn linux(&self) -> Option<Cookie> {
        self.as_bytes().try_into().ok().map(Cookie::from_bytes)
    }

    /// Whether RFC 7413 section 4.1.1 allows this length: 4 to 16 bytes, even.
    #[must_use]
    pub const fn is_lawful(&self) -> bool {
        matches!(self.length, 4 | 6 | 8 | 10 | 12 | 14 | 16)
    }
}

impl fmt::Display for WireCookie {
    /// Two hex digits a byte, in wire order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for WireCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A Fast Open option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FastOpen {
    /// TCP option that carries it.
    pub form: Form,
    /// None: the option asks for a cookie.
    pub cookie: Option<WireCookie>,
}

impl FastOpen {
    /// The Fast Open option among these options that Linux goes by: the last one, whichever its form, except that it passes
    /// over a cookie of an odd length (`tcp_parse_options`, `tcp_parse_fastopen_option` in `net/ipv4/tcp_input.c`).  Of odd ones
    /// alone, the last.
    #[must_use]
    pub fn among(bytes: &[u8]) -> Option<Self> {
        let found = || options(bytes).filter_map(|(kind, content)| Self::of(kind, content));
        let counts = |option: &Self| option.cookie.is_none_or(|cookie| cookie.length % 2 == 0);
        found().filter(counts).last().or_else(|| found().last())
    }

    fn of(kind: u8, content: &[u8]) -> Option<Self> {
        let (form, content) = match kind {
            FAST_OPEN => (Form::Standard, content),
            EXPERIMENTAL => (Form::Experimental, content.strip_prefix(&EXPERIMENT_ID)?),
            _ => return None,
        };
        let cookie = if content.is_empty() { None } else { Some(WireCookie::new(content)?) };
        Some(Self { form, cookie })
    }
}

/// The options of a SYN that asks for a cookie: segment size and Fast Open, padded to whole words.
#[must_use]
pub fn cookie_request(form: Form) -> Vec<u8> {
    let [high, low] = OUR_SEGMENT_BYTES_MAX.to_be_bytes();
    let mut options = vec![MAXIMUM_SEGMENT_SIZE, 4, high, low];
    match form {
        Form::Standard => options.extend([NO_OPERATION, NO_OPERATION, FAST_OPEN, 2]),
        Form::Experimental => options.extend([EXPERIMENTAL, 4, EXPERIMENT_ID[0], EXPERIMENT_ID[1]]),
    }
    options
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    fn cookie(options: &[u8]) -> Option<(u8, String)> {
        FastOpen::among(options)
            .map(|it| (it.form.kind(), it.cookie.map_or_else(|| "request".into(), |c| c.to_string())))
    }

    #[test]
    fn both_forms_are_found_wherever_they_stand() {
        let rows: [(&[u8], _); 14] = [
            (&[34, 2], Some((34, "request"))),
            (&[2, 4, 5, 180, 1, 1, 34, 2], Some((34, "request"))),
            (&[34, 10, 0, 1, 2, 3, 4, 5, 6, 255, 1, 1], Some((34, "00010203040506ff"))),
            (&[1, 1, 34, 6, 0xa, 0xb, 0xc, 0xd], Some((34, "0a0b0c0d"))),
            (&[254, 4, 0xf9, 0x89], Some((254, "request"))),
            (&[254, 12, 0xf9, 0x89, 1, 2, 3, 4, 5, 6, 7, 8], Some((254, "0102030405060708"))),
            (&[254, 4, 0xf9, 0x89, 34, 6, 1, 2, 3, 4], Some((34, "01020304"))),
            (&[34, 6, 1, 2, 3, 4, 254, 4, 0xf9, 0x89], Some((254, "request"))),
            (&[34, 6, 1, 2, 3, 4, 34, 6, 5, 6, 7, 8], Some((34, "05060708"))),
            (&[34, 6, 1, 2, 3, 4, 254, 7, 0xf9, 0x89, 5, 6, 7], Some((34, "01020304"))),
            (&[34, 3, 1, 34, 5, 2, 3, 4], Some((34, "020304"))),
            (&[254, 4, 0xf9, 0x88], None),
            (&[254, 3, 0xf9], None),
            (&[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7], None),
        ];
        for (options, expected) in rows {
            assert_eq!(cookie(options), expected.map(|(kind, text)| (kind, text.to_owned())), "{options:?}");
        }
    }

    #[test]
    fn a_list_ends_at_its_end_mark_and_at_a_length_that_cannot_be() {
        let nothing: [&[u8]; 8] = [
            &[],
            &[0, 34, 2],
            &[34],
            &[34, 0],
            &[34, 1, 34, 2],
            &[34, 3],
            &[5, 0, 34, 2],
            &[34, 10, 1, 2, 3, 4, 5, 6, 7],
        ];
        for options in nothing {
            assert_eq!(cookie(options), None, "{options:?}");
        }
    }

    #[test]
    fn only_even_lengths_from_4_to_16_are_lawful() {
        for length in 1..=38_u8 {
            let cookie = WireCookie::new(&vec![7; length.into()]).unwrap();
            assert_eq!(cookie.is_lawful(), (4..=16).contains(&length) && length % 2 == 0, "{length}");
            assert_eq!(cookie.linux().is_some(), length == 8);
        }
        assert_eq!(WireCookie::new(&[0; 39]), None);
    }

    #[test]
    fn our_requests_are_whole_words_and_read_back() {
        for form in [Form::Standard, Form::Experimental] {
            let options = cookie_request(form);
            assert_eq!(options.len() % 4, 0);
            assert_eq!(FastOpen::among(&options), Some(FastOpen { form, cookie: None }));
        }
    }

    proptest! {
        #[test]
        fn no_list_panics_or_yields_more_than_it_holds(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let all: usize = options(&bytes).map(|(_, content)| content.len() + 2).sum();
            prop_assert!(all <= bytes.len());
            prop_assert!(FastOpen::among(&bytes).is_none_or(|it| it.cookie.is_none_or(|c| c.as_bytes().len() <= bytes.len())));
        }
    }
}
