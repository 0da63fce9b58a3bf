//! Whose hook it is: home, project and policy of the run of the agent that asks, as far as they are known. What they are is
//! settled where hooks are judged.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    Daemon, InForce,
    answer::NOWHERE,
    queue::{Judge, Whose},
};
use crate::{
    config::ConnectorConfig,
    model::{Caller, HookEvent},
};

impl Daemon {
    pub(super) fn whose(
        &self,
        caller: Caller,
        in_force: &InForce,
        config: &ConnectorConfig,
        event: Option<&HookEvent>,
    ) -> Whose {
        // A defect there was answered already, and must not take the row with it.
        let bound = || self.bound(caller, in_force, config, event?).ok();
        match catch_unwind(AssertUnwindSafe(bound)).ok().flatten() {
            Some(bound) => Whose {
                home: bound.home,
                project: bound.project,
                policy: config.enabled.then_some(Judge {
                    name: in_force.policy.name.clone(),
                    digest: in_force.digest.clone(),
                    generation: in_force.generation,
                    session: bound.session,
                }),
            },
            None => Whose { home: NOWHERE.to_owned(), project: NOWHERE.to_owned(), policy: None },
        }
    }
}
