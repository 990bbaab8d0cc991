//! What `check` asks a cluster besides what opening the store does: whether our user may write below the prefix, and how full
//! the members' databases are.  Changes nothing.

use super::client::{Client, EtcdSettings};
use super::keys::Keys;
use super::wire::{Compare, Operation, Transaction};
use crate::error::StoreError;
use tfo_model::problem::Problem;

/// From here on a database counts as nearly full, as a share of its quota.
const FULL_PERCENT: f64 = 70.0;
/// The gauges of a member for that.
const SIZE: &str = "etcd_mvcc_db_total_size_in_bytes";
const QUOTA: &str = "etcd_server_quota_backend_bytes";

impl EtcdSettings {
    /// Looks at the cluster; gives what an operator has to know before a write fails.
    ///
    /// # Errors
    /// Fails if no member answers, or if the user may not write.
    pub fn examine(self) -> Result<Vec<Problem>, StoreError> {
        let keys = Keys::new(self.prefix.clone());
        let client = Client::new(self).map_err(|failure| failure.at("use", "etcd"))?;
        let place = format!("etcd at {}, {}", client.members(), keys.prefix());
        // Members look at the rights to both branches of a transaction before they look at what it compares.
        let never = Transaction {
            compare: vec![Compare::is_of(&keys.meta(), -1)],
            success: vec![Operation::put(&keys.meta(), Vec::new())],
            failure: Vec::new(),
        };
        client.write(&never).map_err(|failure| failure.at("write", &place))?;
        Ok(client.metrics().iter().filter_map(|(member, metrics)| nearly_full(member, metrics)).collect())
    }
}

/// The warning for a member, by its metrics.
fn nearly_full(member: &str, metrics: &str) -> Option<Problem> {
    let gauge = |name: &str| -> Option<f64> {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse().ok().filter(|value| *value > 0.0)
    };
    let (size, quota) = (gauge(SIZE)?, gauge(QUOTA)?);
    let percent = size / quota * 100.0;
    (percent >= FULL_PERCENT).then(|| {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let message = format!(
            "the database of etcd at {member} has {:.0} MiB, {percent:.0} % of its quota of {:.0} MiB; when it is full, every write is \
             refused",
            mib(size),
            mib(quota)
        );
        let remedy = "set --auto-compaction-retention, then `etcdctl compact` and `etcdctl defrag`; or raise --quota-backend-bytes";
        Problem::warning("store_nearly_full", message, remedy).at_key("store")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_nearly_full_by_its_own_quota() {
        let of = |size: &str, quota: &str| {
            let metrics = format!(
                "# HELP {SIZE} Total size.\n# TYPE {SIZE} gauge\n{SIZE} {size}\n{SIZE}_other 9\n{QUOTA} {quota}\n"
            );
            nearly_full("https://etcd1:2379", &metrics).map(|problem| problem.message)
        };
        assert_eq!(of("1.4e+09", "2.147483648e+09"), None);
        let told = of("1.610612736e+09", "2.147483648e+09").unwrap();
        assert!(told.contains("1536 MiB, 75 % of its quota of 2048 MiB"), "{told}");
        assert_eq!((of("9", "0"), of("x", "2e9")), (None, None));
        assert_eq!(nearly_full("u", ""), None, "an etcd that shows no metrics there");
    }
}
