//! Keys that somebody else distributes: a file with kernel text, installed when it changes.

use std::path::Path;

use super::{Offer, desired};
use crate::config::reader::Located;
use crate::config::secret::SecretPath;
use crate::engine::reconcile::ClockUse;
use crate::kernel::text;
use crate::model::problem::Problem;
use crate::model::state::Phase;

/// Longest file that is read, in bytes: two keys, and room to see that there is more.
const KEY_FILE_BYTES_MAX: usize = 256;

/// The keys that the file holds now.
pub(super) fn offer(path: &Located<SecretPath>, config: &Path) -> Result<Offer, Problem> {
    let text = path.read_for(config, KEY_FILE_BYTES_MAX)?;
    let keys = text::parse(&text).map_err(|error| {
        let message = format!("{}: {error}", path.value);
        let remedy =
            "write primary[,backup] as net.ipv4.tcp_fastopen_key takes it, and nothing else; the installed keys stay";
        path.locate(config, Problem::error("key_text", message, remedy))
    })?;
    Ok(Offer { desired: desired(keys, [None; 2], Phase::Steady, None), clock: ClockUse::None, joints: Vec::new() })
}
