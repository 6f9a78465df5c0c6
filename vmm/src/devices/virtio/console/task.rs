//! The work of a console: its control queues and its ports, in turn.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm_sys_util::epoll::EventSet;

use super::super::queue::QueueFault;
use super::super::worker::{DeviceTask, Progress, WatchedFd};
use super::super::{ConfigInterrupt, QueuePosition};
use super::control::Control;
use super::port::{self, PortState};
use super::{ConsoleShared, TOKEN_PORTS, TOKEN_WAKE, locked};

/// The work of the console's thread.
#[derive(Debug)]
pub(crate) struct ConsoleTask {
    pub(super) ports: Vec<PortState>,
    /// `None` for a driver without ports.
    pub(super) control: Option<Control>,
    pub(super) shared: Arc<ConsoleShared>,
    pub(super) interrupt: ConfigInterrupt,
    pub(super) buffer: Vec<u8>,
}

impl DeviceTask for ConsoleTask {
    fn name(&self) -> &str {
        "console"
    }

    fn watched(&self) -> Vec<WatchedFd> {
        let wake = WatchedFd {
            fd: self.shared.wake.as_raw_fd(),
            events: EventSet::IN,
            token: TOKEN_WAKE,
        };
        let control = self.control.iter().flat_map(Control::watched);
        let ports = self.ports.iter().zip(0_u64..);
        let ports = ports.flat_map(|(port, number)| {
            let first = TOKEN_PORTS + number * port::TOKENS;
            port.watched(first)
        });
        std::iter::once(wake).chain(control).chain(ports).collect()
    }

    fn ready(&mut self, token: u64, events: u32) {
        let Some(token) = token.checked_sub(TOKEN_PORTS) else {
            return;
        };
        let number = usize::try_from(token / port::TOKENS).ok();
        if let Some(port) = number.and_then(|number| self.ports.get_mut(number)) {
            port.ready(token % port::TOKENS, events);
        }
    }

    fn work(&mut self) -> Result<Progress, QueueFault> {
        let mut progress = Progress::Wait;
        if let Some(control) = &mut self.control {
            progress = progress.or(control.hear(&mut self.ports)?);
        }
        for port in &mut self.ports {
            progress = progress.or(port.send(&mut self.buffer)?);
            let taken = port.take_count();
            if taken > 0 {
                self.shared.taken.fetch_add(taken, Ordering::Relaxed);
            }
            progress = progress.or(port.receive(&mut self.buffer)?);
        }
        if let Some(control) = &mut self.control {
            control.tell(&mut self.ports)?;
        }
        self.answer_flush()?;
        Ok(progress)
    }

    fn interrupt(&self) -> &ConfigInterrupt {
        &self.interrupt
    }

    fn positions(&self) -> Vec<QueuePosition> {
        let control = self.control.iter().flat_map(Control::positions);
        let ports = self.ports.iter().flat_map(PortState::positions);
        control.chain(ports).collect()
    }
}

impl ConsoleTask {
    /// Tells whoever waits if all output has gone.
    fn answer_flush(&self) -> Result<(), QueueFault> {
        let mut waits = locked(&self.shared.flush);
        if !*waits {
            return Ok(());
        }
        for port in &self.ports {
            if !port.is_flushed()? {
                return Ok(());
            }
        }
        *waits = false;
        self.shared.flushed.notify_all();
        Ok(())
    }
}
