//! What nodes say of themselves.  Most nodes of a fleet say the same, so each description is there once.
//!
//! Must not know: what it means.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::pool::message::Described;
use tfo_model::ids::NodeId;

/// With fewer different descriptions those that no node has any more are not looked for.
const KINDS_MIN: usize = 64;

/// The latest description of each node.
#[derive(Default)]
pub(super) struct Descriptions {
    of_each: BTreeMap<NodeId, Arc<Described>>,
    kinds: HashSet<Arc<Described>>,
    /// How many were in use when the others were forgotten last.
    in_use: usize,
}

impl Descriptions {
    /// Takes in what a node says now.  Whether its note is another one than before.
    pub(super) fn put(&mut self, node: &NodeId, described: Described) -> bool {
        let before = self.of_each.get_mut(node);
        if before.as_ref().is_some_and(|before| ***before == described) {
            return false;
        }
        let is_other = before.as_ref().and_then(|before| before.note.as_ref()) != described.note.as_ref();
        let kind = self.kinds.get(&described).cloned().unwrap_or_else(|| {
            let kind = Arc::new(described);
            self.kinds.insert(Arc::clone(&kind));
            kind
        });
        match before {
            Some(before) => *before = kind,
            None => drop(self.of_each.insert(node.clone(), kind)),
        }
        if self.kinds.len() > KINDS_MIN.max(2 * self.in_use) {
            self.kinds.retain(|kind| Arc::strong_count(kind) > 1);
            self.in_use = self.kinds.len();
        }
        is_other
    }

    /// Forgets those of other nodes.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&NodeId) -> bool) {
        self.of_each.retain(|node, _| is_kept(node));
    }

    pub(super) fn len(&self) -> usize {
        self.of_each.len()
    }

    /// In the order of the nodes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Described)> {
        self.of_each.iter().map(|(node, described)| (node, &**described))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(kernel: usize, note: Option<&str>) -> Described {
        Described {
            kernel: format!("6.1.{kernel}"),
            agent: "0.2.0".to_owned(),
            tcp_fastopen: Some(3),
            error: None,
            note: note.map(str::to_owned),
            caveats: Vec::new(),
            namespaces: None,
            waits: true,
        }
    }

    #[test]
    fn what_many_say_is_there_once_and_what_no_node_says_any_more_is_forgotten() {
        let mut all = Descriptions::default();
        let [a, b]: [NodeId; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        assert!(!all.put(&a, says(1, None)) && !all.put(&b, says(1, None)), "no note is none that has changed");
        assert!(Arc::ptr_eq(&all.of_each[&a], &all.of_each[&b]) && all.kinds.len() == 1);
        assert!(all.put(&a, says(1, Some("n"))) && !all.put(&a, says(1, Some("n"))) && all.put(&a, says(2, None)));
        for kernel in 0..10 * KINDS_MIN {
            all.put(&b, says(kernel, None));
            assert!(all.kinds.len() <= KINDS_MIN + 1, "{kernel}");
        }
        let kernels: Vec<(&str, &str)> = all.iter().map(|(node, said)| (node.as_str(), said.kernel.as_str())).collect();
        assert_eq!(kernels, [("a", "6.1.2"), ("b", "6.1.639")]);
        all.retain(|node| *node == a);
        assert_eq!(all.len(), 1);
    }
}
