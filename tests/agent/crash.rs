//! An install that is cut short at every system call, or fails at every one: the keys are the old or the new pair, whole, in
//! the file and in the kernel, the output says which, and the next run repairs the rest.
//!
//! A short run has a part of the errors, and no calls of the dynamic loader.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use tfo_host::kernel::sysctl_d::{self, Persisted};
use tfo_testbed::host::{Host, KEY_FILE, UNSET, in_own_mounts};
use tfo_testbed::output::{code, stderr, stdout};
use tfo_testbed::{by_size, skip_unless};

/// The pair that is installed at first, and the one that is due.
const OLD: &str = "7a0c91e3-55d1f0b8-19c64e2f-8d3ba670,e1f25d06-3b98c7a4-60d2194e-f58b037c";
const NEW: &str = "c4d7302b-a1659ef8-0e83bd57-924f1c6a,7a0c91e3-55d1f0b8-19c64e2f-8d3ba670";

fn ready() -> bool {
    tfo_testbed::need_netns() && tfo_testbed::need_tool("strace") && tfo_testbed::need_tool("unshare")
}

/// A host on which one pair is installed and another is due.
struct Due {
    host: Host,
    old: State,
    /// None for a source that makes another pair at each run.
    new: Option<String>,
}

/// What a host holds.
#[derive(Clone)]
struct State {
    kernel: String,
    file: Option<String>,
}

impl Due {
    /// `prepare` configures the old pair, `change` the new one.
    fn new(prepare: impl Fn(&Host), change: impl Fn(&Host)) -> Self {
        let host = Host::new();
        prepare(&host);
        let old = if host.config_file().exists() {
            code(&host.run("once", &[]), 0);
            State { kernel: host.kernel(), file: host.persisted() }
        } else {
            State { kernel: UNSET.to_owned(), file: None }
        };
        change(&host);
        let mut due = Self { host, old, new: None };
        let mut news = [(); 2].map(|()| {
            code(&due.once_here(), 0);
            let new = due.host.kernel();
            assert_ne!(new, due.old.kernel, "a new pair was due");
            due.reset();
            new
        });
        let [first, second] = &mut news;
        due.new = (first == second).then(|| std::mem::take(first));
        due
    }

    /// Old state, no leftovers.  Only to be called inside the namespace or for a host that has a file.
    fn reset(&self) {
        for name in self.host.sysctl_d() {
            std::fs::remove_file(self.host.path("sysctl.d").join(name)).expect("a step of the test works");
        }
        if let Some(text) = &self.old.file {
            self.host.write("sysctl.d/50-tcp_fastopen_key.conf", text, 0o600);
        }
        self.host.set_kernel(&self.old.kernel);
        assert_eq!(self.host.kernel(), self.old.kernel);
    }

    fn once_here(&self) -> Output {
        self.host.run("once", &["--format", "json"])
    }

    /// `once` under strace, which writes to the file `trace`.
    fn traced(&self, options: &[&str]) -> (Output, String) {
        let trace = self.host.path("trace");
        std::fs::remove_file(&trace).ok();
        let mut strace = self.host.command("strace");
        strace.args(["-f", "-qqq", "-y", "-s", "4", "-o"]).arg(&trace).args(options).arg("--");
        strace
            .arg(tfo_testbed::agent_path())
            .args(["once", "--format", "json", "--config"])
            .arg(self.host.config_file());
        let output = strace.output().expect("a step of the test works");
        (output, std::fs::read_to_string(trace).unwrap_or_default())
    }

