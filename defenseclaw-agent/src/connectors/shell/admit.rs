//! Which shell text is handed to the parser. It recurses and, on unfinished nesting, tries again and again: text that
//! nests or repeats far beyond what people and models write would cost a stack or minutes. Everything here is
//! linear in the length of the text.

/// Bytes.
const LENGTH: usize = 32 * 1024;
/// `${…}` with anything but a plain name.
const EXPANSIONS: usize = 6;
/// Those, and commands in commands: `$(`, `` ` ``, `<(`, `>(`, `$[`, `=(`.
const SUBSTITUTIONS: usize = 16;
/// Other opening brackets and braces.
const BRACKETS: usize = 96;
/// Words that open or continue a compound command.
const KEYWORDS: usize = 96;

const OPENING: [&str; 14] = [
    "if", "elif", "then", "do", "while", "until", "for", "select", "case", "function", "coproc", "time", "!",
    "always",
];

/// Says why the text is not handed to the parser.
pub(super) fn check(source: &str) -> Result<(), String> {
    if source.len() > LENGTH {
        return Err(format!("shell text of {} bytes, more than {LENGTH}", source.len()));
    }
    if source.contains('\0') {
        return Err("shell text with a NUL byte".to_owned());
    }
    let (mut expansions, mut substitutions, mut brackets) = (0, 0, 0);
    let bytes = source.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before)).copied().unwrap_or(0);
        match (before, byte) {
            (b'$', b'{') => {
                expansions += usize::from(!is_plain_name(bytes.get(at + 1..).unwrap_or_default()));
            }
            (b'$' | b'<' | b'>' | b'=', b'(') | (_, b'`') | (b'$', b'[') => substitutions += 1,
            (_, b'(' | b'{' | b'[') => brackets += 1,
            _ => {}
        }
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '!';
    let keywords = source
        .split(|c: char| !word(c))
        .filter(|word| OPENING.contains(word) || word.starts_with('!'))
        .count();
    for (count, most, what) in [
        (expansions, EXPANSIONS, "parameter expansions"),
        (expansions + substitutions, SUBSTITUTIONS, "substitutions"),
        (brackets, BRACKETS, "brackets"),
        (keywords, KEYWORDS, "keywords"),
    ] {
        if count > most {
            return Err(format!("shell text with {count} {what}, more than {most}"));
        }
    }
    Ok(())
}

/// Whether what follows `${` is a name and the end.
fn is_plain_name(text: &[u8]) -> bool {
    let name = text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    name > 0 && text.get(name) == Some(&b'}')
}
