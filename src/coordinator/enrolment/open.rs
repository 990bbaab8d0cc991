//! Opens the authority, and checks that what it signs will be accepted.

use std::path::Path;
use std::time::Duration;

use rustix::fs::Access;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::keeper::{Chain, chain_of, read};
use super::{Files, Ports};
use tfo_config::coordinator::{ApiSettings, EnrolmentSettings};
use tfo_config::reader::Located;
use tfo_model::problem::{Problem, chain};
use tfo_pki::authority::{Authority, AuthorityError};
use tfo_pki::list::ListFile;
use tfo_pki::token::AuthorityPin;

/// Longest private key in bytes; a PKCS#8 P-256 key has 241.
const KEY_BYTES_MAX: usize = 8_192;

/// An authority, which can sign if its key is here.
#[derive(Debug)]
pub struct OpenedAuthority {
    pub(super) signer: Option<Authority>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) chain: String,
    pub(super) pin: AuthorityPin,
    pub(super) node_lifetime: Duration,
    pub(super) ports: Ports,
    pub(super) files: Files,
}

/// Opens the authority.
///
/// # Errors
/// Fails with the problem at the setting that is to blame.
pub fn open(config: &Path, api: &ApiSettings, settings: &EnrolmentSettings) -> Result<OpenedAuthority, Problem> {
    let EnrolmentSettings { listen, ca_cert, ca_key, node_lifetime } = settings;
    let remedy = "put the authority's certificate there; `tfo-coordinator init` and `tfoctl pki init` make one";
    let broken = |place: &Located<_>, error: &dyn std::fmt::Display| {
        place.locate(config, Problem::error("bad_authority", error.to_string(), remedy))
    };
    let path = &ca_cert.value;
    let text = read(path).map_err(|error| broken(ca_cert, &format!("cannot read {}: {error}", path.display())))?;
    let text = text.ok_or_else(|| broken(ca_cert, &format!("{} does not exist", path.display())))?;
    let Chain { first, text: chain_text } = chain_of(&text).map_err(|error| broken(ca_cert, &chain(&error)))?;
    let signer = match ca_key {
        None => None,
        Some(ca_key) => {
            let key = ca_key.read_for(config, KEY_BYTES_MAX)?;
            let opened = Authority::read(&text, &key).map_err(|error| match error {
                AuthorityError::Certificate => broken(ca_cert, &chain(&error)),
                _ => {
                    let message = format!("{}: {}", ca_key.value, chain(&error));
                    let remedy = "name the private key of the first certificate of enrolment.ca_cert, PKCS#8 in PEM";
                    ca_key.locate(config, Problem::error("bad_authority", message, remedy))
                }
            })?;
            Some(opened)
        }
    };
    let pin = AuthorityPin::of(&first).map_err(|error| broken(ca_cert, &error))?;
    let list = api.crl.as_ref().map(|crl| crl.value.clone()).unwrap_or_default();
    Ok(OpenedAuthority {
        signer,
        certificate: first,
        chain: chain_text,
        pin,
        node_lifetime: node_lifetime.value,
        ports: Ports { api: api.listen.value.port(), enrolment: listen.value.port() },
        files: Files { list, certificate: api.cert.value.clone(), authority: path.clone() },
    })
}

/// Everything that would keep a node from enrolling, or a revocation from being written.
#[must_use]
pub fn check(config: &Path, api: &ApiSettings, settings: &EnrolmentSettings) -> Vec<Problem> {
    let opened = match open(config, api, settings) {
        Ok(opened) => opened,
        Err(problem) => return vec![problem],
    };
    let mut problems = Vec::new();
    let mut add = |place: &Located<_>, problem: Problem| problems.push(place.locate(config, problem));
    let authority = &opened.certificate;
    let certificates = |path: &Path| -> Vec<CertificateDer<'static>> {
        let text = read(path).ok().flatten().unwrap_or_default();
        CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok).collect()
    };
    // What cannot be read is reported with the other certificates.
    let trusted = certificates(&api.client_ca.value);
    if !trusted.is_empty() && !trusted.contains(authority) {
        let message = "enrolment.ca_cert is not among these: the API would refuse every node that enrols";
        add(
            &api.client_ca,
            Problem::error("authority_not_trusted", message, "add it to the file, or name the same one"),
        );
    }
    if let Some(own) = certificates(&api.cert.value).first()
        && !is_issued_by(own, authority)
    {
        let message = "the coordinator's own certificate is not of enrolment.ca_cert: nodes that enrol would refuse it";
        let remedy = "issue the coordinator's certificate by the same authority: `tfoctl pki issue --coordinator`";
        add(&api.cert, Problem::error("authority_differs", message, remedy));
    }
    if let (Some(crl), Some(authority)) = (&api.crl, &opened.signer) {
        let path = &crl.value;
        let text = read(path).map(Option::unwrap_or_default);
        if let Ok(text) = text
            && let Err(error) = ListFile::read(&text, authority)
        {
            let remedy = "restore it: the coordinator adds to what it revokes";
            add(crl, Problem::error("tls_bad_crl", error.to_string(), remedy));
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        if rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
            let message =
                format!("{} cannot be written by this user, and the coordinator renews the list", directory.display());
            let remedy = "name a file below /var/lib/tfo-coordinator, and copy the list there";
            add(crl, Problem::error("list_not_writable", message, remedy));
        }
    }
    problems
}

fn is_issued_by(own: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> bool {
    let (Ok((_, own)), Ok((_, authority))) = (X509Certificate::from_der(own), X509Certificate::from_der(authority))
    else {
        return false;
    };
    own.issuer().as_raw() == authority.subject().as_raw() && own.verify_signature(Some(authority.public_key())).is_ok()
}
