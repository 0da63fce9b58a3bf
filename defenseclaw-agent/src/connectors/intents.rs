//! From a tool's name and input to what it will do. Each agent's file has the table of its tools.

use serde_json::Value;

use super::{
    patch,
    shell::{self, programs::is_url},
};
use crate::model::{Intent, Target};

/// Which field of a tool's input says what.
pub(super) enum Takes {
    /// Shell text.
    Shell(&'static str),
    /// Shell text, and the field that names the directory it runs in, if that is not the agent's own.
    ShellIn(&'static str, &'static str),
    /// A file or directory to read.
    Read(&'static str),
    /// A directory to look into; the agent's own if it is not there.
    List(&'static str),
    /// A file to make or replace.
    Write(&'static str),
    /// A file to change.
    Edit(&'static str),
    /// A file to remove.
    Delete(&'static str),
    /// A patch with file headers.
    Patch(&'static str),
    /// A URL.
    Url(&'static str),
    /// Text with URLs in it.
    Urls(&'static str),
}

/// What a call of a tool announces; nothing for tools that are not in the table.
pub(super) fn of(table: &[(&str, Takes)], tool: &str, input: &Value) -> Vec<Intent> {
    let rows = table.iter().filter(|(name, _)| *name == tool);
    rows.flat_map(|(_, takes)| taken(takes, input)).collect()
}

fn taken(takes: &Takes, input: &Value) -> Vec<Intent> {
    let (Takes::Shell(key)
    | Takes::ShellIn(key, _)
    | Takes::Read(key)
    | Takes::List(key)
    | Takes::Write(key)
    | Takes::Edit(key)
    | Takes::Delete(key)
    | Takes::Patch(key)
    | Takes::Url(key)
    | Takes::Urls(key)) = takes;
    let text = match input.get(key) {
        Some(Value::String(text)) => text.as_str(),
        None | Some(Value::Null) if matches!(takes, Takes::List(_)) => ".",
        _ => return vec![Intent::Unparsed(format!("the input has no text `{key}`"))],
    };
    let target = || Target::known(text);
    match takes {
        Takes::Shell(_) => shell::intents(text),
        Takes::ShellIn(_, directory) => {
            let mut found = shell::intents(text);
            match input.get(directory) {
                None | Some(Value::Null) => {}
                Some(Value::String(directory)) if directory.is_empty() => {}
                directory => found.iter_mut().for_each(|intent| run_in(intent, directory)),
            }
            found
        }
        Takes::Patch(_) => patch::intents(text),
        Takes::Read(_) | Takes::List(_) => vec![Intent::Read(target())],
        Takes::Write(_) => vec![Intent::Write(target())],
        Takes::Edit(_) => vec![Intent::Read(target()), Intent::Write(target())],
        Takes::Delete(_) => vec![Intent::Delete(target())],
        Takes::Url(_) => vec![Intent::Connect(target())],
        Takes::Urls(_) => urls(text),
    }
}

/// The command runs in this directory. A program by a relative path is no longer known: its words stay what they are.
fn run_in(intent: &mut Intent, directory: Option<&Value>) {
    let relative = |target: &Target| !target.unknown && !target.text.starts_with(['/', '~']);
    match intent {
        Intent::Read(path) | Intent::Write(path) | Intent::Delete(path) if relative(path) => {
            match directory.and_then(Value::as_str) {
                Some(directory) => path.text = format!("{}/{}", directory.trim_end_matches('/'), path.text),
                None => path.unknown = true,
            }
        }
        Intent::Exec(words) => {
            if let Some(program) = words.first_mut().filter(|it| relative(it) && it.text.contains('/')) {
                program.unknown = true;
            }
        }
        Intent::Read(_) | Intent::Write(_) | Intent::Delete(_) | Intent::Connect(_) | Intent::Unparsed(_) => {
        }
    }
}

fn urls(text: &str) -> Vec<Intent> {
    let words = text.split(|c: char| c.is_whitespace() || "<>\"'()".contains(c));
    words.filter(|word| is_url(word)).map(|word| Intent::Connect(Target::known(word))).collect()
}

/// A tool of an MCP server: the server does what it likes, but it is told a path or an address in so many words.
pub(super) fn mcp(input: &Value) -> Vec<Intent> {
    let mut found =
        vec![Intent::Unparsed("what a tool of an MCP server does is up to the server".to_owned())];
    for (key, value) in input.as_object().into_iter().flatten() {
        let Some(text) = value.as_str() else { continue };
        match key.as_str() {
            "url" | "uri" if is_url(text) => found.push(Intent::Connect(Target::known(text))),
            "path" | "file_path" | "filePath" | "filename" if text.starts_with('/') => {
                found.push(Intent::Read(Target::known(text)));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn inputs_of_a_wrong_type_are_unparsed() {
        let table =
            [("Read", Takes::Read("path")), ("Ls", Takes::List("path")), ("Fetch", Takes::Urls("prompt"))];
        for (tool, input, expected) in [
            ("Read", json!({"path": "/a"}), vec![Intent::Read(Target::known("/a"))]),
            ("Read", json!({"path": 7}), vec![Intent::Unparsed("the input has no text `path`".to_owned())]),
            ("Read", json!(null), vec![Intent::Unparsed("the input has no text `path`".to_owned())]),
            ("Ls", json!({}), vec![Intent::Read(Target::known("."))]),
            ("Ls", json!({"path": ["x"]}), vec![Intent::Unparsed("the input has no text `path`".to_owned())]),
            (
                "Fetch",
                json!({"prompt": "see <http://a/b>, not c"}),
                vec![Intent::Connect(Target::known("http://a/b"))],
            ),
            ("Other", json!({"path": "/a"}), vec![]),
        ] {
            assert_eq!(of(&table, tool, &input), expected, "{tool} {input}");
        }
    }

    #[test]
    fn a_command_s_own_directory_is_where_its_paths_begin() {
        let table = [("Run", Takes::ShellIn("command", "in"))];
        let command = "./x a; cat b /c ~/d > $e; cat f/g";
        let of = |directory: Value| of(&table, "Run", &json!({"command": command, "in": directory}));
        let paths = |found: &[Intent]| -> Vec<(String, bool)> {
            let each = |intent: &Intent| match intent {
                Intent::Read(path) | Intent::Write(path) => Some((path.text.clone(), path.unknown)),
                Intent::Exec(words) => words.first().map(|word| (word.text.clone(), word.unknown)),
                Intent::Delete(_) | Intent::Connect(_) | Intent::Unparsed(_) => None,
            };
            found.iter().filter_map(each).collect()
        };
        let here = paths(&of(json!(null)));
        assert_eq!(paths(&of(json!(""))), here);
        let known = |text: &str| (text.to_owned(), false);
        assert!(here.contains(&known("./x")) && here.contains(&known("b")) && here.contains(&known("f/g")));
        for (directory, b, g) in [("/y/", "/y/b", "/y/f/g"), ("y", "y/b", "y/f/g"), ("~", "~/b", "~/f/g")] {
            let found = paths(&of(json!(directory)));
            for wanted in [known(b), known(g), known("/c"), known("~/d"), known("cat"), ("./x".into(), true)]
            {
                assert!(found.contains(&wanted), "{wanted:?} in {directory} of {found:?}");
            }
        }
        let nowhere = paths(&of(json!(7)));
        assert!(nowhere.contains(&("b".to_owned(), true)) && nowhere.contains(&known("/c")), "{nowhere:?}");
    }

    #[test]
    fn mcp_inputs_name_paths_and_addresses() {
        let found = mcp(&json!({"path": "/a", "url": "https://b", "uri": "c", "filename": "d", "x": 1}));
        assert_eq!(found.len(), 3);
        assert_eq!(mcp(&json!("text")).len(), 1);
    }
}
