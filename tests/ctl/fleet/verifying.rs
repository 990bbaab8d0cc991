//! `tfoctl audit --verify` against a real coordinator: after a year of rotations in a minute, and after another program wrote into its
//! database.

use rusqlite::{Connection, params};
use serde_json::json;
use tfo_crypto::checksum::checksum;

use super::real::Fleet;

#[test]
fn a_long_history_is_whole_and_an_altered_entry_is_named() {
    let mut fleet = Fleet::start();
    fleet.first_key();
    for reason in ["one", "two", "three"] {
        fleet.operator.ends(&["rotate", "--wait", "--timeout", "30s", "--force", "--yes", "--reason", reason], 0);
    }
    for command in [
        &["pause"][..],
        &["resume"],
        &["exclude", "c.test", "--for", "1h", "--yes"],
        &["include", "c.test", "--yes"],
        &["rotate", "--mode", "revoke", "--yes", "--wait", "--timeout", "30s"],
        &["forget", "c.test", "--yes"],
    ] {
        fleet.operator.ends(command, 0);
    }
    let operator = &fleet.operator;
    let whole = operator.json(&["audit", "--verify"], 0);
    let (last, chain) = (whole["last"].as_u64().unwrap(), whole["chain"].as_str().unwrap().to_owned());
    assert_eq!((&whole["whole"], &whole["entries"]), (&json!(true), &whole["last"]));
    assert!(last >= 17, "{whole}");
    let noted = format!("{last}:{chain}");
    let (text, _) = operator.ends(&["audit", "--verify", "--noted", &noted], 0);
    assert!(
        text.contains(&format!("revisions 1 to {last}\n")) && text.ends_with(&format!("--noted {noted}\n")),
        "{text}"
    );
    operator.ends(&["audit", "--verify", "--follow"], 2);
    operator.ends(&["audit", "--noted", &noted], 2);
    operator.ends(&["audit", "--verify", "--noted", "7"], 2);
    let other = format!("{last}:{}", "0".repeat(64));
    let rewritten = operator.json(&["audit", "--verify", "--noted", &other], 1);
    assert_eq!(
        (&rewritten["broken"]["kind"], &rewritten["broken"]["revision"]),
        (&json!("audit_rewritten"), &json!(last))
    );
    fleet.stop_coordinator();
    let database = Connection::open(fleet.operator.path("state.db")).unwrap();
    database.execute_batch("DROP TRIGGER guard_audit_UPDATE").unwrap();
    let text: String = database
        .query_row(
            "SELECT text FROM audit JOIN pool ON number = audit.pool WHERE name = 'edge' AND audit.revision = 3",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let forged = text.replace("\"one\"", "\"own\"");
    assert_ne!(text, forged);
    let sum = checksum(&[b"audit", b"edge", b"3", forged.as_bytes()]);
    database.execute("UPDATE audit SET text = ?1, sum = ?2 WHERE text = ?3", params![forged, sum, text]).unwrap();
    let guard =
        "CREATE TRIGGER guard_audit_UPDATE BEFORE UPDATE ON audit BEGIN SELECT only_tfo_coordinator_writes_here(); END";
    database.execute_batch(guard).unwrap();
    drop(database);
    fleet.start_coordinator();
    let (text, _) = fleet.operator.ends(&["audit", "--verify"], 1);
    assert!(text.contains("is not whole: the entry of revision 3 was altered"), "{text}");
    let broken = fleet.operator.json(&["audit", "--verify"], 1);
    assert_eq!((&broken["whole"], &broken["broken"]["kind"]), (&json!(false), &json!("audit_altered")));
}
