//! Identity of a peer: the DNS names in the subjectAltName of its certificate, or, where a trust domain is configured, the
//! one SPIFFE ID there.
//!
//! The common name never counts (RFC 9525 section 2), nor does any field of a request.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::pem;
use super::spiffe::{BadId, Purpose, SpiffeId, TrustDomain};
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// Longest serial number in bytes (RFC 5280 section 4.1.2.2 says 20; some issue one more for the sign).
const SERIAL_BYTES_MAX: usize = 21;
/// The tag of a URI among the names (RFC 5280 section 4.2.1.6).
const URI_TAG: u32 = 6;

/// The peer of a connection, as its verified certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// SAN dNSNames, lower-cased, without those that are not a [`NodeId`], such as wildcards: in order, each once.  Not a set,
    /// which has room for eleven names in each of ten thousand peers.
    pub names: Box<[NodeId]>,
    /// What a SPIFFE ID is for; none for DNS names, which may be anything that the configuration says.
    pub purpose: Option<Purpose>,
    /// Why the certificate names no peer although it has a URI.
    pub bad_id: Option<BadId>,
    /// Serial number of the certificate.
    pub serial: Serial,
    /// Last second of the certificate's validity.
    pub not_after: UnixTime,
    /// The name of the authority that signed the certificate, DER.
    pub issuer: Vec<u8>,
}

/// A certificate's serial number.  Printed as openssl prints it: upper-case hex, whole bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

/// A certificate that cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate cannot be read")]
pub struct UnreadableCertificate;

/// How a certificate names its holder, as far as it is asked.
enum Asked<'a> {
    /// By DNS names alone.
    Dns,
    /// By DNS names, or by an ID of this domain.
    Domain(&'a TrustDomain),
    /// By DNS names, or, if there are none, by an ID of any domain: for the holder itself.
    Own,
}

impl Peer {
    /// Parses a certificate that is verified elsewhere; only DNS names count.
    ///
    /// # Errors
    /// Fails if it is not a certificate, or its subjectAltName is broken or occurs twice.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, UnreadableCertificate> {
        Self::read(certificate, Asked::Dns)
    }

    /// The same where certificates of a trust domain may name peers by their SPIFFE ID.  A certificate with a URI names its
    /// holder by this or not at all.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn within(
        certificate: &CertificateDer<'_>,
        domain: Option<&TrustDomain>,
    ) -> Result<Self, UnreadableCertificate> {
        Self::read(certificate, domain.map_or(Asked::Dns, Asked::Domain))
    }

    /// The holder as it sees itself, without knowing the trust domain of its server.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(super) fn own(certificate: &CertificateDer<'_>) -> Result<Self, UnreadableCertificate> {
        Self::read(certificate, Asked::Own)
    }

    /// Whether its names may be used for this.
    #[must_use]
    pub fn may_be(&self, purpose: Purpose) -> bool {
        self.purpose.is_none_or(|own| own == purpose)
    }

    fn read(certificate: &CertificateDer<'_>, asked: Asked<'_>) -> Result<Self, UnreadableCertificate> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| UnreadableCertificate)?;
        let names = certificate.subject_alternative_name().map_err(|_| UnreadableCertificate)?;
        let (mut dns, mut uris) = (Vec::new(), Vec::new());
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => dns.push(*name),
                GeneralName::URI(uri) => uris.push(*uri),
                // A URI that is not a text is not an ID, but it is a URI.
                GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => uris.push(""),
                _ => {}
            }
        }
        let names: BTreeSet<NodeId> = dns.iter().filter_map(|name| name.to_ascii_lowercase().parse().ok()).collect();
        let id = match asked {
            Asked::Domain(domain) => domain.id_among(&uris, &dns),
            Asked::Own if names.is_empty() => Ok(uris.first().and_then(|uri| SpiffeId::parse(uri))),
            Asked::Dns | Asked::Own => Ok(None),
        };
        let (names, purpose, bad_id) = match id {
            Ok(None) => (names.into_iter().collect(), None, None),
            Ok(Some(SpiffeId { name, purpose, .. })) => ([name].into(), Some(purpose), None),
            Err(bad) => (Box::default(), None, Some(bad)),
        };
        let serial = certificate.raw_serial();
        Ok(Self {
            names,
            purpose,
            bad_id,
            serial: Serial(serial.get(..SERIAL_BYTES_MAX).unwrap_or(serial).to_vec()),
            not_after: pem::unix(certificate.validity().not_after),
            issuer: certificate.issuer().as_raw().to_vec(),
        })
    }
}

/// The iPAddresses in the subjectAltName of a certificate, as far as they can be read.
pub(super) fn addresses_of(certificate: &CertificateDer<'_>) -> Vec<IpAddr> {
    let parsed = X509Certificate::from_der(certificate).ok().map(|(_, certificate)| certificate);
    let names = parsed.as_ref().and_then(|certificate| certificate.subject_alternative_name().ok().flatten());
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let addresses = names.filter_map(|name| match name {
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
        }
        _ => None,
    });
    addresses.collect()
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The zero in front of a number that would otherwise be negative is DER, not the number.
        let digits = match &*self.0 {
            [0, rest @ ..] if !rest.is_empty() => rest,
            all => all,
        };
        digits.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Display for Peer {
    /// The names, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names.iter().enumerate() {
            if index > 0 {
                f.write_char(',')?;
            }
            name.fmt(f)?;
        }
        Ok(())
    }
}
