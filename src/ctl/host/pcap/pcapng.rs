//! pcapng: sections of blocks; interfaces are announced, packets name theirs.

use std::io::Read;

use super::{CaptureError, CapturedAt, FRAME_BYTES_MAX, Frame, Order, TicksPerSecond, fill, read_block};
use crate::host::link::Link;

/// Type of the block that starts a section; the same in both byte orders.
pub(super) const SECTION_MARK: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Written by the section in its own byte order.
const ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// Most interfaces in one section: a bound, far above what a host has.
const INTERFACES_MAX: usize = 4096;

/// Options of an interface: resolution and offset of its clock.
const OPTION_RESOLUTION: u16 = 9;
const OPTION_OFFSET: u16 = 14;

/// Where reading stands.
#[derive(Debug)]
pub(super) struct Sections {
    order: Order,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    /// None: its packets are an error once there are any.
    link: Option<Link>,
    link_number: u32,
    ticks: TicksPerSecond,
    offset_secs: u64,
}

impl Sections {
    /// Reads the first section's header, of which the type has been read.
    pub(super) fn open(reader: &mut impl Read) -> Result<Self, CaptureError> {
        Ok(Self { order: section(reader)?, interfaces: Vec::new() })
    }

    pub(super) fn next_frame<'a>(
        &mut self,
        reader: &mut impl Read,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Frame<'a>>, CaptureError> {
        loop {
            let mut kind = [0; 4];
            match fill(reader, &mut kind)? {
                0 => return Ok(None),
                4 => {}
                _ => return Err(CaptureError::CutShort),
            }
            let kind = self.order.u32(kind);
            if kind == SECTION {
                *self = Self::open(reader)?;
                continue;
            }
            self.block(reader, buffer)?;
            let found = match kind {
                INTERFACE => {
                    self.add_interface(buffer)?;
                    None
                }
                ENHANCED_PACKET => Some(self.packet(buffer, |order, body| order.word(body, 0))?),
                OLD_PACKET => Some(self.packet(buffer, |order, body| {
                    let number = body.first_chunk::<2>()?;
                    Some(order.u16(*number).into())
                })?),
                SIMPLE_PACKET => Some(self.simple_packet(buffer)?),
                // Names, statistics, secrets and whatever else may come.
                _ => None,
            };
            if let Some((at, link, from, length)) = found {
                return Ok(Some(Frame { at, link, bytes: &buffer[from..from + length] }));
            }
        }
    }

    /// Reads a block's body into the buffer: what lies between its two lengths.
    fn block(&self, reader: &mut impl Read, buffer: &mut Vec<u8>) -> Result<(), CaptureError> {
        let mut length = [0; 4];
        if fill(reader, &mut length)? < 4 {
            return Err(CaptureError::CutShort);
        }
        let length = self.order.u32(length);
        let body = length.checked_sub(12).filter(|_| length.is_multiple_of(4));
        read_block(reader, buffer, body.ok_or(CaptureError::Damaged("a block whose length cannot be"))?)?;
        let mut again = [0; 4];
        if fill(reader, &mut again)? < 4 {
            return Err(CaptureError::CutShort);
        }
        if self.order.u32(again) == length { Ok(()) } else { Err(CaptureError::Damaged("a block with two lengths")) }
    }

    fn add_interface(&mut self, body: &[u8]) -> Result<(), CaptureError> {
        let bad = CaptureError::Damaged("an interface that is too short");
        let (fixed, mut options) = body.split_first_chunk::<8>().ok_or(bad)?;
        let link_number = self.order.u16([fixed[0], fixed[1]]).into();
        let mut interface =
            Interface { link: Link::of(link_number), link_number, ticks: TicksPerSecond::MICRO, offset_secs: 0 };
        while let Some((head, rest)) = options.split_first_chunk::<4>() {
            let (code, length) = (self.order.u16([head[0], head[1]]), self.order.u16([head[2], head[3]]));
            let Some(value) = rest.get(..length.into()) else { break };
            match (code, value) {
                (0, _) => break,
                (OPTION_RESOLUTION, [resolution]) => interface.ticks = ticks(*resolution)?,
                (OPTION_OFFSET, [a, b, c, d, e, f, g, h]) => {
                    let (first, second) = (self.order.u32([*a, *b, *c, *d]), self.order.u32([*e, *f, *g, *h]));
                    let (high, low) = if self.order == Order::Big { (first, second) } else { (second, first) };
                    interface.offset_secs = u64::from(high) << 32 | u64::from(low);
                }
                _ => {}
            }
            options = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        }
        if self.interfaces.len() == INTERFACES_MAX {
            return Err(CaptureError::Damaged("more than 4096 interfaces"));
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn interface(&self, number: usize) -> Result<(Interface, Link), CaptureError> {
        let found = self.interfaces.get(number);
        let interface = found.ok_or(CaptureError::Damaged("a packet of an interface that was not announced"))?;
        Ok((*interface, interface.link.ok_or(CaptureError::LinkType(interface.link_number))?))
    }

    /// Time, link, and where the bytes are.  Both packet blocks have five words before the bytes: interface (and drops), time,
    /// captured length, original length.
    fn packet(
        &self,
        body: &[u8],
        number: impl FnOnce(Order, &[u8]) -> Option<u32>,
    ) -> Result<(CapturedAt, Link, usize, usize), CaptureError> {
        let bad = || CaptureError::Damaged("a packet that is longer than its block");
        let word = |index| self.order.word(body, index).ok_or_else(bad);
        let number = number(self.order, body).and_then(|number| usize::try_from(number).ok()).ok_or_else(bad)?;
        let (interface, link) = self.interface(number)?;
        let mut at = interface.ticks.split(u64::from(word(1)?) << 32 | u64::from(word(2)?));
        at.secs = at.secs.wrapping_add(interface.offset_secs);
        let length = usize::try_from(word(3)?).ok().filter(|length| *length <= FRAME_BYTES_MAX).ok_or_else(bad)?;
        if body.len() < 20 + length { Err(bad()) } else { Ok((at, link, 20, length)) }
    }

    /// A packet without time, of the first interface; its captured length is the rest of the block or less.
    fn simple_packet(&self, body: &[u8]) -> Result<(CapturedAt, Link, usize, usize), CaptureError> {
        let original = self.order.word(body, 0).and_then(|length| usize::try_from(length).ok());
        let original = original.ok_or(CaptureError::Damaged("a packet that is longer than its block"))?;
        let (_, link) = self.interface(0)?;
        Ok((CapturedAt::default(), link, 4, original.min(body.len() - 4)))
    }
}

/// Reads a section header behind its type, and tells the section's byte order.
fn section(reader: &mut impl Read) -> Result<Order, CaptureError> {
    let mut head = [0; 8];
    if fill(reader, &mut head)? < head.len() {
        return Err(CaptureError::CutShort);
    }
    let [length, magic] = [[head[0], head[1], head[2], head[3]], [head[4], head[5], head[6], head[7]]];
    let order = [Order::Little, Order::Big].into_iter().find(|order| order.u32(magic) == ORDER_MAGIC);
    let order = order.ok_or(CaptureError::Damaged("a section without its byte order"))?;
    let length = order.u32(length);
    // Type, two lengths, magic, version, length of the section.
    let rest = length.checked_sub(12).filter(|_| length >= 28 && length.is_multiple_of(4));
    read_block(reader, &mut Vec::new(), rest.ok_or(CaptureError::Damaged("a section whose length cannot be"))?)?;
    Ok(order)
}

/// Ticks of a clock whose resolution is a negative power of 10, or of 2 if the highest bit is set.
fn ticks(resolution: u8) -> Result<TicksPerSecond, CaptureError> {
    let power = u32::from(resolution & 0x7f);
    let ticks = if resolution & 0x80 == 0 { 10_u64.checked_pow(power) } else { 2_u64.checked_pow(power) };
    ticks.map(TicksPerSecond).ok_or(CaptureError::Damaged("a clock that nothing can have"))
}

#[cfg(test)]
mod tests {
    use super::super::Capture;
    use super::*;

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

    fn file(bytes_of: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let section = block(SECTION, &words(&[ORDER_MAGIC, 0x0001_0000, u32::MAX, u32::MAX], bytes_of), bytes_of);
        let plain = [halves(113, 0, bytes_of), words(&[0], bytes_of)].concat();
        let mut nano = [halves(1, 0, bytes_of), words(&[0], bytes_of)].concat();
        nano.extend([halves(OPTION_RESOLUTION, 1, bytes_of), vec![9, 0, 0, 0], vec![0; 4]].concat());
        let mut blocks = vec![section, block(INTERFACE, &plain, bytes_of), block(INTERFACE, &nano, bytes_of)];
        let packet = |interface, length| words(&[interface, 1, 5, length, 999], bytes_of);
        blocks.push(block(ENHANCED_PACKET, &[packet(0, 3), b"one".to_vec()].concat(), bytes_of));
        blocks.push(block(5, b"statistics..", bytes_of));
        blocks.push(block(ENHANCED_PACKET, &[packet(1, 5), b"two..".to_vec()].concat(), bytes_of));
        blocks.push(block(SIMPLE_PACKET, &[words(&[4], bytes_of), b"four".to_vec()].concat(), bytes_of));
        blocks.concat()
    }

    #[test]
    fn interfaces_have_their_own_clock_and_link() {
        for bytes_of in [u32::to_le_bytes, u32::to_be_bytes] {
            let file = file(bytes_of);
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
                let four = capture.next_frame().unwrap().unwrap();
                assert_eq!((four.link, four.bytes, four.at), (Link::Cooked, &b"four"[..], CapturedAt::default()));
            }
            assert!(capture.next_frame().unwrap().is_none());
        }
    }

    #[test]
    fn damage_is_told() {
        let good = file(u32::to_le_bytes);
        let all = |bytes| {
            let mut capture = Capture::open(bytes)?;
            while capture.next_frame()?.is_some() {}
            Ok(())
        };
        for cut in 1..good.len() {
            let read: Result<(), CaptureError> = all(&good[..cut]);
            // At the end of a block nothing shows that more was to come.
            assert!(matches!(read, Ok(()) | Err(CaptureError::CutShort | CaptureError::NoCapture)), "{cut}: {read:?}");
        }
        let unannounced = {
            let section = block(SECTION, &words(&[ORDER_MAGIC, 1, 0, 0], u32::to_le_bytes), u32::to_le_bytes);
            let packet = words(&[7, 0, 0, 0, 0], u32::to_le_bytes);
            [section, block(ENHANCED_PACKET, &packet, u32::to_le_bytes)].concat()
        };
        let read = Capture::open(&*unannounced).unwrap().next_frame().err();
        assert!(matches!(read, Some(CaptureError::Damaged(_))), "{read:?}");
        assert!(ticks(0x8a).is_ok_and(|ticks| ticks.0 == 1024) && ticks(20).is_err() && ticks(0xc0).is_err());
    }
}
