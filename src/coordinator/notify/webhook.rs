//! Delivers an event to a webhook: a signed POST over TLS, in bounded time.
//!
//! The receiver checks `Tfo-Signature: v1=HEX`, HMAC-SHA256 under the shared secret over `v1:TIMESTAMP:BODY`, with the
//! TIMESTAMP of `Tfo-Timestamp`, and refuses old ones, so that a captured event cannot be sent again.  Files are read for each
//! event: a new secret or authority needs no reload.
//!
//! Invariants: https only; follows no redirect and uses no proxy of the environment; neither the secret nor what follows the
//! host in the URL, which may be one, gets into messages.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use tfo_config::reader::Located;
use tfo_crypto::checksum::hmac_sha256;
use tfo_host::secret::SecretPath;
use tfo_model::problem::Problem;
use tfo_model::time::UnixTime;

/// Longest time from name resolution to the head of the answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Range of a secret in bytes: below 16 it may be guessed.
const SECRET_BYTES_MIN: usize = 16;
const SECRET_BYTES_MAX: usize = 4_096;
/// The signature's scheme.
const SCHEME: &str = "v1";

/// Where an event goes, and what it is signed with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Webhook<'a> {
    /// The configuration file, for problems.
    pub(super) file: &'a Path,
    /// `https://…`.
    pub(super) url: &'a Located<String>,
    /// Authorities of the receiver's certificate.
    pub(super) ca: &'a Located<std::path::PathBuf>,
    /// The shared secret.
    pub(super) secret: &'a Located<SecretPath>,
}

/// All that a delivery needs from files.
pub(super) struct Opened {
    url: Url,
    secret: Zeroizing<Vec<u8>>,
    client: reqwest::Client,
}

impl Webhook<'_> {
    /// Blocking: reads the files.
    ///
    /// # Errors
    /// Fails with everything that is wrong with them.
    pub(super) fn open(self) -> Result<Opened, Vec<Problem>> {
        let Self { file, url, ca, secret } = self;
        let parsed = url.value.parse::<Url>().map_err(|error| {
            let remedy = "write https://HOST[:PORT]/PATH";
            url.locate(file, Problem::error("bad_value", format!("this is not a URL: {error}"), remedy))
        });
        let client = roots(&ca.value).and_then(client).map_err(|problem| ca.locate(file, problem));
        let read = secret.read_for(file, SECRET_BYTES_MAX).and_then(|read| {
            // An editor, or `openssl rand -hex 32`, ends it with a line end, which no receiver takes for a part of it.
            let length = read.trim_ascii_end().len();
            if length >= SECRET_BYTES_MIN {
                return Ok(Zeroizing::new(read[..length].to_vec()));
            }
            let message = format!("the secret has {length} bytes, and {SECRET_BYTES_MIN} is the least");
            Err(secret.locate(file, Problem::error("secret_short", message, "make one with `openssl rand -hex 32`")))
        });
        match (parsed, client, read) {
            (Ok(url), Ok(client), Ok(secret)) => Ok(Opened { url, secret, client }),
            (url, client, secret) => Err([url.err(), client.err(), secret.err()].into_iter().flatten().collect()),
        }
    }
}

/// The authorities of a PEM file.
fn roots(path: &Path) -> Result<RootCertStore, Problem> {
    let remedy = "install ca-certificates, or write ca = \"/path\" of a PEM file with the receiver's authority";
    let failed = |what: String| Problem::error("webhook_ca", what, remedy);
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| failed(format!("cannot read it: {error}")))?;
    let certificates: Vec<CertificateDer<'static>> = certificates.filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    // A system's bundle may have some that rustls does not take.
    let (taken, _) = roots.add_parsable_certificates(certificates);
    if taken == 0 { Err(failed("it has no certificate of an authority".to_owned())) } else { Ok(roots) }
}

fn client(roots: RootCertStore) -> Result<reqwest::Client, Problem> {
    let failed = |what: String| Problem::error("internal", what, "this is a bug; please report it");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tfo_wire::client::https(tls).timeout(ANSWER_MAX).build().map_err(|error| failed(error.to_string()))
}

impl Opened {
    /// Sends an event; any answer of 2xx has taken it.
    ///
    /// # Errors
    /// Fails, with what to log, if the receiver is not reached, or answers otherwise.
    pub(super) async fn send(&self, id: &str, event: Vec<u8>, now: UnixTime) -> Result<(), String> {
        let host = self.url.host_str().unwrap_or_default().to_owned();
        let timestamp = now.secs().to_string();
        let signed = [SCHEME.as_bytes(), b":", timestamp.as_bytes(), b":", &event];
        let tag: String = hmac_sha256(&self.secret, &signed).iter().map(|byte| format!("{byte:02x}")).collect();
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("tfo-event-id", id)
            .header("tfo-timestamp", timestamp)
            .header("tfo-signature", format!("{SCHEME}={tag}"))
            .body(event);
        // Its head is the answer; the body is not read.
        let status = request.send().await.map_err(|error| format!("cannot reach {host}: {}", cause(&error)))?.status();
        if status.is_success() { Ok(()) } else { Err(format!("{host} answered {}", status.as_u16())) }
    }
}

/// The innermost cause; the outer ones repeat the URL.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer in {} s", ANSWER_MAX.as_secs());
    }
    let mut last: &dyn StdError = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}
