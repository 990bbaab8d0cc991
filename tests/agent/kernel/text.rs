//! Every row of docs/kernel.md#the-key-file: what the kernel makes of a text, and what our strict parser makes of it.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tfo_host::kernel::procfs::{KEY_PATH, KeyFile, SlotsTaken};
use tfo_model::key_text;

use tfo_testbed::{NetNs, need_netns, skip_unless};

const A: &str = "13121110-17161514-1b1a1918-1f1e1d1c";
const B: &str = "00000001-deadbeef-00000003-cafef00d";
/// What the kernel holds before each row.
const BEFORE: &str = "aaaaaaaa-aaaaaaaa-aaaaaaaa-aaaaaaaa,bbbbbbbb-bbbbbbbb-bbbbbbbb-bbbbbbbb";

/// One write(2) of the whole text to this thread's namespace; true if the kernel took it.
fn kernel_takes(text: &[u8]) -> bool {
    OpenOptions::new().write(true).open(KEY_PATH).unwrap().write(text).is_ok()
}

fn kernel_holds() -> String {
    std::fs::read_to_string(KEY_PATH).unwrap().trim_end_matches('\n').to_owned()
}

/// What the kernel does with a text, by docs/kernel.md.
enum Kernel {
    /// EINVAL, and the old keys stay.
    Refuses,
    /// It then shows this.
    Shows(String),
}

/// Whether our parser takes it; it must take nothing that the kernel reads in another way.
#[derive(Debug, PartialEq, Eq)]
enum Ours {
    Takes,
    Refuses,
}

fn rows() -> Vec<(Vec<u8>, Kernel, Ours)> {
    use Kernel::{Refuses as Einval, Shows};
    let a = || Shows(A.to_owned());
    let both = || Shows(format!("{A},{B}"));
    let short = "00000001-00000002-00000003-00000004".to_owned();
    let row = |text: String, kernel: Kernel, ours: Ours| (text.into_bytes(), kernel, ours);
    let (takes, refuses) = (|| Ours::Takes, || Ours::Refuses);
    let mut rows = vec![
        row(A.to_owned(), a(), takes()),
        row(format!("{A}\n"), a(), takes()),
        row(format!("{A},{B}"), both(), takes()),
        row(format!("{A},{B}\n"), both(), takes()),
        row(format!("{A}\r\n"), a(), refuses()),
        row(format!("{A}\0"), a(), refuses()),
        row(format!("{A}   "), a(), refuses()),
        row(format!("{A}\0junk"), a(), refuses()),
        row(format!("{A}\njunk"), a(), refuses()),
        row(format!("{A}\n\n"), a(), refuses()),
        row(format!("  {A}"), a(), refuses()),
        row(format!("\t{A}"), a(), refuses()),
        row(format!("\n{A}"), Einval, refuses()),
        row(format!("{A}, {B}"), both(), refuses()),
        row(format!("{A} ,{B}"), both(), refuses()),
        row(format!("{A},{A}"), Shows(format!("{A},{A}")), refuses()),
        row("1-2-3-4".to_owned(), Shows(short.clone()), refuses()),
        row("1-2-3-4,5-6-7-8".to_owned(), Shows(format!("{short},00000005-00000006-00000007-00000008")), refuses()),
        row(A.to_uppercase(), a(), refuses()),
        row("0x1-0x2-0x3-0x4".to_owned(), Shows(short), refuses()),
        row(A.replace('-', ""), Einval, refuses()),
        row(A[..26].to_owned(), Einval, refuses()),
        row(format!("{A}-00000001"), a(), refuses()),
        row(format!("{A}garbage"), a(), refuses()),
        row(format!("{A},{B}zzz"), both(), refuses()),
        row(format!("{A},{B},{BEFORE}"), both(), refuses()),
        row(format!("123456789abc{}", &A[8..]), Shows(format!("56789abc{}", &A[8..])), refuses()),
        row(format!("   {A},{B}"), Shows(format!("{A},{}0{}", &B[..27], &B[27..34])), refuses()),
        row(format!("          {A},{B}"), Einval, refuses()),
        row(format!("{A},{}", &B[..34]), Shows(format!("{A},{}0{}", &B[..27], &B[27..34])), refuses()),
        row(format!("{A}\n{}", "x".repeat(70_000)), a(), refuses()),
        row(format!("{A},{}", &B[..20]), Einval, refuses()),
    ];
    for separator in [":", " ", ";"] {
        rows.push(row(format!("{A}{separator}{B}"), a(), refuses()));
    }
    for text in [
        format!("{A},"),
        format!("{A},\n"),
        format!(",{A}"),
        format!("{A},none"),
        "none".to_owned(),
        "\n".to_owned(),
        "\0".to_owned(),
        "junk".to_owned(),
        format!("\"{A}\""),
        format!("\u{feff}{A}"),
        format!("# {A}"),
    ] {
        rows.push(row(text, Einval, refuses()));
    }
    // No write at all: nothing changes and nothing is refused.
    rows.push(row(String::new(), Shows(BEFORE.to_owned()), refuses()));
    // A zero key is live, though it reads as none.
    let zero = "00000000-00000000-00000000-00000000";
    rows.push(row(zero.to_owned(), Shows(zero.to_owned()), refuses()));
    rows.push(row(format!("{A},{zero}"), Shows(format!("{A},{zero}")), refuses()));
    rows
}

