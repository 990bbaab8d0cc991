//! Certificates that are renewed, of persons and of nodes.

use super::*;

#[test]
fn a_person_renews_the_own_certificate_and_no_other() {
    let on = Enrolling::start();
    let renew = |client: &Client, csr: &str| client.post("/v1/certificate", &json!({"csr": csr}));
    for (name, may_command) in [(OPERATOR, true), (VIEWER, false)] {
        let client = on.world.client(&[name]);
        let made = request::make(&name.parse().unwrap()).unwrap();
        let (status, answer) = renew(&client, &made.csr);
        assert_eq!((status, &answer["pools"]), (200, &json!([])), "{answer}");
        let next = on.client(&answer, &made.key);
        let makes = next.post("/v1/tokens", &json!({"pool": "edge", "uses": 1, "life_secs": 60})).0;
        assert_eq!(makes == 200, may_command, "{name} has the rights that it had");
        assert_eq!((next.get("/v1/pools").0, client.get("/v1/pools").0), (200, 200), "the old one stays");
        assert_eq!(renew(&next, &made.csr).1["kind"], "bad_request_key", "a new key each time");
        let again = request::make(&name.parse().unwrap()).unwrap();
        assert_eq!(renew(&next, &again.csr).0, 200);
    }
    let log = on.world.log();
    assert!(log.contains("a person has renewed a certificate") && log.contains(&format!("actor={OPERATOR}")), "{log}");
    let audit = on.logged("renewed");
    let operators: Vec<&Value> = audit.iter().map(|entry| &entry["operator"]).collect();
    assert_eq!(operators, [OPERATOR, OPERATOR, VIEWER, VIEWER], "{audit:?}");
    assert!(audit.iter().all(|entry| entry["pool"].is_null() && entry["address"] == "127.0.0.1"), "{audit:?}");
    let (x, operator) = ("x.example.org", on.world.operator());
    for (client, asked, kind) in [
        (&operator, VIEWER, "bad_request_key"),
        (&operator, A, "bad_request_key"),
        (&on.world.client(&[A]), A, "not_allowed"),
        (&on.world.client(&[A]), OPERATOR, "not_allowed"),
        (&on.world.client(&[x]), x, "not_allowed"),
        (&on.world.client(&[OPERATOR, A]), OPERATOR, "not_allowed"),
        (&on.world.client(&[OPERATOR, VIEWER]), OPERATOR, "not_allowed"),
    ] {
        assert_eq!(renew(client, &csr(asked)).1["kind"], kind, "{asked}");
    }
    assert_eq!(renew(&operator, "").1["kind"], "bad_request_key");
    // One that is revoked gets no answer at all.
    let stolen = on.world.ca.client(&[OPERATOR]);
    let thief = on.world.client_of(&stolen);
    assert_eq!(thief.get("/v1/pools").0, 200);
    on.world.put("crl.pem", on.world.ca.crl(&[&stolen]).as_bytes(), 0o644);
    assert!(poll_until(SOON, || thief.get("/v1/pools").0 != 200));
    assert_ne!(renew(&thief, &csr(OPERATOR)).0, 200);
}

#[test]
fn what_another_authority_has_issued_is_not_prolonged_and_without_one_nothing_is() {
    let mut on = Enrolling::start();
    assert!(on.world.stop().success());
    let other = tfo_testbed::pki::Ca::new("another PKI");
    let identity = other.client(&[OPERATOR]);
    let both = format!("{}{}", on.world.ca.pem, other.pem);
    on.world.put("ca.crt", both.as_bytes(), 0o644);
    on.world.put("crl.pem", (on.world.ca.crl(&[]) + &other.crl(&[])).as_bytes(), 0o644);
    on.world.start();
    let client = on.world.client_of(&identity);
    assert_eq!(client.get("/v1/pools").0, 200, "{}", on.world.log());
    let (status, answer) = client.post("/v1/certificate", &json!({"csr": csr(OPERATOR)}));
    assert_eq!(status, 409, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("not of the authority"), "{answer}");
    let mut plain = World::new("");
    plain.start();
    let (status, answer) = plain.operator().post("/v1/certificate", &json!({"csr": csr(OPERATOR)}));
    assert_eq!((status, &answer["kind"]), (409, &json!("refused")));
    assert!(answer["message"].as_str().unwrap().contains("has no [enrolment]"), "{answer}");
}
