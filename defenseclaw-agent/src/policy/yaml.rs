//! YAML text as a small tree in which every node knows its place. Knows nothing of policy.
//!
//! Only what a policy needs: one document of mappings, lists and text. Scalars stay text, whatever they look like: the
//! schema says what they mean. Size, depth and what aliases may unfold to are limited.

use std::{collections::HashMap, sync::Arc};

use granit_parser::{Event, Marker, Options, Parser, ScanError, Span};

use super::problem::{Position, Problem, Source};

/// Bytes of one file.
pub const SIZE_MAX: usize = 1 << 20;
/// Mappings and lists in each other.
const DEPTH_MAX: usize = 16;
/// Nodes after aliases are unfolded. A file without aliases cannot have as many.
const NODES_MAX: usize = 1 << 20;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Node {
    pub(crate) fn position(&self, source: &Arc<Source>) -> Position {
        Position { source: Arc::clone(source), line: self.line, column: self.column }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Text(_) => 0,
            Value::List(items) => items.iter().map(Node::size).sum(),
            Value::Map(pairs) => pairs.iter().map(|(key, value)| key.size() + value.size()).sum(),
        }
    }

    fn depth(&self) -> usize {
        match &self.value {
            Value::Text(_) => 0,
            Value::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Value::Map(pairs) => 1 + pairs.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
        }
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Text(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// The document in the text; none if it is empty.
pub(crate) fn parse(source: &Arc<Source>) -> Result<Option<Node>, Problem> {
    let start = Position { source: Arc::clone(source), line: 1, column: 1 };
    if source.text.len() > SIZE_MAX {
        let size = source.text.len();
        return Err(Problem::at(
            &start,
            format!("the file has {size} bytes, more than {SIZE_MAX}"),
            "split it and use include",
        ));
    }
    let mut options = Options::default();
    options.disallow_directives = true;
    options.emit_unresolved_aliases = true;
    // The tree checks depth itself; these keep the parser's own stacks small before it can.
    options.flow_nesting_limit = 4 * DEPTH_MAX;
    options.block_nesting_limit = 4 * DEPTH_MAX;
    let mut builder = Builder { source, open: Vec::new(), anchors: HashMap::new(), nodes: 0, done: None };
    for event in Parser::new_from_str_with_options(&source.text, options) {
        let (event, span) = event.map_err(|err| builder.broken(&err))?;
        builder.take(event, &span)?;
    }
    Ok(builder.done)
}

/// A collection that has begun.
struct Open {
    node: Node,
    anchor: usize,
    /// Of a mapping: the key whose value comes next.
    key: Option<Node>,
}

struct Builder<'a> {
    source: &'a Arc<Source>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    done: Option<Node>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problem> {
        let at = span.start;
        match event {
            Event::Scalar(text, _, anchor, tag) => {
                self.no_tag(tag.is_some(), &at)?;
                self.nodes += 1;
                self.add(node(&at, Value::Text(text.into_owned())), anchor, &at)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.no_tag(tag.is_some(), &at)?;
                self.begin(node(&at, Value::List(Vec::new())), anchor, &at)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.no_tag(tag.is_some(), &at)?;
                self.begin(node(&at, Value::Map(Vec::new())), anchor, &at)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.add(open.node, open.anchor, &at),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some(known) = self.anchors.get(&anchor) else {
                    return Err(self.problem(&at, "the alias stands inside what it names", ""));
                };
                let copy = Node { line: at.line(), column: at.col() + 1, ..known.clone() };
                self.nodes += copy.size();
                if self.open.len() + copy.depth() > DEPTH_MAX {
                    return Err(self.too_deep(&at));
                }
                self.add(copy, 0, &at)
            }
            Event::UnresolvedAlias(name) => Err(self.problem(
                &at,
                format!("nothing is named {name:?}: a value that starts with * is an alias in YAML"),
                "put quotes around patterns that start with *",
            )),
            Event::DocumentStart(..) if self.done.is_some() => {
                Err(self.problem(&at, "there is a second document", "remove the line ---"))
            }
            Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::StreamStart
            | Event::StreamEnd
            | Event::Anchor(..) => Ok(()),
            _ => Err(self.problem(&at, "this is not supported here", "")),
        }
    }

    fn begin(&mut self, node: Node, anchor: usize, at: &Marker) -> Result<(), Problem> {
        self.nodes += 1;
        if self.open.len() >= DEPTH_MAX {
            return Err(self.too_deep(at));
        }
        self.open.push(Open { node, anchor, key: None });
        Ok(())
    }

    /// A node is complete: it goes into what is open.
    fn add(&mut self, node: Node, anchor: usize, at: &Marker) -> Result<(), Problem> {
        if self.nodes > NODES_MAX {
            return Err(self.problem(at, format!("aliases unfold to more than {NODES_MAX} values"), ""));
        }
        if anchor > 0 {
            self.nodes += node.size();
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.done = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(pairs) => match open.key.take() {
                Some(key) => pairs.push((key, node)),
                None => open.key = Some(node),
            },
            Value::Text(_) => {}
        }
        Ok(())
    }

    fn no_tag(&self, tagged: bool, at: &Marker) -> Result<(), Problem> {
        if tagged {
            return Err(self.problem(
                at,
                "tags (!) are not supported",
                "put quotes around values that start with !",
            ));
        }
        Ok(())
    }

    fn too_deep(&self, at: &Marker) -> Problem {
        self.problem(at, format!("more than {DEPTH_MAX} levels of lists and mappings"), "")
    }

    fn broken(&self, err: &ScanError) -> Problem {
        let quotes = "check indentation; put quotes around values that start with * & ! % @ ` or hold ': '";
        self.problem(err.marker(), format!("this is not YAML: {}", err.info()), quotes)
    }

    fn problem(&self, at: &Marker, message: impl Into<String>, hint: &str) -> Problem {
        let at = Position { source: Arc::clone(self.source), line: at.line().max(1), column: at.col() + 1 };
        Problem::at(&at, message, hint)
    }
}

