//! What a program printed, and how it ended.

use std::process::Output;

use serde_json::Value;

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    text(&output.stdout)
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    text(&output.stderr)
}

/// Both, for an assertion's message.
pub fn said(output: &Output) -> String {
    stdout(output) + &stderr(output)
}

/// It ended with this exit code.
#[track_caller]
pub fn code(output: &Output, expected: i32) {
    assert_eq!(output.status.code(), Some(expected), "{}", said(output));
}

/// One line of JSON on stdout.
#[track_caller]
pub fn json_of(output: &Output) -> Value {
    let text = stdout(output);
    assert!(text.ends_with('\n') && text.lines().count() == 1, "one line of JSON: {}", said(output));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The same of a program that ended with this exit code.
#[track_caller]
pub fn json_ending(output: &Output, expected: i32) -> Value {
    code(output, expected);
    json_of(output)
}
