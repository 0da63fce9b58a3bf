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
