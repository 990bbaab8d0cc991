//! Three machines on one wire with nothing but packages on their disks: tfo1, the coordinator's and the operator's host,
//! and the nodes cp1 and cp2.  None of our packages is installed until a test types the command.

use std::io::Write as _;
use std::process::Stdio;

use tfo_testbed::machine::{Image, Machine};
use tfo_testbed::output::stdout;
use tfo_testbed::package::Packages;
use tfo_testbed::{SOON, poll_until};

/// The coordinator's configuration.
const CONFIG: &str = "/etc/tfo-fleet/coordinator.toml";

/// Who is who, in place of a DNS.
const HOSTS: &str = "127.0.0.1 localhost\n10.99.0.1 tfo1.example.org\n";

/// The machines, and what was typed and said on them.
pub(crate) struct Site {
    machines: [(&'static str, Machine); 3],
    /// As a terminal would show it.
    pub(crate) transcript: String,
}

impl Site {
    /// Boots the machines.
    pub(crate) fn new(packages: &Packages) -> Self {
        let boot = |name: &'static str, wanted: &[&str]| {
            let image = super::with_probe(Image::new().file("/etc/hosts", HOSTS, 0o644));
            let image = wanted.iter().fold(image, |image, package| packages.deliver(image, package).0);
            let machine = image.boot();
            machine.run(&["hostname", name]);
            // TFO is on, as it is where this is wanted.
            machine.run(&["sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=3"]);
            (name, machine)
        };
        let machines =
            [boot("tfo1", &["tfo-coordinator", "tfoctl"]), boot("cp1", &["tfo-agent"]), boot("cp2", &["tfo-agent"])];
        let [(_, center), nodes @ ..] = &machines;
        center.ip("link add br0 type bridge");
        center.ip("addr add 10.99.0.1/24 dev br0");
        center.ip("link set br0 up");
        for (number, (_, node)) in nodes.iter().enumerate() {
            center.ip(&format!("link add port{number} type veth peer name eth0 netns {}", node.pid()));
            center.ip(&format!("link set port{number} master br0 up"));
            node.ip(&format!("addr add 10.99.0.{}/24 dev eth0", number + 11));
            node.ip("link set eth0 up");
        }
        Self { machines, transcript: String::new() }
    }

    /// A machine by its name.
    pub(crate) fn on(&self, name: &str) -> &Machine {
        let found = self.machines.iter().find(|(host, _)| *host == name);
        &found.unwrap_or_else(|| panic!("there is no {name}")).1
    }

    /// Types a command on a machine, as root in its home; it must succeed.  Gives what was said.
    #[track_caller]
    pub(crate) fn type_on(&mut self, name: &str, command: &str) -> String {
        self.type_with(name, command, None)
    }

    /// The same; `pasted`: what a terminal asks, and the line that is pasted there.
    #[track_caller]
    pub(crate) fn type_with(&mut self, name: &str, command: &str, pasted: Option<(&str, &str)>) -> String {
        let script = format!("cd /root && {{ {command}\n}} 2>&1");
        let mut typed = self.on(name).command("sh");
        typed.args(["-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        typed.stdin(if pasted.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut running = typed.spawn().expect("the command starts");
        if let (Some(mut stdin), Some((_, line))) = (running.stdin.take(), pasted) {
            writeln!(stdin, "{line}").expect("it reads");
        }
        let output = running.wait_with_output().expect("it ends");
        let said = stdout(&output);
        assert!(output.status.success(), "{name}# {command}\n{said}\n--- so far:\n{}", self.transcript);
        let pasted = pasted.map_or_else(String::new, |(prompt, line)| format!("{prompt}{line}\n"));
        self.transcript += &format!("{name}# {}\n{pasted}{said}", command.replace('\n', "\n> "));
        said
    }

    /// Brings a file of root's on tfo1 to a node, as root's on both.
    pub(crate) fn bring(&self, from: &str, name: &str, to: &str) {
        let content = self.on("tfo1").read(&format!("/root/{from}"));
        self.on(name).write_new(to, &content);
    }

    /// A wave is watched for a minute: not in a test.  For a coordinator that `init` has made.
    pub(crate) fn hasten(&self) {
        let center = self.on("tfo1");
        let text = center.read(CONFIG);
        let text = text.replace("#promote_waves = [\"5%\", \"100%\"]", "promote_waves = [\"100%\"]");
        center.write(CONFIG, &text.replace("#health_window = \"1m\"", "health_window = \"0s\""));
        center.run(&["systemctl", "reload", "tfo-coordinator"]);
        let differs = || {
            let pools: serde_json::Value =
                serde_json::from_str(&center.run(&["tfoctl", "pools", "--format", "json"])).unwrap_or_default();
            pools["pools"][0]["policy_differs"].clone()
        };
        assert!(poll_until(SOON, || differs() == serde_json::json!([])), "{}", differs());
    }

    /// What the kernels of both nodes hold; fails unless it is the same.
    #[track_caller]
    pub(crate) fn keys(&self) -> String {
        let [one, other] = ["cp1", "cp2"].map(|name| super::installed_key(self.on(name)));
        assert_eq!(one, other);
        one
    }
}
