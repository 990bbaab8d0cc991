//! Reads packet captures: pcap of either byte order with micro- or nanoseconds, and pcapng.
//!
//! pcap-parser parses the blocks (draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng).  Its readers are not used: they lose the cause
//! of a failed read, and take a short first read from a pipe for the end.  Captures are untrusted: every length is bounded before
//! memory is allocated for it, and no input panics.  Frames are read one at a time, so a file may have any size.

use std::io::{self, Read};
use std::ops::Range;

use pcap_parser::nom::{Err, IResult, Needed};
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{
    Block, EPB_MAGIC, IDB_MAGIC, InterfaceDescriptionBlock, LegacyPcapBlock, OptionCode, PcapError, PcapHeader,
    SHB_MAGIC, SPB_MAGIC, UnknownBlock, parse_block_be, parse_block_le, parse_pcap_frame, parse_pcap_frame_be,
    parse_pcap_header, parse_sectionheaderblock, parse_unknownblock_be, parse_unknownblock_le,
};

use super::link::Link;

/// Longest block that is read, in bytes, frame included.  tcpdump and Wireshark allow 256 KiB for most link types.
const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Most interfaces in one section, far more than a host has.
const INTERFACES_MAX: usize = 4096;

/// Type of the packet block of the first drafts, which pcap-parser does not support.
const OLD_PACKET: u32 = 2;

/// A capture cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Neither pcap nor pcapng.
    #[error("not a packet capture: it starts with neither the pcap nor the pcapng magic number")]
    NoCapture,
    /// An unsupported link type.
    #[error("unsupported link type {0} (supported: Ethernet, Linux cooked, loopback and raw IP)")]
    LinkType(u32),
    /// The capture ends in the middle of a packet.
    #[error("the capture ends in the middle of a packet")]
    CutShort,
    /// Impossible lengths or numbers.
    #[error("the capture is damaged: {0}")]
    Damaged(&'static str),
    /// Reading the file failed.
    #[error("cannot read the capture")]
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
    /// Time of the capture; zero if the file does not have it.
    pub at: CapturedAt,
    /// Link layer that the frame starts with.
    pub link: Link,
    /// The captured bytes.
    pub bytes: &'a [u8],
}

/// Ticks of a capture's clock in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TicksPerSecond(u64);

impl TicksPerSecond {
    const MICRO: Self = Self(1_000_000);
    const NANO: Self = Self(1_000_000_000);

    fn split(self, ticks: u64) -> CapturedAt {
        let nanos = u128::from(ticks % self.0) * 1_000_000_000 / u128::from(self.0);
        CapturedAt { secs: ticks / self.0, nanos: u32::try_from(nanos).expect("less than a second") }
    }

    /// Reads `if_tsresol`: a negative power of 10, or of 2 if the highest bit is set.  pcap-parser does not support powers of 2.
    fn of(resolution: u8) -> Result<Self, CaptureError> {
        let power = u32::from(resolution & 0x7f);
        let ticks = if resolution & 0x80 == 0 { 10_u64.checked_pow(power) } else { 2_u64.checked_pow(power) };
        ticks.map(Self).ok_or(CaptureError::Damaged("an impossible clock resolution"))
    }
}

/// An interface as a section describes it.
#[derive(Debug, Clone, Copy)]
struct Interface {
    /// May be unsupported: that is an error only once the interface has a packet.
    link_number: u32,
    ticks: TicksPerSecond,
    offset_secs: u64,
}

