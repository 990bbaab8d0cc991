//! The pages of the plain listener: read as text, without a script; live by their stream; of a large pool; in a browser.

mod browser;
mod large;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex_lite::Regex;
use serde_json::{Value, json};

use tfo_crypto::checksum::sha256;
use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{Node, World};
use tfo_testbed::{SOON, poll_until};

use super::with_first_key;

/// Head and body of an answer of the plain listener.
#[track_caller]
fn get(world: &World, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(world.observe).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer}"));
    (head.to_owned(), body.to_owned())
}

/// The body of a page, which must be there.
#[track_caller]
fn page(world: &World, path: &str) -> String {
    let (head, body) = get(world, path);
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    sound(path, &head, &body);
    body
}

/// All that a pattern's first group finds.
fn found<'a>(text: &'a str, pattern: &str) -> Vec<&'a str> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.captures_iter(text).map(|found| found.get(1).unwrap().as_str()).collect()
}

/// What holds for every page: its policy fits it, it loads nothing from elsewhere, and it can be read without eyes.
#[track_caller]
fn sound(path: &str, head: &str, body: &str) {
    let policy = found(head, "(?m)^content-security-policy: (.*?)\r?$");
    let [policy] = policy[..] else { panic!("{path}: {head}") };
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    for element in ["style", "script"] {
        let inline = found(body, &format!("(?s)<{element}>(.*?)</{element}>"));
        assert!(inline.len() <= 1 && (element == "script" || inline.len() == 1), "{path}");
        for text in inline {
            let hash = format!("{element}-src 'sha256-{}'", STANDARD.encode(sha256(text.as_bytes())));
            assert!(policy.contains(&hash), "{path}: {hash} is not in {policy}");
        }
        assert_eq!(body.matches(&format!("<{element}")).count(), body.matches(&format!("<{element}>")).count());
    }
    let without = Regex::new("(?s)<(style|script)>.*?</(style|script)>").unwrap().replace_all(body, "");
    let values = Regex::new("\"[^\"]*\"").unwrap();
    let strange = Regex::new(r#"<[^>]*\s(on[a-z]+|style)="#).unwrap();
    assert!(
        !strange.is_match(&values.replace_all(&without, "\"\"")),
        "{path}: a handler or style that the policy forbids: {body}"
    );
    for address in found(&without, r#"\s(?:href|src|action|data-events)="([^"]*)""#) {
        assert!(address.starts_with(['/', '#']) && !address.starts_with("//"), "{path}: {address}");
    }
    for (element, times) in [("<h1", 1), ("<main ", 1), ("<header", 1), ("<footer", 1), ("<nav ", 1)] {
        assert!(without.matches(element).count() >= times, "{path}: no {element}: {body}");
    }
    assert_eq!(without.matches("<h1").count(), 1, "{path}");
    assert_eq!(
        without.matches("<table").count(),
        without.matches("<caption").count(),
        "{path}: a table without a name"
    );
    for header in found(&without, "<th([ >][^>]*)") {
        assert!(header.contains(" scope="), "{path}: <th{header}");
    }
    for picture in found(&without, "<svg([^>]*)") {
        assert!(picture.contains("role=\"img\"") && picture.contains("aria-label="), "{path}: <svg{picture}");
    }
    let ids = found(&without, "\\sid=\"([^\"]*)\"");
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "{path}: an id twice: {ids:?}");
    for named in found(&without, "aria-labelledby=\"([^\"]*)\"") {
        assert!(ids.contains(&named), "{path}: nothing is called {named}");
    }
}

fn order(world: &World, path: &str, body: &Value) {
    let (status, answer) = world.operator().post(&format!("/v1/pools/edge/{path}"), body);
    assert_eq!(status, 200, "{path}: {answer}");
}

/// Three nodes, and one wave for the first of them.
fn in_waves() -> String {
    FAST.replace("[\"100%\"]", "[\"a*\", \"100%\"]").replace("health_window = \"0s\"", "health_window = \"1h\"")
}

