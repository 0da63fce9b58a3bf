//! Going on with a session whose watcher is gone: its programs have stayed where they were, and are never taken off
//! meanwhile. What waits in the rings is read, what was missed becomes rows of the same audit, enforcement is proven again,
//! and the session is watched to its end. Or it is released: taken off deliberately.

use std::{ops::ControlFlow, path::PathBuf};

use super::{
    asking::{Local, Served},
    clock,
    guard::Guard,
    host,
    manifest::{self, Manifest},
    persist::{self, Kept, PersistError, Place},
    policy::{self, PolicyOptions, PolicySource},
    run::{RunError, RunOutcome, RunStats, causes, left_in_force, not_stored},
    watch::{Begin, Policy, Watch},
};
use crate::{
    launcher::{Placement, Running, Signals},
    model::{AuditRecord, EventKind, Handover, HandoverStep, Mode, SessionId},
    sensor::{self, Accounted, Sensor},
    store::{Filter, Past, Reader, StoreError, Writer, WriterOptions},
};

/// What became of a session that was taken over.
#[derive(Debug)]
pub enum Adopted {
    /// It was watched further; the audit is in this file.
    Watched(Box<RunOutcome>, PathBuf),
    /// There was nothing to watch: what was left was removed, for this reason.
    Cleared(String),
}

