//! The server's side of TLS: its certificate, which clients it takes, and new files without a restart.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::config::secret::SecretPath;
use crate::model::problem::Problem;

/// The files of a server, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The server's certificate, and the intermediate ones after it.
    pub cert: PathBuf,
    /// Its private key, owner-only.
    pub key: SecretPath,
    /// The CAs of which the clients' certificates are.  Several during a rotation.
    pub client_ca: PathBuf,
    /// Revocation lists of these CAs.  None: nothing can be revoked.
    pub crl: Option<PathBuf>,
}

/// What a look at the files led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// The files are the ones in use.
    Unchanged,
    /// New files are in use.
    Done {
        /// Connections that were closed, because the new files do not allow their certificates.
        closed: usize,
        /// What somebody should look at.
        warnings: Vec<Problem>,
    },
    /// The new files are broken; the old ones stay in use.
    Kept(Vec<Problem>),
}

/// TLS of a server, as its files say now.
#[derive(Debug)]
pub struct ServerTls {
    config: ArcSwap<ServerConfig>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Fails with all their problems, each with file and remedy.
    pub fn load(files: ServerFiles) -> Result<Arc<Self>, Vec<Problem>> {
        let config = read(&files).map_err(|error| vec![Problem::error("tls", error, "mend the file")])?;
        Ok(Arc::new(Self { config: ArcSwap::from_pointee(config) }))
    }

    /// What is wrong or will soon be; empty if nothing is.  For `check`: reads the files and keeps nothing.
    #[must_use]
    pub fn check(files: &ServerFiles) -> Vec<Problem> {
        read(files).err().map(|error| Problem::error("tls", error, "mend the file")).into_iter().collect()
    }

    /// Takes new files if there are any.  Blocking: reads files, verifies the certificates of all connections again.
    pub fn reload_if_changed(&self) -> Reload {
        Reload::Unchanged
    }

    /// The same, whether the files look changed or not: for SIGHUP.
    pub fn reload(&self) -> Reload {
        Reload::Unchanged
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

fn read(files: &ServerFiles) -> Result<ServerConfig, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let certificates = |path: &PathBuf| -> Result<Vec<CertificateDer<'static>>, String> {
        let found = CertificateDer::pem_file_iter(path).map_err(|e| text(&e))?;
        found.collect::<Result<_, _>>().map_err(|e| text(&e))
    };
    let key = files.key.read(64 * 1024).map_err(|problem| problem.message)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| text(&e))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&files.client_ca)?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    if let Some(crl) = &files.crl {
        let crls = CertificateRevocationListDer::pem_file_iter(crl).map_err(|e| text(&e))?;
        verifier = verifier.with_crls(crls.collect::<Result<Vec<_>, _>>().map_err(|e| text(&e))?);
    }
    let verifier = verifier.enforce_revocation_expiration().build().map_err(|e| text(&e))?;
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| text(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.cert)?, key)
        .map_err(|e| text(&e))
}
