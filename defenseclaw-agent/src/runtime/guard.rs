//! Enforcement of one session: the policy in force, its replacement by another one, the files it protects, and the proof
//! that it is enforced.

use std::{fmt::Display, sync::Arc, time::Instant};

use tracing::{debug, info, warn};

use super::{
    clock,
    confine::ConfineError,
    names::{self, Names},
    policy::{self, Compiled, Directories, PolicyOptions, PolicyRejected},
    recorder::Settled,
    run::RunError,
    word,
};
use crate::{
    enforce::{
        Attempts, CANARY_PROFILE, EnforceError, Enforcer, Identities, Maps, Pauses, SESSION_PROFILE, Stopped,
        Trap, holds, posture,
    },
    launcher::{Canary, Cgroup, Forbidden, Placement},
    model::{
        BootTime, Event, Level, Loss, Mode, PolicyLoaded, PolicyRefused, Posture, PostureChange, Protection,
        SessionId, Unproven, Waiter,
    },
    resolver::ResolverStats,
    sensor::Sensor,
};

/// Session of the canary's records, which are left out of the audit. Ids of sessions begin with their time.
pub(super) const CANARY_SESSION: SessionId = SessionId(u64::MAX);

/// The policy of a session, and what proves it.
pub(super) struct Guard {
    enforcer: Enforcer,
    session: SessionId,
    options: PolicyOptions,
    directories: Directories,
    protection: Protection,
    in_force: Compiled,
    /// Or why names cannot be resolved for this session.
    names: Result<Names, String>,
    /// What is in force was put there by somebody who is gone: of `in_force` only what the audit says of it is known.
    inherited: bool,
    /// Those whom the kernel has stopped; none where nobody is asked.
    pauses: Option<Pauses>,
    proof: Option<Proof>,
}

/// The check of enforcement.
struct Proof {
    // Dropped first: it has the files of the trap open only for moments, but it is a process.
    canary: Option<Canary>,
    trap: Trap,
    posture: Posture,
}

impl Guard {
    /// Puts the policy in force. To be called when the programs are attached, and before the command starts.
    pub(super) fn install(
        sensor: &Sensor,
        session: SessionId,
        options: &PolicyOptions,
        directories: Directories,
        compiled: Compiled,
        protection: &Protection,
        mut names: Result<Names, String>,
    ) -> Result<(Self, PolicyLoaded), RunError> {
        let mut enforcer = Enforcer::new(Maps::open(|name| sensor.map(name))?, sensor.seed());
        let pauses = compiled.image.asks.map(|_| enforcer.ask(|name| sensor.map(name))).transpose()?;
        let loaded = put_in_force(&mut enforcer, names.as_mut().ok(), session, &compiled)?;
        let guard = Self {
            enforcer,
            session,
            options: options.clone(),
            directories,
            protection: protection.clone(),
            in_force: compiled,
            names,
            inherited: false,
            pauses,
            proof: None,
        };
        Ok((guard, loaded))
    }

    /// Takes over what somebody who is gone has put in force, and proves it again. It stays in force as it is until the
    /// policy is read again; see [`Guard::reload`].
    pub(super) fn adopt(
        sensor: &mut Sensor,
        options: PolicyOptions,
        directories: Directories,
        loaded: &PolicyLoaded,
        placement: &Placement,
    ) -> Result<(Self, Option<PostureChange>), RunError> {
        let cgroup = placement.cgroup();
        let names = Names::adopt(sensor, placement);
        // The same text says the same.
        let compiled = policy::compile(&options, &directories).ok();
        let known =
            compiled.filter(|compiled| compiled.digest == loaded.digest && compiled.mode == loaded.mode);
        let mut enforcer = Enforcer::adopt(Maps::open(|name| sensor.map(name))?, sensor.seed())?;
        let asks = known.as_ref().is_some_and(|known| known.image.asks.is_some());
        let pauses = asks.then(|| enforcer.ask(|name| sensor.map(name))).transpose()?;
        let mut guard = Self {
            enforcer,
            session: loaded.session,
            options,
            directories,
            protection: sensor.protection().clone(),
            in_force: known.unwrap_or_else(|| Compiled::known(loaded)),
            names,
            inherited: true,
            pauses,
            proof: None,
        };
        // What was not proven at the start is no reason to take off what holds.
        let allowed = std::mem::replace(&mut guard.options.allow_degraded, true);
        let change = guard.prove(sensor, cgroup);
        guard.options.allow_degraded = allowed;
        Ok((guard, change?))
    }