    /// The pair in the file is the old or the new one, whole and protected; so is the kernel's.  True: new.
    #[track_caller]
    fn check(&self, at: &str) -> (bool, bool) {
        let kernel = self.host.kernel();
        let file = self.host.persisted();
        let file_is_new = file != self.old.file;
        if let Some(text) = &file {
            let found = std::fs::metadata(self.host.sysctl_file()).expect("a step of the test works");
            assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o600, 0, 0), "{at}");
            let read = sysctl_d::read(&self.host.sysctl_file()).expect("a step of the test works");
            assert!(matches!(read, Persisted::Ours { .. }), "{at}: the file is cut or mixed: {text}");
        }
        let keys = self.host.persisted_keys();
        if file_is_new {
            match &self.new {
                Some(new) => assert_eq!(keys.as_ref(), Some(new), "{at}: the file holds other keys"),
                None => assert!(keys.is_some(), "{at}: the file is gone"),
            }
        }
        let kernel_is_new = kernel != self.old.kernel;
        if kernel_is_new {
            let new = self.new.as_ref().or(keys.as_ref());
            assert_eq!(Some(&kernel), new, "{at}: the kernel holds neither the old nor the new pair");
        }
        (file_is_new, kernel_is_new)
    }

    /// The next run repairs everything and leaves nothing behind.
    #[track_caller]
    fn repaired(&self, at: &str) {
        let file_before = self.host.persisted();
        let output = self.once_here();
        assert_eq!(output.status.code(), Some(0), "{at}: {}", stdout(&output));
        let (file, kernel) = (self.host.persisted_keys(), self.host.kernel());
        match &self.new {
            Some(new) => assert_eq!((file.as_ref(), &kernel), (Some(new), new), "{at}"),
            None => {
                assert_eq!(file.as_ref(), Some(&kernel), "{at}");
                // Keys that made it to the file are the ones to go on with, not a third pair.
                assert!(file_before == self.old.file || file_before == self.host.persisted(), "{at}");
            }
        }
        assert_eq!(self.host.sysctl_d(), ["50-tcp_fastopen_key.conf"], "{at}: something is left");
        let run = std::fs::read_dir(self.host.path("run")).expect("a step of the test works");
        assert_eq!(run.count(), 1, "{at}: something is left beside status.json");
    }
}

/// A new pair in a file that another program distributes.
fn by_file() -> Due {
    Due::new(|host| host.use_keys(OLD), |host| host.use_keys(NEW))
}

const DERIVE: &str = "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"@/etc/secret\"\ninterval = \"7d\"\n";

/// Another secret, after a restart with a new configuration.
fn by_derive() -> Due {
    let secret = |first: u8| (first..first + 32).collect::<Vec<u8>>();
    let prepare = |host: &Host| {
        host.write("etc/secret", secret(10), 0o400);
        host.configure(DERIVE);
    };
    Due::new(prepare, |host| {
        host.write("etc/secret", secret(77), 0o400);
    })
}

/// Keys that exist nowhere but in the file.
fn by_random() -> Due {
    Due::new(|host| host.use_keys(OLD), |host| host.configure("[source]\nkind = \"random\"\n"))
}

/// The first install on a host.
fn first_install() -> Due {
    Due::new(|_| {}, |host| host.use_keys(NEW))
}

/// One system call of a trace.
#[derive(Debug, Clone)]
struct Call {
    name: String,
    /// Which call of that name it is, from 1: strace counts each system call for itself, also under `inject=all`.
    count: usize,
    /// strace's whole line.
    line: String,
}

/// The system calls of a trace, the first `execve` not among them: strace cannot inject into it.
fn calls(trace: &str) -> Vec<Call> {
    let mut counts = BTreeMap::<String, usize>::new();
    let lines = trace.lines().filter_map(|line| {
        let (_pid, call) = line.split_once(' ')?;
        let (name, _) = call.trim_start().split_once('(')?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name.then(|| (name.to_owned(), line.to_owned()))
    });
    let lines = lines.skip_while(|(name, _)| name == "execve");
    let counted = lines.map(|(name, line)| {
        let count = counts.entry(name.clone()).or_default();
        *count += 1;
        Call { name, count: *count, line }
    });
    counted.collect()
}

