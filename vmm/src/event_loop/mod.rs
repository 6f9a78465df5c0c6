//! The main thread: console input, signals, and the end of the VM.

mod affinity_watch;
mod console;

use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

pub use affinity_watch::AffinityWatch;
pub use console::Console;

use crate::stop::{StopReason, StopSignal};
use crate::sys::signals::EndSignals;

type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// The loop and who listens.
pub struct EventLoop {
    manager: EventManager<Subscriber>,
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
    /// If the host gives no epoll.
    pub fn new(stop: Arc<StopSignal>, signals: EndSignals) -> Result<Self, event_manager::Error> {
        let mut manager = EventManager::<Subscriber>::new()?;
        manager.add_subscriber(Arc::new(Mutex::new(StopListener {
            stop: Arc::clone(&stop),
        })));
        manager.add_subscriber(Arc::new(Mutex::new(SignalListener {
            signals,
            stop: Arc::clone(&stop),
        })));
        Ok(Self { manager, stop })
    }

    /// Adds a listener.
    pub fn add(&mut self, subscriber: Subscriber) {
        self.manager.add_subscriber(subscriber);
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
}

impl MutEventSubscriber for StopListener {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        drain(self.stop.event());
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, self.stop.event(), "the end of the VM");
    }
}

struct SignalListener {
    signals: EndSignals,
    stop: Arc<StopSignal>,
}

impl MutEventSubscriber for SignalListener {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        if let Some(signal) = self.signals.take() {
            self.stop.stop(StopReason::HostSignal(signal));
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, &self.signals, "signals");
    }
}
