//! A transcript in a page of the documentation: what was typed in it, and how it is compared with what is printed now.
//!
//! Times, versions, fingerprints, serials, ids and paths differ from run to run; everything else must be as the page has
//! it.

/// Prompts of the pages: an operator's, and those of root on the hosts of docs/tutorial.md.
const PROMPTS: [&str; 4] = ["$ ", "tfo1# ", "cp1# ", "cp2# "];
/// What a shell prints in front of the further lines of a command.
const CONTINUED: &str = "> ";
/// What systemd says of a service only on some hosts, and whether a host's clock is synchronised.
const SOMETIMES: [&str; 5] = ["Invocation:", "Tasks:", "Memory:", "CPU:", "clock  "];

/// The transcript below this heading: the first fenced block that has a prompt.
#[track_caller]
pub fn below<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, section) = page.split_once(&format!("\n{heading}\n")).expect("the page has the section");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let blocks = section.split("```").skip(1).step_by(2);
    let mut blocks = blocks.map(|block| block.split_once('\n').map_or(block, |(_language, lines)| lines));
    blocks.find(|block| block.lines().any(|line| prompt(line).is_some())).expect("the section has a transcript")
}

/// What was typed, in order: the prompt, and the command with all its lines.
pub fn typed(transcript: &str) -> Vec<(&str, String)> {
    let mut typed: Vec<(&str, String)> = Vec::new();
    let mut in_command = false;
    for line in transcript.lines() {
        if let Some(prompt) = prompt(line) {
            typed.push((prompt, line[prompt.len()..].to_owned()));
            in_command = true;
        } else if let (true, Some(more), Some((_, command))) =
            (in_command, line.strip_prefix(CONTINUED), typed.last_mut())
        {
            command.push('\n');
            command.push_str(more);
        } else {
            in_command = false;
        }
    }
    typed
}

fn prompt(line: &str) -> Option<&'static str> {
    PROMPTS.into_iter().find(|prompt| line.starts_with(prompt))
}

/// Whether a word differs from run to run: a path, or a word with a digit that is neither a name nor a count.
pub fn varies(word: &str) -> bool {
    let core = word.trim_matches(|c: char| !c.is_alphanumeric());
    // Counts of nodes, keys, generations and problems are small: users and processes have greater numbers.
    let is_count = |text: &str| !text.is_empty() && text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_count(core) || core.split_once('/').is_some_and(|(part, whole)| is_count(part) && is_count(whole)) {
        return false;
    }
    word.contains('/') || (word.chars().any(|c| c.is_ascii_digit()) && !word.contains("example.org"))
}

/// Without what differs from run to run: in what is printed it is `#`; spaces do not count.
pub fn plain(text: &str) -> Vec<String> {
    let word = |word: &str| if varies(word) { "#".to_owned() } else { word.to_owned() };
    // A test that makes a wave shorter has a commit more than a person.
    let words = |line: &str| {
        let before = std::iter::once("").chain(line.split_whitespace());
        let words = before.zip(line.split_whitespace()).map(|(before, next)| match before {
            "revision" => "#".to_owned(),
            _ => word(next),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    // How long ago it was, and on which day of the week.
    let lines = text.lines().map(|line| line.split_once(" since ").map_or(line, |(line, _)| line));
    // What dpkg says of the packages that the host has besides.
    let lines = lines.filter(|line| !line.starts_with("(Reading database") && !line.starts_with("Processing triggers"));
    let lines = lines.filter(|line| !SOMETIMES.iter().any(|label| line.trim_start().starts_with(label)));
    let line = |line: &str| match prompt(line).is_some() || line.starts_with(CONTINUED) {
        true => line.to_owned(),
        false if line.trim_start().starts_with("Main PID:") => "Main PID: #".to_owned(),
        false => words(line),
    };
    let mut lines: Vec<String> = lines.map(line).collect();
    // Which steps of the way are seen depends on how long they take.
    lines.retain(|line| !(line.starts_with("# ") && line.contains(" generation ")));
    lines
}
