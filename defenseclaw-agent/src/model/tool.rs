//! A tool call as the agent announces it: what it says it will do. What its processes really do is in [`super::Event`].

use serde::{Deserialize, Serialize};

/// One announced action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The agent's id of the call, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The vendor's name of the tool.
    pub tool: String,
    /// What the model passed, as it was.
    pub input: serde_json::Value,
    /// What that comes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intents: Vec<Intent>,
    /// Every text of the result, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The agent says that it failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// It goes on after the call returns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
    /// Process group that ran it, if the result names it. A hint: the text is the tool's to forge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_group: Option<u32>,
    /// The MCP server behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp: Option<McpTool>,
}

/// A tool of an MCP server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpTool {
    /// The server, as the agent's configuration names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The tool, as the server names it.
    pub tool: String,
    /// The command that runs the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Where the server is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A word, path or address of an announced action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The value if it is known, otherwise the source text that will become one.
    pub text: String,
    /// Only running it tells the value: it has a variable, a pattern, or a directory that changes before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

impl Target {
    /// A value that is known.
    pub fn known(text: impl Into<String>) -> Self {
        Self { text: text.into(), unknown: false }
    }

    /// Source text whose value is not known.
    pub fn unknown(text: impl Into<String>) -> Self {
        Self { text: text.into(), unknown: true }
    }

    /// The value, if it is known.
    pub fn value(&self) -> Option<&str> {
        (!self.unknown).then_some(self.text.as_str())
    }
}

/// One effect that a tool call announces. Relative paths are relative to the agent's directory; `~/` is its home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// A command with its arguments.
    Exec(Vec<Target>),
    /// A path that is read or listed.
    Read(Target),
    /// A path that is made or changed.
    Write(Target),
    /// A path that is removed.
    Delete(Target),
    /// An address or URL.
    Connect(Target),
    /// Something that may do anything: why nobody can say what.
    Unparsed(String),
}
