//! Which keys are where after something failed: read again, not concluded from what failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::host::Look;
use crate::kernel::sysctl_d::Persisted;
use crate::model::key::PairPrint;
use crate::model::problem::{Problem, Severity};

/// What the file and each kernel hold; the outer option is none where it could not be read.
#[derive(Debug, Clone)]
pub struct Places {
    /// The keys in our file; none if there is no file of ours.
    pub file: Option<Option<PairPrint>>,
    /// Name of each namespace and the keys in its kernel.
    pub kernels: Vec<(String, Option<Option<PairPrint>>)>,
}

impl Places {
    /// What was seen.
    #[must_use]
    pub fn of<'a>(file: Option<&Persisted>, looks: impl IntoIterator<Item = (&'a str, &'a Look)>) -> Self {
        let kernel =
            |(name, look): (&str, &Look)| (name.to_owned(), look.kernel.as_ref().ok().map(|kernel| kernel.shown));
        Self {
            file: file.map(|file| file.record().map(|record| record.prints.pair())),
            kernels: looks.into_iter().map(kernel).collect(),
        }
    }
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
    /// `wanted` is none if nothing was to be written.
    fn of(before: Option<Option<PairPrint>>, after: Option<Option<PairPrint>>, wanted: Option<PairPrint>) -> Self {
        match after {
            None => Self::Unknown,
            Some(None) => Self::None,
            Some(Some(now)) if wanted.is_some_and(|wanted| now == wanted || now == wanted.primary_alone()) => {
                Self::New(now)
            }
            // What could not be read before and is not new was not written by us.
            Some(Some(now)) if before.is_none_or(|before| before == Some(now)) => Self::Old(now),
            Some(Some(now)) => Self::Other(now),
        }
    }

    fn in_file(self) -> String {
        match self {
            Self::New(keys) => format!("the file sets the new keys (primary {})", keys.primary),
            Self::Old(keys) => format!("the file still sets the old keys (primary {})", keys.primary),
            Self::Other(keys) => format!("the file sets other keys (primary {})", keys.primary),
            Self::None => "there is no file of ours".to_owned(),
            Self::Unknown => "the file cannot be read, it sets the old or the new keys".to_owned(),
        }
    }

    fn in_kernel(self) -> String {
        match self {
            Self::New(keys) => format!("the kernel holds the new keys (primary {})", keys.primary),
            Self::Old(keys) => format!("the kernel keeps the old keys (primary {})", keys.primary),
            Self::Other(keys) => format!("the kernel holds other keys (primary {})", keys.primary),
            Self::None => "the kernel holds no keys".to_owned(),
            Self::Unknown => "the kernel cannot be read, it holds the old or the new keys".to_owned(),
        }
    }
}

/// One sentence for all places.
fn sentence(before: &Places, after: &Places, wanted: Option<PairPrint>) -> String {
    let mut text = Keys::of(before.file, after.file, wanted).in_file();
    let mut kernels = BTreeMap::<Keys, Vec<&str>>::new();
    for ((name, now), (_, was)) in after.kernels.iter().zip(&before.kernels) {
        kernels.entry(Keys::of(*was, *now, wanted)).or_default().push(name);
    }
    for (keys, names) in &kernels {
        write!(text, ", {}", keys.in_kernel()).expect("writing to a string cannot fail");
        if after.kernels.len() > 1 {
            write!(text, " in {}", names.join(" ")).expect("writing to a string cannot fail");
        }
    }
    text
}

/// Says it in the last error, which is the one that the status shows too.
pub fn say(problems: &mut [Problem], before: &Places, after: &Places, wanted: Option<PairPrint>) {
    if let Some(problem) = problems.iter_mut().rfind(|problem| problem.severity == Severity::Error) {
        problem.message = format!("{}; now {}", problem.message, sentence(before, after, wanted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::KeyFingerprint;

    fn pair(byte: u8) -> PairPrint {
        PairPrint { primary: KeyFingerprint::from_bytes([byte; 8]), backup: None }
    }

    fn places(file: Option<Option<u8>>, kernels: &[Option<Option<u8>>]) -> Places {
        let kernels = kernels.iter().zip(["own", "a", "b"]);
        Places {
            file: file.map(|file| file.map(pair)),
            kernels: kernels.map(|(kernel, name)| (name.to_owned(), kernel.map(|k| k.map(pair)))).collect(),
        }
    }

    #[test]
    fn every_place_is_named_by_what_it_holds_now() {
        let was = places(Some(Some(1)), &[Some(Some(1)), Some(None), None]);
        let now = places(Some(Some(2)), &[Some(Some(2)), Some(None), Some(Some(1))]);
        assert_eq!(
            sentence(&was, &now, Some(pair(2))),
            "the file sets the new keys (primary 0202020202020202), \
             the kernel holds the new keys (primary 0202020202020202) in own, \
             the kernel keeps the old keys (primary 0101010101010101) in b, \
             the kernel holds no keys in a"
        );
        let now = places(None, &[Some(Some(3))]);
        assert_eq!(
            sentence(&places(Some(None), &[Some(Some(1))]), &now, Some(pair(2))),
            "the file cannot be read, it sets the old or the new keys, \
             the kernel holds other keys (primary 0303030303030303)"
        );
        let kept = places(Some(Some(1)), &[Some(Some(1))]);
        assert_eq!(
            sentence(&kept, &kept, None),
            "the file still sets the old keys (primary 0101010101010101), \
             the kernel keeps the old keys (primary 0101010101010101)"
        );
    }
}
