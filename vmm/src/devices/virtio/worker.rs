//! The thread of a device: it waits for kicks and for the host, and works on queues.
//!
//! ```text
//!  activate ─start─▶ thread: wait ─▶ ready ─▶ work ─┐
//!                       ▲                           │
//!                       └───────────────────────────┘
//!  pause, reset ─stop─▶ the thread ends and gives its task back ─start─▶ resume
//! ```
//!
//! A stopped device has no thread, so that nothing of it can touch the guest's memory.

use std::fmt::{self, Debug};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::QueueFault;
use super::{ActivateError, ConfigInterrupt, QueuePosition};
use crate::error_text::one_line;
use crate::rate_limit::RateLimit;
use crate::sys::affinity::{self, Tid};

/// The token of the event that stops a thread; a task's own tokens are smaller.
const STOP: u64 = u64::MAX;
/// Events that one look takes.
const EVENTS: usize = 16;

/// A descriptor that wakes a task. Each change of it wakes once (`EPOLLET`): a task
/// remembers what is ready, and nobody has to read an eventfd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchedFd {
    /// The descriptor.
    pub(super) fd: RawFd,
    /// What to wait for.
    pub(super) events: EventSet,
    /// The task's name for it.
    pub(super) token: u64,
}

/// What a task does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Waits for an event.
    Wait,
    /// Goes on at once, after a look at events.
    More,
}

impl Progress {
    pub(super) const fn more_if(more: bool) -> Self {
        if more { Self::More } else { Self::Wait }
    }

    /// Goes on if one of two does.
    pub(super) const fn or(self, other: Self) -> Self {
        match self {
            Self::Wait => other,
            Self::More => self,
        }
    }
}

/// The work of a device's thread.
pub(crate) trait DeviceTask: Send + Debug + 'static {
    /// The device's name, for logs and for the thread.
    fn name(&self) -> &str;

    /// Its thread starts, for the first time or after a pause.
    fn start(&mut self) {}

    /// What wakes it. A regular file cannot: it is always ready.
    fn watched(&self) -> Vec<WatchedFd>;

    /// The descriptor with this token is ready; `events` as of epoll.
    fn ready(&mut self, token: u64, events: u32);

    /// Works, without waiting, for a bounded time.
    ///
    /// # Errors
    /// If the device cannot go on until the driver resets it.
    fn work(&mut self) -> Result<Progress, QueueFault>;

    /// The way to tell the driver that the device is broken.
    fn interrupt(&self) -> &ConfigInterrupt;

    /// Where its queues stand, while it has no thread.
    fn positions(&self) -> Vec<QueuePosition>;
}

/// A task, and its thread while it has one.
#[derive(Debug)]
pub(super) struct Worker<T> {
    state: WorkerState<T>,
    stop: EventFd,
}

enum WorkerState<T> {
    Stopped(Option<T>),
    Running(JoinHandle<Option<T>>),
}

impl<T: Debug> Debug for WorkerState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped(task) => f.debug_tuple("Stopped").field(task).finish(),
            Self::Running(_) => f.write_str("Running"),
        }
    }
}

impl<T: DeviceTask> Worker<T> {
    /// A worker without a task.
    ///
    /// # Errors
    /// The host's error, if it gives no eventfd.
    pub(super) fn new() -> Result<Self, ActivateError> {
        let stop = EventFd::new(EFD_NONBLOCK).map_err(|source| ActivateError::Host {
            what: "create an eventfd",
            source,
        })?;
        let state = WorkerState::Stopped(None);
        Ok(Self { state, stop })
    }

    /// Gives a task to a worker that has none.
    pub(super) fn employ(&mut self, task: T) {
        self.state = WorkerState::Stopped(Some(task));
    }

    /// Ends the thread: when this returns, nothing works on the queues.
    pub(super) fn pause(&mut self) {
        let state = std::mem::replace(&mut self.state, WorkerState::Stopped(None));
        self.state = match state {
            WorkerState::Running(thread) => {
                // An eventfd that is full wakes as well.
                drop(self.stop.write(1));
                WorkerState::Stopped(thread.join().ok().flatten())
            }
            stopped @ WorkerState::Stopped(_) => stopped,
        };
    }

