//! Intel architectural performance monitoring, versions 1 to 5: the profile
//! `intel-generic` (version 2), its neighbours, and the hybrid pair.
//!
//! SDM vol. 3B, "Architectural Performance Monitoring"; guest-contract §1.4,
//! §2 and §8.
//!
//! ```text
//!  V1  event selects and counters; a counter runs by EN alone
//!  V2  + fixed counters, global control and status, full-width writes, freeze
//!  V3  + AnyThread
//!  V4  + status that can be set, registers in use; a freeze is a status bit
//!  V5  + a bitmap of fixed counters; − AnyThread
//! ```

mod config;
mod registers;
pub(super) mod rows;
#[cfg(test)]
mod tests;

pub use config::{ArchPerfmonConfig, ArchVersion, CoreType};

use crate::host::{HostEvent, Privilege};
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::units::Count;
use crate::x86::cpuid::PmuCpuid;
use crate::x86::event::ArchEvent;
use crate::x86::msr::{Access, MsrError, Register};
use crate::x86::regs::{
    DEBUGCTL_FREEZE_PERFMON_ON_PMI, EventSel, FixedCtrl, STATUS_COUNTERS_FROZEN,
};

use super::{Demand, Encoding, GuestPmu, Identity, Wrap};

/// The register file of one vCPU.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig, GuestPmu, Wrap};
/// use vpmu::ids::{MsrIndex, Pmc};
/// use vpmu::units::Count;
/// use vpmu::x86::event::ArchEventSet;
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
/// let mut pmu = ArchPerfmon::new(config);
/// pmu.wrmsr(MsrIndex(0x186), 0x43_003c).unwrap(); // IA32_PERFEVTSEL0: cycles
/// let gp0 = Pmc::gp(0).unwrap();
/// assert!(pmu.demand(gp0).is_some());
/// // A model counts nothing by itself.
/// assert_eq!(pmu.advance(gp0, Count(10)), Wrap::No);
/// assert_eq!(pmu.value(gp0), 10);
/// ```
#[derive(Clone, Debug)]
pub struct ArchPerfmon {
    config: ArchPerfmonConfig,
    event_sel: [EventSel; Pmc::MAX_GP as usize],
    /// By [`Pmc::slot`].
    values: [u64; Pmc::SLOTS],
    fixed_ctrl: u64,
    /// All counters under version 1, which has no such register.
    global_ctrl: u64,
    /// Under version 1, wraps that a PMI tells of.
    global_status: u64,
    debug_ctl: u64,
    metrics: u64,
}

impl ArchPerfmon {
    /// A PMU after RESET.
    #[must_use]
    pub fn new(config: ArchPerfmonConfig) -> Self {
        let mut pmu = Self {
            config,
            event_sel: [EventSel::new(); Pmc::MAX_GP as usize],
            values: [0; Pmc::SLOTS],
            fixed_ctrl: 0,
            global_ctrl: config.counters().0,
            global_status: 0,
            debug_ctl: 0,
            metrics: 0,
        };
        pmu.load_reset_values();
        pmu
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &ArchPerfmonConfig {
        &self.config
    }

    fn sel(&self, pmc: Pmc) -> EventSel {
        self.event_sel.get(pmc.slot()).copied().unwrap_or_default()
    }

    fn fixed_ctrl_of(&self, i: u8) -> FixedCtrl {
        FixedCtrl::from_bits((self.fixed_ctrl >> (4 * u32::from(i)) & 0xf) as u8)
    }

    fn asks_for_interrupt(&self, pmc: Pmc) -> bool {
        match pmc.fixed_number() {
            Some(i) => self.fixed_ctrl_of(i).pmi(),
            None => self.sel(pmc).int(),
        }
    }

    /// Whether the global registers let `pmc` run.
    const fn is_let_run(&self, pmc: Pmc) -> bool {
        PmcSet(self.global_ctrl).contains(pmc) && self.global_status & STATUS_COUNTERS_FROZEN == 0
    }

    /// What a fixed counter counts, and in which modes.
    fn fixed_demand(&self, i: u8) -> (Privilege, Encoding) {
        let ctrl = self.fixed_ctrl_of(i);
        let privilege = Privilege {
            user: ctrl.usr(),
            kernel: ctrl.os(),
        };
        let encoding = match ArchEvent::of_fixed(i) {
            Some(event) if !ctrl.any_thread() => Encoding::Architectural(event),
            _ => Encoding::Fixed(i, ctrl),
        };
        (privilege, encoding)
    }

    /// A PMI stops every counter, if the guest has asked for that (SDM vol. 3B,
    /// "Freezing LBR and Performance Counters on PMI").
    fn freeze(&mut self) {
        if self.debug_ctl & DEBUGCTL_FREEZE_PERFMON_ON_PMI == 0 {
            return;
        }
        if self.config.has_status_set() {
            self.global_status |= STATUS_COUNTERS_FROZEN;
        } else {
            self.global_ctrl = 0;
        }
    }
}

impl GuestPmu for ArchPerfmon {
    fn cpuid(&self) -> PmuCpuid {
        self.config.cpuid()
    }

