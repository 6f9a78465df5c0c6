//! A device whose work a thread of ours does: what all such devices do alike when the
//! driver starts and resets them, and when the VM pauses.

use std::time::Duration;

use super::worker::{DeviceTask, Worker};
use super::{ActivateError, Activation, DeviceKind, OutputState, VirtioDevice};

/// What one such device is, and what its thread does. The methods that [`VirtioDevice`]
/// has as well mean the same.
pub(crate) trait ThreadedDevice: std::fmt::Debug + Send {
    /// The work of the thread. It takes what the device has.
    type Task: DeviceTask;

    fn kind(&self) -> DeviceKind;

    fn queue_sizes(&self) -> &[u16];

    fn features(&self) -> u64;

    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The work, from the driver's start on.
    ///
    /// # Errors
    /// If the driver left out a queue, or the host refuses something. The device keeps what
    /// it has.
    fn task(&mut self, activation: Activation) -> Result<Self::Task, ActivateError>;

    /// The driver has reset the device: no thread works any more.
    fn take_back(&mut self, task: Self::Task);

    fn flush_output(&mut self, _within: Duration) -> OutputState {
        OutputState::Done
    }
}

/// A device, and its thread between the driver's start and its reset.
#[derive(Debug)]
pub(crate) struct Threaded<D: ThreadedDevice> {
    device: D,
    worker: Option<Worker<D::Task>>,
}

impl<D: ThreadedDevice> Threaded<D> {
    pub(crate) const fn new(device: D) -> Self {
        Self {
            device,
            worker: None,
        }
    }

    /// The device, without what its thread has taken from it.
    #[cfg(test)]
    pub(super) const fn device(&mut self) -> &mut D {
        &mut self.device
    }
}

impl<D: ThreadedDevice> VirtioDevice for Threaded<D> {
    fn kind(&self) -> DeviceKind {
        self.device.kind()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.device.queue_sizes()
    }

    fn features(&self) -> u64 {
        self.device.features()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        // Before there is a task, which could be lost with it.
        let mut worker = Worker::new()?;
        worker.employ(self.device.task(activation)?);
        let started = self.worker.insert(worker).start();
        if started.is_err() {
            self.reset();
        }
        started
    }

    fn reset(&mut self) {
        if let Some(task) = self.worker.take().and_then(Worker::into_task) {
            self.device.take_back(task);
        }
    }

    fn flush_output(&mut self, within: Duration) -> OutputState {
        self.device.flush_output(within)
    }

    fn pause(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.pause();
        }
    }

    fn resume(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.resume();
        }
    }
}

impl<D: ThreadedDevice> Drop for Threaded<D> {
    fn drop(&mut self) {
        self.reset();
    }
}
