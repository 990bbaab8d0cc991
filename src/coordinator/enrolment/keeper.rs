//! What ends unless it is renewed: the revocation list, and the coordinator's own certificate.
//!
//! Files that cannot be written are a problem in the log and in the status line as long as that lasts; the old ones stay.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::PoisonError;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::Enrolment;
use tfo_host::runtime::files::{self, Durability};
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, chain};
use tfo_model::time::UnixTime;
use tfo_pki::authority::{self, AuthorityError, Lifetime, Revoked, Subject};
use tfo_pki::list::ListFile;
use tfo_pki::role::Role;
use tfo_pki::serial;
use tfo_tls::server::ServerTls;

/// Life of a revocation list in days: a coordinator may be away for that long, and its list still counts when it is back.
pub(crate) const LIST_DAYS: u32 = 30;
/// Age in seconds from which on a list is written again.
const LIST_AGE_SECS: u64 = 86_400;
/// Longest file that is read here, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

impl Enrolment {
    /// Renews what is due, and logs what has ended.  Gives what could not be done.
    pub fn keep(&self, now: UnixTime) -> Vec<Problem> {
        let logged = self.store.log_expired(now).and_then(|()| self.log_refused(now)).map_err(|error| error.problem());
        let kept = [self.keep_chain(), self.keep_list(now), self.keep_certificate(now), logged];
        kept.into_iter().filter_map(Result::err).collect()
    }

    /// Reads again what stands beside the authority's certificate: nodes get it with their next certificate, and so trust an
    /// authority before it issues anything (docs/how-to/replace-the-ca.md).
    fn keep_chain(&self) -> Result<(), Problem> {
        let path = &self.files.authority;
        let text = read(path).map_err(|error| cannot("read", path, &error))?.unwrap_or_default();
        let chain = chain_of(&text).map_err(|error| cannot("read", path, &error))?;
        if chain.first != self.certificate {
            let message = "its first certificate is another authority than the one in use, which stays in use";
            let remedy =
                "restart the coordinator to sign with the new authority; its key must be enrolment.ca_key then";
            return Err(Problem::warning("authority_differs", message, remedy).in_file(path));
        }
        if **self.chain.load() != chain.text {
            tracing::info!(file = %path.display(), "nodes get other certificates of authorities from now on");
            self.chain.store(std::sync::Arc::new(chain.text));
        }
        Ok(())
    }

    /// Writes the revocation list if a revocation is not on it or it has its age, and has it read.
    pub(super) fn keep_list(&self, now: UnixTime) -> Result<(), Problem> {
        // Without the key it is the list of a coordinator that has it, copied here.
        let Some(authority) = &self.signer else { return Ok(()) };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &self.files.list;
        let text = read(path).map_err(|error| cannot("read", path, &error))?.unwrap_or_default();
        let file = ListFile::read(&text, authority).map_err(|error| cannot("read", path, &error))?;
        let revoked = self.store.revoked().map_err(|error| error.problem())?;
        let (live, ended): (Vec<_>, Vec<_>) =
            revoked.into_iter().partition(|one| one.not_after.plus(LIST_AGE_SECS) > now);
        let live: Vec<Revoked> =
            live.iter().filter_map(|one| Some(Revoked::new(&one.serial, one.revoked_at?))).collect();
        let is_current = file
            .own
            .as_ref()
            .is_some_and(|own| own.lifetime.not_before.plus(LIST_AGE_SECS) > now && own.has_all(&live));
        if is_current {
            return Ok(());
        }
        let ended: Vec<_> = ended.iter().map(|one| one.serial).collect();
        let life = Lifetime::days(now, LIST_DAYS).within(authority.lifetime());
        let next = file.next(authority, life, &live, &ended);
        let next = next.map_err(|error| cannot("sign", path, &error))?;
        files::replace(path, next.as_bytes(), 0o644, Durability::Synced)
            .map_err(|error| cannot("write", path, &error))?;
        // It logs what it finds.
        drop(self.tls.reload_if_changed());
        Ok(())
    }

