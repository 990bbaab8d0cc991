//! What `verify` says about fleets whose keys are known.

use std::path::Path;

use serde_json::{Value, json};

use super::world::{
    A, B, C, FLEET_PORT, Fleet, VIP, at, filter_input, fingerprint, half_open, key_file, modelled, results, tfoctl,
};
use tfo_testbed::{need_netns, need_tool, scratch, skip_unless};

/// Enough that four nodes which get a quarter each are all met: one is missed once in 10^12 runs.
const SAMPLES: &str = "100";

/// Verdict and exit code for both families' shared address, and the groups of the first.
fn verify(fleet: &Fleet, more: &[&str]) -> (Vec<Value>, i32) {
    let targets = VIP.map(|vip| at(vip, FLEET_PORT));
    let arguments = ["verify", &targets[0], &targets[1], "--samples", SAMPLES];
    results(&fleet.client, &[&arguments[..], more].concat())
}

fn verdicts(results: &[Value]) -> Vec<(&str, u64)> {
    results.iter().map(|result| (result["verdict"].as_str().unwrap(), result["keys"].as_u64().unwrap())).collect()
}

#[test]
fn a_fleet_agrees_is_split_by_one_node_and_agrees_again() {
    skip_unless!(need_netns());
    let fleet = Fleet::new(4, A);
    let dir = scratch();
    let keys = key_file(&dir, "keys", &format!("{A},{B}\n"));
    let keys = keys.to_str().unwrap();

    let (healthy, code) = verify(&fleet, &[]);
    assert_eq!((verdicts(&healthy), code), (vec![("agree", 1); 2], 0), "{healthy:?}");
    for (family, result) in healthy.iter().enumerate() {
        let cookie = modelled(A, &fleet.source(family, 2), VIP[family]);
        assert_eq!((&result["samples"], &result["unanswered"]), (&json!(100), &json!(0)), "{result}");
        assert_eq!(result["min_share"], json!(0.029_514));
        assert_eq!(result["groups"].as_array().unwrap().len(), 1);
        assert_eq!((&result["groups"][0]["cookie"], &result["groups"][0]["samples"]), (&json!(cookie), &json!(100)));
        assert_eq!(result["groups"][0]["fingerprint"], Value::Null);
    }

    // Staged: the backup does not show from outside (docs/kernel.md#cookie), so they still agree.
    fleet.nodes[1].set_keys(&format!("{A},{B}"));
    assert_eq!(verdicts(&verify(&fleet, &[]).0), [("agree", 1); 2]);

    // One node ahead, one with a key of its own.
    fleet.nodes[1].set_keys(&format!("{B},{A}"));
    fleet.nodes[2].set_keys(C);
    let (split, code) = verify(&fleet, &["--key-file", keys]);
    assert_eq!((verdicts(&split), code), (vec![("split", 3); 2], 1), "{split:?}");
    for result in &split {
        let groups = result["groups"].as_array().unwrap();
        let of = |slot: Value, print: Value| {
            let mine = |group: &&Value| group["slot"] == slot && group["fingerprint"] == print;
            groups.iter().find(mine).unwrap_or_else(|| panic!("no {slot} {print}: {result}"))["samples"]
                .as_u64()
                .unwrap()
        };
        let counts = [
            of(json!("primary"), json!(fingerprint(A))),
            of(json!("backup"), json!(fingerprint(B))),
            of(Value::Null, Value::Null),
        ];
        assert_eq!((groups.len(), counts.iter().sum::<u64>()), (3, 100), "{result}");
        // Half of the nodes have A.
        assert!(counts[0] > counts[1] && counts[0] > counts[2] && counts[1] > 5 && counts[2] > 5, "{counts:?}");
    }
    // Nothing is left behind on any node, whichever the balancer sends the RST to.
    assert_eq!(fleet.nodes.iter().map(half_open).collect::<Vec<_>>(), [0; 4]);
    // Linux as a router of IPv6 hashes the flow label if it is not told otherwise.
    fleet.router.set("ipv6/fib_multipath_hash_policy", "0");
    let (by_label, _) = results(&fleet.client, &["verify", &at(VIP[1], FLEET_PORT), "--samples", SAMPLES]);
    assert_eq!(verdicts(&by_label), [("split", 3)]);
    assert_eq!(fleet.nodes.iter().map(half_open).collect::<Vec<_>>(), [0; 4]);

    let output = tfoctl(&fleet.client, &["verify", &at(VIP[0], FLEET_PORT), "--key-file", keys]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in
        ["10.10.10.10:80  split: 3 keys", "unknown key", &format!("primary {}", fingerprint(A)), "at 95 %", "--source"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }

    for node in &fleet.nodes {
        node.set_keys(&format!("{B},{A}"));
    }
    let (healed, code) = verify(&fleet, &["--key-file", keys]);
    assert_eq!((verdicts(&healed), code), (vec![("agree", 1); 2], 0));
    assert_eq!(healed[0]["groups"][0]["slot"], json!("backup"));
}

#[test]
fn a_monitor_takes_every_phase_of_a_rotation_and_no_other_key() {
    skip_unless!(need_netns());
    let fleet = Fleet::new(4, &format!("{A},{B}"));
    let dir = scratch();
    let keys = key_file(&dir, "keys", &format!("{A},{B}\n"));
    let expect = ["--key-file", keys.to_str().unwrap(), "--expect"];
    let expected = |(results, code): &(Vec<Value>, i32)| {
        (results.iter().map(|result| result["expected"].clone()).collect::<Vec<_>>(), *code)
    };
    let (yes, no) = ((vec![json!(true); 2], 0), (vec![json!(false); 2], 1));

    assert_eq!(expected(&verify(&fleet, &expect)), yes, "staged");
    // A wave: some nodes make cookies of the next key already.
    fleet.nodes[0].set_keys(&format!("{B},{A}"));
    let wave = verify(&fleet, &expect);
    assert_eq!((expected(&wave), verdicts(&wave.0)), (yes, vec![("split", 2); 2]));
    let (without, code) = verify(&fleet, &expect[..2]);
    assert_eq!((&without[0]["expected"], code), (&Value::Null, 1), "a split for those who do not know better");

    fleet.nodes[1].set_keys(C);
    assert_eq!(expected(&verify(&fleet, &expect)), no, "a key that no file has");
    fleet.nodes[1].set_keys(&format!("{A},{B}"));
    fleet.nodes[2].set("ipv4/tcp_fastopen", "1");
    assert_eq!(expected(&verify(&fleet, &expect)), no, "an answer without a cookie");

    let output = tfoctl(&fleet.client, &["verify", VIP[0], "--expect"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "it needs the keys that it is to expect");
}

#[test]
fn nodes_without_tfo_or_without_an_answer_are_told() {
    skip_unless!(need_netns() && need_tool("nft"));
    let fleet = Fleet::new(3, A);
    fleet.nodes[0].set("ipv4/tcp_fastopen", "1");
    let (some_off, code) = verify(&fleet, &[]);
    assert_eq!((verdicts(&some_off), code), (vec![("split", 1); 2], 1));
    assert!(some_off[0]["groups"].as_array().unwrap().iter().any(|group| group["cookie"].is_null()));
    for node in &fleet.nodes {
        node.set("ipv4/tcp_fastopen", "1");
    }
    let (off, code) = verify(&fleet, &[]);
    assert_eq!((verdicts(&off), code), (vec![("tfo-off", 0); 2], 1));

    // One node swallows everything: the others agree, and it is said that some did not answer.
    for node in &fleet.nodes {
        node.set("ipv4/tcp_fastopen", "3");
    }
    filter_input(&fleet.nodes[0], "tcp dport 80 drop;");
    let one = ["verify", &at(VIP[0], FLEET_PORT), "--samples", "24"];
    let (answered, code) = results(&fleet.client, &one);
    assert_eq!((verdicts(&answered), code), (vec![("agree", 1)], 0));
    let (samples, unanswered) = (answered[0]["samples"].as_u64().unwrap(), answered[0]["unanswered"].as_u64().unwrap());
    assert!(samples + unanswered == 24 && unanswered > 0, "{answered:?}");
    for node in &fleet.nodes {
        filter_input(node, "tcp dport 80 drop;");
    }
    let (gone, code) = results(&fleet.client, &one);
    assert_eq!((verdicts(&gone), code), (vec![("unreachable", 0)], 1));
    assert_eq!((&gone[0]["min_share"], &gone[0]["unanswered"]), (&Value::Null, &json!(16)), "it gave up early");
}

#[test]
fn a_balancer_by_source_address_needs_several_sources_and_the_keys() {
    skip_unless!(need_netns());
    let fleet = Fleet::new(2, A);
    fleet.nodes[1].set_keys(B);
    fleet.router.set("ipv4/fib_multipath_hash_policy", "0");
    let dir = scratch();
    let keys = key_file(&dir, "keys", A);
    let target = at(VIP[0], FLEET_PORT);
    let (one, code) = results(&fleet.client, &["verify", &target, "--samples", "50"]);
    assert_eq!((verdicts(&one), code), (vec![("agree", 1)], 0), "one source meets one node");

    let sources: Vec<String> = (2..18).flat_map(|host| ["--source".to_owned(), fleet.source(0, host)]).collect();
    let mut arguments = vec!["verify", target.as_str(), "--samples", "64"];
    arguments.extend(sources.iter().map(String::as_str));
    // Without the keys the cookies of different sources cannot be compared, and that is said.
    let output = tfoctl(&fleet.client, &arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cookies of different sources cannot be compared"), "{text}");
    arguments.extend(["--key-file", keys.to_str().unwrap()]);
    let (all, code) = results(&fleet.client, &arguments);
    assert_eq!((verdicts(&all), code), (vec![("split", 2)], 1), "{all:?}");
    assert_eq!(all[0]["groups"].as_array().unwrap().len(), 16);
}

#[test]
fn keys_come_from_stdin_too_and_never_from_the_command_line() {
    skip_unless!(need_netns());
    let fleet = Fleet::new(1, A);
    let mut command = tfoctl(&fleet.client, &["verify", &at(VIP[0], FLEET_PORT), "--samples", "5", "--key-file", "-"]);
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{B},{A}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(&format!("backup {}", fingerprint(A))), "{text}");
    // A key in place of a file name is refused, and not repeated in the message.
    let output = tfoctl(&fleet.client, &["verify", VIP[0], "--key-file", "nosuch.key"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!Path::new("nosuch.key").exists());
}
