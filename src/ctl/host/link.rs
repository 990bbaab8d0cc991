//! Link layers: where the IP packet starts in a captured frame.  Pure.
//!
//! Numbers and formats: the tcpdump group's registry of link-layer header types.

/// What a frame starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Ethernet, with or without VLAN tags.
    Ethernet,
    /// Linux cooked: `tcpdump -i any`, older.
    Cooked,
    /// Linux cooked version 2.
    Cooked2,
    /// BSD loopback: 4 bytes that name the family, in one or the other byte order.
    Loopback,
    /// Nothing: the IP packet itself.
    Raw,
}

/// Tags of one frame that are skipped: a bound, above what provider bridges use.
const VLAN_TAGS_MAX: usize = 4;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

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

    /// The IP packet in a frame; none if it carries something else, or is cut before.
    #[must_use]
    pub fn ip_packet(self, frame: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Raw => Some(frame),
            // The family's number is that of the system that captured; the packet says its version itself.
            Self::Loopback => frame.get(4..),
            Self::Ethernet => skip_tags(frame.get(12..14)?, frame.get(14..)?),
            Self::Cooked => skip_tags(frame.get(14..16)?, frame.get(16..)?),
            Self::Cooked2 => skip_tags(frame.get(0..2)?, frame.get(20..)?),
        }
    }
}

/// Goes over VLAN tags (IEEE 802.1Q and 802.1ad, and 0x9100 that came before) to IP.
fn skip_tags<'a>(mut ethertype: &'a [u8], mut rest: &'a [u8]) -> Option<&'a [u8]> {
    for _ in 0..=VLAN_TAGS_MAX {
        match ethertype.try_into().ok()? {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => return Some(rest),
            [0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00] => (ethertype, rest) = (rest.get(2..4)?, rest.get(4..)?),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_is_found_behind_each_header() {
        let packet = [0x45, 1, 2];
        let with = |header: &[u8]| [header, &packet].concat();
        let mut cooked = vec![0; 16];
        cooked[14..].copy_from_slice(&ETHERTYPE_IPV4);
        let mut cooked2 = vec![0; 20];
        cooked2[..2].copy_from_slice(&ETHERTYPE_IPV6);
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
