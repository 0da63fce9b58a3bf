//! `defenseclaw config`: says what the daemon's configuration says, and what is wrong with it.
//! Exit codes: 0 fine, 1 mistakes, 2 it cannot be read.

use std::{path::PathBuf, process::ExitCode};

use super::{
    NEGATIVE,
    output::{Out, escape},
    policy::problems,
};
use crate::config::{self, Config, ConfigError};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say every mistake in the configuration
    Check(Args),
    /// Print what holds, with the defaults of what the file leaves out
    Show(Args),
    /// Print the JSON Schema of the file
    Schema,
}

/// Arguments of `check` and `show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file [default: /etc/defenseclaw/config.yaml for root, otherwise ~/.defenseclaw/config.yaml]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(command: &Command, out: &mut Out) -> anyhow::Result<ExitCode> {
    let (args, show) = match command {
        Command::Schema => {
            for line in config::SCHEMA.lines() {
                out.line(line)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Command::Check(args) => (args, false),
        Command::Show(args) => (args, true),
    };
    match config::load(args.config.as_deref()) {
        Ok(config) if show => self::show(&config, args.json, out)?,
        Ok(_) if args.json => {}
        Ok(_) => out.line("nothing wrong")?,
        // Mistakes are the answer, not a failure.
        Err(ConfigError::Wrong(found)) => {
            if args.json {
                found.iter().try_for_each(|problem| out.json(problem))?;
            } else {
                problems::print(&found, out)?;
            }
            return Ok(ExitCode::from(NEGATIVE));
        }
        Err(err) => return Err(err.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// In the form of the file: JSON's texts are YAML's.
fn show(config: &Config, json: bool, out: &mut Out) -> anyhow::Result<()> {
    if json {
        return Ok(out.json(config)?);
    }
    let serde_json::Value::Object(fields) = serde_json::to_value(config)? else { return Ok(()) };
    out.line("version: 1")?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "JSON's form is YAML's for everything else")]
    let line = |indent: &str, key: &str, value: &serde_json::Value| match value {
        serde_json::Value::Null => format!("{indent}# {key}: not set"),
        serde_json::Value::String(text)
            if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) =>
        {
            format!("{indent}{key}: {text}")
        }
        _ => format!("{indent}{key}: {}", escape(value.to_string().as_bytes()).replace("\\\\", "\\")),
    };
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_object()) {
        out.line(&line("", key, value))?;
    }
    out.line("approvals:")?;
    for (key, value) in fields.get("approvals").and_then(serde_json::Value::as_object).into_iter().flatten() {
        out.line(&line("  ", key, value))?;
    }
    out.line("connectors:")?;
    for (name, connector) in
        fields.get("connectors").and_then(serde_json::Value::as_object).into_iter().flatten()
    {
        out.line(&format!("  {name}:"))?;
        for (key, value) in connector.as_object().into_iter().flatten() {
            out.line(&line("    ", key, value))?;
        }
    }
    Ok(())
}
