//! Counts what happened to the clients, and gives the verdict.  Pure, apart from the counters that the clients share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tfo_host::kernel::netstat::TfoCounters;
use tfo_host::kernel::tcp_info::SynData;

/// Outcome of one connection.  docs/kernel.md#client-side has the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server accepted the data in the SYN.
    Accepted,
    /// The client presented a cookie, and the server did not accept the data.
    Rejected,
    /// The client had no cookie and asked for one.
    Asked,
    /// A packet was lost, so the kernel tried again without TFO.  Keys are not involved.
    Lost,
    /// The kernel did not try TFO.
    Untried,
    /// No connection, or no answer.
    Failed,
}

impl Outcome {
    const ALL: [Self; 6] = [Self::Accepted, Self::Rejected, Self::Asked, Self::Lost, Self::Untried, Self::Failed];

    /// Reads the first 8 bytes of a client's `struct tcp_info`.
    pub fn of(info: [u8; 8]) -> Self {
        match SynData::of(info) {
            SynData::Accepted => Self::Accepted,
            SynData::Asked => Self::Asked,
            SynData::Rejected => Self::Rejected,
            SynData::Lost => Self::Lost,
            SynData::Untried => Self::Untried,
        }
    }
}

/// Counts outcomes, separately for v4 and v6; shared by all clients.
#[derive(Debug, Default)]
pub struct Tally {
    v4: [AtomicU64; Outcome::ALL.len()],
    v6: [AtomicU64; Outcome::ALL.len()],
}

impl Tally {
    /// Counts one connection to `target`.
    pub fn count(&self, target: IpAddr, outcome: Outcome) {
        let counters = if target.is_ipv4() { &self.v4 } else { &self.v6 };
        counters[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    pub fn totals(&self) -> Totals {
        let read = |counters: &[AtomicU64]| {
            let count = |outcome: Outcome| counters[outcome as usize].load(Ordering::Relaxed);
            Outcome::ALL.map(count)
        };
        Totals { v4: read(&self.v4), v6: read(&self.v6) }
    }
}

/// Connections by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    v4: [u64; Outcome::ALL.len()],
    v6: [u64; Outcome::ALL.len()],
}

impl Totals {
    /// Connections with this outcome, over v4 and v6.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.v4[outcome as usize] + self.v6[outcome as usize]
    }

    /// Connections with this outcome to the v6 address.
    pub fn of_v6(&self, outcome: Outcome) -> u64 {
        self.v6[outcome as usize]
    }

    /// All connections.
    pub fn connections(&self) -> u64 {
        self.v4.iter().chain(&self.v6).sum()
    }

    /// Of the connections that presented a cookie, the share that was accepted; none before the first.
    #[expect(clippy::cast_precision_loss, reason = "a share to show; exact up to 2^53 connections")]
    pub fn accepted_share(&self) -> Option<f64> {
        let (accepted, rejected) = (self.of(Outcome::Accepted), self.of(Outcome::Rejected));
        (accepted + rejected > 0).then(|| accepted as f64 / (accepted + rejected) as f64)
    }

    fn accepted_in_both_families(&self) -> bool {
        [self.v4, self.v6].iter().all(|family| family[Outcome::Accepted as usize] > 0)
    }
}

/// The sum of one counter over all nodes; unknown if a node's kernel does not have it.
pub fn sum(nodes: &[TfoCounters], counter: fn(&TfoCounters) -> Option<u64>) -> Option<u64> {
    nodes.iter().map(counter).sum()
}

/// The facts that the verdict is based on.
#[derive(Debug)]
pub struct Evidence {
    /// Outcomes of all connections.
    pub totals: Totals,
    /// Sum over all nodes.
    pub passive_fail: Option<u64>,
    /// How often the whole fleet has changed to another primary.
    pub rotations: u16,
    /// None: until the user ends it.
    pub rotations_wanted: Option<u16>,
    /// Other faults: of agents, threads, timeouts.
    pub faults: Vec<String>,
}

impl Evidence {
    /// The faults of a run that is made to lose cookies.
    pub(crate) fn faults_of_naive(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        if self.rotations_wanted.is_some_and(|wanted| self.rotations < wanted) {
            faults.push("the naive rotations did not come to their end".to_owned());
        }
        if self.totals.of(Outcome::Rejected) == 0 {
            faults.push("the naive rotations lost no cookie, so the comparison proves nothing".to_owned());
        }
        faults
    }

