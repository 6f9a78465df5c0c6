//! The PMU's side of [`MsrPort`]: what the vCPU's run loop calls.

#[cfg(any(test, feature = "fuzz"))]
mod fuzz;
mod saved;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use vpmu::guest::{Access, GuestPmu, Model, MsrError, OrElseIfUnknown, refusal};
use vpmu::host::HostPmu;
use vpmu::host::software::Khz;
use vpmu::ids::{MsrIndex, VcpuId};
use vpmu::uncore::UncoreRegister;
use vpmu::units::Nanos;
use vpmu::x86::msr::{Register, is_rdpmc_index};
use vpmu::{BeforeEntry, Ran, Rules, Totals};

use super::DynVcpuPmu;
use super::guest_clock::{GuestClock, TimeSource};
use super::kick_timer::KickTimer;
use super::linger::Linger;
use super::lost_reads::LostReads;
use super::monitors::VmMonitors;
use super::pmi::PmiInjector;
use super::rdpmc::{Ring, Sites, UserAccess};
use super::status;
use super::totals::VmTotals;
use super::uncore::{SharedUncore, UncorePort};
use crate::kvm::{Gp, Interrupter, Vcpu};
use crate::rate_limit::RateLimit;
use crate::stop::PortError;
use crate::sys::kick;
use crate::vcpu::{
    MonitorOrder, MonitorOutcome, MsrPort, PortNotSaved, VcpuPmuStatus, WrmsrAnswer,
};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use fuzz::port as fuzz_port;
use saved::SavedPort;
use write::Unwritten;

/// How long a program may read 0 on a host whose RDPMC is silent, if it mapped an
/// event that counted already.
const PCE_LOOK: Nanos = Nanos(10_000_000);

/// The PMU of one vCPU, on that vCPU's thread.
#[derive(Debug)]
pub(super) struct PmuPort {
    vcpu: VcpuId,
    pmu: DynVcpuPmu,
    uncore: Option<UncorePort>,
    sites: Sites,
    lost_reads: LostReads,
    injector: PmiInjector,
    clock: GuestClock,
    timer: KickTimer,
    linger: Linger,
    /// The guest's privilege level is of use if a signal ends the run.
    wants_level: bool,
    troubles_said: u64,
    totals: Arc<VmTotals>,
}

/// The parts of a port.
#[derive(Debug)]
pub(super) struct PmuPortParts {
    /// The vCPU of the port.
    pub(super) vcpu: VcpuId,
    /// The id of the vCPU's local APIC.
    pub(super) apic_id: u32,
    /// The guest's registers.
    pub(super) model: Model,
    /// The driver of the host's counters.
    pub(super) host: Box<dyn HostPmu + Send>,
    /// The guest's rewritten RDPMC instructions.
    pub(super) sites: Sites,
    /// What the host does with those that are not.
    pub(super) access: UserAccess,
    /// The way for PMIs that are no NMIs.
    pub(super) interrupter: Interrupter,
    /// The operator's rules for the counters.
    pub(super) rules: Rules,
    /// The time that guest time is a part of.
    pub(super) time: TimeSource,
    /// The rate of the TSC.
    pub(super) tsc: Khz,
    /// The part of that time that an entry and exit take without the guest running.
    pub(super) entry_cost: Nanos,
    /// The VM's uncore PMUs.
    pub(super) uncore: Option<Arc<SharedUncore>>,
    /// The monitors of the VM.
    pub(super) monitors: Arc<VmMonitors>,
    /// The VM's totals.
    pub(super) totals: Arc<VmTotals>,
    /// What the port was when it was saved.
    pub(super) saved: Option<Vec<u8>>,
}

