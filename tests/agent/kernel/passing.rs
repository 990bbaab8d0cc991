//! Namespaces that come and go, as those of containers do: found, given keys, kept up to date, forgotten; and the hook that is before them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tfo_agent::contact::News;
use tfo_agent::looking::Looking;
use tfo_config::agent::AgentSettings;
use tfo_config::reader::ConfigFile as _;
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_host::runtime::sys::set_tcp_fastopen_queue;

use crate::start_ready;
use tfo_testbed::cable::KEYS;
use tfo_testbed::daemon::{Daemon, DaemonHost, kernel_of, lasting};
use tfo_testbed::host::UNSET;
use tfo_testbed::leftovers::{cgroup_root, name, remove_cgroup};
use tfo_testbed::output::{json_of, stderr, stdout};
use tfo_testbed::{
    NetNs, SOON, agent_path, by_size, need_netns, need_tool, now, poll_until, repository, skip, skip_unless,
};

/// `MSG_FASTOPEN` (Linux `include/linux/socket.h`).
const MSG_FASTOPEN: i32 = 0x2000_0000;

/// A pattern of all namespaces that this test makes.
fn all() -> String {
    name("*")
}

fn with_file(host: &DaemonHost, keys: &str, namespaces: &str, interval: &str) {
    host.put("keys", keys.as_bytes(), 0o400);
    let install = format!("namespaces = [{namespaces:?}]\nverify_interval = {interval:?}");
    host.configure(&format!("[source]\nkind = \"file\"\npath = {:?}", host.path("keys")), &install);
}

/// A namespace that does TFO, as soon as it has this host's keys; and how long that took.
fn container(host: &DaemonHost, daemon: &Daemon) -> (NetNs, Duration) {
    let (netns, began) = (NetNs::new(), now());
    assert!(poll_until(SOON, || kernel_of(&netns) == host.kernel()), "{} {}", kernel_of(&netns), daemon.log());
    let took = began.elapsed();
    netns.set("ipv4/tcp_fastopen", "3");
    (netns, took)
}

/// A server that is its own client, with data in the SYN, until it is told to stop.
fn serve(netns: &NetNs, stop: &AtomicBool) -> TfoCounters {
    netns.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        set_tcp_fastopen_queue(listener.as_fd(), 16).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()));
        while !stop.load(Ordering::Relaxed) {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.send_to_with_flags(b"hello", &address.into(), MSG_FASTOPEN).unwrap();
            let (mut connection, _) = listener.accept().unwrap();
            let mut came = [0; 5];
            connection.read_exact(&mut came).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        TfoCounters::read(Path::new(NETSTAT_PATH)).unwrap()
    })
}

fn names(host: &DaemonHost) -> Vec<String> {
    let status = host.status();
    let all = status["namespaces"].as_array().unwrap().iter();
    all.map(|namespace| namespace["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn one_that_appears_has_the_keys_without_a_pass_that_was_due() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    with_file(&host, KEYS[0], &all(), "1h");
    let daemon = start_ready(&host);
    assert_eq!(names(&host), ["own"]);
    let mut longest = Duration::ZERO;
    for round in 0..3 {
        let (netns, took) = container(&host, &daemon);
        longest = longest.max(took);
        assert!(poll_until(SOON, || names(&host) == ["own", netns.name()]), "{round}: {}", host.status());
        assert_eq!((&host.status()["namespaces"][1]["found"], &host.status()["state"]), (&true.into(), &"ok".into()));
        drop(netns);
        // Forgotten, and not a problem.
        assert!(poll_until(SOON, || names(&host) == ["own"]), "{round}: {}", host.status());
        assert_eq!((&host.status()["state"], &host.status()["error"]), (&"ok".into(), &serde_json::Value::Null));
    }
    eprintln!("keys after at most {longest:?}");
    assert!(!daemon.log().contains("ERROR") && !daemon.log().contains("WARN"), "{}", daemon.log());
    let checked = json_of(&host.run("check", &["--format", "json"]));
    let (netns, _) = container(&host, &daemon);
    assert_eq!(checked["namespaces"].as_array().unwrap().len(), 1);
    let checked = json_of(&host.run("check", &["--format", "json"]));
    assert_eq!(checked["namespaces"][1]["name"], netns.name());
    // Another agent's namespaces stay its own.
    let other = DaemonHost::new();
    with_file(&other, KEYS[1], netns.name(), "1h");
    assert_eq!(other.once(&[]).status.code(), Some(3), "the daemon has its lock");
}

/// A network namespace that is bound over a file; until it is dropped.
struct Bound<'a>(&'a Path);

impl<'a> Bound<'a> {
    fn over(file: &'a Path) -> Self {
        let bound = Command::new("mount").args(["--bind", "/proc/self/ns/net"]).arg(file).status();
        assert!(bound.expect("mount (util-linux)").success());
        Self(file)
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0).status().ok();
    }
}