    /// Proves, before the command starts, that what is to be blocked is. Nothing to prove: none.
    pub(super) fn prove(
        &mut self,
        sensor: &mut Sensor,
        cgroup: Option<&Cgroup>,
    ) -> Result<Option<PostureChange>, RunError> {
        if self.in_force.mode == Mode::Observe {
            return Ok(None);
        }
        let trap = Trap::set()?;
        self.enforcer.install(CANARY_PROFILE, &trap.image(), &[])?;
        let mut proof = Proof { canary: None, trap, posture: Posture::Off };
        proof.posture = proof.check(sensor, cgroup);
        let posture = proof.posture.clone();
        let missed = match &posture {
            Posture::Degraded { which } => which.iter().filter(|one| self.promises(one)).cloned().collect(),
            Posture::Enforced | Posture::Off => Vec::new(),
        };
        if !missed.is_empty() && !self.options.allow_degraded {
            return Err(RunError::Unproven { which: missed });
        }
        self.proof = Some(proof);
        Ok(Some(self.change(posture)))
    }

    /// Whether this should have been refused. Below level `lsm` a policy is not taken that needs more than addresses.
    fn promises(&self, unproven: &Unproven) -> bool {
        self.protection.level == Level::Lsm || !["open", "exec"].contains(&unproven.operation.as_str())
    }

    /// Tries again what is forbidden; says what has changed.
    pub(super) fn check(&mut self, sensor: &mut Sensor, cgroup: Option<&Cgroup>) -> Option<PostureChange> {
        let proof = self.proof.as_mut()?;
        let posture = proof.check(sensor, cgroup);
        if posture == proof.posture {
            return None;
        }
        proof.posture.clone_from(&posture);
        match &posture {
            Posture::Degraded { which } => {
                warn!(?which, "enforcement is degraded: what is forbidden was not refused");
            }
            Posture::Enforced | Posture::Off => info!("enforcement is proven again"),
        }
        Some(self.change(posture))
    }

    fn change(&self, posture: Posture) -> PostureChange {
        PostureChange { session: self.session, boot: clock::boot_now(), posture }
    }

    /// What is to be done to reload: slow, so that somebody else may do it. None if the text is as it was.
    pub(super) fn reload(
        &self,
        even_if_same: bool,
    ) -> Option<impl FnOnce() -> Result<Compiled, PolicyRejected> + use<>> {
        let (options, directories) = (self.options.clone(), self.directories.clone());
        let same =
            !even_if_same && policy::digest(&options.source).is_some_and(|now| now == self.in_force.digest);
        (!same).then_some(move || policy::compile(&options, &directories))
    }

    /// Puts a reloaded policy in force, or says why the one before stays.
    pub(super) fn replace(
        &mut self,
        compiled: Result<Compiled, PolicyRejected>,
    ) -> Result<PolicyLoaded, PolicyRefused> {
        let compiled = compiled.map_err(|rejected| self.refused(rejected.problems))?;
        self.serve(&compiled);
        check_held(&compiled, &self.options, &self.protection).map_err(|error| self.refused(one(&error)))?;
        if compiled.mode != Mode::Observe && self.proof.is_none() {
            let problem = "the session began without proof of enforcement, so its mode stays observe";
            return Err(self.refused(vec![problem.to_owned()]));
        }
        let names = self.names.as_mut().ok();
        let done = put_in_force(&mut self.enforcer, names, self.session, &compiled);
        let loaded = done.map_err(|error| self.refused(one(&error)))?;
        for skipped in &compiled.identities.skipped {
            warn!(skipped, "not protected by inode");
        }
        self.in_force = compiled;
        self.inherited = false;
        Ok(loaded)
    }

