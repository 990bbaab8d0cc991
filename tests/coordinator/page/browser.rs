//! The page in a real browser: live, with the keyboard, on a phone, in the dark, without its script, and while the
//! coordinator is away.  Leaves pictures below target/tmp/pictures.

use serde_json::json;

use tfo_testbed::browser::{Browser, need_browser};
use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::Node;
use tfo_testbed::{SOON, poll_until, skip_unless};

use super::{order, with_first_key};

/// Keys of WebDriver.
const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";

/// The roles and names that a screen reader is given.
fn accessible(browser: &Browser) -> Vec<(String, String)> {
    browser.accessible().into_iter().map(|(role, name, _)| (role, name)).collect()
}

#[test]
fn the_page_is_live_and_can_be_used_by_all() {
    skip_unless!(need_browser());
    let (mut world, mut nodes) = with_first_key(FAST);
    let browser = Browser::start();
    let observe = world.observe;
    let at = |path: &str| format!("http://{observe}{path}");
    browser.open(&at("/"));
    browser.until("document.title.startsWith('OK: edge agree')");
    let wide = json!({"width": 1_200, "height": 1_000, "deviceScaleFactor": 1, "mobile": false});
    browser.own("Emulation.setDeviceMetricsOverride", &wide);
    // Something to draw.
    let mut passive = 0;
    let drawn = poll_until(SOON, || {
        passive += 100;
        let counters = json!({"passive": passive, "passive_alt_key": passive / 20, "passive_fail": passive / 200});
        nodes[0].different = json!({"counters": counters});
        assert_eq!(nodes[0].sync(0).0, 204);
        world.observed("/").is_some_and(|(_, page)| page.contains(" cookies since "))
    });
    assert!(drawn);
    browser.open(&at("/"));
    browser.picture("steady");

    // What changes comes by itself: the same document, and the focus stays where it is.
    browser.value("window.marked = true");
    browser.keys(TAB);
    assert_eq!(browser.value("document.activeElement.textContent"), "Skip to content");
    browser.value("document.querySelector('#state-all a').focus()");
    order(&world, "rotations", &json!({}));
    nodes[..2].iter_mut().for_each(Node::converge);
    browser.until("document.title.startsWith('NOTICE: edge rotating')");
    browser.until("document.querySelector('.steps [aria-current=step]').textContent.startsWith('Stage')");
    browser.until("[...document.querySelectorAll('tr')].some((row) => row.id === 'node-c.cache.example.org')");
    assert_eq!(browser.value("window.marked === true && document.activeElement.parentNode.id"), "state-all");
    assert_eq!(browser.value("document.querySelector('link[rel=icon]').getAttribute('href')"), "/icon/notice");
    browser.picture("rotating");

    // Paused by its reader, it stays as it is.
    browser.value("document.querySelector('#controls button').click()");
    order(&world, "pause", &json!({"reason": "lunch"}));
    // A look serves all readers for a second.
    browser.until("fetch('/').then((page) => page.text()).then((text) => text.includes('lunch'))");
    assert_eq!(browser.value("document.body.innerText.includes('lunch')"), false);
    browser.value("document.querySelector('#controls button').click()");
    browser.until("document.body.innerText.includes('lunch')");
    order(&world, "resume", &json!({}));

    // What a screen reader gets.
    let tree = accessible(&browser);
    let has = |role: &str, part: &str| tree.iter().any(|(own, name)| own == role && name.contains(part));
    for (role, name) in [
        ("banner", ""),
        ("main", ""),
        ("contentinfo", ""),
        ("navigation", "Pages"),
        ("heading", "Pool edge"),
        ("region", "Agreement"),
        ("status", ""),
        ("image", "required nodes have converged"),
        ("table", "The nodes that need a look"),
        ("columnheader", "State"),
        ("rowheader", "c.cache.example.org"),
        ("button", "Pause updates"),
    ] {
        assert!(has(role, name), "no {role} {name:?}: {tree:?}");
    }
    for role in ["link", "button", "image", "table", "heading", "combobox", "searchbox", "region"] {
        assert!(!tree.iter().any(|(own, name)| own == role && name.trim().is_empty()), "a {role} without a name");
    }

    // The keyboard alone: search, and open what was found.
    browser.open(&at("/pools/edge/nodes"));
    browser.value("document.querySelector('input[name=search]').focus()");
    browser.keys(&format!("c.cac{ENTER}"));
    browser.until("location.search.includes('search=c.cac')");
    assert_eq!(browser.value("document.querySelectorAll('tbody tr').length"), 1);
    browser.value("document.querySelector('tbody a').focus()");
    browser.keys(ENTER);
    browser.until("document.querySelector('h1').textContent === 'Node c.cache.example.org'");

    for (path, name) in
        [("/pools/edge/audit", "audit"), ("/pools/edge/nodes", "nodes"), ("/docs/how-to/split.md", "docs")]
    {
        browser.open(&at(path));
        browser.picture(name);
    }

    // A phone in the dark.
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser.own("Emulation.setDeviceMetricsOverride", &phone);
    for path in [
        "/",
        "/pools/edge/nodes",
        "/pools/edge/nodes/c.cache.example.org",
        "/pools/edge/audit",
        "/docs/how-to/split.md",
    ] {
        browser.open(&at(path));
        let width = browser.value("document.documentElement.scrollWidth").as_u64();
        assert!(width <= Some(360), "{path} is {width:?} wide");
    }
    let background = "getComputedStyle(document.body).backgroundColor";
    browser.open(&at("/"));
    let light = browser.value(background);
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.own("Emulation.setEmulatedMedia", &dark);
    assert_ne!(browser.value(background), light);
    browser.picture("phone_dark");
    browser.own("Emulation.setDeviceMetricsOverride", &wide);
    browser.own("Emulation.setEmulatedMedia", &json!({"features": []}));
    assert_eq!(browser.complaints(), [""; 0]);

    // The coordinator goes away and comes back.
    browser.until("!document.body.innerText.includes('Not live')");
    world.kill();
    browser.until("document.body.innerText.includes('Not live: the coordinator has not answered since')");
    browser.picture("not_live");
    world.start();
    browser.until("!document.body.innerText.includes('Not live')");
    browser.until("document.body.innerText.includes('have not reported since this coordinator started')");

    // Without its script it is as whole.
    browser.own("Emulation.setScriptExecutionDisabled", &json!({"value": true}));
    browser.open(&at("/"));
    let tree = accessible(&browser);
    let has = |role: &str, part: &str| tree.iter().any(|(own, name)| own == role && name.contains(part));
    assert!(has("heading", "Pool edge") && has("table", "3 nodes report their keys"), "{tree:?}");
    assert!(!has("button", "Pause updates"), "{tree:?}");
}
