//! The page of a configuration file, from its commented example.
//!
//! The example's form, which `tests/repository/config_examples.rs` holds: `# text` explains what follows, `key = value` is a
//! setting, `#key = value` one that shows its default or an example, `[name]` and `#[name]` are sections.

use super::{Configuration, escape, see_also};

/// The page.
pub(super) fn render(configuration: &Configuration) -> String {
    let Configuration { about, example, .. } = configuration;
    let name = &configuration.page();
    let mut page = format!(
        ".TH {} 5 \"\" \"tfo-fleet {}\" \"tfo-fleet\"\n.SH NAME\n{} \\- {}\n.SH DESCRIPTION\n",
        escape(name),
        env!("CARGO_PKG_VERSION"),
        escape(name),
        escape(about)
    );
    let mut text: Vec<&str> = Vec::new();
    for line in example.lines() {
        match Line::of(line) {
            Line::Text(words) => text.push(words),
            Line::Blank => flush(&mut page, &mut text),
            Line::Section(section) => {
                page.push_str(&format!(".SH \"{}\"\n", escape(section)));
                flush(&mut page, &mut text);
            }
            Line::Setting(setting) => {
                page.push_str(&format!(".TP\n.B {}\n", escape(setting.trim_end())));
                // Several settings in a row share the explanation above the first.
                flush(&mut page, &mut text);
            }
        }
    }
    flush(&mut page, &mut text);
    page.push_str(&see_also(configuration.see_also));
    page
}

/// What a line of an example is.
enum Line<'a> {
    Text(&'a str),
    Setting(&'a str),
    Section(&'a str),
    Blank,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Self::Blank;
        }
        if let Some(text) = line.strip_prefix("# ").or((line == "#").then_some("")) {
            return Self::Text(text);
        }
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with('[') { Self::Section(line) } else { Self::Setting(line) }
    }
}

/// Writes the collected explanation; indented lines keep their breaks.
fn flush(page: &mut String, text: &mut Vec<&str>) {
    for line in text.drain(..) {
        if line.starts_with(' ') {
            page.push_str(".br\n");
        }
        page.push_str(&escape(line.trim()));
        page.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_a_paragraph_under_its_section() {
        let example = "# What it is.\n\n[agent]\n# Name of the node.\n#node = \"a\"\n[source]\n# kinds:\n#   derive  x\nkind = \"derive\"\n";
        let page = render(&Configuration { name: "x.toml", about: "configures x", example, see_also: &["x(8)"] });
        let expected = ".SH DESCRIPTION\nWhat it is.\n.SH \"[agent]\"\n.TP\n.B node = \\(dqa\\(dq\nName of the node.\n\
                        .SH \"[source]\"\n.TP\n.B kind = \\(dqderive\\(dq\nkinds:\n.br\nderive  x\n.SH \"SEE ALSO\"\n";
        assert!(page.contains(expected), "{page}");
    }
}
