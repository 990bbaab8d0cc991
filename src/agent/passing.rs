//! What namespaces that come and go have counted: a sum that never falls, although each takes its counters with it.

use std::collections::BTreeMap;
use std::path::Path;

use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};

/// The counters of those that are there, as they were seen last, and of those that are gone.
#[derive(Debug, Default, Clone)]
pub struct Passing {
    there: BTreeMap<Namespace, TfoCounters>,
    gone: TfoCounters,
}

impl Passing {
    /// Reads the counters of these, which are all that are there now.
    pub fn look<'a>(&mut self, namespaces: impl Iterator<Item = &'a Namespace>) {
        let read = |namespace: &Namespace| namespace.within(|| TfoCounters::read(Path::new(NETSTAT_PATH))).ok()?.ok();
        self.take(namespaces.map(|namespace| (namespace.clone(), read(namespace))));
    }

    fn take(&mut self, seen: impl Iterator<Item = (Namespace, Option<TfoCounters>)>) {
        let mut before = std::mem::take(&mut self.there);
        for (namespace, counters) in seen {
            let last = before.remove(&namespace);
            // One that ends while it is read has counted what was read last.
            if let Some(counters) = counters.or(last) {
                self.there.insert(namespace, counters);
            }
        }
        self.gone = before.into_values().fold(self.gone, TfoCounters::plus);
    }

    /// What all of them have counted.
    #[must_use]
    pub fn total(&self) -> TfoCounters {
        self.there.values().copied().fold(self.gone, TfoCounters::plus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_keeps_what_those_have_counted_that_are_gone() {
        let named = |name: &str| Namespace::Named(name.parse().unwrap());
        let counted = |passive| Some(TfoCounters { passive: Some(passive), ..TfoCounters::default() });
        let mut passing = Passing::default();
        assert_eq!(passing.total().passive, None);
        passing.take([(named("a"), counted(5)), (named("b"), counted(7))].into_iter());
        assert_eq!(passing.total().passive, Some(12));
        passing.take([(named("a"), counted(6)), (named("b"), None)].into_iter());
        assert_eq!(passing.total().passive, Some(13), "b could not be read");
        passing.take([(named("a"), counted(6))].into_iter());
        assert_eq!(passing.total().passive, Some(13), "b is gone");
        passing.take([(named("a"), counted(8)), (named("c"), None)].into_iter());
        assert_eq!(passing.total().passive, Some(15));
        passing.take([].into_iter());
        assert_eq!((passing.total().passive, passing.total().passive_fail), (Some(15), None));
    }
}
