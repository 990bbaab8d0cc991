//! Commands that examine several servers: they ask all of them, and end with all results, all problems and one exit code.

use std::net::{IpAddr, SocketAddr};

use super::target::{Families, Target};
use tfo_cli::report::{Failure, Outcome};
use tfo_model::problem::Problem;

/// Asks every address of every target.  A failure does not keep the other addresses from being asked.
pub(super) fn ask_each<T>(
    targets: &[Target],
    families: Families,
    sources: &[IpAddr],
    mut ask: impl FnMut(&Target, SocketAddr) -> Result<T, Failure>,
) -> (Vec<T>, Vec<Failure>) {
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for target in targets {
        match target.resolve(families, sources) {
            Err(problem) => failures.push(Failure::new(Outcome::Failed, problem)),
            Ok(addresses) => {
                for address in addresses {
                    match ask(target, address) {
                        Ok(result) => results.push(result),
                        Err(failure) => failures.push(failure),
                    }
                }
            }
        }
    }
    (results, failures)
}

/// Combines failures into one that lists each problem once.  A refusal decides the exit code first, then a usage error.
pub(super) fn together(failures: Vec<Failure>) -> Option<Failure> {
    let outcome = [Outcome::Refused, Outcome::Config, Outcome::Failed]
        .into_iter()
        .find(|outcome| failures.iter().any(|failure| failure.outcome == *outcome))?;
    let mut problems: Vec<Problem> = Vec::new();
    for problem in failures.into_iter().flat_map(|failure| failure.problems) {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    Some(Failure { problems, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_reported_once_and_the_most_severe_outcome_stays() {
        let failure = |outcome, kind| Failure::new(outcome, Problem::error(kind, "message", "remedy"));
        assert!(together(vec![]).is_none());
        let one = together(vec![
            failure(Outcome::Failed, "a"),
            failure(Outcome::Refused, "b"),
            failure(Outcome::Config, "c"),
            failure(Outcome::Refused, "b"),
        ])
        .unwrap();
        assert_eq!(one.outcome, Outcome::Refused);
        assert_eq!(one.problems.iter().map(|problem| problem.kind).collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
