//! For whom a revocation list that is out of date is good enough.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls_pki_types::CertificateDer;

use super::identity::Peer;
use super::spiffe::TrustDomain;

/// Tells for whom a revocation list that is out of date is good enough: operators must be able to come and renew it.  What it
/// revokes stays revoked.  Empty until the server knows its operators.
#[derive(Clone, Default)]
pub(super) struct Grace {
    who: Arc<OnceLock<Who>>,
    domain: Option<TrustDomain>,
}

type Who = Box<dyn Fn(&Peer) -> bool + Send + Sync>;

impl Grace {
    /// For peers that may be named by IDs of this domain.
    pub(super) fn within(domain: Option<TrustDomain>) -> Self {
        Self { domain, ..Self::default() }
    }

    /// Sets it, once.
    pub(super) fn give_to(&self, who: impl Fn(&Peer) -> bool + Send + Sync + 'static) {
        if self.who.set(Box::new(who)).is_err() {
            tracing::debug!("who has grace is already known");
        }
    }

    pub(super) fn is_for(&self, certificate: &CertificateDer<'_>) -> bool {
        let peer = || Peer::within(certificate, self.domain.as_ref());
        self.who.get().is_some_and(|who| peer().is_ok_and(|peer| who(&peer)))
    }
}

impl fmt::Debug for Grace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grace")
    }
}
