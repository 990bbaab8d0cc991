//! Checks and converts the body of a sync for the engine: ranges, lengths, and fields that belong together.  Pure.

use crate::pool::Described;
use tfo_engine::rollout::record::{Installed, Report, SlotCount};
use tfo_engine::rollout::slots::{Fence, PoolKey, Slots};
use tfo_engine::rollout::sync::Sync;
use tfo_model::kernel::KernelVersion;
use tfo_model::node::KeySource;
use tfo_model::state::{BackupSlot, SlotPrint, SlotPrints};
use tfo_wire::v1::fleet::REASON_BYTES_MAX;
use tfo_wire::v1::sync::{CAVEATS_MAX, InstalledKeys, NEXT_CONTACT_SECS_MAX, SyncRequest, TEXT_BYTES_MAX};

/// The error of a node whose kernel has other keys; every other error is a failure.
const DRIFT: &str = "drift";

/// The sync in a request.
///
/// # Errors
/// Fails, with a text for people that quotes no value, if a value is out of its range or contradicts another.
pub(super) fn sync_of(request: SyncRequest) -> Result<(Sync, Described), String> {
    for (name, text) in [("kernel", &request.kernel), ("agent", &request.agent)] {
        check_text(name, text)?;
    }
    for (name, kind) in [("error", &request.error), ("note", &request.note)] {
        let Some(kind) = kind else { continue };
        check_text(name, kind)?;
        let snake = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if kind.is_empty() || !kind.bytes().all(snake) {
            return Err(format!("{name} has to be a name in snake case"));
        }
    }
    if request.caveats.len() > CAVEATS_MAX {
        return Err(format!("caveats has more than {CAVEATS_MAX} names"));
    }
    if request.next_contact_secs > NEXT_CONTACT_SECS_MAX {
        return Err(format!("next_contact_secs has to be at most {NEXT_CONTACT_SECS_MAX}"));
    }
    let report = report_of(&request)?;
    let described = Described {
        kernel: request.kernel,
        agent: request.agent,
        tcp_fastopen: request.tcp_fastopen,
        error: request.error,
        note: request.note,
        caveats: request.caveats,
        namespaces: request.namespaces,
        waits: request.wait_secs > 0,
    };
    Ok((Sync { session: request.session, seen: request.seen, report: report.into() }, described))
}

fn report_of(request: &SyncRequest) -> Result<Report, String> {
    let holds = request.installed.as_ref().map(holds_of).transpose()?;
    let takes_keys = request.source == KeySource::Coordinator;
    let fence = match request.installed.as_ref().filter(|_| takes_keys) {
        Some(installed) => fence_of(installed)?,
        None => None,
    };
    let is_foreign = takes_keys && fence.is_none();
    // What the fence says is not said twice in each of ten thousand records.
    let held_elsewhere = holds.filter(|_| fence.is_none());
    let report = Report {
        foreign: holds.filter(|_| is_foreign).map(|holds| holds.primary.fingerprint),
        fence,
        installed: match request.error.as_deref() {
            None => Installed::ReadBack,
            Some(DRIFT) => Installed::Drifted,
            Some(_) => Installed::Failed,
        },
        slot_count: slot_count(request),
        next_sync_secs: request.next_contact_secs,
        counters: request.counters,
        seen: request.seen,
        source: request.source,
        holds: held_elsewhere.map(Into::into),
    };
    Ok(report.bounded())
}

fn holds_of(installed: &InstalledKeys) -> Result<SlotPrints, String> {
    let (primary, backup) = (installed.primary, installed.backup);
    if backup.is_some_and(|backup| backup.fingerprint == primary.fingerprint) {
        return Err("installed has the same key in both slots".to_owned());
    }
    Ok(SlotPrints { primary, backup })
}

/// Keys of a pool have a generation and epochs; keys from another source have no pool.
fn fence_of(installed: &InstalledKeys) -> Result<Option<Fence>, String> {
    let Some(pool_id) = &installed.pool_id else {
        return match installed.generation {
            None => Ok(None),
            Some(_) => Err("installed has a generation but no pool_id".to_owned()),
        };
    };
    let key = |print: SlotPrint| {
        let epoch = print.epoch.ok_or("installed has a pool_id but lacks an epoch")?;
        Ok::<_, String>(PoolKey { epoch, fingerprint: print.fingerprint })
    };
    let generation = installed.generation.ok_or("installed has a pool_id but no generation")?;
    let slots = Slots { primary: key(installed.primary)?, backup: installed.backup.map(key).transpose()? };
    Ok(Some(Fence { pool_id: *pool_id, generation, slots }))
}

fn slot_count(request: &SyncRequest) -> SlotCount {
    let by_release = || KernelVersion::parse(&request.kernel).map(KernelVersion::backup_slot);
    match request.backup_slot {
        Some(true) => SlotCount::Two,
        Some(false) => SlotCount::One,
        // A kernel with an unknown name is taken for a new one.
        None if by_release() == Some(BackupSlot::Absent) => SlotCount::One,
        None => SlotCount::Two,
    }
}

fn check_text(name: &str, text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("{name} is longer than {TEXT_BYTES_MAX} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{name} contains control characters"));
    }
    Ok(())
}

