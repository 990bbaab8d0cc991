//! Nodes that enrol by tokens, renew, and are cut off; and who is refused.

mod renewal;
mod revocation;

use std::fs;
use std::net::SocketAddr;

use reqwest::Method;
use serde_json::{Value, json};

use tfo_crypto::checksum::sha256;
use tfo_engine::chained_log::{LogEnd, Row};
use tfo_engine::enrolment_log::Verifier;
use tfo_pki::request;
use tfo_testbed::config::CoordinatorToml;
use tfo_testbed::coordinator::{Client, OPERATOR, VIEWER, World, runtime};
use tfo_testbed::pki::{Identity, client_config};
use tfo_testbed::{SOON, free_port, poll_until};
use tfo_wire::v1::chain::{EnrolmentChain, EnrolmentChainEntry};

/// A coordinator that enrols, and a client without a certificate.
pub(crate) struct Enrolling {
    pub(crate) world: World,
    stranger: Client,
    /// Its enrolment port.
    pub(crate) door: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Enrolling {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// With these lines in place of the authority's key, if there are any.
    fn with(no_key: &str) -> Self {
        Self::prepared(no_key, |_| ())
    }

    /// The same, after a last change of the configuration.
    pub(crate) fn prepared(no_key: &str, prepare: impl FnOnce(&World)) -> Self {
        let mut world = World::new("");
        let port = free_port();
        world.ca.save(&world.path("ca.pem"));
        world.put("crl.pem", world.ca.crl(&[]).as_bytes(), 0o644);
        let of = CoordinatorToml::of(world.dir.path(), world.api, world.observe);
        let config = CoordinatorToml { crl: Some("crl.pem"), operators: &[OPERATOR], viewers: &[VIEWER], ..of };
        let ca = world.path("ca.pem");
        // Certificate and key in one file: nodes must get the certificate alone.
        let key = if no_key.is_empty() { format!("ca_key = {ca:?}\n") } else { no_key.to_owned() };
        let enrolment = format!("[enrolment]\nlisten = \"{port}\"\nca_cert = {ca:?}\n{key}");
        let text = config.with_pools(&format!("{enrolment}[pools.edge]\nnodes = [\"*.cache.example.org\"]\n"));
        world.put("coordinator.toml", text.as_bytes(), 0o644);
        prepare(&world);
        world.start();
        let runtime = runtime();
        let stranger = Client::new(runtime.handle(), port, client_config(&world.ca.pem, None));
        Self { world, stranger, door: port, _runtime: runtime }
    }

    /// What happened to tokens and certificates, as the operator sees it.
    #[track_caller]
    fn log(&self) -> Vec<Value> {
        let (status, mut log) = self.world.operator().get("/v1/enrolment/audit");
        assert_eq!(status, 200, "{log}");
        serde_json::from_value(log["entries"].take()).unwrap()
    }

    /// The entries of one kind.
    pub(crate) fn logged(&self, action: &str) -> Vec<Value> {
        self.log().into_iter().filter(|line| line["action"] == action).collect()
    }

    pub(crate) fn order(&self, action: &Value, node: &str) -> (u16, Value) {
        let body = json!({"action": action, "nodes": [node], "reason": "stolen"});
        self.world.operator().post("/v1/pools/edge/nodes", &body)
    }

    #[track_caller]
    pub(crate) fn token(&self, more: &Value) -> Token {
        let mut body = json!({"pool": "edge", "uses": 9, "life_secs": 600});
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        let (status, made) = self.world.operator().post("/v1/tokens", &body);
        assert_eq!(status, 200, "{made}");
        let text = made["token"].as_str().unwrap().to_owned();
        let parts: Vec<&str> = text.splitn(5, '.').collect();
        assert_eq!((parts[0], parts[1]), ("tfo1", made["kept"]["id"].as_str().unwrap()), "{made}");
        assert!(parts[4].starts_with("https://localhost:") && parts[4].contains("https://127.0.0.1:"), "{text}");
        Token { id: parts[1].to_owned(), secret: parts[2].to_owned() }
    }

    pub(crate) fn enrol(&self, token: &Token, name: &str, csr: &str) -> (u16, Value) {
        self.ask_to_enrol(&json!({"token_id": token.id, "secret": token.secret, "name": name, "csr": csr}))
    }

    /// Sends this body.
    pub(crate) fn ask_to_enrol(&self, body: &Value) -> (u16, Value) {
        self.stranger.post("/v1/enrol", body)
    }

    #[track_caller]
    pub(crate) fn enrolled(&self, token: &Token, name: &str) -> Client {
        let made = request::make(&name.parse().unwrap()).unwrap();
        let (status, body) = self.enrol(token, name, &made.csr);
        assert_eq!(status, 200, "{body}");
        self.client(&body, &made.key)
    }

    fn client(&self, answer: &Value, key: &str) -> Client {
        let cert_pem = answer["certificate"].as_str().unwrap().to_owned();
        self.world.client_of(&Identity { cert_pem, key_pem: key.to_owned(), ..self.world.ca.client(&["x"]) })
    }

    pub(crate) fn used(&self, token: &Token) -> u64 {
        let (_, tokens) = self.world.operator().get("/v1/tokens");
        let tokens = tokens["tokens"].as_array().unwrap();
        tokens.iter().find(|one| one["id"] == *token.id).unwrap()["used"].as_u64().unwrap()
    }
}

pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) secret: String,
}

