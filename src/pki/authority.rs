//! The certificate authority of a fleet: its key, the certificates it signs, its revocation list.
//!
//! Must not know: where files lie, what was issued before.  Times are arguments.  The private key is wiped on drop.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, NameConstraints,
    RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use super::key::SigningKey;
use super::pem;
use super::role::Role;
use super::serial;
use tfo_crypto::random;
use tfo_model::ids::NodeId;
use tfo_model::serial::SerialNumber as Serial;
use tfo_model::time::UnixTime;

/// How far back a certificate's life begins, in seconds: a node whose clock is up to an hour behind accepts a new one.
pub(crate) const BACKDATE_SECS: u64 = 3_600;
/// Longest common name (RFC 5280 appendix A.1, ub-common-name).
const COMMON_NAME_CHARS_MAX: usize = 64;

/// rcgen's type for an instant, from a crate that we need for nothing else and so cannot name.
macro_rules! offset {
    ($at:expr) => {
        date_time_ymd(1970, 1, 1) + Duration::from_secs($at.secs())
    };
}

/// A failure of the authority's own files or signatures.  Never quotes key material.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The key of a certificate request cannot be put into a certificate.
    #[error("not a public key that a certificate can have")]
    PublicKey,
    /// A file has a revocation list that cannot be read.
    #[error("not a PEM revocation list")]
    List,
    /// ca.crt is not a certificate.
    #[error("not a PEM certificate of a certificate authority")]
    Certificate,
    /// ca.key is not a private key.
    #[error("not a PEM private key (PKCS#8)")]
    Key,
    /// The two do not belong together.
    #[error("not the private key of ca.crt")]
    Mismatch,
    /// rcgen failed.
    #[error("cannot sign")]
    Sign(#[from] rcgen::Error),
    /// No randomness for a name or a serial number.
    #[error(transparent)]
    NoRandomness(#[from] random::NoRandomness),
}

/// Validity of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Start.
    pub not_before: UnixTime,
    /// End.
    pub not_after: UnixTime,
}

impl Lifetime {
    /// This many days from now; starts a little earlier.
    #[must_use]
    pub const fn days(now: UnixTime, days: u32) -> Self {
        Self { not_before: now.minus(BACKDATE_SECS), not_after: now.plus(days as u64 * 86_400) }
    }

    /// This many seconds from now; starts a little earlier.
    #[must_use]
    pub const fn seconds(now: UnixTime, secs: u64) -> Self {
        Self { not_before: now.minus(BACKDATE_SECS), not_after: now.plus(secs) }
    }

    /// The part of it that lies in `outer`.
    #[must_use]
    pub fn within(self, outer: Self) -> Self {
        Self { not_before: self.not_before.max(outer.not_before), not_after: self.not_after.min(outer.not_after) }
    }
}

/// A new certificate and its private key, as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: Zeroizing<String>,
}

/// Content of a new certificate.
pub struct Subject<'a> {
    /// Rights of its holder.
    pub role: Role,
    /// The dNSName.
    pub name: &'a NodeId,
    /// The iPAddresses.
    pub addresses: &'a [IpAddr],
    /// Serial number.
    pub serial: Serial,
    /// Its validity.
    pub lifetime: Lifetime,
}

/// A revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revoked {
    /// Its serial number, big-endian: also of a certificate that another program of this authority has issued.
    pub serial: Vec<u8>,
    /// Time of the revocation.
    pub at: UnixTime,
}

impl Revoked {
    /// One that we have issued.
    #[must_use]
    pub fn new(serial: &Serial, at: UnixTime) -> Self {
        Self { serial: serial.as_bytes().to_vec(), at }
    }
}

/// The authority, able to sign.
pub struct Authority {
    issuer: Issuer<'static, SigningKey>,
    der: CertificateDer<'static>,
    lifetime: Lifetime,
    domains: Vec<String>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// Makes a new authority: its certificate and its key.  With `domains` it can only issue names in these domains.
///
/// # Errors
/// Fails without randomness.
pub fn make(now: UnixTime, days: u32, domains: &[NodeId]) -> Result<Issued, AuthorityError> {
    let lifetime = Lifetime::days(now, days);
    let mut nonce = [0; 4];
    random::fill(&mut nonce)?;
    let mut name = DistinguishedName::new();
    // Two authorities, as there are while one replaces the other, must not share a name: clients build chains by name.
    let date = now.to_string().chars().take(10).collect::<String>();
    name.push(DnType::CommonName, format!("tfo-fleet CA {date} {:08x}", u32::from_be_bytes(nonce)));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    set_lifetime(&mut params, lifetime);
    params.serial_number = Some(serial_number(serial::fresh()?.as_bytes()));
    // It signs certificates of hosts and people, but no other authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = (!domains.is_empty()).then(|| NameConstraints {
        permitted_subtrees: domains.iter().map(|domain| GeneralSubtree::DnsName(domain.to_string())).collect(),
        excluded_subtrees: Vec::new(),
    });
    let key = SigningKey::fresh()?;
    let certificate = params.self_signed(&key)?;
    Ok(Issued { certificate: certificate.pem(), key: key.pem() })
}

