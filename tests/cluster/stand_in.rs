//! This test program in a coordinator's place (`tfo_testbed::cluster::stand_in`): with a rule switched off, or as the release
//! after this one.

use tfo_coordinator::serve::serve_as;
use tfo_store::ETCD_SCHEMA;
use tfo_testbed::cluster::stand_in;

use super::without::{Rule, StoreWithout};

/// The role of a release that writes a later schema.
pub(crate) const LATER: &str = "later_schema";

/// Serves as `tfo-coordinator serve --config` does, if this process was started for that.
pub(crate) fn serves() -> bool {
    let Some((role, config)) = stand_in::one() else { return false };
    let config = config.as_ref();
    let outcome = if role == LATER {
        serve_as(config, ETCD_SCHEMA + 1, |store| store)
    } else {
        serve_as(config, ETCD_SCHEMA, |store| StoreWithout::around(store, Rule::named(&role)))
    };
    assert_eq!(format!("{outcome:?}"), "Done");
    true
}
