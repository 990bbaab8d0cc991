//! Finds pieces of keys and secrets in any output: raw, hex, base64, decimal, at any offset.
//!
//! The search decodes what it looks at: every run of hex digits at both offsets, every run of base64 characters at all
//! four, so a piece of `WINDOW` bytes is found wherever it starts.

use std::collections::HashMap;

/// Shortest stretch that is looked at: no window is shorter.
const WINDOW_MIN: usize = 4;

/// The windows of all secrets, each with a name, that must not appear.
pub struct Secrets<const WINDOW: usize>(pub HashMap<[u8; WINDOW], String>);

impl<const WINDOW: usize> Secrets<WINDOW> {
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// Every window of these bytes.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        for (at, window) in bytes.windows(WINDOW).enumerate() {
            let window: [u8; WINDOW] = window.try_into().expect("a step of the test works");
            let mut values = window.to_vec();
            values.sort_unstable();
            values.dedup();
            assert!(values.len() >= 3, "{name}: {window:02x?} could be there by chance");
            self.0.insert(window, format!("{name}[{at}..]"));
        }
    }

    /// A pair in kernel text: both keys in the order of the text and in the kernel's own (docs/kernel.md#byte-order).
    pub fn add_pair(&mut self, name: &str, text: &str) {
        for (slot, key) in text.split(',').enumerate() {
            let groups: Vec<u32> =
                key.split('-').map(|group| u32::from_str_radix(group, 16).expect("a step of the test works")).collect();
            let raw: Vec<u8> = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
            let shown: Vec<u8> = groups.iter().flat_map(|group| group.to_be_bytes()).collect();
            let reversed: Vec<u8> = raw.iter().rev().copied().collect();
            for (order, bytes) in [("raw", raw), ("text", shown), ("reversed", reversed)] {
                self.add(&format!("{name} key {slot} {order}"), &bytes);
            }
        }
    }

    /// The secrets in `hay`, and their encoding there.
    pub fn find(&self, hay: &[u8]) -> Vec<String> {
        let (mut found, beginnings) = (Vec::new(), self.beginnings());
        let mut search = |how: &str, bytes: &[u8]| self.search((how, bytes), &beginnings, &mut found);
        search("raw", hay);
        // Digits in a row, and digits with what is put between groups, bytes or array elements.
        for between in [&b""[..], b"-", b":", b" ", b", ", b"\\x", b", 0x", b"-,:_ \n"] {
            let is_between = |byte: u8| between.contains(&byte);
            for run in runs(hay, |byte| byte.is_ascii_hexdigit() || is_between(byte)) {
                let digits: Vec<u8> = run.iter().copied().filter(|byte| !is_between(*byte)).collect();
                for start in [0, 1] {
                    let bytes = decode(digits.get(start..).unwrap_or_default(), 4, hex_value);
                    search("hex", &bytes);
                }
            }
        }
        for alphabet in [b"+/", b"-_"] {
            for run in runs(hay, |byte| base64_value(byte, *alphabet).is_some()) {
                for start in 0..4 {
                    let bytes = decode(run.get(start..).unwrap_or_default(), 6, |b| base64_value(b, *alphabet));
                    search("base64", &bytes);
                }
            }
        }
        // `[17, 34, …]`, as Debug prints bytes.
        for run in runs(hay, |byte| byte.is_ascii_digit() || b", ".contains(&byte)) {
            let text = String::from_utf8_lossy(run);
            let numbers = text.split([',', ' ']).filter(|number| !number.is_empty());
            let bytes: Vec<u8> = numbers.map(|number| number.parse().unwrap_or(0)).collect();
            search("decimal", &bytes);
        }
        found.dedup();
        found
    }

    /// Whether some window begins with these two bytes: most of what is looked at is passed over by that.
    fn beginnings(&self) -> Vec<bool> {
        let mut beginnings = vec![false; 1 << 16];
        for window in self.0.keys() {
            beginnings[usize::from(u16::from_be_bytes([window[0], window[1]]))] = true;
        }
        beginnings
    }

    fn search(&self, (how, bytes): (&str, &[u8]), beginnings: &[bool], found: &mut Vec<String>) {
        let begins = |window: &&[u8]| beginnings[usize::from(u16::from_be_bytes([window[0], window[1]]))];
        let names = bytes.windows(WINDOW).filter(begins).filter_map(|window| self.0.get(window));
        found.extend(names.map(|name| format!("{name} as {how}")));
    }

    /// Fails if anything of it is in `hay`.
    #[track_caller]
    pub fn absent(&self, place: &str, hay: impl AsRef<[u8]>) {
        let found = self.find(hay.as_ref());
        assert!(found.is_empty(), "{place} shows {found:?}:\n{}", String::from_utf8_lossy(hay.as_ref()));
    }
}

/// The longest stretches of bytes that `fits`.
fn runs(hay: &[u8], fits: impl Fn(u8) -> bool) -> impl Iterator<Item = &[u8]> {
    hay.split(move |byte| !fits(*byte)).filter(|run| run.len() >= WINDOW_MIN)
}

/// Digits of `bits` bits each, put together; what does not fill a byte at the end is left.
pub fn decode(digits: &[u8], bits: u32, value: impl Fn(u8) -> Option<u8>) -> Vec<u8> {
    let (mut all, mut filled, mut bytes) = (0_u32, 0, Vec::new());
    for digit in digits {
        all = all << bits | u32::from(value(*digit).expect("runs have digits only"));
        filled += bits;
        if filled >= 8 {
            filled -= 8;
            bytes.push((all >> filled & 0xff).try_into().expect("a step of the test works"));
        }
    }
    bytes
}

pub fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| value.try_into().ok())
}

pub fn base64_value(digit: u8, [plus, slash]: [u8; 2]) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        _ if digit == plus => Some(62),
        _ if digit == slash => Some(63),
        _ => None,
    }
}
