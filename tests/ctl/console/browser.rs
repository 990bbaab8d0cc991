//! The console in a real browser: every button from click to audit entry, two operators at once, without its script, with the
//! keyboard alone, on a phone in the dark, and while the coordinator is away.  Leaves pictures below target/tmp/pictures.

use serde_json::{Value, json};

use tfo_testbed::axe::{need_axe, violations};
use tfo_testbed::browser::{Browser, need_browser};
use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{Node, OPERATOR, World};
use tfo_testbed::{SOON, poll_until, skip_unless};

use super::{Console, OTHER, last_entry, world};

/// Keys of WebDriver.
const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";

const A: &str = "a.cache.example.org";
const B: &str = "b.cache.example.org";
const C: &str = "c.cache.example.org";

/// A coordinator whose three nodes have the first key.
fn with_first_key() -> (World, Vec<Node>) {
    let mut world = world(FAST);
    world.start();
    let mut nodes = world.nodes();
    world.first_key(&mut nodes);
    (world, nodes)
}

fn heading(browser: &Browser, wanted: &str) {
    browser.until(&format!("document.querySelector('h1')?.textContent === {wanted:?}"));
}

/// Presses a button of a page, and gives the reason.
#[track_caller]
fn press(browser: &Browser, button: &str, reason: &str) {
    browser.click(&format!("#act-{button} .button"));
    browser.type_into("input[name=reason]", reason);
    browser.click(".confirm button");
}

/// The same, done: the page says so, and the audit log has it under the operator's name.
#[track_caller]
fn done(browser: &Browser, world: &World, button: &str) -> Value {
    let reason = format!("a click on {button}");
    press(browser, button, &reason);
    heading(browser, &format!("Done: {button}"));
    let entry = last_entry(world);
    assert_eq!((&entry["action"], &entry["reason"]), (&json!(button), &json!(reason)), "{entry}");
    assert!(browser.value("document.querySelector('main').innerText").as_str().unwrap().contains(OPERATOR));
    entry
}

fn emulate(browser: &Browser, width: u32, height: u32, is_dark: bool) {
    let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
    browser.own("Emulation.setDeviceMetricsOverride", &size);
    let scheme = if is_dark { "dark" } else { "light" };
    let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
    browser.own("Emulation.setEmulatedMedia", &media);
}

