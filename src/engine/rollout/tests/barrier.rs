//! What each node is shown as.

use super::super::barrier::node_state;
use super::super::record::Exclusion;
use super::*;
use tfo_model::fleet::NodeState;

#[test]
fn every_state_of_a_node() {
    let snapshot = pool(document(steady()), &["a"], &[]);
    let state = |change: &dyn Fn(&mut NodeRecord), presence: &Presence| {
        let mut record = snapshot.nodes[&node("a")].clone();
        change(&mut record);
        node_state(&snapshot.document, &node("a"), &record, presence)
    };
    let here = Presence::default();
    let silent = Presence { absent: [node("a")].into(), ..Presence::default() };
    let report = |change: fn(&mut Report)| move |record: &mut NodeRecord| change(record.report.as_mut().unwrap());
    assert_eq!(state(&|_| (), &here), NodeState::Converged);
    assert_eq!(state(&|_| (), &silent), NodeState::Silent);
    assert_eq!(state(&report(|report| report.fence = None), &here), NodeState::Straggler);
    assert_eq!(state(&report(|report| report.installed = Installed::Drifted), &here), NodeState::Drifted);
    assert_eq!(state(&report(|report| report.installed = Installed::Failed), &here), NodeState::Failed);
    assert_eq!(state(&report(|report| report.slot_count = SlotCount::One), &here), NodeState::OneSlot);
    let stand = |exclusion| move |record: &mut NodeRecord| record.membership = Membership::Excluded(exclusion);
    assert_eq!(state(&stand(Exclusion::Absent), &silent), NodeState::Excluded);
    assert_eq!(state(&stand(Exclusion::Denied), &here), NodeState::Denied);
}
