//! IP and TCP headers: read, and made for one kind of packet, the SYN that asks for a cookie.  Pure, and no byte string panics.
//!
//! What is read may be cut (a capture keeps the first bytes of each packet) or forged, so every length is checked against
//! what is there, and the length of the data is what the headers say, not what was captured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tcp_option::{self, Form};

/// TCP's number in IP headers (IANA "Protocol Numbers").
const PROTOCOL_TCP: u8 = 6;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const TCP_HEADER_BYTES: usize = 20;

const FLOW_LABEL_MASK: u32 = 0x000f_ffff;

/// As Linux does by itself (ip-sysctl `hop_limit`).
const OUR_HOP_LIMIT: u8 = 64;

/// Window of our SYNs; nobody will ever fill it.
const OUR_WINDOW_BYTES: u16 = 65_535;

/// The flags that matter here (RFC 9293 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    const SYN: u8 = 0x02;
    const RESET: u8 = 0x04;
    const ACKNOWLEDGE: u8 = 0x10;

    /// SYN without ACK.
    #[must_use]
    pub const fn is_syn(self) -> bool {
        self.0 & (Self::SYN | Self::RESET | Self::ACKNOWLEDGE) == Self::SYN
    }

    /// SYN with ACK.
    #[must_use]
    pub const fn is_syn_ack(self) -> bool {
        self.0 & (Self::SYN | Self::RESET | Self::ACKNOWLEDGE) == Self::SYN | Self::ACKNOWLEDGE
    }

    /// RST that answers something: it has an acknowledgement.
    #[must_use]
    pub const fn is_reset_answer(self) -> bool {
        self.0 & (Self::RESET | Self::ACKNOWLEDGE) == Self::RESET | Self::ACKNOWLEDGE
    }
}

/// Why bytes are no TCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    /// The packet goes on behind the last captured byte, before its TCP options end.
    #[error("cut off inside its headers")]
    Cut,
    /// Lengths that contradict each other, or no IP version 4 or 6.
    #[error("malformed")]
    Malformed,
    /// Something else, or a fragment without the TCP header.
    #[error("not TCP")]
    NotTcp,
}

/// A TCP header with its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledged up to here, if a flag says so.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: Flags,
    /// Options with their padding.
    pub options: &'a [u8],
    /// Bytes of data, captured or not.
    pub data_bytes: usize,
}

impl<'a> Segment<'a> {
    /// Reads a segment that has `length` bytes, of which `bytes` were captured.
    ///
    /// # Errors
    /// Fails if it is cut or malformed.
    pub fn parse(bytes: &'a [u8], length: usize) -> Result<Self, NotRead> {
        let fixed = bytes.first_chunk::<TCP_HEADER_BYTES>();
        let fixed = fixed.ok_or(if length < TCP_HEADER_BYTES { NotRead::Malformed } else { NotRead::Cut })?;
        let header = usize::from(fixed[12] >> 4) * 4;
        if header < TCP_HEADER_BYTES || header > length {
            return Err(NotRead::Malformed);
        }
        Ok(Self {
            source_port: u16::from_be_bytes([fixed[0], fixed[1]]),
            destination_port: u16::from_be_bytes([fixed[2], fixed[3]]),
            sequence: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            acknowledgement: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            flags: Flags(fixed[13]),
            options: bytes.get(TCP_HEADER_BYTES..header).ok_or(NotRead::Cut)?,
            data_bytes: length - header,
        })
    }
}

/// A TCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Address of the sender.
    pub source: IpAddr,
    /// Address of the receiver.
    pub destination: IpAddr,
    /// What it carries.
    pub segment: Segment<'a>,
}

