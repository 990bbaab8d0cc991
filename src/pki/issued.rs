//! What is checked before a certificate is used: one that a host was sent, and one that was found beside its key.
//!
//! Must not know: where it is from, where it goes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use zeroize::{Zeroize, Zeroizing};

use super::authority::Authority;
use super::key::SigningKey;
use super::renewal::Life;
use super::token::AuthorityPin;
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// Most certificates of a chain.
const CHAIN_MAX: usize = 8;

/// The certificates of a text, DER, whatever their order; none if one of them cannot be read.
#[must_use]
pub fn certificates(text: &str) -> Option<BTreeSet<Vec<u8>>> {
    let all = CertificateDer::pem_slice_iter(text.as_bytes()).map(|der| der.map(|der| der.as_ref().to_vec()));
    all.collect::<Result<_, _>>().ok()
}

/// Why a certificate is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// Not PEM, or not a certificate.
    #[error("it is not a certificate in PEM")]
    Unreadable,
    /// Its chain is not PEM, empty, or too long.
    #[error("its chain is not 1 to {CHAIN_MAX} certificates in PEM")]
    Chain,
    /// Issued for another key than the one that was sent.
    #[error("it is for another key")]
    OtherKey,
    /// It does not have exactly the name that was asked for.
    #[error("it is for another name")]
    OtherName,
    /// No certificate of the chain signed it.
    #[error("no authority of its chain has signed it")]
    OtherAuthority,
    /// The chain has another authority than the pinned one.
    #[error("it is from another authority than the one that the token names")]
    OtherPin,
    /// Found beside a key, and for other IP addresses than this host is to have.
    #[error("it is for other IP addresses")]
    OtherAddresses,
    /// Found beside a key, and not of the authority that is here.
    #[error("another authority has signed it")]
    Foreign,
    /// It has ended already: a clock is wrong.
    #[error("it has ended already; compare the clocks of this host and the coordinator")]
    Ended,
}

/// A certificate that is good for its key and its name.
#[derive(Debug, Clone, Copy)]
pub struct Good {
    /// Its life.
    pub life: Life,
}

/// Checks a certificate, PEM, for the private key of a request; `pin`: the authority that must have signed it.
///
/// # Errors
/// Fails with the first thing that is wrong.
pub fn check(
    (certificate, chain): (&str, &str),
    key: &str,
    name: &NodeId,
    pin: Option<AuthorityPin>,
    now: UnixTime,
) -> Result<Good, BadCertificate> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| BadCertificate::Unreadable)?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| BadCertificate::Unreadable)?;
    let mut own = KeyPair::from_pem(key).map_err(|_| BadCertificate::OtherKey)?;
    let is_own = own.subject_public_key_info() == parsed.public_key().raw;
    own.zeroize();
    if !is_own {
        return Err(BadCertificate::OtherKey);
    }
    let names = parsed.subject_alternative_name().map_err(|_| BadCertificate::Unreadable)?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    if !matches!(names, [GeneralName::DNSName(found)] if *found == name.as_str()) {
        return Err(BadCertificate::OtherName);
    }
    let authorities = CertificateDer::pem_slice_iter(chain.as_bytes()).take(CHAIN_MAX + 1);
    let authorities = authorities.collect::<Result<Vec<_>, _>>().map_err(|_| BadCertificate::Chain)?;
    if !(1..=CHAIN_MAX).contains(&authorities.len()) {
        return Err(BadCertificate::Chain);
    }
    let mut signed = None;
    for authority in &authorities {
        let (_, issuer) = X509Certificate::from_der(authority).map_err(|_| BadCertificate::Chain)?;
        if issuer.is_ca() && parsed.verify_signature(Some(issuer.public_key())).is_ok() {
            signed = Some(AuthorityPin::of_public_key(issuer.public_key().raw));
        }
    }
    match (signed, pin) {
        (None, _) => return Err(BadCertificate::OtherAuthority),
        (Some(signed), Some(pin)) if signed != pin => return Err(BadCertificate::OtherPin),
        (Some(_), _) => {}
    }
    let at = |at: i64| UnixTime::from_secs(u64::try_from(at).unwrap_or(0));
    let validity = parsed.validity();
    let life = Life::of(at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
    if life.until() <= now { Err(BadCertificate::Ended) } else { Ok(Good { life }) }
}

/// Checks a certificate, PEM, that was found beside its key: whether this authority has signed it for exactly this name and
/// these addresses, in any order.  Gives its end.
///
/// # Errors
/// Fails with the first thing that is wrong.
pub fn check_found(
    certificate: &str,
    key: &SigningKey,
    authority: &Authority,
    (name, addresses): (&NodeId, &[IpAddr]),
    now: UnixTime,
) -> Result<UnixTime, BadCertificate> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| BadCertificate::Unreadable)?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| BadCertificate::Unreadable)?;
    if parsed.public_key().raw != key.public_key() {
        return Err(BadCertificate::OtherKey);
    }
    if !authority.has_signed(&der) {
        return Err(BadCertificate::Foreign);
    }
    let found = parsed.subject_alternative_name().map_err(|_| BadCertificate::Unreadable)?;
    let (mut names, mut found_addresses) = (Vec::new(), BTreeSet::new());
    for one in found.map_or(&[][..], |found| &found.value.general_names) {
        match one {
            GeneralName::DNSName(name) => names.push(*name),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                found_addresses.insert(address.map_err(|_| BadCertificate::Unreadable)?);
            }
            _ => return Err(BadCertificate::OtherName),
        }
    }
    if names != [name.as_str()] {
        return Err(BadCertificate::OtherName);
    }
    if found_addresses != addresses.iter().copied().collect() {
        return Err(BadCertificate::OtherAddresses);
    }
    let until = UnixTime::from_secs(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0));
    if until <= now { Err(BadCertificate::Ended) } else { Ok(until) }
}

