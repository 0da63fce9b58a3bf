//! The writer: a bounded queue and one thread that encodes, seals and commits what comes through it.
//!
//! One transaction holds what is in the queue at that time, so nothing waits for a timer: a lone row is committed at
//! once, and under load rows share a commit. A batch that cannot be written is kept and tried again for a while, and
//! the queue fills up behind it: the caller waits rather than losing anything. When that while is over its events
//! are counted, and the count becomes `Loss` rows as soon as writing works again.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    StoreError,
    append::{self, Buffers},
    backlog::Backlog,
    database,
    presence::{self, Entering, Presence},
};
use crate::model::{AuditRecord, BootTime, SessionId, WallTime};

/// Rows that one transaction takes from the queue; a batch is never split. Some tens of milliseconds of work.
const ROWS_PER_COMMIT: usize = 4096;
/// Pause after a first failure; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How to write. The clocks are the caller's: this room has none.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Make the directory (mode 0700): for our own default place only.
    pub create_parent: bool,
    /// Batches the queue holds before `append` waits.
    pub queue: usize,
    /// How long a batch is tried again before its events are counted as lost.
    pub patience: Duration,
    /// Now, on the boot clock.
    pub boot: BootTime,
    /// Now, on the wall clock.
    pub wall: WallTime,
    /// `boot_id` of the machine.
    pub boot_id: String,
    /// This session goes on with this writer: it is not one that was cut off.
    pub adopts: Option<SessionId>,
}

impl WriterOptions {
    /// A queue of four batches and ten seconds of patience.
    pub fn new(boot: BootTime, wall: WallTime, boot_id: String) -> Self {
        Self {
            create_parent: false,
            queue: 4,
            patience: Duration::from_secs(10),
            boot,
            wall,
            boot_id,
            adopts: None,
        }
    }
}

/// What a writer did.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Rows committed, those about losses included.
    pub rows: u64,
    /// Transactions they took.
    pub commits: u64,
    /// Attempts that failed and were made again.
    pub retries: u64,
    /// Events that were given up; `Loss` rows in the audit say so.
    pub lost: u64,
    /// What failed last, even if it worked later.
    pub last_error: Option<StoreError>,
}

/// Handle of the writer thread. Dropping it closes the audit like [`Writer::close`], without telling the result.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<Result<WriterStats, StoreError>>>,
}

enum Message {
    Rows(Batch),
    Flush(Reply),
}

type Batch = Vec<AuditRecord>;
type Reply = SyncSender<Result<(), StoreError>>;

impl Writer {
    /// Opens or makes the database, says in it what an earlier writer left unfinished, and starts the thread.
    pub fn open(path: &Path, options: &WriterOptions) -> Result<Self, StoreError> {
        let mut worker = Worker::open(path, options)?;
        let (queue, messages) = sync_channel(options.queue.max(1));
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                worker.run(&messages);
                worker.finish()
            })
            .map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), queue: Some(queue), thread: Some(thread) })
    }

    /// Hands rows to the thread, all to be committed together; waits while the queue is full.
    pub fn append(&self, records: Vec<AuditRecord>) -> Result<(), StoreError> {
        if records.is_empty() { Ok(()) } else { self.send(Message::Rows(records)) }
    }

    /// Waits until every row accepted so far is committed. An error if some are neither stored nor accounted for.
    pub fn flush(&self) -> Result<(), StoreError> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Flush(reply))?;
        match answer.recv() {
            Ok(result) => result,
            Err(_) => Err(self.stopped()),
        }
    }

    /// Commits the rest and ends the thread. An error if rows are neither stored nor accounted for; what was given
    /// up but is accounted for is in the statistics.
    pub fn close(mut self) -> Result<WriterStats, StoreError> {
        self.end()
    }

    fn end(&mut self) -> Result<WriterStats, StoreError> {
        // Without a sender the thread finds the end of the queue after the last batch.
        self.queue = None;
        let stopped = self.stopped();
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or(Err(stopped)),
            None => Err(stopped),
        }
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        let queue = self.queue.as_ref().ok_or_else(|| self.stopped())?;
        match queue.send(message) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.stopped()),
        }
    }

    fn stopped(&self) -> StoreError {
        StoreError::Stopped { path: self.path.clone() }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            drop(self.end());
        }
    }
}

/// What the thread owns.
struct Worker {
    path: Arc<Path>,
    connection: Connection,
    /// Held until the end: other writers look at its lock.
    _presence: Presence,
    slot: i64,
    buffers: Buffers,
    backlog: Backlog,
    stats: WriterStats,
    patience: Duration,
    /// The last batch was given up: the next ones get one attempt each until one succeeds.
    failing: bool,
}

