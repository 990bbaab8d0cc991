//! Neither a token's secret nor the authority's private key in anything that the coordinator shows, stores or leaves behind.
//!
//! The search decodes what it looks at (`tfo_testbed::secrets`); where the secrets belong it finds them.

use std::fs;

use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use crate::enrolment::{Enrolling, Token, csr};
use tfo_testbed::secrets::{Secrets, base64_value, decode};
use tfo_testbed::{SOON, poll_until};

/// Windows of eight bytes: a database has megabytes, and four would be there by chance.
type Found = Secrets<8>;

/// The private scalar in a PKCS#8 key.
fn scalar(pem: &str) -> Vec<u8> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let der = der.secret_der();
    let at = der.windows(2).position(|two| two == [0x04, 0x20]).expect("an octet string of 32 bytes");
    der[at + 2..at + 34].to_vec()
}

fn add_token(secrets: &mut Found, name: &str, token: &Token) {
    let digits: Vec<u8> = token.secret.bytes().collect();
    secrets.add(name, &decode(&digits, 6, |digit| base64_value(digit, *b"-_")));
}

#[test]
fn neither_token_secrets_nor_the_authoritys_key_are_seen_anywhere() {
    let mut on = Enrolling::start();
    assert!(on.world.stop().success());
    let mut talkative = on.world.command("serve", &[]);
    talkative.env("TFO_LOG", "trace");
    on.world.spawn_by(talkative);
    assert!(poll_until(SOON, || on.world.observed("/readyz").is_some_and(|(status, _)| status == 200)));
    let mut secrets = Found::new();
    let key = fs::read_to_string(on.world.path("ca.pem")).unwrap();
    secrets.add("authority", &scalar(&key));
    secrets.add("server", &scalar(&fs::read_to_string(on.world.path("server.key")).unwrap()));
    // Used, guessed at, expired, revoked, and never used.
    let (name, other) = ("a.cache.example.org", "b.cache.example.org");
    let tokens = [json!({"uses": 1, "replace": true}), json!({}), json!({"life_secs": 1}), json!({}), json!({})];
    let tokens: Vec<Token> = tokens.iter().map(|more| on.token(more)).collect();
    for (token, what) in tokens.iter().zip(["used", "guessed", "expired", "revoked", "kept"]) {
        add_token(&mut secrets, what, token);
    }
    let operator = on.world.operator();
    let mut answers = Vec::new();
    answers.push(on.enrol(&tokens[0], name, &csr(name)).1);
    answers.push(on.enrol(&tokens[0], other, &csr(other)).1);
    answers.push(on.enrol(&Token { secret: "A".repeat(22), id: tokens[1].id.clone() }, name, &csr(name)).1);
    answers.push(operator.ask(reqwest::Method::DELETE, &format!("/v1/tokens/{}", tokens[3].id), None).1);
    // Bodies that do not fit are complained about without their content.
    for body in [
        json!({"token_id": tokens[1].id, "secret": tokens[1].secret, "name": name, "csr": csr(name), "more": 1}),
        json!({"token_id": tokens[1].secret, "secret": tokens[1].id, "name": name, "csr": csr(name)}),
        json!({"token_id": tokens[1].id, "secret": [tokens[1].secret], "name": name, "csr": csr(name)}),
        json!({"token_id": tokens[1].id, "secret": tokens[1].secret, "name": tokens[1].secret, "csr": tokens[1].secret}),
    ] {
        answers.push(on.ask_to_enrol(&body).1);
    }
    assert!(poll_until(SOON, || operator.get("/v1/tokens").1.to_string().contains("expired")));
    answers.push(on.enrol(&tokens[2], name, &csr(name)).1);
    for path in ["/v1/tokens", "/v1/enrolment/audit", "/v1/pools", "/v1/pools/edge/audit", "/v1/pools/edge/nodes"] {
        let (status, answer) = operator.get(path);
        assert_eq!(status, 200, "{path}: {answer}");
        answers.push(answer);
    }
    for answer in &answers {
        secrets.absent("an answer", answer.to_string());
    }
    for path in ["/metrics", "/pools/edge/audit", "/"] {
        secrets.absent(path, on.world.observed(path).unwrap().1);
    }
    for name in ["cmdline", "environ", "comm", "status", "maps", "limits"] {
        let content = fs::read(format!("/proc/{}/{name}", on.world.pid())).unwrap();
        assert!(!content.is_empty(), "{name}");
        secrets.absent(name, content);
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", on.world.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "no core: {core}");
    let backup = on.world.path("backup").display().to_string();
    let output = on.world.run("export", &["--to", &backup]);
    assert!(output.status.success());
    secrets.absent("export", [output.stdout, output.stderr].concat());
    let output = on.world.run("check", &[]);
    secrets.absent("check", [output.stdout, output.stderr].concat());
    secrets.absent("the log", on.world.log());
    // Everything in its directory but the keys themselves: the database with its files, the backup, the list.
    let mut looked = 0;
    for entry in fs::read_dir(on.world.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !["ca.pem", "server.key", "kek"].iter().any(|name| path.ends_with(name)) {
            secrets.absent(&path.display().to_string(), fs::read(&path).unwrap());
            looked += 1;
        }
    }
    assert!(looked >= 6, "{looked}");
    assert!(on.world.stop().success());
    secrets.absent("state.db, closed", fs::read(on.world.path("state.db")).unwrap());
    secrets.absent("the log to its end", on.world.log());
    // The control: where they belong they are found, and a database that kept a secret would be noticed.
    assert!(!secrets.find(key.as_bytes()).is_empty());
    let kept = [&fs::read(on.world.path("state.db")).unwrap()[..], tokens[4].secret.as_bytes()].concat();
    assert!(!secrets.find(&kept).is_empty());
}
