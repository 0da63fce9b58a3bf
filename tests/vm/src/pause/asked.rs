//! What a run asks, and how it takes answers: through the command line and through its socket, too late, twice, from inside,
//! about somebody who is gone, for a session, and under a policy that is replaced meanwhile.

use std::{os::unix::process::ExitStatusExt, sync::Barrier};

use anyhow::{Context, Result, ensure};
use defenseclaw::{
    model::{Approval, Grant, Outcome, Ruling, Via, Waiter},
    runtime::{ClientError, Pending},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    client::Client as Looker,
    scene::{self, OPEN_SECONDS, Scene, said},
};
use crate::{check::Setting, runs::Ended};

fn refused(ended: &Ended) -> Result<()> {
    let words = ended.stderr.contains("Operation not permitted") || ended.stderr.contains("EPERM");
    ensure!(ended.status.code() == Some(1) && words && ended.stdout.is_empty(), "{ended:?}");
    Ok(())
}

fn allowed(ended: &Ended) -> Result<()> {
    ensure!(ended.status.success() && ended.stdout == "content" && ended.stderr.is_empty(), "{ended:?}");
    Ok(())
}

pub(super) fn approve(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let path = scene.file("ask/approved")?;
        let job = scene.start_job(&["cat", &path])?;
        scene.asked(&path)?;
        let listed = scene.command(&["approvals", "list", "--json"])?;
        ensure!(listed.status.success(), "{listed:?}");
        let all: Vec<Pending> = listed.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let one = all.iter().find(|one| one.approval.subject.object.0 == path.as_bytes());
        let approval = &one.with_context(|| format!("{all:?}"))?.approval;
        let (rule, effect) = (approval.subject.rule.as_str(), approval.subject.effect.as_str());
        ensure!((rule, effect) == ("ask", "file.read"), "{approval:?}");
        let words: Vec<_> = approval.command.iter().map(|word| word.0.as_slice()).collect();
        ensure!(words == [b"cat", path.as_bytes()], "{approval:?}");
        // Its parent is the command of the run; above that nothing is watched.
        let above: Vec<_> = approval.ancestry.iter().map(|above| above.process.tgid).collect();
        ensure!(above == [scene.stage], "{above:?} instead of {}", scene.stage);
        ensure!(approval.ancestry[0].exe.0.ends_with(b"suite-vm"), "{approval:?}");
        ensure!(scene.ended(job)?.is_none(), "it did not wait");
        let id = approval.id.to_string();
        let done = scene.command(&["approvals", "approve", &id])?;
        ensure!(done.status.success(), "{done:?}");
        allowed(&scene.end(job)?)
    })
}

pub(super) fn deny(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let path = scene.file("ask/denied")?;
        let job = scene.start_job(&["cat", &path])?;
        let id = scene.asked(&path)?.approval.id;
        let done = scene.command(&["approvals", "deny", &id.to_string(), "--message", "not today"])?;
        ensure!(done.status.success(), "{done:?}");
        let ended = scene.end(job)?;
        refused(&ended)?;
        let word = "defenseclaw: file.read refused by a person: not today (rule ask)\n";
        ensure!(ended.stderr.contains(word), "{ended:?}");
        let settled = scene.settled(id)?.settled.context("settled")?;
        let Outcome::Ruled { ruling: Ruling::Deny, by, message } = &settled.outcome else {
            anyhow::bail!("{settled:?}")
        };
        ensure!(message.as_deref() == Some("not today") && by.via == Via::Command, "{settled:?}");
        ensure!(by.uid == 0 && !settled.allowed, "{settled:?}");
        Ok(())
    })
}

pub(super) fn too_late(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let (job, id) = scene.late.take().context("tried already")?;
        // What the policy says without an answer.
        refused(&scene.end_within(job, OPEN_SECONDS + 60)?)?;
        ensure!(matches!(scene.settled(id)?.settled.context("settled")?.outcome, Outcome::Expired));
        let done = scene.command(&["approvals", "approve", &id.to_string()])?;
        ensure!(done.status.code() == Some(1) && done.stderr.contains("settled already"), "{done:?}");
        conflict(scene.client.rule(id, &said(Ruling::Once)))?;
        Ok(())
    })
}

/// What the one who came second is told.
fn conflict(result: Result<(), ClientError>) -> Result<String> {
    match result {
        Err(ClientError::Refused { status: 409, said }) if said.contains("settled already") => Ok(said),
        other => anyhow::bail!("{other:?}"),
    }
}

pub(super) fn two_at_once(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let path = scene.file("ask/raced")?;
        let mut won = [0, 0];
        for round in 0..8 {
            let job = scene.start_job(&["cat", &path])?;
            let id = scene.asked(&path)?.approval.id;
            let start = Barrier::new(2);
            let answer = |ruling| {
                let (client, start) = (scene.client.clone(), &start);
                move || {
                    start.wait();
                    client.rule(id, &said(ruling))
                }
            };
            let (yes, no) = std::thread::scope(|scope| {
                let (yes, no) = (scope.spawn(answer(Ruling::Once)), scope.spawn(answer(Ruling::Deny)));
                (yes.join().unwrap(), no.join().unwrap())
            });
            let (told, first) = match (yes, no) {
                (Ok(()), late) => (conflict(late)?, "allowed, once by uid 0 (api)"),
                (late, Ok(())) => (conflict(late)?, "blocked, deny by uid 0 (api)"),
                both => anyhow::bail!("round {round}: {both:?}"),
            };
            ensure!(told.contains(first), "round {round}: {told}");
            let is_yes = first.starts_with("allowed");
            won[usize::from(is_yes)] += 1;
            let ended = scene.end(job)?;
            if is_yes { allowed(&ended)? } else { refused(&ended)? }
        }
        println!("no and yes came first: {won:?}");
        Ok(())
    })
}

