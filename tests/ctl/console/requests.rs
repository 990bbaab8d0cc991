//! Requests as they are: what a browser sends, what a page of another origin makes it send, and what no browser would.

use rustix::process::Signal;
use serde_json::json;

use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{Node, OPERATOR, VIEWER};
use tfo_testbed::output::stderr;
use tfo_testbed::{mortal, program};

use super::{Console, OTHER, Visitor, form, last_entry, world};

#[test]
fn only_the_browser_that_opened_it_gets_in_and_only_with_a_form_of_our_own() {
    let mut world = world(FAST);
    world.start();
    world.first_key(&mut world.nodes());
    let console = Console::start(&world, OPERATOR, &[]);
    let stranger = Visitor { host: console.host().to_owned(), cookie: String::new() };
    assert_eq!((stranger.get("/").status, stranger.get("/open/0").status), (401, 403));
    let path = console.parts().1;
    assert_eq!(stranger.send("GET", path, &[("host", "evil.example")], "").status, 403);
    assert_eq!(stranger.send("GET", path, &[("sec-purpose", "prefetch")], "").status, 503);
    let browser = console.visitor();
    // Used up, but for the browser that has it.
    assert_eq!((stranger.get(path).status, browser.get(path).status), (410, 200));

    let page = browser.get("/pools/edge");
    assert_eq!(page.status, 200, "{}", page.head);
    assert!(page.body.contains("href=\"/pools/edge/act/pause\"") && page.body.contains("You act as ops1.example.org"));
    let policy = page.header("content-security-policy").unwrap();
    for part in ["default-src 'none'; ", "form-action 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert_eq!(page.header("referrer-policy"), Some("same-origin"));
    assert_eq!(page.header("cache-control"), Some("no-store"));

    let act = "/pools/edge/act/pause";
    let fields = browser.fields(act);
    let body = form(&fields, &[("reason", "lunch & more")]);
    let before = world.pool()["revision"].clone();
    let host = console.host().to_owned();
    let evil = format!("http://{}", host.replace("127.0.0.1", "127.0.0.1.evil.example"));
    for (why, headers, status) in [
        ("another host", vec![("host", "evil.example")], 403),
        ("another port", vec![("host", "127.0.0.1:1")], 403),
        ("no cookie", vec![("cookie", "")], 401),
        ("a wrong cookie", vec![("cookie", "tfo-console=1")], 401),
        ("no origin", vec![("origin", "")], 403),
        ("no origin that can be told", vec![("origin", "null")], 403),
        ("another origin", vec![("origin", &*evil)], 403),
        ("another port's origin", vec![("origin", "http://127.0.0.1:1")], 403),
        ("a page of another port", vec![("sec-fetch-site", "same-site")], 403),
        ("no form", vec![("content-type", "text/plain")], 403),
    ] {
        let answer = browser.send("POST", act, &headers, &body);
        assert_eq!(answer.status, status, "{why}: {}", answer.body);
    }
    for (why, set, status) in [
        ("no token", form(&fields, &[("token", "")]), 403),
        ("another console's token", form(&fields, &[("token", &"0".repeat(32))]), 403),
        ("two tokens", format!("{body}&token=0"), 403),
        ("nothing seen", form(&fields, &[("seen", "")]), 409),
        ("another revision", form(&fields, &[("seen", "1.0000000000000000")]), 409),
        ("a reason too long", form(&fields, &[("reason", &"x".repeat(513))]), 400),
        ("too much", form(&fields, &[("reason", &"x".repeat(70_000))]), 403),
    ] {
        let answer = browser.send("POST", act, &[], &set);
        assert_eq!(answer.status, status, "{why}: {}", answer.body);
    }
    for method in ["PUT", "DELETE", "OPTIONS"] {
        assert_eq!(browser.send(method, act, &[], "").status, 405, "{method}");
    }
    assert_eq!(world.pool()["revision"], before, "nothing was done");

    // A path that leads out of the pages, in spellings of which a browser knows some.
    for path in ["/../v1/pools", "/%2e%2e/v1/pools", "/..%2fv1/pools", "/.%2E/v1/pools", "/..\\v1/pools", "//v1/pools"]
    {
        let answer = browser.get(path);
        assert!(answer.status >= 400 && !answer.body.contains("\"pool_id\""), "{path}: {}", answer.body);
    }
    assert_eq!((browser.get("/pools/nope").status, browser.get("/nope").status), (404, 404));
    assert_eq!(browser.get("/pools/edge/act/nope").status, 404);

    let done = browser.send("POST", act, &[], &body);
    assert_eq!(done.status, 303, "{}", done.body);
    let entry = last_entry(&world);
    assert_eq!((&entry["action"], &entry["reason"]), (&json!("pause"), &json!("lunch & more")));
    assert_eq!(entry["operator"], OPERATOR);
    let at = done.header("location").unwrap().to_owned();
    assert_eq!(at, format!("/pools/edge/done/{}", entry["revision"]));
    let shown = browser.get(&at);
    assert_eq!((shown.status, shown.text("h1")), (200, "Done: pause"));
    assert!(shown.body.contains("lunch &amp; more") && shown.body.contains(OPERATOR), "{}", shown.body);
    // The same form once more: the pool has moved on.
    let again = browser.send("POST", act, &[], &body);
    assert_eq!((again.status, again.text("h1")), (409, "The pool has moved on"), "{}", again.body);

    // It says nothing that is secret, and ends as it is told.
    let said = std::fs::read_to_string(world.path("ops1.example.org.stderr")).unwrap();
    for secret in [path.trim_start_matches("/open/"), browser.cookie.split('=').nth(1).unwrap()] {
        assert!(secret.len() == 32 && !said.contains(secret) && !world.log().contains(secret), "{said}");
    }
    console.signal(Signal::INT);
    assert_eq!(console.ended(), Some(0));
}

#[test]
fn a_console_ends_with_its_terminal_and_says_what_is_wrong_before_it_prints_an_address() {
    let mut world = world(FAST);
    world.start();
    let console = Console::start(&world, VIEWER, &["--pool", "edge"]);
    let visitor = console.visitor();
    assert!(visitor.get(console.parts().1).body.contains("url=/pools/edge\""));
    console.signal(Signal::HUP);
    assert_eq!(console.ended(), Some(0));
    // Its reader has gone.
    let mut console = Console::start(&world, VIEWER, &[]);
    console.stdout = None;
    assert!(console.ended().is_some());
    assert!(world.stop().success());
    let config = world.path("view1.example.org.toml");
    let output = mortal(program("tfoctl")).arg("console").arg("--config").arg(config).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]));
    assert!(stderr(&output).contains("cannot reach"), "{}", stderr(&output));
}

