//! What the kernel's devices have in common.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use thiserror::Error;
use vhost::VhostBackend;

use super::super::vhost_rings::{self, RingError};
use super::super::vhost_run::{self, VhostRun};
use super::super::{ActivateError, Activation, DeviceKind, VirtioDevice, copy_config};
use super::memory::{self, LateMemory};
use crate::stop::{StopReason, StopSignal};

/// One of the kernel's devices.
pub trait KernelEngine: Send {
    /// Its type.
    const KIND: DeviceKind;
    /// The queues that the kernel serves, all of which the driver must enable.
    const SERVED: &'static [u16];

    /// The side with the ioctls that all have.
    fn backend(&self) -> &impl VhostBackend;

    /// Prepares for what device and driver have agreed on.
    ///
    /// # Errors
    /// What the host says.
    fn agree(&self, features: u64) -> vhost::Result<()>;

    /// Starts or stops serving the queues, which are set up.
    ///
    /// # Errors
    /// What the host says.
    fn serve(&self, on: bool) -> vhost::Result<()>;
}

/// What a device shows to its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelShape {
    /// The largest size of each queue.
    pub(super) queue_sizes: Vec<u16>,
    /// The features that are offered.
    pub(super) features: u64,
    /// Those of them that the kernel's device knows.
    pub(super) kernel_features: u64,
    /// The configuration.
    pub(super) config: Vec<u8>,
}

/// A virtio device that the host's kernel serves.
#[derive(Debug)]
pub struct KernelDevice<E> {
    flag: String,
    engine: E,
    memory: LateMemory,
    shape: KernelShape,
    stop: Arc<StopSignal>,
    running: Option<VhostRun>,
}

/// Why the kernel does not serve.
#[derive(Debug, Error)]
enum KernelFault {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Kernel(#[from] vhost::Error),
}

impl<E: KernelEngine + Debug> KernelDevice<E> {
    pub(super) fn new(
        flag: String,
        engine: E,
        memory: LateMemory,
        shape: KernelShape,
        stop: &Arc<StopSignal>,
    ) -> Self {
        Self {
            flag,
            engine,
            memory,
            shape,
            stop: Arc::clone(stop),
            running: None,
        }
    }

    fn set_up(&self, activation: &Activation) -> Result<(), KernelFault> {
        self.memory.set(&activation.memory);
        let regions = memory::regions(&activation.memory);
        self.engine.agree(activation.features)?;
        let backend = self.engine.backend();
        backend.set_features(activation.features & self.shape.kernel_features)?;
        backend.set_mem_table(&regions)?;
        Ok(())
    }

    fn start(&self, activation: &Activation, bases: &[u16]) -> Result<(), KernelFault> {
        let served = activation.queues.iter().zip(bases);
        for (queue, &base) in served.filter(|(queue, _)| E::SERVED.contains(&queue.index)) {
            vhost_rings::set_up(self.engine.backend(), &activation.memory, queue, (base, 0))?;
        }
        self.engine.serve(true)?;
        vhost_run::kick(activation);
        Ok(())
    }

    /// Stops; returns the next entry of each queue.
    fn halt(&self, activation: &Activation) -> vhost::Result<Vec<u16>> {
        self.engine.serve(false)?;
        let base = |index: u16| {
            if !E::SERVED.contains(&index) {
                return Ok(0);
            }
            let base = self.engine.backend().get_vring_base(index.into())?;
            // The kernel's counters have 16 bits.
            Ok(u16::try_from(base & 0xffff).unwrap_or_default())
        };
        activation
            .queues
            .iter()
            .map(|queue| base(queue.index))
            .collect()
    }

    fn end_vm(&self, fault: &dyn std::error::Error) {
        self.stop.stop(StopReason::BackendLost {
            flag: self.flag.clone(),
            text: format!(
                "the host's kernel does not serve it any more: {}",
                crate::error_text::one_line(fault)
            ),
        });
    }
}

impl<E: KernelEngine + Debug> VirtioDevice for KernelDevice<E> {
    fn kind(&self) -> DeviceKind {
        E::KIND
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
        vhost_rings::require(&activation, E::SERVED)?;
        let bases = vhost_run::first_entries(&activation);
        let started = self
            .set_up(&activation)
            .and_then(|()| self.start(&activation, &bases));
        if let Err(fault) = started {
            // As after a reset. It may not have begun to serve.
            drop(self.engine.serve(false));
            return Err(ActivateError::Host {
                what: "start the device in the host's kernel",
                source: io::Error::other(fault),
            });
        }
        self.running = Some(VhostRun::new(activation));
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(running) = self.running.take()
            && running.is_served()
            && let Err(error) = self.halt(&running.activation)
        {
            self.end_vm(&error);
        }
    }

    fn pause(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        let halt = |activation: &_| {
            let halted = self.halt(activation);
            halted.map_err(|error| self.end_vm(&error)).ok()
        };
        running.pause(halt);
        self.running = Some(running);
    }

    fn resume(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        running.resume(|activation, bases| {
            if let Err(fault) = self.start(activation, bases) {
                self.end_vm(&fault);
            }
        });
        self.running = Some(running);
    }
}
