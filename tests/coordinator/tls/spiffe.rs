//! Whom a SPIFFE ID names in a handshake, and whom it does not.

use rustls::AlertDescription as Alert;
use tfo_coordinator::server::{Limits, Reason};
use tfo_wire::error::ErrorKind;

use super::harness::{Bench, Files, alert};
use tfo_testbed::pki::Ca;

const NODE: &str = "spiffe://fleet.example.org/tfo/node/cp1.example.org";

fn bench(ca: &Ca, domain: Option<&str>) -> Bench {
    Bench::within(domain.map(|text| text.parse().unwrap()), Files::of(ca), ca, Limits::default())
}

#[tokio::test]
async fn an_id_of_the_trust_domain_names_a_peer_and_any_other_uri_none() {
    let ca = Ca::new("ca");
    let bench = bench(&ca, Some("fleet.example.org"));
    for names in [&[NODE][..], &[NODE, "cp1.example.org"], &["CP1.example.org", NODE], &[NODE, "192.0.2.1"]] {
        let client = bench.client(&ca.client(names));
        assert_eq!(client.get("/who").await.unwrap().body, "cp1.example.org", "{names:?}");
    }
    // Without a URI nothing changes.
    let client = bench.client(&ca.client(&["b.example.org", "a.example.org"]));
    assert_eq!(client.get("/who").await.unwrap().body, "a.example.org,b.example.org");
    let several = "has more than one URI";
    let form = "has a URI that is not spiffe://";
    let cases = [
        (&["spiffe://other.example.org/tfo/node/cp1.example.org"][..], "of another trust domain"),
        (&["spiffe://other.example.org/tfo/node/cp1.example.org", "cp1.example.org"], "of another trust domain"),
        (&[NODE, "cp2.example.org"], "has a DNS name that is not the name"),
        (&[NODE, "cp1.example.org", "cp2.example.org"], "has a DNS name that is not the name"),
        (&[NODE, "*.example.org"], "has a DNS name that is not the name"),
        (&[NODE, NODE], several),
        (&[NODE, "spiffe://other.example.org/x", "cp1.example.org"], several),
        (&["spiffe://fleet.example.org/ns/default/sa/web"], form),
        (&["spiffe://fleet.example.org/tfo/node/CP1.example.org"], form),
        (&["spiffe://fleet.example.org/tfo/node/cp1.example.org/", "cp1.example.org"], form),
        (&["SPIFFE://fleet.example.org/tfo/node/cp1.example.org", "cp1.example.org"], form),
        (&["spiffe:cp1.example.org\n", "cp1.example.org"], form),
    ];
    for (names, reason) in cases {
        let answer = bench.client(&ca.client(names)).get("/who").await.unwrap();
        assert_eq!(answer.refusal(), (403, ErrorKind::NotAllowed), "{names:?}");
        assert!(answer.body.contains(reason), "{names:?}: {}", answer.body);
    }
    assert_eq!(bench.refused(Reason::Nameless), 12);
}

#[tokio::test]
async fn without_a_trust_domain_a_uri_is_nothing() {
    let ca = Ca::new("ca");
    let bench = bench(&ca, None);
    let client = bench.client(&ca.client(&[NODE, "cp2.example.org"]));
    assert_eq!(client.get("/who").await.unwrap().body, "cp2.example.org");
    let answer = bench.client(&ca.client(&[NODE])).get("/who").await.unwrap();
    assert_eq!(answer.refusal(), (403, ErrorKind::NotAllowed));
}

#[tokio::test]
async fn an_operator_by_its_id_is_let_in_with_a_list_that_has_ended_and_a_node_is_not() {
    let ca = Ca::new("ca");
    let files = Files::of(&ca);
    files.put("crl.pem", &ca.crl_until(&[], -60));
    let bench = Bench::within("fleet.example.org".parse().ok(), files, &ca, Limits::default());
    let operator = ca.client(&["spiffe://fleet.example.org/tfo/operator/ops1.example.org"]);
    assert_eq!(bench.client(&operator).get("/who").await.unwrap().body, "ops1.example.org");
    // Neither the name nor the purpose is enough without the domain.
    for id in [NODE, "spiffe://other.example.org/tfo/operator/ops1.example.org"] {
        let error = bench.client(&ca.client(&[id])).get("/who").await.expect_err("the list has ended");
        assert_eq!(alert(&error), Some(Alert::AccessDenied), "{id}");
    }
}
