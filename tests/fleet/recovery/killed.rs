//! kill -9 of the coordinator in every phase of a rotation: it ends as if nothing had happened, and no place of such a
//! run shows a byte of any key that the pool ever had.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::watch::Watch;
use tfo_testbed::PATIENCE;
use tfo_testbed::fleet::Fleet;
use tfo_testbed::output::text;
use tfo_testbed::secrets::Secrets;
use tfo_testbed::{by_size, need_netns, need_tool, poll_until, skip_unless};

/// Bytes of a key that may appear in a row by chance: fewer than this.  Much is searched for many keys here, some of it
/// sealed, so four bytes would be found somewhere.
const WINDOW: usize = 8;

/// Where a rotation is killed: as soon as this was committed.
const PLACES: [&str; 3] = ["staged", "promoted", "steady"];

/// The commits in the log that are of this phase.
pub(super) fn commits(fleet: &Fleet, phase: &str) -> usize {
    let wanted = format!("phase=\"{phase}\"");
    fleet.log().lines().filter(|line| line.contains("committed") && line.contains(&wanted)).count()
}

/// Whatever the operator can see now.
fn look_everywhere(fleet: &Fleet, seen: &mut BTreeMap<String, Vec<u8>>) {
    for arguments in
        [&["pools"][..], &["nodes"], &["audit"], &["rotate", "--first", "--yes"], &["exclude", "nobody", "--yes"]]
    {
        for format in ["text", "json"] {
            let output = fleet.ctl(&[arguments, &["--format", format]].concat());
            let said = seen.entry(format!("tfoctl {arguments:?}")).or_default();
            said.extend([output.stdout, output.stderr].concat());
        }
    }
    for page in ["", "metrics", "healthz", "readyz", "nothing"] {
        let url = format!("http://127.0.0.1:9441/{page}");
        let output = fleet.center.command("curl").args(["-sS", &url]).output().unwrap();
        assert!(!output.stdout.is_empty(), "{url}: {}", text(&output.stderr));
        seen.entry(url).or_default().extend(output.stdout);
    }
    for host in &fleet.hosts {
        // Read while they change.
        for name in ["run/status.json", "tfo.prom"] {
            seen.entry(name.to_owned()).or_default().extend(fs::read(host.path(name)).unwrap());
        }
    }
}

/// What a node's operator sees, and what is refused there: one agent per namespace.
fn look_at_a_node(fleet: &Fleet, seen: &mut BTreeMap<String, Vec<u8>>) {
    for command in ["check", "once"] {
        let output = fleet.hosts[0].run(command, &["--format", "json"]);
        seen.entry(format!("tfo-agent {command}")).or_default().extend([output.stdout, output.stderr].concat());
    }
}

/// Every file below, except those whose purpose is to hold keys.
fn files(directory: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && entry.file_name() != "sysctl.d" {
            files(&path, all);
        } else if kind.is_file() {
            all.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
}

/// What the log of commits must be: nothing lost, nothing twice.
fn judge_audit(fleet: &Fleet, rotations: usize) {
    let mut entries: Vec<Value> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |last| last["revision"].as_u64().unwrap());
        let page = fleet.json(&["audit", "--after", &after.to_string()]);
        entries.extend(page["entries"].as_array().unwrap().iter().cloned());
        if page["more"] != true {
            break;
        }
    }
    let revisions: Vec<u64> = entries.iter().map(|entry| entry["revision"].as_u64().unwrap()).collect();
    assert!(revisions.iter().zip(1..).all(|(revision, expected)| *revision == expected), "{revisions:?}");
    let walk: Vec<(&str, u64)> = entries[2..]
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap(), entry["generation"].as_u64().unwrap()))
        .collect();
    let expected: Vec<(&str, u64)> = (0..rotations as u64)
        .flat_map(|done| [("rotate", 2 * done + 2), ("promote", 2 * done + 3), ("settle", 2 * done + 3)])
        .collect();
    assert_eq!(walk, expected);
}

