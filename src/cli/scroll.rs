//! A full screen of text that scrolls, and that always says which part of it is shown.
//!
//! The alternate screen and the modes of the terminal are given back with the value, which must therefore outlive
//! signals: a program that shows one waits for SIGINT, SIGTERM and SIGHUP itself.  Failed writes are not reported: see
//! [`super::output`].

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, SpecialCodes, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::terminal::Terminal;

/// The alternate screen, without a cursor and without wrapping.
const OPEN: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
/// The terminal as it was.
const CLOSE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";
/// How often the reader of the keys looks whether the screen has gone.
const KEYS_POLL: Duration = Duration::from_millis(200);
/// Bytes of one key: the longest escape sequence that we know has four.
const KEY_BYTES_MAX: usize = 16;
/// In the place of a special character: none (`_POSIX_VDISABLE` of Linux).
const DISABLED: u8 = 0;

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// One screen up.
    PageUp,
    /// One screen down.
    PageDown,
    /// To the first line.
    Home,
    /// To the last line.
    End,
    /// It ends.
    Quit,
}

impl Key {
    /// The key of these bytes, as xterm and its kin, rxvt and the Linux console send it.
    fn of(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            b"\x1b[A" | b"\x1bOA" | b"k" => Self::Up,
            b"\x1b[B" | b"\x1bOB" | b"j" | b"\n" | b"\r" => Self::Down,
            b"\x1b[5~" | b"b" => Self::PageUp,
            b"\x1b[6~" | b" " | b"f" => Self::PageDown,
            b"\x1b[H" | b"\x1bOH" | b"\x1b[1~" | b"\x1b[7~" | b"g" => Self::Home,
            b"\x1b[F" | b"\x1bOF" | b"\x1b[4~" | b"\x1b[8~" | b"G" => Self::End,
            b"q" | b"Q" => Self::Quit,
            _ => return None,
        })
    }
}

/// What is shown: `head` stays, `rows` scroll under it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Lines that stay on top, while they leave room for the rows.
    pub head: Vec<String>,
    /// What the rows are, in the line that counts them: `nodes`.
    pub rows_are: &'static str,
    /// The rows.
    pub rows: Vec<String>,
}

/// The screen.
#[derive(Debug)]
pub struct Scroll {
    picture: Picture,
    /// Index of the first row that is shown.
    top: usize,
    /// The modes of the keyboard's terminal before; none without a keyboard.
    before: Option<Termios>,
    keys: UnboundedReceiver<Key>,
}

impl Scroll {
    /// A screen, if stdout is a terminal.  Its keys come from stdin, if that is one too.
    #[must_use]
    pub fn on_terminal() -> Option<Self> {
        io::stdout().is_terminal().then(|| {
            let (sender, keys) = unbounded_channel();
            let before = io::stdin().is_terminal().then(quiet_keyboard).flatten();
            if before.is_some() {
                std::thread::spawn(move || read_keys(&sender));
            }
            show(OPEN);
            Self { picture: Picture::default(), top: 0, before, keys }
        })
    }

    /// Shows another picture, at the same row.
    pub fn draw(&mut self, picture: Picture) {
        self.picture = picture;
        self.redraw();
    }

    /// The picture that is shown.
    #[must_use]
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// The next key.  Without a keyboard it never comes.
    pub async fn key(&mut self) -> Key {
        match self.keys.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }

    /// Does what a key says; true for the one that ends it.
    pub fn press(&mut self, key: Key) -> bool {
        let page = self.view(Terminal::of_stdout().lines.unwrap_or_default()).rows.len().max(1);
        self.top = match key {
            Key::Up => self.top.saturating_sub(1),
            Key::Down => self.top.saturating_add(1),
            Key::PageUp => self.top.saturating_sub(page),
            Key::PageDown => self.top.saturating_add(page),
            Key::Home => 0,
            Key::End => usize::MAX,
            Key::Quit => return true,
        };
        self.redraw();
        false
    }

    /// Shows it again, after the terminal has another size.
    pub fn redraw(&mut self) {
        let Terminal { columns, lines, colours: _ } = Terminal::of_stdout();
        let view = self.view(lines.unwrap_or_default());
        let mut text = "\u{1b}[H".to_owned();
        for line in view.head.iter().chain(view.rows) {
            text += line;
            text += "\u{1b}[K\r\n";
        }
        // The last line has no end: it would push the first one out.
        text += &view.foot.chars().take(columns.unwrap_or_default()).collect::<String>();
        text += "\u{1b}[J";
        self.top = view.top;
        show(&text);
    }

    fn view(&self, lines: usize) -> View<'_> {
        View::of(&self.picture, self.top, lines)
    }
}

impl Drop for Scroll {
    fn drop(&mut self) {
        show(CLOSE);
        if let Some(before) = &self.before {
            // An error: the terminal is gone.
            tcsetattr(io::stdin(), OptionalActions::Now, before).unwrap_or_default();
        }
    }
}