impl Authority {
    /// Reads the texts of ca.crt and ca.key.
    ///
    /// # Errors
    /// Fails if one of them is not what it should be, or if they do not belong together.
    pub fn read(certificate: &str, key: &[u8]) -> Result<Self, AuthorityError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| AuthorityError::Certificate)?;
        let facts = read_facts(&der)?;
        let key = SigningKey::read(key)?;
        if key.point() != facts.public_key {
            return Err(AuthorityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| AuthorityError::Certificate)?;
        Ok(Self { issuer, der: der.into_owned(), lifetime: facts.lifetime, domains: facts.domains })
    }

    /// Validity of its own certificate.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// Whether it can issue a certificate for this name.
    #[must_use]
    pub fn may_name(&self, name: &NodeId) -> bool {
        let inside = |domain: &String| {
            name.as_str().strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.domains.is_empty() || self.domains.iter().any(inside)
    }

    /// The domains that it is limited to; empty for no limit.
    #[must_use]
    pub fn domains(&self) -> &[String] {
        &self.domains
    }

    /// Its own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The same, PEM: nothing else that its file may hold, such as the key.
    #[must_use]
    pub fn certificate_text(&self) -> String {
        pem::text("CERTIFICATE", &self.der)
    }

    /// Whether it has signed this certificate, DER.
    #[must_use]
    pub fn has_signed(&self, certificate: &CertificateDer<'_>) -> bool {
        let parse = |der| x509_parser::parse_x509_certificate(der).map(|(_, parsed)| parsed);
        let (Ok(one), Ok(own)) = (parse(certificate), parse(&self.der)) else { return false };
        one.issuer().as_raw() == own.subject().as_raw() && one.verify_signature(Some(own.public_key())).is_ok()
    }

    /// A certificate with a fresh key.
    ///
    /// # Errors
    /// Fails if nothing can be signed.
    pub fn issue(&self, subject: &Subject<'_>) -> Result<Issued, AuthorityError> {
        let key = SigningKey::fresh()?;
        let certificate = params_of(subject)?.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.pem() })
    }

    /// A certificate, PEM, for the key of a host that keeps it: `public_key` is its `SubjectPublicKeyInfo`, DER.
    ///
    /// # Errors
    /// Fails if that is not a key that a certificate can have, or if nothing can be signed.
    pub fn certify(&self, subject: &Subject<'_>, public_key: &[u8]) -> Result<String, AuthorityError> {
        let key = SubjectPublicKeyInfo::from_der(public_key).map_err(|_| AuthorityError::PublicKey)?;
        Ok(params_of(subject)?.signed_by(&key, &self.issuer)?.pem())
    }

    /// The revocation list, PEM.  `number` rises with every list.
    ///
    /// # Errors
    /// Fails if nothing can be signed.
    pub fn revocation_list(
        &self,
        number: u64,
        lifetime: Lifetime,
        revoked: &[Revoked],
    ) -> Result<String, AuthorityError> {
        let list = CertificateRevocationListParams {
            this_update: offset!(lifetime.not_before),
            next_update: offset!(lifetime.not_after),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|one| RevokedCertParams {
                    serial_number: serial_number(&one.serial),
                    revocation_time: offset!(one.at),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

/// Content of ca.crt.
struct Facts {
    public_key: Vec<u8>,
    lifetime: Lifetime,
    domains: Vec<String>,
}

fn read_facts(der: &CertificateDer<'_>) -> Result<Facts, AuthorityError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| AuthorityError::Certificate)?;
    if !certificate.is_ca() {
        return Err(AuthorityError::Certificate);
    }
    let constraints = certificate.name_constraints().map_err(|_| AuthorityError::Certificate)?;
    let permitted = constraints.and_then(|found| found.value.permitted_subtrees.as_ref());
    let domains = permitted.into_iter().flatten().filter_map(|subtree| match subtree.base {
        GeneralName::DNSName(domain) => Some(domain.to_owned()),
        _ => None,
    });
    let time = |at: i64| UnixTime::from_secs(u64::try_from(at).unwrap_or(0));
    let validity = certificate.validity();
    Ok(Facts {
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        lifetime: Lifetime {
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        },
        domains: domains.collect(),
    })
}

/// Validity of the certificate in this text.
///
/// # Errors
/// Fails if it is not the certificate of an authority.
pub fn lifetime_of(certificate: &str) -> Result<Lifetime, AuthorityError> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| AuthorityError::Certificate)?;
    read_facts(&der).map(|facts| facts.lifetime)
}

/// The text, PEM, of an authority's certificate.
///
/// # Errors
/// Fails if it is not the certificate of an authority.
pub fn text_of(certificate: &CertificateDer<'_>) -> Result<String, AuthorityError> {
    read_facts(certificate).map(|_| pem::text("CERTIFICATE", certificate))
}

fn params_of(subject: &Subject<'_>) -> Result<CertificateParams, rcgen::Error> {
    let mut name = DistinguishedName::new();
    // Informational: peers are identified by dNSName.
    name.push(DnType::OrganizationalUnitName, subject.role.as_str());
    if subject.name.as_str().len() <= COMMON_NAME_CHARS_MAX {
        name.push(DnType::CommonName, subject.name.as_str());
    }
    let mut params = CertificateParams::new([subject.name.as_str().to_owned()])?;
    params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = name;
    set_lifetime(&mut params, subject.lifetime);
    params.serial_number = Some(serial_number(subject.serial.as_bytes()));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match subject.role {
        Role::Node | Role::Operator | Role::Viewer => vec![ExtendedKeyUsagePurpose::ClientAuth],
        // It is a client of etcd, and etcd's own gateway wants both from a server (docs/decisions/007-etcd-json-gateway.md).
        Role::Coordinator => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn set_lifetime(params: &mut CertificateParams, lifetime: Lifetime) {
    params.not_before = offset!(lifetime.not_before);
    params.not_after = offset!(lifetime.not_after);
}

fn serial_number(bytes: &[u8]) -> SerialNumber {
    SerialNumber::from_slice(bytes)
}
