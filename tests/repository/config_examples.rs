//! The shipped configuration: it parses, it names every key that the parser knows, and what it shows as default is one.

use std::collections::BTreeSet;
use std::path::Path;

use tfo_config::agent::{AgentSettings, SourceSettings};
use tfo_config::coordinator::CoordinatorSettings;
use tfo_config::reader::ConfigFile;

const AGENT: &str = include_str!("../../config/agent.toml");

/// The settings of a text, without the places where they were written.
fn settings(text: &str) -> Result<String, String> {
    let parsed = AgentSettings::parse(Path::new("agent.toml"), text).map_err(|problems| format!("{problems:#?}"))?;
    let source = match &parsed.source {
        SourceSettings::Coordinator(coordinator) => format!("{coordinator:?}"),
        SourceSettings::Derive(derive) => {
            let entries: Vec<_> =
                derive.entries.iter().map(|entry| (entry.secret.value.to_string(), entry.algorithm)).collect();
            format!("{:?} {entries:?}", derive.schedule)
        }
        SourceSettings::File { path } => format!("file {}", path.value),
        SourceSettings::Random { interval } => format!("random {interval:?}"),
    };
    let install = &parsed.install;
    Ok(format!(
        "{:?} {:?} {source} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        parsed.node,
        (&parsed.runtime_dir.value, parsed.confinement),
        install.sysctl_file.value,
        install.namespaces.iter().map(|name| &name.value).collect::<Vec<_>>(),
        install.places.iter().map(|place| &place.value).collect::<Vec<_>>(),
        install.verify_interval,
        install.mode,
        parsed.metrics.textfile.as_ref().map(|textfile| &textfile.value),
        parsed.metrics.listen.as_ref().map(|listen| listen.value),
        parsed.report,
    ))
}

/// A commented-out setting or section: `#` without a space after it.  Text has one.
fn commented(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|first: char| first.is_ascii_lowercase() || first == '['))
}

fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some(key)
}

/// The text with line `index` (from 0) enabled, and one more change.
fn enabled(index: usize, change: impl Fn(&str) -> String) -> String {
    let line = |(at, line): (usize, &str)| {
        if at == index { commented(line).expect("it is commented out").to_owned() } else { change(line) }
    };
    AGENT.lines().enumerate().map(|(at, text)| line((at, text)) + "\n").collect()
}

/// Without the schedule, for the sources that have none.
fn without_schedule(text: &str, kind: &str) -> String {
    let start = text.find("[[source.schedule]]").expect("there is a schedule");
    let end = text.find("[install]").expect("there is [install]");
    format!("{}{}", &text[..start], &text[end..]).replace("kind = \"derive\"", &format!("kind = {kind:?}"))
}

#[test]
fn every_shipped_configuration_parses() {
    let mut count = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name == "agent.toml") {
            AgentSettings::load(&path).unwrap_or_else(|problems| panic!("{problems:#?}"));
            count += 1;
        }
        if path.file_name().is_some_and(|name| name == "coordinator.toml") {
            CoordinatorSettings::load(&path).unwrap_or_else(|problems| panic!("{problems:#?}"));
            count += 1;
        }
    }
    assert_eq!(count, 2, "a configuration is parsed by no test");
}

/// What the parser itself says that it knows, section by section.
fn known_keys() -> BTreeSet<(String, String)> {
    let sections = [
        ("agent", "[agent]\nzzz = 1\n[source]\nkind = \"random\"\n"),
        ("source", "[source]\nkind = \"random\"\nzzz = 1\n"),
        ("source", "[source]\nkind = \"file\"\npath = \"/k\"\nzzz = 1\n"),
        ("source", "[source]\nkind = \"derive\"\nzzz = 1\n[[source.schedule]]\nsecret = \"/s\"\n"),
        ("source.schedule", "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"/s\"\nzzz = 1\n"),
        (
            "source.schedule",
            "[source]\nkind = \"derive\"\n[[source.schedule]]\nalgorithm = \"static\"\nkey_file = \"/k\"\nstage_lead = \"1h\"\nzzz = 1\n",
        ),
        ("source", "[source]\nkind = \"coordinator\"\n@zzz = 1\n"),
        ("report", "[source]\nkind = \"random\"\n[report]\n@zzz = 1\n"),
        ("install", "[install]\nzzz = 1\n[source]\nkind = \"random\"\n"),
        ("metrics", "[metrics]\nzzz = 1\n[source]\nkind = \"random\"\n"),
        ("", "zzz = 1\n[source]\nkind = \"random\"\n"),
    ];
    let mut known = BTreeSet::new();
    // What a coordinator needs.
    let contact = "urls = [\"https://c\"]\npool = \"p\"\nca = \"/a\"\ncert = \"/b\"\nkey = \"/c\"\n";
    for (section, text) in sections {
        let problems = AgentSettings::parse(Path::new("x"), &text.replace('@', contact)).expect_err("zzz is unknown");
        let [problem] = problems.as_slice() else { panic!("{problems:#?}") };
        let keys = problem.remedy.strip_prefix("known keys: ").unwrap_or_else(|| panic!("{problem:#?}"));
        known.extend(keys.split(", ").map(|key| (section.to_owned(), key.to_owned())));
    }
    known
}

#[test]
fn every_key_that_the_parser_knows_is_shown_and_no_other() {
    let mut shown = BTreeSet::new();
    let mut section = String::new();
    for line in AGENT.lines() {
        let line = commented(line).unwrap_or(line);
        if line.starts_with('[') {
            line.trim_matches(['[', ']']).clone_into(&mut section);
            let (above, name) = section.split_once('.').unwrap_or(("", &section));
            shown.insert((above.to_owned(), name.to_owned()));
        } else if let Some(key) = key(line) {
            shown.insert((section.clone(), key.to_owned()));
        }
    }
    let known = known_keys();
    assert!(known.contains(&("install".to_owned(), "verify_interval".to_owned())), "{known:?}");
    assert_eq!(shown, known);
}