pub(crate) fn csr(name: &str) -> String {
    request::make(&name.parse().unwrap()).unwrap().csr
}

const A: &str = "a.cache.example.org";

fn serves(client: &Client) -> bool {
    client.get("/v1/pools/edge/self").0 == 200
}

#[test]
fn what_is_refused_changes_nothing_and_tells_strangers_nothing() {
    let on = Enrolling::start();
    let body = json!({"pool": "edge", "uses": 1, "life_secs": 60});
    for other in [on.world.client(&[VIEWER]), on.world.client(&[A])] {
        assert_eq!(other.post("/v1/tokens", &body).1["kind"], "not_allowed");
        assert_eq!(other.get("/v1/tokens").1["kind"], "not_allowed");
    }
    let (status, stray) = on.world.operator().post(
        "/v1/tokens",
        &json!({"pool": "edge", "uses": 1, "life_secs": 60,
        "nodes": ["*.dns.example.org"]}),
    );
    assert_eq!((status, &stray["kind"]), (409, &json!("refused")), "{stray}");
    let token = on.token(&json!({"nodes": ["a*.cache.example.org"]}));
    let wrong = Token { secret: "A".repeat(22), ..Token { id: token.id.clone(), secret: String::new() } };
    let unknown = Token { id: "0".repeat(12), secret: token.secret.clone() };
    let odd = Token { id: token.id.clone(), secret: "no secret at all".to_owned() };
    let ended = on.token(&json!({"life_secs": 1}));
    let revoked = on.token(&json!({}));
    let path = format!("/v1/tokens/{}", revoked.id);
    let (status, body) = on.world.operator().ask(Method::DELETE, &path, None);
    assert_eq!((status, &body["state"]), (200, &json!("revoked")), "{body}");
    assert_eq!(on.world.operator().ask(Method::DELETE, "/v1/tokens/000000000000", None).1["kind"], "unknown_token");
    // Not by trying: the log has a few refusals only.
    let state = |of: &Token| {
        let (_, all) = on.world.operator().get("/v1/tokens");
        let found = all["tokens"].as_array().unwrap().iter().find(|one| one["id"] == *of.id).cloned();
        found.unwrap()["state"].clone()
    };
    assert!(poll_until(SOON, || state(&ended) == "expired"));
    let mut answers: Vec<Value> = [&wrong, &unknown, &odd, &ended, &revoked]
        .map(|token| {
            let (status, mut answer) = on.enrol(token, A, &csr(A));
            answer["request_id"].take();
            json!([status, answer])
        })
        .into();
    answers.dedup();
    assert_eq!(answers.len(), 1, "they look alike: {answers:?}");
    assert_eq!((&answers[0][0], &answers[0][1]["kind"]), (&json!(403), &json!("token_refused")));
    let other = "b.cache.example.org";
    for (name, csr, kind) in [
        (other, csr(other), "name_not_allowed"),
        ("a.dns.example.org", csr("a.dns.example.org"), "name_not_allowed"),
        (OPERATOR, csr(OPERATOR), "name_not_allowed"),
        (A, csr(other), "bad_request_key"),
        (
            A,
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".to_owned(),
            "bad_request_key",
        ),
        (A, String::new(), "bad_request_key"),
        ("A.cache.example.org", csr(A), "bad_request"),
    ] {
        let (_, answer) = on.enrol(&token, name, &csr);
        assert_eq!(answer["kind"], kind, "{name}: {answer}");
        assert!(
            kind == "bad_request" || answer["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()),
            "{answer}"
        );
    }
    assert_eq!(on.used(&token), 0);
    // Nothing but enrolment is behind the port, and the API refuses a client without a certificate.
    assert_eq!(on.stranger.get("/v1/pools").1["kind"], "unknown_path");
    assert_eq!(on.stranger.get("/v1/enrol").1["kind"], "unknown_method");
    let (status, _) = on.stranger.post("/v1/enrol", &json!({"csr": "x".repeat(9_000)}));
    assert_eq!(status, 413);
    let log = on.world.log();
    for fault in ["wrong secret", "unknown", "expired", "revoked"] {
        assert!(
            log.contains(&format!("the token is not valid: it is wrong, used up, expired or revoked ({fault})")),
            "{log}"
        );
    }
    for secret in [&token.secret, &revoked.secret] {
        assert!(!log.contains(secret.as_str()));
        let stored = fs::read(on.world.path("state.db")).unwrap();
        assert!(!stored.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

#[test]
fn a_node_enrols_renews_and_is_cut_off_with_its_certificates() {
    let on = Enrolling::start();
    let token = on.token(&json!({"uses": 2}));
    let made = request::make(&A.parse().unwrap()).unwrap();
    let (status, answer) = on.enrol(&token, A, &made.csr);
    assert_eq!(status, 200, "{answer}");
    let chain = answer["chain"].as_str().unwrap();
    assert!(chain.starts_with("-----BEGIN CERTIFICATE") && !chain.contains("KEY"), "{chain}");
    assert_eq!((&answer["pools"], answer["urls"].as_array().unwrap().len()), (&json!(["edge"]), 2));
    let first = on.client(&answer, &made.key);
    assert!(serves(&first));
    // A name that is taken; with a token that may replace, the same request once more.
    assert_eq!(on.enrol(&token, A, &csr(A)).1["kind"], "name_taken");
    let replacing = on.token(&json!({"replace": true}));
    assert_eq!(on.enrol(&replacing, A, &made.csr).1["kind"], "bad_request_key");
    let second = on.enrolled(&replacing, A);
    assert!(poll_until(SOON, || !serves(&first)), "what was replaced is revoked");
    assert!(serves(&second));
    // Renewal: the same name and no other, a new key each time, and the old certificate stays.
    let renewal = request::make(&A.parse().unwrap()).unwrap();
    let renew = |csr: &str| second.post("/v1/pools/edge/certificate", &json!({"csr": csr}));
    assert_eq!(renew(&csr("b.cache.example.org")).1["kind"], "bad_request_key");
    // In the second in which a certificate of the name was revoked, none is renewed.
    let mut renewed = Value::Null;
    let is_done = || {
        let (status, body) = renew(&renewal.csr);
        renewed = body;
        status == 200
    };
    assert!(poll_until(SOON, is_done), "{renewed}");
    assert_eq!(renew(&renewal.csr).1["kind"], "bad_request_key");
    let third = on.client(&renewed, &renewal.key);
    assert!(serves(&second) && serves(&third));
    let operator = on.world.operator();
    assert_eq!(operator.post("/v1/pools/edge/certificate", &json!({"csr": csr(OPERATOR)})).1["kind"], "not_a_node");
    // Another node stays.
    let other = on.enrolled(&token, "b.cache.example.org");
    assert_eq!(on.enrol(&token, "c.cache.example.org", &csr("c.cache.example.org")).1["kind"], "token_refused");
    let mut node = on.world.node(A);
    node.client = third.clone();
    assert_eq!(node.sync(0).0, 204);
    let (status, body) =
        operator.post("/v1/pools/edge/nodes", &json!({"action": "deny", "nodes": [A], "reason": "stolen"}));
    assert_eq!(status, 200, "{body}");
    assert!(!serves(&second) && !serves(&third), "in the same act");
    assert!(serves(&other));
    assert_eq!(on.enrol(&replacing, A, &csr(A)).1["kind"], "name_not_allowed");
    let (status, body) = operator.post("/v1/pools/edge/nodes", &json!({"action": {"forget": {}}, "nodes": [A]}));
    assert_eq!(status, 200, "{body}");
    let back = on.enrolled(&replacing, A);
    assert!(serves(&back) && !serves(&third));
}

#[test]
fn what_happens_to_tokens_and_certificates_is_in_the_audit_log_and_a_flood_of_guesses_is_a_line() {
    const GUESSES: u64 = 40;
    let mut on = Enrolling::start();
    let token = on.token(&json!({"uses": 1}));
    let short = on.token(&json!({"life_secs": 1}));
    let revoked = on.token(&json!({}));
    let path = format!("/v1/tokens/{}", revoked.id);
    assert_eq!(on.world.operator().ask(Method::DELETE, &path, None).0, 200);
    for number in 0..GUESSES {
        let guess = Token { id: token.id.clone(), secret: format!("{number:A>22}") };
        assert_eq!(on.enrol(&guess, A, &csr(A)).1["kind"], "token_refused");
        // Ids of a stranger's own make.
        let guess = Token { id: format!("{number:012x}"), secret: token.secret.clone() };
        assert_eq!(on.enrol(&guess, A, &csr(A)).1["kind"], "token_refused");
    }
    let node = on.enrolled(&token, A);
    // The first refusal of its kind is told at once, and with it what has expired meanwhile.
    assert!(poll_until(SOON, || on.world.operator().get("/v1/tokens").1.to_string().contains("expired")));
    assert_eq!(on.enrol(&on.token(&json!({})), "a.dns.example.org", &csr("a.dns.example.org")).0, 403);
    assert!(poll_until(SOON, || !on.logged("token_expired").is_empty()), "{:#?}", on.log());
    let renewal = request::make(&A.parse().unwrap()).unwrap();
    assert_eq!(node.post("/v1/pools/edge/certificate", &json!({"csr": renewal.csr})).0, 200);
    let mut known = on.world.node(A);
    known.client = node.clone();
    assert_eq!(known.sync(0).0, 204);
    assert_eq!(on.order(&json!("deny"), A).0, 200);
    let one = |action: &str| {
        let found = on.logged(action);
        assert_eq!(found.len(), 1, "{action}: {found:#?}");
        found[0].clone()
    };
    assert_eq!(on.logged("token_made").len(), 4);
    let ended = one("token_revoked");
    assert_eq!((&ended["operator"], &ended["token"]), (&json!(OPERATOR), &json!(revoked.id)), "{ended}");
    assert_eq!(one("token_expired")["token"], json!(short.id));
    assert_eq!(one("token_used_up")["token"], json!(token.id));
    let joined = one("enrolled");
    assert_eq!(
        (&joined["token"], &joined["nodes"], &joined["address"], &joined["pool"]),
        (&json!(token.id), &json!([A]), &json!("127.0.0.1"), &json!("edge")),
        "{joined}"
    );
    assert_eq!((&one("renewed")["nodes"], &one("renewed")["token"]), (&json!([A]), &Value::Null));
    let cut = one("certificates_revoked");
    assert_eq!(
        (&cut["operator"], &cut["count"], &cut["reason"]),
        (&json!(OPERATOR), &json!(2), &json!("deny")),
        "{cut}"
    );
    let early: Vec<_> = on.logged("refused");
    assert!(early.len() <= 3 && early.iter().all(|line| line["address"] == "127.0.0.1"), "{early:#?}");
    // Viewers read it, nodes do not; the page has it; secrets are not in it.
    assert_eq!(on.world.client(&[VIEWER]).get("/v1/enrolment/audit?after=3").1["entries"][0]["number"], 4);
    assert_eq!(on.world.client(&[A]).get("/v1/enrolment/audit").1["kind"], "not_allowed");
    assert_eq!(on.world.operator().get("/v1/enrolment/audit?before=3").1["kind"], "bad_request");
    let (_, page) = on.world.observed("/pools/edge/audit").unwrap();
    assert!(page.contains("Tokens and certificates") && page.contains("certificates_revoked"), "{page}");
    let all = format!("{:?}{page}", on.log());
    assert!([&token, &short, &revoked].iter().all(|token| !all.contains(&token.secret)));
    // As it is stored it leads from each entry to the next.
    let (_, stored) = on.world.client(&[VIEWER]).get("/v1/enrolment/audit/chain?after=1");
    assert_eq!(stored["entries"][0]["number"], 2, "{stored}");
    let (_, stored) = on.world.operator().get("/v1/enrolment/audit/chain");
    let stored: EnrolmentChain = serde_json::from_value(stored).unwrap();
    let mut verifier = Verifier::new(sha256);
    for EnrolmentChainEntry { number, text, intact } in &stored.entries {
        verifier.take(Row { number: *number, text, is_intact: *intact }).unwrap();
    }
    let EnrolmentChain { number, chain, kept, .. } = stored;
    assert_eq!(verifier.finish(&LogEnd { number, chain, kept }).unwrap().entries, number);
    assert_eq!(on.world.client(&[A]).get("/v1/enrolment/audit/chain").1["kind"], "not_allowed");
    // Nothing of a flood is lost, and however long it was it is a line for each reason, and one more at the end.
    assert!(on.world.stop().success());
    on.world.start();
    let refused = on.logged("refused");
    let sum = |reason: &str| {
        let of = refused.iter().filter(|line| line["reason"] == reason);
        of.map(|line| line["count"].as_u64().unwrap()).sum::<u64>()
    };
    let wrong = "token_refused: wrong secret";
    assert_eq!((sum(wrong), sum("token_refused: unknown")), (GUESSES, GUESSES), "{refused:#?}");
    assert!(refused.len() <= 5, "{refused:#?}");
    let of = |reason: &str| refused.iter().find(|line| line["reason"] == reason).unwrap();
    assert_eq!((&of(wrong)["token"], &of(wrong)["nodes"]), (&json!(token.id), &json!([])));
    assert_eq!(of("token_refused: unknown")["token"], Value::Null);
    assert_eq!(of("name_not_allowed")["nodes"], json!(["a.dns.example.org"]));
}

#[test]
fn a_coordinator_without_the_authoritys_key_says_so_and_points_on() {
    let on = Enrolling::with("# The key is elsewhere.\n");
    // Tokens are the store's, and any coordinator makes them.
    let token = on.token(&json!({"uses": 2}));
    let (status, answer) = on.enrol(&token, A, &csr(A));
    assert_eq!((status, &answer["kind"]), (503, &json!("no_authority")), "{answer}");
    assert!(answer["remedy"].as_str().unwrap().contains("another coordinator"), "{answer}");
    let node = on.world.client(&[A]);
    let (status, answer) = node.post("/v1/pools/edge/certificate", &json!({"csr": csr(A)}));
    assert_eq!((status, &answer["kind"]), (503, &json!("no_authority")), "{answer}");
    // Who has no token learns no more than at any other.
    let guess = Token { id: token.id.clone(), secret: "A".repeat(22) };
    assert_eq!(on.enrol(&guess, A, &csr(A)).1["kind"], "no_authority");
    assert_eq!((on.used(&token), on.logged("refused").len()), (0, 0));
}
