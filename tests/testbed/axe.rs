//! axe-core in a page: a program that looks for what a keyboard, a screen reader or weak eyes cannot use (deque.com/axe).
//!
//! npm fetches it once for all tests, in one version, and it must be the file that was looked at.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tfo_crypto::checksum::sha256;

use crate::browser::Browser;
use crate::{alone, has_tool, shared, skip};

/// The version, and the SHA-256 of its `axe.min.js`.
const VERSION: &str = "4.10.3";
const SUM: &str = "880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb";

/// Longest time for npm to reach its registry, in milliseconds.
const FETCH_TIMEOUT_MS: &str = "20000";

/// The program's text; none, and the test is skipped, where npm or its registry is not there.
#[track_caller]
pub fn need_axe() -> Option<String> {
    let found = fetched();
    if found.is_none() {
        skip(&format!("needs axe-core {VERSION}, which npm fetches from its registry"));
    }
    found
}

fn fetched() -> Option<String> {
    let _one_at_a_time = alone("axe");
    let dir = shared(&format!("axe-{VERSION}"));
    let file: PathBuf = dir.join("package/axe.min.js");
    if !file.is_file() {
        if !has_tool("npm") {
            return None;
        }
        std::fs::create_dir_all(&dir).expect("target is ours");
        let mut npm = Command::new("npm");
        npm.args(["pack", "--silent", "--fetch-retries=1", &format!("--fetch-timeout={FETCH_TIMEOUT_MS}")]);
        npm.arg(format!("axe-core@{VERSION}")).arg("--cache").arg(dir.join("cache")).current_dir(&dir);
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(dir.join(format!("axe-core-{VERSION}.tgz"))).arg("-C").arg(&dir).arg("package/axe.min.js");
        for command in [&mut npm, &mut tar] {
            let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !done.is_ok_and(|status| status.success()) {
                return None;
            }
        }
    }
    let text = std::fs::read(&file).expect("it was unpacked");
    let sum: String = sha256(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum, SUM, "{} is another program", file.display());
    Some(String::from_utf8(text).expect("a script is text"))
}

/// What axe-core finds wrong with the page as it is: rules of WCAG 2.2 A and AA, and what it calls best practice.
#[track_caller]
pub fn violations(browser: &Browser, axe: &str) -> Vec<String> {
    let found = browser.wait_for(&format!(
        "{axe}; const done = arguments[arguments.length - 1]; \
         axe.run(document).then((found) => done(found.violations), (error) => done([{{id: String(error), nodes: []}}]))"
    ));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shown = |rule: &Value| {
        let nodes = rule["nodes"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let nodes: Vec<String> = nodes.map(|node| text(&node["html"]) + " " + &text(&node["failureSummary"])).collect();
        format!("{}: {}: {}", text(&rule["id"]), text(&rule["help"]), nodes.join("; "))
    };
    found.as_array().expect("a list").iter().map(shown).collect()
}