fn node(at: &Marker, value: Value) -> Node {
    Node { line: at.line().max(1), column: at.col() + 1, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Node>, Problem> {
        parse(&Arc::new(Source { name: "t".into(), text: text.into() }))
    }

    fn said(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn nodes_know_their_place() {
        let node = read("a: 1\nb:\n  - x\n  - {c: d}\n").unwrap().unwrap();
        let Value::Map(pairs) = &node.value else { panic!("{node:?}") };
        let Value::List(items) = &pairs[1].1.value else { panic!("{node:?}") };
        let places: Vec<_> = items.iter().map(|item| (item.line, item.column)).collect();
        assert_eq!(places, [(3, 5), (4, 5)]);
        let Value::Map(inner) = &items[1].value else { panic!("{node:?}") };
        assert_eq!((inner[0].1.line, inner[0].1.column), (4, 9));
    }

    #[test]
    fn what_is_no_tree_is_said_where_it_is() {
        for (text, want) in [
            ("a: **/.env\n", "t:1:4: nothing is named \"*/.env\""),
            ("a: !x y\n", "tags (!) are not supported"),
            ("a: 1\n---\nb: 2\n", "a second document"),
            ("a: [\n", "this is not YAML"),
            ("%YAML 1.2\n---\na: 1\n", "this is not YAML"),
            ("a: &x [*x]\n", "the alias stands inside what it names"),
        ] {
            let said = said(text);
            assert!(said.contains(want), "{text:?} gives {said:?}");
        }
        assert!(read("").unwrap().is_none());
        assert!(read("# only a comment\n").unwrap().is_none());
    }

    #[test]
    fn aliases_unfold_and_bombs_do_not() {
        let node = read("a: &a [x, y]\nb: *a\n").unwrap().unwrap();
        assert_eq!(node.size(), 9);
        let bomb = |level| {
            let items = vec![format!("*a{}", level - 1); 10].join(",");
            format!("b{level}: &a{level} [{items}]\n")
        };
        let bomb: Vec<_> =
            std::iter::once("a: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned()).chain((1..12).map(bomb)).collect();
        assert!(said(&bomb.concat()).contains("aliases unfold to more than"));
        let step = |level| format!("a{level}: &a{level} [*a{}]\n", level - 1);
        let ladder: Vec<_> = std::iter::once("a0: &a0 [x]\n".to_owned()).chain((1..40).map(step)).collect();
        assert!(said(&ladder.concat()).contains("more than 16 levels"));
    }

    #[test]
    fn size_and_depth_are_limited() {
        assert!(said(&"a".repeat(SIZE_MAX + 1)).contains("more than 1048576"));
        assert!(read(&("[".repeat(16) + &"]".repeat(16))).is_ok());
        assert!(said(&("[".repeat(17) + &"]".repeat(17))).contains("more than 16 levels"));
        assert!(read(&"[".repeat(SIZE_MAX)).is_err());
        let steps: String = (0..1000).map(|depth| " ".repeat(depth) + "a:\n").collect();
        assert!(said(&steps).contains("levels"));
    }
}