    fn decode(&self, msr: MsrIndex) -> Result<Access<Register>, MsrError> {
        self.config.decode(msr)
    }

    fn counters(&self) -> PmcSet {
        self.config.counters()
    }

    fn read(&self, access: Access<Register>) -> Result<u64, MsrError> {
        self.read_register(access.register())
    }

    fn write(&mut self, access: Access<Register>, value: u64) -> Result<(), MsrError> {
        self.forget_stopped();
        self.write_register(access, value)
    }

    fn rdpmc_counter(&self, ecx: u32) -> Option<Pmc> {
        const FIXED: u32 = 0x4000_0000;
        let pmc = match ecx.checked_sub(FIXED) {
            Some(i) => Pmc::fixed(u8::try_from(i).ok()?)?,
            None => Pmc::gp(u8::try_from(ecx).ok()?)?,
        };
        self.config.counters().contains(pmc).then_some(pmc)
    }

    fn rdpmc_other(&self, ecx: u32) -> Option<u64> {
        const METRICS: u32 = 0x2000_0000;
        (ecx == METRICS && self.config.has_metrics()).then_some(self.metrics)
    }

    fn value(&self, pmc: Pmc) -> u64 {
        self.values[pmc.slot()]
    }

    fn demand(&self, pmc: Pmc) -> Option<Demand> {
        if !self.is_let_run(pmc) {
            return None;
        }
        let (privilege, encoding) = match pmc.fixed_number() {
            Some(i) => self.fixed_demand(i),
            None => {
                let sel = self.sel(pmc);
                if !sel.enable() {
                    return None;
                }
                let privilege = Privilege {
                    user: sel.usr(),
                    kernel: sel.os(),
                };
                let event = ArchEvent::from_event_sel(sel);
                (
                    privilege,
                    event.map_or(Encoding::Raw(sel), Encoding::Architectural),
                )
            }
        };
        if !privilege.user && !privilege.kernel {
            return None;
        }
        Some(match encoding {
            Encoding::Architectural(event) if self.config.events().contains(event) => {
                Demand::Event(HostEvent {
                    code: event.into(),
                    privilege,
                })
            }
            encoding => Demand::NotBacked(encoding),
        })
    }

    fn distance(&self, pmc: Pmc) -> Count {
        Count(self.config.mask() - self.value(pmc) + 1)
    }

    fn advance(&mut self, pmc: Pmc, events: Count) -> Wrap {
        let wrapped = events >= self.distance(pmc);
        let value = &mut self.values[pmc.slot()];
        *value = value.wrapping_add(events.0) & self.config.mask();
        if !wrapped {
            return Wrap::No;
        }
        let asks = self.asks_for_interrupt(pmc);
        if asks || self.config.has_globals() {
            self.global_status |= PmcSet::from(pmc).0;
        }
        if !asks {
            return Wrap::Silent;
        }
        self.freeze();
        Wrap::Interrupt
    }

    fn interrupt_due(&self) -> bool {
        PmcSet(self.global_status)
            .iter()
            .any(|pmc| self.asks_for_interrupt(pmc))
    }

    fn interrupt_postponed(&mut self) {
        self.forget_stopped();
    }

    fn interrupt_told(&mut self) {
        if !self.config.has_globals() {
            self.global_status = 0;
        }
    }

    fn masks_pmi(&self) -> bool {
        true
    }

    fn identity(&self) -> Identity {
        self.config.identity()
    }

    fn load(&mut self, msr: MsrIndex, value: u64) -> Result<(), MsrError> {
        self.load_register(msr, value)
    }

    fn told(&self) -> PmcSet {
        if self.config.has_globals() {
            PmcSet::EMPTY
        } else {
            PmcSet(self.global_status)
        }
    }

    fn load_told(&mut self, told: PmcSet) -> Result<(), MsrError> {
        if told.is_empty() {
            return Ok(());
        }
        if self.config.has_globals() || told.0 & !self.config.counters().0 != 0 {
            return Err(MsrError::InvalidAccess);
        }
        self.global_status = told.0;
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new(self.config);
    }
}
