//! What limits or endangers TFO on a host although its keys are right: its kernel, its switch, a SYNPROXY.
//!
//! Wire v1: the names, which are the kinds of `check`'s problems too.  A later release may add some.

use crate::named::Named;
use crate::named_enum;
use crate::problem::Problem;

named_enum! {
    /// One of them.
    pub enum Caveat {
        /// Linux before 5.3.
        OldKernel = "old_kernel",
        /// A kernel in the range of CVE-2025-40186, by version.
        Cve202540186 = "cve_2025_40186",
        /// A kernel in the range of CVE-2025-39955, by version.
        Cve202539955 = "cve_2025_39955",
        /// A SYNPROXY has answered SYNs.
        Synproxy = "synproxy",
        /// `tcp_fastopen` without 0x2.
        TfoOff = "tfo_off",
        /// `tcp_fastopen` with 0x2 and 0x200.
        NoCookieNeeded = "no_cookie_needed",
        /// `tcp_fastopen` with bits that have no effect.
        IdleBits = "idle_bits",
    }
}

/// Bit 0x2 of `tcp_fastopen`: the server side of TFO is on.
pub const SERVER_BIT: i32 = 0x2;
/// Bit 0x200: the server side takes data with any cookie or none, so keys mean nothing (docs/kernel.md#when-a-key-takes-effect).
pub const SERVER_WITHOUT_COOKIE_BIT: i32 = 0x200;
/// Bit 0x400: every listener does TFO.
pub const EVERY_LISTENER_BIT: i32 = 0x400;
/// Bits of the client's side: with a cookie, and without one.
pub const CLIENT_BITS: [i32; 2] = [0x1, 0x4];
/// All bits that have a meaning (ip-sysctl `tcp_fastopen`; Linux `include/net/tcp.h`).
const MEANT: i32 = CLIENT_BITS[0] | CLIENT_BITS[1] | SERVER_BIT | SERVER_WITHOUT_COOKIE_BIT | EVERY_LISTENER_BIT;
/// The bits that do something only beside [`SERVER_BIT`].
const SERVER_ONLY: i32 = SERVER_WITHOUT_COOKIE_BIT | EVERY_LISTENER_BIT;

impl Caveat {
    /// What a value of `tcp_fastopen` means for a server whose keys are shared.
    pub fn of_bits(bits: i32) -> impl Iterator<Item = Self> {
        let is_on = bits & SERVER_BIT != 0;
        let idle = bits & !MEANT != 0 || !is_on && bits & SERVER_ONLY != 0;
        let found = [
            (!is_on, Self::TfoOff),
            (is_on && bits & SERVER_WITHOUT_COOKIE_BIT != 0, Self::NoCookieNeeded),
            (idle, Self::IdleBits),
        ];
        found.into_iter().filter_map(|(is, caveat)| is.then_some(caveat))
    }