impl<'a> Packet<'a> {
    /// Reads an IP packet of either version; bytes behind its end are padding.
    ///
    /// # Errors
    /// Fails if it is cut or malformed, or if it is not TCP.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NotRead> {
        match bytes.first().ok_or(NotRead::Cut)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(NotRead::Malformed),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, NotRead> {
        let fixed = bytes.first_chunk::<IPV4_HEADER_BYTES>().ok_or(NotRead::Cut)?;
        let header = usize::from(fixed[0] & 15) * 4;
        let total = match usize::from(u16::from_be_bytes([fixed[2], fixed[3]])) {
            // Segmentation in the network card: the capture has one packet that never was on the wire.
            0 => bytes.len(),
            total => total,
        };
        if header < IPV4_HEADER_BYTES || total < header {
            return Err(NotRead::Malformed);
        }
        let fragment_offset = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff;
        if fixed[9] != PROTOCOL_TCP || fragment_offset != 0 {
            return Err(NotRead::NotTcp);
        }
        let body = bytes.get(header..total.min(bytes.len())).ok_or(NotRead::Cut)?;
        let address = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]).into();
        let segment = Segment::parse(body, total - header)?;
        Ok(Self { source: address(12), destination: address(16), segment })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, NotRead> {
        let (fixed, rest) = bytes.split_first_chunk::<IPV6_HEADER_BYTES>().ok_or(NotRead::Cut)?;
        let length = match usize::from(u16::from_be_bytes([fixed[4], fixed[5]])) {
            // As above, or a jumbogram.
            0 => rest.len(),
            length => length,
        };
        let body = &rest[..length.min(rest.len())];
        let (body, length) = skip_extensions(fixed[6], body, length)?;
        let segment = Segment::parse(body, length)?;
        let address = |at: usize| -> [u8; 16] { std::array::from_fn(|index| fixed[at + index]) };
        Ok(Self { source: Ipv6Addr::from(address(8)).into(), destination: Ipv6Addr::from(address(24)).into(), segment })
    }

    /// The sender.
    #[must_use]
    pub fn source_socket(&self) -> SocketAddr {
        (self.source, self.segment.source_port).into()
    }

    /// The receiver.
    #[must_use]
    pub fn destination_socket(&self) -> SocketAddr {
        (self.destination, self.segment.destination_port).into()
    }
}

/// Goes over the extension headers to TCP (RFC 8200 section 4; RFC 4302 for 51, RFC 6275 for 135, RFC 7401 and 5533 for 139 and 140).
fn skip_extensions(first: u8, mut body: &[u8], mut length: usize) -> Result<(&[u8], usize), NotRead> {
    let mut next = first;
    while next != PROTOCOL_TCP {
        let header = body.first_chunk::<8>().ok_or(if length < 8 { NotRead::Malformed } else { NotRead::Cut });
        let bytes = match next {
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(header?[1]) + 1) * 8,
            51 => (usize::from(header?[1]) + 2) * 4,
            44 if u16::from_be_bytes([header?[2], header?[3]]) >> 3 == 0 => 8,
            _ => return Err(NotRead::NotTcp),
        };
        next = header?[0];
        if bytes > length {
            return Err(NotRead::Malformed);
        }
        body = body.get(bytes..).ok_or(NotRead::Cut)?;
        length -= bytes;
    }
    Ok((body, length))
}

/// A SYN that asks for a cookie and carries no data, so that it takes no place in the server's TFO queue (docs/kernel.md#client-side).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CookieRequest {
    /// Our end.
    pub source: SocketAddr,
    /// The server; of the same family.
    pub destination: SocketAddr,
    /// Initial sequence number.
    pub sequence: u32,
    /// IPv6 only, 20 bits: balancers hash it (Linux does, without `fib_multipath_hash_policy=1`), so it is this request's own.
    pub flow_label: u32,
    /// Which option asks.
    pub form: Form,
}

impl CookieRequest {
    /// The packet as a raw socket takes it: IPv6 with its header, IPv4 without, which is the kernel's to make.
    #[must_use]
    pub fn syn(&self) -> Vec<u8> {
        self.packet(self.sequence, Flags::SYN, &tcp_option::cookie_request(self.form))
    }

    /// What ends the connection that the server has begun, for whoever has seen its SYN/ACK.
    ///
    /// The kernel sends a RST too, but for IPv6 with another flow label, with which it may come to another node behind the balancer.
    #[must_use]
    pub fn reset(&self) -> Vec<u8> {
        self.packet(self.sequence.wrapping_add(1), Flags::RESET, &[])
    }

