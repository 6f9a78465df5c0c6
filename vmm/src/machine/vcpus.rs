//! KVM's vCPUs and the threads that run them.
//!
//! Every possible vCPU is created with the VM, so adding a vCPU later needs only a
//! thread. The presence table keeps a vCPU without a thread in its power-on state.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use vpmu::ids::{MsrIndex, VcpuId};

use super::build_error::BuildError;
use super::cpuid::{self, CpuidPlan, Profile};
use super::hotplug::StartVcpu;
use super::restored::SavedVcpus;
use crate::config::Topology;
use crate::kvm::{BootState, Interrupter, KvmError, Vcpu, Vm};
use crate::pmu::{PmuHooks, PortContext};
use crate::stop::StopSignal;
use crate::sys::guest_ram::GuestRam;
use crate::vcpu::{Buses, SpawnError, ThreadObserver, VcpuHandle, VcpuParts};

/// IA32_MISC_ENABLE and IA32_MTRR_DEF_TYPE (Intel SDM vol. 4).
const MISC_ENABLE: MsrIndex = MsrIndex(0x1a0);
const MTRR_DEF_TYPE: MsrIndex = MsrIndex(0x2ff);
/// MTRRs on, write-back by default.
const MTRR_WRITE_BACK: u64 = 0x806;

/// The reason why a vCPU has no thread.
#[derive(Debug, Error)]
pub enum StartError {
    /// KVM does not take or give its state.
    #[error("KVM cannot set up vCPU {vcpu}")]
    Kvm {
        /// The vCPU.
        vcpu: VcpuId,
        /// KVM's error.
        source: KvmError,
    },
    /// The thread does not come up.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// The parts from which the threads of vCPUs are made.
#[derive(Debug)]
pub(super) struct VcpuSource {
    pub(super) hooks: PmuHooks,
    pub(super) memory: GuestRam,
    pub(super) interrupter: Interrupter,
    pub(super) topology: Topology,
    pub(super) buses: Arc<Buses>,
    pub(super) stop: Arc<StopSignal>,
    pub(super) observer: Arc<dyn ThreadObserver>,
    /// The vCPUs of a snapshot, if the guest goes on from one.
    pub(super) saved: Option<Arc<SavedVcpus>>,
}

/// A vCPU whose thread did not start, and KVM's vCPU, unless the thread died
/// with it.
#[derive(Debug)]
pub(super) struct StartFailure {
    pub(super) error: StartError,
    pub(super) vcpu: Option<Box<Vcpu>>,
}

impl StartVcpu for VcpuSource {
    fn spawn(&self, id: VcpuId, mut vcpu: Vcpu) -> Result<VcpuHandle, StartFailure> {
        let saved = self.saved.as_ref();
        let saved = saved.and_then(|all| Some((all.take(id)?, all.tsc)));
        let (saved, port) = match saved {
            Some((section, tsc)) => (Some((Box::new(section.kvm), tsc)), Some(section.port)),
            None => (None, None),
        };
        let port = match self.port(id, &mut vcpu, port) {
            Ok(port) => port,
            Err(source) => {
                return Err(StartFailure {
                    error: StartError::Kvm { vcpu: id, source },
                    vcpu: Some(Box::new(vcpu)),
                });
            }
        };
        let affinity = self.hooks.affinity.get(usize::from(id.0));
        let parts = VcpuParts {
            id,
            vcpu,
            affinity: affinity.cloned().unwrap_or_default(),
            buses: Arc::clone(&self.buses),
            stop: Arc::clone(&self.stop),
            observer: Arc::clone(&self.observer),
            saved,
        };
        VcpuHandle::spawn(parts, port).map_err(|failure| StartFailure {
            error: failure.error.into(),
            vcpu: failure.vcpu,
        })
    }
}

impl VcpuSource {
    /// The builder of the vCPU's port, which goes on as `saved`. The vCPU is reset first: an
    /// interrupt to all CPUs reaches a vCPU without a thread too.
    fn port(
        &self,
        id: VcpuId,
        vcpu: &mut Vcpu,
        saved: Option<Vec<u8>>,
    ) -> Result<crate::vcpu::PortBuilder, KvmError> {
        vcpu.reset()?;
        Ok((self.hooks.port)(&PortContext {
            vcpu: id,
            apic_id: self.topology.apic_id(id),
            tsc: vcpu.tsc_rate()?,
            memory: &self.memory,
            interrupter: &self.interrupter,
            saved,
        }))
    }
}

/// Every possible vCPU, none with a thread yet.
#[derive(Debug, Default)]
pub(super) struct CreatedVcpus {
    pub(super) vcpus: BTreeMap<VcpuId, Vcpu>,
    /// Features that KVM shows the guest against its CPUID table.
    pub(super) leaked: Vec<&'static str>,
    /// The MSRs that a vCPU may have here.
    pub(super) msrs: Arc<[MsrIndex]>,
}

/// What the vCPUs begin with.
#[derive(Clone, Copy, Debug)]
pub(super) enum VcpuBegin<'a> {
    /// The boot CPU is at the kernel's first instruction.
    Boot(BootState),
    /// They go on where they were saved.
    Saved(&'a SavedVcpus),
}

/// Warns of features that KVM shows the guest against its CPUID table.
pub(super) fn warn_of_leaks(leaked: &[&str]) {
    if !leaked.is_empty() {
        log::warn!(
            "KVM shows the guest CPU features that its CPUID table does not offer: {}; the \
             guest's drivers may try to use them",
            leaked.join(", ")
        );
    }
}

/// The plan by which KVM's vCPUs are set up.
#[derive(Debug)]
pub(super) struct VcpuPlan<'a> {
    pub(super) cpuid: CpuidPlan<'a>,
    pub(super) begin: VcpuBegin<'a>,
    pub(super) state_msrs: Vec<MsrIndex>,
}

