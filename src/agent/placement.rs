//! Which keys are where after a failure: read again, not concluded from what failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::observation::Observation;
use tfo_host::kernel::sysctl_d::Persisted;
use tfo_model::key::PairPrint;
use tfo_model::problem::{Problem, Severity};

/// What the file and each kernel hold; the outer option is none where it could not be read.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The keys in the agent's file; none without one.
    pub file: Option<Option<PairPrint>>,
    /// Name of each namespace and the keys in its kernel.
    pub kernels: Vec<(String, Option<Option<PairPrint>>)>,
}

impl Placement {
    /// What was seen.
    #[must_use]
    pub fn of<'a>(
        file: Option<&Persisted>,
        observations: impl IntoIterator<Item = (&'a str, &'a Observation)>,
    ) -> Self {
        let kernel = |(name, seen): (&str, &Observation)| {
            (name.to_owned(), seen.kernel.as_ref().ok().map(|kernel| kernel.shown))
        };
        Self {
            file: file.map(|file| file.record().map(|record| record.prints.pair())),
            kernels: observations.into_iter().map(kernel).collect(),
        }
    }
}

/// The keys that the pass wanted in every place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intended {
    /// Those of the source.
    New(PairPrint),
    /// Those that were installed, if any.
    Old(Option<PairPrint>),
}

/// A place's keys, by what they were before and what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Keys {
    New(PairPrint),
    Old(PairPrint),
    Other(PairPrint),
    None,
    Unknown,
}

impl Keys {
    fn of(before: Option<Option<PairPrint>>, after: Option<Option<PairPrint>>, intended: Intended) -> Self {
        let is = |keys: PairPrint, now: PairPrint| now == keys || now == keys.primary_alone();
        match (after, intended) {
            (None, _) => Self::Unknown,
            (Some(None), _) => Self::None,
            (Some(Some(now)), Intended::New(new)) if is(new, now) => Self::New(now),
            (Some(Some(now)), Intended::Old(Some(old))) if is(old, now) => Self::Old(now),
            // Keys that could not be read before and are not new were not written by this pass.
            (Some(Some(now)), _) if before.is_none_or(|before| before == Some(now)) => Self::Old(now),
            (Some(Some(now)), _) => Self::Other(now),
        }
    }

    fn in_file(self) -> String {
        match self {
            Self::New(keys) => format!("the file sets the new keys (primary {})", keys.primary),
            Self::Old(keys) => format!("the file still sets the old keys (primary {})", keys.primary),
            Self::Other(keys) => format!("the file sets other keys (primary {})", keys.primary),
            Self::None => "the file is missing or not the agent's".to_owned(),
            Self::Unknown => "the file cannot be read and sets the old or the new keys".to_owned(),
        }
    }

    fn in_kernel(self) -> String {
        match self {
            Self::New(keys) => format!("the kernel holds the new keys (primary {})", keys.primary),
            Self::Old(keys) => format!("the kernel keeps the old keys (primary {})", keys.primary),
            Self::Other(keys) => format!("the kernel holds other keys (primary {})", keys.primary),
            Self::None => "the kernel holds no keys".to_owned(),
            Self::Unknown => "the kernel cannot be read and holds the old or the new keys".to_owned(),
        }
    }
}

/// One sentence for all places.
fn sentence(before: &Placement, after: &Placement, intended: Intended) -> String {
    let mut text = Keys::of(before.file, after.file, intended).in_file();
    let mut kernels = BTreeMap::<Keys, Vec<&str>>::new();
    for ((name, now), (_, was)) in after.kernels.iter().zip(&before.kernels) {
        kernels.entry(Keys::of(*was, *now, intended)).or_default().push(name);
    }
    for (keys, names) in &kernels {
        write!(text, ", {}", keys.in_kernel()).expect("writing to a string cannot fail");
        if after.kernels.len() > 1 {
            write!(text, " in {}", names.join(" ")).expect("writing to a string cannot fail");
        }
    }
    text
}

/// Adds the placement to the last error, which the status shows too.
pub fn describe(problems: &mut [Problem], before: &Placement, after: &Placement, intended: Intended) {
    if let Some(problem) = problems.iter_mut().rfind(|problem| problem.severity == Severity::Error) {
        problem.message = format!("{}; now {}", problem.message, sentence(before, after, intended));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_model::key::KeyFingerprint;

    fn pair(byte: u8) -> PairPrint {
        PairPrint { primary: KeyFingerprint::from_bytes([byte; 8]), backup: None }
    }

    fn placement(file: Option<Option<u8>>, kernels: &[Option<Option<u8>>]) -> Placement {
        let kernels = kernels.iter().zip(["own", "a", "b"]);
        Placement {
            file: file.map(|file| file.map(pair)),
            kernels: kernels.map(|(kernel, name)| (name.to_owned(), kernel.map(|k| k.map(pair)))).collect(),
        }
    }

    #[test]
    fn every_place_is_named_by_what_it_holds_now() {
        let was = placement(Some(Some(1)), &[Some(Some(1)), Some(None), None]);
        let now = placement(Some(Some(2)), &[Some(Some(2)), Some(None), Some(Some(1))]);
        assert_eq!(
            sentence(&was, &now, Intended::New(pair(2))),
            "the file sets the new keys (primary 0202020202020202), \
             the kernel holds the new keys (primary 0202020202020202) in own, \
             the kernel keeps the old keys (primary 0101010101010101) in b, \
             the kernel holds no keys in a"
        );
        let now = placement(None, &[Some(Some(3))]);
        assert_eq!(
            sentence(&placement(Some(None), &[Some(Some(1))]), &now, Intended::New(pair(2))),
            "the file cannot be read and sets the old or the new keys, \
             the kernel holds other keys (primary 0303030303030303)"
        );
        // Drift that was repaired while the source failed.
        let (drifted, repaired) =
            (placement(Some(Some(1)), &[Some(Some(9))]), placement(Some(Some(1)), &[Some(Some(1))]));
        let text = sentence(&drifted, &repaired, Intended::Old(Some(pair(1))));
        assert!(text.ends_with("the kernel keeps the old keys (primary 0101010101010101)"), "{text}");
        let kept = placement(Some(Some(1)), &[Some(Some(1))]);
        assert_eq!(
            sentence(&kept, &kept, Intended::Old(None)),
            "the file still sets the old keys (primary 0101010101010101), \
             the kernel keeps the old keys (primary 0101010101010101)"
        );
    }
}
