//! What this node trusts: the authorities that came with a new certificate take the place of those in `ca`.
//!
//! So an authority can be replaced without a file copied to a node (docs/how-to/replace-the-ca.md).  Only a file beside the
//! certificate is this agent's to write; one elsewhere belongs to who put it there.  The new file waits beside the old one
//! (`….next`), is tried out with the new certificate, and takes its place before that: whatever ends in between, file and
//! certificate both work with the coordinator that sent them.
//!
//! Must not know: sockets.

use std::path::{Path, PathBuf};

use tracing::info;

use super::renewal::next_of;
use tfo_host::runtime::files::{self, Durability};
use tfo_model::problem::{Problem, chain};
use tfo_pki::issued::certificates;
use tfo_tls::client::ClientFiles;

/// Kind of the remark that this node does not trust what its coordinator named.
const NOT_TAKEN: &str = "authorities_not_taken";

/// Puts what came with a new certificate beside the file, if it is another content and the file is ours.  The certificate is
/// of use without it, so what cannot be written is only told: gives a remark.
pub(super) fn wait(own: &ClientFiles, came: &str) -> Option<Problem> {
    let next = next_of(&own.ca);
    let has = std::fs::read_to_string(&own.ca).ok().and_then(|text| certificates(&text)).unwrap_or_default();
    let wanted = certificates(came)?;
    if has == wanted {
        forget(&next);
        return None;
    }
    if own.ca.parent() != own.cert.parent() {
        let message = "the coordinator names authorities that are not in this file, and it is not beside the certificate, so \
                       this agent leaves it alone";
        let remedy = "put them there before coordinators use them: enrolment.ca_cert of a coordinator has them";
        return (!wanted.is_subset(&has)).then(|| remark(own, message, remedy));
    }
    let written = files::replace(&next, came.as_bytes(), 0o644, Durability::Synced);
    written.err().map(|error| {
        let message = format!("the authorities that came with the certificate cannot be written: {}", chain(&error));
        remark(own, &message, "make the directory writable for the agent; the next renewal brings them again")
    })
}

fn remark(own: &ClientFiles, message: &str, remedy: &str) -> Problem {
    Problem::warning(NOT_TAKEN, message, remedy).in_file(&own.ca)
}

/// The file that waits, if there is one.
pub(super) fn waiting(own: &ClientFiles) -> Option<PathBuf> {
    let next = next_of(&own.ca);
    (own.ca.parent() == own.cert.parent() && next.exists()).then_some(next)
}

/// The file that waits was tried out: from now on this node trusts what is in it.
pub(super) fn take(own: &ClientFiles, next: &Path) -> Option<Problem> {
    let Err(error) = files::rename(next, &own.ca) else {
        info!(file = %own.ca.display(), "other authorities are trusted from now on");
        return None;
    };
    let message = format!("the authorities that came with the certificate cannot be put in place: {}", chain(&error));
    Some(remark(own, &message, "make the directory writable for the agent; the next renewal brings them again"))
}

/// The file that waits vouches for no coordinator that answers: the old one stays.
pub(super) fn refuse(own: &ClientFiles, next: &Path) -> Problem {
    forget(next);
    let message = "the authorities that came with the certificate do not vouch for the coordinator: the old ones stay";
    let remedy = "add the authority of the coordinators' own certificates to enrolment.ca_cert there";
    remark(own, message, remedy)
}

fn forget(next: &Path) {
    // One that stays is tried out once more.
    drop(std::fs::remove_file(next));
}
