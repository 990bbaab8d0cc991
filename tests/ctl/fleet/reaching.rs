//! Configuration, certificates, several coordinators, and those that do not answer as they should.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use super::fake::{FakeCoordinator, Operator, Reply, audit, done, page, pool, refusal, text, three, with_pool};
use tfo_testbed::now;

/// A URL where no server listens.
fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port())
}

#[test]
fn without_a_configuration_the_places_are_named() {
    let operator = Operator::new();
    let output = operator.bare().arg("pools").output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let user = operator.path(".config/tfo-fleet/ctl.toml");
    assert!(stderr.contains(&*user.to_string_lossy()) && stderr.contains("/etc/tfo-fleet/ctl.toml"), "{stderr}");
    let (_, stderr) = operator.ends(&["pools"], 2);
    assert!(stderr.contains("ctl.toml") && stderr.contains("--config"), "{stderr}");
}

#[test]
fn the_users_own_configuration_is_found() {
    let (operator, _coordinator) = Operator::with(&pool(json!({})), &three());
    std::fs::create_dir_all(operator.path(".config/tfo-fleet")).unwrap();
    std::fs::copy(operator.path("ctl.toml"), operator.path(".config/tfo-fleet/ctl.toml")).unwrap();
    let output = operator.bare().arg("pools").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    std::fs::create_dir_all(operator.path("xdg/tfo-fleet")).unwrap();
    operator.write("xdg/tfo-fleet/ctl.toml", "broken =", 0o644);
    let output = operator.bare().arg("pools").env("XDG_CONFIG_HOME", operator.path("xdg")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("ctl.toml:1:"), "{}", text(&output.stderr));
}

#[test]
fn everything_wrong_with_the_configuration_comes_at_once() {
    let operator = Operator::new();
    operator.write("ctl.toml", "urls = [\"http://c\"]\nca = \"ca.crt\"\npassword = \"x\"\n", 0o644);
    let (stdout, stderr) = operator.ends(&["pools", "--format", "json"], 2);
    // As JSON in the place of the result, as text on stderr.
    assert_eq!((stderr.as_str(), stdout.matches("\"kind\"").count()), ("", 5), "{stdout}");
    let (stdout, stderr) = operator.ends(&["pools"], 2);
    assert_eq!(stdout, "");
    for part in ["ctl.toml:1: urls", "ctl.toml:2: ca", "cert", "key: ", "password"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    // Files that it names.
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let key = operator.path("pki/ops1.test/operator.key");
    let content = std::fs::read_to_string(&key).unwrap();
    operator.write("pki/ops1.test/operator.key", &content, 0o640);
    let (_, stderr) = operator.ends(&["pools"], 2);
    assert!(stderr.contains("chmod 0400"), "{stderr}");
    std::fs::remove_file(&key).unwrap();
    std::fs::remove_file(operator.path("pki/ops1.test/operator.crt")).unwrap();
    let (_, stderr) = operator.ends(&["pools"], 2);
    assert_eq!(stderr.matches("error: ").count(), 2, "{stderr}");
    assert!(coordinator.asked().is_empty());
}

#[test]
fn the_next_coordinator_is_asked_where_one_is_not_there() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let dead = dead_url();
    operator.configure(&[&dead, &coordinator.url()], "pool = \"edge\"");
    let (shown, note) = operator.ends(&["nodes"], 0);
    assert!(shown.starts_with("pool edge:"), "{shown}");
    let said = format!("warning: {} answered instead: cannot reach {dead}", coordinator.url());
    assert!(note.starts_with(&said) && note.matches("warning").count() == 1, "once: {note}");
    let (_, note) = operator.ends(&["nodes", "--format", "json"], 0);
    assert!(note.starts_with("{\"problems\":[{\"kind\":\"other_address\""), "{note}");
    // Commands as well, once.
    coordinator.ok("POST /v1/pools/edge/pause", done("pause", json!({})));
    operator.ends(&["pause"], 0);
    assert_eq!(coordinator.orders().len(), 1);
    // No coordinator answers: the error names each.
    let other = dead_url();
    operator.configure(&[&dead, &other], "pool = \"edge\"");
    let (_, stderr) = operator.ends(&["pools"], 1);
    assert!(stderr.contains(&dead) && stderr.contains(&other) && stderr.contains("remedy"), "{stderr}");
}

