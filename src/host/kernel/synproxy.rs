//! Whether a SYNPROXY stands in front of the listeners of a network namespace.
//!
//! It answers SYNs itself, without a TFO option (Linux `net/netfilter/nf_synproxy_core.c`, which knows MSS, window scale, SACK and
//! timestamps alone).  Its rules may be iptables' or nftables', so what it has counted tells more than any rule.

/// Its counters in the calling thread's namespace, one line for each processor, in hexadecimal.
const STAT_PATH: &str = "/proc/thread-self/net/stat/synproxy";
/// The column with the SYNs that it has answered.
const COLUMN: &str = "syn_received";

/// Whether it has answered a SYN in the calling thread's network namespace since that was made; no kernel without a SYNPROXY
/// has the file.
#[must_use]
pub fn has_answered() -> bool {
    std::fs::read_to_string(STAT_PATH).is_ok_and(|text| counts(&text))
}

fn counts(text: &str) -> bool {
    let mut lines = text.lines().map(|line| line.split_whitespace());
    let Some(at) = lines.next().and_then(|mut names| names.position(|name| name == COLUMN)) else { return false };
    lines.any(|mut line| line.nth(at).and_then(|count| u64::from_str_radix(count, 16).ok()).is_some_and(|n| n > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_syns_are_found_by_name_on_any_processor() {
        let names = "entries\t\tsyn_received\tcookie_invalid\n";
        assert!(!counts(&format!("{names}00000000\t00000000\t00000009\n")));
        assert!(counts(&format!("{names}00000000\t00000000\t00000000\n00000000\t0000000a\t00000000\n")));
        assert!(counts("syn_received entries\n1 0\n"), "wherever the column is");
        for none in ["", names, "entries\n1\n", "entries syn_received\n1\n", "entries syn_received\n1 x\n"] {
            assert!(!counts(none), "{none:?}");
        }
    }
}