impl PmuPort {
    /// A port for the calling thread.
    ///
    /// # Errors
    /// If the host gives no timer, or the saved PMU cannot go on here.
    pub(super) fn new(parts: PmuPortParts) -> Result<Self, PortError> {
        let timer = KickTimer::new(kick::SIGNAL, parts.entry_cost).map_err(PortError::timer)?;
        let saved = parts.saved.as_deref().map(SavedPort::of).transpose()?;
        let mut pmu = match &saved {
            None => DynVcpuPmu::new(parts.model, parts.host, parts.rules),
            Some(saved) => saved.pmu(parts.model, parts.host, parts.rules)?,
        };
        let mut lost_reads = LostReads::new(parts.access);
        if let Some(saved) = saved {
            saved.put_back(&parts.sites, &mut lost_reads)?;
        }
        for (id, spec) in parts.monitors.all() {
            if spec.is_for(parts.vcpu)
                && let Err(error) = pmu.attach(id, spec.attr, spec.policy)
            {
                let vcpu = parts.vcpu;
                log::warn!("pmu: vCPU {vcpu}: monitor {id} does not count: {error}");
            }
        }
        Ok(Self {
            vcpu: parts.vcpu,
            pmu,
            uncore: parts.uncore.map(|u| UncorePort::begin(u, parts.vcpu)),
            sites: parts.sites,
            lost_reads,
            injector: PmiInjector::new(parts.apic_id, parts.interrupter)?,
            clock: GuestClock::new(parts.time, parts.tsc, parts.entry_cost),
            timer,
            linger: Linger::default(),
            wants_level: false,
            troubles_said: 0,
            totals: parts.totals,
        })
    }

    fn say_troubles(&mut self) {
        static LIMIT: RateLimit = RateLimit::new();
        let troubles = self.pmu.totals().not_counted;
        if troubles == self.troubles_said {
            return;
        }
        self.troubles_said = troubles;
        for counter in self.pmu.counters().filter(|c| c.state.is_trouble()) {
            if LIMIT.allow().is_some() {
                log::warn!(
                    "pmu: vCPU {}: {} does not count: {}",
                    self.vcpu,
                    counter.pmc,
                    counter.state
                );
            }
        }
    }
}

/// A register that an exit is about, of the PMU that has it.
#[derive(Clone, Copy, Debug)]
enum Found {
    Core(Access<Register>),
    Uncore(Access<UncoreRegister>),
}

impl MsrPort for PmuPort {
    fn on_rdmsr(&mut self, vcpu: &mut Vcpu, index: MsrIndex) -> Result<u64, Gp> {
        if is_rdpmc_index(index) {
            return if self.sites.contains(vcpu.instruction_pointer()) {
                self.lost_reads.forgive();
                rdpmc(&mut self.pmu, self.uncore.as_ref(), index.0).ok_or(Gp)
            } else {
                machine_check_legacy(index)
            };
        }
        let read = match self.decode(index) {
            Ok(Found::Core(access)) => {
                if access.counter().is_some() {
                    self.lost_reads.read();
                }
                self.pmu.read(access)
            }
            Ok(Found::Uncore(access)) => match &self.uncore {
                Some(uncore) => uncore.read(access),
                None => Err(MsrError::Unknown),
            },
            Err(error) => Err(error),
        };
        read.map_err(|error| self.refused("read", index, error))
    }

    fn on_wrmsr(&mut self, vcpu: &mut Vcpu, index: MsrIndex, value: u64) -> WrmsrAnswer {
        let written = match self.decode(index) {
            Ok(Found::Core(access)) if self.pmu.changes_nothing(access, value) => {
                return WrmsrAnswer::Done(Ok(()));
            }
            Ok(Found::Core(access)) => self.write_core(vcpu, access, value),
            Ok(Found::Uncore(access)) => self.write_uncore(vcpu, access, value),
            Err(error) => Err(Unwritten::Refused(error)),
        };
        match written {
            Ok(()) => {
                self.say_troubles();
                WrmsrAnswer::Done(Ok(()))
            }
            Err(Unwritten::Refused(error)) => {
                WrmsrAnswer::Done(Err(self.refused("write", index, error)))
            }
            Err(Unwritten::Later(wait)) => WrmsrAnswer::Later(Duration::from_nanos(wait.0)),
        }
    }

    fn before_run(&mut self, vcpu: &mut Vcpu) -> Result<(), PortError> {
        let wants = match self.pmu.before_entry() {
            BeforeEntry::Pmi(pmi) => self.injector.inject(pmi, vcpu)?,
            BeforeEntry::Ready(wants) => wants,
        };
        self.linger.before_entry(&wants, Instant::now);
        let pce = (wants.guest_time && self.sites.watches_pce()).then_some(PCE_LOOK);
        let left = wants.deadline.into_iter().chain(pce).min();
        self.kick_after(left, wants.guest_time)?;
        self.wants_level = wants.level;
        if wants.guest_time {
            self.clock.enter();
        }
        Ok(())
    }

    fn after_run(&mut self) {
        let span = self.clock.leave();
        self.timer.exited();
        self.injector.exited();
        self.pmu.after_run(Ran {
            span,
            ..Ran::default()
        });
    }