    /// All faults; empty if the verdict is good.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        let mut fault = |wrong: bool, text: String| {
            if wrong {
                faults.push(text);
            }
        };
        let rejected = self.totals.of(Outcome::Rejected);
        fault(rejected > 0, format!("{rejected} connections with a cookie were rejected"));
        match self.passive_fail {
            None => fault(true, "this kernel does not count TCPFastOpenPassiveFail".to_owned()),
            Some(count) => fault(count > 0, format!("TCPFastOpenPassiveFail rose by {count} on the nodes")),
        }
        let failed = self.totals.of(Outcome::Failed);
        fault(failed > 0, format!("{failed} connections failed"));
        let silent = !self.totals.accepted_in_both_families();
        fault(silent, "no connection was accepted over v4, or none over v6, so the run proves nothing".to_owned());
        if let Some(wanted) = self.rotations_wanted {
            fault(self.rotations < wanted, format!("ended after {} of {wanted} rotations", self.rotations));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn tcp_info_is_read_as_the_kernel_writes_it() {
        let info = |options, flags| Outcome::of([1, 0, 0, 0, 0, options, 0x77, flags]);
        assert_eq!(info(32 | 7, 0), Outcome::Accepted);
        assert_eq!(info(7, 1 << 1), Outcome::Asked);
        assert_eq!(info(7, 2 << 1), Outcome::Rejected);
        assert_eq!(info(7, (2 << 1) | 1), Outcome::Rejected, "bit 0 is another field");
        assert_eq!(info(7, 3 << 1), Outcome::Lost);
        assert_eq!(info(7, 0), Outcome::Untried);
    }

    fn good() -> Evidence {
        let tally = Tally::default();
        for target in [V4, V6] {
            tally.count(target, Outcome::Asked);
            tally.count(target, Outcome::Accepted);
        }
        let totals = tally.totals();
        Evidence { totals, passive_fail: Some(0), rotations: 3, rotations_wanted: Some(3), faults: Vec::new() }
    }

    fn with(target: IpAddr, outcome: Outcome) -> Totals {
        let tally = Tally::default();
        tally.count(V4, Outcome::Accepted);
        tally.count(V6, Outcome::Accepted);
        tally.count(target, outcome);
        tally.totals()
    }

    #[test]
    fn a_good_run_has_no_fault_and_a_naive_one_has_to_lose_something() {
        assert_eq!(good().faults(), Vec::<String>::new());
        assert_eq!(good().faults_of_naive().len(), 1);
        let naive = Evidence { totals: with(V4, Outcome::Rejected), passive_fail: Some(1), ..good() };
        assert_eq!(naive.faults_of_naive(), Vec::<String>::new());
        assert_eq!(Evidence { rotations: 2, ..naive }.faults_of_naive().len(), 1);
    }

    #[test]
    fn every_single_fault_is_seen() {
        let bad = [
            Evidence { totals: with(V4, Outcome::Rejected), ..good() },
            Evidence { totals: with(V6, Outcome::Rejected), ..good() },
            Evidence { totals: with(V6, Outcome::Failed), ..good() },
            Evidence { totals: Totals::default(), ..good() },
            Evidence { passive_fail: Some(1), ..good() },
            Evidence { passive_fail: None, ..good() },
            Evidence { rotations: 2, ..good() },
            Evidence { faults: vec!["node1".to_owned()], ..good() },
        ];
        for evidence in bad {
            assert_eq!(evidence.faults().len(), 1, "{evidence:?}");
        }
        let one_family = Tally::default();
        one_family.count(V4, Outcome::Accepted);
        assert_eq!(Evidence { totals: one_family.totals(), ..good() }.faults().len(), 1);
    }

    #[test]
    fn losses_and_requests_are_no_rejections() {
        for outcome in [Outcome::Lost, Outcome::Asked, Outcome::Untried] {
            assert_eq!(Evidence { totals: with(V4, outcome), ..good() }.faults(), Vec::<String>::new());
        }
        assert_eq!(with(V4, Outcome::Lost).accepted_share(), Some(1.0));
        assert_eq!(Totals::default().accepted_share(), None);
    }

    #[test]
    fn a_counter_that_one_node_lacks_is_unknown_for_all() {
        let node = |passive_fail| TfoCounters { passive_fail, ..TfoCounters::default() };
        assert_eq!(sum(&[node(Some(1)), node(Some(2))], |node| node.passive_fail), Some(3));
        assert_eq!(sum(&[node(Some(1)), node(None)], |node| node.passive_fail), None);
    }
}
