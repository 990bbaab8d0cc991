//! What has changed in a coordinator's copy of a pool since it looked at the copy last: a look without news looks at no node
//! (docs/protocol.md#rule-11).
//!
//! Invariant: a change that is not named here is one that no decision depends on, such as the counters of a node that was
//! heard and has nothing new to say.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use tfo_model::ids::NodeId;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    everything: bool,
    document: bool,
    nodes: BTreeSet<NodeId>,
}

impl Changes {
    /// Anything may have changed: a copy that was just read.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether anything may have changed.
    #[must_use]
    pub fn are_everything(&self) -> bool {
        self.everything
    }

    /// Whether the document has changed.
    #[must_use]
    pub fn are_of_document(&self) -> bool {
        self.everything || self.document
    }

    /// The nodes whose records have changed, appeared or vanished.  More than these if [`Self::are_everything`].
    #[must_use]
    pub fn nodes(&self) -> &BTreeSet<NodeId> {
        &self.nodes
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.everything && !self.document && self.nodes.is_empty()
    }

    /// Adds what has changed since.
    pub fn add(&mut self, later: Self) {
        self.everything |= later.everything;
        self.document |= later.document;
        self.nodes.extend(later.nodes);
    }

    /// Notes another document.
    pub(super) fn note_document(&mut self) {
        self.document = true;
    }

    /// Notes another record of this node.
    pub(super) fn note(&mut self, node: &NodeId) {
        if !self.everything && !self.nodes.contains(node) {
            self.nodes.insert(node.clone());
        }
    }
}

/// Two copies with the same content are equal, however far each was looked at.
impl PartialEq for Changes {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Changes {}

impl Hash for Changes {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    type Shown = (bool, bool, BTreeSet<NodeId>, bool);

    fn shown(changes: &Changes) -> Shown {
        (changes.are_everything(), changes.are_of_document(), changes.nodes().clone(), changes.is_empty())
    }

    #[test]
    fn what_has_changed_since_adds_up() {
        let nodes = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<NodeId>>();
        let of = |names: &[&str], is_document: bool| {
            let mut changes = Changes::default();
            nodes(names).iter().for_each(|node| changes.note(node));
            if is_document {
                changes.note_document();
            }
            changes
        };
        let cases: [(Changes, Shown); 5] = [
            (of(&[], false), (false, false, nodes(&[]), true)),
            (of(&[], true), (false, true, nodes(&[]), false)),
            (of(&["a"], false), (false, false, nodes(&["a"]), false)),
            (of(&["a", "b"], true), (false, true, nodes(&["a", "b"]), false)),
            (Changes::everything(), (true, true, nodes(&[]), false)),
        ];
        for (first, one) in &cases {
            assert_eq!(shown(first), *one);
            for (then, other) in &cases {
                let mut both = first.clone();
                both.add(then.clone());
                let sum = (one.0 || other.0, one.1 || other.1, &one.2 | &other.2, one.3 && other.3);
                assert_eq!(shown(&both), sum, "{first:?} and {then:?}");
            }
        }
        let mut everything = Changes::everything();
        everything.note(&"a".parse().unwrap());
        assert_eq!(everything.nodes().len(), 0, "there is nothing to add to everything");
    }
}