    fn packet(&self, sequence: u32, flags: u8, options: &[u8]) -> Vec<u8> {
        let mut segment = Vec::with_capacity(TCP_HEADER_BYTES + options.len());
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend([0; 4]);
        let words = u8::try_from((TCP_HEADER_BYTES + options.len()) / 4).expect("our options are 8 bytes");
        segment.extend([words << 4, flags]);
        segment.extend(OUR_WINDOW_BYTES.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(options);
        let sum = checksum(self.source.ip(), self.destination.ip(), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let length = u16::try_from(segment.len()).expect("a header and its options");
                let mut packet = Vec::with_capacity(IPV6_HEADER_BYTES + segment.len());
                packet.extend((6 << 28 | self.flow_label & FLOW_LABEL_MASK).to_be_bytes());
                packet.extend(length.to_be_bytes());
                packet.extend([PROTOCOL_TCP, OUR_HOP_LIMIT]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet.extend(segment);
                packet
            }
            _ => segment,
        }
    }
}

/// The TCP checksum over pseudo header and segment (RFC 9293 section 3.1, RFC 8200 section 8.1); 0 over a segment that has the right one.
#[must_use]
pub fn checksum(source: IpAddr, destination: IpAddr, segment: &[u8]) -> u16 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(v4) => sum_words(&v4.octets()),
        IpAddr::V6(v6) => sum_words(&v6.octets()),
    };
    // The length is below 2^16 for whatever goes into one packet; more would be jumbograms.
    let length = segment.len() as u64;
    let mut sum =
        address(source) + address(destination) + u64::from(PROTOCOL_TCP) + (length & 0xffff) + sum_words(segment);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

