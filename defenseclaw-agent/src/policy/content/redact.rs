//! One pass over the texts of a hook: what policy says of them, and what is secret taken out. What was found once is
//! taken out wherever it stands in the event, also where its surroundings do not give it away.

use std::{collections::BTreeMap, mem, ops::Range};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Kind, MATCHES_MAX, detect};
use crate::{
    model::{Content, Found, HookEvent, Intent, Phase, Target, ToolCall},
    policy::{Session, image::Entry},
};

/// Things found that are kept of one event.
const FOUND_MAX: usize = 64;
/// Secrets of one event that are looked for everywhere in it.
const SECRETS_MAX: usize = 256;
/// Shorter ones are in other words by chance.
const SECRET_MIN: usize = 8;
/// Secrets shorter than this would be given away by their first characters.
const SHOWN_MIN: usize = 16;
/// Stands for a text that is given up.
const GIVEN_UP: &str = "[too much of it is secret]";
/// Characters shown of a secret.
const SHOWN: usize = 4;

/// What the policy says of the texts of an event, the strictest first; without a policy nothing. Takes what is secret
/// out of the event, and says in it what was found.
pub fn inspect(session: Option<&Session>, event: &mut HookEvent) -> Vec<Entry> {
    let mut pass =
        Pass { session, said: Vec::new(), found: Vec::new(), secrets: BTreeMap::new(), overflow: false };
    let content = match event.phase {
        Phase::PromptSubmit => Some(Content::Prompt),
        Phase::Stop | Phase::SubagentStop => Some(Content::Message),
        Phase::SessionStart
        | Phase::ToolPre
        | Phase::ToolPost
        | Phase::Permission
        | Phase::SubagentStart
        | Phase::SessionEnd
        | Phase::Other => None,
    };
    let before = (event.phase == Phase::ToolPre).then_some(Content::ToolInput);
    let after = (event.phase == Phase::ToolPost).then_some(Content::ToolOutput);
    visit(event, &mut |place, text| {
        let content = match place {
            Place::Text => content,
            Place::Input => before,
            Place::Output => after,
            Place::Other => None,
        };
        pass.text(content, text);
    });
    pass.everywhere(event);
    event.found = pass.found;
    let mut said = pass.said;
    said.sort_by_key(|entry| std::cmp::Reverse((entry.action, entry.raw_action)));
    said
}

#[derive(Clone, Copy)]
enum Place {
    Text,
    Input,
    Output,
    Other,
}

type Visitor<'a> = &'a mut dyn FnMut(Place, &mut String);

/// Every text of an event that can hold what somebody wrote.
fn visit(event: &mut HookEvent, each: Visitor<'_>) {
    if let Some(text) = &mut event.text {
        each(Place::Text, text);
    }
    for text in [&mut event.cause, &mut event.agent_type].into_iter().flatten() {
        each(Place::Other, text);
    }
    for call in &mut event.tools {
        tool(call, each);
    }
}

fn tool(call: &mut ToolCall, each: Visitor<'_>) {
    json(&mut call.input, each);
    if let Some(text) = &mut call.output {
        each(Place::Output, text);
    }
    if let Some(mcp) = &mut call.mcp {
        for text in [&mut mcp.command, &mut mcp.url].into_iter().flatten() {
            each(Place::Other, text);
        }
    }
    for intent in &mut call.intents {
        match intent {
            Intent::Exec(words) => words.iter_mut().for_each(|word| each(Place::Other, &mut word.text)),
            Intent::Read(Target { text, .. })
            | Intent::Write(Target { text, .. })
            | Intent::Delete(Target { text, .. })
            | Intent::Connect(Target { text, .. })
            | Intent::Unparsed(text) => each(Place::Other, text),
        }
    }
}

