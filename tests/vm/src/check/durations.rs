//! How long each trial took, for who waits for them. No trial passes or fails by it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// As many of the slowest are shown.
const SHOWN: usize = 15;

static TOOK: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// Measures until it is dropped, by a panic too.
pub(crate) struct Stopwatch {
    name: String,
    started: Instant,
}

impl Stopwatch {
    pub(crate) fn start(name: impl Into<String>) -> Self {
        Self { name: name.into(), started: Instant::now() }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        let took = (self.started.elapsed(), std::mem::take(&mut self.name));
        TOOK.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }
}

/// The slowest, with what all together took.
pub(super) fn print() {
    let mut took = TOOK.lock().unwrap_or_else(PoisonError::into_inner);
    took.sort_by(|a, b| b.cmp(a));
    let total: Duration = took.iter().map(|(took, _)| *took).sum();
    println!("{} trials and their preparation took {:.0} s; the slowest:", took.len(), total.as_secs_f64());
    for (took, name) in took.iter().take(SHOWN) {
        println!("{:>8.1} s  {name}", took.as_secs_f64());
    }
}
