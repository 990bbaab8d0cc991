//! A private key that signs, wiped on drop.  It has no `Debug` and leaves only as PEM.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::{Zeroize, Zeroizing};

use super::authority::AuthorityError;

/// A private key.
pub struct SigningKey(KeyPair);

impl Drop for SigningKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl SigningKey {
    /// ECDSA on P-256: what every TLS library accepts, etcd's too, and as quick here as Ed25519 (docs/decisions/008-rustls-and-ring-only.md).
    ///
    /// # Errors
    /// Fails without randomness.
    pub fn fresh() -> Result<Self, AuthorityError> {
        Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self)?)
    }

    /// Reads PKCS#8 in PEM; a text may have certificates besides.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn read(pem: &[u8]) -> Result<Self, AuthorityError> {
        let mut secret = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| AuthorityError::Key)?;
        let key = KeyPair::try_from(&secret).map(Self);
        secret.zeroize();
        key.map_err(|_| AuthorityError::Key)
    }

    /// The key as PKCS#8 in PEM.
    #[must_use]
    pub fn pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// Its public part as a certificate has it: `SubjectPublicKeyInfo`, DER.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// Its public part alone: the point.
    pub(crate) fn point(&self) -> &[u8] {
        self.0.public_key_raw()
    }
}

impl PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        PublicKeyData::der_bytes(&self.0)
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        PublicKeyData::algorithm(&self.0)
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        rcgen::SigningKey::sign(&self.0, message)
    }
}
