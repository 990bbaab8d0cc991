//! The TCP Fast Open content of one packet, as a line of text or JSON.  Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::host::key_ring::{KeyRing, Slot};
use crate::host::packet::{Packet, Segment};
use crate::host::pcap::CapturedAt;
use crate::host::tcp_option::FastOpen;
use tfo_model::key::KeyFingerprint;
use tfo_model::named_enum;

named_enum! {
    /// Role of the packet in Fast Open.
    enum Kind {
        /// A SYN that asks for a cookie.
        Request = "request",
        /// A SYN with a cookie.
        Cookie = "cookie",
        /// A SYN/ACK with a cookie.
        Grant = "grant",
        /// A cookie of a length that RFC 7413 forbids, or a SYN/ACK with the option and no cookie.
        Invalid = "invalid",
    }
}

/// A packet with a Fast Open option.  Wire v1: a line of `sniff --format json`.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    #[serde(serialize_with = "as_time")]
    at: CapturedAt,
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    kind: Kind,
    /// Kind of the TCP option: 34 or 254.
    option: u8,
    cookie: Option<String>,
    /// Bytes of data in the packet, captured or not.
    data_bytes: usize,
    /// `primary`, `backup` or `neither`; null without a cookie, and without keys to compare it with.
    key: Option<&'static str>,
    fingerprint: Option<KeyFingerprint>,
}

fn as_time<S: Serializer>(at: &CapturedAt, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time(*at))
}

/// RFC 3339 in Z with microseconds.  An impossible time in a file is shown as the last representable one.
fn time(at: CapturedAt) -> impl fmt::Display {
    let instant = |secs, nanos| Timestamp::new(secs, nanos).ok();
    let known = i64::try_from(at.secs).ok().zip(i32::try_from(at.nanos).ok());
    let instant = known.and_then(|(secs, nanos)| instant(secs, nanos)).unwrap_or(Timestamp::MAX);
    format!("{instant:.6}")
}

