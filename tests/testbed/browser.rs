//! A real browser: Debian's Chromium without a screen, driven over WebDriver (w3.org/TR/webdriver2).
//!
//! WebDriver is JSON over HTTP, and a test needs ten of its calls.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::coordinator::runtime;
use crate::pki::{Ca, client_config};
use crate::{SOON, mortal, need_tool, poll_until, repository, scratch};

/// True if a browser and its driver are here; otherwise skips and returns false.
#[track_caller]
pub fn need_browser() -> bool {
    need_tool("chromium") && need_tool("chromedriver")
}

/// A browser with one tab.
pub struct Browser {
    driver: Child,
    session: String,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    // Its profile; goes last.
    _dir: tempfile::TempDir,
}

impl Browser {
    /// Starts one; it ends with the value.
    pub fn start() -> Self {
        let dir = scratch();
        // The browser is the driver's child and outlives it.  As root both are in a pid namespace, and end with its first process.
        let mut driver = if rustix::process::geteuid().is_root() {
            let mut namespace = mortal("unshare");
            namespace.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--", "chromedriver"]);
            namespace
        } else {
            mortal("chromedriver")
        };
        // Its own profile and cache.
        let driver = driver.arg("--port=0").env("HOME", dir.path()).env("TMPDIR", dir.path());
        let mut driver = driver.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(driver.stdout.as_mut().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let client = reqwest::Client::builder().tls_backend_preconfigured(client_config(&Ca::new("none").pem, None));
        let mut browser = Self {
            driver,
            session: format!("http://127.0.0.1:{}/session", port.expect("the driver says its port")),
            client: client.build().unwrap(),
            runtime: runtime(),
            _dir: dir,
        };
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = browser.call(Method::POST, "", Some(&wanted));
        let id = made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}"));
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    /// One call; gives its `value`.
    #[track_caller]
    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let request = self.client.request(method, format!("{}{path}", self.session)).timeout(SOON);
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(body.to_string()),
            None => request,
        };
        let (status, text) = self.runtime.block_on(async {
            let answer = request.send().await.expect("the driver answers");
            (answer.status(), answer.text().await.unwrap_or_default())
        });
        let mut answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        assert!(status.is_success(), "{path}: {status} {text}");
        answer["value"].take()
    }

    /// Goes to an address.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.call(Method::POST, "/url", Some(&json!({"url": url})));
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        let body = json!({"script": format!("return {expression};"), "args": []});
        self.call(Method::POST, "/execute/sync", Some(&body))
    }

    /// What a script gives to the function that is its last argument.
    #[track_caller]
    pub fn wait_for(&self, script: &str) -> Value {
        self.call(Method::POST, "/execute/async", Some(&json!({"script": script, "args": []})))
    }

    /// The only element that a CSS selector finds, waited for.
    #[track_caller]
    fn element(&self, selector: &str) -> String {
        self.until(&format!("document.querySelectorAll({selector:?}).length === 1"));
        let found = self.call(Method::POST, "/element", Some(&json!({"using": "css selector", "value": selector})));
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        id.unwrap_or_else(|| panic!("{selector}: {found}")).to_owned()
    }

    /// Clicks an element, as a person with a mouse does.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let id = self.element(selector);
        self.call(Method::POST, &format!("/element/{id}/click"), Some(&json!({})));
    }

    /// Types into an element.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        let id = self.element(selector);
        self.call(Method::POST, &format!("/element/{id}/value"), Some(&json!({"text": text})));
    }

    /// What a screen reader is given: role, name, and whether it has the focus.
    #[track_caller]
    pub fn accessible(&self) -> Vec<(String, String, bool)> {
        let tree = self.own("Accessibility.getFullAXTree", &json!({}));
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let has_focus = |node: &Value| {
            let mut properties = node["properties"].as_array().into_iter().flatten();
            properties.any(|property| property["name"] == "focused" && property["value"]["value"] == true)
        };
        let nodes = tree["nodes"].as_array().expect("a tree").iter().filter(|node| node["ignored"] != true);
        nodes.map(|node| (text(&node["role"]), text(&node["name"]), has_focus(node))).collect()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn until(&self, expression: &str) {
        let is_true = poll_until(SOON, || self.value(expression) == true);
        assert!(is_true, "never {expression}: {}", self.value("document.body.innerText"));
    }

    /// Types keys, each down and up.
    #[track_caller]
    pub fn keys(&self, keys: &str) {
        let typed = keys.chars().flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})));
        let typed: Vec<Value> = typed.collect();
        let body = json!({"actions": [{"type": "key", "id": "keyboard", "actions": typed}]});
        self.call(Method::POST, "/actions", Some(&body));
    }

    /// A command of the browser's own protocol.
    #[track_caller]
    pub fn own(&self, command: &str, parameters: &Value) -> Value {
        self.call(Method::POST, "/goog/cdp/execute", Some(&json!({"cmd": command, "params": parameters})))
    }

    /// What the page has complained about since the last call: refused by its policy, not found, thrown.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let log = self.call(Method::POST, "/se/log", Some(&json!({"type": "browser"})));
        let entries = log.as_array().expect("a list").iter();
        entries.filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG").map(ToString::to_string).collect()
    }

    /// Writes the whole page as it looks below target/tmp, for people to look at.
    #[track_caller]
    pub fn picture(&self, name: &str) -> PathBuf {
        self.captured(name, true)
    }

    /// The same of what is in sight.
    #[track_caller]
    pub fn view(&self, name: &str) -> PathBuf {
        self.captured(name, false)
    }

    #[track_caller]
    fn captured(&self, name: &str, is_whole: bool) -> PathBuf {
        let picture = self.own("Page.captureScreenshot", &json!({"captureBeyondViewport": is_whole}));
        let bytes = STANDARD.decode(picture["data"].as_str().expect("base64")).expect("base64");
        let dir = target(&repository("")).join("tmp/pictures");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{name}.png"));
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// Where cargo builds.
fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Closes the browser; the driver alone would leave it.
        self.runtime.block_on(async { self.client.delete(&self.session).timeout(SOON).send().await }).ok();
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}
