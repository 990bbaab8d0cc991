//! The verdict on a pool as text.  The coordinator computes it; here it is only written.

use tfo_cli::plain::plain;
use tfo_wire::v1::fleet::Verdict;

/// The verdict in one line: severity, sentence, and the next command if there is one.
pub(super) fn line(verdict: &Verdict) -> String {
    let next = verdict.next.as_ref().map_or_else(String::new, |next| format!("; next: {}", plain(next)));
    format!("{}: {}{next}", plain(verdict.severity.as_str()), plain(&verdict.sentence))
}
