//! `status` on hosts in all states: as they should be, drifted, late, without an agent, and for those who may not look.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::bench::{KEYS, bits, code, json_ending, json_of, pinned, program, shape};
use tfo_testbed::daemon::{DaemonHost, derive, lasting};
use tfo_testbed::host::Host;
use tfo_testbed::output::stdout;
use tfo_testbed::{NetNs, need_netns, need_tool, skip_unless};

/// `tfoctl` run by `setpriv` as the user `nobody`, as a copy that this user can read.
pub(crate) fn as_nobody(mut setpriv: Command, arguments: &[&str]) -> Command {
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"]);
    setpriv.arg(program()).args(arguments).stdin(std::process::Stdio::null());
    setpriv
}

fn status(host: &Host, more: &[&str]) -> Output {
    let mut command = host.command(program());
    command.args(["status", "--format", "json", "--agent-config"]).arg(host.config_file()).args(more).output().unwrap()
}

/// Kinds of the problems of this severity.
fn kinds<'a>(found: &'a Value, severity: &str) -> Vec<&'a str> {
    let problems = found["problems"].as_array().unwrap().iter().filter(|problem| problem["severity"] == severity);
    problems.map(|problem| problem["kind"].as_str().unwrap()).collect()
}

fn errors(found: &Value) -> Vec<&str> {
    kinds(found, "error")
}

fn warnings(found: &Value) -> Vec<&str> {
    kinds(found, "warning")
}

/// A host whose agent has installed derived keys that last, with TFO on.
fn installed() -> DaemonHost {
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "");
    bits(host.netns(), "0x403");
    host.once_ok();
    host
}

#[test]
fn a_good_host_is_good() {
    skip_unless!(need_netns());
    let host = installed();
    let output = status(&host, &[]);
    let found = json_ending(&output, 0);
    let told = host.status();
    assert_eq!((errors(&found), &found["ok"]), (vec![], &json!(true)));
    let agent = &found["agent"];
    for slot in ["primary", "backup"] {
        assert_eq!(agent[slot]["fingerprint"], told[slot]["fingerprint"]);
        assert_eq!(agent[slot]["epoch"], told[slot]["epoch"]);
        let born = agent[slot]["born_at"].as_str().unwrap().parse::<tfo_model::time::UnixTime>().unwrap();
        assert_eq!(
            born.secs(),
            agent[slot]["epoch"].as_u64().unwrap(),
            "a derived key is born when it becomes primary"
        );
        assert_eq!(found["namespaces"][0][slot], told[slot]["fingerprint"]);
    }
    let at = found["at"].as_str().unwrap().parse::<tfo_model::time::UnixTime>().unwrap();
    let epoch = agent["primary"]["epoch"].as_u64().unwrap();
    assert_eq!(agent["primary"]["age_secs"].as_u64().unwrap(), at.secs() - epoch, "not since it was installed");
    assert_eq!(found["namespaces"][0]["bits"], json!(["client", "server", "server_every_listener"]));
    assert_eq!(found["namespaces"][0]["as_installed"], true);
    assert_eq!(found["sysctl_file"]["state"], "ours");

    let mut shaped = shape(&found);
    // What this machine's clock and schedule make of it: a staged key has no age yet.
    shaped["problems"] = json!([]);
    shaped["clock_synchronised"] = json!("bool");
    shaped["agent"]["backup"]["age_secs"] = json!("number");
    shaped["boot"] = json!("object");
    pinned("status", &shaped);

    let mut command = host.command(program());
    let text = stdout(&command.args(["status", "--agent-config"]).arg(host.config_file()).output().unwrap());
    for words in [
        "agent        ok; source derive",
        "as installed",
        "0x403: client, server, server_every_listener",
        "primary since",
    ] {
        assert!(text.contains(words), "no {words:?}: {text}");
    }
    assert!(!text.contains("NOT"), "{text}");
}

#[test]
fn drift_is_found_and_named() {
    skip_unless!(need_netns());
    let host = installed();
    let keys = host.kernel();
    let kinds = |wanted: &[&str]| {
        let found = json_ending(&status(&host, &[]), 1);
        assert_eq!(errors(&found), wanted);
        found
    };
    host.set_kernel(KEYS[0]);
    assert_eq!(kinds(&["drift"])["namespaces"][0]["as_installed"], false);
    // The bug of GrapheneOS' script: a second key that is all zeros.
    let (primary, backup) = keys.split_once(',').unwrap();
    host.set_kernel(&format!("{primary},00000000-00000000-00000000-00000000"));
    kinds(&["zero_key", "drift"]);
    host.set_kernel(&format!("{backup},{primary}"));
    kinds(&["drift"]);
    host.set_kernel(&keys);
    code(&status(&host, &[]), 0);

    std::fs::remove_file(host.sysctl_file()).unwrap();
    kinds(&["no_keys_at_boot"]);
    host.write("sysctl.d/50-tcp_fastopen_key.conf", "# mine\n", 0o600);
    kinds(&["no_keys_at_boot"]);
}