/// A certificate and its key as they are in one file: it is replaced in one rename, so no crash leaves a pair that does not fit.
#[must_use]
pub fn pair_text(certificate: &str, key: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(certificate.len() + key.len() + 1));
    text.push_str(certificate.trim_end());
    text.push('\n');
    text.push_str(key);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Lifetime, Subject, make};
    use crate::request::{self, Requested};
    use crate::role::Role;
    use crate::serial;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn name() -> NodeId {
        "cp1.cache.example.org".parse().unwrap()
    }

    struct Site {
        authority: Authority,
        chain: String,
        pin: AuthorityPin,
    }

    fn site() -> Site {
        let made = make(NOW, 3_650, &[]).unwrap();
        let authority = Authority::read(&made.certificate, made.key.as_bytes()).unwrap();
        let pin = AuthorityPin::of(authority.certificate()).unwrap();
        Site { authority, chain: made.certificate, pin }
    }

    impl Site {
        fn certify(&self, requested: &Requested, name: &NodeId) -> String {
            let key = request::check(&requested.csr, &self::name()).unwrap();
            let subject = Subject {
                role: Role::Node,
                name,
                addresses: &[],
                serial: serial::fresh().unwrap(),
                lifetime: Lifetime::days(NOW, 30),
            };
            self.authority.certify(&subject, &key).unwrap()
        }
    }

    #[test]
    fn only_the_certificate_that_was_asked_for_is_used() {
        let (ours, other) = (site(), site());
        let requested = request::make(&name()).unwrap();
        let good = ours.certify(&requested, &name());
        let verdict = |certificate: &str, chain: &str, key: &str, pin, now| {
            check((certificate, chain), key, &name(), pin, now).map(|good| good.life.until())
        };
        let (key, pin) = (requested.key.as_str(), Some(ours.pin));
        assert_eq!(verdict(&good, &ours.chain, key, pin, NOW), Ok(NOW.plus(30 * 86_400)));
        let both = format!("{}{}", other.chain, ours.chain);
        assert!(verdict(&good, &both, key, pin, NOW).is_ok(), "beside an authority that follows it");
        assert!(verdict(&good, &ours.chain, key, None, NOW).is_ok());
        let foreign = other.certify(&requested, &name());
        let renamed = ours.certify(&requested, &"cp2.cache.example.org".parse().unwrap());
        let stranger = request::make(&name()).unwrap();
        for (certificate, chain, key, now, why) in [
            ("", ours.chain.as_str(), key, NOW, BadCertificate::Unreadable),
            (good.as_str(), "", key, NOW, BadCertificate::Chain),
            (good.as_str(), ours.chain.as_str(), stranger.key.as_str(), NOW, BadCertificate::OtherKey),
            (renamed.as_str(), ours.chain.as_str(), key, NOW, BadCertificate::OtherName),
            (good.as_str(), other.chain.as_str(), key, NOW, BadCertificate::OtherAuthority),
            (foreign.as_str(), both.as_str(), key, NOW, BadCertificate::OtherPin),
            (good.as_str(), ours.chain.as_str(), key, NOW.plus(31 * 86_400), BadCertificate::Ended),
        ] {
            assert_eq!(verdict(certificate, chain, key, pin, now), Err(why));
        }
        assert_eq!(verdict(&good, &ours.chain.repeat(CHAIN_MAX + 1), key, pin, NOW), Err(BadCertificate::Chain));
    }

    #[test]
    fn a_certificate_beside_its_key_is_the_one_that_is_wanted_or_says_why_not() {
        let (ours, other) = (site(), site());
        let (key, foreign) = (SigningKey::fresh().unwrap(), SigningKey::fresh().unwrap());
        let [one, two]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let issue = |by: &Site, name: &NodeId, addresses: &[IpAddr]| {
            let (serial, lifetime) = (serial::fresh().unwrap(), Lifetime::days(NOW, 30));
            let subject = Subject { role: Role::Coordinator, name, addresses, serial, lifetime };
            by.authority.certify(&subject, &key.public_key()).unwrap()
        };
        let good = issue(&ours, &name(), &[one, two]);
        let verdict = |text: &str, key: &SigningKey, addresses: &[IpAddr], now| {
            check_found(text, key, &ours.authority, (&name(), addresses), now)
        };
        assert_eq!(verdict(&good, &key, &[two, one], NOW), Ok(NOW.plus(30 * 86_400)));
        let renamed = issue(&ours, &"cp2.cache.example.org".parse().unwrap(), &[]);
        for (text, key, addresses, now, why) in [
            ("", &key, &[one, two][..], NOW, BadCertificate::Unreadable),
            (&*good, &foreign, &[one, two], NOW, BadCertificate::OtherKey),
            (&*issue(&other, &name(), &[one, two]), &key, &[one, two], NOW, BadCertificate::Foreign),
            (&*renamed, &key, &[], NOW, BadCertificate::OtherName),
            (&*good, &key, &[one], NOW, BadCertificate::OtherAddresses),
            (&*good, &key, &[one, two], NOW.plus(31 * 86_400), BadCertificate::Ended),
        ] {
            assert_eq!(verdict(text, key, addresses, now), Err(why));
        }
    }
}
