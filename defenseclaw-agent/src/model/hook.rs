//! What an agent's hook reports, and what we answer. How each agent writes it down is in `connectors`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Content, WallTime, policy::words, tool::ToolCall};

/// Name of the event with which `connector verify` tries whether the daemon answers.
pub const VERIFY_EVENT: &str = "defenseclaw.verify";

words! {
    /// The agents whose hooks we speak.
    Connector {
        /// Anthropic's Claude Code.
        ClaudeCode = "claude-code",
        /// OpenAI's Codex.
        Codex = "codex",
        /// Google's Gemini CLI.
        GeminiCli = "gemini-cli",
        /// Cursor, editor and command line.
        Cursor = "cursor",
        /// OpenClaw, through a plugin.
        OpenClaw = "openclaw",
        /// opencode, through a plugin.
        OpenCode = "opencode",
        /// GitHub Copilot CLI.
        CopilotCli = "copilot-cli",
        /// Windsurf's Cascade.
        Windsurf = "windsurf",
    }
}

words! {
    /// Where in an agent's work a hook fires.
    Phase {
        /// A run of the agent begins, or goes on after a pause.
        SessionStart = "session_start",
        /// A prompt is about to reach the model.
        PromptSubmit = "prompt_submit",
        /// A tool is about to run.
        ToolPre = "tool_pre",
        /// A tool has run, or failed.
        ToolPost = "tool_post",
        /// The agent is about to ask for a permission.
        Permission = "permission",
        /// The agent thinks that it is done.
        Stop = "stop",
        /// A subagent begins.
        SubagentStart = "subagent_start",
        /// A subagent is done.
        SubagentStop = "subagent_stop",
        /// The run ends.
        SessionEnd = "session_end",
        /// Everything else; the vendor's name says what.
        Other = "other",
    }
}

words! {
    /// What an agent gets to hear when we cannot judge: cut input, timeout, no daemon.
    FailMode {
        /// Go on.
        Open = "open",
        /// Whatever can be held is held.
        Closed = "closed",
    }
}

/// One call of a hook. Everything in it was written by the agent or by what it read: untrusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookEvent {
    /// Whose words it came in.
    pub connector: Connector,
    /// What kind of moment it is.
    pub phase: Phase,
    /// The vendor's own name of the event.
    pub name: String,
    /// The agent's own session id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Directory the agent works in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The agent's own log of the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<String>,
    /// The model that speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The agent's own permission mode, in its words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<String>,
    /// Which agent or subagent of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What kind of subagent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_type: Option<String>,
    /// The prompt that this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_id: Option<String>,
    /// The turn that this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<String>,
    /// The prompt at `PromptSubmit`, the last message at `Stop` and `SubagentStop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why a session began or ended, what triggered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The tool calls it speaks of: one before and after a tool, several in a summary of a turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolCall>,
    /// The agent already goes on because a stop was answered with a block: another one could make it go on for ever.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_repeated: bool,
    /// The payload was not clean JSON of tolerable depth; what could not be kept was replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repaired: bool,
    /// What was found in its texts. Of what is secret, only this is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Found>,
    /// Nobody judged it when it happened: the agent's user says later that it happened then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<WallTime>,
}

/// Something that was looked for and is in a text of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// In which text; none if it is one that no rule looks into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Name of the detector, or id of the rule whose pattern it is.
    pub what: String,
    /// Its first characters, its length and the begin of its SHA-256: enough to recognise it, and not to use it.
    pub excerpt: String,
    /// How often.
    pub count: u32,
    /// It was taken out of what is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}

impl HookEvent {
    /// An event that says nothing but what it is.
    pub fn new(connector: Connector, phase: Phase, name: impl Into<String>) -> Self {
        Self {
            connector,
            phase,
            name: name.into(),
            session: None,
            cwd: None,
            transcript: None,
            model: None,
            permission_mode: None,
            agent: None,
            agent_type: None,
            prompt_id: None,
            turn_id: None,
            text: None,
            cause: None,
            tools: Vec::new(),
            stop_repeated: false,
            repaired: false,
            found: Vec::new(),
            late: None,
        }
    }
}

/// What we want an agent to hear. Reasons and notes go to the model or the user as they are, cleaned and cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Reply {
    /// No objection. The agent's own permission rules still apply.
    Allow,
    /// No objection, and the user may know.
    Alert {
        /// For the user.
        note: String,
    },
    /// A person decides.
    Confirm {
        /// Why, for that person and the model.
        reason: String,
    },
    /// It does not happen.
    Block {
        /// Why, for the model.
        reason: String,
    },
}

/// Longest payload of a hook.
pub const PAYLOAD_MAX: usize = 4 << 20;
/// Header of the daemon's reply to a hook: the code to exit with.
pub const EXIT_HEADER: &str = "defenseclaw-exit";
/// Header of the daemon's reply to a hook: how many bytes of the body are for stdout; the rest is for stderr.
pub const STDOUT_HEADER: &str = "defenseclaw-stdout";

/// Header of a hook's request: for how many milliseconds its reply may be held.
pub const HOLD_HEADER: &str = "defenseclaw-hold-ms";
/// Header of the daemon's reply to a hook that is held, with the milliseconds after which there is an answer at the latest. The
/// body begins with a line of its own then: the code to exit with, and how many bytes are for stdout.
pub const HELD_HEADER: &str = "defenseclaw-held-ms";

/// What a hook process prints, and how it exits.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookOutput {
    /// For the agent.
    pub stdout: Vec<u8>,
    /// For the agent where it reads it, otherwise empty.
    pub stderr: Vec<u8>,
    /// The code that means it.
    pub exit_code: u8,
}

impl fmt::Debug for HookOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "exit {} stdout \"{}\" stderr \"{}\"",
            self.exit_code,
            self.stdout.escape_ascii(),
            self.stderr.escape_ascii()
        )
    }
}

/// What a block at an event comes to. The order is that of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// Nothing: the agent does not listen.
    Nothing,
    /// The model is told; what happened has happened.
    Tells,
    /// It has happened, and the model gets our reason in place of the result.
    Withholds,
    /// It does not happen.
    Prevents,
}

/// What the agent's own question to its user is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// There is none, it is not enforced, or nobody has seen it work.
    None,
    /// Only with a person at the terminal; without one it hangs or fails.
    Attended,
    /// Asks where there is somebody, denies where there is not.
    Safe,
}

words! {
    /// How a person is asked about what an agent announces.
    Way {
        /// The agent asks in its own dialogue where somebody can answer it; elsewhere its hook is held.
        Native = "native",
        /// The agent waits for its hook, which is answered when a person has.
        Hold = "hold",
        /// Nobody is asked: the policy's fallback applies at once.
        Fallback = "fallback",
    }
}

/// Whether a person can answer at the agent's terminal. No payload tells; who runs the agent may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attendance {
    /// Somebody sits there.
    Attended,
    /// Nobody does, or nobody knows.
    Unattended,
}

/// What a reply can do at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// What a block comes to.
    pub hold: Hold,
    /// The agent's own question.
    pub ask: Ask,
    /// A note reaches the user.
    pub note: bool,
}
