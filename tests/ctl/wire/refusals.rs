//! What `probe`, `verify` and `sniff` say when they cannot: which exit code, and in which words.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use super::world::{Cable, at, key_file, listen, tfoctl};
use tfo_testbed::cable::{CLIENT, SERVER};
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::{need_netns, need_root, need_tool, scratch, skip_unless};

fn plain(arguments: &[&str]) -> Output {
    let mut command = Command::new(tfo_testbed::program("tfoctl"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Exit code, and a part of what it said on stderr.
fn refused(output: &Output, code: i32, part: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(stderr(output).contains(part), "no {part:?}: {}", stderr(output));
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    skip_unless!(need_root() && need_tool("setpriv"));
    for arguments in [&["probe", "127.0.0.1", "[::1]"][..], &["verify", "127.0.0.1"], &["sniff"]] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", tfo_testbed::program("tfoctl")]);
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        refused(&output, 3, "root or CAP_NET_RAW");
        assert!(stderr(&output).matches("error: ").count() == 1, "said once: {}", stderr(&output));
    }
}

#[test]
fn usage_is_checked_before_anything_is_sent() {
    for arguments in [
        &["probe"][..],
        &["probe", "http://example.org/"],
        &["probe", "a:0"],
        &["probe", "127.0.0.1", "--count", "0"],
        &["probe", "127.0.0.1", "-4", "-6"],
        &["probe", "127.0.0.1", "--source", "nonsense"],
        &["probe", "127.0.0.1", "--unprivileged", "--experimental"],
        &["verify"],
        &["verify", "127.0.0.1", "--samples", "0"],
        &["sniff", "--read", "x", "-i", "lo"],
        &["sniff", "--seconds", "0"],
    ] {
        refused(&plain(arguments), 2, "error: ");
    }
    refused(&plain(&["sniff", "--read", "-", "--key-file", "-"]), 2, "can only be read once");
    refused(&plain(&["verify", "127.0.0.1", "--key-file", "/nonexistent/key"]), 2, "/nonexistent/key");
    let dir = scratch();
    let key = key_file(&dir, "key", "0badc0de0badc0de0badc0de0badc0de");
    let output = plain(&["sniff", "--read", "x", "--key-file", key.to_str().unwrap()]);
    refused(&output, 2, "not four groups");
    assert!(!stderr(&output).contains("0badc0de"), "{output:?}");
}

#[test]
fn names_routes_and_sources_that_are_not_there_are_told() {
    skip_unless!(need_netns());
    let cable = Cable::new();
    let _on = listen(&cable.server, 80, true);
    refused(&cable.tfoctl(&["probe", "no-such-host.invalid"]), 1, "no-such-host.invalid: cannot resolve the name");
    refused(&cable.tfoctl(&["probe", "10.99.0.1:80"]), 1, "no route to 10.99.0.1");
    refused(&cable.tfoctl(&["verify", "10.99.0.1:80"]), 1, "no route to 10.99.0.1");
    let target = at(SERVER[0], 80);
    for command in ["probe", "verify"] {
        refused(
            &cable.tfoctl(&[command, &target, "--source", "192.0.2.1"]),
            2,
            "192.0.2.1 is not an address of this host",
        );
        refused(&cable.tfoctl(&[command, &target, "--source", CLIENT[1]]), 1, "no address of that family");
        refused(&cable.tfoctl(&[command, &target, "-6"]), 1, "no address of that family");
    }
    refused(
        &cable.tfoctl(&["probe", "--unprivileged", &target, "--source", "192.0.2.1"]),
        2,
        "192.0.2.1 is not an address of this host",
    );
    refused(&cable.tfoctl(&["sniff", "-i", "nosuch0"]), 2, "nosuch0: no such interface");

    // What can be asked is asked and shown all the same.
    cable.client.set("ipv6/conf/all/disable_ipv6", "1");
    for more in [&[][..], &["--unprivileged"]] {
        let output = cable.tfoctl(&[&["probe", &at(SERVER[1], 80), &target], more].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(&format!("no route to {}", SERVER[1])), "{output:?}");
        assert!(stdout(&output).contains("10.77.1.2:80  tfo-on"), "{output:?}");
    }
}

#[test]
fn a_closed_pipe_ends_it_without_a_complaint() {
    skip_unless!(need_netns());
    let cable = Cable::new();
    let _on = listen(&cable.server, 80, true);
    let target = at(SERVER[0], 80);
    let mut sniff = tfoctl(&cable.client, &["sniff"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(sniff.stdout.take());
    let mut said = String::new();
    let mut heard = sniff.stderr.take().unwrap();
    let mut byte = [0];
    while !said.ends_with('\n') {
        heard.read_exact(&mut byte).unwrap();
        said.push(char::from(byte[0]));
    }
    assert!(said.starts_with("listening"), "{said}");
    // The first packet has nowhere to go.
    assert!(cable.tfoctl(&["probe", &target]).status.success());
    assert_eq!(sniff.wait().unwrap().code(), Some(1));
    let mut rest = String::new();
    heard.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let mut probe = tfoctl(&cable.client, &["probe", &target, "--count", "100"]);
    let mut probe = probe.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(probe.stdout.take());
    let output = probe.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0), "{output:?}");
}

#[test]
fn files_that_are_not_captures_and_damaged_captures_are_refused() {
    let dir = scratch();
    let read = |content: &[u8]| {
        let path = dir.path().join("capture");
        std::fs::write(&path, content).unwrap();
        plain(&["sniff", "--read", path.to_str().unwrap()])
    };
    refused(&plain(&["sniff", "--read", "/nonexistent/capture"]), 1, "/nonexistent/capture");
    refused(&read(b""), 1, "not a packet capture");
    refused(&read(b"not a capture at all"), 1, "not a packet capture");
    let header = |link: u8| [&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0][..], &[0; 8], &[0, 0, 1, 0, link, 0, 0, 0]].concat();
    refused(&read(&header(147)), 1, "link type 147");
    refused(&read(&[header(101), vec![1; 5]].concat()), 1, "ends in the middle of a packet");
    // An empty one is in order.
    let output = read(&header(101));
    assert!(output.status.success() && output.stdout.starts_with(b"0 packets"), "{output:?}");
}
