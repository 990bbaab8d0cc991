//! What namespaces that come and go have counted: a sum that never falls, although each takes its counters with it.

use std::collections::BTreeMap;
use std::path::Path;

use tfo_host::kernel::namespace::{Namespace, NamespaceIdentity};
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};

/// The counters of those that are there, as they were seen last, and of those that are gone.
#[derive(Debug, Default, Clone)]
pub struct Passing {
    /// By identity: what leads to a namespace changes while it is there, as the first process of a unit ends.
    there: BTreeMap<NamespaceIdentity, TfoCounters>,
    gone: TfoCounters,
}

impl Passing {
    /// Reads the counters of those of these that were found, which are all that are there now.
    pub fn look<'a>(&mut self, namespaces: impl Iterator<Item = &'a Namespace>) {
        let read = |namespace: &Namespace| namespace.within(|| TfoCounters::read(Path::new(NETSTAT_PATH))).ok()?.ok();
        self.take(namespaces.filter_map(|namespace| match namespace {
            Namespace::Found(found) => Some((found.identity(), read(namespace))),
            Namespace::Own | Namespace::Named(_) => None,
        }));
    }

    fn take(&mut self, seen: impl Iterator<Item = (NamespaceIdentity, Option<TfoCounters>)>) {
        let mut before = std::mem::take(&mut self.there);
        for (namespace, counters) in seen {
            let mut last = before.remove(&namespace);
            // Another one has its inode.
            if counters.zip(last).is_some_and(|(counters, last)| counters.passive < last.passive) {
                self.gone = self.gone.plus(last.take().unwrap_or_default());
            }
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
        let [a, b, c] = [1, 2, 3].map(|inode| NamespaceIdentity::new(4, inode));
        let counted = |passive| Some(TfoCounters { passive: Some(passive), ..TfoCounters::default() });
        let mut passing = Passing::default();
        assert_eq!(passing.total().passive, None);
        passing.take([(a, counted(5)), (b, counted(7))].into_iter());
        assert_eq!(passing.total().passive, Some(12));
        passing.take([(a, counted(6)), (b, None)].into_iter());
        assert_eq!(passing.total().passive, Some(13), "b could not be read");
        passing.take([(a, counted(6))].into_iter());
        assert_eq!(passing.total().passive, Some(13), "b is gone");
        passing.take([(a, counted(8)), (c, None)].into_iter());
        assert_eq!(passing.total().passive, Some(15));
        passing.take([(a, counted(3))].into_iter());
        assert_eq!(passing.total().passive, Some(18), "another one with the inode of a");
        passing.take([].into_iter());
        assert_eq!((passing.total().passive, passing.total().passive_fail), (Some(18), None));
    }
}
