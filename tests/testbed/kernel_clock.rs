//! What the kernel says of its clock, for one program: a library that answers adjtimex(2) in the C library's place.  The
//! machine's own clock is never touched.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Answers "synchronised" while a file exists.
const ANSWER: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <unistd.h>
int adjtimex(struct timex *answer) {
    const char *mark = getenv("TFO_TEST_SYNCHRONISED");
    int synchronised = mark && access(mark, F_OK) == 0;
    memset(answer, 0, sizeof *answer);
    answer->status = synchronised ? 0 : STA_UNSYNC;
    return synchronised ? TIME_OK : TIME_ERROR;
}
"#;

/// A kernel's clock that a test synchronises.  Needs `need_tool("cc")`.
pub struct KernelClock {
    library: PathBuf,
    mark: PathBuf,
}

impl KernelClock {
    /// One that is not synchronised; `dir` is the test's.
    pub fn new(dir: &Path) -> Self {
        let (source, library) = (dir.join("adjtimex.c"), dir.join("adjtimex.so"));
        std::fs::write(&source, ANSWER).expect("the scratch directory takes it");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        assert!(built.expect("cc starts").success(), "the library is not built");
        Self { library, mark: dir.join("synchronised") }
    }

    /// For a program that is started with this environment.
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("TFO_TEST_SYNCHRONISED", &self.mark)]
    }

    /// From now on the kernel says that it is synchronised, or that it is not.
    pub fn set_synchronised(&self, synchronised: bool) {
        if synchronised {
            std::fs::write(&self.mark, "").expect("the scratch directory takes it");
        } else {
            std::fs::remove_file(&self.mark).ok();
        }
    }
}
