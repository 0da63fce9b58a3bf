//! Shell text, and what it is read as.

use proptest::prelude::*;

use super::*;
use crate::model::Target;

/// One line per intent: `exec a b`, `read p`; unknown targets in brackets.
fn lines(source: &str) -> Vec<String> {
    let show = |target: &Target| {
        if target.unknown { format!("[{}]", target.text) } else { target.text.clone() }
    };
    intents(source)
        .iter()
        .map(|intent| match intent {
            Intent::Exec(words) => {
                format!("exec {}", words.iter().map(show).collect::<Vec<_>>().join(" "))
            }
            Intent::Read(path) => format!("read {}", show(path)),
            Intent::Write(path) => format!("write {}", show(path)),
            Intent::Delete(path) => format!("delete {}", show(path)),
            Intent::Connect(url) => format!("connect {}", show(url)),
            Intent::Unparsed(_) => "unparsed".to_owned(),
        })
        .collect()
}

#[test]
fn commands_are_found_wherever_they_stand() {
    for (source, expected) in [
        ("ls", vec!["exec ls"]),
        ("a 'b c' \"d e\" f\\ g", vec!["exec a b c d e f g"]),
        ("a && b || c; d & e | f", vec!["exec a", "exec b", "exec c", "exec d", "exec e", "exec f"]),
        ("if a; then b; elif c; then d; else e; fi", vec!["exec a", "exec b", "exec c", "exec d", "exec e"]),
        ("for i in $(a); do b \"$i\"; done", vec!["exec a", "exec b [\"$i\"]"]),
        ("while a; do b; done; until c; do d; done", vec!["exec a", "exec b", "exec c", "exec d"]),
        ("case $(a) in x) b ;; *) c ;; esac", vec!["exec a", "exec b", "exec c"]),
        ("( a; { b; } )", vec!["exec a", "exec b"]),
        ("f() { a; }; f", vec!["exec a", "exec f"]),
        ("x=$(a) b \"$(c)\" `d`", vec!["exec a", "exec c", "exec d", "exec b [\"$(c)\"] [`d`]"]),
        ("a ${x:-$(b)}", vec!["exec b", "exec a [${x:-$(b)}]"]),
        ("a <(b) >(c)", vec!["exec b", "exec c", "exec a [<(b)] [>(c)]"]),
        ("[[ -n $(a) ]] && b", vec!["exec a", "exec b"]),
        ("a <<EOF\n$(b)\nEOF\n", vec!["exec a", "exec b"]),
        ("a <<'EOF'\n$(b)\nEOF\n", vec!["exec a"]),
        ("export X=$(a); echo $((1+$(b)))", vec!["exec a", "exec b", "exec echo [$((1+$(b)))]"]),
        ("! a; time b", vec!["exec a", "exec b"]),
        ("r\\m x", vec!["exec rm x", "delete x"]),
        (
            "cat pass\\wd \"a\\$b\\c\" \\*",
            vec!["exec cat passwd a$b\\c *", "read passwd", "read a$b\\c", "read *"],
        ),
        ("a \\~/x x~ b\\\nc $'\\x41'", vec!["exec a [\\~/x] x~ bc [$'A']"]),
        ("$cmd x", vec!["exec [$cmd] x"]),
        ("# only a comment", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(lines(source), expected, "{source}");
    }
}

#[test]
fn redirections_are_reads_and_writes() {
    for (source, expected) in [
        ("a > x 2>> /y < z", vec!["exec a", "write x", "write /y", "read z"]),
        ("a >& x; b &> y; c 2>&1 >&-", vec!["exec a", "write x", "exec b", "write y", "exec c"]),
        ("a >| x <> y", vec!["exec a", "write x", "read y", "write y"]),
        ("{ a; } > $OUT", vec!["exec a", "write [$OUT]"]),
        ("a > *.txt; b > {x,y}", vec!["exec a", "write [*.txt]", "exec b", "write [{x,y}]"]),
        ("cd /x && a > y > /z > ~/w", vec!["exec cd /x", "exec a", "write [y]", "write /z", "write ~/w"]),
        ("a > '~/x' > ~root/y > \"a b\"", vec!["exec a", "write ['~/x']", "write [~root/y]", "write a b"]),
    ] {
        assert_eq!(lines(source), expected, "{source}");
    }
}

#[test]
fn programs_whose_operands_are_beyond_doubt() {
    for (source, expected) in [
        (
            "cat -n ~/.ssh/id_rsa -- -x",
            vec!["exec cat -n ~/.ssh/id_rsa -- -x", "read ~/.ssh/id_rsa", "read -x"],
        ),
        ("head -n 5 a -", vec!["exec head -n 5 a -", "read a"]),
        ("rm -rf / \"$x\"", vec!["exec rm -rf / [\"$x\"]", "delete /", "delete [\"$x\"]"]),
        ("mv a b c", vec!["exec mv a b c", "read a", "read b", "delete a", "delete b", "write c"]),
        ("cp a", vec!["exec cp a"]),
        ("curl -s https://a.b/c -o x", vec!["exec curl -s https://a.b/c -o x", "connect https://a.b/c"]),
        ("echo https://a.b", vec!["exec echo https://a.b"]),
        ("git clone ssh://a/b", vec!["exec git clone ssh://a/b", "connect ssh://a/b"]),
        (
            "sudo -n env A=1 /bin/cat /x",
            vec![
                "exec sudo -n env A=1 /bin/cat /x",
                "exec env A=1 /bin/cat /x",
                "exec /bin/cat /x",
                "read /x",
            ],
        ),
        ("sudo -u root cat x", vec!["exec sudo -u root cat x"]),
        ("bash -lc 'cat /x | b'", vec!["exec bash -lc cat /x | b", "exec cat /x", "read /x", "exec b"]),
        ("eval \"cat $x\"", vec!["exec eval [\"cat $x\"]", "unparsed"]),
        ("eval cat /x", vec!["exec eval cat /x", "exec cat /x", "read /x"]),
        ("bash -c \"$X\"", vec!["exec bash -c [\"$X\"]", "unparsed"]),
        ("bash x.sh", vec!["exec bash x.sh"]),
        (
            "apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: b\n+x\n*** End Patch\nEOF\n",
            vec!["write b", "exec apply_patch"],
        ),
    ] {
        assert_eq!(lines(source), expected, "{source}");
    }
}

#[test]
fn what_cannot_be_read_is_said_to_be_so() {
    for source in ["if a", "a 'b", "a |", "( a", "a\0b", "case x in", "))"] {
        assert_eq!(lines(source), ["unparsed"], "{source}");
    }
    for source in [
        "( ",
        "$(",
        "${a:-",
        "`",
        "if ",
        "time ",
        "coproc ",
        "! ",
        "[[ ( ",
        "case a in a) ",
        "<(",
        "$((",
        "{ ",
    ] {
        assert_eq!(lines(&source.repeat(2000)), ["unparsed"], "{source}");
    }
    let five = (0..5).fold("true".to_owned(), |inner, _| format!("eval {inner}"));
    assert_eq!(lines(&five).last().map(String::as_str), Some("unparsed"));
    assert!(intents(&"a;".repeat(5000)).len() == INTENTS + 1);
}

const PIECES: [&str; 48] = [
    "a ",
    "$x",
    "'",
    "\"",
    "`",
    "$(",
    ")",
    "${",
    "}",
    "${a:-",
    "{ ",
    "; ",
    "\n",
    "| ",
    "&& ",
    "<<E\n",
    "E\n",
    "> ",
    "< ",
    "if ",
    "then ",
    "fi ",
    "for i in ",
    "do ",
    "done ",
    "case x in ",
    "a) ",
    ";; ",
    "esac ",
    "[[ ",
    "]] ",
    "((",
    "))",
    "f() ",
    "time ",
    "! ",
    "coproc ",
    "\\",
    "#",
    "é",
    "\0",
    "*",
    "~",
    "=(",
    "<(",
    "eval ",
    "bash -c ",
    "$'\\x",
];

proptest! {
    #[test]
    fn no_text_is_too_much(text in ".{0,200}") {
        let _ = intents(&text);
    }

    #[test]
    fn no_soup_of_syntax_is_too_much(
        pieces in prop::collection::vec(prop::sample::select(PIECES.as_slice()), 0..30),
        times in 1_usize..20,
    ) {
        let _ = intents(&pieces.concat().repeat(times));
    }
}
