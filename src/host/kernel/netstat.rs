//! The kernel's TFO counters, read by name.
//!
//! They are per network namespace.  Columns move between kernels and some kernels lack some of them (docs/kernel.md#counters),
//! so a counter that is not there is missing, never 0, and never an error.

use std::io;
use std::path::Path;

/// The counters of the calling thread's namespace; `/proc/net/netstat` would show those of the process's main thread.
pub const NETSTAT_PATH: &str = "/proc/thread-self/net/netstat";

/// The group that holds them: one line of names and one of values start with it.
const GROUP: &str = "TcpExt:";

/// The TFO counters and their two companions, each since the namespace was made (Linux `net/ipv4/proc.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TfoCounters {
    /// Client: data in the SYN was acknowledged.
    pub active: Option<u64>,
    /// Client: data in the SYN was not acknowledged, or the SYN was sent again.
    pub active_fail: Option<u64>,
    /// Server: a cookie of either key fitted.
    pub passive: Option<u64>,
    /// Server: a cookie was presented, and no key fits it.
    pub passive_fail: Option<u64>,
    /// Server: of `passive`, those whose cookie was of the backup key.
    pub passive_alt_key: Option<u64>,
    /// Server: no TFO for this SYN, because the listener's TFO queue was full.
    pub listen_overflow: Option<u64>,
    /// Server: a SYN asked for a cookie.
    pub cookie_reqd: Option<u64>,
    /// Client: TFO was switched off for a while, because a middlebox swallowed packets.
    pub blackhole: Option<u64>,
    /// SYNs (client) and SYN/ACKs (server) that were sent again.
    pub syn_retrans: Option<u64>,
    /// Data segments, each counted when first sent.
    pub orig_data_sent: Option<u64>,
}

impl TfoCounters {
    /// Picks the counters out of the text of `/proc/net/netstat`.  Values beyond the names, names beyond the values, and values that
    /// are not a number are missing.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut lines = text.lines();
        while let Some(names) = lines.next() {
            let Some(names) = names.strip_prefix(GROUP) else { continue };
            let Some(values) = lines.next().and_then(|line| line.strip_prefix(GROUP)) else { break };
            for (name, value) in names.split_ascii_whitespace().zip(values.split_ascii_whitespace()) {
                if let Some(counter) = found.by_kernel_name(name) {
                    *counter = value.parse().ok();
                }
            }
        }
        found
    }

    /// Reads them from `path`, usually [`NETSTAT_PATH`].
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is not text.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string(path)?))
    }

    /// The sum; a counter that only one of the two has is that one's.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |one: Option<u64>, two: Option<u64>| match (one, two) {
            (Some(one), Some(two)) => Some(one.saturating_add(two)),
            (one, two) => one.or(two),
        };
        Self {
            active: sum(self.active, other.active),
            active_fail: sum(self.active_fail, other.active_fail),
            passive: sum(self.passive, other.passive),
            passive_fail: sum(self.passive_fail, other.passive_fail),
            passive_alt_key: sum(self.passive_alt_key, other.passive_alt_key),
            listen_overflow: sum(self.listen_overflow, other.listen_overflow),
            cookie_reqd: sum(self.cookie_reqd, other.cookie_reqd),
            blackhole: sum(self.blackhole, other.blackhole),
            syn_retrans: sum(self.syn_retrans, other.syn_retrans),
            orig_data_sent: sum(self.orig_data_sent, other.orig_data_sent),
        }
    }

    /// The counter that the kernel calls so.
    #[must_use]
    pub fn get(mut self, kernel_name: &str) -> Option<u64> {
        self.by_kernel_name(kernel_name).and_then(|counter| *counter)
    }

    fn by_kernel_name(&mut self, name: &str) -> Option<&mut Option<u64>> {
        Some(match name {
            "TCPFastOpenActive" => &mut self.active,
            "TCPFastOpenActiveFail" => &mut self.active_fail,
            "TCPFastOpenPassive" => &mut self.passive,
            "TCPFastOpenPassiveFail" => &mut self.passive_fail,
            "TCPFastOpenPassiveAltKey" => &mut self.passive_alt_key,
            "TCPFastOpenListenOverflow" => &mut self.listen_overflow,
            "TCPFastOpenCookieReqd" => &mut self.cookie_reqd,
            "TCPFastOpenBlackhole" => &mut self.blackhole,
            "TCPSynRetrans" => &mut self.syn_retrans,
            "TCPOrigDataSent" => &mut self.orig_data_sent,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn counters_are_found_by_name_wherever_their_column_is() {
        let all = "IpExt: InNoRoutes TCPFastOpenActive\nIpExt: 98 99\n\
            TcpExt: SyncookiesSent TCPFastOpenPassiveAltKey TCPFastOpenActive TCPFastOpenActiveFail TCPFastOpenPassive \
            TCPFastOpenPassiveFail TCPFastOpenListenOverflow TCPFastOpenCookieReqd TCPFastOpenBlackhole TCPSynRetrans TCPOrigDataSent\n\
            TcpExt: 90 5 1 2 3 4 6 7 8 9 18446744073709551615\n";
        let expected = TfoCounters {
            active: Some(1),
            active_fail: Some(2),
            passive: Some(3),
            passive_fail: Some(4),
            passive_alt_key: Some(5),
            listen_overflow: Some(6),
            cookie_reqd: Some(7),
            blackhole: Some(8),
            syn_retrans: Some(9),
            orig_data_sent: Some(u64::MAX),
        };
        assert_eq!(TfoCounters::parse(all), expected);
    }

    #[test]
    fn what_a_kernel_lacks_is_missing_and_not_zero() {
        let old = "TcpExt: TCPFastOpenPassive TCPFastOpenPassiveFail\nTcpExt: 0 4\n";
        let expected = TfoCounters { passive: Some(0), passive_fail: Some(4), ..TfoCounters::default() };
        assert_eq!(TfoCounters::parse(old), expected);
        for none in ["", "TcpExt:", "TcpExt: TCPFastOpenPassive", "TcpExt: TCPFastOpenPassive\nIpExt: 1\n"] {
            assert_eq!(TfoCounters::parse(none), TfoCounters::default(), "{none:?}");
        }
    }

    #[test]
    fn lines_of_unlike_length_and_strange_values_are_missing() {
        let short = "TcpExt: TCPFastOpenPassive TCPFastOpenPassiveFail\nTcpExt: 3\n";
        assert_eq!(TfoCounters::parse(short), TfoCounters { passive: Some(3), ..TfoCounters::default() });
        let strange = "TcpExt: TCPFastOpenActive TCPFastOpenPassive TCPFastOpenPassiveFail\nTcpExt: -1 x 7 8 9\n";
        assert_eq!(TfoCounters::parse(strange), TfoCounters { passive_fail: Some(7), ..TfoCounters::default() });
    }

    #[test]
    fn this_kernel_has_the_counters_of_a_rotation() {
        let here = TfoCounters::read(Path::new(NETSTAT_PATH)).unwrap();
        assert!(here.passive.is_some() && here.passive_fail.is_some(), "{here:?}");
        assert!(TfoCounters::read(Path::new("/nonexistent/netstat")).is_err());
    }

    proptest! {
        #[test]
        fn a_text_without_the_names_has_no_counter(text in any::<String>()) {
            prop_assert_eq!(TfoCounters::parse(&text), TfoCounters::default());
            prop_assert_eq!(TfoCounters::parse(&format!("TcpExt: {text}\nTcpExt: {text}")), TfoCounters::default());
        }
    }
}
