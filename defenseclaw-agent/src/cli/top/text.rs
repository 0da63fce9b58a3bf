//! Untrusted text in a grid of cells. On top of what `output::escape` does, whatever terminals draw in different widths or
//! in another order is written as an escape, so that a row ends where we think it does and says what we think it says.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::super::output::{columns, escape, shorten};

/// Untrusted bytes, for one or more rows.
pub(super) fn plain(bytes: &[u8]) -> String {
    harden(&escape(bytes))
}

/// The same for text that has been escaped before.
pub(super) fn harden(escaped: &str) -> String {
    hardened(escaped, true)
}

/// A line of a file, with its indentation; nothing may stand beside it.
pub(super) fn line(line: &str) -> String {
    hardened(&escape(line.as_bytes()), false)
}

fn hardened(escaped: &str, gaps: bool) -> String {
    let mut out = String::with_capacity(escaped.len());
    let last = escaped.len().saturating_sub(1);
    let mut blank = true;
    for (at, c) in escaped.char_indices() {
        // A second blank could look like the gap between two columns; one at an end would not be seen.
        let gap = gaps && c == ' ' && (blank || at == last);
        blank = c == ' ';
        if gap {
            out.push_str("\\x20");
        } else if is_contested(c) {
            out.push_str(&unicode(c));
        } else {
            out.push(c);
        }
    }
    if out.width() == columns(&out) { out } else { ascii(&out) }
}

/// Every character that is not ASCII as an escape: letters that only look alike differ here. None if there is none.
pub(super) fn exact(bytes: &[u8]) -> Option<String> {
    let escaped = escape(bytes);
    (!escaped.is_ascii()).then(|| ascii(&harden(&escaped)))
}

fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c.to_string() } else { unicode(c) }).collect()
}

fn unicode(c: char) -> String {
    format!("\\u{{{:x}}}", u32::from(c))
}

/// Terminals do not agree on its width, or draw it on top of or on the other side of its neighbours.
fn is_contested(c: char) -> bool {
    c.width().unwrap_or(0) == 0
        || (c.is_whitespace() && c != ' ')
        || matches!(
            c,
            // From right to left.
            '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}' | '\u{10800}'..='\u{10fff}'
            | '\u{1e800}'..='\u{1efff}'
            // Blank, private, and pictures, whose width depends on the font and on what stands beside them.
            | '\u{2800}' | '\u{e000}'..='\u{f8ff}' | '\u{1f000}'..='\u{1fbff}' | '\u{f0000}'..
        )
}

/// Exactly `width` columns, the middle cut if it is longer.
pub(super) fn cell(text: &str, width: usize) -> String {
    let mut out = shorten(text, width);
    out.extend(std::iter::repeat_n(' ', width.saturating_sub(columns(&out))));
    out
}

/// The same, at the right edge.
pub(super) fn right(text: &str, width: usize) -> String {
    let short = shorten(text, width);
    format!("{}{short}", " ".repeat(width.saturating_sub(columns(&short))))
}

/// All of it, in rows of at most `width` columns, broken wherever that is: not a character is added or left out.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide > width.max(2) {
            rows.push(String::new());
            used = 0;
        }
        used += wide;
        if let Some(row) = rows.last_mut() {
            row.push(c);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_moves_what_stands_beside_it() {
        for (text, want) in [
            ("/srv/a b", "/srv/a b"),
            ("日本", "日本"),
            ("\u{5d0}\u{5d1}", "\\u{5d0}\\u{5d1}"),
            ("e\u{301}", "e\\u{301}"),
            ("\u{1f1e6}\u{1f1f9}\u{1f468}", "\\u{1f1e6}\\u{1f1f9}\\u{1f468}"),
            ("a   b", "a \\x20\\x20b"),
            (" a ", "\\x20a\\x20"),
            ("a\u{a0}b\u{3000}", "a\\u{a0}b\\u{3000}"),
            ("\\x20", "\\\\x20"),
            ("\n\u{1b}[1m\u{202e}", "\\n\\x1b[1m\\u{202e}"),
            ("", ""),
        ] {
            assert_eq!(plain(text.as_bytes()), want, "{text:?}");
        }
        assert_eq!(exact("/etc/p\u{430}sswd".as_bytes()).unwrap(), "/etc/p\\u{430}sswd");
        assert_eq!(exact(b"/etc/passwd\x01"), None);
    }

    proptest! {
        #[test]
        fn different_objects_never_look_the_same(a: Vec<u8>, b in "[ \\\\x20a\u{5d0}]{0,6}", c in "[ \\\\x20a\u{5d0}]{0,6}") {
            prop_assert_eq!(b == c, plain(b.as_bytes()) == plain(c.as_bytes()));
            prop_assert_eq!(a == b.as_bytes(), plain(&a) == plain(b.as_bytes()));
        }

        #[test]
        fn cells_are_as_wide_as_they_are_told(text: String, width in 0_usize..50) {
            let text = plain(text.as_bytes());
            prop_assert_eq!(text.width(), columns(&text));
            prop_assert_eq!(cell(&text, width).width(), width);
            prop_assert_eq!(right(&text, width).width(), width);
        }

        #[test]
        fn wrapping_loses_nothing(text: String, width in 2_usize..50) {
            let text = plain(text.as_bytes());
            let rows = wrap(&text, width);
            prop_assert!(rows.iter().all(|row| columns(row) <= width));
            prop_assert_eq!(rows.concat(), text);
        }
    }
}
