//! SPIFFE IDs: which URI in a certificate names a peer of this fleet, and what for.
//!
//! `spiffe://TRUST-DOMAIN/tfo/PURPOSE/NAME`.  The first segment keeps the IDs of other workloads of the domain away.  The
//! purpose is in the ID because an authority of workloads gives each what its registration says: who may register nodes
//! must not be able to register operators by a choice of name.  The name is one segment, a DNS name as in other
//! certificates, so that patterns, lists and logs are the same for both.  Must not know: what a purpose allows.

use std::fmt;
use std::str::FromStr;

use tfo_model::ids::NodeId;

/// Longest trust domain in bytes (SPIFFE-ID, section 2.1).
const DOMAIN_BYTES_MAX: usize = 255;
/// How every ID begins.  Upper case is not an ID (SPIFFE-ID, section 2: exact comparison).
const SCHEME: &str = "spiffe://";
/// The first segment of each ID of a fleet.
const FLEET: &str = "tfo";

/// The part of SPIFFE IDs whose authority is trusted: lower-case letters, digits, ".", "-" and "_".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain(Box<str>);

/// A text that is not a trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write the trust domain alone, without spiffe:// and path: 1 to 255 characters of a-z, 0-9, \".\", \"-\" and \"_\""
)]
pub struct BadTrustDomain;

/// What the holder of an ID may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An agent.
    Node,
    /// May command.
    Operator,
    /// May only look.
    Viewer,
    /// The server.
    Coordinator,
}

/// Why a certificate with a URI names no peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// A certificate of SPIFFE has one (X509-SVID, section 2), so another reader could choose the other one.
    #[error("has more than one URI")]
    Several,
    /// Not the form of the IDs of a fleet.
    #[error(
        "has a URI that is not spiffe://TRUST-DOMAIN/tfo/PURPOSE/NAME (node, operator, viewer or coordinator, and a DNS name)"
    )]
    Form,
    /// Another domain's.
    #[error("has a SPIFFE ID of another trust domain")]
    Domain,
    /// It has a DNS name that is not the name in the ID.
    #[error("has a DNS name that is not the name in its SPIFFE ID")]
    Disagrees,
}

/// An ID of a fleet, in whatever trust domain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SpiffeId {
    domain: TrustDomain,
    pub(super) purpose: Purpose,
    pub(super) name: NodeId,
}

impl TrustDomain {
    /// The domain.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one ID among the URIs of a certificate, if it has any; `dns` are all its DNS names, as they are written.
    ///
    /// # Errors
    /// Fails if the URIs are not one ID of this domain, or the DNS names are not its name.
    pub(super) fn id_among(&self, uris: &[&str], dns: &[&str]) -> Result<Option<SpiffeId>, BadId> {
        let uri = match uris {
            [] => return Ok(None),
            [one] => one,
            _ => return Err(BadId::Several),
        };
        let id = SpiffeId::parse(uri).ok_or(BadId::Form)?;
        if id.domain != *self {
            return Err(BadId::Domain);
        }
        if dns.iter().any(|dns| !dns.eq_ignore_ascii_case(id.name.as_str())) {
            return Err(BadId::Disagrees);
        }
        Ok(Some(id))
    }
}

impl FromStr for TrustDomain {
    type Err = BadTrustDomain;

