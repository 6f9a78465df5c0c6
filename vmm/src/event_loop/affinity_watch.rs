//! Checks that vCPU threads stay on the host CPUs on which their PMU counts (see
//! [`crate::vcpu::VcpuAffinity`]).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::timerfd::TimerFd;

use super::{RequiredListener, watch_required};
use crate::stop::StopSignal;
use crate::vcpu::{CHECK_PERIOD, VcpuSet};

/// Looks at the threads every [`CHECK_PERIOD`].
#[derive(Debug)]
pub struct AffinityWatch {
    timer: TimerFd,
    vcpus: Arc<VcpuSet>,
    stop: Arc<StopSignal>,
    refused: Option<event_manager::Error>,
}

impl RequiredListener for AffinityWatch {
    fn take_refusal(&mut self) -> Option<event_manager::Error> {
        self.refused.take()
    }
}

impl AffinityWatch {
    /// A watch of the threads of these vCPUs, as they come and go.
    ///
    /// # Errors
    /// If the host gives no timer.
    pub fn new(vcpus: Arc<VcpuSet>, stop: Arc<StopSignal>) -> io::Result<Self> {
        let mut timer = TimerFd::new().map_err(io::Error::from)?;
        timer
            .reset(CHECK_PERIOD, Some(CHECK_PERIOD))
            .map_err(io::Error::from)?;
        Ok(Self {
            timer,
            vcpus,
            stop,
            refused: None,
        })
    }
}

impl MutEventSubscriber for AffinityWatch {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        // How many periods went by does not matter.
        let _periods = self.timer.wait();
        for (vcpu, thread, required) in self.vcpus.required_cpus() {
            if let Some(reason) = required.check_affinity(vcpu, thread) {
                self.stop.stop(reason);
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.refused = watch_required(ops, &self.timer.as_raw_fd());
    }
}
