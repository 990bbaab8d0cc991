//! Certificates of this authority that nodes show and the store does not know: of the time after a backup that was restored, or
//! issued by hand.  They are recorded at the first contact, so that a deny or a forget revokes them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use super::Enrolment;
use tfo_host::runtime::clock;
use tfo_host::runtime::log;
use tfo_model::ids::NodeId;
use tfo_model::serial::SerialNumber;
use tfo_store::enrolment::Shown;
use tfo_tls::identity::Peer;

/// Most serial numbers that are remembered as looked up; more than nodes with open connections.
const MET_MAX: usize = 200_000;

/// Serial numbers that were looked up in this life.
pub(super) type Met = BTreeSet<SerialNumber>;

impl Enrolment {
    /// Looks whether the certificate that this node shows is recorded, once in this life, and not before the node is answered.
    pub fn meet(self: &Arc<Self>, peer: &Peer, node: &NodeId, from: IpAddr) {
        // Other serial numbers, and certificates with several names, are not of this authority.
        let Ok(serial) = peer.serial.to_string().parse::<SerialNumber>() else { return };
        if peer.issuer != self.subject || peer.names.len() != 1 || !self.is_first(serial) {
            return;
        }
        let (own, node, not_after) = (Arc::clone(self), node.clone(), peer.not_after);
        tokio::task::spawn_blocking(move || {
            let at = clock::now();
            let shown = Shown { serial, node: &node, not_after, at, from: Some(from) };
            // Most are there: a look costs no write.
            let known = own.store.certificates(&node).map(|all| all.iter().any(|one| one.serial == serial));
            let met = known.and_then(|known| if known { Ok(false) } else { own.store.meet(&shown) });
            match met {
                Ok(false) => {}
                Ok(true) => tracing::warn!(
                    %node, %serial, until = %not_after,
                    "this node has a certificate that was not recorded; it is now, and goes with the node"
                ),
                Err(error) => {
                    own.met.lock().unwrap_or_else(PoisonError::into_inner).remove(&serial);
                    log::problem(&error.problem());
                }
            }
        });
    }

    fn is_first(&self, serial: SerialNumber) -> bool {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.len() >= MET_MAX {
            met.clear();
        }
        met.insert(serial)
    }
}
