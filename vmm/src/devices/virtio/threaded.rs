//! A device whose work a thread of ours does: what all such devices do alike when the
//! driver starts and resets them, and when the VM pauses.

use std::io;
use std::time::Duration;

use super::worker::{DeviceTask, Worker};
use super::{
    ActivateError, Activation, DeviceKind, OutputState, RestoreFault, SaveFault, SavedDevice,
    VirtioDevice,
};

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

    /// What a snapshot must have beside the queues, as bytes; with the work, if the driver
    /// has started it. By default nothing.
    ///
    /// # Errors
    /// What the host says.
    fn saved(&mut self, _task: Option<&mut Self::Task>) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// Takes that back.
    ///
    /// # Errors
    /// If it is damaged, or of another device.
    fn go_on_as(
        &mut self,
        state: &[u8],
        _task: Option<&mut Self::Task>,
    ) -> Result<(), RestoreFault> {
        must_be_empty(state)
    }
}

/// The state of a device that has none.
pub(super) const fn must_be_empty(state: &[u8]) -> Result<(), RestoreFault> {
    if state.is_empty() {
        Ok(())
    } else {
        Err(RestoreFault::Damaged)
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

    fn can_be_saved(&self) -> bool {
        true
    }

    fn save(&mut self) -> Result<SavedDevice, SaveFault> {
        let task = match &mut self.worker {
            None => None,
            Some(worker) => Some(worker.task().ok_or_else(|| {
                // It has panicked.
                io::Error::other("its thread is lost")
            })?),
        };
        let queues = task.as_ref().map(|task| task.positions());
        Ok(SavedDevice {
            state: self.device.saved(task)?,
            queues: queues.unwrap_or_default(),
        })
    }

    fn restore(
        &mut self,
        state: &[u8],
        activation: Option<Activation>,
    ) -> Result<(), RestoreFault> {
        self.reset();
        let Some(activation) = activation else {
            return self.device.go_on_as(state, None);
        };
        let mut worker = Worker::new()?;
        let mut task = self.device.task(activation)?;
        let restored = self.device.go_on_as(state, Some(&mut task));
        // Also one that is refused is taken back from there.
        worker.employ(task);
        self.worker = Some(worker);
        if restored.is_err() {
            self.reset();
        }
        restored
    }
}

impl<D: ThreadedDevice> Drop for Threaded<D> {
    fn drop(&mut self) {
        self.reset();
    }
}
