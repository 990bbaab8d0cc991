//! What is allowed in `coordinator.toml`, and is probably not meant: warnings of `tfo-coordinator check`, each with its remedy.

use super::CoordinatorSettings;
use crate::reader::Located;
use tfo_engine::rollout::policy::{NamePattern, Policy, WaveRule};
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;

/// All of it, in the order of the file's sections.
#[must_use]
pub fn advice(settings: &CoordinatorSettings) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(observe) = settings.observe.as_ref().filter(|observe| !observe.value.ip().is_loopback()) {
        let message = format!(
            "metrics and page are plain HTTP, without a password, for everything that reaches {}: names and fingerprints, \
             no keys",
            observe.value
        );
        let remedy = "listen on 127.0.0.1 behind a proxy that asks who it is, or let a firewall choose who reads them";
        problems.push(observe.locate(&settings.file, Problem::warning("observe_exposed", message, remedy)));
    }
    let mut seen: Vec<(&PoolName, &Located<Policy>)> = Vec::new();
    for (name, policy) in &settings.pools {
        let mut found = waves(&policy.value);
        found.extend(expected_nodes(&policy.value));
        found.extend(seen.iter().filter_map(|(other, earlier)| overlap(other, &earlier.value, &policy.value)));
        problems.extend(
            found
                .into_iter()
                .map(|(key, problem)| policy.locate(&settings.file, problem).at_key(format!("{}.{key}", policy.key))),
        );
        seen.push((name, policy));
    }
    problems
}

/// Waves that open no node, or none that is not open already.
fn waves(policy: &Policy) -> Vec<(&'static str, Problem)> {
    let mut found = Vec::new();
    let mut add = |kind, message: String, remedy| {
        found.push(("promote_waves", Problem::warning(kind, message, remedy)));
    };
    let mut open = None;
    for rule in &policy.promote_waves {
        match rule {
            WaveRule::Names(pattern) if !policy.nodes.iter().any(|nodes| nodes.meets(pattern)) => add(
                "wave_fits_no_node",
                format!(
                    "no node of the pool can have a name that fits \"{pattern}\", so that wave takes in any one node"
                ),
                "write a pattern that fits names in `nodes`, or remove the wave",
            ),
            WaveRule::Names(_) => {}
            WaveRule::Share(share) => {
                if let Some(before) = open.filter(|before| share <= before) {
                    add(
                        "waves_decrease",
                        format!("{share} after {before} opens nothing more: a share counts from the first wave on"),
                        "write shares that rise, such as [\"5%\", \"25%\", \"100%\"]",
                    );
                }
                open = open.max(Some(*share));
            }
        }
    }
    found
}

/// With this number a rotation starts while most nodes are missing, and those lose cookies when they return.
fn expected_nodes(policy: &Policy) -> Option<(&'static str, Problem)> {
    let is_one_node = policy.nodes.len() == 1 && policy.nodes.iter().all(NamePattern::is_one_name);
    (policy.expected_nodes == Some(1) && !is_one_node).then(|| {
        let message = "expected_nodes is 1: a rotation starts also while all nodes but one are missing";
        let remedy = "write how many nodes are deployed: expected_nodes = N";
        ("expected_nodes", Problem::warning("expected_nodes", message, remedy))
    })
}

/// A node is in one pool: its agent names it, and the other pool would wait for it if it ever joined there.
fn overlap(other: &PoolName, earlier: &Policy, policy: &Policy) -> Option<(&'static str, Problem)> {
    let both =
        policy.nodes.iter().find_map(|own| Some((own, earlier.nodes.iter().find(|theirs| theirs.meets(own))?)))?;
    let message =
        format!("a name may fit \"{}\" here and \"{}\" of pool {other}: its agent may join both", both.0, both.1);
    let remedy =
        "write patterns that no name fits twice: a node that changes its pool by mistake leaves the other one waiting";
    Some(("nodes", Problem::warning("pools_overlap", message, remedy)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::ConfigFile;
    use std::path::Path;

    /// Kinds and keys of what is found in a file with this pool, and whatever follows.
    fn found(pools: &str) -> Vec<(String, &'static str)> {
        let text = format!(
            "[api]\ncert = \"/c\"\nkey = \"/k\"\nclient_ca = \"/ca\"\n[store]\nkey_encryption_key = \"credential:kek\"\n\
             [access]\noperators = []\n{pools}"
        );
        let settings = CoordinatorSettings::parse(Path::new("c.toml"), &text).unwrap();
        let problems = advice(&settings);
        assert!(problems.iter().all(|problem| !problem.remedy.is_empty() && problem.file.is_some()), "{problems:?}");
        problems.into_iter().map(|problem| (problem.key.unwrap(), problem.kind)).collect()
    }

    #[test]
    fn what_is_probably_not_meant_is_named_and_what_is_meant_is_not() {
        let pool = |lines: &str| format!("[pools.edge]\nnodes = [\"cp*.example.org\"]\nexpected_nodes = 9\n{lines}\n");
        let waves = |waves: &str| pool(&format!("promote_waves = {waves}"));
        let edge = |key: &str, kind| vec![(format!("pools.edge.{key}"), kind)];
        let other = |nodes: &str| format!("{}[pools.main]\nexpected_nodes = 3\nnodes = [{nodes}]\n", pool(""));
        let cases = [
            (pool(""), vec![]),
            (waves("[\"cp1*\", \"*9.example.org\", \"cp1.example.org\", \"5%\", \"100%\"]"), vec![]),
            (waves("[\"dp1*\", \"100%\"]"), edge("promote_waves", "wave_fits_no_node")),
            (waves("[\"cp1.example.com\", \"100%\"]"), edge("promote_waves", "wave_fits_no_node")),
            (waves("[\"20%\", \"5%\", \"100%\"]"), edge("promote_waves", "waves_decrease")),
            (waves("[\"5%\", \"cp1*\", \"5%\", \"100%\"]"), edge("promote_waves", "waves_decrease")),
            ("[pools.edge]\nnodes = [\"*.example.org\"]\n".to_owned(), Vec::new()),
            (
                "[pools.edge]\nnodes = [\"a\", \"b\"]\nexpected_nodes = 1\n".to_owned(),
                edge("expected_nodes", "expected_nodes"),
            ),
            ("[pools.edge]\nnodes = [\"cp1.example.org\"]\n".to_owned(), vec![]),
            (other("\"*.dns.example.org\", \"a.example.org\""), vec![("pools.main.nodes".to_owned(), "pools_overlap")]),
            (other("\"dp*.example.org\", \"cp1.example.com\""), vec![]),
            (
                pool("") + "[observe]\nlisten = \"0.0.0.0:9441\"\n",
                vec![("observe.listen".to_owned(), "observe_exposed")],
            ),
            (pool("") + "[observe]\nlisten = \"[::1]:9441\"\n", vec![]),
            (pool("") + "[observe]\nlisten = \"\"\n", vec![]),
        ];
        for (text, expected) in cases {
            assert_eq!(found(&text), expected, "{text}");
        }
    }
}
