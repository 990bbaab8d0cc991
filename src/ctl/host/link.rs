//! Link layers: where the IP packet starts in a captured frame.  Pure.
//!
//! Numbers and formats: the tcpdump group's registry of link-layer header types.

use etherparse::{EtherType, SingleVlanSlice};

/// What a frame starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Ethernet, with or without VLAN tags.
    Ethernet,
    /// Linux cooked: `tcpdump -i any`, older.
    Cooked,
    /// Linux cooked version 2.
    Cooked2,
    /// BSD loopback: 4 bytes that name the family, in either byte order.
    Loopback,
    /// Nothing: the IP packet itself.
    Raw,
}

impl Link {
    /// The link layer with this number in a capture.
    #[must_use]
    pub const fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 | 108 => Self::Loopback,
            1 => Self::Ethernet,
            // 12 and 14 are what systems wrote before 101 was given.
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            113 => Self::Cooked,
            276 => Self::Cooked2,
            _ => return None,
        })
    }

    /// The IP packet in a frame; none if the frame carries something else or is cut off before it.
    #[must_use]
    pub fn ip_packet(self, frame: &[u8]) -> Option<&[u8]> {
        let (ether_type, mut rest) = match self {
            Self::Raw => return Some(frame),
            // The family's number depends on the capturing system; the packet has its own version field.
            Self::Loopback => return frame.get(4..),
            Self::Ethernet => (frame.get(12..14)?, frame.get(14..)?),
            // etherparse's reader refuses the hardware types of most tunnels.
            Self::Cooked => (frame.get(14..16)?, frame.get(16..)?),
            Self::Cooked2 => (frame.get(0..2)?, frame.get(20..)?),
        };
        let mut ether_type = EtherType(u16::from_be_bytes(ether_type.try_into().ok()?));
        loop {
            match ether_type {
                EtherType::IPV4 | EtherType::IPV6 => return Some(rest),
                // IEEE 802.1Q and 802.1ad, and 0x9100 that came before.
                EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING | EtherType::VLAN_DOUBLE_TAGGED_FRAME => {
                    let tag = SingleVlanSlice::from_slice(rest).ok()?;
                    (ether_type, rest) = (tag.ether_type(), tag.payload_slice());
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_is_found_behind_each_header() {
        let packet = [0x45, 1, 2];
        let with = |header: &[u8]| [header, &packet].concat();
        let mut cooked = vec![0; 16];
        cooked[14..].copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
        let mut cooked2 = vec![0; 20];
        cooked2[..2].copy_from_slice(&EtherType::IPV6.0.to_be_bytes());
        let ethernet = |types: &[u8]| [&[0; 12][..], types].concat();
        for (number, header) in [
            (1, ethernet(&[8, 0])),
            (1, ethernet(&[0x81, 0, 0, 7, 0x86, 0xdd])),
            (1, ethernet(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 8, 0])),
            (113, cooked.clone()),
            (276, cooked2.clone()),
            (0, vec![2, 0, 0, 0]),
            (108, vec![0, 0, 0, 24]),
            (101, vec![]),
        ] {
            let link = Link::of(number).unwrap();
            let frame = with(&header);
            assert_eq!(link.ip_packet(&frame), Some(&packet[..]), "{number}");
            for cut in 0..header.len() {
                assert_eq!(link.ip_packet(&frame[..cut]), None, "{number} {cut}");
            }
        }
    }

    #[test]
    fn other_protocols_and_endless_tags_carry_no_packet() {
        let arp = [&[0; 12][..], &[8, 6], &[0; 28]].concat();
        assert_eq!(Link::Ethernet.ip_packet(&arp), None);
        let tags = [&[0; 12][..], &[0x81, 0, 0, 1].repeat(1000)].concat();
        assert_eq!(Link::Ethernet.ip_packet(&tags), None);
        assert_eq!(Link::of(147), None);
    }
}
