//! A file of revocation lists that its authority renews: what the authority itself revoked there stays, by whichever
//! program, and the lists of other authorities stay as they are.
//!
//! So a store that was restored from a backup cannot take a revocation back.

use std::collections::{BTreeMap, BTreeSet};

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::authority::{Authority, AuthorityError, Lifetime, Revoked};
use super::pem;
use tfo_model::serial::SerialNumber;
use tfo_model::time::UnixTime;

/// Content of a file of revocation lists, as one of the authorities sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListFile {
    /// Its own list, if there is one.
    pub own: Option<OwnList>,
    /// The lists of others, DER.
    others: Vec<Vec<u8>>,
}

/// The list of the authority itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnList {
    /// Its number.
    pub number: u64,
    /// Its validity.
    pub lifetime: Lifetime,
    /// Who is on it.
    pub revoked: Vec<Revoked>,
}

impl OwnList {
    /// Whether it revokes all of these.
    #[must_use]
    pub fn has_all(&self, wanted: &[Revoked]) -> bool {
        let listed: BTreeSet<&[u8]> = self.revoked.iter().map(|one| one.serial.as_slice()).collect();
        wanted.iter().all(|one| listed.contains(significant(&one.serial)))
    }
}

impl ListFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Fails if anything in it cannot be read: to leave it out would take back what it revokes.
    pub fn read(text: &str, authority: &Authority) -> Result<Self, AuthorityError> {
        let (_, issuer) =
            X509Certificate::from_der(authority.certificate()).map_err(|_| AuthorityError::Certificate)?;
        let mut file = Self::default();
        for der in CertificateRevocationListDer::pem_slice_iter(text.as_bytes()) {
            let der = der.map_err(|_| AuthorityError::List)?;
            let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| AuthorityError::List)?;
            let is_own = list.issuer().as_raw() == issuer.subject().as_raw()
                && list.verify_signature(issuer.public_key()).is_ok();
            if is_own {
                file.own = Some(own_list(&list));
            } else {
                file.others.push(der.as_ref().to_vec());
            }
        }
        Ok(file)
    }

    /// The text of the next file: the authority's list with these revocations besides those that were on it, without
    /// certificates that have ended.
    ///
    /// # Errors
    /// Fails if nothing can be signed.
    pub fn next(
        &self,
        authority: &Authority,
        lifetime: Lifetime,
        revoked: &[Revoked],
        ended: &[SerialNumber],
    ) -> Result<String, AuthorityError> {
        let before = self.own.iter().flat_map(|own| &own.revoked);
        // The first entry of a serial number counts, so an earlier time of revocation stays.
        let mut all: BTreeMap<&[u8], UnixTime> = BTreeMap::new();
        for one in before.chain(revoked) {
            all.entry(significant(&one.serial)).or_insert(one.at);
        }
        for one in ended {
            all.remove(one.as_bytes());
        }
        let all: Vec<Revoked> = all.into_iter().map(|(serial, at)| Revoked { serial: serial.to_vec(), at }).collect();
        let number = self.own.as_ref().map_or(1, |own| own.number.saturating_add(1));
        let mut text = authority.revocation_list(number, lifetime, &all)?;
        for other in &self.others {
            text.push_str(&pem::text("X509 CRL", other));
        }
        Ok(text)
    }
}

/// The number without the zeros in front that DER puts before a high bit.
fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros.min(serial.len().saturating_sub(1))..]
}

fn own_list(list: &CertificateRevocationList<'_>) -> OwnList {
    let time = |at: x509_parser::time::ASN1Time| UnixTime::from_secs(u64::try_from(at.timestamp()).unwrap_or(0));
    let revoked = list
        .iter_revoked_certificates()
        .map(|one| Revoked { serial: significant(one.raw_serial()).to_vec(), at: time(one.revocation_date) });
    let number = list.crl_number().and_then(|number| number.to_string().parse().ok()).unwrap_or(0);
    let not_before = time(list.last_update());
    let not_after = list.next_update().map_or(not_before, time);
    OwnList { number, lifetime: Lifetime { not_before, not_after }, revoked: revoked.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority;
    use crate::serial;

    fn authority() -> Authority {
        let made = authority::make(UnixTime::from_secs(1_790_000_000), 30, &[]).unwrap();
        Authority::read(&made.certificate, made.key.as_bytes()).unwrap()
    }

    #[test]
    fn what_was_revoked_stays_revoked_and_others_lists_stay() {
        let (now, own, other) = (UnixTime::from_secs(1_790_000_000), authority(), authority());
        let life = Lifetime::days(now, 7);
        let at = |secs| now.plus(secs);
        let serials: Vec<_> = (0..3).map(|_| serial::fresh().unwrap()).collect();
        let first = ListFile::default().next(&own, life, &[Revoked::new(&serials[0], at(1))], &[]).unwrap();
        let foreign = ListFile::default().next(&other, life, &[Revoked::new(&serials[2], at(9))], &[]).unwrap();
        let file = ListFile::read(&(first + &foreign), &own).unwrap();
        // A high bit, as another program may set it: the zero before it is DER, not the number.
        let high = Revoked { serial: vec![0, 0x80, 1], at: at(3) };
        // The store has lost the first, and knows it again with a later time.
        let next =
            file.next(&own, life, &[Revoked::new(&serials[1], at(2)), high, Revoked::new(&serials[0], at(7))], &[]);
        let read = ListFile::read(&next.unwrap(), &own).unwrap();
        assert_eq!(read.others, file.others);
        assert_eq!(read.others.len(), 1);
        let list = read.own.unwrap();
        let mut expected = vec![
            Revoked::new(&serials[0], at(1)),
            Revoked::new(&serials[1], at(2)),
            Revoked { serial: vec![0x80, 1], at: at(3) },
        ];
        expected.sort();
        let mut found = list.revoked.clone();
        found.sort();
        assert_eq!((list.number, found), (2, expected));
        assert_eq!(list.lifetime, life);
        let shorter = ListFile { own: Some(list), others: Vec::new() }.next(&own, life, &[], &serials[..1]).unwrap();
        assert_eq!(ListFile::read(&shorter, &own).unwrap().own.unwrap().revoked.len(), 2, "one has ended");
        assert!(ListFile::read("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", &own).is_err());
        assert_eq!(ListFile::read("", &own).unwrap(), ListFile::default());
    }
}