/// Kills the install on entry to its first, second, … last system call, so that each is the first one not done.
///
/// `from` names what the first call of interest is about: the calls of the dynamic loader need no four rounds.
fn kill_everywhere(due: &Due, from: &str) {
    let (output, trace) = due.traced(&[]);
    code(&output, 0);
    due.reset();
    for needed in ["fsync(", "rename", KEY_FILE, "50-tcp_fastopen_key.conf.tmp"] {
        assert!(trace.contains(needed), "the install has no {needed}:\n{trace}");
    }
    let all = calls(&trace);
    assert!(all.len() > 50, "{trace}");
    let mut seen = BTreeMap::<(bool, bool), usize>::new();
    let first = all.iter().position(|call| call.line.contains(from)).expect("there is such a call");
    for (index, call) in all.iter().enumerate().skip(first) {
        let at = format!("killed at {}", call.line);
        let inject = format!("inject={}:signal=SIGKILL:when={}", call.name, call.count);
        let (output, trace) = due.traced(&["-e", "trace=all", "-e", &inject]);
        // strace ends as its child did.
        assert_eq!(output.status.signal(), Some(9), "{at}: {}", stderr(&output));
        assert!(trace.trim_end().ends_with("+++ killed by SIGKILL +++"), "{at}: {trace}");
        let reached = calls(&trace);
        assert_eq!(reached.len(), index + 1, "{at}: {trace}");
        let last = &reached[index];
        assert!(last.name == call.name && last.line.ends_with("= ?"), "{at}: {}", last.line);
        *seen.entry(due.check(&at)).or_default() += 1;
        due.repaired(&at);
        due.reset();
    }
    // (file, kernel): neither, the file alone, both, and never the kernel alone.
    assert!(seen.contains_key(&(false, false)) && seen.contains_key(&(true, true)), "{seen:?}");
    assert!(seen.contains_key(&(true, false)) && !seen.contains_key(&(false, true)), "{seen:?}");
    println!("killed at {} of {} calls; (file new, kernel new): {seen:?}", all.len() - first, all.len());
}

#[test]
fn killed_at_every_call_with_the_file_source() {
    skip_unless!(ready());
    // The dynamic loader's calls too, but for a short run.
    kill_everywhere(&by_file(), by_size("agent.toml", "", ""));
}

#[test]
fn killed_at_every_call_with_the_derive_source() {
    skip_unless!(ready());
    kill_everywhere(&by_derive(), "agent.toml");
}

#[test]
fn killed_at_every_call_with_the_random_source() {
    skip_unless!(ready());
    kill_everywhere(&by_random(), "agent.toml");
}

#[test]
fn killed_at_every_call_of_the_first_install() {
    skip_unless!(ready());
    kill_everywhere(&first_install(), "agent.toml");
}

/// What a full, read-only, forbidden or broken disk says, and what the kernel says of a text that it refuses.
const ERRORS: [&str; 5] = ["ENOSPC", "EROFS", "EACCES", "EIO", "EINVAL"];

/// The errors of one call: in a short run two of them, and the next call gets others.
fn errors_at(call: usize) -> impl Iterator<Item = &'static str> {
    let number = by_size(2, ERRORS.len(), ERRORS.len());
    (0..number).map(move |error| ERRORS[(2 * call + error) % ERRORS.len()])
}

/// The output says what the file sets and what the kernel holds.
fn says_which(text: &str, (file_is_new, kernel_is_new): (bool, bool), first: bool) -> bool {
    let file = match (file_is_new, first) {
        (true, _) => "the file sets the new keys",
        (false, true) => "the agent's file is missing",
        (false, false) => "the file still sets the old keys",
    };
    let kernel = match (kernel_is_new, first) {
        (true, _) => "the kernel holds the new keys",
        (false, true) => "the kernel holds no keys",
        (false, false) => "the kernel keeps the old keys",
    };
    text.contains(file) && text.contains(kernel)
}

