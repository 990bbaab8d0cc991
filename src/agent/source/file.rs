//! Keys that another program distributes: a file with kernel text, installed when it changes.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Offer, desired};
use tfo_config::reader::Located;
use tfo_engine::reconcile::ClockUse;
use tfo_host::secret::SecretPath;
use tfo_model::problem::Problem;
use tfo_model::state::Phase;

/// The keys that the file holds now.
pub(super) fn offer(path: &Located<SecretPath>, config: &Path) -> Result<Offer, Problem> {
    let keys = super::read_key_file(path, config)?;
    Ok(Offer {
        desired: desired(keys, [None; 2], Phase::Steady, None),
        clock: ClockUse::None,
        generators: BTreeMap::new(),
        joints: Vec::new(),
    })
}
