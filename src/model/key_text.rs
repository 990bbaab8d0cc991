//! The text of `net.ipv4.tcp_fastopen_key`, parsed strictly and printed.  Pure.
//!
//! `PPPPPPPP-PPPPPPPP-PPPPPPPP-PPPPPPPP[,BBBBBBBB-…]`, each group one little-endian u32 of the raw key, so raw bytes
//! `10 11 12 13 | 14 …` are `13121110-…` (docs/kernel.md#byte-order; ip-sysctl `tcp_fastopen_key`; Linux
//! `proc_tcp_fastopen_key`).
//!
//! The kernel's own parser is `sscanf` and accepts nonsense as another key than was meant (docs/kernel.md#the-key-file:
//! a third key, `A:B`, nine digits, a cut backup).  So nothing reaches it, or is believed, that does not pass here.

use zeroize::Zeroizing;

use crate::key::{KeyPair, KeyPairError, TfoKey};

/// Digits and dashes of one key.
const KEY_CHARS: usize = 35;
/// Longest text, without the newline: two keys and a comma.
pub const TEXT_CHARS_MAX: usize = 2 * KEY_CHARS + 1;

/// Why a text is not the text of one or two keys.  Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The text is empty.
    #[error("it contains no key")]
    Empty,
    /// Not four groups of eight lower-case hex digits.
    #[error(
        "key {position} is not four groups of 8 lower-case hex digits, xxxxxxxx-xxxxxxxx-xxxxxxxx-xxxxxxxx \
         (the kernel would read another key, or refuse it)"
    )]
    Key {
        /// 1 for the primary, 2 for the backup.
        position: usize,
    },
    /// More than two keys; the kernel would drop the third silently.
    #[error("there are more than two keys")]
    TooMany,
    /// A key that cannot be used, or one key twice.
    #[error(transparent)]
    Pair(#[from] KeyPairError),
}

/// Reads `primary[,backup]`, with or without one final newline.
///
/// # Errors
/// Fails for anything that is not exactly that, for a zero key, and for one key twice.
pub fn parse(text: &[u8]) -> Result<KeyPair, TextError> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    let mut keys = text.split(|byte| *byte == b',').zip(1..).map(|(text, position)| parse_key(text, position));
    let primary = keys.next().ok_or(TextError::Empty)??;
    let backup = keys.next().transpose()?;
    if keys.next().is_some() {
        return Err(TextError::TooMany);
    }
    Ok(KeyPair::new(primary, backup)?)
}

/// Reads what the kernel shows: one or two keys; any of them may be zero, and both may be the same.  None: no key is
/// set, or the zero key is.
///
/// # Errors
/// Fails if the kernel shows anything but keys.
pub fn parse_shown(text: &[u8]) -> Result<Option<(TfoKey, Option<TfoKey>)>, TextError> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let (primary, backup) = match text.iter().position(|byte| *byte == b',') {
        Some(comma) => (parse_key(&text[..comma], 1)?, Some(parse_key(&text[comma + 1..], 2)?)),
        None => (parse_key(text, 1)?, None),
    };
    if primary.is_zero() && backup.is_none() { Ok(None) } else { Ok(Some((primary, backup))) }
}

