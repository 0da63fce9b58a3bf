//! Lines that know their width: spans with a role each, so that whoever prints them may add colour.

use std::fmt;

use unicode_width::UnicodeWidthChar;

/// What a piece of text is. Colour may show it; the words say it as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Nothing special.
    #[default]
    Plain,
    /// Title of a section.
    Heading,
    /// Less important than the rest of the line.
    Dim,
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Failed or missing.
    Bad,
}

/// Text with a role. Safe for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What it is.
    pub role: Role,
    /// The text.
    pub text: String,
}

/// One line, without its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// From left to right.
    pub spans: Vec<Span>,
}

impl Line {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn with(mut self, role: Role, text: impl Into<String>) -> Self {
        let text = text.into();
        if !text.is_empty() {
            self.spans.push(Span { role, text });
        }
        self
    }

    pub(super) fn plain(self, text: impl Into<String>) -> Self {
        self.with(Role::Plain, text)
    }

    pub(super) fn dim(self, text: impl Into<String>) -> Self {
        self.with(Role::Dim, text)
    }

    /// Puts `right` at the right edge, if it has text.
    pub(super) fn flush_right(self, right: Line, width: usize) -> Self {
        if right.spans.is_empty() {
            return self;
        }
        let gap = width.saturating_sub(self.width() + right.width()).max(1);
        let mut line = self.plain(" ".repeat(gap));
        line.spans.extend(right.spans);
        line
    }

    /// Columns it takes.
    pub fn width(&self) -> usize {
        self.spans.iter().map(|span| width(&span.text)).sum()
    }

    /// Cuts it to the width. A safety net: lines are made to fit.
    pub(super) fn fit(mut self, limit: usize) -> Self {
        if self.width() > limit {
            let mut room = limit;
            for span in &mut self.spans {
                span.text = cut(&span.text, room);
                room -= width(&span.text);
            }
            self.spans.retain(|span| !span.text.is_empty());
        }
        self
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_last = self.spans.len().saturating_sub(1);
        for (n, span) in self.spans.iter().enumerate() {
            f.write_str(if n == n_last { span.text.trim_end() } else { &span.text })?;
        }
        Ok(())
    }
}

/// Columns that text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// The head of a text, with `…` if something is cut.
pub(super) fn cut(text: &str, limit: usize) -> String {
    if width(text) <= limit {
        return text.to_owned();
    }
    if limit == 0 {
        return String::new();
    }
    let mut out = take(text.chars(), limit - 1);
    out.push('…');
    out
}

/// A text with its middle replaced by `…`, if it is too long: names begin and end with what tells them apart.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    if width(text) <= limit {
        return text.to_owned();
    }
    let room = limit.saturating_sub(1);
    let tail_room = room / 2;
    let tail: String = take(text.chars().rev(), tail_room).chars().rev().collect();
    let head = take(text.chars(), room - tail_room);
    if limit == 0 { String::new() } else { format!("{head}…{tail}") }
}

/// As many characters as fit.
fn take(characters: impl Iterator<Item = char>, limit: usize) -> String {
    let mut used = 0;
    characters
        .take_while(|character| {
            used += char_width(*character);
            used <= limit
        })
        .collect()
}

/// Breaks text between words; `indent` columns are kept free in each line but the first.
pub(super) fn wrap(text: &str, limit: usize, indent: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let word = shorten(word, limit.saturating_sub(indent).max(1));
        let Some(line) = lines.last_mut() else { break };
        if line.trim().is_empty() {
            line.push_str(&word);
        } else if width(line) + 1 + width(&word) <= limit {
            line.push(' ');
            line.push_str(&word);
        } else {
            lines.push(format!("{}{word}", " ".repeat(indent)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorten_keeps_both_ends() {
        let cases = [
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abc…fg"),
            ("abcdefg", 1, "…"),
            ("abcdefg", 0, ""),
            ("漢字漢字", 6, "漢…字"),
            ("漢字漢字", 2, "…"),
        ];
        for (text, limit, expected) in cases {
            assert_eq!(shorten(text, limit), expected, "{text} {limit}");
        }
    }

    #[test]
    fn wrap_indents_what_follows() {
        assert_eq!(wrap("one two  three", 8, 2), ["one two", "  three"]);
        assert_eq!(wrap("abcdefghijkl", 6, 0), ["abc…kl"]);
        assert_eq!(wrap("", 6, 0), [""]);
    }
}
