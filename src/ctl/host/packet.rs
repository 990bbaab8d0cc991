//! Reads IP and TCP headers, and builds one kind of packet: the SYN that asks for a cookie.  Pure; no input panics.
//!
//! etherparse parses the headers.  A packet may be cut off (a capture keeps the first bytes of each packet) or forged, so its lax
//! parsers are used, and the length of the data comes from the headers, not from what was captured.

use std::net::{IpAddr, SocketAddr};

use etherparse::err::ip::LaxHeaderSliceError;
use etherparse::err::{LenError, ipv6_exts, tcp};
use etherparse::{
    IpHeaders, Ipv4Header, Ipv6ExtensionSlice, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header, LaxIpSlice, PacketBuilder,
    TcpHeader, TcpHeaderSlice, ip_number,
};

use super::tcp_option::{self, Form};

const FLOW_LABEL_MASK: u32 = 0x000f_ffff;

/// The default of Linux (ip-sysctl `hop_limit`).
const OUR_HOP_LIMIT: u8 = 64;

/// Window of our SYNs; no data is ever received.
const OUR_WINDOW_BYTES: u16 = 65_535;

/// Why bytes are not a readable TCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    /// The capture ends before the packet's TCP options do.
    #[error("cut off inside its headers")]
    Cut,
    /// Lengths that contradict each other, or neither IP version 4 nor 6.
    #[error("malformed")]
    Malformed,
    /// Something else, or a fragment without the TCP header.
    #[error("not TCP")]
    NotTcp,
}

impl NotRead {
    /// A header needs more bytes than were captured: the packet is cut if its `length` has room for them, otherwise malformed.
    const fn too_short(error: &LenError, length: usize) -> Self {
        if error.layer_start_offset + error.required_len > length { Self::Malformed } else { Self::Cut }
    }
}

/// A TCP header with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The header.
    pub header: TcpHeaderSlice<'a>,
    /// Bytes of data, captured or not.
    pub data_bytes: usize,
}

impl<'a> Segment<'a> {
    /// Reads a segment that has `length` bytes, of which `bytes` were captured.
    ///
    /// # Errors
    /// Fails if it is cut or malformed.
    pub fn parse(bytes: &'a [u8], length: usize) -> Result<Self, NotRead> {
        let header = TcpHeaderSlice::from_slice(bytes).map_err(|error| match error {
            tcp::HeaderSliceError::Len(error) => NotRead::too_short(&error, length),
            tcp::HeaderSliceError::Content(_) => NotRead::Malformed,
        })?;
        let data_bytes = length.checked_sub(header.slice().len()).ok_or(NotRead::Malformed)?;
        Ok(Self { header, data_bytes })
    }

    /// SYN, ACK, RST: the flags that matter here (RFC 9293 section 3.1).
    fn flags(&self) -> [bool; 3] {
        [self.header.syn(), self.header.ack(), self.header.rst()]
    }

    /// SYN without ACK.
    #[must_use]
    pub fn is_syn(&self) -> bool {
        self.flags() == [true, false, false]
    }

    /// SYN with ACK.
    #[must_use]
    pub fn is_syn_ack(&self) -> bool {
        self.flags() == [true, true, false]
    }

    /// RST that answers a packet: it has an acknowledgement.
    #[must_use]
    pub fn is_reset_answer(&self) -> bool {
        self.header.rst() && self.header.ack()
    }
}

/// A TCP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Address of the sender.
    pub source: IpAddr,
    /// Address of the receiver.
    pub destination: IpAddr,
    /// The TCP segment that it carries.
    pub segment: Segment<'a>,
}

impl<'a> Packet<'a> {
    /// Reads an IP packet of either version; bytes behind its end are padding.
    ///
    /// # Errors
    /// Fails if it is cut or malformed, or if it is not TCP.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NotRead> {
        let (ip, stopped) = LaxIpSlice::from_slice(bytes).map_err(|error| match error {
            LaxHeaderSliceError::Len(_) => NotRead::Cut,
            LaxHeaderSliceError::Content(_) => NotRead::Malformed,
        })?;
        let (header, length) = match &ip {
            LaxIpSlice::Ipv4(v4) => (v4.header().slice().len(), v4.header().total_len().into()),
            LaxIpSlice::Ipv6(v6) => match v6.header().payload_length() {
                0 => (Ipv6Header::LEN, 0),
                length => (Ipv6Header::LEN, Ipv6Header::LEN + usize::from(length)),
            },
        };
        // 0: segmentation in the network card, the capture has one packet that never was on the wire; or a jumbogram.
        let length = if length == 0 { bytes.len() } else { length };
        if length < header {
            return Err(NotRead::Malformed);
        }
        match stopped {
            Some((ipv6_exts::HeaderSliceError::Len(error), _)) => return Err(NotRead::too_short(&error, length)),
            Some((ipv6_exts::HeaderSliceError::Content(_), _)) => return Err(NotRead::Malformed),
            None => {}
        }
        let is_later_fragment = match &ip {
            LaxIpSlice::Ipv4(v4) => v4.header().fragments_offset().value() != 0,
            // Only after the check above: etherparse 0.21 walks extension headers without bounds checks, and leaves a list that it
            // stopped in.
            LaxIpSlice::Ipv6(v6) => v6.extensions().clone().into_iter().any(|extension| match extension {
                Ipv6ExtensionSlice::Fragment(fragment) => fragment.fragment_offset().value() != 0,
                _ => false,
            }),
        };
        if is_later_fragment || ip.payload_ip_number() != ip_number::TCP {
            return Err(NotRead::NotTcp);
        }
        let body = ip.payload().payload;
        let segment = Segment::parse(body, body.len() + length.saturating_sub(bytes.len()))?;
        Ok(Self { source: ip.source_addr(), destination: ip.destination_addr(), segment })
    }
}