fn sum_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let whole: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    whole + rest.first().map_or(0, |last| u64::from(*last) << 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::host::tcp_option::FastOpen;

    /// A SYN/ACK with a cookie as a kernel sent it (tshark's bytes; namespaces of tests/ctl/wire).
    const OPTIONS: [u8; 12] = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];

    fn segment(data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x9c, 0x40, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 8 << 4, 0x12, 0xff, 0xff, 0, 0, 0, 0];
        bytes.extend(OPTIONS);
        bytes.extend(data);
        bytes
    }

    fn v4(body: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + body.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend(body);
        bytes
    }

    fn v6(next: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
        bytes.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_packet_of_each_family_is_read() {
        for (bytes, source) in
            [(v4(&segment(b"hello")), "10.0.0.1:40000"), (v6(6, &segment(b"hello")), "[fd00::1]:40000")]
        {
            // Padding of a short Ethernet frame is no data.
            let padded = [bytes.as_slice(), &[0; 6]].concat();
            for bytes in [&bytes, &padded] {
                let packet = Packet::parse(bytes).unwrap();
                assert_eq!(packet.source_socket().to_string(), source);
                assert_eq!(packet.destination_socket().port(), 80);
                let segment = packet.segment;
                assert_eq!((segment.sequence, segment.acknowledgement), (0x0102_0304, 0x0506_0708));
                assert_eq!((segment.options, segment.data_bytes), (&OPTIONS[..], 5));
                assert!(segment.flags.is_syn_ack() && !segment.flags.is_syn() && !segment.flags.is_reset_answer());
            }
            // Cut inside the data: all is known; before the options end: it is said so.
            assert_eq!(Packet::parse(&bytes[..bytes.len() - 5]).unwrap().segment.data_bytes, 5);
            for cut in 0..bytes.len() - 5 {
                assert_eq!(Packet::parse(&bytes[..cut]), Err(NotRead::Cut), "{cut}");
            }
        }
    }

    #[test]
    fn extension_headers_are_skipped() {
        let tcp = segment(b"");
        let chain = |headers: &[&[u8]]| [headers.concat(), tcp.clone()].concat();
        let hop: &[u8] = &[43, 0, 1, 4, 0, 0, 0, 0];
        let route: &[u8] = &[60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let options: &[u8] = &[51, 0, 1, 4, 0, 0, 0, 0];
        let authentication: &[u8] = &[44, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let first_fragment: &[u8] = &[6, 0, 0, 1, 0, 0, 0, 7];
        let bytes = v6(0, &chain(&[hop, route, options, authentication, first_fragment]));
        assert_eq!(Packet::parse(&bytes).unwrap().segment.options, OPTIONS);
        let later_fragment: &[u8] = &[6, 0, 0, 8, 0, 0, 0, 7];
        assert_eq!(Packet::parse(&v6(44, &chain(&[later_fragment]))), Err(NotRead::NotTcp));
        for (next, header, expected) in [
            (17, &[][..], NotRead::NotTcp),
            (59, &[], NotRead::NotTcp),
            (0, &[6, 255, 0, 0, 0, 0, 0, 0], NotRead::Malformed),
            (51, &[6, 255, 0, 0, 0, 0, 0, 0], NotRead::Malformed),
        ] {
            assert_eq!(Packet::parse(&v6(next, &chain(&[header]))), Err(expected), "{next}");
        }
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let good = v4(&segment(b""));
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Packet::parse(&bytes).map(|packet| packet.segment.data_bytes)
        };
        assert_eq!(with(0, 0x45), Ok(0));
        assert_eq!(with(0, 0x44), Err(NotRead::Malformed), "an IP header below 20 bytes");
        assert_eq!(with(0, 0x55), Err(NotRead::Malformed), "version 5");
        assert_eq!(with(3, 19), Err(NotRead::Malformed), "a total below the header");
        assert_eq!(with(3, 30), Err(NotRead::Malformed), "a TCP header beyond the total");
        assert_eq!(with(32, 4 << 4), Err(NotRead::Malformed), "a TCP header below 20 bytes");
        assert_eq!(with(32, 15 << 4), Err(NotRead::Malformed), "a TCP header beyond the packet");
        assert_eq!(with(9, 17), Err(NotRead::NotTcp));
        assert_eq!(with(7, 1), Err(NotRead::NotTcp), "not the first fragment");
    }

    #[test]
    fn our_requests_read_back_and_their_checksum_is_right() {
        let sockets = |a: &str, b: &str| -> (SocketAddr, SocketAddr) { (a.parse().unwrap(), b.parse().unwrap()) };
        for (source, destination) in
            [sockets("10.0.0.1:40000", "192.0.2.7:443"), sockets("[fd00::1]:40001", "[2001:db8::7]:80")]
        {
            for form in [Form::Standard, Form::Experimental] {
                let request = CookieRequest { source, destination, sequence: u32::MAX, flow_label: 0x00fe_dcba, form };
                for (bytes, sequence) in [(request.syn(), u32::MAX), (request.reset(), 0)] {
                    let segment = if source.is_ipv4() {
                        bytes.as_slice()
                    } else {
                        let packet = Packet::parse(&bytes).unwrap();
                        assert_eq!((packet.source_socket(), packet.destination_socket()), (source, destination));
                        assert_eq!(
                            bytes[..8],
                            [0x60, 0x0e, 0xdc, 0xba, 0, u8::try_from(bytes.len() - 40).unwrap(), 6, 64]
                        );
                        &bytes[40..]
                    };
                    assert_eq!(checksum(source.ip(), destination.ip(), segment), 0);
                    let read = Segment::parse(segment, segment.len()).unwrap();
                    assert_eq!((read.source_port, read.destination_port), (source.port(), destination.port()));
                    assert_eq!((read.sequence, read.data_bytes), (sequence, 0));
                    let asks = FastOpen::among(read.options) == Some(FastOpen { form, cookie: None });
                    assert_eq!((read.flags.is_syn(), asks), (sequence != 0, sequence != 0));
                }
            }
        }
    }

    #[test]
    fn the_checksum_is_the_internet_checksum() {
        // RFC 1071 section 3: the words 0001 f203 f4f5 f6f7 sum to ddf2; protocol 6 and length 8 come with the pseudo header.
        let zero = IpAddr::from([0, 0, 0, 0]);
        let sum = checksum(zero, zero, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum, !(0xddf2 + 6 + 8));
        assert_eq!(checksum(zero, zero, &[1]), !(0x0100 + 6 + 1), "an odd byte is a high one");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0..2_usize) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = [0x45, 0x60][version];
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.segment.options.len() <= 40);
            }
        }

        #[test]
        fn data_is_what_the_headers_say(data in 0..1400_usize) {
            prop_assert_eq!(Packet::parse(&v4(&segment(&vec![1; data]))).unwrap().segment.data_bytes, data);
        }
    }
}
