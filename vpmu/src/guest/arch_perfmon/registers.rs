//! What each register of an architectural PMU stores, shows and refuses.

use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::x86::msr::{self, Register};
use crate::x86::regs::{
    DEBUGCTL_FREEZE_LBRS_ON_PMI, DEBUGCTL_FREEZE_PERFMON_ON_PMI, DEBUGCTL_LBR_BTF, EventSel,
    GLOBAL_PERF_METRICS, INUSE_PMI, STATUS_ASCI, STATUS_COND_CHANGED, STATUS_COUNTERS_FROZEN,
    STATUS_DS_BUFFER, STATUS_LBR_FROZEN, STATUS_TRACE, STATUS_UNCORE,
};

use super::super::MsrError;
use super::{ArchPerfmon, ArchPerfmonConfig};

/// Status bits of version 4 that are no counters'.
const STATUS_V4: u64 =
    STATUS_TRACE | STATUS_LBR_FROZEN | STATUS_COUNTERS_FROZEN | STATUS_ASCI | STATUS_UNCORE;

impl ArchPerfmonConfig {
    fn has_register(&self, register: Register) -> bool {
        match register {
            Register::Counter(pmc) | Register::EventSel(pmc) => self.counters().contains(pmc),
            Register::FullWidthCounter(pmc) | Register::FixedCounter(pmc) => {
                self.has_globals() && self.counters().contains(pmc)
            }
            Register::FixedCtrCtrl
            | Register::PerfCapabilities
            | Register::GlobalStatus
            | Register::GlobalCtrl
            | Register::GlobalOvfCtrl => self.has_globals(),
            Register::GlobalStatusSet | Register::GlobalInUse => self.has_status_set(),
            Register::PerfMetrics => self.has_metrics(),
            Register::DebugCtl => true,
            Register::AmdEventSel(..)
            | Register::AmdCounter(..)
            | Register::AmdGlobalStatus
            | Register::AmdGlobalCtl
            | Register::AmdGlobalStatusClr
            | Register::AmdGlobalStatusSet
            | Register::Absent => false,
        }
    }

    /// OS, USR and PMI of each fixed counter, and AnyThread where it is.
    fn fixed_ctrl_mask(&self) -> u64 {
        let field = if self.has_any_thread() {
            0b1111
        } else {
            0b1011
        };
        let fields = self.fixed().iter().filter_map(Pmc::fixed_number);
        fields.fold(0, |mask, i| mask | field << (4 * u32::from(i)))
    }

    /// The counters, and PERF_METRICS where it is: what runs by GLOBAL_CTRL and
    /// has an overflow bit.
    const fn global_mask(&self) -> u64 {
        let metrics = if self.has_metrics() {
            GLOBAL_PERF_METRICS
        } else {
            0
        };
        self.counters().0 | metrics
    }

    /// The bits of the status that there are: no others are ever set (rule G-105).
    const fn status_mask(&self) -> u64 {
        let frozen = if self.has_status_set() {
            STATUS_COUNTERS_FROZEN
        } else {
            0
        };
        self.global_mask() | frozen
    }

    /// What can be written to OVF_CTRL (STATUS_RESET): the bits of absent
    /// features clear nothing.
    const fn status_clear_mask(&self) -> u64 {
        let v4 = if self.has_status_set() { STATUS_V4 } else { 0 };
        self.global_mask() | STATUS_DS_BUFFER | STATUS_COND_CHANGED | v4
    }

    /// What can be written to STATUS_SET, which version 4 brought: the bits of
    /// absent features set nothing.
    const fn status_set_mask(&self) -> u64 {
        self.global_mask() | STATUS_DS_BUFFER | STATUS_V4
    }

    /// LBR and BTF are stored and do nothing; KVM alone, without LBRs, takes the
    /// two and keeps neither. So is the freeze of LBRs, of which there are none:
    /// SDM vol. 3B, "Freezing LBR and Performance Counters on PMI", has it together
    /// with the freeze of counters, where there are PDCM and version 2, and KVM
    /// refuses it. Branch tracing, bus-lock detection and freezing in SMM are not
    /// offered.
    const fn debug_ctl_mask(&self) -> u64 {
        let freeze = if self.has_globals() {
            DEBUGCTL_FREEZE_LBRS_ON_PMI | DEBUGCTL_FREEZE_PERFMON_ON_PMI
        } else {
            0
        };
        DEBUGCTL_LBR_BTF | freeze
    }
}

impl ArchPerfmon {
    /// The register at `msr`, if this shape has it.
    pub(super) fn register(&self, msr: MsrIndex) -> Result<Register, MsrError> {
        let register = msr::decode(msr).ok_or(MsrError::Unknown)?;
        if self.config.has_register(register) {
            Ok(register)
        } else {
            Err(MsrError::InvalidAccess)
        }
    }

