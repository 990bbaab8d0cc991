//! Problems of a pass, in words.

use std::path::Path;

use crate::report::NamespaceReport;
use tfo_config::agent::InstallMode;
use tfo_engine::reconcile::{ClockUse, KeepReason};
use tfo_host::kernel::boot_order;
use tfo_host::kernel::key_writers;
use tfo_host::kernel::sysctl_d::SYSCTL_FILE_EXPOSED;
use tfo_model::problem::Problem;
use tfo_model::state::BackupSlot;
use tfo_model::time::{UnixTime, duration_text};

/// Why the installed keys are kept although the source offers others; `file` is the sysctl.d file.
pub(super) fn kept(now: UnixTime, clock: ClockUse, reason: KeepReason, file: &Path) -> Problem {
    let file = file.display();
    match reason {
        KeepReason::ClockBehind { installed_at } => {
            let tolerance = match clock {
                ClockUse::Within(secs) => secs,
                ClockUse::None => 0,
            };
            let message = format!(
                "the clock is behind: it shows {now}, and the keys were installed at {installed_at} (tolerance \
                 {tolerance} s); the installed keys stay"
            );
            let remedy = format!(
                "let chrony, timesyncd or another NTP client set the clock: once it is synchronised the schedule is followed \
                 again; where none can run and it is right now, remove {file}"
            );
            Problem::error("clock_behind", message, remedy)
        }
        KeepReason::ClockAhead { installed_at, left } => {
            let message = format!(
                "the clock is not synchronised and may be ahead: it shows {now}, more than an interval after the keys were \
                 installed at {installed_at}; the installed keys stay until it is synchronised, for {} at most",
                duration_text(left.as_secs().max(1))
            );
            let remedy = "let chrony, timesyncd or another NTP client synchronise it; nothing else is needed";
            Problem::error("clock_ahead", message, remedy)
        }
        KeepReason::OtherSecret { generator } => {
            let message = format!("the secret of {generator} was replaced in place; the installed keys stay");
            let remedy = "put the old secret back and add a [[source.schedule]] entry with the new one and a not_before; \
                          a restart uses the new secret at once, and clients lose their cookies";
            Problem::error("secret_changed", message, remedy)
        }
    }
}

/// Another program changed the keys in these places; `own` is the sysctl.d file.
pub(super) fn drift(places: &[String], own: &Path) -> Problem {
    let order = boot_order::scan(Path::new("/"), own);
    let winner = order.winners_over(own).next();
    let (suspect, remedy) = match (winner, key_writers::scan(Path::new("/")).first()) {
        (Some(setter), _) => (
            format!("; {}:{} also sets the key", setter.file.display(), setter.line),
            format!("remove that line from {}", setter.file.display()),
        ),
        (None, Some(writer)) => (
            format!("; {}:{} names the key", writer.file.display(), writer.line),
            format!("stop what runs {}", writer.file.display()),
        ),
        (None, None) => {
            (String::new(), "find the program that writes the key (timers, cron, `sysctl --system`)".to_owned())
        }
    };
    let message =
        format!("another program changed the keys: {}{suspect}; the agent writes them again", places.join(", "));
    Problem::warning("drift", message, remedy)
}

/// Other users may read the keys in the agent's file.
pub(super) fn exposed(file: &Path, mode: InstallMode) -> Problem {
    let then = match mode {
        InstallMode::Install => "; the agent closes it",
        InstallMode::LookOnly => "",
    };
    let message = format!("other users may read the keys in it, or change them{then}");
    let remedy = format!(
        "find what opened it (a copy, config management, a restore): it belongs to root with 0600, `chmod 0600 {}`; if another \
         user has read it, the keys have leaked: `tfoctl rotate --mode revoke`, or a new secret",
        file.display()
    );
    Problem::warning(SYSCTL_FILE_EXPOSED, message, remedy).in_file(file)
}

/// A warning if a kernel holds only the primary of a pair.
pub(super) fn one_slot(namespaces: &[NamespaceReport]) -> Option<Problem> {
    let without = namespaces.iter().filter(|namespace| namespace.backup_slot == BackupSlot::Absent);
    let without: Vec<&str> = without.map(|namespace| namespace.namespace.name()).collect();
    (!without.is_empty()).then(|| {
        let names = without.join(", ");
        let message = format!("this kernel has no backup slot: namespace {names} holds only the primary");
        let remedy = "use Linux 5.3 or later; until then this node rejects cookies around every rotation";
        Problem::warning("one_slot", message, remedy)
    })
}
