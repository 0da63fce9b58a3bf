//! What the guest says on the control port: `ready`, `missing N`, `files LENGTH` with that many bytes, `exit N`.

/// The state of a guest, as far as it has been told.
#[derive(Debug, Default)]
pub(super) struct Control {
    buffer: Vec<u8>,
    /// Bytes of the archive that are still to come.
    expected: usize,
    /// The guest has started the command.
    pub(super) ready: bool,
    /// Indexes of wanted paths that the guest does not have.
    pub(super) missing: Vec<usize>,
    /// Archive of the wanted paths it has.
    pub(super) files: Vec<u8>,
    /// Exit code of the command; the last thing a guest says.
    pub(super) exit: Option<u8>,
    /// A line we do not know.
    pub(super) nonsense: Option<String>,
}

impl Control {
    /// Takes the next bytes, however they are cut.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        loop {
            if self.expected > 0 {
                let taken: Vec<u8> = self.buffer.drain(..self.expected.min(self.buffer.len())).collect();
                self.expected -= taken.len();
                self.files.extend_from_slice(&taken);
                if self.expected > 0 {
                    return;
                }
            }
            let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') else { return };
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim());
        }
    }

    fn line(&mut self, line: &str) {
        let (word, number) = line.split_once(' ').unwrap_or((line, ""));
        match (word, number.parse::<usize>()) {
            ("ready", _) => self.ready = true,
            ("missing", Ok(index)) => self.missing.push(index),
            ("files", Ok(length)) => self.expected = length,
            ("exit", Ok(code)) => self.exit = Some(u8::try_from(code).unwrap_or(u8::MAX)),
            _ => self.nonsense = Some(line.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_result() {
        let said = b"ready\nmissing 1\nfiles 7\n\nexit 9exit 42\n";
        for cut in 0..said.len() {
            let mut control = Control::default();
            control.receive(&said[..cut]);
            control.receive(&said[cut..]);
            assert!(control.ready);
            assert_eq!(control.missing, [1]);
            assert_eq!(control.files, b"\nexit 9");
            assert_eq!(control.exit, Some(42));
            assert_eq!(control.nonsense, None);
        }
    }

    #[test]
    fn nonsense_is_kept_and_no_exit_is_made_up() {
        let mut control = Control::default();
        control.receive(b"exit\nexit x\n");
        assert_eq!(control.exit, None);
        assert_eq!(control.nonsense.as_deref(), Some("exit x"));
    }
}