pub(super) fn inside(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let path = scene.file("ask/inside")?;
        let job = scene.start_job(&["cat", &path])?;
        let id = scene.asked(&path)?.approval.id;
        let binary = scene.setting.binary.to_str().context("its name")?.to_owned();
        let agent = scene.start_job(&[&binary, "approvals", "approve", &id.to_string()])?;
        let answered = scene.end(agent)?;
        ensure!(answered.status.code() == Some(1), "{answered:?}");
        ensure!(answered.stderr.contains("is watched itself"), "{answered:?}");
        ensure!(scene.ended(job)?.is_none(), "it went on");
        ensure!(scene.client.question(id)?.settled.is_none(), "it is settled");
        scene.rule(id, Ruling::Deny)?;
        refused(&scene.end(job)?)
    })
}

pub(super) fn killed(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let path = scene.file("ask/killed")?;
        let job = scene.start_job(&["cat", &path])?;
        let asked = scene.asked(&path)?.approval;
        kill(Pid::from_raw(job.pid as i32), Signal::SIGKILL)?;
        let ended = scene.end(job)?;
        ensure!(ended.status.signal() == Some(9) && ended.stdout.is_empty(), "{ended:?}");
        let settled = scene.settled(asked.id)?.settled.context("settled")?;
        ensure!(matches!(settled.outcome, Outcome::Withdrawn { .. }) && !settled.allowed, "{settled:?}");
        ensure!(scene.open()?.iter().all(|one| one.approval.id != asked.id), "it is still open");
        conflict(scene.client.rule(asked.id, &said(Ruling::Once)))?;
        Ok(())
    })
}

pub(super) fn session(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let path = scene.file("ask/granted")?;
        let job = scene.start_job(&["cat", &path])?;
        let id = scene.asked(&path)?.approval.id;
        let done = scene.command(&["approvals", "approve", &id.to_string(), "--session"])?;
        ensure!(done.status.success(), "{done:?}");
        allowed(&scene.end(job)?)?;
        // Nobody answers this one.
        let job = scene.start_job(&["cat", &path])?;
        allowed(&scene.end_within(job, OPEN_SECONDS / 2)?)?;
        let listed = scene.command(&["grants", "list", "--json"])?;
        let grants: Vec<Grant> = listed.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let grant = grants.iter().find(|grant| grant.subject.object.0 == path.as_bytes());
        let grant = grant.with_context(|| format!("{grants:?}"))?;
        ensure!(grant.approval == id, "{grant:?}");
        let done = scene.command(&["grants", "revoke", &grant.id.to_string()])?;
        ensure!(done.status.success(), "{done:?}");
        let job = scene.start_job(&["cat", &path])?;
        let again = scene.asked(&path)?.approval.id;
        ensure!(again != id);
        scene.rule(again, Ruling::Deny)?;
        refused(&scene.end(job)?)
    })
}

pub(super) fn reload(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let (path, gone, granted) =
            (scene.file("ask/reloaded")?, scene.file("too/gone")?, scene.file("ask/lasting")?);
        let job = scene.start_job(&["cat", &granted])?;
        scene.rule(scene.asked(&granted)?.approval.id, Ruling::Session)?;
        allowed(&scene.end(job)?)?;
        let waits = scene.start_job(&["cat", &path])?;
        let free = scene.start_job(&["cat", &gone])?;
        let (first, other) = (scene.asked(&path)?.approval, scene.asked(&gone)?.approval);
        // One rule goes, the other stays.
        let result = replaced(scene, &path, &first, waits, free, &granted);
        // Others are asked about it again: from when somebody is, the policy is in force.
        scene.load(true, 2)?;
        result?;
        let mut asked = None;
        while asked.is_none() {
            let job = scene.start_job(&["cat", &gone])?;
            while asked.is_none() && scene.ended(job)?.is_none() {
                let open = scene.open()?;
                asked = open.into_iter().find(|one| one.approval.subject.object.0 == gone.as_bytes());
            }
        }
        scene.rule(asked.context("just asked")?.approval.id, Ruling::Deny)?;
        let settled = scene.settled(other.id)?.settled.context("settled")?;
        ensure!(matches!(settled.outcome, Outcome::Withdrawn { .. }), "{settled:?}");
        Ok(())
    })
}

fn replaced(
    scene: &mut Scene,
    path: &str,
    first: &Approval,
    waits: scene::Job,
    free: scene::Job,
    granted: &str,
) -> Result<()> {
    scene.load(false, 1)?;
    // Nobody asks about this one any more.
    allowed(&scene.end(free)?)?;
    let second = scene.asked_anew(path, &[first.id])?.approval;
    let settled = scene.settled(first.id)?.settled.context("settled")?;
    ensure!(matches!(settled.outcome, Outcome::Withdrawn { .. }), "{settled:?}");
    let Waiter::Paused { process, .. } = first.waiter else { anyhow::bail!("{first:?}") };
    ensure!(Looker::state(process).is_some() && scene.ended(waits)?.is_none(), "it did not wait");
    scene.rule(second.id, Ruling::Once)?;
    allowed(&scene.end(waits)?)?;
    // What was granted before holds under the policy that came after.
    let job = scene.start_job(&["cat", granted])?;
    allowed(&scene.end_within(job, OPEN_SECONDS / 2)?)
}