/// Goes on with it until its tree has ended. To be called before other threads are started: it blocks signals for all of
/// them.
pub fn adopt(session: SessionId) -> Result<Adopted, RunError> {
    let mut place = Place::take(session)?;
    let manifest = place.read()?;
    is_ours(session, &manifest)?;
    if !manifest.pinned {
        // Its watcher was killed before the command could start, and the command with it.
        place.give_up();
        return Ok(Adopted::Cleared("the command had not started".to_owned()));
    }
    let (database, mut taken) = match take_over(place, manifest) {
        // It was killed between its last row and the removal of its names.
        Err(RunError::Persist(PersistError::Ended(_))) => {
            Place::take(session)?.give_up();
            return Ok(Adopted::Cleared("its audit has its end".to_owned()));
        }
        taken => taken?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(RunError::system("start the event loop"))?;
    let status = runtime.block_on(taken.watch.until_the_end(&mut taken.running, &taken.signals, false))?;
    let left = taken.watch.leaves();
    let (stats, last_error) = taken.watch.finish()?;
    let mut outcome = outcome(session, stats, taken.warnings, last_error.as_ref());
    outcome.status = status;
    if left {
        outcome.warnings.push(left_in_force(session));
    }
    taken.running.finish();
    Ok(Adopted::Watched(Box::new(outcome), database))
}

/// Takes its programs off, whoever still runs under them, and says so in its audit. What cannot be taken over is removed all
/// the same: then the reason is in the warnings, and nothing in the audit.
pub fn release(session: SessionId) -> Result<Adopted, RunError> {
    let mut place = Place::take(session)?;
    let cleared = |mut place: Place, why: &RunError| {
        place.give_up();
        Ok(Adopted::Cleared(causes(why)))
    };
    let manifest = match place.read() {
        Ok(manifest) => manifest,
        Err(error) => return cleared(place, &error.into()),
    };
    if let Err(error) = is_ours(session, &manifest) {
        return cleared(place, &error.into());
    }
    if !manifest.pinned {
        place.give_up();
        return Ok(Adopted::Cleared("the command had not started".to_owned()));
    }
    let taken = take_over(place, manifest);
    let (database, taken) = match taken {
        Ok(taken) => taken,
        // The place was given back with the error.
        Err(error) => return cleared(Place::take(session)?, &error),
    };
    let (stats, last_error) = taken.watch.release()?;
    taken.running.finish();
    Ok(Adopted::Watched(Box::new(outcome(session, stats, taken.warnings, last_error.as_ref())), database))
}

fn outcome(
    session: SessionId,
    stats: RunStats,
    mut warnings: Vec<String>,
    last_error: Option<&StoreError>,
) -> RunOutcome {
    warnings.extend(not_stored(stats.store_error, last_error));
    RunOutcome { session, status: None, stats, warnings }
}

fn is_ours(session: SessionId, manifest: &Manifest) -> Result<(), PersistError> {
    if !clock::boot_id().is_ok_and(|now| now == manifest.start.boot_id) {
        return Err(PersistError::OtherBoot(session));
    }
    // Another build with the same ABI understands the same maps and records.
    if manifest.abi == sensor::abi() { Ok(()) } else { Err(persist::abi(session, manifest)) }
}

struct Taken {
    watch: Watch,
    running: Running,
    signals: Signals,
    warnings: Vec<String>,
    /// The socket where questions are answered.
    #[expect(dead_code, reason = "it serves for as long as it is kept")]
    served: Option<Served>,
}

/// Everything up to the loop.
fn take_over(place: Place, manifest: Manifest) -> Result<(PathBuf, Taken), RunError> {
    if !host::in_initial_pid_namespace() {
        return Err(RunError::PidNamespace);
    }
    let session = manifest.start.session;
    let signals = Signals::block()?;
    let database = manifest::path(&manifest.database);
    let reader = Reader::open(&database)?;
    let past = reader.past(session)?;
    if past.as_ref().is_some_and(|past| past.ended) {
        return Err(PersistError::Ended(session).into());
    }
    let accounted = accounted(&manifest, past.as_ref());
    let protection = manifest.start.protection.clone();
    let mut sensor = Sensor::adopt(&place.pins(), &manifest.attached, protection, &accounted)?;
    let missing = sensor.missing(&manifest.attached);

    let boot_id = manifest.start.boot_id.clone();
    let options = WriterOptions::new(clock::boot_now(), clock::wall_now(), boot_id);
    let writer = Writer::open(&database, &WriterOptions { adopts: Some(session), ..options })?;
    let running = Running::adopted(Placement::adopt(manifest.cgroup.as_ref().map(manifest::path).as_deref()));
    let mut warnings = Vec::new();
    if !missing.is_empty() {
        warnings.push(format!("taken off while nobody watched: {}", missing.join(", ")));
    }
    let asks = manifest.policy.as_ref().is_some_and(|kept| kept.loaded.mode == Mode::Hitl) && policy::asks();
    // Who owns it is not known any more.
    let asking = asks.then(|| Served::start(session, None, Local::beside(&database))).transpose()?;
    let policy = policy(&mut sensor, &manifest, past.as_ref(), &running, asks.then(|| database.clone()))?;
    let since = past.as_ref().map_or(manifest.start.boot, |past| past.last);
    let died = !past.as_ref().is_some_and(|past| past.left);
    let handover = Handover {
        session,
        boot: clock::boot_now(),
        step: HandoverStep::Adopted { since, died, missing },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let start = manifest.start.clone();
    let mut watch = Watch::new(sensor, writer, start, policy, Some(Kept { place, manifest }));
    let served = asking.map(|(served, inbox)| {
        watch.ask(inbox);
        served
    });
    watch.resume(handover, past.as_ref());
    replay(&reader, session, &mut watch)?;
    watch.catch_up()?;
    Ok((database, Taken { watch, running, signals, warnings, served }))
}

fn accounted(manifest: &Manifest, past: Option<&Past>) -> Accounted {
    let mut accounted = Accounted { last: manifest.start.boot, ..Accounted::default() };
    if let Some(past) = past {
        accounted.last = past.last;
        accounted.events.clone_from(&past.events);
        accounted.losses.clone_from(&past.losses);
    }
    for (kind, count) in &manifest.filtered {
        *accounted.events.entry(kind.clone()).or_default() += count;
    }
    // What stands in the audit and was in no ring.
    let others = [
        (EventKind::FileOpen, manifest.handed),
        (EventKind::DnsAnswer, past.map_or(0, |past| past.resolved)),
    ];
    for (kind, count) in others {
        if let Some(events) = accounted.events.get_mut(kind.as_str()) {
            *events = events.saturating_sub(count);
        }
    }
    accounted
}

fn policy(
    sensor: &mut Sensor,
    manifest: &Manifest,
    past: Option<&Past>,
    running: &Running,
    asks: Option<PathBuf>,
) -> Result<Option<Policy>, RunError> {
    let Some(kept) = &manifest.policy else { return Ok(None) };
    let loaded = past.and_then(|past| past.policies.last()).unwrap_or(&kept.loaded).clone();
    let options = PolicyOptions { asks, ..kept.options() };
    let file = match &options.source {
        PolicySource::File(file) => Some(file.clone()),
        PolicySource::Preset(_) => None,
    };
    let (guard, posture) = Guard::adopt(sensor, options, kept.directories(), &loaded, running.placement())?;
    Ok(Some(Policy { guard, file, begin: Some(Begin { loaded, posture, handed: Vec::new() }) }))
}

/// The process tree as the watcher before us knew it.
fn replay(reader: &Reader, session: SessionId, watch: &mut Watch) -> Result<(), RunError> {
    let kinds = vec![EventKind::ProcessFork, EventKind::ProcessExec, EventKind::ProcessExit];
    let filter = Filter { session: Some(session), kinds, records: vec!["event"], ..Filter::default() };
    reader.records::<StoreError>(&filter, 0, None, |stored| {
        if let AuditRecord::Event(event) = stored.record {
            watch.replay(event);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(())
}