#[test]
fn what_the_kernel_misreads_is_refused_by_us() {
    skip_unless!(need_netns());
    NetNs::new().run(|| {
        for (text, kernel, ours) in rows() {
            let shown = String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned();
            assert!(kernel_takes(BEFORE.as_bytes()));
            assert_eq!(kernel_holds(), BEFORE);
            let taken = kernel_takes(&text);
            let (takes, holds) = match kernel {
                Kernel::Refuses => (false, BEFORE.to_owned()),
                Kernel::Shows(text) => (true, text),
            };
            assert_eq!((taken, kernel_holds()), (takes, holds), "the kernel, {shown:?}");
            let parsed = key_text::parse(&text);
            let verdict = if parsed.is_ok() { Ours::Takes } else { Ours::Refuses };
            assert_eq!(verdict, ours, "our parser, {shown:?}");
        }
    });
}

#[test]
fn what_we_take_the_kernel_takes_byte_for_byte() {
    skip_unless!(need_netns());
    // Texts round the border: mostly right, with some characters put in, taken out or replaced.
    let key = proptest::collection::vec("[0-9a-f]{8}", 4).prop_map(|groups| groups.join("-"));
    let keys = proptest::collection::vec(key, 1..3).prop_map(|keys| keys.join(","));
    let edits = proptest::collection::vec((0usize..73, 0u8..3, "[0-9a-fA-Fx, \n:;-]"), 0..2);
    let taken = AtomicU32::new(0);
    NetNs::new().run(|| {
        let mut runner = TestRunner::new(Config { cases: 2_000, failure_persistence: None, ..Config::default() });
        let done = runner.run(&(keys, edits), |(mut text, edits)| {
            for (at, kind, with) in edits {
                let at = at.min(text.len() - 1);
                match kind {
                    0 => text.insert_str(at, &with),
                    1 => drop(text.remove(at)),
                    _ => text.replace_range(at..=at, &with),
                }
            }
            let Ok(pair) = key_text::parse(text.as_bytes()) else { return Ok(()) };
            taken.fetch_add(1, Ordering::Relaxed);
            prop_assert!(kernel_takes(text.as_bytes()), "{text:?} is refused by the kernel");
            let holds = kernel_holds();
            prop_assert_eq!(holds.as_bytes(), text.trim_end_matches('\n').as_bytes());
            // The same keys through the agent's own way of writing.
            prop_assert!(kernel_takes(BEFORE.as_bytes()));
            prop_assert_eq!(KeyFile::default().install(&pair).unwrap(), SlotsTaken::All);
            prop_assert_eq!(kernel_holds(), holds);
            Ok(())
        });
        done.unwrap_or_else(|error| panic!("{error}"));
    });
    let taken = taken.into_inner();
    assert!(taken > 200, "only {taken} texts were right");
}