#[test]
fn addresses_of_two_coordinators_are_told_apart() {
    let operator = Operator::new();
    let [first, second] = [(); 2].map(|()| operator.coordinator());
    with_pool(&first, &pool(json!({})), &three());
    with_pool(&second, &pool(json!({"pool_id": "f".repeat(32)})), &three());
    operator.configure(&[&first.url(), &second.url()], "pool = \"edge\"");
    // The first one goes between the look and the command.
    first.on("POST /v1/pools/edge/pause", [Reply::Drop]);
    second.ok("POST /v1/pools/edge/pause", done("pause", json!({})));
    let (_, stderr) = operator.ends(&["pause"], 3);
    assert!(stderr.contains("is another pool") && stderr.contains("[contexts.NAME]"), "{stderr}");
    assert!(second.orders().is_empty(), "nothing was sent to another fleet");
    // Or between two looks.
    first.on("GET /v1/pools/edge/nodes", [Reply::RetryAfter(503, refusal("store_unavailable", "away"), 1)]);
    second.on("GET /v1/pools/edge/nodes", [Reply::Json(503, refusal("store_unavailable", "away"))]);
    operator.ends(&["nodes"], 1);
}

#[test]
fn one_that_cannot_answer_now_is_passed_over_and_asked_again() {
    let operator = Operator::new();
    let [first, second] = [(); 2].map(|()| operator.coordinator());
    for coordinator in [&first, &second] {
        with_pool(coordinator, &pool(json!({})), &three());
    }
    operator.configure(&[&first.url(), &second.url()], "pool = \"edge\"");
    let away = || Reply::RetryAfter(503, refusal("store_unavailable", "the store is away"), 1);
    first.on("GET /v1/pools", [away()]);
    assert!(operator.ends(&["pools"], 0).1.contains("answered instead"));
    // Both, for a while: Retry-After is kept.
    second.on("GET /v1/pools", [away(), Reply::Json(200, json!({"pools": []}))]);
    let start = now();
    operator.ends(&["pools"], 0);
    assert!(now().duration_since(start) >= Duration::from_secs(1), "it came back too early");
    // Both, for good.
    second.on("GET /v1/pools", [away()]);
    let (_, stderr) = operator.ends(&["pools"], 1);
    assert!(stderr.contains("the store is away") && stderr.contains(&second.url()), "{stderr}");
    // A command that waits for nodes to be heard is refused, after it was tried for a while.
    let not_heard =
        Reply::RetryAfter(503, refusal("not_heard", "not heard since this coordinator started: cp3.test"), 60);
    for coordinator in [&first, &second] {
        coordinator.on("POST /v1/pools/edge/resume", [not_heard.clone()]);
    }
    let (_, stderr) = operator.ends(&["resume"], 3);
    assert!(stderr.contains("cp3.test") && stderr.contains("wait, or exclude"), "{stderr}");
}

#[test]
fn one_that_says_nothing_is_given_up_after_a_while() {
    let operator = Operator::new();
    let [first, second] = [(); 2].map(|()| operator.coordinator());
    first.on("GET /v1/pools", [Reply::Hang]);
    with_pool(&second, &pool(json!({})), &three());
    operator.configure(&[&first.url(), &second.url()], "");
    operator.ends(&["pools"], 0);
    operator.configure(&[&first.url()], "");
    let (_, stderr) = operator.ends(&["pools"], 1);
    assert!(stderr.contains("no answer in time"), "{stderr}");
}

#[test]
fn answers_that_are_none_are_told_without_their_content() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let raw = |status, text: &str| Reply::Raw(status, text.to_owned());
    for reply in [raw(200, "<html>secret"), raw(200, "{\"pools\": 5}"), raw(204, ""), raw(502, "<html>secret")] {
        coordinator.on("GET /v1/pools", [reply.clone()]);
        let (stdout, stderr) = operator.ends(&["pools"], 1);
        assert_eq!(stdout, "", "{reply:?}");
        assert!(stderr.contains("error: ") && !stderr.contains("secret"), "{reply:?}: {stderr}");
    }
    // More than is ever read.
    coordinator.on("GET /v1/pools", [Reply::Raw(200, " ".repeat((32 << 20) + 1))]);
    assert!(operator.ends(&["pools"], 1).1.contains("longer than"));
}

#[test]
fn each_refusal_has_its_exit_code_and_its_remedy() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let cases = [
        (400, "bad_request", 2, "arguments"),
        (403, "not_allowed", 3, "operators"),
        (403, "not_in_pool", 3, "operator's"),
        (403, "not_a_node", 3, "operator's"),
        (403, "denied", 3, "operator's"),
        (404, "unknown_pool", 2, "tfoctl pools"),
        (404, "unknown_node", 1, "tfoctl nodes"),
        (404, "unknown_path", 1, "release"),
        (409, "pool_frozen", 3, "recover"),
        (409, "refused", 3, "the message has the reason"),
        (409, "moved", 3, "the pool has changed"),
        (413, "too_large", 2, "fewer"),
        (500, "internal", 1, "log"),
        (418, "of_a_later_release", 1, "newer"),
    ];
    for (status, kind, code, remedy) in cases {
        let reply = Reply::Json(status, refusal(kind, "the coordinator's own words"));
        coordinator.on("POST /v1/pools/edge/rotations", [reply]);
        let (stdout, stderr) = operator.ends(&["rotate"], code);
        assert_eq!(stdout, "", "{kind}");
        let says =
            format!("error: the coordinator's own words; {} answered {status} (request r-1)\n", coordinator.url());
        assert!(stderr.starts_with(&says), "the reason first, the transport last: {kind}: {stderr}");
        assert!(stderr.contains(remedy), "{kind}: {stderr}");
    }
    assert_eq!(coordinator.orders().len(), cases.len(), "each was asked once");
}