#[test]
fn every_button_leads_from_a_click_to_its_entry_in_the_audit_log() {
    skip_unless!(need_browser());
    let (world, mut nodes) = with_first_key();
    let console = Console::start(&world, OPERATOR, &[]);
    let at = |path: &str| format!("{}{path}", console.parts().0);
    let browser = Browser::start();
    emulate(&browser, 1_000, 900, false);
    browser.open(&console.address);
    // The address is used up, and gone from the address bar.
    browser.until("location.pathname === '/' && document.title.startsWith('OK: edge agree')");
    browser.picture("console_steady");

    browser.click("#act-pause .button");
    heading(&browser, "Pause pool edge");
    assert_eq!(browser.value("document.querySelector('code.cmd').textContent"), "tfoctl pause --pool edge");
    browser.open(&at("/"));
    done(&browser, &world, "pause");
    browser.picture("console_done");
    browser.open(&at("/pools/edge"));
    browser.until("document.title.startsWith('WARNING: edge paused')");
    assert_eq!(browser.value("document.querySelector('#act-pause')"), Value::Null, "it is paused already");
    done(&browser, &world, "resume");

    browser.open(&at("/pools/edge"));
    done(&browser, &world, "rotate");
    nodes[..2].iter_mut().for_each(Node::converge);
    browser.open(&at("/pools/edge"));
    // The page is live: the button comes when it has a meaning, and what it is about is as it is.
    browser.until(&format!("document.querySelector('#act-advance') && document.body.innerText.includes({C:?})"));
    browser.click("#act-advance .button");
    heading(&browser, "Advance pool edge");
    browser.until("document.body.innerText.includes('leaves 1 node of 3 required behind: c.cache.example.org')");
    // These two are in docs/how-to/console.md.
    emulate(&browser, 780, 620, false);
    browser.view("console_confirm");
    browser.open(&at("/pools/edge"));
    browser.view("console_pool");
    emulate(&browser, 1_000, 900, false);
    browser.open(&at("/pools/edge"));
    let entry = done(&browser, &world, "advance");
    assert_eq!(entry["nodes"], json!([C]));
    world.until("promoted", |pool| pool["phase"] == "promoted");
    browser.open(&at("/pools/edge"));
    done(&browser, &world, "abort");
    nodes.iter_mut().for_each(Node::converge);
    world.until("held", |pool| pool["hold"] == "aborted" && pool["converged"] == pool["required"]);
    browser.open(&at("/pools/edge"));
    done(&browser, &world, "resume");

    let node = |name: &str| at(&format!("/pools/edge/nodes/{name}"));
    browser.open(&node(B));
    let entry = done(&browser, &world, "exclude");
    assert_eq!(entry["nodes"], json!([B]));
    browser.open(&node(B));
    browser.until("document.querySelector('#act-include') !== null");
    done(&browser, &world, "include");
    nodes.iter_mut().for_each(Node::converge);
    browser.open(&node(C));
    browser.click("#act-forget .button");
    heading(&browser, &format!("Forget {C}"));
    // Fewer nodes than expected would be left, and the number is in a file.
    browser.until("document.body.innerText.includes('no rotation starts by itself')");
    browser.open(&node(C));
    let entry = done(&browser, &world, "forget");
    assert_eq!(entry["nodes"], json!([C]));

    // A revoke asks for the name.
    browser.open(&node(A));
    browser.click("#act-revoke .button");
    heading(&browser, &format!("Revoke the keys of pool edge, and deny {A}"));
    browser.type_into("input[name=reason]", "stolen");
    browser.type_into("input[name=typed]", B);
    browser.picture("console_revoke");
    browser.click(".confirm button");
    heading(&browser, "Another name");
    browser.open(&at(&format!("/pools/edge/act/revoke?node={A}")));
    browser.type_into("input[name=reason]", "stolen");
    browser.type_into("input[name=typed]", A);
    browser.click(".confirm button");
    heading(&browser, "Done: revoke");
    let entry = last_entry(&world);
    assert_eq!((&entry["action"], &entry["reason"]), (&json!("revoke"), &json!("stolen")), "{entry}");
    assert_eq!(nodes[0].sync(0).1["kind"], "denied");
    assert_eq!(browser.complaints().iter().filter(|entry| !entry.contains("400")).count(), 0);
}