    fn from_str(text: &str) -> Result<Self, BadTrustDomain> {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let is_good = (1..=DOMAIN_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed);
        if is_good { Ok(Self(text.into())) } else { Err(BadTrustDomain) }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SpiffeId {
    /// Exactly the form of a fleet: no port, user, query, fragment, escape, empty or further segment, all of which the
    /// characters of the parts exclude.
    pub(super) fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let domain = parts.next()?.parse().ok()?;
        if parts.next()? != FLEET {
            return None;
        }
        let purpose = match parts.next()? {
            "node" => Purpose::Node,
            "operator" => Purpose::Operator,
            "viewer" => Purpose::Viewer,
            "coordinator" => Purpose::Coordinator,
            _ => return None,
        };
        let name = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Self { domain, purpose, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "cp1.example.org";

    fn among(uris: &[&str], dns: &[&str]) -> Result<Option<(Purpose, String)>, BadId> {
        let domain: TrustDomain = "fleet.example.org".parse().unwrap();
        let found = domain.id_among(uris, dns)?;
        Ok(found.map(|id| (id.purpose, id.name.to_string())))
    }

    #[test]
    fn one_id_of_the_domain_is_one_name_for_one_purpose() {
        assert_eq!(among(&[], &[HOST]), Ok(None));
        for (segment, purpose) in [
            ("node", Purpose::Node),
            ("operator", Purpose::Operator),
            ("viewer", Purpose::Viewer),
            ("coordinator", Purpose::Coordinator),
        ] {
            let uri = format!("spiffe://fleet.example.org/tfo/{segment}/{HOST}");
            for dns in [&[][..], &[HOST], &["CP1.example.org"], &[HOST, HOST]] {
                assert_eq!(among(&[&uri], dns), Ok(Some((purpose, HOST.to_owned()))), "{uri} {dns:?}");
            }
            for dns in
                [&["cp2.example.org"][..], &[HOST, "cp2.example.org"], &["*.example.org"], &[""], &["cp1.example.org."]]
            {
                assert_eq!(among(&[&uri], dns), Err(BadId::Disagrees), "{uri} {dns:?}");
            }
            assert_eq!(among(&[&uri, &uri], &[]), Err(BadId::Several));
            assert_eq!(among(&["https://example.org/", &uri], &[]), Err(BadId::Several));
        }
        for other in
            ["example.org", "fleet.example.org.", "xfleet.example.org", "fleet-example.org", "fleet.example.com"]
        {
            assert_eq!(among(&[&format!("spiffe://{other}/tfo/node/{HOST}")], &[]), Err(BadId::Domain), "{other}");
        }
    }

    #[test]
    fn nothing_but_the_form_is_an_id() {
        let good = format!("spiffe://fleet.example.org/tfo/node/{HOST}");
        assert!(SpiffeId::parse(&good).is_some());
        let odd = [
            ("spiffe:", "SPIFFE:"),
            ("spiffe:", "Spiffe:"),
            ("spiffe:", "https:"),
            ("spiffe://", "spiffe:/"),
            ("spiffe://", "spiffe:///"),
            ("spiffe://", " spiffe://"),
            ("fleet.example.org", ""),
            ("fleet.example.org", "Fleet.example.org"),
            ("fleet.example.org", "fleet.example.org:443"),
            ("fleet.example.org", "root@fleet.example.org"),
            ("fleet.example.org", "fleet%2eexample.org"),
            ("fleet.example.org", "flo\u{df}.example.org"),
            ("/tfo/", "/TFO/"),
            ("/tfo/", "/other/"),
            ("/tfo/", "//tfo/"),
            ("/tfo/", "/tfo//"),
            ("/tfo/", "/./tfo/"),
            ("/tfo/", "/x/../tfo/"),
            ("/tfo/", "/ns/tfo/"),
            ("/node/", "/nodes/"),
            ("/node/", "/Node/"),
            ("/node/", "/"),
            ("/node/", "//"),
            ("cp1", "cp1/x"),
            ("cp1", "../cp1"),
            ("cp1", "CP1"),
            ("cp1", "cp%31"),
            ("cp1", "*"),
            ("cp1", "c\u{0}p1"),
            ("cp1", "cp1\n"),
            ("cp1.example.org", ""),
            ("cp1.example.org", "cp1.example.org/"),
            ("cp1.example.org", "cp1.example.org."),
            ("cp1.example.org", "cp1.example.org?x"),
            ("cp1.example.org", "cp1.example.org#x"),
            ("cp1.example.org", "cp1.example.org,ops1.example.org"),
        ];
        for (part, other) in odd {
            let uri = good.replacen(part, other, 1);
            assert_ne!(uri, good);
            assert_eq!(SpiffeId::parse(&uri), None, "{uri:?}");
            assert_eq!(among(&[&uri], &[HOST]), Err(BadId::Form), "{uri:?}");
        }
        let long = format!("spiffe://{}/tfo/node/{HOST}", "d".repeat(256));
        assert_eq!(SpiffeId::parse(&long), None);
    }

    #[test]
    fn a_trust_domain_is_written_alone() {
        for good in ["example.org", "fleet", "a_b-c.9", &"d".repeat(255)] {
            assert_eq!(good.parse::<TrustDomain>().unwrap().as_str(), good);
        }
        for bad in ["", "Example.org", "spiffe://example.org", "example.org/", "example.org:1", "a b", &"d".repeat(256)]
        {
            assert_eq!(bad.parse::<TrustDomain>(), Err(BadTrustDomain), "{bad}");
        }
    }
}
