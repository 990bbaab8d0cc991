//! Several coordinators, of which some do not answer: a page comes from the next one, and a form is sent only once.

use serde_json::json;

use super::{Console, Visitor};
use crate::fleet::fake::{FakeCoordinator, Operator, Reply, pool, refusal, three, with_pool};

fn with_two() -> (Operator, [FakeCoordinator; 2]) {
    let operator = Operator::new();
    let both = [(); 2].map(|()| operator.coordinator());
    for coordinator in &both {
        with_pool(coordinator, &pool(json!({})), &three());
    }
    operator.configure(&[&both[0].url(), &both[1].url()], "pool = \"edge\"");
    (operator, both)
}

fn console(operator: &Operator) -> (Console, Visitor) {
    let console = Console::of(&mut operator.command(&["console"]), &operator.path("console.stderr"));
    let visitor = console.visitor();
    (console, visitor)
}

fn asked(coordinator: &FakeCoordinator, what: &str) -> usize {
    coordinator.asked().iter().filter(|asked| asked.what == what).count()
}

#[test]
fn a_page_comes_from_the_next_coordinator_and_a_form_is_sent_once() {
    let (operator, [first, second]) = with_two();
    let (_console, browser) = console(&operator);
    let page = |text: &str| Reply::Raw(200, text.to_owned());
    first.on(
        "GET /page/pools/edge",
        [page("of the first"), Reply::Json(503, refusal("unavailable", "busy")), Reply::Drop],
    );
    second.on("GET /page/pools/edge", [page("of the second")]);
    for wanted in ["of the first", "of the second", "of the second"] {
        assert_eq!(browser.get("/pools/edge").body, wanted);
    }
    // What all say is shown as it was said, for people.
    for coordinator in [&first, &second] {
        coordinator.on("GET /page/pools/edge/nodes", [Reply::Json(503, refusal("unavailable", "<busy>"))]);
        coordinator.on("GET /page/pools/edge/audit", [Reply::Drop]);
    }
    let busy = browser.get("/pools/edge/nodes");
    assert_eq!((busy.status, busy.text("h1")), (503, "The coordinator refuses"));
    assert!(busy.body.contains("&lt;busy&gt;") && busy.body.contains("r-1"), "{}", busy.body);
    let gone = browser.get("/pools/edge/audit");
    assert_eq!((gone.status, gone.text("h1")), (502, "No coordinator answers"));
    assert!(gone.body.contains(&first.url()) && gone.body.contains(&second.url()), "{}", gone.body);

    // The second one is asked first now, and does not answer a form: it may have done it, so the first is not asked.
    let what = "POST /page/pools/edge/act/pause";
    let tokens: Vec<String> = second.asked().into_iter().map(|asked| asked.form_token).collect();
    let token = tokens.iter().find(|token| token.len() == 32).expect("a token");
    let body = format!("token={token}&seen=1&reason=once");
    for coordinator in [&first, &second] {
        coordinator.on(what, [Reply::Drop]);
    }
    let lost = browser.send("POST", "/pools/edge/act/pause", &[], &body);
    assert_eq!((lost.status, lost.text("h1")), (504, "Its outcome is not known"), "{}", lost.body);
    assert!(lost.body.contains("href=\"/pools/edge/audit\""), "{}", lost.body);
    assert_eq!((asked(&first, what), asked(&second, what)), (0, 1));
    // One that is not there at all has done nothing: the next one gets it.
    drop(second);
    first.on(what, [Reply::Json(409, refusal("moved", "the document is at revision 41"))]);
    let moved = browser.send("POST", "/pools/edge/act/pause", &[], &body);
    assert_eq!(moved.status, 409, "{}", moved.body);
    assert_eq!(asked(&first, what), 1);
    assert!(first.asked().iter().all(|asked| !asked.what.contains("cookie")));
}

#[test]
fn a_query_is_passed_on_as_it_is_and_of_an_answer_only_what_a_page_needs() {
    let (operator, [first, second]) = with_two();
    let (_console, browser) = console(&operator);
    drop(second);
    first.on("GET /page", [Reply::Raw(200, "the first page".to_owned())]);
    first.on("GET /page?search=a%26b", [Reply::Raw(200, "a search".to_owned())]);
    let start = browser.get("/");
    assert_eq!(
        (&*start.body, start.header("x-request-id"), start.header("set-cookie")),
        ("the first page", None, None)
    );
    assert_eq!(browser.get("/?search=a%26b").body, "a search");
}
