//! The fleet driven from outside: one order a line on standard input, one answer a line on standard output, both JSON.
//!
//! Hidden, and for the fleet tests alone: what happens, when, and what it may cost is written there; here are only the levers.
//! Answers: `{"ok":…}`, or `{"error":{"status","kind","message"}}` if the coordinator refused, or `{"error":{"message"}}`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::Receiver;

use reqwest::Method;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::DemoError;
use super::network::Wire;
use super::rig::{Entry, Rig};
use tfo_model::problem::chain;
use tfo_wire::client::ClientError;
use tfo_wire::v1::fleet::ImportRequest;

/// What may be ordered.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Order {
    /// Ask the coordinator as its operator; `below` is the path below the pool.
    Ask {
        method: String,
        below: String,
        body: Option<Value>,
    },
    /// Import the static key, with everybody expected who is there.
    Import {
        expect: usize,
    },
    Look,
    StartClients,
    StartAgent {
        node: u8,
    },
    /// Keys from the clock, from the agent's next start or reload on.
    Derive {
        node: u8,
        schedule: Vec<Entry>,
    },
    /// What a timer that runs the agent so often has it declare; null: what a daemon declares, again.
    Timer {
        node: u8,
        period_secs: Option<u64>,
    },
    Once {
        node: u8,
    },
    /// Type a line on a node, as its root.
    Shell {
        node: u8,
        line: String,
    },
    KillAgent {
        node: u8,
    },
    EndAgent {
        node: u8,
    },
    ReloadAgent {
        node: u8,
    },
    FreezeAgent {
        node: u8,
    },
    ThawAgent {
        node: u8,
    },
    Serve {
        node: u8,
    },
    Announce {
        node: u8,
    },
    Withdraw {
        node: u8,
    },
    Cut {
        node: u8,
    },
    Mend {
        node: u8,
    },
    KeepFile {
        node: u8,
    },
    RebootWithKeptFile {
        node: u8,
    },
    Wipe {
        node: u8,
    },
    Join {
        node: u8,
    },
    ShareStaticKey,
    KillCoordinator,
    StartCoordinator,
}

/// Takes orders until standard input is closed.
pub(super) fn run(nodes: u8, orders: &Receiver<String>) -> Result<ExitCode, DemoError> {
    let mut rig = Rig::make(nodes)?;
    say(&json!({"ok": "ready"}))?;
    while let Ok(line) = orders.recv() {
        let answer = match serde_json::from_str(&line) {
            Ok(order) => obey(&mut rig, order).unwrap_or_else(|error| json!({"error": {"message": chain(&error)}})),
            Err(error) => json!({"error": {"message": format!("no such order: {error}")}}),
        };
        say(&answer)?;
    }
    rig.end()?;
    Ok(ExitCode::SUCCESS)
}

fn say(answer: &Value) -> Result<(), DemoError> {
    writeln!(io::stdout(), "{answer}").map_err(DemoError::step("write to standard output"))
}

fn obey(rig: &mut Rig, order: Order) -> Result<Value, DemoError> {
    let done = match order {
        Order::Ask { method, below, body } => {
            let method = method.parse::<Method>().map_err(|error| DemoError::Order(error.to_string()))?;
            return ask(rig, &method, &below, body.as_ref());
        }
        Order::Import { expect } => {
            let keys = rig.static_key().ok_or_else(|| DemoError::Order("there is no static key".to_owned()))?;
            let expect = Some(tfo_wire::v1::fleet::Expected::Number(expect));
            let import = ImportRequest { reason: "the key of today".to_owned(), keys, expect };
            return ask(rig, &Method::POST, "/import", Some(&import));
        }
        Order::Look => {
            let sight = rig.look()?;
            return Ok(json!({"ok": sight}));
        }
        Order::Once { node } => {
            let code = rig.once(node)?;
            return Ok(json!({"ok": code}));
        }
        Order::Shell { node, line } => {
            let ended = rig.shell(node, &line)?;
            return Ok(json!({"ok": ended}));
        }
        Order::StartClients => {
            rig.start_clients();
            Ok(())
        }
        Order::StartAgent { node } => rig.start_agent(node),
        Order::KillAgent { node } => rig.kill_agent(node),
        Order::EndAgent { node } => rig.end_agent(node),
        Order::Derive { node, schedule } => rig.derive(node, &schedule),
        Order::Timer { node, period_secs } => rig.time(node, period_secs),
        Order::ReloadAgent { node } => rig.signal_agent(node, Signal::HUP),
        Order::FreezeAgent { node } => rig.signal_agent(node, Signal::STOP),
        Order::ThawAgent { node } => rig.signal_agent(node, Signal::CONT),
        Order::Serve { node } => rig.serve(node),
        Order::Announce { node } => rig.announce(node),
        Order::Withdraw { node } => rig.withdraw(node),
        Order::Cut { node } => rig.wire(node, Wire::Down),
        Order::Mend { node } => rig.wire(node, Wire::Up),
        Order::KeepFile { node } => rig.keep_file(node),
        Order::RebootWithKeptFile { node } => rig.reboot_with_kept_file(node),
        Order::Wipe { node } => rig.wipe(node),
        Order::Join { node } => rig.join(node),
        Order::ShareStaticKey => rig.share_static_key(),
        Order::KillCoordinator => rig.coordinator.kill(),
        Order::StartCoordinator => rig.coordinator.run(),
    };
    done.map(|()| json!({"ok": null}))
}

fn ask<B: Serialize>(rig: &Rig, method: &Method, below: &str, body: Option<&B>) -> Result<Value, DemoError> {
    Ok(match rig.coordinator.api.ask::<B, Value>(method, below, body)? {
        Ok(answer) => json!({"ok": answer}),
        Err(ClientError::Refused { status, body, .. }) => {
            let (kind, message) =
                body.map_or((Value::Null, Value::Null), |body| (json!(body.kind), json!(body.message)));
            json!({"error": {"status": status, "kind": kind, "message": message}})
        }
        Err(error) => json!({"error": {"message": error.to_string()}}),
    })
}
