//! Names, counts, and text from other hosts, made safe for a terminal: what a node or an operator wrote must not move the cursor.

/// Longest list of names that is written out.
pub const NAMES_MAX: usize = 10;

/// The text without control characters.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The first names, and how many more there are: `a, b and 7 more`.
pub fn names<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    names_of(all, 0)
}

/// The same for a list that omits `unnamed` names.
pub fn names_of<T: ToString>(named: impl IntoIterator<Item = T>, unnamed: usize) -> String {
    let mut all = named.into_iter();
    let first: Vec<String> = all.by_ref().take(NAMES_MAX).map(|name| plain(&name.to_string())).collect();
    match all.count() + unnamed {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The text in lines of at most so many columns, broken between words; a longer word stays whole.
#[must_use]
pub fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A count with its noun: `1 node`, `2 nodes`.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A count of nodes.
#[must_use]
pub fn count_of_nodes(count: usize) -> String {
    counted(count, "node")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_lose_their_escape() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{9b}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one two three", 13), ["one two three"]);
        assert_eq!(wrapped("incomprehensible", 4), ["incomprehensible"]);
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        assert_eq!(names(["a", "b"]), "a, b");
        assert_eq!(names(0..10), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9");
        assert_eq!(names(0..12), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert_eq!(names([""; 0]), "");
        assert_eq!((names_of(["a"], 0), names_of(["a"], 29_999)), ("a".to_owned(), "a and 29999 more".to_owned()));
        assert_eq!(names_of(0..12, 100), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 102 more");
    }
}
