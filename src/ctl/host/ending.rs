//! How commands that examine several targets end: with all problems and one exit code.

use tfo_cli::report::{Failure, Outcome};
use tfo_model::problem::Problem;

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