/// Its name was there long before, so that inotify says nothing: the mount alone tells, and no look is due.
#[test]
fn one_that_is_bound_over_an_old_name_ends_the_pause() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    let directory = host.path("bound");
    let file = directory.join("old");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(&file, "").unwrap();
    with_file(&host, KEYS[0], directory.join("*").to_str().unwrap(), "1h");
    let settings = AgentSettings::load(&host.config_file()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut looking = Looking::new(&settings, tokio::time::Instant::now()).unwrap();
        assert_eq!(looking.step().await.unwrap(), News::None, "nothing is there yet");
        // A machine that stands still for half a second lets a look be due: then again.
        for _ in 0..20 {
            let bound = Bound::over(&file);
            let first = looking.step().await.unwrap();
            let mut last = first;
            while last == News::None {
                last = looking.step().await.unwrap();
            }
            if first == News::None {
                return;
            }
            drop(bound);
            while looking.step().await.unwrap() == News::None {}
        }
        panic!("each time it was found by a look that was due, and never by its mount");
    });
}

/// Fifty in a minute, and rotations all the time: none that serves rejects a cookie.
#[test]
fn fifty_in_a_minute_that_come_and_go_reject_nothing_through_rotations() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    with_file(&host, KEYS[0], &all(), "1s");
    let mut daemon = start_ready(&host);
    let rounds = by_size(6, 12, 50);
    // Staged, promoted; the next one.
    let steps = [[0, 1], [1, 0], [1, 2], [2, 1], [2, 0], [0, 2]];
    let (mut longest, mut accepted, mut alt) = (Duration::ZERO, 0, 0);
    for round in 0..rounds {
        let ((one, first), (two, second)) = (container(&host, &daemon), container(&host, &daemon));
        longest = longest.max(first).max(second);
        let (stop, step) = (AtomicBool::new(false), steps[round % steps.len()].map(|key| KEYS[key]).join(","));
        let counted = std::thread::scope(|scope| {
            let serving = [&one, &two].map(|netns| scope.spawn(|| serve(netns, &stop)));
            host.put("keys", step.as_bytes(), 0o400);
            let everywhere = || [host.kernel(), kernel_of(&one), kernel_of(&two)].iter().all(|keys| *keys == step);
            let installed = poll_until(SOON, everywhere);
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
            assert!(installed, "{}", daemon.log());
            serving.map(|thread| thread.join().unwrap())
        });
        for counters in counted {
            assert_eq!(counters.passive_fail, Some(0), "round {round}, {step}: {counters:?}");
            accepted += counters.passive.unwrap();
            alt += counters.passive_alt_key.unwrap();
        }
    }
    assert!(accepted > 10 * rounds as u64 && alt > 0, "{accepted} accepted, {alt} by the backup");
    eprintln!("{} namespaces, {accepted} connections accepted, 0 rejected; keys after at most {longest:?}", 2 * rounds);
    assert!(poll_until(SOON, || names(&host) == ["own"]), "{}", host.status());
    assert_eq!(
        (&host.status()["state"], &host.status()["drift_repairs"]),
        (&"ok".into(), &0.into()),
        "{}",
        daemon.log()
    );
    daemon.stop();
}

/// A process in a network namespace of its own, as a container's first one; killed when dropped.
struct Container(Child);

