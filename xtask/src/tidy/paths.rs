//! Every path a file names: in `use` trees, expanded, and inline. `a::{b, c::d}` gives `a::b` and `a::c::d`.

use super::lexer::{Kind, Token};

/// A path and the line its last part is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPath<'source> {
    pub(super) line: usize,
    pub(super) parts: Vec<&'source str>,
}

impl NamedPath<'_> {
    /// Whether the path starts with these parts.
    pub(super) fn is_in(&self, prefix: &str) -> bool {
        let mut parts = self.parts.iter();
        prefix.split("::").all(|part| parts.next() == Some(&part))
    }
}

/// All paths of two parts and more, and single names that are imported.
pub(super) fn named_paths<'source>(tokens: &[Token<'source>]) -> Vec<NamedPath<'source>> {
    let mut reader = Reader { tokens, at: 0, found: Vec::new() };
    let mut imports = false;
    while let Some(kind) = reader.kind(0) {
        match kind {
            Kind::Name("use") => {
                imports = true;
                reader.at += 1;
            }
            Kind::Name(_) => reader.tree(&[], imports),
            Kind::Mark(';') => {
                imports = false;
                reader.at += 1;
            }
            Kind::Separator | Kind::Mark(_) | Kind::Literal => reader.at += 1,
        }
    }
    reader.found
}

struct Reader<'tokens, 'source> {
    tokens: &'tokens [Token<'source>],
    at: usize,
    found: Vec<NamedPath<'source>>,
}

impl<'source> Reader<'_, 'source> {
    fn kind(&self, ahead: usize) -> Option<Kind<'source>> {
        self.tokens.get(self.at + ahead).map(|token| token.kind)
    }

    /// Reads one path, and all that follows its prefix in braces.
    fn tree(&mut self, prefix: &[&'source str], imports: bool) {
        let mut parts = prefix.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        while let Some(Kind::Name(name)) = self.kind(0) {
            parts.push(name);
            self.at += 1;
            match (self.kind(0), self.kind(1)) {
                (Some(Kind::Separator), Some(Kind::Name(_))) => self.at += 1,
                (Some(Kind::Separator), Some(Kind::Mark('{'))) => {
                    self.at += 2;
                    self.group(&parts, imports);
                    return;
                }
                (Some(Kind::Separator), Some(Kind::Mark('*'))) => {
                    self.at += 2;
                    break;
                }
                _ => break,
            }
        }
        if parts.len() > 1 || imports {
            self.found.push(NamedPath { line, parts });
        }
    }

    fn group(&mut self, prefix: &[&'source str], imports: bool) {
        while let Some(kind) = self.kind(0) {
            match kind {
                Kind::Name("as") => self.at += 2,
                Kind::Name(_) => self.tree(prefix, imports),
                Kind::Mark('}') => {
                    self.at += 1;
                    return;
                }
                Kind::Separator | Kind::Mark(_) | Kind::Literal => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::tokens;
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        named_paths(&tokens(source)).into_iter().map(|path| path.parts.join("::")).collect()
    }

    #[test]
    fn use_trees_are_expanded() {
        for (source, expected) in [
            ("use crate::model::Event;", vec!["crate::model::Event"]),
            (
                "use crate::{model::{Event, Loss as L}, tree};",
                vec!["crate::model::Event", "crate::model::Loss", "crate::tree"],
            ),
            ("use std::{fs, io::{self, Read as _}};", vec!["std::fs", "std::io::self", "std::io::Read"]),
            ("use tokio;", vec!["tokio"]),
            ("use crate::model::*;", vec!["crate::model"]),
            ("pub(crate) use ::std::fs::File;", vec!["std::fs::File"]),
        ] {
            assert_eq!(paths(source), expected, "{source}");
        }
    }

    #[test]
    fn inline_paths_are_found() {
        let source = "fn f(x: crate::store::Row) { std::fs::read(y); Vec::<u8>::new(); a.b(); }";
        let found = paths(source);
        assert!(found.contains(&"crate::store::Row".to_owned()));
        assert!(found.contains(&"std::fs::read".to_owned()));
        assert!(!found.iter().any(|path| path == "a"));
    }
}
