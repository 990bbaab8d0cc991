//! Reads packet captures: pcap of either byte order with micro- or nanoseconds, and pcapng.
//!
//! Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.  A capture comes from anywhere, so every length in it is bounded
//! before memory is taken for it, and no byte string panics.  Frames are read one at a time, so a file may be of any size.

use std::io::{self, Read};

use super::link::Link;

mod pcapng;

use pcapng::Sections;

/// Longest frame that is read, in bytes.  tcpdump's and Wireshark's own bound is 256 KiB for most link types.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// A capture cannot be read, or not further.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Neither pcap nor pcapng.
    #[error("it is no packet capture: it starts with neither pcap's nor pcapng's mark")]
    NoCapture,
    /// A link type whose frames we do not know.
    #[error("its packets are of link type {0}, which is not read (Ethernet, Linux cooked, loopback and raw IP are)")]
    LinkType(u32),
    /// It ends in the middle of a packet.
    #[error("it is cut short in the middle of a packet")]
    CutShort,
    /// Lengths that cannot be.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The file itself.
    #[error("it cannot be read")]
    Io(#[source] io::Error),
}

/// When a frame was captured, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CapturedAt {
    /// Whole seconds.
    pub secs: u64,
    /// The rest, 0 to 999 999 999.
    pub nanos: u32,
}

/// One captured frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// When; zero where the capture does not say.
    pub at: CapturedAt,
    /// What it starts with.
    pub link: Link,
    /// Its captured bytes.
    pub bytes: &'a [u8],
}

/// How many ticks of a capture's clock a second has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TicksPerSecond(u64);

impl TicksPerSecond {
    const MICRO: Self = Self(1_000_000);
    const NANO: Self = Self(1_000_000_000);

    fn split(self, ticks: u64) -> CapturedAt {
        let nanos = u128::from(ticks % self.0) * 1_000_000_000 / u128::from(self.0);
        CapturedAt { secs: ticks / self.0, nanos: u32::try_from(nanos).expect("less than a second") }
    }
}

/// Byte order of a capture: that of the machine that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The `index`th word of a list of them.
    fn word(self, words: &[u8], index: usize) -> Option<u32> {
        words.as_chunks::<4>().0.get(index).map(|word| self.u32(*word))
    }
}

/// A capture that is being read.
#[derive(Debug)]
pub struct Capture<R> {
    reader: R,
    format: Format,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Format {
    Pcap { order: Order, ticks: TicksPerSecond, link: Link },
    Pcapng(Sections),
}

impl<R: Read> Capture<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// Fails if it is no capture, or one with frames that are not known.
    pub fn open(mut reader: R) -> Result<Self, CaptureError> {
        let mut mark = [0; 4];
        if fill(&mut reader, &mut mark)? < mark.len() {
            return Err(CaptureError::NoCapture);
        }
        let format = match mark {
            [0xd4, 0xc3, 0xb2, 0xa1] => pcap(&mut reader, Order::Little, TicksPerSecond::MICRO)?,
            [0xa1, 0xb2, 0xc3, 0xd4] => pcap(&mut reader, Order::Big, TicksPerSecond::MICRO)?,
            [0x4d, 0x3c, 0xb2, 0xa1] => pcap(&mut reader, Order::Little, TicksPerSecond::NANO)?,
            [0xa1, 0xb2, 0x3c, 0x4d] => pcap(&mut reader, Order::Big, TicksPerSecond::NANO)?,
            pcapng::SECTION_MARK => Format::Pcapng(Sections::open(&mut reader)?),
            _ => return Err(CaptureError::NoCapture),
        };
        Ok(Self { reader, format, buffer: Vec::new() })
    }

    /// The next frame; none at the end.
    ///
    /// # Errors
    /// Fails if the capture is cut short or damaged there.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        match &mut self.format {
            Format::Pcapng(sections) => sections.next_frame(&mut self.reader, &mut self.buffer),
            Format::Pcap { order, ticks, link } => {
                let mut header = [0; 16];
                match fill(&mut self.reader, &mut header)? {
                    0 => return Ok(None),
                    16 => {}
                    _ => return Err(CaptureError::CutShort),
                }
                let word = |index| order.word(&header, index).expect("four words");
                let within = u64::from(word(1)) % ticks.0;
                let at = CapturedAt { secs: word(0).into(), ..ticks.split(within) };
                read_block(&mut self.reader, &mut self.buffer, word(2))?;
                Ok(Some(Frame { at, link: *link, bytes: &self.buffer }))
            }
        }
    }
}