impl Event {
    /// None if the packet is neither SYN nor SYN/ACK, or has no Fast Open option.
    pub(super) fn of(at: CapturedAt, packet: &Packet<'_>, keys: &KeyRing) -> Option<Self> {
        let Segment { header, data_bytes } = &packet.segment;
        let (syn, syn_ack) = (packet.segment.is_syn(), packet.segment.is_syn_ack());
        let FastOpen { form, cookie } = FastOpen::among(header.options()).filter(|_| syn || syn_ack)?;
        let kind = match cookie {
            Some(cookie) if !cookie.is_lawful() => Kind::Invalid,
            Some(_) if syn => Kind::Cookie,
            Some(_) => Kind::Grant,
            None if syn => Kind::Request,
            None => Kind::Invalid,
        };
        let (client, server) =
            if syn { (packet.source, packet.destination) } else { (packet.destination, packet.source) };
        let maker = cookie.filter(|_| !keys.is_empty()).map(|cookie| keys.maker(&cookie, client, server));
        let key = maker.map(|maker| maker.map_or("neither", |name| name.slot.as_str()));
        let fingerprint = maker.flatten().map(|name| name.fingerprint);
        Some(Self {
            at,
            source: packet.source,
            source_port: header.source_port(),
            destination: packet.destination,
            destination_port: header.destination_port(),
            kind,
            option: form.kind(),
            cookie: cookie.map(|cookie| cookie.to_string()),
            data_bytes: *data_bytes,
            key,
            fingerprint,
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = SocketAddr::from((self.source, self.source_port));
        let destination = SocketAddr::from((self.destination, self.destination_port));
        write!(f, "{}  {source} > {destination}  {:7}", time(self.at), self.kind)?;
        if let Some(cookie) = &self.cookie {
            write!(f, "  {cookie}")?;
        }
        if self.data_bytes > 0 {
            write!(f, "  + {} bytes", self.data_bytes)?;
        }
        match (self.key, self.fingerprint) {
            (Some(key), Some(fingerprint)) => write!(f, "  {key} {fingerprint}")?,
            (Some(key), None) => write!(f, "  {key}")?,
            (None, _) => {}
        }
        if self.option == 34 { Ok(()) } else { write!(f, "  option {}", self.option) }
    }
}

/// Totals.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    packets: u64,
    requests: u64,
    cookies: u64,
    grants: u64,
    invalid: u64,
    /// Cookies, in SYNs and SYN/ACKs, by the key that made them.
    primary: u64,
    backup: u64,
    neither: u64,
    /// Packets whose capture ends before their options do.
    pub(super) cut: u64,
    /// Packets that the kernel dropped because the buffer was full.
    pub(super) dropped: u64,
}

impl Summary {
    pub(super) fn add(&mut self, event: &Event) {
        self.packets += 1;
        *match event.kind {
            Kind::Request => &mut self.requests,
            Kind::Cookie => &mut self.cookies,
            Kind::Grant => &mut self.grants,
            Kind::Invalid => &mut self.invalid,
        } += 1;
        match event.key {
            Some(key) if key == Slot::Primary.as_str() => self.primary += 1,
            Some(key) if key == Slot::Backup.as_str() => self.backup += 1,
            Some(_) => self.neither += 1,
            None => {}
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packets, requests, cookies, grants, invalid, .. } = self;
        write!(
            f,
            "{packets} packets: {requests} requests, {cookies} with a cookie, {grants} grants, {invalid} invalid"
        )?;
        if self.primary + self.backup + self.neither > 0 {
            let Self { primary, backup, neither, .. } = self;
            write!(f, "; made by primary {primary}, backup {backup}, neither {neither}")?;
        }
        if self.cut > 0 {
            write!(f, "; {} captured too short", self.cut)?;
        }
        if self.dropped > 0 {
            write!(f, "; {} LOST: the kernel's buffer was full", self.dropped)?;
        }
        Ok(())
    }
}

/// A line of output.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    /// The last line: `{"summary":{…}}`.
    Summary(&'a Summary),
    /// A packet.
    #[serde(untagged)]
    Event(&'a Event),
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(event) => event.fmt(f),
            Self::Summary(summary) => summary.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::packet::CookieRequest;
    use crate::host::tcp_option::Form;

    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;

    /// A segment with these flags, options and data bytes.
    fn segment(flags: u8, options: &[u8], data: usize) -> Vec<u8> {
        let words = u8::try_from(5 + options.len() / 4).unwrap();
        let mut bytes = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, words << 4, flags, 0, 0, 0, 0, 0, 0];
        bytes.extend(options);
        bytes.extend(vec![0; data]);
        bytes
    }

    fn event(bytes: &[u8], keys: &KeyRing) -> Option<Event> {
        let (source, destination) = ("10.77.1.1".parse().unwrap(), "10.77.1.2".parse().unwrap());
        let packet = Packet { source, destination, segment: Segment::parse(bytes, bytes.len()).unwrap() };
        Event::of(CapturedAt { secs: 1_800_000_000, nanos: 123_456_789 }, &packet, keys)
    }

    fn ring() -> (tempfile::TempDir, KeyRing) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, "13121110-17161514-1b1a1918-1f1e1d1c,00000001-00000002-00000003-00000004").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        let ring = KeyRing::from_files(&[path]).unwrap();
        (dir, ring)
    }

    /// An option with the cookie that the ring's first or second key gives 10.77.1.1 at 10.77.1.2.
    fn made_by(text: &str) -> Vec<u8> {
        use tfo_model::cookie::Cookie;
        let keys = tfo_model::key_text::parse(text.as_bytes()).unwrap();
        let cookie = Cookie::of(keys.primary(), "10.77.1.1".parse().unwrap(), "10.77.1.2".parse().unwrap());
        [&[1, 1, 34, 10][..], cookie.unwrap().as_bytes()].concat()
    }

    #[test]
    fn each_packet_is_named_and_its_key_too() {
        let (_dir, keys) = ring();
        let primary = made_by("13121110-17161514-1b1a1918-1f1e1d1c");
        let backup = made_by("00000001-00000002-00000003-00000004");
        let other = made_by("00000005-00000002-00000003-00000004");
        let odd = [34, 7, 1, 2, 3, 4, 5, 0];
        let address = |text: &str| text.parse().unwrap();
        let request = CookieRequest {
            source: address("10.77.1.1:40000"),
            destination: address("10.77.1.2:80"),
            sequence: 1,
            flow_label: 0,
            form: Form::Experimental,
        };
        let packets = [
            segment(SYN, &[1, 1, 34, 2], 0),
            request.syn(),
            segment(SYN, &primary, 5),
            segment(SYN, &backup, 0),
            segment(SYN, &other, 1400),
            segment(SYN, &odd, 1),
            segment(SYN_ACK, &[1, 1, 34, 2], 0),
        ];
        let events: Vec<Event> = packets.iter().map(|bytes| event(bytes, &keys).unwrap()).collect();
        let mut summary = Summary::default();
        events.iter().for_each(|event| summary.add(event));
        let lines: Vec<Line<'_>> = events.iter().map(Line::Event).chain([Line::Summary(&summary)]).collect();
        insta::assert_json_snapshot!(lines);
        let text: Vec<String> = lines.iter().map(Line::to_string).collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    #[test]
    fn a_grant_is_for_the_receiver() {
        let (_dir, keys) = ring();
        // The addresses of `event` are those of a SYN: in a SYN/ACK the client is the receiver.
        let wrong_way = event(&segment(SYN_ACK, &made_by("13121110-17161514-1b1a1918-1f1e1d1c"), 0), &keys).unwrap();
        assert_eq!((wrong_way.kind, wrong_way.key), (Kind::Grant, Some("neither")));
        let bytes = segment(SYN_ACK, &made_by("13121110-17161514-1b1a1918-1f1e1d1c"), 0);
        let (source, destination) = ("10.77.1.2".parse().unwrap(), "10.77.1.1".parse().unwrap());
        let packet = Packet { source, destination, segment: Segment::parse(&bytes, bytes.len()).unwrap() };
        let right_way = Event::of(CapturedAt::default(), &packet, &keys).unwrap();
        assert_eq!((right_way.kind, right_way.key), (Kind::Grant, Some("primary")));
    }

    #[test]
    fn everything_else_is_left_out() {
        let keys = KeyRing::default();
        for (flags, options) in
            [(SYN, &[2, 4, 5, 180][..]), (0x10, &[1, 1, 34, 2]), (0x04, &[1, 1, 34, 2]), (0x06, &[1, 1, 34, 2])]
        {
            assert!(event(&segment(flags, options, 0), &keys).is_none(), "{flags} {options:?}");
        }
        let without_keys = event(&segment(SYN, &made_by("00000005-00000002-00000003-00000004"), 0), &keys).unwrap();
        assert_eq!((without_keys.kind, without_keys.key), (Kind::Cookie, None));
    }

    #[test]
    fn an_impossible_time_does_not_panic() {
        for secs in [0, u64::MAX, 1 << 40] {
            let at = CapturedAt { secs, nanos: 999_999_999 };
            assert!(time(at).to_string().ends_with('Z'));
        }
    }
}
