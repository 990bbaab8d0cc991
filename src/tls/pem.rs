//! PEM files: read, bounded, parsed; each mistake becomes a problem with its remedy.

use std::io::Read;
use std::path::Path;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use zeroize::Zeroizing;

use tfo_host::runtime::files;
use tfo_host::secret::SecretPath;
use tfo_model::problem::Problem;
use tfo_model::time::UnixTime;

/// Longest file of certificates or revocation lists, in bytes: a list of 100 000 revoked certificates has 4 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Longest key file, in bytes: an RSA key of 16 384 bits has 13 KiB.
const KEY_BYTES_MAX: usize = 64 << 10;

/// The certificates in a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| not_pem(path, &bytes, "certificate", &error))?;
    for (certificate, number) in found.iter().zip(1..) {
        if X509Certificate::from_der(certificate).is_err() {
            let message = format!("certificate {number} of the file cannot be parsed");
            return Err(Problem::error("tls_not_pem", message, "issue it again").in_file(path));
        }
    }
    if found.is_empty() { Err(nothing_in(path, "certificate", "CERTIFICATE")) } else { Ok(found) }
}

/// The revocation lists in a file, at least one.
pub(super) fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Problem> {
    let bytes = read(path)?;
    let found = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| not_pem(path, &bytes, "revocation list", &error))?;
    if found.is_empty() { Err(nothing_in(path, "revocation list", "X509 CRL")) } else { Ok(found) }
}

/// The private key in a file that only its owner can read.
pub(super) fn key(place: &SecretPath) -> Result<PrivateKeyDer<'static>, Problem> {
    let bytes = place.read(KEY_BYTES_MAX)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        // The parser's message may quote the file.
        let message = format!("{place} has no unencrypted private key");
        Problem::error("tls_not_pem", message, "store the key as PEM: `-----BEGIN PRIVATE KEY-----`")
    })
}

/// Seconds of a certificate's time; before 1970 is 1970.
pub(super) fn unix(time: ASN1Time) -> UnixTime {
    UnixTime::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// The file, wiped after use: the key of a certificate may be in the same one.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = files::open_regular(path).and_then(|file| {
        // A buffer that grows leaves copies behind.
        let size = file.metadata()?.len().min(FILE_BYTES_MAX) + 2;
        bytes.reserve_exact(usize::try_from(size).unwrap_or(0));
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => {
            let message = format!("the file has more than {FILE_BYTES_MAX} bytes");
            Err(Problem::error("tls_file_unreadable", message, "name the right file").in_file(path))
        }
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Problem::error("tls_file_missing", "the file does not exist", "put it there").in_file(path))
        }
        Err(error) => {
            let message = format!("cannot read the file: {error}");
            Err(Problem::error("tls_file_unreadable", message, "make it readable for this user").in_file(path))
        }
    }
}

fn not_pem(path: &Path, bytes: &[u8], what: &str, error: &pem::Error) -> Problem {
    let message = match bytes.windows(11).any(|part| part == b"PRIVATE KEY") {
        false => format!("a {what} in the file is broken: {error}"),
        // The parser's message may quote the file.
        true => format!("a {what} in the file is broken"),
    };
    Problem::error("tls_not_pem", message, "issue it again; it must be PEM text").in_file(path)
}

fn nothing_in(path: &Path, what: &str, label: &str) -> Problem {
    let message = format!("the file has no {what}");
    let remedy = format!("store it as PEM: `-----BEGIN {label}-----`; `openssl` converts DER");
    Problem::error("tls_not_pem", message, remedy).in_file(path)
}
