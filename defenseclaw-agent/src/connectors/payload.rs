//! From bytes to the fields of one payload. Agents write JSON; what they read may make them write JSON that a strict
//! reader refuses: lone surrogates, nesting without end. Such a payload is repaired and flagged, because an agent
//! that cannot be answered runs its tool. A payload that was cut is an error, and so is everything that is not JSON.

use serde_json::{Map, Value};

/// Values nested deeper than this are replaced by null. Below what `serde_json` accepts.
const DEPTH: usize = 100;

/// Why a payload cannot be answered on its merits; the fail mode answers it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// No byte at all.
    #[error("the payload is empty; the hook must be run by the agent, which writes JSON to its input")]
    Empty,
    /// The end is missing.
    #[error("the payload ends in the middle, after {0} bytes")]
    Cut(usize),
    /// Not JSON.
    #[error("the payload is not JSON: {0}")]
    Syntax(String),
    /// JSON, but not of an event.
    #[error("the payload is not a JSON object")]
    NotAnObject,
    /// An object that does not say which event it is.
    #[error("the payload does not say which event it is; is the hook registered for another agent?")]
    NoEvent,
}

/// The fields of a payload, or of an object in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Payload {
    pub(super) fields: Map<String, Value>,
    pub(super) repaired: bool,
}

impl Payload {
    /// Reads a whole payload. Of duplicate keys the last one counts, as for every agent's own reader.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, PayloadError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(PayloadError::Empty);
        }
        let (value, repaired) = match serde_json::from_slice(bytes) {
            Ok(value) => (value, false),
            Err(err) if err.is_eof() => return Err(PayloadError::Cut(bytes.len())),
            Err(_) => match serde_json::from_str(&repair(bytes)) {
                Ok(value) => (value, true),
                Err(err) if err.is_eof() => return Err(PayloadError::Cut(bytes.len())),
                Err(err) => return Err(PayloadError::Syntax(err.to_string())),
            },
        };
        match value {
            Value::Object(fields) => Ok(Self { fields, repaired }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(PayloadError::NotAnObject)
            }
        }
    }

    /// The complete fields before the cut of a payload that has lost its end.
    pub(super) fn before_cut(bytes: &[u8]) -> Option<Self> {
        let mut inside = Inside::default();
        let mut comma = None;
        for (at, byte) in bytes.iter().enumerate() {
            inside.next(*byte);
            if *byte == b',' && inside.depth == 1 && !inside.string {
                comma = Some(at);
            }
        }
        let mut whole = bytes.get(..comma?)?.to_vec();
        whole.push(b'}');
        Self::read(&whole).ok()
    }

    /// A field that is an object, as a payload of its own; empty if it is not.
    pub(super) fn object(&self, key: &str) -> Self {
        let fields = self.fields.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        Self { fields, repaired: self.repaired }
    }

    /// A text field. Empty texts count as absent.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// Any field; null if it is absent.
    pub(super) fn value(&self, key: &str) -> Value {
        self.fields.get(key).cloned().unwrap_or_default()
    }

    /// A field that may be an object, or a text that holds one.
    pub(super) fn unpacked(&self, key: &str) -> Value {
        match self.fields.get(key) {
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(value @ Value::Object(_)) => value,
                Ok(_) | Err(_) => Value::String(text.clone()),
            },
            Some(value) => value.clone(),
            None => Value::Null,
        }
    }

    /// Whether a field is exactly `true`.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.fields.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }
}