/// The part of a picture that fits.
#[derive(Debug, PartialEq, Eq)]
struct View<'a> {
    head: &'a [String],
    rows: &'a [String],
    top: usize,
    foot: String,
}

impl<'a> View<'a> {
    fn of(picture: &'a Picture, top: usize, lines: usize) -> Self {
        // One line for the foot, and one row at least.
        let room = lines.saturating_sub(1);
        let head = &picture.head[..picture.head.len().min(room.saturating_sub(1))];
        let (count, room) = (picture.rows.len(), room - head.len());
        let top = top.min(count.saturating_sub(room));
        let rows = &picture.rows[top..(top + room).min(count)];
        let mut foot = match count {
            0 => String::new(),
            _ => format!("{} {}-{} of {count}  ", picture.rows_are, top + 1, top + rows.len()),
        };
        if head.len() < picture.head.len() {
            foot += &format!("{} lines above hidden: enlarge the terminal  ", picture.head.len() - head.len());
        }
        foot += if rows.len() < count { "up, down, page, home, end scroll; q ends" } else { "q ends" };
        Self { head, rows, top, foot }
    }
}

fn show(text: &str) {
    let mut out = io::stdout().lock();
    // A terminal that is gone is noticed elsewhere.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Keys come at once and are not shown; Ctrl-C stays a signal, Ctrl-Z does nothing, because a shell would get the
/// terminal as it is now.
fn quiet_keyboard() -> Option<Termios> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).ok()?;
    let mut quiet = before.clone();
    quiet.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    let codes: &mut SpecialCodes = &mut quiet.special_codes;
    codes[SpecialCodeIndex::VSUSP] = DISABLED;
    codes[SpecialCodeIndex::VMIN] = 1;
    codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(&stdin, OptionalActions::Now, &quiet).ok()?;
    Some(before)
}

/// Reads keys until the screen has gone, or the keyboard.
fn read_keys(keys: &UnboundedSender<Key>) {
    let stdin = io::stdin();
    let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(KEYS_POLL.subsec_nanos()) };
    while !keys.is_closed() {
        let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut watched, Some(&pause)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        let mut bytes = [0; KEY_BYTES_MAX];
        // Not through `Stdin`, whose buffer would split a key's bytes from the poll above.
        match rustix::io::read(&stdin, &mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                for key in split(&bytes[..count]).filter_map(Key::of) {
                    if keys.send(key).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The keys in what was read at once: letters, and escape sequences to their final byte (ECMA-48 section 5.4).
fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = match rest {
            [] => return None,
            [0x1b, b'[', sequence @ ..] => {
                sequence.iter().position(|byte| (0x40..=0x7e).contains(byte)).map_or(rest.len(), |at| at + 3)
            }
            [0x1b, b'O', _, ..] => 3,
            _ => 1,
        };
        let (key, after) = rest.split_at(length);
        rest = after;
        Some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(head: usize, rows: usize) -> Picture {
        let lines = |name: &str, count: usize| (1..=count).map(|at| format!("{name}{at}")).collect();
        Picture { head: lines("h", head), rows_are: "nodes", rows: lines("r", rows) }
    }

    #[test]
    fn what_is_not_shown_is_counted() {
        let tall = picture(3, 40);
        let view = View::of(&tall, 0, 11);
        assert_eq!((view.head.len(), view.rows.len()), (3, 7));
        assert_eq!(view.foot, "nodes 1-7 of 40  up, down, page, home, end scroll; q ends");
        let end = View::of(&tall, usize::MAX, 11);
        assert_eq!((end.top, end.rows.last().unwrap().as_str()), (33, "r40"));
        assert!(end.foot.starts_with("nodes 34-40 of 40"));
        let low = View::of(&tall, 0, 3);
        assert_eq!((low.head.len(), low.rows.len()), (1, 1));
        assert!(low.foot.starts_with("nodes 1-1 of 40  2 lines above hidden"), "{}", low.foot);
        let all = picture(3, 4);
        assert_eq!(View::of(&all, 9, 24).foot, "nodes 1-4 of 4  q ends");
        assert_eq!(View::of(&picture(1, 0), 0, 24).foot, "q ends");
        for lines in 0..3 {
            assert!(View::of(&tall, 0, lines).rows.len() <= 1, "{lines}");
        }
    }

    #[test]
    fn keys_that_come_together_are_told_apart() {
        let keys: Vec<Option<Key>> = split(b"jj\x1b[A\x1bOFx\x1b[6~\x1bq\x1b[").map(Key::of).collect();
        let known = [Key::Down, Key::Down, Key::Up, Key::End].map(Some);
        assert_eq!(keys[..4], known);
        assert_eq!(keys[4..], [None, Some(Key::PageDown), None, Some(Key::Quit), None]);
    }
}