/// Checks that a reason may go into the audit log.
///
/// # Errors
/// Fails if it is too long or could forge a line.
pub(super) fn check_reason(reason: &str) -> Result<(), String> {
    if reason.len() > REASON_BYTES_MAX {
        return Err(format!("the reason is longer than {REASON_BYTES_MAX} bytes"));
    }
    if reason.chars().any(char::is_control) {
        return Err("the reason contains control characters".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_model::count::Generation;

    fn request(change: &str) -> Result<(Sync, Described), String> {
        let mut body = serde_json::json!({
            "wait_secs": 30, "next_contact_secs": 60, "session": "1-0000000000000001", "seen": 7,
            "installed": {
                "pool_id": "0123456789abcdef0123456789abcdef", "generation": 7,
                "primary": {"epoch": 2, "fingerprint": "0000000000000002"},
                "backup": {"epoch": 1, "fingerprint": "0000000000000001"},
            },
            "kernel": "6.1.0", "agent": "0.1.0", "tcp_fastopen": 3,
            "clock": {"unix_ms": 1, "synchronised": true},
            "counters": {"passive": 1, "passive_alt_key": 0, "passive_fail": 0}, "error": null,
        });
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        for (key, value) in change.as_object().unwrap() {
            let (parent, key) = key.rsplit_once('/').unwrap_or(("", key));
            let parent = if parent.is_empty() { String::new() } else { format!("/{parent}") };
            body.pointer_mut(&parent).unwrap()[key] = value.clone();
        }
        sync_of(serde_json::from_value(body).map_err(|error| error.to_string())?)
    }

    #[test]
    fn a_fence_is_the_instruction_of_the_pool() {
        let (sync, described) = request("{}").unwrap();
        let fence = sync.report.fence.clone().unwrap();
        assert_eq!((fence.generation, fence.slots.primary.epoch.get()), (Generation::new(7), 2));
        assert_eq!((sync.report.installed, sync.report.foreign), (Installed::ReadBack, None));
        assert_eq!(sync.report.holds, None, "its fence says it");
        assert_eq!((described.kernel.as_str(), &described.note), ("6.1.0", &None));
        let (noted, described) = request(r#"{"note": "certificate_ends"}"#).unwrap();
        assert_eq!(
            (noted.report, described.note.as_deref()),
            (sync.report.clone(), Some("certificate_ends")),
            "no error"
        );
        let foreign = r#"{"installed/pool_id": null, "installed/generation": null, "installed/primary/epoch": null}"#;
        let (sync, _) = request(foreign).unwrap();
        assert_eq!(sync.report.fence, None);
        assert_eq!(sync.report.foreign.unwrap().to_string(), "0000000000000002");
    }

    #[test]
    fn an_error_does_not_acknowledge() {
        let installed = |change| request(change).unwrap().0.report.installed;
        assert_eq!(installed(r#"{"error": "drift"}"#), Installed::Drifted);
        assert_eq!(installed(r#"{"error": "boot_order"}"#), Installed::Failed);
    }

    #[test]
    fn nodes_with_keys_from_another_source_do_not_bind_the_pool() {
        let (sync, _) = request(r#"{"source": "derive"}"#).unwrap();
        assert_eq!((sync.report.fence.clone(), sync.report.foreign), (None, None));
        assert_eq!(sync.report.seen, Generation::ZERO);
        assert!(sync.report.holds.is_some(), "but what they hold is shown");
    }

    #[test]
    fn slots_are_counted_by_the_report_or_by_the_kernel() {
        let count = |change| request(change).unwrap().0.report.slot_count;
        assert_eq!(count("{}"), SlotCount::Two);
        assert_eq!(count(r#"{"kernel": "4.19.0"}"#), SlotCount::One);
        assert_eq!(count(r#"{"kernel": "4.19.0", "backup_slot": true}"#), SlotCount::Two);
        assert_eq!(count(r#"{"backup_slot": false}"#), SlotCount::One);
        assert_eq!(count(r#"{"kernel": "strange"}"#), SlotCount::Two);
    }

    #[test]
    fn caveats_of_a_later_release_are_kept() {
        let (_, described) = request(r#"{"caveats": ["synproxy", "moonlight"]}"#).unwrap();
        let names: Vec<&str> = described.caveats.iter().map(tfo_model::named::Named::as_str).collect();
        assert_eq!(names, ["synproxy", "moonlight"]);
        assert!(request("{}").unwrap().1.caveats.is_empty());
    }

    #[test]
    fn bad_values_are_refused() {
        let long = format!(r#"{{"kernel": "{}"}}"#, "x".repeat(129));
        let many = format!(r#"{{"caveats": {:?}}}"#, ["tfo_off"; 17]);
        for bad in [
            &*long,
            r#"{"agent": "a\nb"}"#,
            r#"{"error": "Not Snake"}"#,
            r#"{"note": "Not Snake"}"#,
            r#"{"error": ""}"#,
            r#"{"next_contact_secs": 604801}"#,
            r#"{"installed/generation": null}"#,
            r#"{"installed/pool_id": null}"#,
            r#"{"installed/primary/epoch": null}"#,
            r#"{"installed/backup/fingerprint": "0000000000000002"}"#,
            r#"{"session": "1"}"#,
            r#"{"seen": -1}"#,
            r#"{"seen": 18446744073709551616}"#,
            r#"{"installed/primary/epoch": 0}"#,
            r#"{"node": "other.example.org"}"#,
            r#"{"source": "elsewhere"}"#,
            r#"{"caveats": "tfo_off"}"#,
            &many,
        ] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }
}
