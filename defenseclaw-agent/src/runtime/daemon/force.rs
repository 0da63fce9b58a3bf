//! What is in force: the configuration and the policy it names, read together and swapped together.

use nix::unistd::Group;

use super::DaemonError;
use crate::{
    config::Config,
    model::Connector,
    policy::Policy,
    runtime::policy::{PolicyRejected, PolicySource},
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
        let (policy, digest) = source.load()?;
        if let Some(profile) = &config.profile
            && profile != "default"
            && policy.profile(profile).is_none()
        {
            let problem = format!("it has no profile {profile:?}");
            return Err(PolicyRejected::new(&source, [problem]).into());
        }
        let control = match &config.control_group {
            Some(name) => match Group::from_name(name) {
                Ok(Some(group)) => Some(group.gid.as_raw()),
                Ok(None) | Err(_) => return Err(DaemonError::Group { name: name.clone() }),
            },
            None => None,
        };
        Ok(Self { config, policy, digest, generation, control })
    }

    /// The profile that judges an agent.
    pub(super) fn profile(&self, connector: Connector) -> String {
        let named = self.config.profile.clone();
        let own = || self.policy.profile_of(connector.as_str()).map(|profile| profile.name.clone());
        named.or_else(own).unwrap_or_else(|| "default".to_owned())
    }
}
