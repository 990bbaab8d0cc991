//! `[[notify]]`: a command or a webhook that is told what operators should not have to ask for.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::reader::{Findings, Located, Table, absolute};
use tfo_host::secret::SecretPath;
use tfo_model::fleet::NoticeKind;
use tfo_model::problem::Problem;

/// Most sections: each has a queue of its own.
pub const TARGETS_MAX: usize = 8;
/// Longest name: it is a label of metrics.
const NAME_BYTES_MAX: usize = 32;
/// Longest URL in bytes.
const URL_BYTES_MAX: usize = 2_048;
/// Most words of a command.
const WORDS_MAX: usize = 32;
/// Default of `ca`: what Debian's ca-certificates installs.
const DEFAULT_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Default of `events`: what is lost or will be, and the two events that are not a verdict.
const DEFAULT_EVENTS: [NoticeKind; 7] = [
    NoticeKind::Split,
    NoticeKind::Frozen,
    NoticeKind::StoppedByHealth,
    NoticeKind::Deaf,
    NoticeKind::Blind,
    NoticeKind::RotationEnded,
    NoticeKind::CertificateEnds,
];

/// One `[[notify]]`.
#[derive(Debug, Clone)]
pub struct NotifySettings {
    /// Its name, for the log and metrics.
    pub name: Located<String>,
    /// How it is told.
    pub by: NotifyBy,
    /// What it is told.
    pub events: BTreeSet<NoticeKind>,
}

/// How an event is delivered.
#[derive(Debug, Clone)]
pub enum NotifyBy {
    /// A program and its arguments, with the event on stdin.
    Command(Located<Vec<String>>),
    /// A POST with the event as its body.
    Webhook {
        /// `https://…`.
        url: Located<String>,
        /// Authorities of the receiver's certificate, PEM.
        ca: Located<PathBuf>,
        /// What the body is signed with.
        secret: Located<SecretPath>,
    },
}

/// All sections, in the order of the file.
pub(super) fn notify_sections(root: &mut Table<'_, '_>, findings: &mut Findings) -> Vec<NotifySettings> {
    let place = root.place("notify", findings);
    let tables = root.tables("notify", findings);
    if tables.len() > TARGETS_MAX {
        let remedy = format!("at most {TARGETS_MAX}; one command or receiver may tell several people");
        findings.add_at(&place, Problem::error("out_of_range", format!("{} times [[notify]]", tables.len()), remedy));
    }
    let mut seen = BTreeSet::new();
    let mut settings = Vec::new();
    for table in tables {
        let Some(one) = section(table, findings) else { continue };
        if !seen.insert(one.name.value.clone()) {
            let message = format!("there is another [[notify]] with the name {:?}", one.name.value);
            findings.add_at(&one.name, Problem::error("bad_value", message, "give each its own name"));
        }
        settings.push(one);
    }
    settings
}

fn section(mut table: Table<'_, '_>, findings: &mut Findings) -> Option<NotifySettings> {
    table.require("name", "write a short name, which the log and metrics use", findings);
    let name = table.parsed("name", findings, |text| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        let good = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits);
        if good { Ok(text.to_owned()) } else { Err("write 1 to 32 of a-z, 0-9, - and _") }
    });
    let place = table.place("url", findings);
    let (is_webhook, is_command) = (table.has("url"), table.has("command"));
    let has_secret = table.has("secret");
    let command = table.strings("command", findings).and_then(|words| command(words, findings));
    let url = table.parsed("url", findings, url);
    let secret = table.secret_path("secret", findings);
    let ca = table.parsed("ca", findings, absolute);
    let events = events(&mut table, findings);
    let secret_place = table.place("secret", findings);
    table.finish(findings);
    if is_webhook == is_command {
        let message = if is_webhook { "this has a url and a command" } else { "this has neither a url nor a command" };
        let remedy = "write one of them: url = \"https://…\", or command = [\"/usr/local/bin/…\"]";
        findings.add_at(&place, Problem::error("bad_value", message, remedy));
        return None;
    }
    if is_command {
        for (extra, key) in [(secret.is_some(), "secret"), (ca.is_some(), "ca")] {
            if extra {
                let problem = Problem::error("bad_value", format!("a command has no {key}"), "remove it");
                findings
                    .add_at(&Located { key: place.key.replace(".url", &format!(".{key}")), ..place.clone() }, problem);
            }
        }
        return Some(NotifySettings { name: name?, by: NotifyBy::Command(command?), events });
    }
    if !has_secret {
        let remedy = "write \"credential:NAME\" or the path of a file: by it the receiver knows that an event is ours";
        findings.add_at(&secret_place, Problem::error("missing_key", "required key is missing", remedy));
    }
    let ca = ca.unwrap_or_else(|| Located { value: DEFAULT_CA.into(), ..default_at(&place, "ca") });
    Some(NotifySettings { name: name?, by: NotifyBy::Webhook { url: url?, ca, secret: secret? }, events })
}

/// The place of a default.
fn default_at(place: &Located<()>, key: &str) -> Located<PathBuf> {
    Located { value: PathBuf::new(), key: place.key.replace(".url", &format!(".{key}")), line: None }
}

fn command(words: Located<Vec<String>>, findings: &mut Findings) -> Option<Located<Vec<String>>> {
    let is_absolute = words.value.first().is_some_and(|program| program.starts_with('/'));
    let has_nul = words.value.iter().any(|word| word.contains('\0'));
    if is_absolute && !has_nul && words.value.len() <= WORDS_MAX {
        return Some(words);
    }
    let remedy = "write the whole path of a program, then its arguments, at most 32 words; no shell reads them";
    findings.add_at(&words, Problem::error("bad_value", "this is not a command", remedy));
    None
}