impl Container {
    fn start() -> Self {
        let mut command = Command::new("unshare");
        let child = command.args(["--net", "sleep", "60"]).stdin(Stdio::null()).spawn().unwrap();
        let started = Self(child);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let entered = || std::fs::read_link(started.namespace()).is_ok_and(|link| link != own);
        assert!(poll_until(SOON, entered));
        started
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn keys(&self) -> String {
        let mut command = Command::new("nsenter");
        let output =
            command.arg(format!("--net={}", self.namespace())).args(["cat", tfo_testbed::host::KEY_FILE]).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn processes_of_a_unit_are_found_by_their_cgroup() {
    skip_unless!(need_netns());
    let Some(root) = cgroup_root() else { return skip("needs a cgroup2 tree") };
    let (unit, host) = (name("unit@a.service"), DaemonHost::new());
    let cgroup = root.join(&unit);
    std::fs::create_dir(&cgroup).unwrap();
    let container = Container::start();
    let moved = std::fs::write(cgroup.join("cgroup.procs"), container.0.id().to_string());
    with_file(&host, KEYS[0], &format!("unit:{}", name("unit@*.service")), "1h");
    let output = host.once(&["--format", "json"]);
    let (keys, said) = (container.keys(), json_of(&output));
    drop(container);
    assert!(poll_until(SOON, || remove_cgroup(&cgroup)));
    moved.unwrap();
    assert_eq!((output.status.code(), keys.as_str()), (Some(0), KEYS[0]), "{said:#}");
    let names: Vec<&str> =
        said["namespaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["own", unit.as_str()]);
}

fn hook(host: &DaemonHost, state: &str, more: &[&str]) -> Output {
    let mut command = host.agent("hook");
    let mut child =
        command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(state.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_hook_is_before_a_containers_first_process() {
    skip_unless!(need_netns());
    let (host, container) = (DaemonHost::new(), Container::start());
    host.configure(&lasting(&host), "");
    let state =
        |pid: u32| format!(r#"{{"ociVersion":"1.0.2","id":"c1","status":"creating","pid":{pid},"bundle":"/x"}}"#);
    let output = hook(&host, &state(container.0.id()), &["--required"]);
    assert_eq!((output.status.code(), container.keys().as_str()), (Some(0), UNSET), "there are no keys yet");
    host.once_ok();
    let output = hook(&host, &state(container.0.id()), &[]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{}", stderr(&output));
    assert_eq!(container.keys(), host.kernel());
    // `--network host`.
    let in_host = host.command("sleep").arg("60").spawn().unwrap();
    let in_host = Container(in_host);
    assert!(hook(&host, &state(in_host.0.id()), &["--required"]).status.success());
    // A container starts whatever happens here, unless it is told otherwise.
    for bad in ["{}", &state(0), &state(u32::MAX)] {
        let output = hook(&host, bad, &[]);
        assert!(output.status.success() && stderr(&output).contains("remedy"), "{}", stderr(&output));
        assert_eq!(hook(&host, bad, &["--required"]).status.code(), Some(1));
    }
}

/// Arguments: the agent, its configuration, a directory, the keys.  In a mount namespace of its own, because podman's runtime refuses
/// control groups of both versions, and podman keeps things in /run.  The containers have the programs of this host.
const PODMAN: &str = r#"
agent=$1 config=$2 dir=$3 keys=$4 file=/proc/sys/net/ipv4/tcp_fastopen_key
umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs -o mode=755 tmpfs /run || exit 9
mkdir -p "$dir/rootfs/usr" "$dir/none"
for top in bin lib lib64; do ln -s "usr/$top" "$dir/rootfs/$top"; done
container() {
    hooks=$1 network=$2 command=$3
    podman --root "$dir/root" --runroot "$dir/runroot" --tmpdir "$dir/tmp" --hooks-dir "$hooks" \
        --network-config-dir "$dir/networks" --storage-driver vfs --cgroup-manager cgroupfs --runtime crun \
        run --rm --cgroups disabled --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network "$network" \
        --volume /usr:/usr:ro --rootfs "$dir/rootfs" sh -c "$command"
}
echo "unhooked $(container "$dir/none" bridge "cat $file")"
echo "hooked $(container "$dir/hooks" bridge "cat $file")"
echo "own network $(container "$dir/hooks" none "cat $file")"
"$agent" run --config "$config" 2> "$dir/log" &
trap "kill $!" EXIT
echo "found $(container "$dir/none" bridge "until [ \$(cat $file) = $keys ]; do sleep 0.05; done; cat $file")"
"#;

#[test]
fn podmans_containers_have_the_keys_before_their_first_process_by_the_hook_and_soon_without() {
    const NETAVARK: &str = "/usr/lib/podman/netavark";
    skip_unless!(need_netns() && need_tool("podman") && need_tool("crun") && need_tool("iptables"));
    if !Path::new(NETAVARK).exists() {
        return skip("needs netavark, which makes podman's bridge");
    }
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "namespaces = [\"netns-*\"]\nverify_interval = \"1h\"");
    host.once_ok();
    // As the package ships it, with the program and the configuration of this test.
    let shipped = std::fs::read_to_string(repository("config/oci/tfo-agent.json")).unwrap();
    let mut hook: serde_json::Value = serde_json::from_str(&shipped).unwrap();
    hook["hook"]["path"] = agent_path().to_str().unwrap().into();
    let config = host.config_file();
    hook["hook"]["args"]
        .as_array_mut()
        .unwrap()
        .extend(["--required", "--config", config.to_str().unwrap()].map(Into::into));
    let dir = host.path("podman");
    std::fs::create_dir_all(dir.join("hooks")).unwrap();
    std::fs::write(dir.join("hooks/tfo-agent.json"), hook.to_string()).unwrap();
    let mut command = host.command("unshare");
    command.args(["--mount", "bash", "-c", PODMAN, "bash"]).arg(agent_path()).arg(&config).arg(&dir).arg(host.kernel());
    let output = command.output().unwrap();
    let keys = host.kernel();
    let expected = format!("unhooked {UNSET}\nhooked {keys}\nown network {keys}\nfound {keys}\n");
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
}
