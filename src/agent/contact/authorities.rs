//! What this node trusts: the authorities that came with a new certificate take the place of those in `ca`.
//!
//! So an authority can be replaced without a file copied to a node (docs/how-to/replace-the-ca.md).  Only a file beside the
//! certificate is this agent's to write; one elsewhere belongs to who put it there.  The new file waits beside the old one
//! (`….next`), is tried out with the new certificate, and takes its place before that: whatever ends in between, file and
//! certificate both work with the coordinator that sent them.
//!
//! Must not know: sockets.

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::renewal::next_of;
use tfo_host::runtime::files::{self, Durability};
use tfo_model::problem::chain;
use tfo_pki::issued::certificates;
use tfo_tls::client::ClientFiles;

/// Puts what came with a new certificate beside the file, if it is another content and the file is ours.  The certificate is
/// of use without it, so what cannot be written is only told.
pub(super) fn wait(own: &ClientFiles, came: &str) {
    let next = next_of(&own.ca);
    let has = std::fs::read_to_string(&own.ca).ok().and_then(|text| certificates(&text)).unwrap_or_default();
    let Some(wanted) = certificates(came) else { return };
    if has == wanted {
        return forget(&next);
    }
    if own.ca.parent() != own.cert.parent() {
        if !wanted.is_subset(&has) {
            warn!(
                file = %own.ca.display(),
                "the coordinator names authorities that are not in this file: before it uses them, put them there"
            );
        }
        return;
    }
    if let Err(error) = files::replace(&next, came.as_bytes(), 0o644, Durability::Synced) {
        warn!(file = %next.display(), error = chain(&error), "the authorities that came cannot be written; the old ones stay");
    }
}

/// The file that waits, if there is one.
pub(super) fn waiting(own: &ClientFiles) -> Option<PathBuf> {
    let next = next_of(&own.ca);
    (own.ca.parent() == own.cert.parent() && next.exists()).then_some(next)
}

/// The file that waits was tried out: from now on this node trusts what is in it.
pub(super) fn take(own: &ClientFiles, next: &Path) {
    match files::rename(next, &own.ca) {
        Ok(()) => info!(file = %own.ca.display(), "other authorities are trusted from now on"),
        Err(error) => warn!(file = %own.ca.display(), error = chain(&error), "the authorities that came cannot be put in place"),
    }
}

/// The file that waits vouches for no coordinator that answers: the old one stays.
pub(super) fn refuse(own: &ClientFiles, next: &Path) {
    warn!(
        file = %own.ca.display(),
        "the authorities that came with the certificate do not vouch for the coordinator: the old ones stay; see \
         enrolment.ca_cert there"
    );
    forget(next);
}

fn forget(next: &Path) {
    // One that stays is tried out once more.
    drop(std::fs::remove_file(next));
}