    /// Renews the coordinator's own certificate at two thirds of its life, for the same key, if this authority issued it.
    fn keep_certificate(&self, now: UnixTime) -> Result<(), Problem> {
        let Some(authority) = &self.signer else { return Ok(()) };
        let path = &self.files.certificate;
        let text = read(path).map_err(|error| cannot("read", path, &error))?.unwrap_or_default();
        let Ok(own) = CertificateDer::from_pem_slice(text.as_bytes()) else { return Ok(()) };
        let Ok((_, parsed)) = X509Certificate::from_der(&own) else { return Ok(()) };
        let (_, issuer) = X509Certificate::from_der(self.authority()).map_err(|error| cannot("read", path, &error))?;
        let is_ours = parsed.issuer().as_raw() == issuer.subject().as_raw()
            && parsed.verify_signature(Some(issuer.public_key())).is_ok();
        let [from, until] = [parsed.validity().not_before, parsed.validity().not_after]
            .map(|at| UnixTime::from_secs(u64::try_from(at.timestamp()).unwrap_or(0)));
        let due = from.plus(until.secs_since(from) / 3 * 2);
        if !is_ours || now < due || until >= authority.lifetime().not_after {
            return Ok(());
        }
        let (_, addresses) = self.tls.own_hosts();
        let names = ServerTls::names_in(path);
        let [name] = &names.into_iter().collect::<Vec<NodeId>>()[..] else {
            let message = format!("the coordinator's certificate ends at {until}, and has not exactly one name");
            let remedy = "issue one for its names, and put it there; it is read without a restart";
            return Err(Problem::warning("certificate_ends", message, remedy).in_file(path));
        };
        let serial = serial::fresh().map_err(|error| cannot("sign", path, &error))?;
        let lifetime = Lifetime::days(now, Role::Coordinator.days()).within(authority.lifetime());
        let subject = Subject { role: Role::Coordinator, name, addresses: &addresses, serial, lifetime };
        let next = authority.certify(&subject, parsed.public_key().raw);
        let next = next.map_err(|error| cannot("sign", path, &error))?;
        files::replace(path, next.as_bytes(), 0o644, Durability::Synced)
            .map_err(|error| cannot("write", path, &error))?;
        tracing::info!(until = %lifetime.not_after, "the coordinator's own certificate was renewed");
        drop(self.tls.reload_if_changed());
        Ok(())
    }
}

/// The certificates of a file of authorities.
pub(super) struct Chain {
    /// The one that issues.
    pub(super) first: CertificateDer<'static>,
    /// All of them, PEM, and nothing else that the file may hold, such as a key.
    pub(super) text: String,
}

/// Reads a file of authorities' certificates.
///
/// # Errors
/// Fails if one of them is not that, or if there is none.
pub(super) fn chain_of(text: &str) -> Result<Chain, AuthorityError> {
    let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|_| AuthorityError::Certificate)?;
    let text = all.iter().map(authority::text_of).collect::<Result<String, _>>()?;
    let first = all.into_iter().next().ok_or(AuthorityError::Certificate)?;
    Ok(Chain { first: first.into_owned(), text })
}

/// The text of a file; none if there is none.
pub(super) fn read(path: &Path) -> std::io::Result<Option<String>> {
    let mut text = String::new();
    let file = match files::open_regular(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(Some(text))
}

fn cannot(step: &str, path: &Path, error: &(impl std::error::Error + 'static)) -> Problem {
    let message = format!("cannot {step} what the coordinator renews by itself: {}", chain(error));
    let remedy = "keep it where the coordinator's user may write, such as /var/lib/tfo-coordinator; what is there stays in \
                  use until it ends";
    Problem::warning("not_renewed", message, remedy).in_file(path)
}