#[test]
fn a_page_without_its_script_says_where_the_rotation_stands_and_what_was_before() {
    let (world, mut nodes) = with_first_key(&in_waves());
    let pool = world.pool();
    let steady = page(&world, "/");
    for (what, pattern) in [
        ("the verdict", r#"<strong>ok</strong>: 3 nodes accept each other"#.to_owned()),
        ("the title", "<title>OK: edge agree - tfo-coordinator</title>".to_owned()),
        ("the tab's colour", r#"<link rel="icon" href="/icon/ok">"#.to_owned()),
        ("where it stands", r#"<li class="done" aria-current="step">Steady"#.to_owned()),
        ("its waves", "Wave 1 of 2<small>to come; a\\*".to_owned()),
        ("its key", format!("<code>{}</code> epoch 1", pool["primary"]["fingerprint"].as_str().unwrap())),
        ("agreement", "3 nodes report their keys, all of them the same".to_owned()),
        ("nodes", "<a href=\"/pools/edge/nodes\">All 3 nodes".to_owned()),
        ("trouble", "No node needs a look".to_owned()),
        ("the next rotation", "The next one is due <time ".to_owned()),
        ("certificates", "<dt>This coordinator</dt><dd>ends ".to_owned()),
    ] {
        assert!(Regex::new(&pattern).unwrap().is_match(&steady), "{what}: {pattern} in {steady}");
    }
    order(&world, "rotations", &json!({"reason": "why not"}));
    nodes[..2].iter_mut().for_each(Node::converge);
    world.until("c is behind", |pool| pool["converged"] == 2);
    let waiting = || page(&world, "/pools/edge").contains("<dt>Whom</dt><dd><a href=\"/pools/edge/nodes/c.cache");
    assert!(poll_until(SOON, waiting), "{}", page(&world, "/"));
    let staged = page(&world, "/");
    assert!(staged.contains("<li class=\"now\" aria-current=\"step\">Stage<small>now;"), "{staged}");
    assert!(staged.contains("every required node to report its instruction as done (barrier)"), "{staged}");
    assert!(staged.contains("The nodes that need a look") && staged.contains("2 of 3 required nodes have"), "{staged}");
    nodes[2].converge();
    world.until("promoted", |pool| pool["phase"] == "promoted");
    nodes[0].converge();
    let watched = || page(&world, "/").contains("aria-current=\"step\">Wave 1 of 2<small>now; a*");
    assert!(poll_until(SOON, watched), "{}", page(&world, "/"));
    order(&world, "abort", &json!({"reason": "second thoughts"}));
    nodes.iter_mut().for_each(Node::converge);
    let ended = || page(&world, "/").contains("turned back by abort</td><td>ops1.example.org</td>");
    assert!(poll_until(SOON, ended), "{}", page(&world, "/"));
}

#[test]
fn nodes_and_the_audit_log_are_found_by_what_is_in_the_address() {
    let (world, mut nodes) = with_first_key(FAST);
    order(&world, "nodes", &json!({"action": "deny", "nodes": ["c.cache.example.org"], "reason": "stolen"}));
    let rows = |path: &str| -> Vec<String> {
        found(&page(&world, path), "<tr id=\"node-([^\"]*)\"").into_iter().map(str::to_owned).collect()
    };
    let all = ["c.cache.example.org", "a.cache.example.org", "b.cache.example.org"];
    let (denied, others) = all.split_at(1);
    let list = "/pools/edge/nodes";
    assert!(poll_until(SOON, || rows(list) == all), "{:?}", rows(list));
    for (query, expected) in [
        ("?search=&state=", &all[..]),
        ("?search=C.CACHE", denied),
        ("?state=denied", denied),
        ("?search=cache&state=converged", others),
        ("?search=nothing", &[]),
        ("?page=99", &all),
        ("?page=x", &all),
    ] {
        assert_eq!(rows(&format!("{list}{query}")), expected, "{query}");
    }
    let one = page(&world, "/pools/edge/nodes/c.cache.example.org");
    assert!(one.contains(">denied</span>: it gets no keys.") && one.contains("6.1.0-42-amd64"), "{one}");
    nodes[0].different = json!({"error": "boot_order"});
    nodes[0].sync(0);
    assert!(poll_until(SOON, || rows(list)[0] == nodes[0].name), "the worst first: {:?}", rows(list));
    let entries = |query: &str| {
        let page = page(&world, &format!("/pools/edge/audit{query}"));
        found(&page, "<tr id=\"r([0-9]+)\"").len()
    };
    let (all, operators) = (entries(""), entries("?action=&operator=ops1.example.org&node="));
    assert!(operators >= 3 && all >= operators, "{all}, {operators}");
    assert_eq!(entries("?action=deny&node=c.cache.example.org"), 1);
    assert_eq!(entries("?action=deny&node=a.cache.example.org"), 0);
    assert_eq!(entries("?action=deny&before=1"), 0);
    let denied = page(&world, "/pools/edge/audit?action=deny");
    assert!(denied.contains("<td>stolen</td>") && denied.contains("<option value=\"deny\" selected>"), "{denied}");
    for (path, status) in [
        ("/pools/nope", 404),
        ("/pools/%3Cb%3E", 404),
        ("/pools/edge/nodes/nope.cache.example.org", 404),
        ("/pools/edge/nodes?state=nope", 400),
        ("/pools/edge/audit?action=nope", 400),
        ("/pools/edge/audit?operator=%3C", 400),
        ("/pools/edge/audit?before=x", 400),
        ("/docs/how-to/nope.md", 404),
        ("/docs/..%2F..%2Fetc%2Fpasswd", 404),
        ("/icon/nope", 404),
    ] {
        let (head, body) = get(&world, path);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
        if path != "/icon/nope" {
            sound(path, &head, &body);
        }
    }
}

#[test]
fn text_of_operators_nodes_and_readers_stays_text() {
    let (world, mut nodes) = with_first_key(FAST);
    let hostile = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'&amp;";
    order(&world, "pause", &json!({"reason": hostile}));
    nodes[0].different = json!({"kernel": "<img src=x>", "agent": "\"onload=\"x"});
    assert_eq!(nodes[0].sync(0).0, 204);
    let query = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E%3Cimg%20src=x%20onerror=alert(2)%3E'%26amp;";
    let escaped = "&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;";
    for (path, is_told) in [
        ("/".to_owned(), true),
        ("/pools/edge/audit".to_owned(), true),
        (format!("/pools/edge/nodes?search={query}"), true),
        (format!("/pools/edge/nodes/{}", nodes[0].name), false),
    ] {
        let body = page(&world, &path);
        assert!(!body.contains("<script>alert") && !body.contains("<img"), "{path}: {body}");
        assert!(!is_told || body.contains(escaped), "{path}: {body}");
    }
    let node = page(&world, &format!("/pools/edge/nodes/{}", nodes[0].name));
    assert!(node.contains("<dd>&lt;img src=x&gt;</dd>") && node.contains("<dd>&quot;onload=&quot;x</dd>"), "{node}");
    let (head, body) = get(&world, &format!("/pools/{query}"));
    assert!(head.starts_with("HTTP/1.1 404 ") && !body.contains("alert"), "{head}: {body}");
}

/// A stream of changes.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(world: &World, path: &str) -> Self {
        let mut stream = TcpStream::connect(world.observe).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n").unwrap();
        Self(BufReader::new(stream))
    }

    fn status(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// The next stamp; none at the end.
    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.0.read_line(&mut line).unwrap() > 0 {
            if let Some(stamp) = line.strip_prefix("data: ") {
                return Some(stamp.trim().to_owned());
            }
            line.clear();
        }
        None
    }
}

#[test]
fn a_stream_tells_of_a_commit_and_of_a_report_and_the_page_has_it_by_then() {
    let (world, mut nodes) = with_first_key(FAST);
    // Nothing is on its way any more.
    assert!(page(&world, "/").contains("<strong>ok</strong>"));
    let mut events = Events::open(&world, "/events?pool=edge");
    assert!(events.status().starts_with("HTTP/1.1 200 "));
    let first = events.next().unwrap();
    let mut before = first;
    for (step, what, shown) in [
        (0, "a pause", "paused by ops1.example.org"),
        (1, "a node that fails", "<code>boot_order</code>"),
        (2, "a resume", "boot_order"),
    ] {
        let begun = tfo_testbed::now();
        match step {
            0 => order(&world, "pause", &json!({"reason": "lunch"})),
            1 => {
                nodes[2].different = json!({"error": "boot_order"});
                nodes[2].sync(0);
            }
            _ => order(&world, "resume", &json!({})),
        }
        let path = if step == 1 { "/pools/edge/nodes/c.cache.example.org" } else { "/pools/edge" };
        // A change may be told in two parts: the commit, and what follows from it.
        let told = poll_until(SOON, || {
            let Some(stamp) = events.next() else {
                events = Events::open(&world, "/events?pool=edge");
                return false;
            };
            assert_ne!(stamp, before, "told, and nothing has changed");
            before = stamp;
            page(&world, path).contains(shown)
        });
        assert!(told, "{what}: {}", page(&world, path));
        println!("{what} was told and shown after {:?}", begun.elapsed());
    }
    // A page carries the stamp of what it shows.
    let stamped = || page(&world, "/").contains(&format!("data-events=\"/events?pool=edge\" data-stamp=\"{before}\""));
    assert!(poll_until(SOON, stamped), "{before}: {}", page(&world, "/"));
}

#[test]
fn streams_are_bounded_and_leave_room_for_probes_and_end_with_the_coordinator() {
    let (mut world, _nodes) = with_first_key(FAST);
    let mut streams: Vec<Events> = (0..32).map(|_| Events::open(&world, "/events")).collect();
    for stream in &mut streams {
        assert!(stream.status().starts_with("HTTP/1.1 200 "));
        assert!(stream.next().is_some());
    }
    assert!(Events::open(&world, "/events").status().starts_with("HTTP/1.1 503 "));
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        assert_eq!(world.observed(path).map(|(status, _)| status), Some(200), "{path}");
    }
    streams.truncate(31);
    assert!(poll_until(SOON, || Events::open(&world, "/events").status().starts_with("HTTP/1.1 200 ")));
    // A stream would last for longer than the coordinator gives its connections to drain.
    assert!(world.stop().success());
    assert!(!world.log().contains("cut connections"), "{}", world.log());
    for stream in &mut streams {
        while stream.next().is_some() {}
    }
}

