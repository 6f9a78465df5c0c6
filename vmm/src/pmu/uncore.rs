//! The uncore PMUs of a VM, which its vCPUs share.
//!
//! They are behind one lock, which only accesses to uncore registers take: a vCPU
//! asks here for registers that its core PMU does not have. vCPUs come and go by
//! [`SharedUncore::arrive`] and [`SharedUncore::depart`], which the presence
//! table orders ([`crate::vcpu::presence`]). A port is one vCPU's access; it
//! only reports the vCPU's thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vpmu::guest::{Access, Effect, MsrError};
use vpmu::host::UncoreHost;
use vpmu::ids::{MsrIndex, VcpuId};
use vpmu::sched::RegisterError;
use vpmu::uncore::{Uncore, UncoreModel, UncorePmu, UncoreRegister};

use super::uncore_hosts::VcpuTimes;
use super::uncore_status::{self, UncoreStatus};
use crate::config::CpusConfig;
use crate::sys::clock;

/// What backs one uncore PMU of a guest.
pub type BoxedHost = Box<dyn UncoreHost + Send>;

/// Uncore PMUs that are decided on, for one VM.
pub struct UncorePlan {
    /// What the guest is shown.
    pub model: UncoreModel,
    /// What backs each of them.
    pub hosts: Box<dyn Fn(UncorePmu) -> BoxedHost + Send + Sync>,
    /// Where the vCPUs' threads tell how long they ran.
    pub times: Arc<VcpuTimes>,
}

impl std::fmt::Debug for UncorePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UncorePlan")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// The uncore PMUs of one VM, for all its threads.
#[derive(Debug)]
pub struct SharedUncore {
    model: UncoreModel,
    uncore: Mutex<Uncore<BoxedHost>>,
    times: Arc<VcpuTimes>,
}

impl SharedUncore {
    /// After RESET, with the vCPUs that boot.
    ///
    /// # Errors
    /// If there are more counters than can be named.
    pub fn new(plan: &UncorePlan, cpus: &CpusConfig) -> Result<Self, RegisterError> {
        let topology = cpus.topology.scopes();
        let uncore = Uncore::new(plan.model, topology, cpus.boot, |pmu| (plan.hosts)(pmu))?;
        Ok(Self {
            model: plan.model,
            uncore: Mutex::new(uncore),
            times: Arc::clone(&plan.times),
        })
    }

    /// What the guest is shown.
    #[must_use]
    pub const fn model(&self) -> &UncoreModel {
        &self.model
    }

    /// A vCPU is added: a scope without a vCPU has this one stand for it, and
    /// the counters that the guest left enabled there count again.
    pub fn arrive(&self, vcpu: VcpuId) {
        self.lock().arrived(clock::monotonic(), vcpu);
    }

    /// A vCPU was ejected, and its thread accesses nothing any more: counters
    /// that it stood for go to another vCPU of their scope, with their counts.
    pub fn depart(&self, vcpu: VcpuId) {
        self.lock().departed(clock::monotonic(), vcpu);
    }

    /// Every PMU, and what happened to its events.
    #[must_use]
    pub fn status(&self) -> UncoreStatus {
        uncore_status::of(&mut self.lock(), clock::monotonic())
    }

    fn lock(&self) -> MutexGuard<'_, Uncore<BoxedHost>> {
        // It may read a file, and nobody waits for that.
        self.times.refresh();
        self.uncore.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One vCPU's access to the uncore PMUs, on the vCPU's thread.
#[derive(Debug)]
pub(super) struct UncorePort {
    shared: Arc<SharedUncore>,
    vcpu: VcpuId,
}

impl UncorePort {
    /// The calling thread is the vCPU's from here on, and its CPU time the
    /// vCPU's, until [`UncorePort::finish`].
    pub(super) fn begin(shared: Arc<SharedUncore>, vcpu: VcpuId) -> Self {
        shared.times.begin(vcpu);
        Self { shared, vcpu }
    }

    /// The calling thread is not the vCPU's any more.
    pub(super) fn finish(self) {
        self.shared.times.end(self.vcpu);
    }