impl VcpuPlan<'_> {
    /// Creates these vCPUs, each as firmware leaves it. The boot CPU, which
    /// never leaves, is at the kernel's first instruction. A saved vCPU gets its state with
    /// its thread.
    ///
    /// # Errors
    /// What KVM says, or what a saved vCPU needs and this host lacks.
    pub(super) fn create(
        mut self,
        vm: &Vm,
        ids: impl Iterator<Item = VcpuId>,
    ) -> Result<CreatedVcpus, BuildError> {
        let mut created = CreatedVcpus::default();
        for id in ids {
            let mut vcpu = vm.create_vcpu(self.cpuid.topology.apic_id(id))?;
            let table = self.cpuid.table(id);
            vcpu.set_cpuid(&table)?;
            // As KVM shows it, which may be more than it was told.
            if let VcpuBegin::Saved(saved) = self.begin
                && let Some(theirs) = saved.cpuid(id, &vcpu.cpuid()?)?
            {
                vcpu.set_cpuid(&theirs)?;
            }
            if id.0 == 0 {
                created.leaked = cpuid::leaked(&table, &vcpu.cpuid()?);
            }
            set_registers(&vcpu, self.cpuid.profile)?;
            match self.begin {
                VcpuBegin::Boot(state) if id.0 == 0 => vcpu.set_boot_state(state)?,
                VcpuBegin::Saved(_) if id.0 == 0 => {}
                _ => self.state_msrs = vcpu.remember_power_on(&self.state_msrs)?,
            }
            created.vcpus.insert(id, vcpu);
        }
        created.msrs = self.state_msrs.into();
        Ok(created)
    }
}

/// Sets the registers that firmware sets on every processor.
fn set_registers(vcpu: &Vcpu, profile: Profile) -> Result<(), KvmError> {
    vcpu.set_msrs(&[
        (MISC_ENABLE, profile.misc_enable()),
        (MTRR_DEF_TYPE, MTRR_WRITE_BACK),
    ])?;
    vcpu.init_fpu()?;
    vcpu.init_lapic()
}
