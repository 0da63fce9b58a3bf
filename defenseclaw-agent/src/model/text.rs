//! Bytes that came from processes: untrusted, often but not always UTF-8. Kept exactly; escaping for a terminal is
//! the business of `cli::output`.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize, de};

/// Untrusted bytes. In JSON a string when they are UTF-8, otherwise `{"hex": "…", "lossy": "…"}`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// With U+FFFD for what is not UTF-8. Not safe for a terminal.
    pub fn lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(value: &str) -> Self {
        Self(value.as_bytes().to_vec())
    }
}

impl From<&[u8]> for Text {
    fn from(value: &[u8]) -> Self {
        Self(value.to_vec())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return serializer.serialize_str(text);
        }
        let mut object = serializer.serialize_struct("Text", 2)?;
        object.serialize_field("hex", &hex(&self.0))?;
        object.serialize_field("lossy", &self.lossy())?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Plain(String),
            Bytes { hex: String },
        }
        match Form::deserialize(deserializer)? {
            Form::Plain(text) => Ok(Self(text.into_bytes())),
            Form::Bytes { hex } => {
                unhex(&hex).map(Self).ok_or_else(|| de::Error::custom("odd or invalid hex"))
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    out
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |value, digit| value << 4 | digit)).collect())
}

/// A path as the kernel resolved it, with what the kernel could not tell.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent reservation about the text")]
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KernelPath {
    /// The bytes; absolute unless a flag says otherwise.
    pub text: Text,
    /// Longer than the resolver's bound: `text` is the tail.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Not below the root of a mount tree: pseudo file, detached mount, unreadable entry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unresolved: bool,
    /// The file had no name any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The text the process passed (level `tracepoint`, no file to ask).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_given: bool,
}

impl From<&str> for KernelPath {
    fn from(value: &str) -> Self {
        Self { text: value.into(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn json_keeps_every_byte(bytes: Vec<u8>) {
            let text = Text(bytes);
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text);
        }
    }

    #[test]
    fn hostile_hex_is_an_error() {
        for bad in [r#"{"hex":"0"}"#, r#"{"hex":"zz"}"#, r#"{"hex":"é0"}"#, "7"] {
            assert!(serde_json::from_str::<Text>(bad).is_err(), "{bad}");
        }
    }
}
