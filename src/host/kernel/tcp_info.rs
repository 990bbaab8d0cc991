//! What `TCP_INFO` reports about the data in a client's SYN (Linux `include/uapi/linux/tcp.h`, docs/kernel.md#client-side).

/// `tcpi_options`: the data in the SYN was acknowledged (`TCPI_OPT_SYN_DATA`).
const OPTION_SYN_DATA: u8 = 32;

/// What became of the data in a client's SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SynData {
    /// The server took it.
    Accepted,
    /// There was none: the kernel had no cookie for this server, and asked for one.
    Asked,
    /// It was sent and not acknowledged: the cookie was of no use, or the server does no TFO now.
    Rejected,
    /// Its SYN was lost, and a plain one was sent after it, a second later.
    Lost,
    /// Fast Open was not tried: another way to connect, or the kernel has switched it off for a while.
    Untried,
}

impl SynData {
    /// From the first 8 bytes of the client's `struct tcp_info`.
    #[must_use]
    pub fn of(info: [u8; 8]) -> Self {
        let [_, _, _, _, _, options, _, flags] = info;
        // `tcpi_fastopen_client_fail`: a bit field of 1 and 2 bits, which C compilers fill from the machine's own end.
        let client_fail = if cfg!(target_endian = "big") { flags >> 5 } else { flags >> 1 } & 3;
        match client_fail {
            _ if options & OPTION_SYN_DATA != 0 => Self::Accepted,
            1 => Self::Asked,
            2 => Self::Rejected,
            3 => Self::Lost,
            _ => Self::Untried,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn every_row_of_what_was_observed() {
        let of = |options, fail: u8| SynData::of([1, 0, 0, 0, 0, options, 0, fail << 1 | 1]);
        let seen = [of(0, 1), of(32, 0), of(0, 2), of(0, 3), of(0, 0)];
        use SynData::{Accepted, Asked, Lost, Rejected, Untried};
        assert_eq!(seen, [Asked, Accepted, Rejected, Lost, Untried]);
        assert_eq!(of(32 | 7, 0), Accepted, "among the other options");
    }
}
