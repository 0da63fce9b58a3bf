//! The loop's part in asking a person about hooks: what is asked goes into the pipeline, what came of it to who waits.

use super::{judge, watch::Loop};
use crate::{
    model::{AskingHook, BootTime, HookCall, Settlement, Waiter},
    pipeline::Input,
    runtime::recorder::Settled,
};

impl Loop {
    /// A hook that is answered. If there is a question, its agent asks its user itself, once for all that it is about.
    pub(super) fn hook(&mut self, call: Box<HookCall>, questions: Vec<judge::Question>) {
        let Some(question) = questions.into_iter().next() else {
            return self.recorder.step(Input::Hook(call));
        };
        let asking = AskingHook {
            call: *call,
            subject: question.subject,
            fallback: question.fallback,
            deadline: None,
            ticket: 0,
            native: true,
        };
        self.recorder.step(Input::Held(Box::new(asking)));
    }

    /// A hook whose answer waits for a person. Whatever it is about is a question of its own.
    pub(super) fn ask(
        &mut self,
        call: &HookCall,
        questions: Vec<judge::Question>,
        ticket: u64,
        until: BootTime,
    ) {
        for question in questions {
            let mut call = call.clone();
            if let Some(decision) = &mut call.decision {
                decision.verdict.severity = Some(question.severity);
                decision.verdict.reason = question.reason;
            }
            let asking = AskingHook {
                call,
                subject: question.subject,
                fallback: question.fallback,
                deadline: Some(until),
                ticket,
                native: false,
            };
            self.recorder.step(Input::Held(Box::new(asking)));
        }
    }

    /// Who asked does not wait any more.
    pub(super) fn withdraw(&mut self, ticket: u64) {
        self.recorder.step(Input::HungUp { ticket });
    }

    /// Hooks among those who waited. One that has been refused does not wait for its other questions.
    pub(super) fn tell_hooks(&mut self, settled: Settled) {
        let allow = match settled.verdict {
            Settlement::Allow => true,
            Settlement::Block => false,
            // Nobody asks a hook again.
            Settlement::AskAgain => return,
        };
        for waiter in settled.waiters {
            if let Waiter::Hook { ticket, .. } = waiter {
                self.holds.settle(ticket, allow, settled.outcome.clone());
                if !allow {
                    self.withdraw(ticket);
                }
            }
        }
    }
}
