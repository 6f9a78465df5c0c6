//! The thread that notices a back end which goes away, or which does not answer.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::sys::signals;

/// Called once, when the back end is lost while nobody talks to it.
pub(super) type OnLoss = Box<dyn FnOnce() + Send>;

/// A watch over one connection. Dropped, it ends its thread.
pub(super) struct BackendWatch {
    shared: Arc<WatchShared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for BackendWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendWatch").finish_non_exhaustive()
    }
}

struct WatchShared {
    socket: UnixStream,
    wake: EventFd,
    state: Mutex<WatchState>,
}

#[derive(Default)]
struct WatchState {
    /// Until when the answers to a talk must have come, while there is one.
    deadline: Option<Instant>,
    /// Whether the last deadline was missed.
    missed: bool,
    /// Whether the thread is to end.
    ends: bool,
    /// Whom to tell of a loss.
    on_loss: Option<OnLoss>,
}

impl WatchShared {
    fn lock(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A counter that is full wakes as well.
        drop(self.wake.write(1));
    }
}

impl BackendWatch {
    /// Watches the connection that `socket` is a copy of.
    pub(super) fn start(socket: UnixStream) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let watch = |fd, set| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(set, 0));
        watch(wake.as_raw_fd(), EventSet::IN)?;
        // Hang-ups and errors are told without being asked for.
        watch(socket.as_raw_fd(), EventSet::READ_HANG_UP)?;
        let shared = Arc::new(WatchShared {
            socket,
            wake,
            state: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = signals::start_thread(|| {
            thread::Builder::new()
                .name("vhost-user".to_owned())
                .spawn(move || of_thread.run(&epoll))
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A talk begins: after `time` the connection is closed, which ends it.
    pub(super) fn begin(&self, time: Duration) {
        let mut state = self.shared.lock();
        state.deadline = Some(Instant::now() + time);
        state.missed = false;
        drop(state);
        self.shared.wake();
    }

    /// The talk is over; returns whether its time was.
    pub(super) fn end(&self) -> bool {
        let mut state = self.shared.lock();
        state.deadline = None;
        let missed = state.missed;
        drop(state);
        // A loss may have happened behind the last answer.
        self.shared.wake();
        missed
    }

    /// From now on, a loss between talks is told.
    pub(super) fn tell(&self, on_loss: OnLoss) {
        self.shared.lock().on_loss = Some(on_loss);
        self.shared.wake();
    }
}

impl Drop for BackendWatch {
    fn drop(&mut self) {
        self.shared.lock().ends = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // It panics only if the build does.
            drop(thread.join());
        }
    }
}

impl WatchShared {
    fn run(&self, epoll: &Epoll) {
        let mut lost = false;
        loop {
            let mut state = self.lock();
            if state.ends {
                return;
            }
            let now = Instant::now();
            let left = state.deadline.map(|at| at.saturating_duration_since(now));
            if left == Some(Duration::ZERO) {
                state.missed = true;
                state.deadline = None;
                drop(state);
                // Ends the read or the write of whoever talks.
                drop(self.socket.shutdown(Shutdown::Both));
                continue;
            }
            // Whoever talks finds a loss without us.
            if lost
                && state.deadline.is_none()
                && !state.missed
                && let Some(tell) = state.on_loss.take()
            {
                drop(state);
                tell();
                continue;
            }
            drop(state);
            lost |= self.wait(epoll, left);
        }
    }

    /// Waits for an event; returns whether the other end is gone.
    fn wait(&self, epoll: &Epoll, left: Option<Duration>) -> bool {
        // Rounded up: the deadline is over when we look again.
        let timeout = left.map_or(-1, |left| {
            i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX)
        });
        let mut events = [EpollEvent::default(); 2];
        // Interrupted or not: we look again.
        let count = epoll.wait(timeout, &mut events).unwrap_or(0);
        drop(self.wake.read());
        let gone = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        let lost = events
            .iter()
            .take(count)
            .any(|event| event.event_set().intersects(gone));
        if lost {
            // It would be told again and again.
            let (fd, none) = (self.socket.as_raw_fd(), EpollEvent::default());
            drop(epoll.ctl(ControlOperation::Delete, fd, none));
        }
        lost
    }
}