    /// What is so, in a few words: for a list of nodes.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::OldKernel => "kernel before 5.3",
            Self::Cve202540186 => "kernel in the range of CVE-2025-40186 by version (a distribution may have fixed it)",
            Self::Cve202539955 => "kernel in the range of CVE-2025-39955 by version (a distribution may have fixed it)",
            Self::Synproxy => "behind a SYNPROXY, which knows no TFO",
            Self::TfoOff => "server side of TFO off",
            Self::NoCookieNeeded => "takes data without a cookie (0x200)",
            Self::IdleBits => "tcp_fastopen has bits without effect",
        }
    }

    /// The same of one that another release may have named, by its name if it is unknown.
    #[must_use]
    pub fn shown(named: &Named<Self>) -> &str {
        match named.known() {
            Some(caveat) => caveat.short(),
            None => named.as_str(),
        }
    }

    /// What is so, without its subject: a host, its kernel, or one of its namespaces.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::OldKernel => "has no backup slot and makes other cookies from the same key",
            Self::Cve202540186 => {
                "is in the range of CVE-2025-40186 (a SYN with data can free memory twice while a listener closes), by version: a \
                 distribution may have fixed it"
            }
            Self::Cve202539955 => {
                "is in the range of CVE-2025-39955 (a TFO connection that is disconnected and used again keeps a stale request), by \
                 version: a distribution may have fixed it"
            }
            Self::Synproxy => {
                "a SYNPROXY answers SYNs, and it knows no TFO: connections through it send no data in the SYN"
            }
            Self::TfoOff => "the server side of TFO is off (net.ipv4.tcp_fastopen has no 0x2)",
            Self::NoCookieNeeded => {
                "the server accepts data with any cookie or none (bit 0x200), so keys have no effect"
            }
            Self::IdleBits => {
                "net.ipv4.tcp_fastopen has bits that have no effect: unknown ones, or 0x200 or 0x400 without 0x2"
            }
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::OldKernel => "use Linux 5.3 or later: this node cannot share keys with newer ones",
            Self::Cve202540186 | Self::Cve202539955 => {
                "ask your distribution whether its kernel has the fix, and update it if not; until then do not serve TFO to a network that \
                 you do not trust"
            }
            Self::Synproxy => {
                "exempt the ports with TFO from SYNPROXY, or leave it so on purpose and expect no TFO there"
            }
            Self::TfoOff => "set net.ipv4.tcp_fastopen = 3, unless it is off on purpose",
            Self::NoCookieNeeded => "remove 0x200 from net.ipv4.tcp_fastopen, unless it is set on purpose",
            Self::IdleBits => "write the bits that are meant: 0x1 client, 0x2 server, 0x400 every listener",
        }
    }

    /// The same as a problem of `subject`, such as `kernel 6.1.155` or `namespace own:`.
    #[must_use]
    pub fn problem(self, subject: &str) -> Problem {
        let message = format!("{subject} {}", self.sentence());
        match self {
            // It cannot share keys at all.
            Self::OldKernel => Problem::error(self.as_str(), message, self.remedy()),
            _ => Problem::warning(self.as_str(), message, self.remedy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::problem::Severity;

    #[test]
    fn bits_are_judged_as_the_kernel_reads_them() {
        use Caveat::{IdleBits, NoCookieNeeded, TfoOff};
        let rows: [(i32, &[Caveat]); 10] = [
            (0, &[TfoOff]),
            (1, &[TfoOff]),
            (2, &[]),
            (3, &[]),
            (7, &[]),
            (0x403, &[]),
            (0x203, &[NoCookieNeeded]),
            (0x401, &[TfoOff, IdleBits]),
            (4096 | 3, &[IdleBits]),
            (-1, &[NoCookieNeeded, IdleBits]),
        ];
        for (bits, expected) in rows {
            assert_eq!(Caveat::of_bits(bits).collect::<Vec<_>>(), expected, "{bits:#x}");
        }
    }

    #[test]
    fn each_is_a_problem_with_a_remedy_and_one_keeps_its_node_from_sharing_keys() {
        for caveat in Caveat::ALL {
            let problem = caveat.problem("kernel 6.1.155");
            assert_eq!(problem.kind, caveat.as_str());
            assert_eq!(problem.message, format!("kernel 6.1.155 {}", caveat.sentence()));
            assert_eq!(problem.remedy, caveat.remedy());
            assert_eq!(problem.severity == Severity::Error, caveat == Caveat::OldKernel, "{caveat}");
        }
    }

    #[test]
    fn each_has_words_of_its_own() {
        let distinct = |of: fn(Caveat) -> &'static str| Caveat::ALL.map(of).into_iter().collect::<BTreeSet<_>>().len();
        let all = Caveat::ALL.len();
        assert_eq!((distinct(Caveat::short), distinct(Caveat::sentence)), (all, all));
        assert_eq!(distinct(Caveat::remedy), all - 1, "the two faults of kernels have one");
    }

    #[test]
    fn one_of_a_later_release_is_shown_by_its_name() {
        let shown = |name: &str| Caveat::shown(&name.parse().unwrap()).to_owned();
        assert_eq!((shown("tfo_off"), shown("later")), (Caveat::TfoOff.short().to_owned(), "later".to_owned()));
    }
}
