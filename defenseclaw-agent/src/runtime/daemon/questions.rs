//! The loop's part in asking a person about hooks: what is asked goes into the pipeline, what was answered goes to who waits.

use super::{judge, watch::Loop};
use crate::{
    model::{BootTime, HookCall, Waiter},
    pipeline::Input,
    runtime::recorder::Settled,
};

impl Loop {
    /// A hook that is answered. About `questions` its agent asks its user itself.
    pub(super) fn hook(&mut self, call: Box<HookCall>, _questions: Vec<judge::Question>) {
        self.recorder.step(Input::Hook(call));
    }

    /// A hook whose answer waits for a person.
    pub(super) fn ask(
        &mut self,
        _call: &HookCall,
        _questions: Vec<judge::Question>,
        ticket: u64,
        _until: BootTime,
    ) {
        self.holds.settle(ticket, false, None);
    }

    /// Who asked does not wait any more.
    pub(super) fn withdraw(&mut self, _ticket: u64) {}

    pub(super) fn tell_hooks(&self, settled: &Settled) {
        for waiter in &settled.waiters {
            if let Waiter::Hook { ticket, .. } = waiter {
                self.holds.settle(*ticket, settled.allow, settled.message.clone());
            }
        }
    }
}