#[test]
fn a_wrong_authority_and_refused_certificates_are_told_apart() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let stranger = Operator::new();
    // We do not trust the coordinator.
    stranger.configure(&[&coordinator.url()], "");
    let (_, stderr) = stranger.ends(&["pools"], 2);
    assert!(stderr.contains("UnknownIssuer") && stderr.contains("`ca`"), "{stderr}");
    // It does not trust us.
    std::fs::copy(operator.path("pki/ca.crt"), stranger.path("pki/ca.crt")).unwrap();
    let (_, stderr) = stranger.ends(&["pools"], 3);
    assert!(stderr.contains("does not accept your certificate") && stderr.contains("clock is at"), "{stderr}");
    // It knows the certificate, and that it is revoked.
    let pki = operator.path("pki");
    operator.plain(&["pki", "revoke", "--dir", pki.to_str().unwrap(), "ops1.test"]);
    let strict = FakeCoordinator::with_pki(&pki, "c1.test");
    operator.configure(&[&strict.url()], "");
    let (_, stderr) = operator.ends(&["pools"], 3);
    assert!(stderr.contains("CertificateRevoked"), "{stderr}");
    // Another name than the certificate's.
    let named = coordinator.url().replace("127.0.0.1", "localhost");
    operator.configure(&[&named], "");
    let (_, stderr) = operator.ends(&["pools"], 2);
    assert!(stderr.contains("--address"), "{stderr}");
    assert!(strict.asked().is_empty() && coordinator.asked().is_empty());
}

#[test]
fn an_unanswered_command_is_looked_up_before_anything_is_said() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    coordinator.on("POST /v1/pools/edge/rotations", [Reply::Drop]);
    // It was done: the audit log has it, by us, with our reason.
    let others = audit(41, "rotate", Some("ops2.test"), "weekly");
    let ours = audit(42, "rotate", Some("ops1.test"), "weekly");
    coordinator.on("GET /v1/pools/edge/audit?after=40", [page(&[others.clone(), ours])]);
    let rotated = operator.json(&["rotate", "--reason", "weekly"], 0);
    assert_eq!((&rotated["revision"], &rotated["action"]), (&json!(42), &json!("rotate")));
    assert_eq!(coordinator.orders().len(), 1);
    // It was not.
    coordinator.on("GET /v1/pools/edge/audit?after=40", [page(&[others])]);
    let (_, stderr) = operator.ends(&["rotate", "--reason", "weekly"], 1);
    assert!(stderr.contains("cannot reach"), "{stderr}");
    // It may be done still.
    coordinator.on("POST /v1/pools/edge/rotations", [Reply::Hang]);
    let (_, stderr) = operator.ends(&["rotate", "--reason", "weekly"], 1);
    assert!(stderr.contains("no answer in time") && stderr.contains("--after 40"), "{stderr}");
    coordinator.on("POST /v1/pools/edge/rotations", [Reply::Drop]);
    // The coordinator cannot be asked for the outcome.
    coordinator.on("GET /v1/pools/edge/audit?after=40", [Reply::Drop]);
    let (_, stderr) = operator.ends(&["rotate", "--reason", "weekly"], 1);
    assert!(stderr.contains("its outcome is unknown") && stderr.contains("--after 40"), "{stderr}");
}

#[test]
fn a_command_that_was_done_by_the_first_is_not_done_by_the_second() {
    let operator = Operator::new();
    let [first, second] = [(); 2].map(|()| operator.coordinator());
    for coordinator in [&first, &second] {
        with_pool(coordinator, &pool(json!({})), &three());
        coordinator.on("GET /v1/pools/edge/audit?after=40", [page(&[audit(41, "rotate", Some("ops1.test"), "")])]);
    }
    operator.configure(&[&first.url(), &second.url()], "pool = \"edge\"");
    first.on("POST /v1/pools/edge/rotations", [Reply::Drop]);
    second.on("POST /v1/pools/edge/rotations", [Reply::Json(409, refusal("moved", "the document is at revision 41"))]);
    let rotated = operator.json(&["rotate"], 0);
    assert_eq!(rotated["revision"], 41);
    let carried = second.orders();
    assert_eq!((carried.len(), &carried[0].body["if_revision"]), (1, &json!(40)), "what was seen goes with it");
}