impl Interface {
    fn of(block: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Result<Self, CaptureError> {
        let link_number = block.linktype.0.cast_unsigned();
        let mut interface = Self { link_number, ticks: TicksPerSecond::MICRO, offset_secs: 0 };
        for option in block.options.iter().take_while(|option| option.code != OptionCode::EndOfOpt) {
            match (option.code, option.as_bytes()) {
                (OptionCode::IfTsresol, Ok(&[resolution])) => interface.ticks = TicksPerSecond::of(resolution)?,
                (OptionCode::IfTsoffset, Ok(offset)) => {
                    if let Ok(offset) = offset.try_into() {
                        // pcap-parser reads it as little endian only.
                        let of = if big_endian { u64::from_be_bytes } else { u64::from_le_bytes };
                        interface.offset_secs = of(offset);
                    }
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    fn at(self, high: u32, low: u32) -> CapturedAt {
        let at = self.ticks.split(u64::from(high) << 32 | u64::from(low));
        CapturedAt { secs: at.secs.wrapping_add(self.offset_secs), ..at }
    }
}

/// A capture that is being read.
#[derive(Debug)]
pub struct Capture<R> {
    source: Source<R>,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Pcap { header: PcapHeader, link: Link },
    Pcapng { big_endian: bool, interfaces: Vec<Interface> },
}

/// A frame's time and link, and its place in the buffer.
struct Found {
    at: CapturedAt,
    link: Link,
    place: Range<usize>,
}

impl<R: Read> Capture<R> {
    /// Reads the start of a capture.
    ///
    /// # Errors
    /// Fails if it is not a capture, or has an unsupported link type.
    pub fn open(reader: R) -> Result<Self, CaptureError> {
        let mut source = Source { reader, buffer: Vec::new() };
        let format = match source.begin() {
            Ok(Some(SHB_MAGIC)) => source.section()?,
            Ok(Some(_)) if !matches!(parse_pcap_header(&source.buffer), Err(Err::Error(_))) => source.pcap()?,
            Ok(_) | Err(CaptureError::CutShort) => return Err(CaptureError::NoCapture),
            Err(error) => return Err(error),
        };
        Ok(Self { source, format })
    }

    /// The next frame; none at the end.
    ///
    /// # Errors
    /// Fails if the capture ends in the middle of a packet or is damaged.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        while let Some(mark) = self.source.begin()? {
            let found = match &mut self.format {
                Format::Pcap { header, link } => Some(self.source.frame(header, *link)?),
                format @ Format::Pcapng { .. } if mark == SHB_MAGIC => {
                    *format = self.source.section()?;
                    None
                }
                Format::Pcapng { big_endian, interfaces } => self.source.block(*big_endian, interfaces)?,
            };
            if let Some(Found { at, link, place }) = found {
                return Ok(Some(Frame { at, link, bytes: &self.source.buffer[place] }));
            }
        }
        Ok(None)
    }
}

type Parsed<'a, T> = IResult<&'a [u8], T, PcapError<&'a [u8]>>;

/// Reads exactly one header or block at a time.
#[derive(Debug)]
struct Source<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: Read> Source<R> {
    /// Reads the first four bytes of the next header or block as little endian; none at the end.
    fn begin(&mut self) -> Result<Option<u32>, CaptureError> {
        self.buffer.clear();
        match self.read(4) {
            Ok(()) => Ok(self.buffer.first_chunk().map(|mark| u32::from_le_bytes(*mark))),
            Err(CaptureError::CutShort) if self.buffer.is_empty() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, more: usize) -> Result<(), CaptureError> {
        let wanted = self.buffer.len().saturating_add(more);
        if wanted > BLOCK_BYTES_MAX {
            return Err(CaptureError::Damaged("a packet of more than 1 MiB"));
        }
        self.reader.by_ref().take(more as u64).read_to_end(&mut self.buffer).map_err(CaptureError::Io)?;
        if self.buffer.len() < wanted { Err(CaptureError::CutShort) } else { Ok(()) }
    }

    /// Reads more until a parser, asked by [`missing`], needs no more.
    fn fill(&mut self, missing: impl Fn(&[u8]) -> Result<usize, CaptureError>) -> Result<(), CaptureError> {
        loop {
            match missing(&self.buffer)? {
                0 => return Ok(()),
                more => self.read(more)?,
            }
        }
    }

    fn pcap(&mut self) -> Result<Format, CaptureError> {
        self.fill(|bytes| missing(parse_pcap_header(bytes)))?;
        let header = whole(parse_pcap_header(&self.buffer))?;
        if header.is_modified_format() {
            return Err(CaptureError::NoCapture);
        }
        // The upper half holds flags and the length of the frame check sequence.
        let number = header.network.0.cast_unsigned() & 0xffff;
        Ok(Format::Pcap { link: Link::of(number).ok_or(CaptureError::LinkType(number))?, header })
    }

    fn frame(&mut self, header: &PcapHeader, link: Link) -> Result<Found, CaptureError> {
        let parse: fn(&[u8]) -> Parsed<'_, LegacyPcapBlock<'_>> =
            if header.is_bigendian() { parse_pcap_frame_be } else { parse_pcap_frame };
        self.fill(|bytes| missing(parse(bytes)))?;
        let frame = whole(parse(&self.buffer))?;
        let ticks = if header.is_nanosecond_precision() { TicksPerSecond::NANO } else { TicksPerSecond::MICRO };
        let at = CapturedAt { secs: frame.ts_sec.into(), ..ticks.split(u64::from(frame.ts_usec) % ticks.0) };
        Ok(Found { at, link, place: 16..16 + frame.data.len() })
    }

    fn section(&mut self) -> Result<Format, CaptureError> {
        self.fill(|bytes| missing(parse_sectionheaderblock(bytes)))?;
        let big_endian = whole(parse_sectionheaderblock(&self.buffer))?.big_endian();
        Ok(Format::Pcapng { big_endian, interfaces: Vec::new() })
    }

    fn block(&mut self, big_endian: bool, interfaces: &mut Vec<Interface>) -> Result<Option<Found>, CaptureError> {
        let outer: fn(&[u8]) -> Parsed<'_, UnknownBlock<'_>> =
            if big_endian { parse_unknownblock_be } else { parse_unknownblock_le };
        self.fill(|bytes| missing(outer(bytes)))?;
        let UnknownBlock { block_type, block_len1, block_len2, .. } = whole(outer(&self.buffer))?;
        if block_len1 != block_len2 || !block_len1.is_multiple_of(4) {
            return Err(CaptureError::Damaged("a block whose two lengths differ"));
        }
        match if big_endian { block_type.swap_bytes() } else { block_type } {
            IDB_MAGIC | SPB_MAGIC | EPB_MAGIC => {}
            OLD_PACKET => self.renew_packet(big_endian),
            // Names, statistics, secrets and other blocks.
            _ => return Ok(None),
        }
        let inner: fn(&[u8]) -> Parsed<'_, Block<'_>> = if big_endian { parse_block_be } else { parse_block_le };
        let interface_of = |number: u32| {
            let interface = usize::try_from(number).ok().and_then(|number| interfaces.get(number));
            let interface = interface.ok_or(CaptureError::Damaged("a packet of an undeclared interface"))?;
            Ok((*interface, Link::of(interface.link_number).ok_or(CaptureError::LinkType(interface.link_number))?))
        };
        Ok(match whole(inner(&self.buffer))? {
            Block::InterfaceDescription(_) if interfaces.len() == INTERFACES_MAX => {
                return Err(CaptureError::Damaged("more than 4096 interfaces"));
            }
            Block::InterfaceDescription(block) => {
                interfaces.push(Interface::of(&block, big_endian)?);
                None
            }
            Block::EnhancedPacket(block) => {
                let (interface, link) = interface_of(block.if_id)?;
                let at = interface.at(block.ts_high, block.ts_low);
                Some(Found { at, link, place: 28..28 + block.packet_data().len() })
            }
            // It has no time and belongs to the first interface; its captured length is at most the rest of the block.
            Block::SimplePacket(block) => {
                let (_, link) = interface_of(0)?;
                Some(Found { at: CapturedAt::default(), link, place: 12..12 + block.packet_data().len() })
            }
            _ => None,
        })
    }

    /// Turns an old packet block into an enhanced one, which has 32 bits for the interface instead of 16, and no count of drops.
    fn renew_packet(&mut self, big_endian: bool) {
        let Some(words) = self.buffer.first_chunk_mut::<12>() else { return };
        if big_endian {
            words[..4].copy_from_slice(&EPB_MAGIC.to_be_bytes());
            words.copy_within(8..10, 10);
            words[8..10].fill(0);
        } else {
            words[..4].copy_from_slice(&EPB_MAGIC.to_le_bytes());
            words[10..12].fill(0);
        }
    }
}

/// How many more bytes a parser needs; 0 if it has all.
fn missing<T>(parsed: Parsed<'_, T>) -> Result<usize, CaptureError> {
    match parsed {
        Ok(_) => Ok(0),
        Err(Err::Incomplete(Needed::Size(more))) => Ok(more.get()),
        Err(Err::Error(PcapError::HeaderNotRecognized)) => Err(CaptureError::Damaged("a section without a byte order")),
        Err(_) => Err(CaptureError::Damaged("a block of an impossible length")),
    }
}

/// Parses a block that is complete according to its outer length.
fn whole<T>(parsed: Parsed<'_, T>) -> Result<T, CaptureError> {
    let parsed = parsed.map_err(|_| CaptureError::Damaged("a packet longer than its block"));
    parsed.map(|(_, block)| block)
}

#[cfg(test)]
mod tests {
    use pcap_parser::BOM_MAGIC;

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
    fn other_files_are_refused() {
        for bad in [&b""[..], b"abc", b"GET / HTTP/1.1\r\n", &[0; 100], &[0xd4, 0xc3, 0xb2]] {
            assert!(matches!(frames(bad), Err(CaptureError::NoCapture)), "{bad:?}");
        }
        let strange = file(0xa1b2_c3d4, 147, &[], u32::to_le_bytes);
        assert!(matches!(frames(&strange), Err(CaptureError::LinkType(147))));
        assert!(matches!(frames(&strange[..20]), Err(CaptureError::CutShort)));
    }

    #[test]
    fn a_cut_or_monstrous_frame_is_reported_after_the_good_ones() {
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

    fn block(kind: u32, body: &[u8], bytes_of: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = bytes_of(u32::try_from(body.len() + 12).unwrap());
        [&bytes_of(kind)[..], &length, &body, &length].concat()
    }

    fn words(words: &[u32], bytes_of: fn(u32) -> [u8; 4]) -> Vec<u8> {
        words.iter().flat_map(|word| bytes_of(*word)).collect()
    }

    /// Two halves of a word, each in the byte order.
    fn halves(first: u16, second: u16, bytes_of: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let order = if bytes_of(1)[0] == 1 { u16::to_le_bytes } else { u16::to_be_bytes };
        [order(first), order(second)].concat()
    }

    fn sections(bytes_of: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let section = block(SHB_MAGIC, &words(&[BOM_MAGIC, 0x0001_0000, u32::MAX, u32::MAX], bytes_of), bytes_of);
        let plain = [halves(113, 0, bytes_of), words(&[0], bytes_of)].concat();
        let mut nano = [halves(1, 0, bytes_of), words(&[0], bytes_of)].concat();
        nano.extend([halves(OptionCode::IfTsresol.0, 1, bytes_of), vec![9, 0, 0, 0], vec![0; 4]].concat());
        let mut blocks = vec![section, block(IDB_MAGIC, &plain, bytes_of), block(IDB_MAGIC, &nano, bytes_of)];
        let packet = |interface, length| words(&[interface, 1, 5, length, 999], bytes_of);
        blocks.push(block(EPB_MAGIC, &[packet(0, 3), b"one".to_vec()].concat(), bytes_of));
        blocks.push(block(5, b"statistics..", bytes_of));
        blocks.push(block(EPB_MAGIC, &[packet(1, 5), b"two..".to_vec()].concat(), bytes_of));
        let old = [halves(1, 7, bytes_of), words(&[1, 5, 3, 999], bytes_of), b"old".to_vec()].concat();
        blocks.push(block(OLD_PACKET, &old, bytes_of));
        blocks.push(block(SPB_MAGIC, &[words(&[4], bytes_of), b"four".to_vec()].concat(), bytes_of));
        blocks.concat()
    }

    #[test]
    fn interfaces_have_their_own_clock_and_link() {
        for bytes_of in [u32::to_le_bytes, u32::to_be_bytes] {
            let file = sections(bytes_of);
            // Twice: a second section forgets the first one's interfaces.
            let twice = [file.clone(), file].concat();
            let mut capture = Capture::open(&*twice).unwrap();
            for _ in 0..2 {
                let ticks = (1 << 32) + 5;
                let one = capture.next_frame().unwrap().unwrap();
                assert_eq!((one.link, one.bytes), (Link::Cooked, &b"one"[..]));
                assert_eq!(one.at, CapturedAt { secs: ticks / 1_000_000, nanos: 967_301_000 });
                let two = capture.next_frame().unwrap().unwrap();
                assert_eq!((two.link, two.bytes), (Link::Ethernet, &b"two.."[..]));
                assert_eq!(two.at, CapturedAt { secs: 4, nanos: 294_967_301 });
                let old = capture.next_frame().unwrap().unwrap();
                assert_eq!((old.link, old.bytes), (Link::Ethernet, &b"old"[..]));
                assert_eq!(old.at, CapturedAt { secs: 4, nanos: 294_967_301 });
                let four = capture.next_frame().unwrap().unwrap();
                assert_eq!((four.link, four.bytes, four.at), (Link::Cooked, &b"four"[..], CapturedAt::default()));
            }
            assert!(capture.next_frame().unwrap().is_none());
        }
    }

    #[test]
    fn damage_is_reported() {
        let good = sections(u32::to_le_bytes);
        let all = |bytes| {
            let mut capture = Capture::open(bytes)?;
            while capture.next_frame()?.is_some() {}
            Ok(())
        };
        for cut in 1..good.len() {
            let read: Result<(), CaptureError> = all(&good[..cut]);
            // A capture that is cut at the end of a block looks complete.
            assert!(matches!(read, Ok(()) | Err(CaptureError::CutShort | CaptureError::NoCapture)), "{cut}: {read:?}");
        }
        let unannounced = {
            let section = block(SHB_MAGIC, &words(&[BOM_MAGIC, 1, 0, 0], u32::to_le_bytes), u32::to_le_bytes);
            let packet = words(&[7, 0, 0, 0, 0], u32::to_le_bytes);
            [section, block(EPB_MAGIC, &packet, u32::to_le_bytes)].concat()
        };
        let read = Capture::open(&*unannounced).unwrap().next_frame().err();
        assert!(matches!(read, Some(CaptureError::Damaged(_))), "{read:?}");
        let ticks = TicksPerSecond::of;
        assert!(ticks(0x8a).is_ok_and(|ticks| ticks.0 == 1024) && ticks(20).is_err() && ticks(0xc0).is_err());
    }
}
