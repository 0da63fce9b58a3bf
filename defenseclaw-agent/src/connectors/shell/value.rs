//! The value of a word that has nothing to expand: quotes and escapes taken away, a leading `~/` left to stand for
//! the home directory.

use shuck_ast::{LiteralText, Word, WordPart, WordPartNode};

/// None if only a shell can tell.
pub(super) fn of(word: &Word, source: &str) -> Option<String> {
    if word.has_active_brace_expansion() {
        return None;
    }
    let mut value = String::new();
    for part in &word.parts {
        let first = value.is_empty();
        if let WordPart::Literal(literal) = &part.kind {
            let text = literal.as_str(source, part.span);
            let piece = match literal {
                LiteralText::Source => unquoted(text)?,
                // Whether a pattern was escaped can no longer be told.
                LiteralText::Owned(_) | LiteralText::CookedSource(_) => {
                    Some(text.to_owned()).filter(|text| !text.contains(['*', '?', '[']))?
                }
            };
            let home = text.starts_with("~/") || (text == "~" && word.parts.len() == 1);
            if first && piece.starts_with('~') && !home {
                return None;
            }
            value.push_str(&piece);
        } else if let WordPart::SingleQuoted { value: text, dollar: false } = &part.kind {
            quoted(first, text.slice(source), &mut value)?;
        } else if let WordPart::DoubleQuoted { parts, dollar: false } = &part.kind {
            for part in parts {
                quoted(value.is_empty(), &in_double_quotes(part, source)?, &mut value)?;
            }
        } else {
            return None;
        }
    }
    Some(value)
}

/// A quoted `~` is a file of that name; its text would be taken for the home directory.
fn quoted(first: bool, text: &str, value: &mut String) -> Option<()> {
    if first && text.starts_with('~') {
        return None;
    }
    value.push_str(text);
    Some(())
}

/// Without its escapes; none if a pattern is in it.
fn unquoted(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().filter(|next| *next != '\n')),
            '*' | '?' | '[' => return None,
            other => value.push(other),
        }
    }
    Some(value)
}

fn in_double_quotes(part: &WordPartNode, source: &str) -> Option<String> {
    let WordPart::Literal(literal) = &part.kind else { return None };
    let text = literal.as_str(source, part.span);
    if !matches!(literal, LiteralText::Source) {
        return Some(text.to_owned());
    }
    let mut value = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek()) {
            ('\\', Some('\n')) => _ = characters.next(),
            ('\\', Some('$' | '`' | '"' | '\\')) => value.extend(characters.next()),
            (other, _) => value.push(other),
        }
    }
    Some(value)
}
