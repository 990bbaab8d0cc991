//! `stats` against the kernel's own counters and nstat, in a pipe, and for those who may not look.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::bench::{Cable, FAMILIES, KEYS, Running, code, ctl, json_of, pinned, program, shape};
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::{NetNs, SOON, need_netns, need_tool, poll_some, skip_unless};

#[test]
fn the_numbers_are_those_of_nstat() {
    skip_unless!(need_netns() && need_tool("nginx") && need_tool("nstat"));
    let cable = Cable::new();
    let _nginx = cable.nginx();
    for _ in 0..3 {
        cable.get(&[&FAMILIES[0].url("/"), "--compare", "2"]);
    }
    for netns in [cable.server.netns(), &cable.client] {
        let ours = Cable::counters(netns);
        let theirs = netns.command("nstat").args(["-asz", "--json"]).output().unwrap();
        let theirs: Value = serde_json::from_slice(&theirs.stdout).unwrap();
        for (name, value) in ours.as_object().unwrap() {
            assert_eq!(*value, theirs["kernel"][format!("TcpExt{name}")], "{name}");
        }
        assert_eq!(ours.as_object().unwrap().len(), 10);
    }
}

#[test]
fn the_shape_of_the_json() {
    skip_unless!(need_netns() && need_tool("nginx"));
    let cable = Cable::new();
    let _nginx = cable.nginx();
    cable.get(&[&FAMILIES[0].url("/")]);
    let server = cable.server.netns().name();
    let mut watch = Command::new(program());
    watch.args(["stats", "--namespace", server, "--watch", "1s", "--count", "1", "--format", "json"]);
    let output = watch.stdin(Stdio::null()).output().unwrap();
    code(&output, 0);
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "where it stands, and one interval");
    assert_eq!(lines[0]["namespaces"][0]["window"], Value::Null);
    pinned("stats", &shape(&lines[1]));
    assert_eq!(lines[1]["namespaces"][0]["name"], server);
}

#[test]
fn a_watch_sees_what_rises_in_between() {
    skip_unless!(need_netns() && need_tool("nginx"));
    let cable = Cable::new();
    cable.server.set_kernel(KEYS[0]);
    let _nginx = cable.nginx();
    cable.get(&[&FAMILIES[0].url("/")]);
    let mut watch = Command::new(program());
    watch.args(["stats", "--watch", "1s", "--format", "json", "--namespace", cable.server.netns().name()]);
    let mut watch = Running(watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!(first["namespaces"][0]["counters"]["TCPFastOpenPassive"], 1);
    // One by a key that is the backup by now, one that no key fits, and the one with the new cookie.
    cable.server.set_kernel(&[KEYS[1], KEYS[0]].join(","));
    assert_eq!(cable.rides(&FAMILIES[0].url("/")), ["accepted"]);
    cable.server.set_kernel(KEYS[2]);
    assert_eq!(cable.rides(&FAMILIES[0].url("/")), ["rejected", "accepted"]);
    let (mut rises, mut last) = ([0; 3], Value::Null);
    while rises.iter().sum::<u64>() < 4 {
        let line = next();
        let window = &line["namespaces"][0]["window"];
        assert_eq!(window["reset"], false);
        for (sum, name) in rises.iter_mut().zip(["", "AltKey", "Fail"]) {
            *sum += window["rises"][format!("TCPFastOpenPassive{name}")].as_u64().unwrap();
        }
        last = line;
    }
    assert_eq!(rises, [2, 1, 1]);
    let ratios = &last["namespaces"][0]["ratios"]["server"];
    assert_eq!(
        (&ratios["accepted"], &ratios["by_backup"], &ratios["failed"]),
        (&0.75.into(), &0.25.into(), &0.25.into())
    );
}

/// A namespace that is recreated under the same name has new counters.
#[test]
fn a_namespace_that_was_made_anew_is_told() {
    skip_unless!(need_netns());
    let (old, new) = (NetNs::new(), NetNs::new());
    let mut watch = Command::new(program());
    watch.args(["stats", "--watch", "1s", "--namespace", old.name()]);
    let mut watch = Running(watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().contains(" totals: accepted 0, "));
    let mounted = Command::new("mount").args(["--bind"]).args([new.path(), old.path()]).status().unwrap();
    assert!(mounted.success());
    let found = (0..10).any(|_| next().ends_with("; counters restarted"));
    drop(watch);
    assert!(Command::new("umount").arg(old.path()).status().unwrap().success());
    assert!(found);
}

#[test]
fn a_reader_that_goes_ends_the_watch() {
    let mut watch = Command::new(program());
    watch.args(["stats", "--watch"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = Running(watch.spawn().unwrap());
    let mut reader = BufReader::new(watch.0.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    drop(reader);
    let status = poll_some(SOON, || watch.0.try_wait().unwrap()).expect("it ends");
    let mut said = String::new();
    watch.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((status.code(), said.as_str()), (Some(1), ""), "without a word");
}

#[test]
fn an_interrupt_ends_the_watch_well() {
    let mut watch = Command::new(program());
    watch.args(["stats", "--watch"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut watch = Running(watch.spawn().unwrap());
    let mut reader = BufReader::new(watch.0.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    tfo_testbed::signal::send(watch.0.id(), rustix::process::Signal::INT);
    let status = poll_some(SOON, || watch.0.try_wait().unwrap()).expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn what_cannot_be_looked_at_is_said() {
    let output = ctl(&["stats", "--namespace", "no-such-namespace"]);
    code(&output, 1);
    assert!(
        stderr(&output).contains("no-such-namespace") && stderr(&output).contains("ip netns"),
        "{}",
        stderr(&output)
    );
    for wrong in [
        &["--namespace", "../x"][..],
        &["--watch", "0s"],
        &["--watch", "1"],
        &["--count", "3"],
        &["--watch", "--count", "0"],
    ] {
        code(&ctl(&[&["stats"], wrong].concat()), 2);
    }
}

#[test]
fn counters_need_no_root_but_other_namespaces_do() {
    skip_unless!(need_netns() && need_tool("setpriv"));
    let netns = NetNs::new();
    let run = |arguments: &[&str]| super::status::as_nobody(Command::new("setpriv"), arguments).output().unwrap();
    let own = run(&["stats", "--format", "json"]);
    code(&own, 0);
    assert!(json_of(&own)["namespaces"][0]["counters"]["TCPFastOpenPassive"].is_u64());
    let other = run(&["stats", "--namespace", netns.name()]);
    code(&other, 1);
    assert!(stderr(&other).contains("CAP_SYS_ADMIN"), "{}", stderr(&other));
}