    pub(super) fn read_register(&self, register: Register) -> Result<u64, MsrError> {
        Ok(match register {
            Register::Counter(pmc)
            | Register::FullWidthCounter(pmc)
            | Register::FixedCounter(pmc) => self.values[pmc.slot()],
            Register::EventSel(pmc) => self.sel(pmc).into_bits(),
            Register::FixedCtrCtrl => self.fixed_ctrl,
            Register::PerfCapabilities => self.config.capabilities().into_bits(),
            Register::GlobalStatus | Register::GlobalStatusSet => self.global_status,
            Register::GlobalCtrl => self.global_ctrl,
            Register::GlobalOvfCtrl => 0,
            Register::GlobalInUse => self.in_use(),
            Register::PerfMetrics => self.metrics,
            Register::DebugCtl => self.debug_ctl,
            _ => return Err(MsrError::InvalidAccess),
        })
    }

    pub(super) fn write_register(
        &mut self,
        register: Register,
        value: u64,
    ) -> Result<(), MsrError> {
        let config = self.config;
        match register {
            Register::Counter(pmc) => {
                self.write_counter(pmc, sign_extended(value) & config.mask())?;
            }
            Register::FullWidthCounter(pmc) | Register::FixedCounter(pmc) => {
                self.write_counter(pmc, value)?;
            }
            Register::EventSel(pmc) => {
                let sel = within(value, !config.event_sel_reserved())?;
                self.event_sel[pmc.slot()] = EventSel::from_bits(sel);
            }
            Register::FixedCtrCtrl => self.fixed_ctrl = within(value, config.fixed_ctrl_mask())?,
            Register::GlobalCtrl => self.global_ctrl = within(value, config.global_mask())?,
            Register::GlobalOvfCtrl => {
                self.global_status &= !within(value, config.status_clear_mask())?;
            }
            Register::GlobalStatusSet => {
                let bits = within(value, config.status_set_mask())?;
                self.global_status |= bits & config.status_mask();
            }
            Register::PerfMetrics => self.metrics = value,
            Register::DebugCtl => self.debug_ctl = within(value, config.debug_ctl_mask())?,
            // PERF_CAPABILITIES, GLOBAL_STATUS and GLOBAL_INUSE: read only.
            _ => return Err(MsrError::InvalidAccess),
        }
        Ok(())
    }

    /// Gives a register that stores something a value that it can hold.
    pub(super) fn load_register(&mut self, register: Register, value: u64) -> Result<(), MsrError> {
        let config = self.config;
        match register {
            Register::Counter(pmc) | Register::FixedCounter(pmc) => {
                self.values[pmc.slot()] = within(value, config.mask())?;
            }
            Register::GlobalStatus => self.global_status = within(value, config.status_mask())?,
            Register::EventSel(_)
            | Register::FixedCtrCtrl
            | Register::GlobalCtrl
            | Register::PerfMetrics
            | Register::DebugCtl => self.write_register(register, value)?,
            _ => return Err(MsrError::InvalidAccess),
        }
        Ok(())
    }

    fn write_counter(&mut self, pmc: Pmc, value: u64) -> Result<(), MsrError> {
        self.values[pmc.slot()] = within(value, self.config.mask())?;
        if !self.config.has_globals() {
            self.global_status &= !PmcSet::from(pmc).0;
        }
        Ok(())
    }

    /// Without a status register a wrap stays told of until its counter is
    /// written, or until the first write after the one that stopped it.
    pub(super) fn forget_stopped(&mut self) {
        if self.config.has_globals() {
            return;
        }
        for pmc in PmcSet(self.global_status).iter() {
            if !self.sel(pmc).enable() {
                self.global_status &= !PmcSet::from(pmc).0;
            }
        }
    }

    /// IA32_PERF_GLOBAL_INUSE (SDM vol. 3B, "Architectural Performance
    /// Monitoring Version 4"): event selects that are not 0, fixed counters
    /// whose mode is not 0, and whether any of them asks for interrupts.
    fn in_use(&self) -> u64 {
        let is_used = |pmc: &Pmc| match pmc.fixed_number() {
            Some(i) => {
                let ctrl = self.fixed_ctrl_of(i);
                ctrl.os() || ctrl.usr()
            }
            None => self.sel(*pmc).event() != 0,
        };
        let counters = self.config.counters();
        let used = counters.iter().filter(is_used);
        let used = used.fold(0, |bits, pmc| bits | PmcSet::from(pmc).0);
        let asks = counters.iter().any(|pmc| self.asks_for_interrupt(pmc));
        used | if asks { INUSE_PMI } else { 0 }
    }
}

/// `value`, if it has no bit outside `mask`.
const fn within(value: u64, mask: u64) -> Result<u64, MsrError> {
    if value & !mask == 0 {
        Ok(value)
    } else {
        Err(MsrError::InvalidAccess)
    }
}

/// The low 32 bits with their sign extended to 64.
const fn sign_extended(value: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "a legacy counter write takes the low half as a signed number"
    )]
    {
        value as u32 as i32 as i64 as u64
    }
}
