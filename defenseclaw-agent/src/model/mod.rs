//! Domain types: what every other room speaks. No I/O, no clock, nothing of the kernel ABI.

mod action;
mod approval;
mod asker;
mod capability;
mod correlation;
mod event;
mod hook;
mod hook_call;
mod ids;
mod loss;
mod missed;
mod policy;
mod record;
mod text;
mod tool;

pub use action::{
    Access, Action, CredChange, EventKind, Exec, ExitStatus, FileRef, ModuleOp, MountOp, NamespaceOp,
    Namespaces, NetEndpoint, PtraceOp, SocketKind, Transport, UnixName,
};
pub use approval::{
    Ancestor, Answerer, Approval, ApprovalId, ApprovalSettled, AskingHook, Grant, GrantEnded, GrantId,
    Outcome, ParseApprovalIdError, Remembered, Ruled, Ruling, Settlement, Subject, Via, Waiter,
};
pub use asker::Asker;
pub use capability::{
    Capability, CapabilityState, Held, Level, Posture, Protection, ProtectionRow, ProtectionState, RuleHold,
    Unproven, best_holds,
};
pub use correlation::{Attributed, Correlated, Correlation, Evidence, EvidenceRef, Finding, Seen};
pub use event::{Event, KernelVerdict, Vantage};
pub use hook::{
    Ask, Attendance, Connector, Control, EXIT_HEADER, FailMode, Found, HELD_HEADER, HOLD_HEADER, Hold,
    HookEvent, HookOutput, PAYLOAD_MAX, Phase, Reply, STDOUT_HEADER, VERIFY_EVENT, Way,
};
pub use hook_call::{Answer, Caller, HookCall, JudgedBy};
pub use ids::{
    BootTime, ParseSessionIdError, ParseToolCallIdError, ProcessKey, SessionId, ToolCallId, WallTime,
};
pub use loss::{Loss, LossReason};
pub use missed::{Missed, REPORT_MAX};
pub use policy::{
    Content, Decision, Effect, Effects, Enforced, Mechanism, Mode, PolicyAction, Privilege, Severity, Verdict,
};
pub use record::{
    AuditRecord, Handover, HandoverStep, LoadedRule, MainExit, Origin, PolicyLoaded, PolicyRefused,
    PostureChange, SessionEnd, SessionStart,
};
pub use text::{KernelPath, Text};
pub use tool::{Intent, McpTool, Target, ToolCall};