/// Each commented-out line of [agent], [install] and [metrics] shows a default, except for the name of the node.
#[test]
fn each_commented_out_default_can_be_enabled_and_changes_nothing() {
    let as_shipped = settings(AGENT).unwrap();
    let schedule = AGENT.lines().position(|line| line == "[[source.schedule]]").unwrap();
    let install = AGENT.lines().position(|line| line == "[install]").unwrap();
    let mut count = 0;
    for (index, line) in AGENT.lines().enumerate() {
        let Some(line) = commented(line) else { continue };
        if index > schedule && index < install {
            continue;
        }
        count += 1;
        let text = enabled(index, str::to_owned);
        match key(line).unwrap() {
            // A name has no default, and two settings belong to other sources.
            "node" => assert_ne!(settings(&text).unwrap(), as_shipped),
            "path" => assert!(settings(&without_schedule(&text, "file")).unwrap().contains("file /etc/tfo-fleet/keys")),
            "interval" => assert_eq!(
                settings(&without_schedule(&text, "random")).unwrap(),
                settings(&without_schedule(AGENT, "random")).unwrap()
            ),
            _ => assert_eq!(settings(&text).unwrap(), as_shipped, "{line} is no default"),
        }
    }
    assert_eq!(count, 11, "a new commented-out line: is it a default?");
}

/// The settings of the first entry that are written out are defaults too, except for the secret.
#[test]
fn the_first_entry_shows_defaults() {
    let as_shipped = settings(AGENT).unwrap();
    for name in ["interval", "stage_lead", "algorithm"] {
        let text: String =
            AGENT.lines().filter(|line| key(line) != Some(name)).map(|line| line.to_owned() + "\n").collect();
        assert_ne!(text, AGENT);
        assert_eq!(settings(&text).unwrap(), as_shipped, "{name} is no default");
    }
    // Half the interval where that is less than 1h.
    let hourly = |lead: &str| {
        let line = |line: &str| match line {
            "interval = \"24h\"" => "interval = \"1h\"".to_owned(),
            "stage_lead = \"1h\"" => lead.to_owned(),
            other => other.to_owned(),
        };
        settings(&AGENT.lines().map(|text| line(text) + "\n").collect::<String>()).unwrap()
    };
    assert_eq!(hourly(""), hourly("stage_lead = \"30m\""));
    assert_ne!(hourly(""), hourly("stage_lead = \"29m\""));
}

/// The commented-out blocks of the schedule, each where the text above it says.
#[test]
fn the_example_entries_can_be_enabled() {
    let blocks: Vec<(usize, Vec<&str>)> = AGENT
        .split("\n\n")
        .map(|block| block.lines().filter_map(commented).collect::<Vec<_>>())
        .enumerate()
        .filter(|(_, lines)| lines.first() == Some(&"[[source.schedule]]"))
        .collect();
    let [(_, later), (_, fixed)] = blocks.as_slice() else { panic!("{blocks:?}") };
    let later = later.join("\n") + "\n";
    let text = AGENT.replace("[install]\n", &format!("{later}[install]\n"));
    assert!(settings(&text).unwrap().contains("fleet-2027.secret"));
    // The static key goes first, and a derived entry follows it.
    let fixed = fixed.join("\n") + "\n";
    let first = AGENT.lines().position(|line| line == "[[source.schedule]]").unwrap();
    let mut lines: Vec<String> = AGENT.lines().map(str::to_owned).collect();
    lines.insert(first + 1, "not_before = \"2026-12-01T00:00:00Z\"".into());
    lines.insert(first, fixed);
    assert!(settings(&(lines.join("\n") + "\n")).unwrap().contains("static.key"));
}

/// The commented-out block that starts with this line.
fn block(first: &str) -> String {
    let all = AGENT.split("\n\n").map(|block| block.lines().filter_map(commented).collect::<Vec<_>>());
    let blocks: Vec<_> = all.filter(|lines| lines.first() == Some(&first)).collect();
    let [block] = blocks.as_slice() else { panic!("{blocks:?}") };
    block.join("\n") + "\n"
}

#[test]
fn the_coordinator_and_the_report_can_be_enabled() {
    let source = settings(&block("[source]")).unwrap();
    for part in ["coordinator.example.org", "start_timeout: 10s", "wait: 300s", "period: 3600s", "LeftAlone"] {
        assert!(source.contains(part), "{part}: {source}");
    }
    // Everything that is neither needed nor an example shows its default.
    let defaults = ["start_timeout", "wait", "period", "hold_server_bit"];
    let only: String = block("[source]")
        .lines()
        .filter(|line| key(line).is_none_or(|key| !defaults.contains(&key)))
        .fold(String::new(), |text, line| text + line + "\n");
    let places = |text: &str| {
        settings(text)
            .unwrap()
            .split("line: ")
            .map(|part| part.trim_start_matches(|c: char| c != ',' && c != ' '))
            .collect::<String>()
    };
    assert_eq!(places(&only), places(&block("[source]")));
    let reported = settings(&format!("{AGENT}{}", block("[report]"))).unwrap();
    assert!(reported.contains("coordinator.example.org"), "{reported}");
    let both = format!("{}{}", block("[source]"), block("[report]"));
    assert!(settings(&both).unwrap_err().contains("[report] is for the other sources"));
}
