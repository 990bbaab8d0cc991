//! The test's own program in a coordinator's place: the shipped library, with something in it that is not as shipped, such as a rule
//! that is switched off, or a later schema.  The shipped program has no switch for that.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::wires::Place;
use super::{COORDINATORS, Cluster};
use crate::test_executable;

/// Variables of such a coordinator: its role, and its configuration.
const ROLE: &str = "TFO_TEST_ROLE";
const CONFIG: &str = "TFO_TEST_CONFIG";

/// What stands in for a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandIn {
    /// The test that serves if it is started as [`one`].
    pub test: &'static str,
    /// What is not as shipped.
    pub role: &'static str,
}

impl StandIn {
    /// For all coordinators.
    pub fn for_all(self) -> BTreeMap<usize, Self> {
        (0..COORDINATORS).map(|number| (number, self)).collect()
    }

    /// Starts it on this host, with this configuration.
    pub(super) fn command(self, place: &Place, config: &Path) -> Command {
        let mut command = place.command(&test_executable().display().to_string());
        command.args(["--exact", self.test, "--nocapture"]).env(ROLE, self.role).env(CONFIG, config);
        command
    }
}

/// Role and configuration, if this process was started as a stand-in.
pub fn one() -> Option<(String, String)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, std::env::var(CONFIG).expect("the bed sets both")))
}

impl Cluster {
    /// Restarts a coordinator in order, as another program or as the shipped one, and waits until it serves.
    #[track_caller]
    pub fn replace(&mut self, number: usize, by: Option<StandIn>) {
        self.stop(number);
        self.stand_ins.remove(&number);
        self.stand_ins.extend(by.map(|stand_in| (number, stand_in)));
        self.spawn(number);
        self.serves(number);
    }
}
