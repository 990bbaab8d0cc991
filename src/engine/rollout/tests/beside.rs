//! What a verdict adds of what its coordinator knows beside the snapshot.

use super::super::verdict::{Beside, page, verdict};
use super::verdict::{judged, rested, split};
use super::*;
use tfo_model::fleet::{Severity, VerdictKind};

#[test]
fn a_file_that_differs_is_told_where_all_else_is_well() {
    let (snapshot, presence) = (rested(&["a", "b"], &[]), presence());
    let now = Now { wall: NOW, presence: &presence };
    let differs = verdict(&snapshot, now, Beside { differs: &["interval"], ..Beside::default() });
    assert_eq!((differs.severity, differs.kind), (Severity::Warning, VerdictKind::Agree));
    assert_eq!(differs.docs, Some("how-to/change-the-policy.md"));
    assert_eq!(page(VerdictKind::NoKey), Some("how-to/no_pool_keys.md"));
    assert_eq!(page(VerdictKind::Agree), None);
    assert!(differs.sentence.ends_with("differs from the pool's policy in interval, and the pool's counts"));
}

#[test]
fn certificates_that_end_are_told_where_all_else_is_well() {
    let (b, both) = ([node("b")], [node("a"), node("b")]);
    let with = |snapshot: &Snapshot, nodes: &[NodeId]| {
        let beside = Beside { certificates_end: nodes, ..Beside::default() };
        verdict(snapshot, Now { wall: NOW, presence: &presence() }, beside)
    };
    let well = rested(&["a", "b"], &[]);
    let found = with(&well, &b);
    assert_eq!(
        found.sentence,
        "the certificate of 1 node ends and was not renewed: b; from the end on no rotation reaches it; 2 nodes accept each \
         other's cookies; the next rotation is due at 1970-01-04T06:33:20Z"
    );
    assert_eq!((found.severity, found.kind), (Severity::Warning, VerdictKind::CertificateEnds));
    assert_eq!(found.docs, Some("how-to/enrol_nodes.md#a-certificate-ends"));
    assert_eq!((found.next.as_deref(), found.nodes.as_slice()), (Some("tfoctl nodes b"), &b[..]));
    let found = with(&well, &both);
    let begin = "certificates end of nodes and were not renewed: a, b; from the end on no rotation reaches them; ";
    assert!(found.sentence.starts_with(begin), "{}", found.sentence);
    assert_eq!(found.numbers["ending"], 2);
    // What asks for something itself comes first.
    assert_eq!(with(&split(), &both), judged(&split(), &presence()));
    let beside = Beside { differs: &["interval"], certificates_end: &both };
    assert_eq!(verdict(&well, Now { wall: NOW, presence: &presence() }, beside).kind, VerdictKind::Agree);
}
