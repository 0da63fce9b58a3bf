//! Payloads of hooks, from any agent: whatever they are, there is an answer, and it is one whole JSON object or nothing
//! on stdout, with code 0, or a reason on stderr with code 2. The first byte chooses the agent.
#![no_main]

use defenseclaw::{
    connectors::{encode, fail, parse},
    model::{Attendance, Connector, FailMode, HookOutput, Reply},
    policy::inspect,
};
use libfuzzer_sys::fuzz_target;

fn check(output: &HookOutput) {
    let object = serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok_and(|value| value.is_object());
    match output.exit_code {
        0 => assert!(output.stderr.is_empty() && (output.stdout.is_empty() || object)),
        code => assert!(code == 2 && output.stdout.is_empty() && !output.stderr.is_empty()),
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (which, payload) = input;
    let connector = Connector::ALL[usize::from(which) % Connector::ALL.len()];
    if let Ok(mut event) = parse(connector, payload) {
        inspect(None, &mut event);
        let reason = event.text.clone().unwrap_or_default();
        for reply in [Reply::Confirm { reason: reason.clone() }, Reply::Block { reason: reason.clone() }, Reply::Alert { note: reason }] {
            check(&encode(&reply, &event, Attendance::Attended));
            check(&encode(&reply, &event, Attendance::Unattended));
        }
    }
    check(&fail(connector, FailMode::Closed, payload, ""));
    check(&fail(connector, FailMode::Open, payload, ""));
});