    /// The register at `index`. Takes no lock: an index that no PMU of the VM has
    /// keeps nobody waiting.
    ///
    /// # Errors
    /// [`MsrError::Unknown`] if none of these PMUs has it.
    pub(super) fn decode(&self, index: MsrIndex) -> Result<Access<UncoreRegister>, MsrError> {
        self.shared.model.decode(index)
    }

    pub(super) fn read(&self, access: Access<UncoreRegister>) -> Result<u64, MsrError> {
        let mut uncore = self.shared.lock();
        uncore.read(clock::monotonic(), self.vcpu, access)
    }

    pub(super) fn write(&self, access: Access<UncoreRegister>, value: u64) -> Result<(), MsrError> {
        let mut uncore = self.shared.lock();
        uncore.write(clock::monotonic(), self.vcpu, access, value)
    }

    pub(super) fn rdpmc(&self, ecx: u32) -> Option<u64> {
        self.shared.model.rdpmc_counter(ecx)?;
        let mut uncore = self.shared.lock();
        uncore.rdpmc(clock::monotonic(), self.vcpu, ecx)
    }
}

/// Whether a write starts a counter that Linux reads by RDPMC.
pub(super) fn needs_rdpmc(access: Access<UncoreRegister>, value: u64) -> bool {
    match access.register() {
        UncoreRegister::Select(counter) => {
            !matches!(counter.pmu, UncorePmu::Umc(_)) && access.effect(value) == Effect::Enables
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use vpmu::host::sim_uncore::SimUncore;

    use super::*;

    const L3_CTL: MsrIndex = MsrIndex(0xc001_0230);
    const L3_CTR: MsrIndex = MsrIndex(0xc001_0231);

    fn shared(cpus: u16) -> Arc<SharedUncore> {
        let plan = UncorePlan {
            model: UncoreModel::default().with_l3().with_umc(1).unwrap(),
            hosts: Box::new(|_| Box::new(SimUncore::default())),
            times: Arc::new(VcpuTimes::new(cpus)),
        };
        Arc::new(SharedUncore::new(&plan, &CpusConfig::flat(cpus)).unwrap())
    }

    /// G-602 over threads: each writes and reads what the other sees, and a vCPU
    /// takes its place along when it departs.
    #[test]
    fn vcpus_share_and_leave() {
        let shared = shared(2);
        let one = UncorePort::begin(Arc::clone(&shared), VcpuId(0));
        let at = |index| one.decode(index).unwrap();
        one.write(at(L3_CTL), 1 << 22 | 4).unwrap();
        one.write(at(L3_CTR), 77).unwrap();
        let counter = at(L3_CTR);
        let other = Arc::clone(&shared);
        let read = thread::spawn(move || {
            let port = UncorePort::begin(other, VcpuId(1));
            let read = (port.read(counter), port.rdpmc(10));
            port.finish();
            read
        });
        assert_eq!(read.join().unwrap(), (Ok(77), Some(77)));
        shared.depart(VcpuId(1));
        let counters = |shared: &SharedUncore| {
            let status = shared.status();
            let instance = status.pmus[0].instances[0].clone();
            (instance.designated, instance.counters[0].vcpu)
        };
        assert_eq!(counters(&shared), (Some(0), Some(0)));
        shared.arrive(VcpuId(1));
        one.finish();
        // The end of a port moves nothing.
        assert_eq!(counters(&shared), (Some(0), Some(0)));
        shared.depart(VcpuId(0));
        assert_eq!(counters(&shared), (Some(1), Some(1)));
        shared.depart(VcpuId(1));
        assert_eq!(counters(&shared), (None, None));
    }

    #[test]
    fn only_what_linux_reads_by_rdpmc_needs_it() {
        let port = UncorePort::begin(shared(1), VcpuId(0));
        let needs_rdpmc = |index, value| needs_rdpmc(port.decode(index).unwrap(), value);
        assert!(needs_rdpmc(L3_CTL, 1 << 22));
        assert!(!needs_rdpmc(L3_CTL, 4) && !needs_rdpmc(L3_CTR, 1 << 22));
        assert!(!needs_rdpmc(MsrIndex(0xc001_0800), 1 << 31));
        assert_eq!(port.decode(MsrIndex(0x611)), Err(MsrError::Unknown));
    }
}