    /// Starts the thread, also again.
    ///
    /// # Errors
    /// The host's error; the driver sees a device that needs a reset.
    pub(super) fn start(&mut self) -> Result<(), ActivateError> {
        let WorkerState::Stopped(slot) = &mut self.state else {
            return Ok(());
        };
        let Some(mut task) = slot.take() else {
            return Ok(());
        };
        let interrupt = task.interrupt().clone();
        let started = match watch(&mut task, &self.stop) {
            Ok(epoll) => spawn(task, epoll),
            Err(error) => Err((Some(task), error)),
        };
        match started {
            Ok(thread) => {
                self.state = WorkerState::Running(thread);
                Ok(())
            }
            Err((task, error)) => {
                *slot = task;
                drop(interrupt.needs_reset());
                Err(ActivateError::Host {
                    what: "start a device's thread",
                    source: error,
                })
            }
        }
    }

    /// Starts the thread after a pause; a failure is in the log.
    pub(super) fn resume(&mut self) {
        if let Err(error) = self.start() {
            log::warn!("a virtio device does not go on: {}", one_line(&error));
        }
    }

    /// The task, while it has no thread.
    pub(super) const fn task(&mut self) -> Option<&mut T> {
        match &mut self.state {
            WorkerState::Stopped(task) => task.as_mut(),
            WorkerState::Running(_) => None,
        }
    }

    /// Ends the thread and gives the task back.
    pub(super) fn into_task(mut self) -> Option<T> {
        self.pause();
        match self.state {
            WorkerState::Stopped(task) => task,
            WorkerState::Running(_) => None,
        }
    }
}

/// Watches what wakes a task, and the event that stops it.
fn watch<T: DeviceTask>(task: &mut T, stop: &EventFd) -> io::Result<Epoll> {
    // Empty is as good: the counter is what we reset.
    drop(stop.read());
    let epoll = Epoll::new()?;
    let interest = EpollEvent::new(EventSet::IN, STOP);
    epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), interest)?;
    for watched in task.watched() {
        let events = watched.events | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(events, watched.token);
        match epoll.ctl(ControlOperation::Add, watched.fd, event) {
            Ok(()) => {}
            // epoll_ctl(2): a regular file. It is always ready.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(epoll)
}

/// Starts the thread; gives the task back if the host has none.
fn spawn<T: DeviceTask>(
    task: T,
    epoll: Epoll,
) -> Result<JoinHandle<Option<T>>, (Option<T>, io::Error)> {
    let name = task.name().to_owned();
    let slot = Arc::new(Mutex::new(Some(task)));
    let there = Arc::clone(&slot);
    let spawned = std::thread::Builder::new().name(name).spawn(move || {
        let mut task = take(&there)?;
        leave_the_vcpus();
        task.start();
        run(&epoll, &mut task);
        Some(task)
    });
    match spawned {
        Ok(thread) => Ok(thread),
        // No thread has taken it.
        Err(error) => Err((take(&slot), error)),
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A thread that a vCPU's thread starts may run only where that vCPU may; a worker runs
/// where the process may.
fn leave_the_vcpus() {
    let moved = Tid::process()
        .affinity()
        .and_then(|cpus| affinity::bind_this_thread(&cpus));
    if let Err(error) = moved {
        log::debug!("a device's thread stays on the CPUs of a vCPU: {error}");
    }
}

/// Works until it is stopped, or the driver has broken the device.
fn run<T: DeviceTask>(epoll: &Epoll, task: &mut T) {
    let mut events = [EpollEvent::default(); EVENTS];
    // Chains may be there already, from before a pause.
    let mut progress = Progress::More;
    loop {
        let timeout = match progress {
            Progress::Wait => -1,
            Progress::More => 0,
        };
        let count = match epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(source) => {
                let what = "wait for the driver";
                return give_up(task, &QueueFault::Host { what, source });
            }
        };
        for event in events.iter().take(count) {
            if event.data() == STOP {
                return;
            }
            task.ready(event.data(), event.events());
        }
        match task.work() {
            Ok(next) => progress = next,
            Err(fault) => return give_up(task, &fault),
        }
    }
}

fn give_up<T: DeviceTask>(task: &T, fault: &QueueFault) {
    static LIMIT: RateLimit = RateLimit::new();
    if LIMIT.allow().is_some() {
        log::warn!("{}: {fault}; the device waits for a reset", task.name());
    }
    if let Err(error) = task.interrupt().needs_reset()
        && LIMIT.allow().is_some()
    {
        log::warn!("{}: cannot tell the driver: {error}", task.name());
    }
}
