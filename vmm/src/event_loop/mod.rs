//! The main thread: console input, signals, and the end of the VM.

mod affinity_watch;
mod console;
mod relay;
mod socket_console;
mod typed;

use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

pub use affinity_watch::AffinityWatch;
pub use console::Console;
pub use relay::SignalRelay;
pub use socket_console::{ListeningConsole, SocketClient, SocketConsole};
pub use typed::TypedPipe;

use crate::stop::{StopReason, StopSignal};
use crate::sys::signals::EndSignals;

/// A listener of the loop.
pub type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// The loop and who listens.
pub struct EventLoop {
    manager: EventManager<Subscriber>,
    signals: Arc<Mutex<SignalListener>>,
    stop: Arc<StopSignal>,
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop").finish_non_exhaustive()
    }
}

impl EventLoop {
    /// A loop that ends the VM on `signals` and itself on `stop`.
    ///
    /// # Errors
    /// If the host gives no epoll, or does not let it watch the signals and the end: a
    /// VM that starts can be ended.
    pub fn new(
        stop: Arc<StopSignal>,
        signals: EndSignals,
        relay: Option<SignalRelay>,
    ) -> Result<Self, event_manager::Error> {
        let manager = EventManager::<Subscriber>::new()?;
        let signals = Arc::new(Mutex::new(SignalListener {
            signals,
            relay,
            stop: Arc::clone(&stop),
            refused: None,
        }));
        let mut events = Self {
            manager,
            signals: Arc::clone(&signals),
            stop: Arc::clone(&stop),
        };
        events.add_required(StopListener {
            stop,
            refused: None,
        })?;
        events.require(&signals)?;
        Ok(events)
    }

    /// Adds a listener.
    pub fn add(&mut self, subscriber: Subscriber) {
        self.manager.add_subscriber(subscriber);
    }

    /// Adds a listener without which no VM runs.
    ///
    /// # Errors
    /// What the host says to its descriptor.
    pub fn add_required<L>(&mut self, listener: L) -> Result<(), event_manager::Error>
    where
        L: RequiredListener + Send + 'static,
    {
        self.require(&Arc::new(Mutex::new(listener)))
    }

    fn require<L>(&mut self, listener: &Arc<Mutex<L>>) -> Result<(), event_manager::Error>
    where
        L: RequiredListener + Send + 'static,
    {
        self.manager
            .add_subscriber(Arc::clone(listener) as Subscriber);
        let mut listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
        listener.take_refusal().map_or(Ok(()), Err)
    }

    /// Serves events until the VM stops.
    pub fn run(&mut self) {
        while self.stop.reason().is_none() {
            match self.manager.run() {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
                Err(error) => self.stop.stop(StopReason::EventLoop(error)),
            }
        }
    }

    /// Serves the events that are there, while the VM ends: an order to end at once
    /// is one.
    pub fn serve_pending(&mut self) {
        if let Err(error) = self.manager.run_with_timeout(0) {
            log::debug!("the event loop failed while the VM ended: {error}");
        }
    }
}

impl EventLoop {
    /// Serves the signals so far, each of which may be an order. Those that come later wait
    /// for whoever this process becomes.
    pub fn end(&self) {
        let mut listener = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        listener.signals.stop_waiting();
        while listener.serve() {}
    }
}

/// A listener that tells whether its descriptor is watched.
pub trait RequiredListener: MutEventSubscriber {
    /// What the host said to the descriptor, if it refused it.
    fn take_refusal(&mut self) -> Option<event_manager::Error>;
}

/// Watches one descriptor for input.
fn watch_required<T: AsRawFd>(ops: &mut EventOps<'_>, source: &T) -> Option<event_manager::Error> {
    ops.add(Events::new(source, EventSet::IN)).err()
}

/// Watches one descriptor for input; says so if that fails.
fn watch<T: AsRawFd>(ops: &mut EventOps<'_>, source: &T, what: &str) -> bool {
    match ops.add(Events::new(source, EventSet::IN)) {
        Ok(()) => true,
        Err(error) => {
            log::debug!("cannot watch {what}: {error}");
            false
        }
    }
}

fn drain(event: &EventFd) {
    // Empty is as good: the counter is what we reset.
    drop(event.read());
}

struct StopListener {
    stop: Arc<StopSignal>,
    refused: Option<event_manager::Error>,
}

impl RequiredListener for StopListener {
    fn take_refusal(&mut self) -> Option<event_manager::Error> {
        self.refused.take()
    }
}

impl MutEventSubscriber for StopListener {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        drain(self.stop.event());
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.refused = watch_required(ops, self.stop.event());
    }
}

struct SignalListener {
    signals: EndSignals,
    relay: Option<SignalRelay>,
    stop: Arc<StopSignal>,
    refused: Option<event_manager::Error>,
}

impl SignalListener {
    /// Serves the next signal, if there is one; whether there was.
    fn serve(&mut self) -> bool {
        let Some(signal) = self.signals.take() else {
            return false;
        };
        let relay = self.relay.as_mut();
        if !relay.is_some_and(|relay| relay.take(signal)) {
            self.stop.stop(StopReason::HostSignal(signal));
        }
        true
    }
}

impl RequiredListener for SignalListener {
    fn take_refusal(&mut self) -> Option<event_manager::Error> {
        self.refused.take()
    }
}

impl MutEventSubscriber for SignalListener {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.serve();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.refused = watch_required(ops, &self.signals);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A VM that no signal ends must not start.
    #[test]
    fn signals_that_cannot_be_watched_are_an_error() {
        let stop = Arc::new(StopSignal::new().unwrap());
        // epoll_ctl(2): EPERM for a regular file.
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let error = EventLoop::new(stop, EndSignals::of_file(file), None).unwrap_err();
        assert!(
            matches!(error, event_manager::Error::Epoll(error) if error.errno() == libc::EPERM)
        );
    }
}
