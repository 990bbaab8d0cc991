//! Just enough of Rust's lexer to see names and not be fooled by comments, strings and test code.

use std::ops::Range;

/// A word or one character of punctuation (`::` is one token), and its line, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The tokens of a source text.  Comments vanish; strings and characters become `""`.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = token_end(&chars, at);
        let text: String = chars[at..end].iter().collect();
        let first = chars[at];
        if first == '_' || first.is_alphanumeric() {
            let literal = text.contains('"') || text.contains('\'');
            found.push(Token { text: if literal { "\"\"".to_owned() } else { text.clone() }, line });
        } else if first == '"' || (first == '\'' && text.len() > 2 && text.ends_with('\'')) {
            found.push(Token { text: "\"\"".to_owned(), line });
        } else if !first.is_whitespace() && !text.starts_with("//") && !text.starts_with("/*") {
            found.push(Token { text: text.clone(), line });
        }
        line += text.matches('\n').count();
        at = end;
    }
    found
}

/// Where the token that starts at `at` ends.
fn token_end(chars: &[char], at: usize) -> usize {
    let starts = |text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let after = |from: usize, test: fn(char) -> bool| {
        chars[from..].iter().position(|&c| !test(c)).map_or(chars.len(), |length| from + length)
    };
    let in_word = |c: char| c == '_' || c.is_alphanumeric();
    match chars[at] {
        '/' if starts("//") => after(at, |c| c != '\n'),
        '/' if starts("/*") => block_comment_end(chars, at),
        '"' => string_end(chars, at + 1),
        // A character, a byte, or a lifetime: the latter is a quote and then a word.
        '\'' if chars.get(at + 1) == Some(&'\\') => {
            let close = chars[at + 3..].iter().position(|&c| c == '\'');
            close.map_or(chars.len(), |length| at + 3 + length + 1)
        }
        '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
        c if in_word(c) => {
            let end = after(at, in_word);
            let prefix: String = chars[at..end].iter().collect();
            let hashes = after(end, |c| c == '#') - end;
            match (&*prefix, chars.get(end + hashes)) {
                ("r" | "br" | "cr", Some('"')) => raw_string_end(chars, end + hashes + 1, hashes),
                ("b" | "c", Some('"')) if hashes == 0 => string_end(chars, end + 1),
                ("b", Some('\'')) if hashes == 0 => token_end(chars, end),
                _ => end,
            }
        }
        ':' if starts("::") => at + 2,
        c if c.is_whitespace() => after(at, char::is_whitespace),
        _ => at + 1,
    }
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], mut at: usize, hashes: usize) -> usize {
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    chars.len()
}

/// Ranges of tokens that are compiled for tests only: each `#[cfg(test)]` and the item after it.
pub(crate) fn test_code(tokens: &[Token]) -> Vec<Range<usize>> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for start in 0..tokens.len() {
        let is_attribute =
            attribute.iter().enumerate().all(|(i, t)| tokens.get(start + i).is_some_and(|x| x.text == *t));
        if is_attribute && ranges.last().is_none_or(|last| start >= last.end) {
            ranges.push(start..item_end(tokens, start + attribute.len()));
        }
    }
    ranges
}

/// The end of the item at `at`: its closing brace, or its semicolon.
fn item_end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match &*token.text {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" if depth <= 1 => return index + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Words after which a path may begin with `::`; they are no part of it.
const BEFORE_PATHS: [&str; 14] =
    ["as", "break", "const", "dyn", "else", "for", "if", "impl", "in", "match", "mut", "return", "use", "while"];

/// Every path in the tokens, `use` trees spelled out: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
pub(crate) fn paths(tokens: &[Token]) -> Vec<(Vec<String>, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let text = &*tokens[at].text;
        if (is_word(text) || text == "::") && !BEFORE_PATHS.contains(&text) {
            at = path_tree(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path at `at`, with the tree at its end if it has one, and gives the place after it.
fn path_tree(tokens: &[Token], mut at: usize, stem: &[String], found: &mut Vec<(Vec<String>, usize)>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| &*token.text);
    let mut path = stem.to_vec();
    let line = tokens[at].line;
    if text(at) == "::" {
        at += 1;
    }
    while is_word(text(at)) || text(at) == "*" && !path.is_empty() {
        path.push(text(at).to_owned());
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
        if text(at) == "{" {
            at += 1;
            while at < tokens.len() && text(at) != "}" {
                let before = at;
                if is_word(text(at)) {
                    at = path_tree(tokens, at, &path, found);
                }
                at += usize::from(at == before || text(at) == ",");
            }
            return at + 1;
        }
    }
    found.push((path, line));
    at.max(1)
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c == '_' || c.is_alphabetic())
}
