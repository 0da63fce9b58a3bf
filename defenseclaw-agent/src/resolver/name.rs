//! Host names as policy compares them: labels in lower case, as they stand in a message. Pure.

use hickory_proto::rr::Name;

/// A host name. Labels are bytes: a dot inside one is not a boundary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct HostName {
    /// Each label behind its length, the top level last; no final empty label.
    wire: Vec<u8>,
}

impl HostName {
    /// Of these labels. A label that no message can hold makes a name that no message holds.
    pub(super) fn new<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut wire = Vec::new();
        for label in labels {
            wire.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Self { wire }
    }

    /// Of text with dots between the labels.
    pub(super) fn from_text(text: &str) -> Self {
        Self::new(text.split('.').filter(|label| !label.is_empty()).map(str::as_bytes))
    }

    /// The name itself, then what is left without its first label, and so on to the root, which is empty. Each is what
    /// [`HostName::as_bytes`] of that name would be.
    pub(super) fn ancestry(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::successors(Some(self.wire.as_slice()), |rest| {
            let (len, rest) = rest.split_first()?;
            rest.get(usize::from(*len)..)
        })
    }

    /// For look-ups.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.wire
    }

    /// Labels, the top level last.
    pub(super) fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.ancestry().filter_map(|rest| {
            let (len, rest) = rest.split_first()?;
            rest.get(..usize::from(*len))
        })
    }

    /// With dots, without a final one. Bytes as they are: untrusted.
    pub(super) fn text(&self) -> Vec<u8> {
        if self.wire.is_empty() {
            return b".".to_vec();
        }
        self.labels().collect::<Vec<_>>().join(&b'.')
    }

    /// Whether it is `other` or below it.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.ancestry().any(|suffix| suffix == other.wire)
    }
}

impl From<&Name> for HostName {
    fn from(name: &Name) -> Self {
        Self::new(name.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_inside_a_label_is_no_boundary() {
        let tricky = HostName::new([b"a.example".as_slice(), b"com"]);
        assert!(!tricky.is_within(&HostName::from_text("example.com")));
        assert!(tricky.is_within(&HostName::from_text("com")));
        assert_ne!(tricky, HostName::from_text("a.example.com"));
        assert_eq!(tricky.text(), b"a.example.com");
    }

    #[test]
    fn prefix_siblings_are_not_within() {
        let parent = HostName::from_text("example.com");
        for (name, within) in [
            ("example.com", true),
            ("EXAMPLE.com.", true),
            ("a.b.example.com", true),
            ("badexample.com", false),
            ("example.com.evil.org", false),
            ("com", false),
        ] {
            assert_eq!(HostName::from_text(name).is_within(&parent), within, "{name}");
        }
        assert_eq!(HostName::default().text(), b".");
        assert!(parent.is_within(&HostName::default()));
    }
}
