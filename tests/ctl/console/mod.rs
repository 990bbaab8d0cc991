//! `tfoctl console` in front of a real coordinator: whom it lets in, what a form needs, and every button in a browser.

mod browser;
mod relay;
mod requests;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use tfo_testbed::config::{CoordinatorToml, client_files};
use tfo_testbed::coordinator::{OPERATOR, VIEWER, World};
use tfo_testbed::{SOON, mortal, poll_some, program};

/// A second operator.
const OTHER: &str = "ops2.example.org";

/// A coordinator with two operators and a viewer; `pool` are lines of `[pools.edge]`.  It does not run yet.
fn world(pool: &str) -> World {
    let world = World::new(pool);
    let of = CoordinatorToml::of(world.dir.path(), world.api, world.observe);
    let config = CoordinatorToml { operators: &[OPERATOR, OTHER], viewers: &[VIEWER], ..of };
    let text = config.with_pools(&format!("[pools.edge]\nnodes = [\"*.cache.example.org\"]\n{pool}"));
    world.put("coordinator.toml", text.as_bytes(), 0o644);
    world
}

/// A running console.
struct Console {
    child: Child,
    /// It ends if this is closed.
    stdout: Option<BufReader<ChildStdout>>,
    /// What is to be opened.
    address: String,
}

impl Console {
    /// Starts one of this name.
    #[track_caller]
    fn start(world: &World, name: &str, arguments: &[&str]) -> Self {
        let identity = world.ca.both(&[name]);
        let file = |ending: &str| world.path(&format!("{name}.{ending}"));
        world.put(&format!("{name}.crt"), identity.cert_pem.as_bytes(), 0o644);
        world.put(&format!("{name}.key"), identity.key_pem.as_bytes(), 0o600);
        let files = client_files(&world.path("ca.crt"), &file("crt"), &file("key"));
        let config = format!("urls = [\"https://{}\"]\n{files}", world.api);
        world.put(&format!("{name}.toml"), config.as_bytes(), 0o644);
        Self::of(
            mortal(program("tfoctl")).arg("console").arg("--config").arg(file("toml")).args(arguments),
            &file("stderr"),
        )
    }

    /// Starts this command; stderr goes to the file.
    #[track_caller]
    fn of(command: &mut Command, told: &Path) -> Self {
        let stderr = std::fs::File::create(told).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut address = String::new();
        stdout.read_line(&mut address).unwrap();
        let told = std::fs::read_to_string(told).unwrap();
        assert!(address.starts_with("http://127.0.0.1:"), "{address:?}: {told}");
        Self { child, stdout: Some(stdout), address: address.trim().to_owned() }
    }

    /// `http://127.0.0.1:PORT`, and the rest of the address.
    fn parts(&self) -> (&str, &str) {
        self.address.split_at(self.address.rfind("/open/").unwrap())
    }

    /// `127.0.0.1:PORT`.
    fn host(&self) -> &str {
        self.parts().0.strip_prefix("http://").unwrap()
    }

    fn signal(&self, signal: Signal) {
        tfo_testbed::signal::send(self.child.id(), signal);
    }

    /// Its exit code.
    #[track_caller]
    fn ended(mut self) -> Option<i32> {
        poll_some(SOON, || self.child.try_wait().unwrap()).expect("it ends").code()
    }

    /// A browser that has opened it.
    #[track_caller]
    fn visitor(&self) -> Visitor {
        let (origin, path) = self.parts();
        let mut visitor = Visitor { host: self.host().to_owned(), cookie: String::new() };
        let opened = visitor.send("GET", path, &[], "");
        assert_eq!(opened.status, 200, "{origin}{path}: {}", opened.head);
        let cookie = opened.header("set-cookie").expect("a cookie");
        visitor.cookie = cookie.split(';').next().unwrap().to_owned();
        visitor
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a browser sends, one request for each connection.
struct Visitor {
    host: String,
    /// `NAME=VALUE`; empty for none.
    cookie: String,
}

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find_map(|(own, value)| own.eq_ignore_ascii_case(name).then_some(value))
    }

    /// What an element of this kind says first.
    fn text(&self, element: &str) -> &str {
        let rest = self.body.split(&format!("<{element}>")).nth(1).unwrap_or_default();
        rest.split("</").next().unwrap_or_default()
    }
}

impl Visitor {
    /// A request; a header in `other` replaces ours of that name, an empty one removes it.
    #[track_caller]
    fn send(&self, method: &str, path: &str, other: &[(&str, &str)], body: &str) -> Answer {
        let origin = format!("http://{}", self.host);
        let mut headers = vec![("host", &*self.host)];
        if !self.cookie.is_empty() {
            headers.push(("cookie", &self.cookie));
        }
        let length = body.len().to_string();
        if method == "POST" {
            headers.extend([("origin", &*origin), ("content-type", "application/x-www-form-urlencoded")]);
            headers.push(("content-length", &length));
        }
        headers.retain(|(name, _)| !other.iter().any(|(new, _)| new == name));
        headers.extend(other.iter().filter(|(_, value)| !value.is_empty()));
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let real = other.iter().find(|(name, _)| *name == "host").map_or(&*self.host, |_| &self.host);
        let mut stream = TcpStream::connect(real).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_owned(), body: unchunked(head, body) }
    }

    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    /// An answer that does not end soon, from its head on.
    #[track_caller]
    fn stream(&self, path: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\n\r\n", self.host, self.cookie).unwrap();
        BufReader::new(stream)
    }

    /// The fields of the form on a page, as a browser would send them.
    #[track_caller]
    fn fields(&self, path: &str) -> Vec<(String, String)> {
        let page = self.get(path);
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        let form = page.body.split("<form class=\"confirm\"").nth(1).expect("a form").split("</form>").next().unwrap();
        let value = |input: &str, name: &str| {
            let value = input.split(&format!("{name}=\"")).nth(1)?.split('"').next()?;
            Some(value.to_owned())
        };
        let inputs = form.split("<input ").skip(1).filter(|input| !input.starts_with("type=\"checkbox\""));
        inputs.filter_map(|input| Some((value(input, "name")?, value(input, "value").unwrap_or_default()))).collect()
    }
}

/// A form's body; what is set replaces what is there.
fn form(fields: &[(String, String)], set: &[(&str, &str)]) -> String {
    let kept = fields.iter().filter(|(name, _)| !set.iter().any(|(other, _)| other == name));
    let all = kept.map(|(name, value)| (&**name, &**value)).chain(set.iter().copied());
    let encoded = |text: &str| text.replace('%', "%25").replace('&', "%26").replace('+', "%2B").replace(' ', "+");
    all.map(|(name, value)| format!("{name}={}", encoded(value))).collect::<Vec<_>>().join("&")
}

/// A body whose length is not told comes in chunks.
fn unchunked(head: &str, body: &str) -> String {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("the size of a chunk");
        if size == 0 {
            break;
        }
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}

/// The latest entry of the audit log.
#[track_caller]
fn last_entry(world: &World) -> Value {
    let (status, log) = world.operator().get("/v1/pools/edge/audit?operator=ops1.example.org&limit=1");
    assert_eq!(status, 200, "{log}");
    log["entries"][0].clone()
}
