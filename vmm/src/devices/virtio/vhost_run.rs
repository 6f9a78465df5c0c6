//! A device whose queues somebody else serves, from DRIVER_OK to its reset.

use virtio_queue::QueueT;

use super::Activation;

/// A device that was started. Its queues are served, unless it is paused.
#[derive(Debug)]
pub(super) struct VhostRun {
    /// What the driver gave.
    pub(super) activation: Activation,
    /// The next entry of each queue, while the device is paused.
    paused_at: Option<Vec<u16>>,
}

impl VhostRun {
    /// A device whose queues are served from now on.
    pub(super) const fn new(activation: Activation) -> Self {
        Self {
            activation,
            paused_at: None,
        }
    }

    /// Whether the queues are served.
    pub(super) const fn is_served(&self) -> bool {
        self.paused_at.is_none()
    }

    /// Pauses the device by `stop`, which returns the next entry of each queue, or `None`
    /// if it failed.
    pub(super) fn pause(&mut self, stop: impl FnOnce(&Activation) -> Option<Vec<u16>>) {
        if self.is_served() {
            self.paused_at = stop(&self.activation);
        }
    }

    /// Has `start` go on where the device was paused.
    pub(super) fn resume(&mut self, start: impl FnOnce(&Activation, &[u16])) {
        if let Some(bases) = self.paused_at.take() {
            start(&self.activation, &bases);
        }
    }
}

/// Where the queues of a driver begin.
pub(super) fn first_entries(activation: &Activation) -> Vec<u16> {
    let queues = activation.queues.iter();
    queues.map(|queue| queue.queue.next_avail()).collect()
}

/// Wakes who serves the queues: the driver may have asked for something while nobody
/// listened.
pub(super) fn kick(activation: &Activation) {
    for queue in &activation.queues {
        // A counter that is full wakes as well.
        drop(queue.kick.write(1));
    }
}
