//! The catalogue of bypass techniques: each entry is complete and has a case, each case an entry, and what is stated as a
//! limit has a row in the threat model that no other entry has.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rules::{Finding, finding};

/// The catalogue, the directory of the cases, and what users are told.
pub(super) const CATALOGUE: &str = "tests/bypass/catalogue.json";
pub(super) const CASES: &str = "tests/bypass/src/cases/";
pub(super) const THREAT_MODEL: &str = "docs/threat-model.md";

/// Fields of an entry, and the words they may have; any text where there are none.
const FIELDS: [(&str, &[&str]); 6] = [
    ("id", &[]),
    ("technique", &[]),
    ("source", &[]),
    ("expected", &["blocked", "detected", "stated-limit"]),
    ("level", &["lsm", "any"]),
    ("who", &["root", "user", "both"]),
];

pub(super) fn check(catalogue: &str, cases: &str, threat_model: &str) -> Vec<Finding> {
    let entries = match serde_json::from_str::<Vec<Value>>(catalogue) {
        Ok(entries) => entries,
        Err(error) => return vec![finding(CATALOGUE, error.line(), format!("is not understood: {error}"))],
    };
    let mut findings = Vec::new();
    let written: BTreeSet<&str> = case_ids(cases).collect();
    let stated: BTreeSet<&str> = threat_model.lines().filter_map(row_id).collect();
    let mut known = BTreeSet::new();
    for entry in &entries {
        let id = entry.get("id").and_then(Value::as_str).unwrap_or_default();
        let line = line_of(catalogue, id);
        for (field, words) in FIELDS {
            let value = entry.get(field).and_then(Value::as_str).unwrap_or_default();
            if value.is_empty() || !(words.is_empty() || words.contains(&value)) {
                findings.push(finding(CATALOGUE, line, format!("{id:?} has no good `{field}`: {value:?}")));
            }
        }
        if !known.insert(id) {
            findings.push(finding(CATALOGUE, line, format!("{id:?} is here twice")));
        }
        if !written.contains(id) {
            findings.push(finding(CATALOGUE, line, format!("{id:?} has no case in {CASES}")));
        }
        let is_limit = entry.get("expected").and_then(Value::as_str) == Some("stated-limit");
        if is_limit != stated.contains(id) {
            let message = if is_limit {
                format!("{id:?} is a stated limit without a row in {THREAT_MODEL}")
            } else {
                format!("{id:?} has a row among the limits in {THREAT_MODEL} and is none")
            };
            findings.push(finding(CATALOGUE, line, message));
        }
    }
    for id in written.difference(&known) {
        findings.push(finding(CASES, 1, format!("case {id:?} is not in {CATALOGUE}")));
    }
    for id in stated.difference(&known) {
        findings.push(finding(
            THREAT_MODEL,
            line_of(threat_model, id),
            format!("{id:?} is not in {CATALOGUE}"),
        ));
    }
    findings
}

/// Ids in `case("id", …)`, and in the rows `"id" => …` of a table of cases.
fn case_ids(cases: &str) -> impl Iterator<Item = &str> {
    let calls = cases.split("case(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let rows = cases.lines().filter_map(|line| {
        let (id, rest) = line.trim_start().strip_prefix('"')?.split_once('"')?;
        rest.starts_with(" => \"").then_some(id)
    });
    calls.chain(rows).filter(|id| !id.is_empty())
}

/// The id in the first cell of a table row.
fn row_id(line: &str) -> Option<&str> {
    line.strip_prefix("| `")?.split_once("` |").map(|(id, _)| id)
}

fn line_of(text: &str, id: &str) -> usize {
    let (quoted, coded) = (format!("\"{id}\""), format!("`{id}`"));
    text.lines().position(|line| line.contains(&quoted) || line.contains(&coded)).map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, expected: &str) -> String {
        format!(
            r#"{{"id": "{id}", "technique": "t", "source": "s", "expected": "{expected}", "level": "lsm", "who": "both"}}"#
        )
    }

    fn messages(catalogue: &[String], cases: &str, threat_model: &str) -> Vec<String> {
        let catalogue = format!("[\n{}\n]", catalogue.join(",\n"));
        check(&catalogue, cases, threat_model).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn entries_cases_and_limits_that_fit_pass() {
        let catalogue = [entry("a", "blocked"), entry("b", "stated-limit"), entry("c", "detected")];
        let cases = "case(\"a\", X),\n    case(\"b\", Y)\n macro! {\n    \"c\" => \"run/c\",\n}";
        let model = "| technique | why |\n|---|---|\n| `b` | because |\n";
        assert_eq!(messages(&catalogue, cases, model), Vec::<String>::new());
    }

    #[test]
    fn everything_that_does_not_fit_is_named() {
        let good = (vec![entry("a", "blocked")], "case(\"a\",", "");
        for (catalogue, cases, model, expected) in [
            (good.0.clone(), "", good.2, ":2: \"a\" has no case"),
            (good.0.clone(), "case(\"a\", case(\"z\",", good.2, "case \"z\" is not in"),
            (vec![entry("a", "stated-limit")], good.1, good.2, "without a row in docs/threat-model.md"),
            (good.0.clone(), good.1, "| `a` | no |", "has a row among the limits"),
            (good.0.clone(), good.1, "x\n| `y` | no |", "docs/threat-model.md:2: \"y\" is not in"),
            (vec![entry("a", "blocked"), entry("a", "blocked")], good.1, good.2, "is here twice"),
            (vec![entry("a", "maybe")], good.1, good.2, "no good `expected`: \"maybe\""),
            (vec!["{}".to_owned()], good.1, good.2, "no good `id`"),
            (vec!["{".to_owned()], good.1, good.2, "is not understood"),
        ] {
            let messages = messages(&catalogue, cases, model);
            assert!(messages.iter().any(|message| message.contains(expected)), "{expected}: {messages:?}");
        }
    }
}