    /// Lets those go on who waited for an answer, or refuses them.
    pub(super) fn settle(&mut self, settled: &Settled) {
        let Some(pauses) = &mut self.pauses else { return };
        let grant = settled.grant.as_ref().map(|grant| grant.expires.map(|expires| expires.0));
        let message = settled.message();
        for waiter in &settled.waiters {
            if let (Some(message), Waiter::Paused { process, .. } | Waiter::Held { process }) =
                (message, waiter)
            {
                word::tell(process, &settled.approval.subject, message);
            }
            match pauses.settle(waiter, settled.verdict, grant, clock::boot_now().0) {
                Ok(true) => {}
                Ok(false) => {
                    debug!(approval = %settled.approval.id, ?waiter, "nobody waits for this answer any more");
                }
                Err(error) => warn!(?waiter, %error, "a paused process could not be told"),
            }
        }
    }

    /// Who waits in the kernel. None where nobody is asked, or if it cannot be told.
    pub(super) fn waiting(&self) -> Option<Vec<Stopped>> {
        let waiting = self.pauses.as_ref()?.waiting();
        waiting.inspect_err(|error| warn!(%error, "paused processes cannot be told")).ok()
    }

    /// The kernel asks again about everything.
    pub(super) fn forget_grants(&mut self) {
        if let Some(pauses) = &mut self.pauses {
            pauses.forget_grants();
        }
    }

    /// Looks after those whom the kernel has stopped, and says when to do so again; none: when one was.
    pub(super) fn tend(&mut self) -> Option<Instant> {
        self.pauses.as_mut()?.tend(Instant::now())
    }

    /// Nobody answers any more: whoever waits gets the fallback, before the programs that judge it go.
    pub(super) fn end_asking(&mut self) {
        if let Some(mut pauses) = self.pauses.take()
            && let Err(error) = pauses.leave()
        {
            warn!(%error, "paused processes could not be told that nobody answers any more");
        }
    }

    /// The first policy that speaks of names needs somebody to resolve them.
    fn serve(&mut self, compiled: &Compiled) {
        if let Some(capability) = names::serve(&mut self.names, &compiled.image) {
            self.protection.capabilities.retain(|known| known.name != capability.name);
            self.protection.capabilities.push(capability);
        }
    }

    /// Answers to questions for names since the last call.
    pub(super) fn answered(&mut self) -> Vec<Event> {
        self.names.as_mut().map(Names::answered).unwrap_or_default()
    }

    /// Answers that nobody was told of.
    pub(super) fn unanswered(&mut self, now: BootTime) -> Option<Loss> {
        self.names.as_mut().ok()?.loss(self.session, now)
    }

    /// Ends the resolver; none if there was none. Its last answers are to be asked for after this.
    pub(super) fn end_names(&mut self) -> Option<ResolverStats> {
        let names = self.names.as_mut().ok()?;
        names.end();
        Some(names.stats()).filter(|stats| *stats != ResolverStats::default())
    }

    fn refused(&self, problems: Vec<String>) -> PolicyRefused {
        let name = self.options.source.to_string();
        warn!(policy = name, ?problems, "not taken; the policy before stays in force");
        PolicyRefused { session: self.session, boot: clock::boot_now(), name, problems }
    }

    /// What finds the protected files as they are now: slow.
    pub(super) fn find_files(&self) -> impl FnOnce() -> Identities + use<> {
        let image = self.in_force.image.clone();
        move || policy::identities(&image)
    }

    /// Protects the files that were found.
    pub(super) fn protect(&mut self, found: &Identities) {
        if self.inherited {
            return;
        }
        match self.enforcer.refresh_identities(SESSION_PROFILE, &self.in_force.image, &found.files) {
            Ok(0) => {}
            Ok(changed) => info!(changed, "protected files have changed"),
            Err(error) => warn!(%error, "new files are protected by path only"),
        }
    }

    /// What judges in user space, by the policy in force.
    pub(super) fn judge(&self) -> Option<Arc<crate::policy::Session>> {
        self.in_force.judge.clone()
    }

