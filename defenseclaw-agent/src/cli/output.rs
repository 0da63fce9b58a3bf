//! The only file that prints. Data goes to stdout, everything else to stderr.
//!
//! Colour is dropped where nobody sees it (no terminal, `NO_COLOR`), so it never carries the meaning alone. Text that
//! came from a process goes through [`escape`] before it gets here.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, BufWriter, IsTerminal, Write},
    process::ExitCode,
};

use anstream::AutoStream;
use owo_colors::OwoColorize;
use serde::Serialize;
use unicode_width::UnicodeWidthChar;

use super::render::{Line, Role};
use crate::model::HookOutput;

/// Where a command's output goes, buffered.
pub struct Out {
    stream: Box<dyn Write>,
    width: Option<usize>,
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out").field("width", &self.width).finish_non_exhaustive()
    }
}

impl Out {
    /// The process's standard output.
    pub fn stdout() -> Self {
        let width = io::stdout().is_terminal().then(terminal_width);
        Self { stream: Box::new(BufWriter::new(AutoStream::auto(io::stdout()))), width }
    }

    /// The process's standard error: for what must not mix with the output of a command that was run.
    pub fn stderr() -> Self {
        let width = io::stderr().is_terminal().then(terminal_width);
        Self { stream: Box::new(BufWriter::new(AutoStream::auto(io::stderr()))), width }
    }

    /// A file, without colour.
    pub fn file(file: std::fs::File) -> Self {
        Self { stream: Box::new(BufWriter::new(AutoStream::never(file))), width: None }
    }

    /// Columns of the terminal; none if the output is a file or a pipe, where nothing is shortened.
    pub fn width(&self) -> Option<usize> {
        self.width
    }

    /// One line.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())?;
        self.stream.write_all(b"\n")
    }

    /// A question; the answer is typed behind it.
    pub fn prompt(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())?;
        self.stream.flush()
    }

    /// One line of JSON.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(value)?;
        self.line(&ascii_where_invisible(&line))
    }

    /// Hands everything to the reader now.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn terminal_width() -> usize {
    terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0).max(40))
}

/// A line of a report, with the colours of its roles.
pub fn styled(line: &Line) -> String {
    let mut text = String::new();
    for span in &line.spans {
        let span_text = span.text.as_str();
        text.push_str(&match span.role {
            Role::Plain => span_text.to_owned(),
            Role::Heading => strong(span_text),
            Role::Dim => dim(span_text),
            Role::Good => span_text.green().to_string(),
            Role::Warning => span_text.yellow().to_string(),
            Role::Bad => bad(span_text),
        });
    }
    text
}

/// A word to the person at the terminal that is no data.
pub fn note(text: &str) {
    to_stderr(&format!("{}: {}", "note".bold(), escape(text.as_bytes())));
}

/// Says what failed, every cause of it, and what to do.
pub fn error(err: &anyhow::Error, hint: Option<&str>) {
    let mut text = String::new();
    for (index, cause) in err.chain().enumerate() {
        let cause = escape(cause.to_string().as_bytes());
        // Writing to a String cannot fail.
        let label = if index == 0 { "error".red().bold().to_string() } else { "\n  cause".to_owned() };
        write!(text, "{label}: {cause}").ok();
    }
    if let Some(hint) = hint {
        write!(text, "\n{}: {hint}", "hint".bold()).ok();
    }
    to_stderr(&text);
}

/// What an agent reads, as it is, and the code that goes with it. If nobody reads it there is nobody to tell.
pub(super) fn verbatim(output: &HookOutput) -> ExitCode {
    drop(io::stdout().write_all(&output.stdout).and_then(|()| io::stdout().flush()));
    drop(io::stderr().write_all(&output.stderr));
    ExitCode::from(output.exit_code)
}

/// Help, version, or what is wrong with the arguments.
pub(super) fn usage(err: &clap::Error) -> ExitCode {
    // If even this cannot be printed, the exit code is all there is left to say.
    let printed = err.print();
    match (printed, u8::try_from(err.exit_code())) {
        (Ok(()), Ok(code)) => ExitCode::from(code),
        (Err(err), Ok(0)) if err.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        _ => ExitCode::from(super::ERROR),
    }
}

fn to_stderr(text: &str) {
    // There is no place left to complain to.
    drop(writeln!(anstream::stderr(), "{text}"));
}

/// Less important text.
pub fn dim(text: &str) -> String {
    text.dimmed().to_string()
}

/// More important text.
pub fn strong(text: &str) -> String {
    text.bold().to_string()
}

/// Text about something bad.
pub fn bad(text: &str) -> String {
    text.red().to_string()
}