/// Lets each call on one of our paths fail with each error, one call at a time.
fn fail_everywhere(due: &Due) {
    let (output, trace) = due.traced(&[]);
    code(&output, 0);
    due.reset();
    let here = due.host.text_path("");
    let ours = |call: &Call| [here.as_str(), KEY_FILE, "/run/tfo-agent"].iter().any(|path| call.line.contains(path));
    let all: Vec<Call> = calls(&trace).into_iter().filter(ours).collect();
    for needed in ["openat", "write", "fsync", "rename", "ftruncate", "read", "flock"] {
        assert!(all.iter().any(|call| call.name.starts_with(needed)), "no {needed} among {all:?}");
    }
    let mut ends = BTreeMap::<(Option<i32>, bool, bool), usize>::new();
    let mut silent = Vec::new();
    let mut failed = 0;
    for (index, call) in all.iter().enumerate() {
        for error in errors_at(index) {
            failed += 1;
            let at = format!("{error} at {}", call.line);
            let inject = format!("inject={}:error={error}:when={}", call.name, call.count);
            let (output, trace) = due.traced(&["-e", "trace=all", "-e", &inject]);
            assert_eq!(trace.matches("(INJECTED)").count(), 1, "{at}");
            let text = stdout(&output) + &stderr(&output);
            assert!(!text.contains("panicked"), "{at}: {text}");
            let now = due.check(&at);
            let code = output.status.code();
            match code {
                // Not needed for the keys: they are where they belong all the same.
                Some(0) => assert_eq!(now, (true, true), "{at}: {text}"),
                // Found before anything was written.
                Some(2) => assert_eq!(now, (false, false), "{at}: {text}"),
                Some(1) => {
                    let first = due.old.file.is_none();
                    let untouched = now == (false, false) && text.contains("nothing was written");
                    if !untouched && !says_which(&text, now, first) {
                        silent.push(format!("{at}: (file, kernel) new: {now:?}, but it says:\n{text}"));
                    }
                }
                other => panic!("{at}: exit {other:?}: {text}"),
            }
            *ends.entry((code, now.0, now.1)).or_default() += 1;
            due.repaired(&at);
            due.reset();
        }
    }
    assert!(silent.is_empty(), "{} times it does not say which keys are where:\n{}", silent.len(), silent.join("\n"));
    println!("{failed} errors at {} calls; (exit, file new, kernel new): {ends:?}", all.len());
}

#[test]
fn every_error_at_every_call_with_the_file_source() {
    skip_unless!(ready());
    fail_everywhere(&by_file());
}

#[test]
fn every_error_at_every_call_with_the_random_source() {
    skip_unless!(ready());
    fail_everywhere(&by_random());
}

#[test]
fn every_error_at_every_call_of_the_first_install() {
    skip_unless!(ready());
    fail_everywhere(&first_install());
}

#[test]
fn the_rest_of_a_short_write_is_not_written() {
    skip_unless!(ready());
    let due = by_file();
    let (_, trace) = due.traced(&[]);
    due.reset();
    let to_kernel = |call: &Call| call.name == "write" && call.line.contains(KEY_FILE);
    let call = calls(&trace).into_iter().find(to_kernel).expect("the kernel is written");
    let inject = format!("inject=write:retval=30:when={}", call.count);
    let (output, trace) = due.traced(&["-e", "trace=all", "-e", &inject]);
    let writes: Vec<_> = calls(&trace).into_iter().filter(to_kernel).collect();
    assert!(writes.len() == 1 && writes[0].line.contains("(INJECTED)"), "{writes:?}");
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let now = due.check("short write");
    assert_eq!(now, (true, false));
    assert!(says_which(&stdout(&output), now, false), "{}", stdout(&output));
    due.repaired("short write");
}

/// Runs `once` in a mount namespace of its own, after `script`, which has the host's directory as `$3`.
/// What the sysctl.d directory then holds is copied out of it.
fn once_after(due: &Due, script: &str) -> Output {
    let host = &due.host;
    let mut unshare = host.command("unshare");
    let script = format!(
        "{script}
         code=0; \"$1\" once --format json --config \"$2\" || code=$?
         mkdir \"$3/after\"; cp -a \"$3\"/sysctl.d/. \"$3/after\"
         exit $code"
    );
    in_own_mounts(&mut unshare, &script);
    unshare.arg(tfo_testbed::agent_path()).arg(host.config_file()).arg(host.path(""));
    let output = unshare.output().expect("a step of the test works");
    // What the namespace held is what is to be judged.
    for name in host.sysctl_d() {
        std::fs::remove_file(host.path("sysctl.d").join(name)).expect("a step of the test works");
    }
    for entry in std::fs::read_dir(host.path("after")).expect("a step of the test works") {
        let entry = entry.expect("a step of the test works");
        std::fs::rename(entry.path(), host.path("sysctl.d").join(entry.file_name())).expect("a step of the test works");
    }
    std::fs::remove_dir(host.path("after")).expect("a step of the test works");
    output
}