#[test]
fn the_desktops_browser_gets_a_file_of_its_operator_that_leads_to_the_address() {
    let mut world = world(FAST);
    world.start();
    // Says what it was started with, and keeps what it was given.
    let script =
        "#!/bin/sh\nstat -c %a \"$1\" > \"$HOME/mode\"; cp \"$1\" \"$HOME/page\"; echo \"$*\" > \"$HOME/arguments\"\n";
    world.put("xdg-open", script.as_bytes(), 0o755);
    Console::start(&world, OPERATOR, &[]);
    let dir = world.dir.path();
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let console = |open: &str| {
        let mut command = mortal(program("tfoctl"));
        command.args(["console", open, "--config"]).arg(world.path("ops1.example.org.toml"));
        command.env("PATH", &path).env("HOME", dir).env_remove("XDG_RUNTIME_DIR");
        command
    };
    let output = console("--open").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("XDG_RUNTIME_DIR is not set"), "{}", stderr(&output));
    let console = Console::of(console("--open").env("XDG_RUNTIME_DIR", dir), &world.path("opened.stderr"));
    let read = |name: &str| std::fs::read_to_string(world.path(name)).unwrap_or_default();
    assert!(tfo_testbed::poll_until(tfo_testbed::SOON, || read("arguments").ends_with('\n')));
    let (arguments, key) = (read("arguments"), console.parts().1.trim_start_matches("/open/"));
    assert!(arguments.contains("/tfo-console-") && !arguments.contains(key), "{arguments}");
    assert_eq!(read("mode"), "600\n");
    assert!(read("page").contains(&format!("url={}\"", console.address)), "{}", read("page"));
    assert_eq!(console.visitor().get("/").status, 200);
    console.signal(Signal::TERM);
    assert_eq!(console.ended(), Some(0));
    assert!(!std::path::Path::new(arguments.trim()).exists(), "it goes with the console");
}

#[test]
fn a_forget_lowers_the_number_of_expected_nodes_if_it_is_ticked() {
    let mut world = world(&FAST.replace("expected_nodes = 3\n", ""));
    world.start();
    world.first_key(&mut world.nodes());
    let (status, body) = world.operator().post("/v1/pools/edge/expect", &json!({"number": 3}));
    assert_eq!(status, 200, "{body}");
    let console = Console::start(&world, OPERATOR, &[]);
    let browser = console.visitor();
    let act = "/pools/edge/act/forget?node=c.cache.example.org";
    assert!(browser.get(act).body.contains("name=\"lower_expected\""));
    let fields = browser.fields(act);
    assert_eq!(browser.send("POST", act, &[], &form(&fields, &[("lower_expected", "yes")])).status, 303);
    let pool = world.pool();
    assert_eq!((&pool["expected_nodes"], &pool["required"]), (&json!(2), &json!(2)), "{pool}");
}