/// Kills the coordinator in a rotation, and sees it end; gives the phase in which it was, as its store says.
fn kill_once(fleet: &mut Fleet, place: &str, delay: Duration) -> String {
    let before = fleet.converged(3);
    let epoch = before["primary"]["epoch"].as_u64().unwrap();
    let kernel = fleet.agreed();
    let old = kernel.split(',').next().unwrap().to_owned();
    let logged = commits(fleet, place);
    let mut last = None;
    // Refused for as long as a coordinator that has started has not heard every node.
    let started = || {
        last = Some(fleet.ctl(&["rotate"]));
        last.as_ref().unwrap().status.success()
    };
    assert!(poll_until(PATIENCE, started), "{last:?}");
    let reached = || commits(fleet, place) > logged;
    assert!(poll_until(PATIENCE, reached), "{}", fleet.log());
    std::thread::sleep(delay);
    fleet.kill();
    let phase = fleet.stored_phase();
    fleet.serve();
    let after = fleet.until("steady with the next key", |pool| {
        pool["phase"] == "steady" && pool["converged"] == 3 && pool["primary"]["epoch"].as_u64() == Some(epoch + 1)
    });
    assert_eq!(after["backup"], before["primary"]);
    assert_eq!(after["generation"].as_u64(), before["generation"].as_u64().map(|generation| generation + 2));
    assert!(fleet.agreed().ends_with(&format!(",{old}")), "the old key is the backup now");
    for host in &fleet.hosts {
        let agrees = || {
            let status = host.status();
            status["state"] == "ok"
                && status["generation"] == after["generation"]
                && status["primary"] == after["primary"]
                && status["backup"] == after["backup"]
                && status["namespaces"][0]["primary"] == after["primary"]["fingerprint"]
        };
        assert!(poll_until(PATIENCE, agrees), "{}\n{after}", host.status());
    }
    phase
}

#[test]
fn a_rotation_ends_as_if_nothing_had_happened_and_shows_no_key() {
    skip_unless!(need_netns() && need_tool("curl"));
    the_search_finds_what_is_planted();
    let mut fleet = Fleet::steady(3);
    let watch = Watch::over(&fleet.hosts);
    let kills = by_size(3, 10, 50);
    let (mut seen, mut phases) = (BTreeMap::new(), BTreeSet::new());
    for kill in 0..kills {
        let delay = Duration::from_millis((kill as u64 * 7) % 30);
        phases.insert(kill_once(&mut fleet, PLACES[kill % PLACES.len()], delay));
        if kill % 5 == 1 {
            look_everywhere(&fleet, &mut seen);
        }
    }
    // Each kill comes right after a commit; which phase its store is in by then depends on how busy the machine is.
    assert!(phases.iter().any(|phase| phase != "steady"), "no kill came in the middle: {phases:?}");
    judge_audit(&fleet, kills);
    look_everywhere(&fleet, &mut seen);
    look_at_a_node(&fleet, &mut seen);
    let witnessed = watch.end();
    let mut secrets = Secrets::<WINDOW>::new();
    let keys: BTreeSet<&str> = witnessed.texts.iter().flat_map(|text| text.split(',')).collect();
    assert_eq!(keys.len(), kills + 1, "each rotation has a key of its own, and every one was seen");
    keys.iter().for_each(|key| secrets.add_pair(key_name(key), key));
    let pages: usize = seen.values().map(Vec::len).sum();
    assert!(pages > 10_000, "{pages} bytes are little");
    // The database and its WAL as they are while it serves; logs, statuses, certificates, configurations.
    files(&fleet.center.path(""), &mut seen);
    fleet.hosts.iter().for_each(|host| files(&host.path(""), &mut seen));
    assert!(["/state.db", "/state.db-wal", "/coordinator-log", "/log-", "/run/status.json"].iter().all(|name| {
        let at = |(path, bytes): (&String, &Vec<u8>)| path.contains(name) && !bytes.is_empty();
        seen.iter().any(at)
    }));
    for (place, bytes) in &seen {
        secrets.absent(place, bytes);
    }
    // It would have been found: that is where keys are.
    let found = secrets.find(fleet.hosts[0].persisted().unwrap().as_bytes());
    assert!(!found.is_empty(), "the search finds nothing in a file of keys");
}

/// A name that is not part of the key.
fn key_name(_key: &str) -> &'static str {
    "a key of the pool"
}

fn the_search_finds_what_is_planted() {
    const KEY: &str = "7a0c91e3-55d1f0b8-19c64e2f-8d3ba670";
    let mut secrets = Secrets::<WINDOW>::new();
    secrets.add_pair("planted", KEY);
    let raw: Vec<u8> = KEY.split('-').flat_map(|group| u32::from_str_radix(group, 16).unwrap().to_le_bytes()).collect();
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = Command::new("base64").arg("-w0").stdin(planted(&raw)).output().unwrap().stdout;
    assert!(base64.len() > 20);
    for writing in [raw.clone(), hex.into_bytes(), base64, KEY.as_bytes().to_vec(), format!("{raw:?}").into_bytes()] {
        let hay = [b"some log, key=".to_vec(), writing, b" and more".to_vec()].concat();
        assert!(!secrets.find(&hay).is_empty(), "{}", text(&hay));
    }
    assert!(secrets.find(b"nothing here but 6c3f8e4b21cc43a0").is_empty());
}

fn planted(bytes: &[u8]) -> fs::File {
    let directory = tfo_testbed::scratch();
    let path = directory.path().join("planted");
    fs::write(&path, bytes).unwrap();
    fs::File::open(path).unwrap()
}
