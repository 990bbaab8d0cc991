//! A wall clock that is off, for one program: a library that adds to what clock_gettime(2) says, in the C library's place.  The
//! machine's own clock is never touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::output::stderr;

/// Adds to the wall clock alone, not to those that durations are measured with.
const ANSWER: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int) syscall(SYS_clock_gettime, clock, now);
    const char *ahead = getenv("TFO_TEST_AHEAD_SECS");
    if (!failed && clock == CLOCK_REALTIME && ahead)
        now->tv_sec += atol(ahead);
    return failed;
}
"#;

/// A library that sets programs' clocks.  Needs `need_tool("cc")`.
pub struct WallClock {
    library: PathBuf,
}

impl WallClock {
    /// Makes it; `dir` is the test's.
    pub fn new(dir: &Path) -> Self {
        let (source, library) = (dir.join("wall_clock.c"), dir.join("wall_clock.so"));
        std::fs::write(&source, ANSWER).expect("the directory is the test's");
        let mut cc = Command::new("cc");
        let made = cc.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output().expect("cc starts");
        assert!(made.status.success(), "{}", stderr(&made));
        Self { library }
    }

    /// Variables with which a program's clock is so far ahead.
    pub fn ahead_secs(&self, secs: u64) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.display().to_string()), ("TFO_TEST_AHEAD_SECS", secs.to_string())]
    }
}
