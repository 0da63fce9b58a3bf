//! `defenseclaw status`: how the daemon is, as it says itself.

use std::{path::PathBuf, process::ExitCode};

use serde_json::Value;

use super::{
    NEGATIVE,
    output::{self, Out, escape},
    source,
};
use crate::runtime::Client;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its socket [default: that of this user's configuration, then that of the service]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it. The answer is no if nobody answers.
pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<ExitCode> {
    let found = match &args.socket {
        Some(socket) => Client::connect(socket),
        None => source::daemon(),
    };
    let client = match found {
        Ok(client) => client,
        Err(error) => {
            output::note(&error.to_string());
            return Ok(ExitCode::from(NEGATIVE));
        }
    };
    let status = client.status()?;
    if args.json {
        out.json(&status)?;
    } else {
        for line in lines(&status, &client.socket().to_string_lossy()) {
            out.line(&line)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    escape(text.as_bytes())
}

fn lines(status: &Value, socket: &str) -> Vec<String> {
    let at = |path: &str| status.pointer(path).unwrap_or(&Value::Null);
    let said = |path: &str| text(at(path));
    let mut lines =
        vec![format!("daemon    {}, pid {}, {}", said("/version"), said("/pid"), escape(socket.as_bytes()))];
    lines.push(if at("/watch/unwatched").is_null() {
        format!("watches   at level {}: detects, and holds by its answers to hooks", said("/watch/level"))
    } else {
        output::bad(&format!("watches   nothing: {}", said("/watch/unwatched")))
    });
    let mode = if at("/mode").is_null() { "its own".to_owned() } else { said("/mode") };
    lines.push(format!("policy    {}, mode {mode}, generation {}", said("/policy"), said("/generation")));
    lines.push(format!(
        "hooks     {} answered, {} by the fail mode, {} of no session, {}/s",
        said("/answered"),
        said("/failed"),
        said("/watch/unbound"),
        said("/watch/hooks_per_second")
    ));
    lines.push(format!("events    {}, {}/s", said("/watch/events"), said("/watch/events_per_second")));
    match at("/watch/losses").as_object() {
        Some(losses) if !losses.is_empty() => {
            let all: Vec<_> =
                losses.iter().map(|(name, count)| format!("{count} {}", escape(name.as_bytes()))).collect();
            lines.push(output::bad(&format!("missing   {}", all.join(", "))));
        }
        _ => lines.push("missing   nothing".to_owned()),
    }
    lines.push(format!("sessions  {}", said("/watch/watched_sessions")));
    for one in at("/watch/sessions").as_array().into_iter().flatten() {
        let said = |name: &str| text(one.get(name).unwrap_or(&Value::Null));
        lines.push(format!(
            "          {}  {:<12} pid {:<8} uid {:<6} {} events",
            said("session"),
            said("connector"),
            said("pid"),
            said("uid"),
            said("events")
        ));
    }
    for error in at("/watch/errors").as_array().into_iter().flatten() {
        lines.push(output::bad(&format!("error     {}", text(error))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_in_it_and_nothing_reaches_the_terminal_raw() {
        let status = serde_json::json!({
            "version": "1", "pid": 7, "policy": "p\u{1b}[2J", "mode": null, "generation": 2, "answered": 3, "failed": 1,
            "watch": {"level": "none", "unwatched": "not root", "unbound": 1, "losses": {"hook/queue_full": 4},
                "sessions": [{"session": "00", "connector": "codex", "pid": 8, "uid": 9, "events": 10}],
                "errors": ["disk full"]},
        });
        let all = lines(&status, "/run/d.sock").join("\n");
        for part in ["nothing: not root", "4 hook/queue_full", "codex", "disk full", "1 by the fail mode"] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert!(!all.contains("\u{1b}[2J"));
        // Another version says other things.
        assert!(!lines(&Value::Null, "").is_empty());
    }
}