#[test]
fn an_agent_that_is_late_or_failed_or_gone() {
    skip_unless!(need_netns());
    let host = installed();
    let edit = |change: &dyn Fn(&mut Value)| {
        let mut told = host.status();
        change(&mut told);
        host.put("run/status.json", told.to_string().as_bytes(), 0o644);
    };
    let kinds = || {
        let found = json_ending(&status(&host, &[]), 1);
        errors(&found).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    edit(&|told| told["next_change_at"] = json!("2026-01-01T00:00:00Z"));
    assert_eq!(kinds(), ["overdue"]);
    host.once_ok();
    edit(&|told| {
        told["state"] = json!("degraded");
        told["error"] = json!({"kind": "clock", "message": "it runs backwards"});
        told["a_field_of_tomorrow"] = json!(1);
    });
    let output = status(&host, &[]);
    assert!(stdout(&output).contains("clock: it runs backwards"), "{}", stdout(&output));
    assert_eq!(kinds(), ["agent_degraded"]);
    edit(&|told| told["version"] = json!(2));
    assert_eq!(kinds(), ["status_unreadable"]);
    host.put("run/status.json", b"{", 0o644);
    assert_eq!(kinds(), ["status_unreadable"]);

    // After a boot, before the agent: the header of the sysctl.d file is what is known.
    std::fs::remove_file(host.path("run/status.json")).unwrap();
    let found = json_ending(&status(&host, &[]), 1);
    assert_eq!((errors(&found), &found["agent"]["state"]), (vec!["no_agent"], &Value::Null));
    assert_eq!(found["agent"]["primary"]["fingerprint"], found["namespaces"][0]["primary"]);
    assert_eq!(found["namespaces"][0]["as_installed"], true);
}

#[test]
fn a_host_without_an_agent_shows_its_kernel() {
    skip_unless!(need_netns());
    let host = Host::new();
    host.set_kernel(&[KEYS[0], KEYS[1]].join(","));
    bits(host.netns(), "0x602");
    let output = status(&host, &[]);
    let found = json_ending(&output, 1);
    assert_eq!((errors(&found), warnings(&found)), (vec!["no_agent"], vec!["no_cookie_needed"]));
    let own = &found["namespaces"][0];
    let keys = tfo_model::key_text::parse(KEYS[0].as_bytes()).unwrap();
    let print = tfo_crypto::fingerprint::fingerprint(keys.primary()).to_string();
    assert_eq!((&own["primary"], &own["as_installed"]), (&json!(print), &Value::Null));
    assert_eq!(own["bits"], json!(["server", "server_without_cookie", "server_every_listener"]));
    for key in KEYS {
        assert!(!stdout(&output).contains(key));
    }
}

#[test]
fn all_namespaces_of_the_agent_are_shown() {
    skip_unless!(need_netns());
    let (host, other) = (DaemonHost::new(), NetNs::new());
    host.configure(&lasting(&host), &format!("namespaces = [{:?}]", other.name()));
    host.once_ok();
    let names = |output: &Output| {
        let found = json_of(output);
        let names = found["namespaces"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let both = status(&host, &[]);
    code(&both, 0);
    assert_eq!(names(&both), ["own", other.name()]);
    let one = status(&host, &["--namespace", other.name()]);
    assert_eq!(names(&one), [other.name()]);
    let path = std::path::PathBuf::from("/proc/sys/net/ipv4/tcp_fastopen_key");
    other.run(|| std::fs::write(&path, KEYS[0])).unwrap();
    let found = json_ending(&status(&host, &[]), 1);
    assert_eq!(errors(&found), ["drift"]);
    assert!(found["problems"].to_string().contains(other.name()));
    let gone = status(&host, &["--namespace", "no-such-namespace"]);
    code(&gone, 1);
    assert_eq!(errors(&json_of(&gone)), ["namespace_missing"]);
}

#[test]
fn without_root_it_says_what_is_missing() {
    skip_unless!(need_netns() && need_tool("setpriv"));
    let host = installed();
    let config = host.config_file();
    let arguments = ["status", "--format", "json", "--agent-config", config.to_str().unwrap()];
    let found = json_ending(&as_nobody(host.command("setpriv"), &arguments).output().unwrap(), 0);
    assert_eq!(found["agent"]["primary"]["fingerprint"], host.status()["primary"]["fingerprint"]);
    assert_eq!(found["sysctl_file"]["state"], "unreadable");
    let own = &found["namespaces"][0];
    assert_eq!(
        (&own["readable"], &own["as_installed"], &own["tcp_fastopen"]),
        (&json!(false), &Value::Null, &json!(0x403))
    );
    assert_eq!(warnings(&found).iter().filter(|kind| **kind == "not_root").count(), 2, "{found}");
    let told = found["problems"].to_string();
    assert!(told.contains("not seen: the keys") && told.contains("not seen: what"), "{told}");
}

#[test]
fn a_configuration_that_is_broken_is_said_and_what_it_names_is_used() {
    skip_unless!(need_netns());
    let host = installed();
    let good = std::fs::read_to_string(host.config_file()).unwrap();
    host.put("etc/agent.toml", format!("{good}\nnonsense = 1\n").as_bytes(), 0o644);
    let found = json_ending(&status(&host, &[]), 1);
    assert_eq!(errors(&found), ["unknown_key"]);
    assert_eq!(found["agent"]["state"], "ok", "it found the runtime directory all the same");
}

#[test]
fn a_host_that_only_looks_has_no_drift() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&derive(&host, "7d", "1d"), "enabled = false");
    host.set_kernel(KEYS[0]);
    host.once_ok();
    let output = status(&host, &[]);
    code(&output, 0);
    assert_eq!(errors(&json_of(&output)), [""; 0]);
}
