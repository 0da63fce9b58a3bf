//! From requests, which may not wait for a disk, to the audit's writer, which may. The queue is bounded; what does not
//! fit in time is counted and becomes a `Loss` row.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use crate::{
    model::{AuditRecord, HookCall, Loss, LossReason},
    store::{StoreError, Writer},
};

/// Rows that wait for the writer.
const QUEUE: usize = 1024;
/// Rows that the writer gets at once.
const BATCH: usize = 256;
/// How long a caller waits for room; its own deadline is longer.
const PATIENCE: Duration = Duration::from_millis(500);

type Lost = Arc<Mutex<Option<Loss>>>;

/// Where rows go.
pub(super) struct Audit {
    queue: Mutex<Option<mpsc::Sender<AuditRecord>>>,
    lost: Lost,
}

/// The thread between queue and writer.
pub(super) struct Ending(oneshot::Receiver<Result<(), StoreError>>);

impl Audit {
    pub(super) fn start(writer: Writer) -> io::Result<(Self, Ending)> {
        let (queue, mut rows) = mpsc::channel(QUEUE);
        let (done, ended) = oneshot::channel();
        let lost = Lost::default();
        let counted = Arc::clone(&lost);
        thread::Builder::new().name("hooks".to_owned()).spawn(move || {
            let mut result = Ok(());
            let take =
                || counted.lock().unwrap_or_else(PoisonError::into_inner).take().map(AuditRecord::Loss);
            while let Some(first) = rows.blocking_recv() {
                let mut batch: Vec<_> = take().into_iter().chain([first]).collect();
                while batch.len() < BATCH
                    && let Ok(next) = rows.try_recv()
                {
                    batch.push(next);
                }
                result = result.and(writer.append(batch));
            }
            result = result.and(writer.append(take().into_iter().collect()));
            // If nobody waits for it any more, nobody needs it.
            drop(done.send(result.and(writer.close().map(drop))));
        })?;
        Ok((Self { queue: Mutex::new(Some(queue)), lost }, Ending(ended)))
    }

    pub(super) async fn add(&self, call: HookCall) {
        let (session, boot) = (call.session, call.boot);
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sent = match queue {
            Some(queue) => {
                let row = AuditRecord::Hook(Box::new(call));
                time::timeout(PATIENCE, queue.send(row)).await.is_ok_and(|sent| sent.is_ok())
            }
            None => false,
        };
        if !sent {
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            let sum = lost.get_or_insert_with(|| Loss {
                kind: "hook".to_owned(),
                reason: LossReason::StoreError,
                count: 0,
                first: boot,
                last: boot,
                session,
            });
            sum.count += 1;
            sum.last = sum.last.max(boot);
        }
    }

    /// No more rows: the thread writes what there is and ends.
    pub(super) fn end(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Ending {
    /// An error if rows are neither stored nor accounted for.
    pub(super) async fn wait(self) -> Result<(), StoreError> {
        // The thread answers unless it panicked, and then the writer's own end has closed the audit.
        self.0.await.unwrap_or(Ok(()))
    }
}
