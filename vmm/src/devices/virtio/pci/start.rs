//! What a device gets when its driver starts it.

use std::io;

use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::VirtioPci;
use crate::devices::virtio::{Activation, ActiveQueue, ConfigInterrupt, QueuePosition};
use crate::error_text::one_line;

impl VirtioPci {
    /// Starts the device: the driver has set DRIVER_OK.
    pub(super) fn activate(&mut self) {
        let activated = self.interrupt_by(ConfigInterrupt::new);
        let activated = activated.and_then(|interrupt| self.activation(interrupt, &[]));
        let activated = activated.and_then(|activation| {
            let activated = self.device.activate(activation);
            activated.map_err(|error| one_line(&error))
        });
        let Err(reason) = activated else {
            self.is_active = true;
            return;
        };
        if let Some(swallowed) = self.faults.allow() {
            let name = &self.name;
            log::warn!("{name} does not start: {reason}{swallowed}");
        }
        if let Some(interrupt) = &self.interrupt {
            // The driver reads the status if the interrupt is lost.
            drop(interrupt.needs_reset());
        }
    }

    /// The way to the driver beside the queues, made of the event of its vector.
    pub(super) fn interrupt_by(
        &mut self,
        make: impl FnOnce(EventFd) -> ConfigInterrupt,
    ) -> Result<ConfigInterrupt, String> {
        let call = self.call(self.common.config_vector).map_err(no_event)?;
        let interrupt = make(call);
        self.interrupt = Some(interrupt.clone());
        Ok(interrupt)
    }

    /// All that the device works with, if the driver has set it up well. Its queues are
    /// empty, but for those that `stand` somewhere.
    pub(super) fn activation(
        &self,
        config_interrupt: ConfigInterrupt,
        stand: &[QueuePosition],
    ) -> Result<Activation, String> {
        let features = self.common.driver_features;
        let mut queues = Vec::new();
        let setups = (0..).zip(&self.common.queues).zip(&self.kicks);
        for ((index, setup), kick) in setups.filter(|((_, setup), _)| setup.is_enabled) {
            let mut queue = setup.build(&self.memory, features).ok_or_else(|| {
                format!("queue {index} is not in guest memory, or its size or alignment is wrong")
            })?;
            if let Some(position) = stand.iter().find(|position| position.queue == index) {
                queue.set_next_avail(position.next_available);
                queue.set_next_used(position.next_used);
            }
            queues.push(ActiveQueue {
                index,
                queue,
                kick: kick.try_clone().map_err(no_event)?,
                call: self.call(setup.vector).map_err(no_event)?,
            });
        }
        Ok(Activation {
            memory: self.memory.clone(),
            features,
            queues,
            config_interrupt,
        })
    }

    /// The event of a vector; one that nobody listens to for "no vector".
    fn call(&self, vector: u16) -> io::Result<EventFd> {
        match self.msix.event(vector) {
            Some(event) => event.try_clone(),
            None => EventFd::new(EFD_NONBLOCK),
        }
    }
}

fn no_event(error: io::Error) -> String {
    format!("the host gives no eventfd: {error}")
}