/// The rest of its syntax is judged when it is used.
fn url(text: &str) -> Result<String, &'static str> {
    let rest = text.strip_prefix("https://").unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let good = !host.is_empty()
        && !host.contains('@')
        && text.len() <= URL_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(text.to_owned()) } else { Err("write https://HOST[:PORT]/PATH, without a user") }
}

fn events(table: &mut Table<'_, '_>, findings: &mut Findings) -> BTreeSet<NoticeKind> {
    let Some(list) = table.strings("events", findings) else { return DEFAULT_EVENTS.into() };
    let mut found = BTreeSet::new();
    for text in &list.value {
        match text.parse::<NoticeKind>() {
            Ok(kind) if kind != NoticeKind::Test => drop(found.insert(kind)),
            _ => {
                let known = NoticeKind::ALL.into_iter().filter(|kind| *kind != NoticeKind::Test);
                let known: Vec<&str> = known.map(NoticeKind::as_str).collect();
                let remedy = format!("write some of {}", known.join(", "));
                findings.add_at(&list, Problem::error("bad_value", format!("invalid value {text:?}"), remedy));
            }
        }
    }
    if list.value.is_empty() {
        let remedy = "leave the line out for the usual ones, or remove the section";
        findings.add_at(&list, Problem::error("out_of_range", "this is told nothing", remedy));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::coordinator::CoordinatorSettings;
    use crate::reader::ConfigFile;

    fn read(lines: &str) -> Result<Vec<NotifySettings>, Vec<(String, &'static str)>> {
        let text = format!(
            "[api]\ncert = \"/c\"\nkey = \"/k\"\nclient_ca = \"/ca\"\n[store]\nkey_encryption_key = \"credential:kek\"\n\
             [access]\noperators = []\n[pools.edge]\nnodes = [\"*.example.org\"]\n{lines}"
        );
        CoordinatorSettings::parse(Path::new("c.toml"), &text).map(|settings| settings.notify).map_err(|problems| {
            assert!(
                problems.iter().all(|problem| problem.line.is_some() && !problem.remedy.is_empty()),
                "{problems:?}"
            );
            problems.into_iter().map(|problem| (problem.key.unwrap(), problem.kind)).collect()
        })
    }

    fn target(lines: &str) -> String {
        format!("[[notify]]\n{lines}\n")
    }

    const HOOK: &str =
        "name = \"pager\"\nurl = \"https://hooks.example.org/tfo?team=edge\"\nsecret = \"credential:hook\"";
    const MAIL: &str = "name = \"mail\"\ncommand = [\"/usr/local/bin/mail-it\", \"ops\"]";

    #[test]
    fn a_command_and_a_webhook_are_read() {
        assert!(read("").unwrap().is_empty());
        let both =
            read(&format!("{}{}", target(HOOK), target(&format!("{MAIL}\nevents = [\"held\", \"split\"]")))).unwrap();
        let [hook, mail] = &both[..] else { panic!("{both:?}") };
        assert_eq!((hook.name.value.as_str(), hook.events.len()), ("pager", DEFAULT_EVENTS.len()));
        let NotifyBy::Webhook { url, ca, secret } = &hook.by else { panic!("{hook:?}") };
        assert_eq!(url.value, "https://hooks.example.org/tfo?team=edge");
        assert_eq!((ca.value.as_path(), secret.value.to_string().as_str()), (Path::new(DEFAULT_CA), "credential:hook"));
        let NotifyBy::Command(words) = &mail.by else { panic!("{mail:?}") };
        assert_eq!(words.value, ["/usr/local/bin/mail-it", "ops"]);
        assert_eq!(mail.events, [NoticeKind::Held, NoticeKind::Split].into());
    }

    #[test]
    fn what_cannot_be_told_is_named_at_its_place() {
        let at = |key: &str, kind| vec![(format!("notify[0].{key}"), kind)];
        let hook = |url: &str| target(&HOOK.replace("https://hooks.example.org/tfo?team=edge", url));
        for (lines, expected) in [
            (hook("http://hooks.example.org/"), at("url", "bad_value")),
            (hook("https://user:secret@hooks.example.org/"), at("url", "bad_value")),
            (hook("https:///x"), at("url", "bad_value")),
            (hook("https://h/a b"), at("url", "bad_value")),
            (target("name = \"pager\"\nurl = \"https://h/\""), at("secret", "missing_key")),
            (target(&format!("{HOOK}\ncommand = [\"/bin/true\"]")), at("url", "bad_value")),
            (target("name = \"pager\""), at("url", "bad_value")),
            (target(&HOOK.replace("pager", "Pager 1")), at("name", "bad_value")),
            (target(&HOOK.replace("name = \"pager\"\n", "")), at("name", "missing_key")),
            (target(&MAIL.replace("/usr/local/bin/", "")), at("command", "bad_value")),
            (target("name = \"mail\"\ncommand = []"), at("command", "bad_value")),
            (target(&format!("{MAIL}\nsecret = \"/s\"")), at("secret", "bad_value")),
            (target(&format!("{MAIL}\nevents = [\"test\"]")), at("events", "bad_value")),
            (target(&format!("{MAIL}\nevents = []")), at("events", "out_of_range")),
            (target(&format!("{MAIL}\nevent = [\"held\"]")), at("event", "unknown_key")),
            (target(MAIL).repeat(2), vec![("notify[1].name".to_owned(), "bad_value")]),
        ] {
            assert_eq!(read(&lines).map(|found| found.len()), Err(expected), "{lines}");
        }
        let nine: String = (0..9).map(|index| target(&MAIL.replace("\"mail\"", &format!("\"mail{index}\"")))).collect();
        assert_eq!(read(&nine).map(|found| found.len()), Err(vec![("notify".to_owned(), "out_of_range")]));
    }
}
