//! What `init` shows: text for people, JSON for programs (docs/reference/json.md#init).  Never key bytes.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::Wish;
use super::layout::Layout;
use tfo_cli::report::Report;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::pattern::NamePattern;

/// The result.  Wire v1.
#[derive(Debug, Serialize)]
pub struct Initialised {
    /// Whether this run made anything.
    pub initialised: bool,
    coordinator: NodeId,
    operator: NodeId,
    pool: PoolName,
    nodes: Vec<NamePattern>,
    /// What this run made, in the order in which it was made.
    pub(super) made: Vec<PathBuf>,
    /// Whether the service was enabled and started.
    pub enabled: bool,
    #[serde(skip)]
    backed_up: PathBuf,
    /// What the new files are, by their path.
    #[serde(skip)]
    meanings: Vec<(PathBuf, String)>,
}

impl Initialised {
    /// With what was made.
    pub(super) fn new(wish: &Wish, operator: NodeId, layout: &Layout, made: Vec<PathBuf>) -> Self {
        let Wish { name, pool, nodes, .. } = wish;
        let patterns: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        let meanings = vec![
            (layout.authority(), "the authority of the fleet".to_owned()),
            (layout.ca(), "its certificate".to_owned()),
            (layout.kek(), "seals the keys in the store".to_owned()),
            (layout.key(), "the coordinator's private key".to_owned()),
            (layout.certificate(), format!("its certificate, for {name}")),
            (layout.operator(), format!("root as the operator {operator}")),
            (layout.list(), "revoked certificates, renewed by the coordinator".to_owned()),
            (layout.drop_in(), "gives the authority's key to the service".to_owned()),
            (layout.ctl(), "tfoctl of this host".to_owned()),
            (layout.config(), format!("pool {pool}, nodes {}", patterns.join(" "))),
        ];
        Self {
            initialised: !made.is_empty(),
            coordinator: name.clone(),
            operator,
            pool: pool.clone(),
            nodes: nodes.clone(),
            made,
            enabled: false,
            backed_up: layout.etc.clone(),
            meanings,
        }
    }

    fn meaning(&self, path: &PathBuf) -> &str {
        self.meanings.iter().find(|(of, _)| of == path).map_or("", |(_, meaning)| meaning)
    }
}

impl Report for Initialised {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = self.made.iter().map(|path| path.as_os_str().len()).max().unwrap_or(0);
        for path in &self.made {
            writeln!(out, "made  {:width$}  {}", path.display().to_string(), self.meaning(path))?;
        }
        if self.initialised {
            writeln!(
                out,
                "Keep a copy of {} on another host: with pki/ca.key one can be any node or operator, without it all nodes \
                 have to join again, and without kek the keys in the store are lost.",
                self.backed_up.display()
            )?;
        } else {
            writeln!(out, "This host is initialised already: nothing was done.")?;
        }
        if self.enabled {
            writeln!(out, "tfo-coordinator.service is enabled and runs.")?;
        } else if self.initialised {
            writeln!(out, "Next: systemctl enable --now tfo-coordinator")?;
        }
        if self.initialised {
            writeln!(
                out,
                "Then: tfoctl token create --uses N, and on each node: tfo-agent join --enable --token-file FILE"
            )?;
        }
        Ok(())
    }
}
