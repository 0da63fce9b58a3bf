//! The patch format of `apply_patch`: which files a patch makes, changes, moves and removes. Only headers are read.

use crate::model::{Intent, Target};

/// What a patch does to files; `Unparsed` if it is not a patch.
pub(super) fn intents(patch: &str) -> Vec<Intent> {
    let mut found = Vec::new();
    let mut updated: Option<&str> = None;
    let mut begun = false;
    for line in patch.lines() {
        let line = line.trim_end();
        // Content lines start with a space, a sign or `@@`; headers with stars.
        begun |= line.trim_start() == "*** Begin Patch";
        let Some(header) = line.strip_prefix("*** ").filter(|_| begun) else { continue };
        if let Some(path) = header.strip_prefix("Add File: ") {
            found.push(Intent::Write(Target::known(path.trim())));
            updated = None;
        } else if let Some(path) = header.strip_prefix("Update File: ") {
            found.push(Intent::Read(Target::known(path.trim())));
            found.push(Intent::Write(Target::known(path.trim())));
            updated = Some(path.trim());
        } else if let Some(path) = header.strip_prefix("Delete File: ") {
            found.push(Intent::Delete(Target::known(path.trim())));
            updated = None;
        } else if let Some(path) = header.strip_prefix("Move to: ") {
            found.extend(updated.map(|from| Intent::Delete(Target::known(from))));
            found.push(Intent::Write(Target::known(path.trim())));
        }
    }
    if found.is_empty() {
        found.push(Intent::Unparsed("not a patch with file headers".to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_the_files() {
        let patch = "*** Begin Patch\n*** Add File: a b.txt\n+*** Delete File: not\n*** Update File: c\n*** Move to: d\n@@\n-x\n\
                     *** Delete File: /e\n*** End Patch\n";
        let path = |path: &str| Target::known(path);
        assert_eq!(
            intents(patch),
            [
                Intent::Write(path("a b.txt")),
                Intent::Read(path("c")),
                Intent::Write(path("c")),
                Intent::Delete(path("c")),
                Intent::Write(path("d")),
                Intent::Delete(path("/e")),
            ]
        );
        for text in ["", "*** Add File: a", "rm -rf /"] {
            assert!(matches!(intents(text).as_slice(), [Intent::Unparsed(_)]), "{text}");
        }
    }
}