/// Every text in a value, in order, one to a line; none if there is no text.
pub(super) fn texts(value: &Value) -> Option<String> {
    fn collect(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::String(text) if !text.is_empty() => out.push(text.clone()),
            Value::Array(items) => items.iter().for_each(|item| collect(item, out)),
            Value::Object(fields) => {
                fields.iter().filter(|(key, _)| *key != "type").for_each(|(_, item)| collect(item, out));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut out = Vec::new();
    collect(value, &mut out);
    (!out.is_empty()).then(|| out.join("\n"))
}

/// Where in JSON a scan is.
#[derive(Default)]
struct Inside {
    string: bool,
    escape: bool,
    depth: usize,
}

impl Inside {
    fn next(&mut self, byte: u8) {
        if self.string {
            match byte {
                _ if self.escape => self.escape = false,
                b'\\' => self.escape = true,
                b'"' => self.string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// JSON that a strict reader accepts, if anything but text encoding and depth was wrong with it.
fn repair(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut inside = Inside::default();
    let mut rest: &str = &text;
    while let Some(character) = rest.chars().next() {
        let (taken, written) = match surrogate(rest).filter(|_| inside.string && !inside.escape) {
            Some((length, replacement)) => (length, replacement),
            None => (character.len_utf8(), None),
        };
        let (piece, after) = rest.split_at(taken);
        rest = after;
        let deep = inside.depth > DEPTH;
        if taken == character.len_utf8() {
            let mut buffer = [0; 4];
            character.encode_utf8(&mut buffer).bytes().for_each(|byte| inside.next(byte));
        }
        if !deep && inside.depth > DEPTH {
            out.push_str("null");
        } else if !deep {
            out.push_str(written.unwrap_or(piece));
        }
    }
    out
}

/// An escape of a surrogate at the start of the text: how long it is, and what to write unless it can stay.
fn surrogate(text: &str) -> Option<(usize, Option<&'static str>)> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    match unit(0)? {
        0xD800..=0xDBFF => match unit(6) {
            Some(0xDC00..=0xDFFF) => Some((12, None)),
            _ => Some((6, Some("\\ufffd"))),
        },
        0xDC00..=0xDFFF => Some((6, Some("\\ufffd"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_no_reader_takes_is_replaced_and_said() {
        let deep = format!(r#"{{"a":{}1{},"b":2}}"#, "[".repeat(5000), "]".repeat(5000));
        let nested = Payload::read(deep.as_bytes()).unwrap();
        assert!(nested.repaired);
        assert_eq!(nested.value("b"), json!(2));
        for (bytes, expected) in [
            (br#"{"a":"x\ud800y"}"#.as_slice(), "x\u{fffd}y"),
            (br#"{"a":"x\udc00"}"#, "x\u{fffd}"),
            (br#"{"a":"\ud83d\ude00\ud83d"}"#, "\u{1f600}\u{fffd}"),
            (br#"{"a":"\\ud800\ud800"}"#, "\\ud800\u{fffd}"),
            (b"{\"a\":\"\xff!\"}", "\u{fffd}!"),
        ] {
            let payload = Payload::read(bytes).unwrap();
            assert_eq!((payload.text("a").as_deref(), payload.repaired), (Some(expected), true));
        }
    }

    #[test]
    fn clean_payloads_are_left_alone() {
        let payload = Payload::read(br#"{"a":"\ud83d\ude00\u0000\u001b[31m","a":"last","b":[]}"#).unwrap();
        assert_eq!((payload.text("a").as_deref(), payload.repaired), (Some("last"), false));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (bytes, expected) in [
            ("", PayloadError::Empty),
            (" \n", PayloadError::Empty),
            (r#"{"a":"#, PayloadError::Cut(5)),
            (r#"{"a":"b\ud800"#, PayloadError::Cut(13)),
            ("[]", PayloadError::NotAnObject),
            ("7", PayloadError::NotAnObject),
        ] {
            assert_eq!(Payload::read(bytes.as_bytes()).unwrap_err(), expected, "{bytes}");
        }
        for text in ["{]", "{} {}", r#"{"a":1e999}"#, "\u{1b}[31m", "{\"a\":\"\u{1}\"}"] {
            assert!(matches!(Payload::read(text.as_bytes()), Err(PayloadError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn fields_before_a_cut_are_kept() {
        let cut = br#"{"name":"x","input":{"name":"forged, \"name\":\"y\"","b":["#;
        assert_eq!(Payload::before_cut(cut).unwrap().text("name").as_deref(), Some("x"));
        assert!(Payload::before_cut(br#"{"name":"x"#).is_none());
        assert!(Payload::before_cut(b"").is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes: Vec<u8>) {
            drop(Payload::read(&bytes));
            drop(Payload::before_cut(&bytes));
        }

        #[test]
        fn no_text_is_too_much(text in r#"[\[\]{}",:\\ud89DCc0-9a]{0,80}"#) {
            drop(Payload::read(text.as_bytes()));
            drop(Payload::before_cut(text.as_bytes()));
        }
    }
}
