//! What is in force: the configuration and the policy it names, read together and swapped together.

use nix::unistd::Group;

use super::DaemonError;
use crate::{
    config::Config,
    model::Connector,
    policy::{self, Policy},
    runtime::policy::{PolicyRejected, PolicySource, hash},
};

/// Configuration and policy.
pub(super) struct InForce {
    pub(super) config: Config,
    pub(super) policy: Policy,
    pub(super) digest: String,
    /// Counts what was in force before, from 1.
    pub(super) generation: u64,
    /// Of the control group.
    pub(super) control: Option<u32>,
}

impl InForce {
    pub(super) fn new(config: Config, generation: u64) -> Result<Self, DaemonError> {
        let source = PolicySource::named(&config.policy);
        let rejected = |problems| PolicyRejected { name: source.to_string(), problems };
        let text = source.text().map_err(|problem| rejected(vec![problem]))?;
        let preset = |name: &str| policy::preset(name).map(str::to_owned);
        let policy = policy::load(&source.to_string(), &text, &preset)
            .map_err(|problems| rejected(problems.iter().map(ToString::to_string).collect()))?;
        if let Some(profile) = &config.profile
            && profile != "default"
            && policy.profile(profile).is_none()
        {
            return Err(rejected(vec![format!("it has no profile {profile:?}")]).into());
        }
        let control = match &config.control_group {
            Some(name) => match Group::from_name(name) {
                Ok(Some(group)) => Some(group.gid.as_raw()),
                Ok(None) | Err(_) => return Err(DaemonError::Group { name: name.clone() }),
            },
            None => None,
        };
        Ok(Self { config, policy, digest: hash(&text), generation, control })
    }

    /// The profile that judges an agent.
    pub(super) fn profile(&self, connector: Connector) -> String {
        let named = self.config.profile.clone();
        let own = || self.policy.profile_of(connector.as_str()).map(|profile| profile.name.clone());
        named.or_else(own).unwrap_or_else(|| "default".to_owned())
    }
}
