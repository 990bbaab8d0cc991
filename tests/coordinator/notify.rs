//! `[[notify]]`: a receiver that is not ours judges signature and order; nothing is lost or repeated over failures, kills and
//! restarts; no driver waits for a receiver that hangs.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{Node, World};
use tfo_testbed::{SOON, free_port, mortal, need_tool, poll_some, poll_until, repository, skip_unless};

/// A receiver of webhooks; ended when it is dropped.
struct Hook {
    child: Child,
    port: u16,
}

impl Hook {
    /// Listens with a certificate of the world's authority.
    fn start(world: &World, port: u16) -> Self {
        let script = repository("tests/testbed/hook.py");
        let mut command = mortal("/usr/bin/python3");
        command.arg(script).arg(port.to_string());
        command.args(["hook.crt", "hook.key", "secret", "told", "down"].map(|name| world.path(name)));
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let hook = Self { child, port };
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(poll_until(SOON, listens), "it does not listen");
        hook
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A world whose coordinator tells a webhook, and the port of that.
fn world(more: &str) -> (World, u16) {
    let world = World::new(FAST);
    let port = free_port().port();
    let identity = world.ca.both(&["localhost"]);
    world.put("hook.crt", identity.cert_pem.as_bytes(), 0o644);
    world.put("hook.key", identity.key_pem.as_bytes(), 0o600);
    world.put("secret", b"0123456789abcdef0123456789abcdef\n", 0o400);
    world.configure(&format!("{FAST}{}{more}", webhook(&world, port)));
    (world, port)
}

fn webhook(world: &World, port: u16) -> String {
    format!(
        "[[notify]]\nname = \"pager\"\nurl = \"https://localhost:{port}/tfo?team=edge\"\nsecret = {:?}\nca = {:?}\n\
         events = [\"paused\", \"rotation_ended\", \"split\"]\n",
        world.path("secret"),
        world.path("ca.crt")
    )
}

/// A command that keeps each event in a file of its own, in order, and fails while `file` is there.
fn recorder(world: &World, name: &str, file: &str) -> String {
    let dir = world.path(name);
    fs::create_dir_all(&dir).unwrap();
    let script = format!(
        "#!/bin/sh\n[ -e {} ] && {{ echo away; exit 3; }}\nn=$(ls {dir} | wc -l)\ncat > {dir}/$(printf %03d $n)\n",
        world.path(file).display(),
        dir = dir.display()
    );
    world.put(&format!("{name}.sh"), script.as_bytes(), 0o755);
    format!(
        "[[notify]]\nname = {name:?}\ncommand = [{:?}]\nevents = [\"paused\", \"rotation_ended\"]\n",
        world.path(&format!("{name}.sh"))
    )
}

/// The requests that the receiver has got.
fn requests(world: &World) -> Vec<Value> {
    let text = fs::read_to_string(world.path("told")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The events that a recorder has taken.
fn recorded(dir: &Path) -> Vec<Value> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| serde_json::from_slice(&fs::read(file).unwrap()).unwrap_or(Value::Null)).collect()
}

fn kinds(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| format!("{} {}", event["kind"], event["state"]).replace('"', "")).collect()
}

/// Waits until these, and no others, have been taken.
#[track_caller]
fn until_recorded(world: &World, name: &str, expected: &[&str]) -> Vec<Value> {
    let dir = world.path(name);
    let mut last = Vec::new();
    let found = poll_some(SOON, || {
        last = kinds(&recorded(&dir));
        (last == expected).then(|| recorded(&dir))
    });
    found.unwrap_or_else(|| panic!("never {expected:?}: {last:?}\n{}", world.log()))
}

/// The first key, and the look at it: rotations of this pool take less time than passes between two looks.
fn first_key(world: &World, nodes: &mut [Node]) {
    world.first_key(nodes);
    let seen = || fs::read_to_string(world.path("notify.json")).is_ok_and(|state| state.contains("\"primary\":1"));
    assert!(poll_until(SOON, seen), "{}", world.log());
}

fn rotate(world: &World, nodes: &mut [Node]) {
    let (status, done) = world.operator().post("/v1/pools/edge/rotations", &json!({"reason": "a test"}));
    assert_eq!(status, 200, "{done}");
    for _ in 0..2 {
        for node in nodes.iter_mut() {
            node.step();
        }
        nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    }
    world.until("steady again", |pool| pool["phase"] == "steady");
}

fn order(world: &World, what: &str) {
    let (status, done) = world.operator().post(&format!("/v1/pools/edge/{what}"), &json!({"reason": "a test"}));
    assert_eq!(status, 200, "{done}");
}

#[test]
fn a_webhook_is_told_signed_and_again_until_it_takes_the_event() {
    skip_unless!(need_tool("python3"));
    let (mut world, port) = world("");
    world.put("down", b"", 0o600);
    world.start();
    let hook = Hook::start(&world, port);
    assert_eq!(hook.port, port);
    let mut nodes = world.nodes();
    first_key(&world, &mut nodes);
    rotate(&world, &mut nodes);
    // It refuses the first attempt; and the pool has long gone on.
    let refused = || requests(&world).iter().any(|request| request["status"] == 503);
    assert!(poll_until(SOON, refused), "{}", world.log());
    order(&world, "pause");
    fs::remove_file(world.path("down")).unwrap();
    let taken = || {
        let all = requests(&world);
        let taken: Vec<Value> =
            all.iter().filter(|request| request["status"] == 204).map(|request| request["event"].clone()).collect();
        (kinds(&taken) == ["rotation_ended done", "paused raised"]).then_some((all, taken))
    };
    let (all, taken) = poll_some(SOON, taken).unwrap_or_else(|| panic!("{:#?}\n{}", requests(&world), world.log()));
    assert!(all.iter().all(|request| request["signed"] == true && request["tls"] == "TLSv1.3"), "{all:#?}");
    assert!(all.iter().all(|request| request["path"] == "/tfo?team=edge"), "{all:#?}");
    let first: Vec<&Value> = all.iter().filter(|request| request["event"]["id"] == taken[0]["id"]).collect();
    assert!(first.len() >= 2 && first.iter().all(|request| request["event"] == taken[0]), "{all:#?}");
    let [ended, paused] = &taken[..] else { panic!("{taken:#?}") };
    assert_eq!(
        (&ended["version"], &ended["pool"], &ended["coordinator"]),
        (&json!(1), &json!("edge"), &json!("localhost"))
    );
    assert_eq!((&ended["rotation"]["primary"]["epoch"], &ended["rotation"]["backup"]["epoch"]), (&json!(2), &json!(1)));
    assert_eq!(paused["verdict"]["kind"], "paused");
    assert_eq!(paused["verdict"]["next"], "tfoctl resume --pool edge");
    assert_eq!(paused["since"], world.pool()["paused"]["since"]);
    let (_, metrics) = world.observed("/metrics").unwrap();
    let counted = |result: &str, at_least: u64| {
        let series = format!("tfo_coordinator_notifications_total{{result=\"{result}\",target=\"pager\"}} ");
        let value: u64 = metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap();
        assert!(value >= at_least, "{series}{value}");
        value
    };
    assert_eq!((counted("sent", 2), counted("dropped", 0)), (2, 0));
    counted("failed", 1);
    let log = world.log();
    assert!(log.contains("answered 503") && !log.contains("team=edge") && !log.contains("0123456789abcdef"), "{log}");
}

#[test]
fn nothing_is_lost_or_repeated_over_kills_and_restarts() {
    let (mut world, _) = world("");
    let commands = recorder(&world, "mail", "away");
    world.configure(&format!("{FAST}{commands}"));
    world.put("away", b"", 0o600);
    world.start();
    let mut nodes = world.nodes();
    first_key(&world, &mut nodes);
    rotate(&world, &mut nodes);
    order(&world, "pause");
    // Both are on the disk before the first attempt is over.
    let state = || fs::read_to_string(world.path("notify.json")).unwrap_or_default();
    assert!(poll_until(SOON, || state().contains("rotation_ended") && state().contains("\"paused\"")), "{}", state());
    world.kill();
    assert_eq!(recorded(&world.path("mail")), [Value::Null; 0]);
    // Another program under its name: one that the killed coordinator has started may still come to look whether it is away.
    fs::remove_file(world.path("mail.sh")).unwrap();
    recorder(&world, "mail", "back");
    world.start();
    let told = until_recorded(&world, "mail", &["rotation_ended done", "paused raised"]);
    // A command that is cut off by the end has perhaps done its work, and runs once more.
    let counts = || world.log().contains("kind=paused state=raised");
    assert!(poll_until(SOON, counts), "{}", world.log());
    // It stays paused over a restart, in which its nodes are not heard at first: that is not news.
    assert!(world.stop().success());
    world.start();
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    world.until("heard again", |pool| pool["verdict"]["kind"] == "paused");
    // It ends while the coordinator is down for its readers, and begins again.
    order(&world, "resume");
    let told_again = until_recorded(&world, "mail", &["rotation_ended done", "paused raised", "paused recovered"]);
    assert_eq!(told_again[..2], told[..], "the same events as before");
    assert_eq!(told_again[2]["since"], told[1]["since"]);
    assert!(told_again.iter().all(|event| event["id"].as_str().is_some_and(|id| id.len() == 32)));
    assert_ne!(told_again[2]["id"], told[1]["id"]);
}

#[test]
fn a_command_that_hangs_holds_up_no_driver_no_other_target_and_no_end() {
    let (mut world, _) = world("");
    world.put(
        "hang.sh",
        format!("#!/bin/sh\necho $$ > {}\nsleep 1000\n", world.path("pid").display()).as_bytes(),
        0o755,
    );
    let hang = format!(
        "[[notify]]\nname = \"hang\"\ncommand = [{:?}]\nevents = [\"rotation_ended\"]\n",
        world.path("hang.sh")
    );
    let mail = recorder(&world, "mail", "away");
    world.configure(&format!("{FAST}{hang}{mail}"));
    world.start();
    let mut nodes = world.nodes();
    first_key(&world, &mut nodes);
    rotate(&world, &mut nodes);
    assert!(
        poll_until(SOON, || fs::read_to_string(world.path("pid")).is_ok_and(|pid| pid.ends_with('\n'))),
        "{}",
        world.log()
    );
    until_recorded(&world, "mail", &["rotation_ended done"]);
    // Meanwhile.
    rotate(&world, &mut nodes);
    until_recorded(&world, "mail", &["rotation_ended done", "rotation_ended done"]);
    let pid = fs::read_to_string(world.path("pid")).unwrap();
    assert!(world.stop().success(), "{}", world.log());
    let is_gone = || !Path::new(&format!("/proc/{}", pid.trim())).exists();
    assert!(poll_until(SOON, is_gone), "{pid} is left");
}

#[test]
fn a_reload_takes_targets_over_and_check_and_notify_test_say_what_is_wrong_with_them() {
    skip_unless!(need_tool("python3"));
    let (mut world, port) = world("");
    let hook = Hook::start(&world, port);
    world.configure(FAST);
    world.start();
    let mail = recorder(&world, "mail", "away");
    let all = format!("{FAST}{}{mail}", webhook(&world, hook.port));
    world.configure(&all);
    world.signal(rustix::process::Signal::HUP);
    let has_series = || world.observed("/metrics").unwrap().1.contains("notifications_waiting{target=\"mail\"} 0");
    assert!(poll_until(SOON, has_series), "{}", world.log());

    let tried = world.run("notify-test", &["--format", "json"]);
    assert_eq!(tried.status.code(), Some(0), "{tried:?}");
    let tried: Value = serde_json::from_slice(&tried.stdout).unwrap();
    assert_eq!(tried["targets"].as_array().unwrap().len(), 2, "{tried}");
    assert_eq!(kinds(&recorded(&world.path("mail"))), ["test done"]);
    assert_eq!(requests(&world)[0]["event"]["id"], tried["targets"][0]["id"]);

    // One by one: what is wrong, and what is said of it.
    world.put("other.crt", tfo_testbed::pki::Ca::new("other").pem.as_bytes(), 0o644);
    world.put("short", b"fifteen bytes..\n", 0o400);
    world.put("away", b"", 0o600);
    let with = |from: &str, to: &str| {
        let text = all.replace(&format!("{:?}", world.path(from)), &format!("{:?}", world.path(to)));
        assert_ne!(text, all);
        world.configure(&text);
    };
    let only = |name: &str, code: i32| {
        let output = world.run("notify-test", &["--to", name]);
        let said = tfo_testbed::output::said(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    };
    let check = || tfo_testbed::output::said(&world.run("check", &[]));
    with("ca.crt", "other.crt");
    assert!(only("pager", 1).contains("invalid peer certificate"), "{}", only("pager", 1));
    with("secret", "short");
    assert!(only("pager", 1).contains("the secret has 15 bytes") && check().contains("the secret has 15 bytes"));
    with("secret", "none");
    assert!(check().contains("notify[0].secret") && check().contains("put the secret at"), "{}", check());
    with("mail.sh", "none.sh");
    assert!(only("mail", 1).contains("cannot start") && check().contains("cannot execute"), "{}", check());
    world.configure(&all);
    let said = only("mail", 1);
    assert!(said.contains("mail: not told: ") && said.contains("exit status: 3; it said: away"), "{said}");
    assert!(only("nobody", 2).contains("known names: pager, mail"));
    assert!(!check().contains("notify"), "{}", check());
}
