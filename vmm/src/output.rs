//! Bytes on their way out of the VMM: a bounded queue, and a thread that writes them.
//!
//! A write to a pipe or a terminal takes as long as its reader wants. Only the
//! queue's own thread waits for that; whoever pushes never does. A producer that
//! has something better to do than to lose bytes, as a vCPU has, asks for room and
//! waits for as long as it likes.
//!
//! ```text
//!  push ─▶ queue ─▶ thread ─▶ write(2) ─▶ reader
//!    └─▶ lost: beyond the limit        └─▶ lost: refused
//! ```

pub mod log_line;
pub mod stderr;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::signals;

/// Bytes in one write: what a pipe takes as a whole or not at all (`PIPE_BUF`).
const CHUNK: usize = 4096;
/// How long the thread leaves a descriptor alone that must not be waited for.
const NONBLOCKING_REST: Duration = Duration::from_millis(5);
/// For how long a reader may stand still before its producer no longer waits.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Where the bytes of a queue went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputCounts {
    /// Written.
    pub sent: u64,
    /// Refused by the descriptor, or without room in the queue.
    pub lost: u64,
}

/// A bounded queue with a thread that empties it. The thread ends with the process:
/// it may stand in a write for ever.
#[derive(Clone)]
pub struct OutputQueue {
    shared: Arc<Shared>,
}

impl fmt::Debug for OutputQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputQueue")
            .field("pending", &self.pending())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<QueueState>,
    /// The thread has something to do.
    filled: Condvar,
    /// Bytes have gone.
    emptied: Condvar,
    /// Bytes up to which there is room.
    limit: usize,
}

struct QueueState {
    queue: VecDeque<u8>,
    /// Bytes that the thread has taken and not written yet.
    in_flight: usize,
    counts: OutputCounts,
    /// When bytes last went, or came into an empty queue.
    moved: Instant,
    /// The reader stood still for [`PATIENCE`]: nobody waits until it goes on.
    given_up: bool,
    thread_waits: bool,
    producers_wait: u32,
}

impl QueueState {
    fn pending(&self) -> usize {
        self.queue.len() + self.in_flight
    }
}

impl OutputQueue {
    /// A queue for `limit` bytes to `out`. What the thread cannot write goes to
    /// `refused`, with the number of bytes that were lost by it.
    ///
    /// # Errors
    /// If the host gives no thread.
    pub fn start(
        name: &str,
        limit: usize,
        out: Box<dyn Write + Send>,
        refused: fn(&io::Error, usize),
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(QueueState {
                queue: VecDeque::new(),
                in_flight: 0,
                counts: OutputCounts::default(),
                moved: Instant::now(),
                given_up: false,
                thread_waits: false,
                producers_wait: 0,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            limit,
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name(name.to_owned());
        signals::start_thread(|| thread.spawn(move || of_thread.write_out(out, refused)))?;
        Ok(Self { shared })
    }

    /// Takes bytes, and returns at once. The newest are lost where there is no room:
    /// one push more than the limit is taken, so that a producer that waits for room
    /// after each push loses nothing. Returns how many were lost.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let limit = self.shared.limit;
        let mut state = self.lock();
        let over = state.pending() >= limit;
        let room = match (over, state.given_up) {
            (false, _) => bytes.len(),
            (true, true) => 0,
            (true, false) => bytes.len().min((2 * limit).saturating_sub(state.pending())),
        };
        if state.pending() == 0 {
            state.moved = Instant::now();
        }
        state.queue.extend(bytes.iter().take(room));
        let lost = bytes.len() - room;
        state.counts.lost += lost as u64;
        if state.thread_waits {
            self.shared.filled.notify_one();
        }
        lost
    }

    /// Whether there is room, for those who never wait.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pending() < self.shared.limit
    }

