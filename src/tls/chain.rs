//! Which chains are not worth a signature check.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Most intermediate certificates of a client.  Each client learns the CAs' names from the handshake, and can send certificates
/// that claim to be issued by them: each would cost a signature check before it is found out.
const INTERMEDIATES_MAX: usize = 3;

/// Why a chain is refused before any of its signatures is checked.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadChain {
    #[error("the client sent {0} intermediate certificates, at most {INTERMEDIATES_MAX} are taken")]
    TooLong(usize),
    #[error("the client sent two intermediate certificates with one name")]
    NameTwice,
    #[error("an intermediate certificate of the client cannot be parsed")]
    Unreadable,
}

impl fmt::Debug for BadChain {
    /// The text: rustls shows such an error in the log only with this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<BadChain> for rustls::Error {
    fn from(bad: BadChain) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(bad))))
    }
}

/// Refuses what would cost many signature checks.
///
/// webpki tries every order of certificates that name each other as issuers.  With names that differ, each certificate has
/// one place in one order: a forged chain costs at most the checks of a good one.
pub(super) fn judge_intermediates(intermediates: &[CertificateDer<'_>]) -> Result<(), BadChain> {
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(BadChain::TooLong(intermediates.len()));
    }
    let parsed = intermediates.iter().map(|der| X509Certificate::from_der(der));
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(|_| BadChain::Unreadable)?;
    let names: BTreeSet<&[u8]> = parsed.iter().map(|(_, one)| one.subject().as_raw()).collect();
    if names.len() < parsed.len() { Err(BadChain::NameTwice) } else { Ok(()) }
}