/// The rest of pcap's file header: version, two unused words, snapshot length, link type.
fn pcap(reader: &mut impl Read, order: Order, ticks: TicksPerSecond) -> Result<Format, CaptureError> {
    let mut header = [0; 20];
    if fill(reader, &mut header)? < header.len() {
        return Err(CaptureError::CutShort);
    }
    // The upper half has flags and the length of the frame check sequence.
    let link = order.word(&header, 4).expect("five words") & 0xffff;
    Ok(Format::Pcap { order, ticks, link: Link::of(link).ok_or(CaptureError::LinkType(link))? })
}

/// Reads exactly `length` bytes into the buffer.
fn read_block(reader: &mut impl Read, buffer: &mut Vec<u8>, length: u32) -> Result<(), CaptureError> {
    let length = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or(CaptureError::Damaged("a packet of more than 1 MiB"))?;
    buffer.clear();
    buffer.resize(length, 0);
    if fill(reader, buffer)? < length { Err(CaptureError::CutShort) } else { Ok(()) }
}

/// Reads until the buffer is full or the end is reached; tells how much came.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, CaptureError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CaptureError::Io(error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A capture of these frames, written by a machine of this byte order.
    fn file(mark: u32, link: u32, frames: &[(u32, u32, &[u8])], bytes_of: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let mut file = bytes_of(mark).to_vec();
        // Version 2.4 as two halves, in the order that a word would have too.
        file.extend(bytes_of(0x0002_0004));
        for word in [0, 0, 65_535, link] {
            file.extend(bytes_of(word));
        }
        for (secs, part, frame) in frames {
            let length = u32::try_from(frame.len()).unwrap();
            for word in [*secs, *part, length, length + 100] {
                file.extend(bytes_of(word));
            }
            file.extend(*frame);
        }
        file
    }

    fn frames(file: &[u8]) -> Result<Vec<(CapturedAt, Link, Vec<u8>)>, CaptureError> {
        let mut capture = Capture::open(file)?;
        let mut frames = Vec::new();
        while let Some(frame) = capture.next_frame()? {
            frames.push((frame.at, frame.link, frame.bytes.to_vec()));
        }
        Ok(frames)
    }

    #[test]
    fn both_byte_orders_and_both_resolutions_are_read() {
        let content: [(u32, u32, &[u8]); 2] = [(1, 999_999, b"one"), (4_000_000_000, 5, b"")];
        for (mark, scale) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            for bytes_of in [u32::to_le_bytes, u32::to_be_bytes] {
                let read = frames(&file(mark, 1, &content, bytes_of)).unwrap();
                let at = |secs, part: u32| CapturedAt { secs, nanos: part * scale };
                let expected =
                    [(at(1, 999_999), Link::Ethernet, b"one".to_vec()), (at(4_000_000_000, 5), Link::Ethernet, vec![])];
                assert_eq!(read, expected, "{mark:x}");
            }
        }
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        for bad in [&b""[..], b"abc", b"GET / HTTP/1.1\r\n", &[0; 100], &[0xd4, 0xc3, 0xb2]] {
            assert!(matches!(frames(bad), Err(CaptureError::NoCapture)), "{bad:?}");
        }
        let strange = file(0xa1b2_c3d4, 147, &[], u32::to_le_bytes);
        assert!(matches!(frames(&strange), Err(CaptureError::LinkType(147))));
        assert!(matches!(frames(&strange[..20]), Err(CaptureError::CutShort)));
    }

    #[test]
    fn a_cut_or_monstrous_frame_is_told_after_the_good_ones() {
        let whole = file(0xa1b2_c3d4, 101, &[(1, 1, b"abc"), (2, 2, b"defg")], u32::to_le_bytes);
        for cut in 1..20 {
            let mut capture = Capture::open(&whole[..whole.len() - cut]).unwrap();
            assert_eq!(capture.next_frame().unwrap().unwrap().bytes, b"abc");
            let second = capture.next_frame();
            assert!(matches!(second, Err(CaptureError::CutShort)), "{cut}: {second:?}");
        }
        let mut monstrous = whole;
        monstrous[24 + 8..24 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(frames(&monstrous), Err(CaptureError::Damaged(_))));
    }
}