    /// Whether a producer is to wait with its next push: the queue is full, and its
    /// reader has not stood still for [`PATIENCE`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.is_full(&mut self.lock())
    }

    /// Waits until [`OutputQueue::is_full`] is not so, for no longer than `within`.
    /// Returns whether there is room.
    #[must_use]
    pub fn wait_for_room(&self, within: Duration) -> bool {
        let shared = &self.shared;
        self.wait(within, |state| !shared.is_full(state))
    }

    /// Waits until all bytes have gone, for no longer than `within`. Returns whether
    /// they have.
    #[must_use]
    pub fn wait_until_empty(&self, within: Duration) -> bool {
        self.wait(within, |state| state.pending() == 0)
    }

    /// How long the reader has stood still; zero if there is nothing for it.
    #[must_use]
    pub fn stands_for(&self) -> Duration {
        let state = self.lock();
        match state.pending() {
            0 => Duration::ZERO,
            _ => state.moved.elapsed(),
        }
    }

    /// Bytes that have not gone yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.lock().pending()
    }

    /// Where the bytes went.
    #[must_use]
    pub fn counts(&self) -> OutputCounts {
        self.lock().counts
    }

    fn wait(&self, within: Duration, done: impl Fn(&mut QueueState) -> bool) -> bool {
        let deadline = Instant::now() + within;
        let mut state = self.lock();
        state.producers_wait += 1;
        let result = loop {
            if done(&mut state) {
                break true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break false;
            }
            let waited = self.shared.emptied.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.producers_wait -= 1;
        result
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self, state: &mut QueueState) -> bool {
        let full = state.pending() >= self.limit;
        state.given_up = full && (state.given_up || state.moved.elapsed() >= PATIENCE);
        full && !state.given_up
    }

    /// What the thread does.
    fn write_out(&self, mut out: Box<dyn Write + Send>, refused: fn(&io::Error, usize)) {
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            self.take(&mut chunk);
            if let Err(error) = self.write(&mut *out, &chunk) {
                refused(&error, self.gone(0));
            }
        }
    }

    /// Sleeps until there are bytes, and takes some.
    fn take(&self, chunk: &mut Vec<u8>) {
        let mut state = self.lock();
        while state.queue.is_empty() {
            state.thread_waits = true;
            let woken = self.filled.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.thread_waits = false;
        let len = state.queue.len().min(CHUNK);
        chunk.clear();
        chunk.extend(state.queue.drain(..len));
        state.in_flight = len;
    }

    /// Writes a chunk, however long that takes.
    fn write(&self, out: &mut dyn Write, mut chunk: &[u8]) -> io::Result<()> {
        while !chunk.is_empty() {
            match out.write(chunk) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    chunk = chunk.get(written..).unwrap_or_default();
                    self.gone(written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another program has set O_NONBLOCK, which all that share a
                // terminal or a pipe then have.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(NONBLOCKING_REST);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Counts bytes of the chunk as written; 0 means that the rest of it is lost.
    /// Returns how many are.
    fn gone(&self, written: usize) -> usize {
        let mut state = self.lock();
        state.moved = Instant::now();
        state.given_up = false;
        let lost = match written {
            0 => state.in_flight,
            _ => 0,
        };
        state.counts.sent += written as u64;
        state.counts.lost += lost as u64;
        state.in_flight = state.in_flight.saturating_sub(written + lost);
        if state.producers_wait > 0 {
            self.emptied.notify_all();
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    /// A reader that takes what it is told to, and then stands still.
    struct Reader {
        permits: Receiver<io::Result<usize>>,
        read: Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = self.permits.recv().unwrap_or(Ok(usize::MAX))?;
            let len = len.min(bytes.len());
            drop(self.read.send(bytes[..len].to_vec()));
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(limit: usize) -> (OutputQueue, Sender<io::Result<usize>>, Receiver<Vec<u8>>) {
        let (permit, permits) = mpsc::channel();
        let (read, reads) = mpsc::channel();
        let out = Box::new(Reader { permits, read });
        let queue = OutputQueue::start("test", limit, out, |_, _| {}).unwrap();
        (queue, permit, reads)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn bytes_arrive_in_order_in_spite_of_interruptions() {
        let (queue, permit, reads) = queue(100);
        assert_eq!(queue.push(b"hello"), 0);
        permit.send(Err(ErrorKind::Interrupted.into())).unwrap();
        permit.send(Ok(2)).unwrap();
        permit.send(Err(ErrorKind::WouldBlock.into())).unwrap();
        permit.send(Ok(9)).unwrap();
        assert!(queue.wait_until_empty(LONG));
        assert_eq!(reads.recv().unwrap(), b"he");
        assert_eq!(reads.recv().unwrap(), b"llo");
        assert_eq!(queue.counts(), OutputCounts { sent: 5, lost: 0 });
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_who_does_not_wait() {
        let (queue, permit, reads) = queue(4);
        assert_eq!(queue.push(b"abcdef"), 0);
        assert!(queue.is_full());
        assert!(!queue.wait_for_room(Duration::from_millis(1)));
        // Up to twice the limit, for those who cannot wait.
        assert_eq!(queue.push(b"ghij"), 2);
        assert_eq!((queue.pending(), queue.counts().lost), (8, 2));
        drop(permit);
        assert!(queue.wait_for_room(LONG));
        assert!(queue.wait_until_empty(LONG));
        let all: Vec<u8> = reads.try_iter().flatten().collect();
        assert_eq!(all, b"abcdefgh");
    }

    #[test]
    fn after_a_while_nobody_waits_until_the_reader_goes_on() {
        let (queue, permit, _reads) = queue(4);
        queue.push(b"abcdef");
        queue.lock().moved = Instant::now().checked_sub(PATIENCE).unwrap();
        assert!(!queue.is_full());
        assert!(queue.wait_for_room(Duration::ZERO));
        assert_eq!(queue.push(b"gh"), 2);
        permit.send(Ok(1)).unwrap();
        while queue.counts().sent == 0 {
            thread::yield_now();
        }
        assert!(queue.is_full());
        assert_eq!(queue.push(b"g"), 0);
    }

    #[test]
    fn what_is_refused_is_lost_and_counted() {
        let (queue, permit, _reads) = queue(100);
        queue.push(b"abc");
        permit.send(Ok(1)).unwrap();
        permit.send(Err(ErrorKind::FileTooLarge.into())).unwrap();
        assert!(queue.wait_until_empty(LONG));
        assert_eq!(queue.counts(), OutputCounts { sent: 1, lost: 2 });
    }
}