fn json(value: &mut Value, each: Visitor<'_>) {
    match value {
        Value::String(text) => each(Place::Input, text),
        Value::Array(items) => items.iter_mut().for_each(|item| json(item, each)),
        Value::Object(fields) => {
            for (mut key, mut item) in mem::take(fields) {
                each(Place::Input, &mut key);
                json(&mut item, each);
                fields.insert(key, item);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

struct Pass<'a> {
    session: Option<&'a Session>,
    said: Vec<Entry>,
    found: Vec<Found>,
    /// What is taken out, and what stands in its place.
    secrets: BTreeMap<String, String>,
    /// There was more than is kept there.
    overflow: bool,
}

impl Pass<'_> {
    fn text(&mut self, content: Option<Content>, text: &mut String) {
        let matches = detect(text);
        let mut taken: Vec<(Range<usize>, String)> = Vec::new();
        for found in &matches {
            let what = found.detector.as_str();
            let secret = found.detector.kind() == Kind::Secrets;
            self.add(content, what, text.get(found.range.clone()).unwrap_or_default(), secret);
            if secret {
                taken.push((found.range.clone(), what.to_owned()));
            }
        }
        if let Some(session) = self.session {
            let own = session.own_matches(text);
            for entry in content.map(|content| session.texts(content, &matches, &own)).into_iter().flatten() {
                if !self.said.contains(&entry) {
                    self.said.push(entry);
                }
            }
            for found in own {
                let number = u16::try_from(found.rule).unwrap_or(u16::MAX);
                let id = session.rule(number).map(|rule| rule.id.clone()).unwrap_or_default();
                for range in found.ranges {
                    self.add(content, &id, text.get(range.clone()).unwrap_or_default(), true);
                    taken.push((range, id.clone()));
                }
            }
        }
        // Not all of them were looked for.
        if taken.len() >= MATCHES_MAX {
            GIVEN_UP.clone_into(text);
            self.overflow = true;
            return;
        }
        self.take_out(text, taken);
    }

    fn add(&mut self, content: Option<Content>, what: &str, secret: &str, redacted: bool) {
        let excerpt = excerpt(secret);
        // What is repeated where no rule looks is the same thing said again.
        let same = |found: &Found| {
            found.what == what && found.excerpt == excerpt && (content.is_none() || found.content == content)
        };
        if let Some(known) = self.found.iter_mut().find(|found| same(found)) {
            known.count = known.count.saturating_add(u32::from(content.is_some()));
        } else if self.found.len() < FOUND_MAX {
            self.found.push(Found { content, what: what.to_owned(), excerpt, count: 1, redacted });
        }
    }

    fn take_out(&mut self, text: &mut String, mut taken: Vec<(Range<usize>, String)>) {
        taken.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
        let mut merged: Vec<(Range<usize>, String)> = Vec::new();
        for (range, what) in taken {
            match merged.last_mut() {
                Some((last, _)) if range.start < last.end => last.end = last.end.max(range.end),
                _ => merged.push((range, what)),
            }
        }
        for (range, what) in merged.into_iter().rev() {
            let Some(secret) = text.get(range.clone()) else { continue };
            let mark = format!("[{what} {}]", excerpt(secret));
            if self.secrets.len() >= SECRETS_MAX {
                self.overflow = true;
            } else if secret.len() >= SECRET_MIN {
                self.secrets.insert(secret.to_owned(), mark.clone());
            }
            text.replace_range(range, &mark);
        }
    }

    /// What was found in one text, out of all others: a command's words do not say any more which of them is a key.
    fn everywhere(&self, event: &mut HookEvent) {
        if self.overflow {
            // Which words repeat a secret is not known of all of them.
            visit(event, &mut |place, text| {
                if matches!(place, Place::Other) {
                    GIVEN_UP.clone_into(text);
                }
            });
        }
        if self.secrets.is_empty() {
            return;
        }
        let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(self.secrets.keys());
        let marks: Vec<&String> = self.secrets.values().collect();
        visit(event, &mut |_, text| match &built {
            Ok(search) if search.is_match(text.as_str()) => *text = search.replace_all(text, &marks),
            Ok(_) => {}
            // It has a limit that 256 texts of at most 4 MiB do not reach. If they did: nothing is kept.
            Err(_) => GIVEN_UP.clone_into(text),
        });
    }
}

/// Enough to recognise a secret by, and not to use it.
fn excerpt(secret: &str) -> String {
    let shown: String = if secret.len() < SHOWN_MIN {
        String::new()
    } else {
        secret.chars().take(SHOWN).flat_map(char::escape_default).collect()
    };
    let digest = Sha256::digest(secret.as_bytes());
    let hash = digest.iter().take(4).fold(0_u32, |hash, byte| hash << 8 | u32::from(*byte));
    format!("{shown}… {} bytes sha256:{hash:08x}", secret.len())
}
