//! Policies of different sizes, none of which speaks of what the worker does: what is measured is the search.

use anyhow::{Result, anyhow};
use defenseclaw::{
    enforce::{Enforcer, Maps, SESSION_PROFILE},
    model::Mode,
    policy::{self, Bindings, Session},
    sensor::Sensor,
};

/// Rules in each.
pub(crate) const NUMBERS: [u32; 3] = [10, 100, 5_000];

/// Puts them in force.
pub(crate) struct Policies {
    enforcer: Enforcer,
}

impl Policies {
    pub(crate) fn new(sensor: &Sensor) -> Result<Self> {
        Ok(Self { enforcer: Enforcer::new(Maps::open(|name| sensor.map(name))?, sensor.seed()) })
    }

    pub(crate) fn put_in_force(&mut self, rules: u32) -> Result<()> {
        let problems = |problems: Vec<policy::Problem>| {
            anyhow!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        };
        let loaded = policy::load("bench", &text(rules), &|_| None).map_err(problems)?;
        let bindings = Bindings {
            home: b"/home/user".to_vec(),
            project: b"/home/user/project".to_vec(),
            profile: "default".to_owned(),
            mode: Some(Mode::Action),
        };
        let image = Session::new(&loaded, &bindings).map_err(problems)?.image().map_err(problems)?;
        self.enforcer.install(SESSION_PROFILE, &image, &[])?;
        Ok(())
    }
}

/// In the proportions of the presets: mostly absolute paths, some names anywhere, some networks.
fn text(rules: u32) -> String {
    use std::fmt::Write as _;
    let mut text = "name: bench\nversion: 1\nrules:\n".to_owned();
    for number in 0..rules {
        let (effect, object) = match number % 10 {
            0..=5 => ("[file.read, file.write, file.delete]", format!("paths: ~/d{number}/secret/**")),
            6 => ("[file.read]", format!("paths: \"**/.secret{number}\"")),
            7 => ("[file.read]", format!("paths: \"**/.d{number}/key\"")),
            8 => ("[exec]", format!("paths: /opt/d{number}/bin/*")),
            _ => ("[net.connect]", format!("addresses: 10.{}.{}.0/24", number / 256 % 256, number % 256)),
        };
        // Writing to a String cannot fail.
        writeln!(
            text,
            "  - {{id: bench.r{number}, effect: {effect}, match: {{{object}}}, severity: high, reason: bench}}"
        )
        .ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_are_policies() {
        for rules in NUMBERS {
            let loaded = policy::load("bench", &text(rules), &|_| None).expect("valid");
            assert_eq!(loaded.rules.len(), rules as usize);
        }
    }
}