fn parse_key(text: &[u8], position: usize) -> Result<TfoKey, TextError> {
    let bad = TextError::Key { position };
    if text.len() != KEY_CHARS {
        return Err(bad);
    }
    let mut bytes = Zeroizing::new([0; TfoKey::BYTES]);
    for (index, group) in text.split(|byte| *byte == b'-').enumerate() {
        let raw = bytes.get_mut(4 * index..4 * index + 4).ok_or(bad)?;
        if group.len() != 8 {
            return Err(bad);
        }
        // Little endian: the last two digits are the first byte.
        for (byte, digits) in raw.iter_mut().rev().zip(group.chunks_exact(2)) {
            *byte = hex_digit(digits[0]).ok_or(bad)? << 4 | hex_digit(digits[1]).ok_or(bad)?;
        }
    }
    Ok(TfoKey::take(&mut bytes))
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The text of one or two keys, wiped when dropped, without newline.
pub struct KeyText(Zeroizing<Vec<u8>>);

impl KeyText {
    /// The text of both slots.
    #[must_use]
    pub fn of(keys: &KeyPair) -> Self {
        let mut text = Self::of_key(keys.primary());
        if let Some(backup) = keys.backup() {
            text.0.push(b',');
            push_key(&mut text.0, backup);
        }
        text
    }

    /// The text of one key.
    #[must_use]
    pub fn of_key(key: &TfoKey) -> Self {
        // Room for everything at once: a growing vector would leave copies behind that are not wiped.
        let mut text = Zeroizing::new(Vec::with_capacity(TEXT_CHARS_MAX + 1));
        push_key(&mut text, key);
        Self(text)
    }

    /// The text's bytes, for the one write to the kernel or to the file.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

fn push_key(text: &mut Vec<u8>, key: &TfoKey) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (index, group) in key.expose().chunks_exact(4).enumerate() {
        if index > 0 {
            text.push(b'-');
        }
        for byte in group.iter().rev() {
            text.push(DIGITS[usize::from(byte >> 4)]);
            text.push(DIGITS[usize::from(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "13121110-17161514-1b1a1918-1f1e1d1c";
    const B: &str = "00000001-00000002-00000003-00000004";

    #[test]
    fn groups_are_little_endian() {
        let keys = parse(A.as_bytes()).unwrap();
        assert_eq!(keys.primary().expose(), &std::array::from_fn::<u8, 16, _>(|i| 0x10 + u8::try_from(i).unwrap()));
        assert_eq!(KeyText::of(&keys).expose(), A.as_bytes());
    }

    /// Every row of docs/kernel.md#the-key-file that the kernel reads as another key, or refuses.
    #[test]
    fn what_is_not_exactly_one_or_two_keys_is_refused() {
        let key = |position| TextError::Key { position };
        let rows: Vec<(String, TextError)> = vec![
            (String::new(), TextError::Empty),
            ("\n".into(), TextError::Empty),
            (format!("{A}\r\n"), key(1)),
            (format!("{A}\0"), key(1)),
            (format!("{A} "), key(1)),
            (format!("{A}\n\n"), key(1)),
            (format!("{A}\njunk"), key(1)),
            (format!(" {A}"), key(1)),
            (format!("\t{A}"), key(1)),
            (format!("\n{A}"), key(1)),
            (format!("{A}, {B}"), key(2)),
            (format!("{A} ,{B}"), key(1)),
            (format!("{A},{A}"), TextError::Pair(KeyPairError::PrimaryIsBackup)),
            ("1-2-3-4".into(), key(1)),
            ("1-2-3-4,5-6-7-8".into(), key(1)),
            (A.to_uppercase(), key(1)),
            (format!("0x{A}"), key(1)),
            (format!("{A},"), key(2)),
            (format!("{A},\n"), key(2)),
            (format!(",{A}"), key(1)),
            (format!("{A},none"), key(2)),
            ("none".into(), key(1)),
            (format!("\0{A}"), key(1)),
            (format!("\"{A}\""), key(1)),
            (format!("\u{feff}{A}"), key(1)),
            (format!("# {A}"), key(1)),
            (A.replace('-', ""), key(1)),
            ("13121110-17161514-1b1a1918".into(), key(1)),
            (format!("{A}-00000000"), key(1)),
            (format!("{A}garbage"), key(1)),
            (format!("{A},{B}zzz"), key(2)),
            (format!("{A},{B},{A}"), TextError::TooMany),
            (format!("{A}:{B}"), key(1)),
            (format!("{A} {B}"), key(1)),
            (format!("{A};{B}"), key(1)),
            ("123456789-17161514-1b1a1918-1f1e1d1c".into(), key(1)),
            ("1234567-817161514-1b1a1918-1f1e1d1c".into(), key(1)),
            (format!("   {A},{B}"), key(1)),
            (format!("{A},{}", &B[..29]), key(2)),
            (format!("{A},{}", &B[..34]), key(2)),
            ("x".repeat(70_000), key(1)),
            ("00000000-00000000-00000000-00000000".into(), TextError::Pair(KeyPairError::ZeroKey)),
            (format!("{A},00000000-00000000-00000000-00000000"), TextError::Pair(KeyPairError::ZeroKey)),
        ];
        for (text, error) in rows {
            assert_eq!(parse(text.as_bytes()).err(), Some(error), "{text:?}");
        }
    }

    #[test]
    fn what_the_kernel_shows_is_read_as_it_is() {
        assert!(parse_shown(b"00000000-00000000-00000000-00000000\n").unwrap().is_none());
        let (primary, backup) = parse_shown(format!("{A},{A}\n").as_bytes()).unwrap().unwrap();
        assert!(primary.same_as(&backup.unwrap()));
        let zero_backup =
            parse_shown(format!("{A},00000000-00000000-00000000-00000000\n").as_bytes()).unwrap().unwrap();
        assert!(zero_backup.1.unwrap().is_zero());
        let (zero, backup) =
            parse_shown(format!("00000000-00000000-00000000-00000000,{A}\n").as_bytes()).unwrap().unwrap();
        assert!(zero.is_zero() && backup.unwrap().same_as(&primary));
        let (alone, none) = parse_shown(A.as_bytes()).unwrap().unwrap();
        assert!(alone.same_as(&primary) && none.is_none());
        assert_eq!(parse_shown(b"").err(), Some(TextError::Key { position: 1 }));
        assert_eq!(parse_shown(format!("{A},{B},{A}\n").as_bytes()).err(), Some(TextError::Key { position: 2 }));
    }

    #[test]
    fn an_error_never_quotes_the_text() {
        let error = parse(b"0123456789abcdef").err().unwrap();
        assert!(!format!("{error} {error:?}").contains("0123"));
    }

    proptest! {
        #[test]
        fn keys_read_back(primary in any::<[u8; 16]>(), backup in prop::option::of(any::<[u8; 16]>())) {
            let key = |mut bytes: [u8; 16]| TfoKey::take(&mut bytes);
            let Ok(keys) = KeyPair::new(key(primary), backup.map(key)) else { return Ok(()) };
            let text = KeyText::of(&keys);
            prop_assert!(text.expose().len() <= TEXT_CHARS_MAX);
            let back = parse(text.expose()).unwrap();
            prop_assert_eq!(back.primary().expose(), &primary);
            prop_assert_eq!(back.backup().map(|key| *key.expose()), backup);
        }

        #[test]
        fn nothing_else_is_accepted(text in "[0-9a-f,:; \\n-]{0,80}") {
            if let Ok(keys) = parse(text.as_bytes()) {
                let printed = KeyText::of(&keys);
                prop_assert_eq!(printed.expose(), text.strip_suffix('\n').unwrap_or(&text).as_bytes());
            }
        }
    }
}