#[test]
fn several_pools_are_told_apart_the_worst_first() {
    let dns = "nodes = [\"*.dns.example.org\"]\n".to_owned() + FAST;
    let (world, _nodes) = with_first_key(&format!("{FAST}[pools.dns]\n{dns}"));
    let overview = page(&world, "/");
    assert_eq!(found(&overview, "<tr id=\"pool-([^\"]*)\""), ["dns", "edge"], "the pool without a key first");
    assert!(overview.contains("<title>WARNING: dns no key - tfo-coordinator</title>"), "{overview}");
    assert!(overview.contains("2 pools; the worst: ") && overview.contains("data-events=\"/events\""), "{overview}");
    assert!(overview.contains("href=\"/docs/how-to/no_pool_keys.md\""), "{overview}");
    let (edge, dns) = (page(&world, "/pools/edge"), page(&world, "/pools/dns"));
    assert!(edge.contains("<h1>Pool edge</h1>") && edge.contains("<strong>ok</strong>"), "{edge}");
    assert!(dns.contains("<h1>Pool dns</h1>") && dns.contains("the pool has no key yet"), "{dns}");
    assert!(page(&world, "/docs/how-to/no_pool_keys.md").contains("<h1 id=\"the-pool-is-empty\""));
}

#[test]
fn cookies_that_nodes_count_are_drawn_and_a_wave_beside_its_limit() {
    let policy = in_waves().replace("health_min_connections = 100\n", "");
    let (world, mut nodes) = with_first_key(&policy);
    let count = |node: &mut Node, passive: u64, alt: u64, fail: u64| {
        node.different = json!({"counters": {"passive": passive, "passive_alt_key": alt, "passive_fail": fail}});
        node.sync(0);
    };
    count(&mut nodes[0], 1_000, 100, 10);
    // What was counted before the first look is not of this day.
    let began = || page(&world, "/").contains("The nodes have reported no cookie since ");
    assert!(poll_until(SOON, began), "{}", page(&world, "/"));
    order(&world, "rotations", &json!({}));
    nodes.iter_mut().for_each(Node::converge);
    world.until("promoted", |pool| pool["phase"] == "promoted");
    nodes[0].converge();
    let mut passive = 1_000;
    let drawn = poll_until(2 * SOON, || {
        passive += 90;
        count(&mut nodes[0], passive, 100 + (passive - 1_000) / 9 * 3, 10 + (passive - 1_000) / 9);
        let page = page(&world, "/");
        page.contains("were accepted by the primary key")
            && page.contains("Rejected in the waves of the latest rotation")
    });
    let page = page(&world, "/");
    assert!(drawn, "{page}");
    assert!(
        page.contains("60% were accepted by the primary key, 30% by the backup key, and 10% were rejected"),
        "{page}"
    );
    assert!(!found(&page, "<path class=\"f4\" d=\"(M143 0h1v100h-1z)\"").is_empty(), "{page}");
    assert!(page.contains("scope=\"row\">1 of 2, <time") && page.contains("class=\"limit\""), "{page}");
}