    fn after_interrupted_run(&mut self, vcpu: &mut Vcpu) -> Result<(), PortError> {
        let span = self.clock.leave();
        self.timer.interrupted(vcpu.registers().ok());
        self.take_pce(vcpu);
        let level = self.wants_level.then(|| vcpu.privilege_level());
        self.pmu.after_run(Ran {
            span,
            interrupted: self.linger.is_over(Instant::now),
            level: level.transpose()?,
        });
        self.say_troubles();
        Ok(())
    }

    fn is_doorbell(&mut self, port: u16) -> bool {
        self.sites.is_bell(port)
    }

    fn on_doorbell(&mut self, vcpu: &mut Vcpu) -> Result<(), PortError> {
        let (pmu, uncore) = (&mut self.pmu, self.uncore.as_ref());
        let ring = self.sites.ring(vcpu, |ecx| rdpmc(pmu, uncore, ecx))?;
        if ring == Ring::Served {
            // Where reads can be lost, user code alone comes here.
            self.lost_reads.read();
        }
        Ok(())
    }

    fn status(&mut self) -> Option<VcpuPmuStatus> {
        Some(status::of(&mut self.pmu))
    }

    fn monitor(&mut self, order: MonitorOrder) -> MonitorOutcome {
        let view = match order {
            MonitorOrder::Attach(id, attr, policy) => {
                self.pmu.attach(id, attr, policy)?;
                self.pmu.monitors().find(|view| view.id == id)
            }
            MonitorOrder::Detach(id) => self.pmu.detach(id),
        };
        Ok(view.map(Into::into))
    }

    fn save(&mut self) -> Result<Vec<u8>, PortNotSaved> {
        self.saved()
    }

    fn finish(self: Box<Self>) -> Totals {
        if let Some(uncore) = self.uncore {
            uncore.finish();
        }
        self.totals.add_uncounted(&status::uncounted(&self.pmu));
        self.pmu.totals()
    }
}

impl PmuPort {
    /// Has the vCPU leave the guest when it has run for `left`, if at all. `runs`: guest
    /// time passes.
    fn kick_after(&mut self, left: Option<Nanos>, runs: bool) -> Result<(), PortError> {
        let now = self.clock.guest_time();
        let armed = self.timer.before_entry(now, left, runs);
        armed.map_err(|source| PortError::Host {
            what: "cannot arm the overflow timer",
            source,
        })
    }

    /// Finds the register at `index` among the PMUs of the VM: the one decode of an
    /// exit.
    fn decode(&self, index: MsrIndex) -> Result<Found, MsrError> {
        let core = self.pmu.decode(index).map(Found::Core);
        core.or_else_if_unknown(|| {
            let uncore = self.uncore.as_ref().ok_or(MsrError::Unknown)?;
            uncore.decode(index).map(Found::Uncore)
        })
        .or_else_if_unknown(|| Err(refusal(self.pmu.model().identity().vendor, index)))
    }

    /// User code must not read a silent 0 (G-508).
    fn take_pce(&mut self, vcpu: &Vcpu) {
        static LIMIT: RateLimit = RateLimit::new();
        if let Err(error) = self.sites.take_pce(vcpu)
            && LIMIT.allow().is_some()
        {
            log::error!(
                "pmu: vCPU {}: RDPMC in user mode reads 0: {error}",
                self.vcpu
            );
        }
    }

    fn refused(&self, what: &str, index: MsrIndex, error: MsrError) -> Gp {
        static LIMIT: RateLimit = RateLimit::new();
        if log::log_enabled!(log::Level::Debug) && LIMIT.allow().is_some() {
            log::debug!(
                "pmu: vCPU {}: {what} of MSR {index} faults: {error}",
                self.vcpu
            );
        }
        Gp
    }
}

/// What RDPMC reads: the core's counters, or an uncore PMU's.
fn rdpmc(pmu: &mut DynVcpuPmu, uncore: Option<&UncorePort>, ecx: u32) -> Option<u64> {
    pmu.rdpmc(ecx).or_else(|| uncore?.rdpmc(ecx))
}

/// RDMSR of an index below 10H that is no rewritten RDPMC: IA32_P5_MC_ADDR and
/// _TYPE read as 0, as KVM answers them; the others are no registers.
const fn machine_check_legacy(index: MsrIndex) -> Result<u64, Gp> {
    match index.0 {
        0 | 1 => Ok(0),
        _ => Err(Gp),
    }
}
