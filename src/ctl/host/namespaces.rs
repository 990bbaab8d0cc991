//! Network namespaces as the host's commands name them.

use tfo_host::kernel::namespace::{Namespace, NamespaceError};
use tfo_model::ids::NamespaceName;
use tfo_model::problem::Problem;

/// The named namespaces; without names, the one that this process runs in.
pub(super) fn chosen(names: &[NamespaceName]) -> Vec<Namespace> {
    if names.is_empty() { vec![Namespace::Own] } else { names.iter().cloned().map(Namespace::Named).collect() }
}

/// Why a namespace cannot be examined.
pub(super) fn problem(namespace: &Namespace, error: &NamespaceError) -> Problem {
    let (kind, remedy, source) = match error {
        NamespaceError::Open { source, .. } => {
            ("namespace_missing", "see `ip netns list`, or make it with `ip netns add`", source)
        }
        NamespaceError::Enter { source, .. } => {
            ("namespace_not_allowed", "run as root: entering needs CAP_SYS_ADMIN", source)
        }
    };
    Problem::error(kind, format!("namespace {namespace}: {error}: {source}"), remedy)
}