impl Worker {
    fn open(path: &Path, options: &WriterOptions) -> Result<Self, StoreError> {
        let mut connection = database::open_for_writing(path, options.create_parent)?;
        let presence = Presence::open(path)?;
        let mut buffers = Buffers::default();
        let failed = |err| StoreError::sqlite(path, "entering as its writer", err);
        let transaction = append::begin(&mut connection).map_err(failed)?;
        let (slot, losses) = presence.enter(&transaction, options).map_err(|err| match err {
            Entering::Sqlite(err) => failed(err),
            Entering::Lock(source) => StoreError::File { path: database::sibling(path, "-writers"), source },
        })?;
        append::append(&transaction, &mut buffers, slot, &losses)
            .map_err(|err| err.at(path, "entering as its writer"))?;
        transaction.commit().map_err(failed)?;
        Ok(Self {
            path: path.into(),
            connection,
            _presence: presence,
            slot,
            buffers,
            backlog: Backlog::default(),
            stats: WriterStats::default(),
            patience: options.patience,
            failing: false,
        })
    }

    /// Until every sender is gone.
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let first = if self.backlog.is_empty() {
                messages.recv().map_err(RecvTimeoutError::from)
            } else {
                messages.recv_timeout(LONGEST_PAUSE)
            };
            match first {
                Ok(Message::Rows(records)) => {
                    let (batches, next) = collect(messages, records);
                    self.store(batches);
                    if let Some(reply) = next {
                        self.answer(&reply);
                    }
                }
                Ok(Message::Flush(reply)) => {
                    self.store(Vec::new());
                    self.answer(&reply);
                }
                // Nothing new, but something old that is not written yet.
                Err(RecvTimeoutError::Timeout) => self.store(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Commits the batches, or gives them up after a while.
    fn store(&mut self, batches: Vec<Batch>) {
        let rows = self.backlog.rows();
        if rows.is_empty() && batches.is_empty() {
            return;
        }
        let deadline = Instant::now() + if self.failing { Duration::ZERO } else { self.patience };
        let mut pause = FIRST_PAUSE;
        loop {
            match self.commit(&rows, &batches) {
                Ok(count) => {
                    self.stats.rows += count;
                    self.stats.commits += 1;
                    self.backlog = Backlog::default();
                    self.set_failing(false);
                    return;
                }
                Err(err) => {
                    let hopeless = !err.may_pass();
                    self.stats.last_error = Some(err);
                    let left = deadline.saturating_duration_since(Instant::now());
                    if hopeless || left.is_zero() {
                        break;
                    }
                    self.stats.retries += 1;
                    thread::sleep(pause.min(left));
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        let before = self.backlog.events();
        self.backlog.give_up(batches.into_iter().flatten());
        self.stats.lost += self.backlog.events() - before;
        self.set_failing(true);
    }

    fn commit(&mut self, backlog: &[AuditRecord], batches: &[Batch]) -> Result<u64, StoreError> {
        let failed = |err| StoreError::sqlite(&self.path, "adding rows", err);
        let transaction = append::begin(&mut self.connection).map_err(failed)?;
        let records = backlog.iter().chain(batches.iter().flatten());
        let count = append::append(&transaction, &mut self.buffers, self.slot, records)
            .map_err(|err| err.at(&self.path, "adding rows"))?;
        transaction.commit().map_err(failed)?;
        Ok(count)
    }

    /// While failing, no attempt waits for a lock: the caller must get on.
    fn set_failing(&mut self, failing: bool) {
        if self.failing != failing {
            self.failing = failing;
            let timeout = if failing { Duration::ZERO } else { database::BUSY_TIMEOUT };
            // It cannot fail on an open connection; if it did, an attempt would wait for its old, bounded time.
            drop(self.connection.busy_timeout(timeout));
        }
    }

    fn answer(&mut self, reply: &Reply) {
        let result = if self.backlog.is_empty() { Ok(()) } else { Err(self.unwritten()) };
        // The caller may have gone away meanwhile.
        drop(reply.send(result));
    }

    fn unwritten(&mut self) -> StoreError {
        StoreError::Unwritten {
            path: self.path.to_path_buf(),
            events: self.backlog.events(),
            other: self.backlog.others(),
            source: self.stats.last_error.take().map(Box::new),
        }
    }

    fn finish(mut self) -> Result<WriterStats, StoreError> {
        self.store(Vec::new());
        if !self.backlog.is_empty() {
            return Err(self.unwritten());
        }
        // Every row is where it belongs. If only the goodbye fails (a full disk), the next writer says that this one
        // was cut off, which claims too much rather than too little.
        if let Err(err) = presence::leave(&self.connection, self.slot) {
            self.stats.last_error = Some(StoreError::sqlite(&self.path, "leaving it", err));
        }
        Ok(self.stats)
    }
}

/// What else is in the queue, up to a bound or a flush.
fn collect(messages: &Receiver<Message>, first: Batch) -> (Vec<Batch>, Option<Reply>) {
    let mut rows = first.len();
    let mut batches = vec![first];
    while rows < ROWS_PER_COMMIT {
        match messages.try_recv() {
            Ok(Message::Rows(records)) => {
                rows += records.len();
                batches.push(records);
            }
            Ok(Message::Flush(reply)) => return (batches, Some(reply)),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    (batches, None)
}
