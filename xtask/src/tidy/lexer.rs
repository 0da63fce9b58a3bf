//! Cuts Rust source into the few tokens the rules look at. Comments and the text of literals are left out, so that
//! no rule is fooled by them.

/// A piece of source and the line it starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'source> {
    pub(super) line: usize,
    pub(super) kind: Kind<'source>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'source> {
    /// An identifier or keyword; without the `r#` of a raw one.
    Name(&'source str),
    /// `::`
    Separator,
    /// Any other character that is not blank.
    Mark(char),
    /// A string, byte or character literal, whatever is in it.
    Literal,
}

pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = next(rest, first);
        if let Some(kind) = kind {
            tokens.push(Token { line, kind });
        }
        let (taken, left) = rest.split_at(length.max(first.len_utf8()).min(rest.len()));
        line += taken.matches('\n').count();
        rest = left;
    }
    tokens
}

/// The token at the start, if it counts, and the bytes it takes.
fn next(rest: &str, first: char) -> (Option<Kind<'_>>, usize) {
    if rest.starts_with("//") {
        return (None, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (None, block_comment(rest));
    }
    if rest.starts_with("::") {
        return (Some(Kind::Separator), 2);
    }
    if let Some(length) = raw_string(rest) {
        return (Some(Kind::Literal), length);
    }
    let prefix = ["b", "c", ""].into_iter().find(|prefix| {
        rest.strip_prefix(prefix)
            .is_some_and(|after| after.starts_with('"') || (*prefix == "b" && after.starts_with('\'')))
    });
    if let Some(prefix) = prefix {
        return (Some(Kind::Literal), prefix.len() + quoted(rest.get(prefix.len()..).unwrap_or_default()));
    }
    if first == '\'' {
        // `'x'` and `'\n'` are characters, `'x` alone is a lifetime.
        let mut after = rest.chars().skip(1);
        let is_character = after.next() == Some('\\') || after.next() == Some('\'');
        return if is_character { (Some(Kind::Literal), quoted(rest)) } else { (Some(Kind::Mark(first)), 1) };
    }
    if first.is_alphabetic() || first == '_' {
        let body = rest.strip_prefix("r#").unwrap_or(rest);
        let end = body
            .find(|character: char| !character.is_alphanumeric() && character != '_')
            .unwrap_or(body.len());
        let (name, _) = body.split_at(end);
        return (Some(Kind::Name(name)), rest.len() - body.len() + end);
    }
    ((!first.is_whitespace()).then_some(Kind::Mark(first)), first.len_utf8())
}

/// Length of a block comment, which may hold others.
fn block_comment(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(pair) = bytes.get(at..at + 2) {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Length of a raw string (`r"…"`, `br#"…"#`), if one starts here.
fn raw_string(rest: &str) -> Option<usize> {
    let body = ["r", "br", "cr"].into_iter().find_map(|prefix| {
        rest.strip_prefix(prefix).filter(|after| after.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let content = body.get(hashes + 1..)?;
    let length = content.find(&end).map_or(content.len(), |at| at + end.len());
    Some(rest.len() - content.len() + length)
}

/// Length of a quoted literal with backslash escapes, quotes included.
fn quoted(rest: &str) -> usize {
    let mut characters = rest.char_indices();
    let Some((_, quote)) = characters.next() else { return 0 };
    while let Some((at, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if character == quote {
            return at + 1;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str) -> Vec<&str> {
        let names = tokens(source).into_iter().filter_map(|token| match token.kind {
            Kind::Name(name) => Some(name),
            Kind::Separator | Kind::Mark(_) | Kind::Literal => None,
        });
        names.collect()
    }

    #[test]
    fn comments_and_literals_hide_their_text() {
        for (source, expected) in [
            ("a // b\nc", vec!["a", "c"]),
            ("a /* b /* c */ d */ e", vec!["a", "e"]),
            (r#"a "b \" c" d"#, vec!["a", "d"]),
            (r##"a r#"b " c"# d"##, vec!["a", "d"]),
            (r#"a r"b\" c"#, vec!["a", "c"]),
            (r#"a b"c" b'd' 'e' '\'' '\n' f"#, vec!["a", "f"]),
            ("fn a<'b>(c: &'b str)", vec!["fn", "a", "b", "c", "b", "str"]),
            ("r#type bread crate", vec!["type", "bread", "crate"]),
            ("\"never ends", vec![]),
            ("/* never ends", vec![]),
            ("'", vec![]),
            ("ä::ö", vec!["ä", "ö"]),
        ] {
            assert_eq!(names(source), expected, "{source}");
        }
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let source = "a\n/* x\n y */ b \"\n\" c\n\nd";
        let lines: Vec<usize> =
            tokens(source).into_iter().filter(|t| t.kind != Kind::Literal).map(|t| t.line).collect();
        assert_eq!(lines, [1, 3, 4, 6]);
    }
}
