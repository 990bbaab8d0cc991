//! For whom a revocation list that is out of date is good enough.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls_pki_types::CertificateDer;

use super::identity::Peer;

/// Tells for whom a revocation list that is out of date is good enough: operators must be able to come and renew it.  What it
/// revokes stays revoked.  Empty until the server knows its operators.
#[derive(Clone, Default)]
pub(super) struct Grace(Arc<OnceLock<Who>>);

type Who = Box<dyn Fn(&Peer) -> bool + Send + Sync>;

impl Grace {
    /// Sets it, once.
    pub(super) fn give_to(&self, who: impl Fn(&Peer) -> bool + Send + Sync + 'static) {
        if self.0.set(Box::new(who)).is_err() {
            tracing::debug!("who has grace is already known");
        }
    }

    pub(super) fn is_for(&self, certificate: &CertificateDer<'_>) -> bool {
        self.0.get().is_some_and(|who| Peer::of(certificate).is_ok_and(|peer| who(&peer)))
    }
}

impl fmt::Debug for Grace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grace")
    }
}
