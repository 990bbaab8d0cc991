//! Opens the address in the desktop's browser.
//!
//! Every user of the host can read the arguments of its programs, so the browser gets a file of its operator that leads to
//! the address, not the address itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use maud::{DOCTYPE, html};

use tfo_cli::report::{Failure, Outcome};
use tfo_host::runtime::files::{Durability, replace};
use tfo_model::problem::{Problem, chain};

/// The program that knows the desktop's browser.
const OPENER: &str = "xdg-open";

/// The file that leads to the address; it goes with this value.
pub(super) struct Opener(PathBuf);

impl Opener {
    /// Starts the browser, and does not wait for it.
    pub(super) fn open(address: &str) -> Result<Self, Failure> {
        let cannot = |message: String| {
            let remedy = "leave --open out, and open the address that is printed";
            Failure::new(Outcome::Failed, Problem::error("no_browser", message, remedy))
        };
        // It belongs to one user, and to no other one.
        let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute());
        let dir = dir.ok_or_else(|| cannot("XDG_RUNTIME_DIR is not set: this is not a desktop".to_owned()))?;
        let file = Path::new(&dir).join(format!("tfo-console-{}.html", std::process::id()));
        let leads = html! { (DOCTYPE) html lang="en" { head { title { "tfoctl console" }
        meta http-equiv="refresh" content={ "0; url=" (address) }; } } };
        replace(&file, leads.into_string().as_bytes(), 0o600, Durability::Volatile)
            .map_err(|error| cannot(chain(&error)))?;
        let opener = Self(file);
        let mut command = Command::new(OPENER);
        let silent = command.arg(&opener.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = silent.spawn().map_err(|error| cannot(format!("cannot start {OPENER}: {error}")))?;
        std::thread::spawn(move || child.wait());
        Ok(opener)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        // If it stays, it leads to a console that has ended.
        drop(std::fs::remove_file(&self.0));
    }
}
