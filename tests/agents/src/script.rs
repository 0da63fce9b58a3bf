//! What the scripted model says, in no vendor's protocol: `anthropic` and its like put it into one.

use serde_json::Value;

/// One turn of the model.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    /// It asks for this tool.
    Call(Call),
    /// It says this, and is done.
    Text(String),
}

/// A tool, by the name the client gives it, with its input.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) tool: &'static str,
    pub(crate) input: Value,
}

/// All turns of a conversation.
#[derive(Clone, Debug)]
pub(crate) struct Script(pub(crate) Vec<Turn>);

impl Script {
    /// The turn after `answered` tool calls. The conversation itself says where it is, so a repeated request is
    /// answered as before and a side request uses no turn up.
    pub(crate) fn turn(&self, answered: usize) -> Turn {
        self.0.get(answered).cloned().unwrap_or_else(|| Turn::Text("the script is at its end".into()))
    }

    /// What the model says now, with a note for the log. A request that offers no tools is no part of the script; a tool
    /// that is not offered cannot be asked for.
    pub(crate) fn next(&self, answered: usize, offered: &[&str]) -> (Turn, String) {
        let note = format!("turn {answered}");
        if offered.is_empty() {
            let aside = "a message without tools: no part of the script".to_owned();
            return (Turn::Text("Scripted".into()), aside);
        }
        match self.turn(answered) {
            Turn::Call(call) if !offered.contains(&call.tool) => {
                let note = format!("{note}, but the client offers no {}, only {offered:?}", call.tool);
                (Turn::Text(note.clone()), note)
            }
            turn => (turn, note),
        }
    }

    /// The id a call is given, and its result comes back with.
    pub(crate) fn call_id(turn: usize) -> String {
        format!("toolu_{turn:020}")
    }
}

/// What a tool gave the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToolResult {
    pub(crate) id: String,
    pub(crate) is_error: bool,
    pub(crate) text: String,
}

/// The frames of an event stream whose events say their own type.
pub(crate) fn events(stream: &[Value]) -> String {
    let frame =
        |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default());
    stream.iter().map(frame).collect()
}

/// Content is a text, or blocks of which some have texts.
pub(crate) fn text_of(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    array(content).iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// No list is an empty one.
pub(crate) fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
