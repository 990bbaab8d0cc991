//! What the tests of this binary share: the program, its JSON, and a cable between a client and a server.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use tfo_testbed::cable::{self, CLIENT, SERVER};
pub(crate) use tfo_testbed::cable::{KEYS, Running};
use tfo_testbed::host::Host;
pub(crate) use tfo_testbed::output::{code, json_ending, json_of};
use tfo_testbed::{NetNs, SOON, poll_until};

/// The program under test.
pub(crate) fn program() -> &'static str {
    tfo_testbed::program("tfoctl")
}

/// The JSON with each value replaced by its type, and each list by its first element: what a release must not change.
pub(crate) fn shape(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => json!("bool"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("text"),
        Value::Array(list) => Value::Array(list.first().map(shape).into_iter().collect()),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
    }
}

/// Compares with the snapshot of this name.
pub(crate) fn pinned(name: &str, value: &Value) {
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_json_snapshot!(format!("ctl_{name}"), value);
    });
}

/// Runs the program on this machine.
pub(crate) fn ctl(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).stdin(Stdio::null()).output().expect("tfoctl starts")
}

/// Addresses of the two ends.
pub(crate) struct Family {
    pub(crate) server: &'static str,
    pub(crate) client: &'static str,
}

impl Family {
    /// `http://SERVER:PORT` and a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", SocketAddr::new(self.server.parse().expect("an address"), 8080))
    }
}

/// IPv4 and IPv6.
pub(crate) const FAMILIES: [Family; 2] =
    [Family { server: SERVER[0], client: CLIENT[0] }, Family { server: SERVER[1], client: CLIENT[1] }];

/// A server and a client, one cable apart.
pub(crate) struct Cable {
    pub(crate) server: Host,
    pub(crate) client: NetNs,
}

impl Cable {
    /// TFO is on at both ends, and no key is set.
    pub(crate) fn new() -> Self {
        let cable = Self { server: Host::new(), client: NetNs::new() };
        cable::connect(&cable.client, cable.server.netns());
        bits(cable.server.netns(), "2");
        bits(&cable.client, "1");
        cable
    }

    /// Starts nginx on port 8080, and waits until it listens.
    pub(crate) fn nginx(&self) -> Running {
        let config = r#"daemon off; master_process off; pid @/nginx.pid; error_log stderr;
            events { worker_connections 64; }
            http {
                access_log off; client_body_temp_path @/b; proxy_temp_path @/p; fastcgi_temp_path @/f; uwsgi_temp_path @/u;
                scgi_temp_path @/s; default_type text/plain;
                server {
                    listen 8080 fastopen=256; listen [::]:8080 ipv6only=on fastopen=256;
                    location / { return 200 "hello\n"; }
                    location /moved { return 302 http://elsewhere.example/; }
                }
            }"#;
        let config = config.replace('@', self.server.text_path("").trim_end_matches('/'));
        let config = self.server.write("nginx.conf", config, 0o644);
        let mut nginx = self.server.command("nginx");
        nginx.arg("-e").arg("stderr").arg("-p").arg(self.server.path("")).arg("-c").arg(config);
        self.start(nginx)
    }

    /// Starts haproxy in its place.
    pub(crate) fn haproxy(&self) -> Running {
        let config = "defaults\n mode http\n timeout client 5s\n timeout connect 5s\n timeout server 5s\n\
            frontend f\n bind 0.0.0.0:8080 tfo\n bind [::]:8080 v6only tfo\n \
            http-request return status 200 content-type text/plain string hello\n";
        let config = self.server.write("haproxy.cfg", config, 0o644);
        let mut haproxy = self.server.command("haproxy");
        haproxy.arg("-db").arg("-f").arg(config);
        self.start(haproxy)
    }

    /// Starts a server of another kind on port 8080.
    pub(crate) fn start(&self, mut command: Command) -> Running {
        let log = std::fs::File::create(self.server.path("server.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut running = Running(command.spawn().expect("the server starts"));
        let address = SocketAddr::new(FAMILIES[0].server.parse().unwrap(), 8080);
        let listens = || self.client.run(|| TcpStream::connect(address).is_ok());
        let up = poll_until(SOON, || listens() || running.0.try_wait().unwrap().is_some());
        let said = || std::fs::read_to_string(self.server.path("server.log")).unwrap();
        assert!(up && running.0.try_wait().unwrap().is_none(), "the server does not come up: {}", said());
        running
    }

    /// Runs the program at the client.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        self.client.command(program()).args(arguments).output().expect("tfoctl starts")
    }

    /// Runs `get` at the client; it must get an answer.
    #[track_caller]
    pub(crate) fn get(&self, arguments: &[&str]) -> Value {
        let output = self.ctl(&[&["get", "--format", "json"], arguments].concat());
        code(&output, 0);
        json_of(&output)
    }

    /// `syn_data` of each exchange of one `get`.
    #[track_caller]
    pub(crate) fn rides(&self, url: &str) -> Vec<String> {
        let got = self.get(&[url]);
        got["exchanges"].as_array().unwrap().iter().map(|e| e["syn_data"].as_str().unwrap().to_owned()).collect()
    }

    /// The counters of one end, as `stats` shows them.
    #[track_caller]
    pub(crate) fn counters(netns: &NetNs) -> Value {
        let output = ctl(&["stats", "--format", "json", "--namespace", netns.name()]);
        code(&output, 0);
        json_of(&output)["namespaces"][0]["counters"].clone()
    }

    /// The cookie that the client's kernel has stored.
    pub(crate) fn stored(&self, family: &Family) -> Option<String> {
        let output =
            Command::new("ip").args(["-n", self.client.name(), "tcp_metrics", "show", family.server]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split(" fo_cookie ").nth(1).map(|rest| rest[..16].to_owned())
    }
}

/// Sets `net.ipv4.tcp_fastopen`.
pub(crate) fn bits(netns: &NetNs, value: &str) {
    netns.set("ipv4/tcp_fastopen", value);
}