#[test]
fn a_full_disk_leaves_the_old_file_and_says_so() {
    skip_unless!(ready());
    for (due, kernel_is_new) in [(by_file(), true), (by_random(), false)] {
        let output = once_after(
            &due,
            "cp -a \"$3/sysctl.d\" \"$3/old\"
             mount -t tmpfs -o size=64k,mode=755 none \"$3/sysctl.d\"; cp -a \"$3\"/old/. \"$3/sysctl.d\"
             rm -r \"$3/old\"; cat /dev/zero >\"$3/sysctl.d/filler\" 2>/dev/null || true",
        );
        std::fs::remove_file(due.host.path("sysctl.d/filler")).unwrap();
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("No space left on device"), "{text}");
        let now = due.check("full disk");
        assert_eq!(now, (false, kernel_is_new), "{text}");
        assert!(says_which(&text, now, false), "{text}");
        assert_eq!(due.host.sysctl_d(), ["50-tcp_fastopen_key.conf"], "the temporary file takes no room");
        due.repaired("full disk");
    }
}

#[test]
fn a_disk_that_was_remounted_read_only_is_refused_before_anything_is_written() {
    skip_unless!(ready());
    let due = by_file();
    let script = "mount --bind \"$3/sysctl.d\" \"$3/sysctl.d\"; mount -o remount,bind,ro \"$3/sysctl.d\"";
    let output = once_after(&due, script);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("Read-only file system") && text.contains("ReadWritePaths="), "{text}");
    assert_eq!(due.check("read-only"), (false, false));
    due.repaired("read-only");
}

/// A rename that the disk may forget again is not taken for durable at the next look.
#[test]
fn a_daemon_writes_again_what_could_not_be_made_durable() {
    skip_unless!(ready());
    let host = Host::new();
    host.use_keys(OLD);
    code(&host.run("once", &[]), 0);
    host.use_keys(NEW);
    host.configure("verify_interval = \"1s\"\n[source]\nkind = \"file\"\npath = \"@/etc/keys\"\n");
    let trace = host.path("trace");
    let mut strace = host.command("strace");
    // The second fsync is the directory's.
    strace
        .args(["-f", "-qqq", "-y", "-e", "trace=fsync,rename", "-e", "inject=fsync:error=EIO:when=2", "-o"])
        .arg(&trace);
    strace.arg("--").arg(tfo_testbed::agent_path()).args(["run", "--config"]).arg(host.config_file());
    let log = std::fs::File::create(host.path("log")).unwrap();
    let mut child = strace.stderr(log).spawn().unwrap();
    let calls_now = || calls(&std::fs::read_to_string(&trace).unwrap_or_default());
    let on_directory = |call: &&Call| call.name == "fsync" && call.line.contains("/sysctl.d>)");
    let durable = || calls_now().iter().filter(on_directory).any(|call| call.line.ends_with("= 0"));
    let again = tfo_testbed::poll_until(std::time::Duration::from_secs(20), durable);
    let all = calls_now();
    if let Some(pid) = all.first().and_then(|call| call.line.split(' ').next()?.parse().ok()) {
        tfo_testbed::signal::send(pid, rustix::process::Signal::TERM);
    } else {
        child.kill().unwrap();
    }
    child.wait().unwrap();
    let directory: Vec<&Call> = all.iter().filter(on_directory).collect();
    assert!(directory[0].line.contains("EIO (Input/output error) (INJECTED)"), "{directory:?}");
    assert!(again, "never made durable: {all:?}");
    let log = std::fs::read_to_string(host.path("log")).unwrap();
    assert!(log.contains("cannot make durable") && log.contains("now the file sets the new keys"), "{log}");
}