#[test]
fn the_coordinator_refuses_what_a_certificate_may_not_whatever_the_form_says() {
    let mut world = world(FAST);
    world.start();
    let mut nodes = world.nodes();
    world.first_key(&mut nodes);
    let operators = Console::start(&world, OPERATOR, &[]);
    let viewers = Console::start(&world, VIEWER, &[]);
    let (operator, viewer) = (operators.visitor(), viewers.visitor());
    for path in ["/", "/pools/edge/nodes/a.cache.example.org"] {
        let page = viewer.get(path);
        assert!(page.status == 200 && !page.body.contains("/act/") && page.body.contains("may only look"), "{path}");
        assert!(operator.get(path).body.contains("/act/"), "{path}");
    }
    // The operator's form, with the token of the viewer's console: the coordinator decides.
    let act = "/pools/edge/act/pause";
    assert_eq!((viewer.get(act).status, viewer.get(act).text("h1")), (403, "Not allowed"));
    let fields = operator.fields(act);
    // A viewer's console knows its token only from forms, of which it has none; the coordinator sees this one.
    let (status, body) = world.client(&[VIEWER]).post("/page/pools/edge/act/pause", &json!({}));
    assert_eq!(status, 403, "{body}");
    assert_eq!(viewer.send("POST", act, &[], &form(&fields, &[])).status, 403);
    // A node has no page at all, and a browser with an operator's certificate gives no orders.
    for path in ["/page", "/page/pools/edge", "/page/events", act] {
        assert!(world.client(&["a.cache.example.org"]).get(path).0 >= 403, "{path}");
    }
    assert_eq!(world.pool()["paused"], json!(null));
    // The plain listener has no form, and takes none.
    for (path, _) in [("/", 0), ("/pools/edge", 0), ("/pools/edge/nodes/a.cache.example.org", 0)] {
        let (status, page) = world.observed(path).unwrap();
        assert!(status == 200 && !page.contains("method=\"post\"") && !page.contains("/act/"), "{path}");
    }
    assert_eq!(world.observed(act).map(|(status, _)| status), Some(404));

    // Whom an operator revokes, it has to name.
    let act = "/pools/edge/act/revoke?node=a.cache.example.org";
    let fields = operator.fields(act);
    for typed in ["", "a", "b.cache.example.org", "edge"] {
        let answer = operator.send("POST", act, &[], &form(&fields, &[("typed", typed)]));
        assert_eq!((answer.status, answer.text("h1")), (400, "Another name"), "{typed}: {}", answer.body);
    }
    let act = "/pools/edge/act/exclude?node=a.cache.example.org";
    let fields = operator.fields(act);
    for until in ["", "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        assert_eq!(operator.send("POST", act, &[], &form(&fields, &[("until", until)])).status, 400, "{until}");
    }
    for (path, status) in [
        ("/pools/edge/act/exclude", 400),
        ("/pools/edge/act/pause?node=a.cache.example.org", 400),
        ("/pools/edge/act/exclude?node=nope", 404),
        ("/pools/edge/act/abort", 409),
        ("/pools/edge/act/advance", 409),
        ("/pools/edge/done/999999", 404),
    ] {
        let page = operator.get(path);
        assert_eq!(page.status, status, "{path}: {}", page.body);
    }

    // An advance leaves exactly the nodes that its page named.
    let (status, _) = world.operator().post("/v1/pools/edge/rotations", &json!({}));
    assert_eq!(status, 200);
    nodes[0].converge();
    world.until("two are behind", |pool| pool["waiting_for"].as_array().is_some_and(|nodes| nodes.len() == 2));
    let act = "/pools/edge/act/advance";
    assert!(tfo_testbed::poll_until(tfo_testbed::SOON, || operator.get(act).body.contains("leaves 2 nodes of 3")));
    let fields = operator.fields(act);
    nodes[1].converge();
    world.until("one is behind", |pool| pool["waiting_for"] == json!(["c.cache.example.org"]));
    let moved = tfo_testbed::poll_until(tfo_testbed::SOON, || operator.get(act).body.contains("leaves 1 node of 3"));
    assert!(moved);
    let answer = operator.send("POST", act, &[], &form(&fields, &[]));
    assert_eq!((answer.status, answer.text("h1")), (409, "The pool has moved on"), "{}", answer.body);
    assert!(answer.body.contains("waits for c.cache.example.org"), "{}", answer.body);

    // Of two operators who saw the same, the second one is told.
    let others = Console::start(&world, OTHER, &[]);
    let other = others.visitor();
    let act = "/pools/edge/act/abort";
    let (first, second) = (operator.fields(act), other.fields(act));
    assert_ne!(first, second, "each console has tokens of its own");
    assert_eq!(operator.send("POST", act, &[], &form(&first, &[])).status, 303);
    let answer = other.send("POST", act, &[], &form(&second, &[]));
    assert_eq!(answer.status, 409, "{}", answer.body);
    nodes.iter_mut().for_each(Node::converge);
}
