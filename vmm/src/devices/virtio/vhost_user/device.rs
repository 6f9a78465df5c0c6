//! The device that a driver sees, in front of a back end.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

use super::super::backend::BackendProcess;
use super::super::vhost_run::{self, VhostRun};
use super::super::{ActivateError, Activation, DeviceKind, VirtioDevice, copy_config, vhost_rings};
use super::connection::{ANSWER_TIME, BackendConnection};
use super::fault::BackendFault;
use super::kind::{BackendKind, BackendShape};
use crate::error_text::one_line;
use crate::stop::{StopReason, StopSignal};

/// How long the end of a lost back end is waited for, to tell how it ended.
const OBITUARY_TIME: Duration = Duration::from_secs(2);

/// A virtio device that a back end serves.
#[derive(Debug)]
pub struct VhostUserDevice {
    kind: BackendKind,
    shape: BackendShape,
    loss: Arc<BackendLoss>,
    // Before the process, which would be lost otherwise.
    connection: BackendConnection,
    running: Option<VhostRun>,
}

/// A back end that has not agreed to anything yet.
#[derive(Debug)]
pub struct Backend {
    /// The device's flag, with the value that names it, for messages: `--fs tag=T`.
    pub flag: String,
    /// The way to it.
    pub socket: UnixStream,
    /// Its process, if it is ours.
    pub process: Option<BackendProcess>,
}

/// A back end that cannot serve its device.
#[derive(Debug, Error)]
#[error("{flag}: {text}")]
pub struct BackendUnusable {
    /// The device's flag.
    pub flag: String,
    /// Who is not usable, and why.
    pub text: String,
    /// Whether it went away, rather than that it answered or was silent.
    pub is_gone: bool,
}

/// What is done when the back end is lost.
#[derive(Debug)]
struct BackendLoss {
    /// The flag of the device: "--fs tag=T".
    flag: String,
    stop: Arc<StopSignal>,
    /// The back end's process, if it is ours.
    process: Mutex<Option<BackendProcess>>,
}

impl BackendLoss {
    /// Ends the VM, which cannot go on without the device.
    fn end_vm(&self, fault: &BackendFault) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let text = describe(fault, process.as_mut());
        self.stop.stop(StopReason::BackendLost {
            flag: self.flag.clone(),
            text,
        });
    }
}

/// Who is lost, and why.
fn describe(fault: &BackendFault, process: Option<&mut BackendProcess>) -> String {
    match (fault, process) {
        (BackendFault::Gone, Some(process)) => {
            format!("{} {}", process.name(), process.obituary(OBITUARY_TIME))
        }
        (_, Some(process)) => format!("{}: {}", process.name(), one_line(fault)),
        (_, None) => format!("the back end: {}", one_line(fault)),
    }
}

impl VhostUserDevice {
    /// A device in front of the back end at the other end of `socket`. If that is a
    /// process of ours, the process goes with the device.
    ///
    /// # Errors
    /// If the back end is none, is not for such a device, or does not answer in time.
    pub fn connect(
        backend: Backend,
        kind: BackendKind,
        stop: &Arc<StopSignal>,
    ) -> Result<Self, BackendUnusable> {
        Self::connect_within(backend, kind, stop, ANSWER_TIME)
    }

    /// As [`VhostUserDevice::connect`], with another time for each talk.
    pub(super) fn connect_within(
        backend: Backend,
        kind: BackendKind,
        stop: &Arc<StopSignal>,
        time: Duration,
    ) -> Result<Self, BackendUnusable> {
        let Backend {
            flag,
            socket,
            mut process,
        } = backend;
        let agreed =
            BackendConnection::open_within(socket, &kind, time).and_then(|mut connection| {
                let shape = kind.shape(&mut connection)?;
                Ok((connection, shape))
            });
        let (connection, shape) = match agreed {
            Ok(agreed) => agreed,
            Err(fault) => {
                let text = describe(&fault, process.as_mut());
                let is_gone = matches!(fault, BackendFault::Gone);
                return Err(BackendUnusable {
                    flag,
                    text,
                    is_gone,
                });
            }
        };
        let loss = Arc::new(BackendLoss {
            flag,
            stop: Arc::clone(stop),
            process: Mutex::new(process),
        });
        let of_watch = Arc::clone(&loss);
        connection.tell_loss(Box::new(move || of_watch.end_vm(&BackendFault::Gone)));
        Ok(Self {
            kind,
            shape,
            loss,
            connection,
            running: None,
        })
    }

    /// Ends the VM, unless the guest's driver is to blame.
    fn check<T>(&self, result: Result<T, BackendFault>) -> Result<T, BackendFault> {
        if let Err(fault) = &result
            && !fault.is_drivers()
        {
            self.loss.end_vm(fault);
        }
        result
    }

    fn start(&mut self, activation: &Activation, bases: &[u16]) -> Result<(), BackendFault> {
        let Activation { memory, queues, .. } = activation;
        let started = self.connection.start_queues(memory, queues, bases);
        self.check(started)?;
        // A ring starts at a kick.
        vhost_run::kick(activation);
        Ok(())
    }

    fn stop(&mut self, activation: &Activation) -> Option<Vec<u16>> {
        let stopped = self.connection.stop_queues(&activation.queues);
        self.check(stopped).ok()
    }

    fn try_activate(&mut self, activation: Activation) -> Result<(), BackendFault> {
        let given = self
            .connection
            .set_up(&activation.memory, activation.features);
        self.check(given)?;
        let bases = vhost_run::first_entries(&activation);
        if let Err(fault) = self.start(&activation, &bases) {
            // Some queues may run: the driver's fault leaves none behind.
            if fault.is_drivers() {
                self.stop(&activation);
            }
            return Err(fault);
        }
        self.running = Some(VhostRun::new(activation));
        Ok(())
    }
}

impl VirtioDevice for VhostUserDevice {
    fn kind(&self) -> DeviceKind {
        self.kind.device_kind()
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.shape.queue_sizes
    }

    fn features(&self) -> u64 {
        self.shape.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.shape.config, offset, data);
    }

    /// Nothing in the configuration of these devices is for the driver to write.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        vhost_rings::require(&activation, self.kind.needed_queues())?;
        self.try_activate(activation)
            .map_err(|fault| ActivateError::Host {
                what: "start the device at its back end",
                source: io::Error::other(fault),
            })
    }

    fn reset(&mut self) {
        // While the VM ends, nobody waits for a back end.
        if let Some(running) = self.running.take()
            && running.is_served()
            && self.loss.stop.reason().is_none()
        {
            self.stop(&running.activation);
        }
    }

    fn pause(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        running.pause(|activation| self.stop(activation));
        self.running = Some(running);
    }

    fn resume(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        // A back end that fails ends the VM.
        running.resume(|activation, bases| drop(self.start(activation, bases)));
        self.running = Some(running);
    }
}