    /// Verdicts by rule of the policy in force, counted by the kernel.
    pub(super) fn verdicts(&self) -> Vec<RuleVerdicts> {
        let rules = &self.in_force.image.rules;
        let totals = self.enforcer.verdicts(rules.len()).unwrap_or_default();
        let counted = rules.iter().zip(totals).map(|(rule, total)| RuleVerdicts {
            rule: rule.id.clone(),
            alert: total.alert,
            confirm: total.confirm,
            block: total.block,
        });
        counted.filter(|rule| rule.alert + rule.confirm + rule.block > 0).collect()
    }
}

/// However watching ends: nobody stays stopped who waits for an answer that cannot come any more.
impl Drop for Guard {
    fn drop(&mut self) {
        self.end_asking();
    }
}

/// Verdicts of one rule.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RuleVerdicts {
    /// Its id.
    pub rule: String,
    /// Findings.
    pub alert: u64,
    /// Waiting for a person.
    pub confirm: u64,
    /// Refused.
    pub block: u64,
}

fn one(error: &impl Display) -> Vec<String> {
    vec![error.to_string()]
}

/// What is said of resolved names changes with the policy: it is ready before the swap, and what the policy before said
/// goes when no program can be reading it any more.
fn put_in_force(
    enforcer: &mut Enforcer,
    mut names: Option<&mut Names>,
    session: SessionId,
    compiled: &Compiled,
) -> Result<PolicyLoaded, EnforceError> {
    let files = &compiled.identities.files;
    let swapped = enforcer.install_after(SESSION_PROFILE, &compiled.image, files, |coming| {
        names.as_mut().map_or(Ok(()), |names| names.stage(compiled, coming))
    });
    if let Some(names) = names {
        if swapped.is_ok() { names.commit(compiled.mode) } else { names.discard() }
    }
    let swapped = swapped?;
    info!(
        policy = compiled.name,
        generation = swapped.generation,
        rows = swapped.rows,
        write = ?swapped.write,
        swap = ?swapped.swap,
        cleanup = ?swapped.cleanup,
        "policy in force"
    );
    Ok(compiled.loaded(session, SESSION_PROFILE, swapped.generation))
}

/// Nothing is promised that nothing holds. What Landlock holds was settled when the command started, by the policy of
/// that moment.
fn check_held(
    compiled: &Compiled,
    options: &PolicyOptions,
    protection: &Protection,
) -> Result<(), ConfineError> {
    let unheld = policy::unheld(&holds(&compiled.image, protection));
    if compiled.mode == Mode::Observe || options.allow_degraded || unheld.is_empty() {
        return Ok(());
    }
    Err(ConfineError::NotHeld(unheld))
}

impl Proof {
    /// One round. A canary that does not answer is replaced once: it may have been killed.
    fn check(&mut self, sensor: &mut Sensor, cgroup: Option<&Cgroup>) -> Posture {
        let mut reason = String::new();
        for _ in 0..2 {
            match self.attempt(sensor, cgroup) {
                Ok([open, exec, connect]) => return posture(&Attempts { open, exec, connect }),
                Err(error) => reason = error.to_string(),
            }
            self.canary = None;
        }
        Posture::Degraded { which: vec![Unproven { operation: "canary".to_owned(), reason }] }
    }

    fn attempt(&mut self, sensor: &mut Sensor, cgroup: Option<&Cgroup>) -> Result<[i32; 3], RunError> {
        let canary = if let Some(canary) = &mut self.canary {
            canary
        } else {
            let Trap { file, program, address, .. } = &self.trap;
            let canary = Canary::start(cgroup, &Forbidden { file, program, address: *address })?;
            let tgid = u32::try_from(canary.pid()).unwrap_or(0);
            sensor.enrol_as(tgid, CANARY_SESSION, CANARY_PROFILE)?;
            self.canary.insert(canary)
        };
        Ok(canary.attempt()?)
    }
}

/// What blocking is worth on this machine: the check alone, without a session.
pub(super) fn survey(sensor: &mut Sensor, cgroup: Option<&Cgroup>) -> Result<Posture, RunError> {
    let mut enforcer = Enforcer::new(Maps::open(|name| sensor.map(name))?, sensor.seed());
    let trap = Trap::set()?;
    enforcer.install(CANARY_PROFILE, &trap.image(), &[])?;
    let mut proof = Proof { canary: None, trap, posture: Posture::Off };
    Ok(proof.check(sensor, cgroup))
}
