//! The files that an installation touches, before it, in it, and after it was removed.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{guard::Guard, stage::Stage};

/// Files with their bytes, where there are any.
#[derive(Debug)]
pub(super) struct Kept(BTreeMap<PathBuf, Option<String>>);

impl Kept {
    /// The files that an installation would touch, as they are.
    pub(super) fn read(guard: &Guard, stage: &Stage) -> Result<Self> {
        // Nothing is installed: it says of every file that it has nothing of ours.
        let ended = guard.connector(stage, "verify", &["--json"])?;
        let said: Value = serde_json::from_slice(&ended.stdout).context("verify said no JSON")?;
        let files = said.pointer("/files").and_then(Value::as_array).context("verify said no files")?;
        let paths = files.iter().filter_map(|file| Some((PathBuf::from(file.get("path")?.as_str()?), None)));
        Self(paths.collect()).again()
    }

    /// The same files, as they are now.
    pub(super) fn again(&self) -> Result<Self> {
        let mut now = BTreeMap::new();
        for path in self.0.keys() {
            let text = match fs::read_to_string(path) {
                Ok(text) => Some(text),
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => None,
                Err(err) => return Err(err).with_context(|| format!("cannot read {}", path.display())),
            };
            now.insert(path.clone(), text);
        }
        Ok(Self(now))
    }
}

/// A file that the agent left alone is what it was, byte for byte; of one that it wrote anew all is there but ours.
pub(super) fn check(before: &Kept, installed: &Kept, ran: &Kept, removed: &Kept) -> Result<()> {
    ensure!(!before.0.is_empty(), "an installation has files");
    for (path, removed) in &removed.0 {
        let [before, installed, ran] =
            [before, installed, ran].map(|kept| kept.0.get(path).cloned().flatten());
        let name = path.display();
        ensure!(installed.as_ref() != before.as_ref(), "nothing was installed in {name}");
        let backup = PathBuf::from(format!("{name}.before-defenseclaw"));
        ensure!(!backup.exists(), "{} was left", backup.display());
        if ran == installed {
            ensure!(*removed == before, "{name} became {removed:?}, it was {before:?}");
            continue;
        }
        let ran = ran.with_context(|| format!("the agent removed {name}"))?;
        let removed = removed.as_deref().with_context(|| format!("{name} is gone"))?;
        ensure!(!removed.contains("defenseclaw"), "{name} still has ours: {removed}");
        let (mut expected, found): (Value, Value) =
            (serde_json::from_str(&ran)?, serde_json::from_str(removed)?);
        without_ours(&mut expected);
        ensure!(found == expected, "{name} has {found:#}, not {expected:#}");
    }
    Ok(())
}

/// Takes out every object that names our program, and what is empty then.
fn without_ours(value: &mut Value) -> bool {
    match value {
        Value::Object(fields) => {
            let ours = fields.get("command").and_then(Value::as_str);
            if ours.is_some_and(|command| command.contains("defenseclaw hook ")) {
                return false;
            }
            let had_some = !fields.is_empty();
            fields.retain(|_, field| without_ours(field));
            // A group of hooks is nothing without hooks.
            !(had_some && (fields.is_empty() || fields.keys().all(|key| key == "matcher")))
        }
        Value::Array(items) => {
            let had_some = !items.is_empty();
            items.retain_mut(without_ours);
            !(had_some && items.is_empty())
        }
        _ => true,
    }
}