/// A SYN that asks for a cookie and carries no data, so it occupies no place in the server's TFO queue (docs/kernel.md#client-side).
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
    /// Form of the Fast Open option.
    pub form: Form,
}

impl CookieRequest {
    /// The packet as a raw socket takes it: IPv6 with its header, IPv4 without, because the kernel writes that one.
    #[must_use]
    pub fn syn(&self) -> Vec<u8> {
        let mut header = self.header(self.sequence);
        header.syn = true;
        header.set_options_raw(&tcp_option::cookie_request(self.form)).expect("our options are 8 bytes");
        self.packet(header)
    }

    /// The RST that answers a SYN/ACK and ends the half-open connection at the server.
    ///
    /// The kernel sends a RST too, but over IPv6 with another flow label, so a balancer may send that one to another node.
    #[must_use]
    pub fn reset(&self) -> Vec<u8> {
        let mut header = self.header(self.sequence.wrapping_add(1));
        header.rst = true;
        self.packet(header)
    }

    fn header(&self, sequence: u32) -> TcpHeader {
        TcpHeader::new(self.source.port(), self.destination.port(), sequence, OUR_WINDOW_BYTES)
    }

    fn packet(&self, segment: TcpHeader) -> Vec<u8> {
        let (builder, left_out) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (PacketBuilder::ipv4(source.octets(), destination.octets(), OUR_HOP_LIMIT), Ipv4Header::MIN_LEN)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    flow_label: Ipv6FlowLabel::try_new(self.flow_label & FLOW_LABEL_MASK).expect("20 bits"),
                    hop_limit: OUR_HOP_LIMIT,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                (PacketBuilder::ip(IpHeaders::Ipv6(header, Ipv6Extensions::default())), 0)
            }
            _ => unreachable!("both ends are of one family"),
        };
        let mut packet = Vec::new();
        builder.tcp_header(segment).write(&mut packet, &[]).expect("a vector takes headers without data");
        packet.split_off(left_out)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

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
            // The padding of a short Ethernet frame does not count as data.
            let padded = [bytes.as_slice(), &[0; 6]].concat();
            for bytes in [&bytes, &padded] {
                let packet = Packet::parse(bytes).unwrap();
                let Segment { header, data_bytes } = &packet.segment;
                assert_eq!(SocketAddr::from((packet.source, header.source_port())).to_string(), source);
                assert_eq!(header.destination_port(), 80);
                assert_eq!((header.sequence_number(), header.acknowledgment_number()), (0x0102_0304, 0x0506_0708));
                assert_eq!((header.options(), *data_bytes), (&OPTIONS[..], 5));
                let segment = &packet.segment;
                assert!(segment.is_syn_ack() && !segment.is_syn() && !segment.is_reset_answer());
            }
            // Cut inside the data, everything is known; cut before the end of the options, the packet is reported as cut.
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
        assert_eq!(Packet::parse(&bytes).unwrap().segment.header.options(), OPTIONS);
        let later_fragment: &[u8] = &[6, 0, 0, 8, 0, 0, 0, 7];
        assert_eq!(Packet::parse(&v6(44, &chain(&[later_fragment]))), Err(NotRead::NotTcp));
        for (next, header, expected) in [
            (17, &[][..], NotRead::NotTcp),
            (59, &[], NotRead::NotTcp),
            (0, &[6, 255, 0, 0, 0, 0, 0, 0], NotRead::Malformed),
            (51, &[6, 255, 0, 0, 0, 0, 0, 0], NotRead::Malformed),
            (60, &[43, 0, 0, 0, 0, 0, 0, 0, 6, 255, 0, 0, 0, 0, 0, 0], NotRead::Malformed),
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

    /// The words of pseudo header and segment, which a right checksum sums to ones (RFC 1071, RFC 9293 section 3.1).
    fn sum(source: IpAddr, destination: IpAddr, segment: &[u8]) -> u32 {
        let octets = |address| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let bytes = [octets(source), octets(destination), segment.to_vec()].concat();
        let words = bytes.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
        let sum = words.sum::<u32>() + 6 + u32::try_from(segment.len()).unwrap();
        (sum & 0xffff) + (sum >> 16)
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
                        assert_eq!((packet.source, packet.destination), (source.ip(), destination.ip()));
                        assert_eq!(
                            bytes[..8],
                            [0x60, 0x0e, 0xdc, 0xba, 0, u8::try_from(bytes.len() - 40).unwrap(), 6, 64]
                        );
                        &bytes[40..]
                    };
                    assert_eq!(sum(source.ip(), destination.ip(), segment), 0xffff);
                    let read = Segment::parse(segment, segment.len()).unwrap();
                    let header = &read.header;
                    assert_eq!((header.source_port(), header.destination_port()), (source.port(), destination.port()));
                    assert_eq!((header.sequence_number(), read.data_bytes), (sequence, 0));
                    let asks = FastOpen::among(header.options()) == Some(FastOpen { form, cookie: None });
                    assert_eq!((read.is_syn(), asks), (sequence != 0, sequence != 0));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0..2_usize) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = [0x45, 0x60][version];
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.segment.header.options().len() <= 40);
            }
        }

        #[test]
        fn the_length_of_the_data_is_that_of_the_headers(data in 0..1400_usize) {
            prop_assert_eq!(Packet::parse(&v4(&segment(&vec![1; data]))).unwrap().segment.data_bytes, data);
        }
    }
}