/// Untrusted bytes as text that does nothing to a terminal and hides nothing from a reader. `\` becomes `\\`, so
/// that no name can look like an escape.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                '\\' => out.push_str("\\\\"),
                // Writing to a String cannot fail.
                '\0'..='\x1f' | '\x7f' => {
                    write!(out, "\\x{:02x}", u32::from(c)).ok();
                }
                _ if is_invisible(c) => {
                    write!(out, "\\u{{{:x}}}", u32::from(c)).ok();
                }
                _ => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").ok();
        }
    }
    out
}

/// The same JSON, with characters that a terminal obeys or does not show written as `\uXXXX`.
fn ascii_where_invisible(json: &str) -> Cow<'_, str> {
    if !json.contains(is_invisible) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_invisible(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                write!(out, "\\u{unit:04x}").ok();
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Characters that control the terminal, change the direction of text, end a line, or show nothing.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Columns that text takes on a terminal.
pub fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Text in at most `width` columns: the middle gives way, since both ends of a path or command say more.
pub fn shorten(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(1) else { return String::new() };
    let head = fitting(text.chars(), room / 2);
    let tail: String = fitting(text.chars().rev(), room - room / 2).chars().rev().collect();
    format!("{head}…{tail}")
}

fn fitting(chars: impl Iterator<Item = char>, width: usize) -> String {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= width
        })
        .collect()
}

/// A span of nanoseconds with the precision a person wants: `350 ms`, `1.2 s`, `2 m 05 s`, `3 h 07 m`, `2 d 04 h`.
pub fn duration(nanos: u64) -> String {
    let millis = nanos / 1_000_000;
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{seconds}.{} s", millis % 1000 / 100),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {:02} m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// A number of bytes: `512 B`, `1.4 KiB`.
pub fn size(bytes: u64) -> String {
    let mut rest = bytes;
    let mut tenths = 0;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] {
        if rest < 1024 {
            return if unit == "B" { format!("{rest} B") } else { format!("{rest}.{tenths} {unit}") };
        }
        tenths = rest % 1024 * 10 / 1024;
        rest /= 1024;
    }
    format!("{rest}.{tenths} EiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_text_is_shown_and_not_obeyed() {
        for (bytes, want) in [
            (&b"plain /path-1 \xc3\xa9"[..], "plain /path-1 é"),
            (b"\x1b[2J\x07\x7f\0", "\\x1b[2J\\x07\\x7f\\x00"),
            (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
            (b"\\x1b", "\\\\x1b"),
            (b"\xff\xc3", "\\xff\\xc3"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("txt.\u{202e}exe".as_bytes(), "txt.\\u{202e}exe"),
            ("a\u{200b}\u{feff}\u{e0041}b\u{2028}".as_bytes(), "a\\u{200b}\\u{feff}\\u{e0041}b\\u{2028}"),
        ] {
            assert_eq!(escape(bytes), want);
        }
    }

    proptest! {
        #[test]
        fn escaped_text_controls_nothing(bytes: Vec<u8>, text: String) {
            for escaped in [escape(&bytes), escape(text.as_bytes())] {
                prop_assert!(!escaped.chars().any(|c| c.is_control() || is_invisible(c)), "{escaped:?}");
            }
        }

        #[test]
        fn different_bytes_never_look_the_same(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(a == b, escape(&a) == escape(&b));
        }

        #[test]
        fn json_keeps_its_meaning(text: String, invisible in "[\u{202a}-\u{202e}\u{e0001}\u{7f}\u{9b}]{0,4}") {
            let text = text + &invisible;
            let json = serde_json::to_string(&text).unwrap();
            let safe = ascii_where_invisible(&json);
            prop_assert!(!safe.contains(is_invisible));
            prop_assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
        }

        #[test]
        fn shortened_text_fits(text: String, width in 0_usize..100) {
            let short = shorten(&text, width);
            prop_assert!(columns(&short) <= width);
            if columns(&text) <= width {
                prop_assert_eq!(short, text);
            }
        }
    }

    #[test]
    fn the_middle_gives_way() {
        for (text, width, want) in [
            ("/home/dev/project", 17, "/home/dev/project"),
            ("/home/dev/project", 9, "/hom…ject"),
            ("日本語日本語", 7, "日…語"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(shorten(text, width), want);
        }
    }

    #[test]
    fn spans_and_sizes_read_well() {
        const S: u64 = 1_000_000_000;
        for (nanos, want) in [
            (0, "0 ms"),
            (999_999_999, "999 ms"),
            (S, "1.0 s"),
            (59 * S + S / 2, "59.5 s"),
            (65 * S, "1 m 05 s"),
            (3600 * 3 + 7 * 60, "0 ms"),
            ((3600 * 3 + 7 * 60) * S, "3 h 07 m"),
            ((86400 * 2 + 4 * 3600) * S, "2 d 04 h"),
        ] {
            assert_eq!(duration(nanos), want);
        }
        for (bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1500, "1.4 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), want);
        }
    }
}
