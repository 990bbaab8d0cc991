//! How a daemon ends a reload of its configuration.

use std::path::Path;

use tfo_host::runtime::log;
use tfo_model::problem::{Problem, refusal};
use tracing::{info, warn};

/// Logs how a reload ended.  Returns what the status line shows until a reload succeeds; none for one that has succeeded.
///
/// `systemctl reload` itself shows no reason (docs/systemd.md), hence the status line.
#[must_use]
pub fn ended(config: &Path, taken: Result<(), Vec<Problem>>) -> Option<String> {
    let config = config.display();
    match taken {
        Ok(()) => {
            info!(%config, "reloaded");
            None
        }
        Err(problems) => {
            problems.iter().for_each(log::problem);
            warn!(%config, "refused the new configuration; keeping the old one");
            refusal(&problems)
        }
    }
}
