//! What the loop shows of itself to who asks how the daemon is: counts, rates, sessions, the last errors. Written by the
//! loop, read by requests.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::model::{Connector, Loss, Protection, SessionId, WallTime};

/// Errors that are remembered.
const ERRORS_MAX: usize = 8;
/// Rates are over at least this long.
const RATE_OVER: Duration = Duration::from_secs(5);

/// A session that is watched.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Live {
    pub(super) session: SessionId,
    pub(super) connector: Connector,
    pub(super) agent_session: Option<String>,
    pub(super) uid: u32,
    pub(super) pid: u32,
    pub(super) since: WallTime,
}

/// A window into the loop.
#[derive(Clone, Default)]
pub(super) struct View(Arc<Mutex<Shown>>);

#[derive(Default)]
struct Shown {
    level: Option<&'static str>,
    /// Why nothing is watched.
    unwatched: Option<String>,
    sessions: Vec<(Live, u64)>,
    events: u64,
    hooks: u64,
    unbound: u64,
    /// By kind and reason.
    losses: BTreeMap<String, u64>,
    errors: VecDeque<String>,
    rate: Option<Rate>,
}

/// Counts at the beginning of the present interval, and what the one before came to.
struct Rate {
    since: Instant,
    events: u64,
    hooks: u64,
    per_second: [f64; 2],
}

impl View {
    fn with<R>(&self, change: impl FnOnce(&mut Shown) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn level(&self, protection: Result<&Protection, &str>) {
        self.with(|shown| {
            shown.level = protection.ok().map(|protection| protection.level.as_str());
            shown.unwatched = protection.err().map(str::to_owned);
        });
    }

    pub(super) fn hook(&self, session: Option<SessionId>) {
        self.with(|shown| {
            shown.hooks += 1;
            shown.unbound += u64::from(session.is_none());
        });
    }

    pub(super) fn stored(&self, events: u64, losses: &[Loss]) {
        self.with(|shown| {
            shown.events += events;
            for loss in losses {
                let reason = serde_json::to_value(loss.reason).unwrap_or_default();
                let name = format!("{}/{}", loss.kind, reason.as_str().unwrap_or_default());
                *shown.losses.entry(name).or_default() += loss.count;
            }
        });
    }

    pub(super) fn error(&self, error: &str) {
        tracing::error!("{error}");
        self.with(|shown| {
            shown.errors.push_back(error.to_owned());
            if shown.errors.len() > ERRORS_MAX {
                shown.errors.pop_front();
            }
        });
    }

    pub(super) fn show(&self, sessions: Vec<(Live, u64)>) {
        self.with(|shown| {
            shown.sessions = sessions;
            let (now, events, hooks) = (Instant::now(), shown.events, shown.hooks);
            let rate = shown.rate.get_or_insert(Rate { since: now, events, hooks, per_second: [0.0; 2] });
            let passed = now.duration_since(rate.since);
            if passed >= RATE_OVER {
                let per_second = |count: u64| {
                    let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
                    (count / passed.as_secs_f64() * 10.0).round() / 10.0
                };
                let per_second = [per_second(events - rate.events), per_second(hooks - rate.hooks)];
                *rate = Rate { since: now, events, hooks, per_second };
            }
        });
    }

    /// For who may see everything, or of one user.
    pub(super) fn status(&self, user: Option<u32>) -> serde_json::Value {
        self.with(|shown| {
            let [events_per_second, hooks_per_second] =
                shown.rate.as_ref().map_or([0.0; 2], |rate| rate.per_second);
            let mut own = shown.sessions.clone();
            own.retain(|(live, _)| user.is_none_or(|user| user == live.uid));
            let own: Vec<_> = own
                .iter()
                .map(|(live, events)| {
                    let mut live = serde_json::to_value(live).unwrap_or_default();
                    if let Some(live) = live.as_object_mut() {
                        live.insert("events".to_owned(), (*events).into());
                    }
                    live
                })
                .collect();
            serde_json::json!({
                "level": shown.level.unwrap_or("none"),
                "unwatched": shown.unwatched,
                "watched_sessions": shown.sessions.len(),
                "sessions": own,
                "events": shown.events,
                "events_per_second": events_per_second,
                "hooks": shown.hooks,
                "hooks_per_second": hooks_per_second,
                "unbound": shown.unbound,
                "losses": shown.losses,
                "errors": if user.is_none() { shown.errors.clone() } else { VecDeque::new() },
            })
        })
    }
}
