//! Text that goes into replies: reasons for the model, notes for the user. An empty reason makes some agents ignore
//! a denial, control characters reach terminals, and long texts crowd out the conversation.

/// Said when policy gives no reason.
const DEFAULT: &str = "blocked by DefenseClaw policy";
/// Characters that are kept.
const LENGTH: usize = 2000;

/// The text without control characters but line breaks and tabs, trimmed, cut, never empty.
pub(super) fn clean(text: &str) -> String {
    let printable = |c: char| !c.is_control() || c == '\n' || c == '\t';
    let visible: String = text.chars().map(|c| if printable(c) { c } else { ' ' }).collect();
    let mut kept: String = visible.trim().chars().take(LENGTH).collect();
    if kept.len() < visible.trim().len() {
        kept.push('…');
    }
    if kept.is_empty() { DEFAULT.to_owned() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_never_empty_and_never_control_a_terminal() {
        for empty in ["", " \n\t ", "\u{1b}", "\0\0"] {
            assert_eq!(clean(empty), DEFAULT);
        }
        assert_eq!(clean("  a\u{1b}[31mb\nc\u{9b}d "), "a [31mb\nc d");
        assert_eq!(clean(&"é".repeat(5000)).chars().count(), LENGTH + 1);
    }
}