#[test]
fn two_operators_a_dead_coordinator_and_a_browser_without_script_or_mouse() {
    skip_unless!(need_browser());
    let (mut world, mut nodes) = with_first_key();
    let console = Console::start(&world, OPERATOR, &[]);
    let others = Console::start(&world, OTHER, &[]);
    let at = |path: &str| format!("{}{path}", console.parts().0);
    let (browser, other) = (Browser::start(), Browser::start());
    emulate(&browser, 1_000, 900, false);
    for (browser, console) in [(&browser, &console), (&other, &others)] {
        browser.open(&console.address);
        browser.until("document.title.startsWith('OK: edge agree')");
    }
    // Both read the same, and press the same button.
    for browser in [&browser, &other] {
        browser.click("#act-pause .button");
        browser.type_into("input[name=reason]", "both");
    }
    other.click(".confirm button");
    heading(&other, "Done: pause");
    browser.click(".confirm button");
    heading(&browser, "The pool has moved on");
    browser.picture("console_moved");
    browser.click("p .button");
    heading(&browser, "Pause pool edge");
    let (_, log) = world.operator().get("/v1/pools/edge/audit");
    let pauses = log["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == "pause");
    assert_eq!(pauses.map(|entry| entry["operator"].clone()).collect::<Vec<_>>(), [OTHER]);

    // The coordinator dies under a live page and under a form, and comes back.
    browser.open(&at("/pools/edge"));
    other.open(&format!("{}/pools/edge/act/resume", others.parts().0));
    heading(&other, "Resume pool edge");
    world.kill();
    browser.until("document.body.innerText.includes('Not live: the coordinator has not answered since')");
    browser.picture("console_not_live");
    other.click(".confirm button");
    heading(&other, "No coordinator answers");
    world.start();
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    browser.until("!document.body.innerText.includes('Not live')");
    other.open(&format!("{}/pools/edge", others.parts().0));
    press(&other, "resume", "back");
    heading(&other, "Done: resume");

    // On a phone in the dark.
    emulate(&browser, 360, 740, true);
    for (path, name) in [("/pools/edge", "phone_dark"), ("/pools/edge/act/rotate", "phone_dark_confirm")] {
        browser.open(&at(path));
        let width = browser.value("document.documentElement.scrollWidth").as_u64();
        assert!(width <= Some(360), "{path} is {width:?} wide");
        browser.picture(&format!("console_{name}"));
    }

    // Without its script, and with the keyboard alone: from the page to the entry.
    browser.own("Emulation.setScriptExecutionDisabled", &json!({"value": true}));
    browser.open(&at("/pools/edge"));
    let has = |role: &str, name: &str| {
        poll_until(SOON, || browser.accessible().iter().any(|(own, other, _)| own == role && other == name))
    };
    let tab_to = |role: &str, name: &str| {
        let found = poll_until(SOON, || {
            browser.keys(TAB);
            browser.accessible().iter().any(|(own, other, focus)| *focus && own == role && other == name)
        });
        assert!(found, "never at {role} {name}: {:?}", browser.accessible());
    };
    assert!(has("heading", "Pool edge"));
    tab_to("link", "Pause");
    browser.keys(ENTER);
    assert!(has("heading", "Pause pool edge"));
    tab_to("textbox", "Reason, for the audit log");
    browser.keys("keys");
    tab_to("button", "Pause");
    browser.keys(ENTER);
    assert!(has("heading", "Done: pause"));
    let entry = last_entry(&world);
    assert_eq!((&entry["action"], &entry["reason"]), (&json!("pause"), &json!("keys")), "{entry}");
}

#[test]
fn axe_finds_nothing_wrong_with_the_pages() {
    skip_unless!(need_browser());
    let Some(axe) = need_axe() else { return };
    let (world, mut nodes) = with_first_key();
    // A pool with something to say: it is paused in a rotation, and waits for a node that fails.
    let operator = world.operator();
    assert_eq!(operator.post("/v1/pools/edge/rotations", &json!({})).0, 200);
    nodes[..2].iter_mut().for_each(Node::converge);
    nodes[2].different = json!({"error": "boot_order"});
    nodes[2].sync(0);
    assert_eq!(operator.post("/v1/pools/edge/pause", &json!({"reason": "axe"})).0, 200);
    let console = Console::start(&world, OPERATOR, &[]);
    let browser = Browser::start();
    browser.open(&console.address);
    heading(&browser, "Pool edge");
    let mut wrong = Vec::new();
    for (is_dark, width) in [(false, 1_200), (true, 360)] {
        emulate(&browser, width, 800, is_dark);
        for path in [
            "/",
            "/pools/edge/nodes",
            "/pools/edge/nodes/c.cache.example.org",
            "/pools/edge/audit",
            "/pools/edge/act/abort",
            "/pools/edge/act/revoke?node=c.cache.example.org",
            "/pools/edge/act/rotate?node=nope",
            "/docs/how-to/split.md",
        ] {
            browser.open(&format!("{}{path}", console.parts().0));
            let found = violations(&browser, &axe);
            wrong.extend(found.into_iter().map(|what| format!("{path} {width} dark {is_dark}: {what}")));
        }
    }
    // What the console says itself, and the page that only shows.
    emulate(&browser, 1_200, 800, false);
    for address in [format!("{}/open/0", console.parts().0), format!("http://{}/", world.observe)] {
        browser.open(&address);
        wrong.extend(violations(&browser, &axe).into_iter().map(|what| format!("{address}: {what}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
