//! The registers of an architectural PMU, one row each, and their masks: the only
//! place that says which bits a register stores, refuses and has after RESET, and
//! which version brought it.
//!
//! SDM vol. 3B, "Architectural Performance Monitoring"; SDM vol. 4, "Architectural
//! MSRs"; guest-contract §8.

use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::x86::cpuid::Vendor;
use crate::x86::msr::row::{Arms, Numbering, Row, RowConfig, SavedAs, Takes, Touches};
use crate::x86::msr::window::Window;
use crate::x86::msr::{
    Access, DEBUGCTL, FIXED_CTR_CTRL, GLOBAL_CTRL, GLOBAL_INUSE, GLOBAL_OVF_CTRL, GLOBAL_STATUS,
    GLOBAL_STATUS_SET, Meaning, MsrError, MsrRun, PERF_CAPABILITIES, PERF_METRICS, Register,
};
use crate::x86::regs::{
    DEBUGCTL_FREEZE_LBRS_ON_PMI, DEBUGCTL_FREEZE_PERFMON_ON_PMI, DEBUGCTL_LBR_BTF, EventSel,
    GLOBAL_PERF_METRICS, STATUS_ASCI, STATUS_COND_CHANGED, STATUS_COUNTERS_FROZEN,
    STATUS_DS_BUFFER, STATUS_LBR_FROZEN, STATUS_TRACE, STATUS_UNCORE,
};

use super::{ArchPerfmonConfig, ArchVersion};

type IntelRow = Row<ArchPerfmonConfig>;

/// What a PMU must be to have a register.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ArchSince {
    /// Of this version at least.
    Version(ArchVersion),
    /// With PERF_METRICS.
    Metrics,
}

const V1: ArchSince = ArchSince::Version(ArchVersion::V1);
const V2: ArchSince = ArchSince::Version(ArchVersion::V2);
const V4: ArchSince = ArchSince::Version(ArchVersion::V4);

/// A register that is read-only, reads 0 after RESET, and is not saved: what a
/// row does not say is as here.
const READ_ONLY: IntelRow = Row {
    run: MsrRun::new("", 0, 0),
    register: Numbering::One(Register::PerfCapabilities),
    since: V1,
    takes: Takes::Nothing,
    stored: |_| 0,
    reset: |_| 0,
    touches: Touches::Nothing,
    write: Meaning::Other,
    arms: Arms::Never,
    saved: SavedAs::Nothing,
};

/// Every register that some version has. Saved states list registers in this
/// order.
pub(in crate::guest) static ROWS: [IntelRow; 13] = [
    Row {
        run: MsrRun::one("IA32_PERF_GLOBAL_CTRL", GLOBAL_CTRL),
        register: Numbering::One(Register::GlobalCtrl),
        since: V2,
        takes: Takes::Only(ArchPerfmonConfig::global_mask),
        stored: ArchPerfmonConfig::global_mask,
        reset: ArchPerfmonConfig::global_ctrl_reset,
        touches: Touches::All,
        write: Meaning::Enables(!0),
        arms: Arms::IfNotZero,
        saved: SavedAs::Itself,
    },
    Row {
        run: MsrRun::one("IA32_PERF_GLOBAL_STATUS", GLOBAL_STATUS),
        register: Numbering::One(Register::GlobalStatus),
        since: V2,
        stored: ArchPerfmonConfig::status_mask,
        touches: Touches::All,
        saved: SavedAs::Itself,
        ..READ_ONLY
    },
    Row {
        run: MsrRun::one("IA32_FIXED_CTR_CTRL", FIXED_CTR_CTRL),
        register: Numbering::One(Register::FixedCtrCtrl),
        since: V2,
        takes: Takes::Only(ArchPerfmonConfig::fixed_ctrl_mask),
        stored: ArchPerfmonConfig::fixed_ctrl_mask,
        touches: Touches::Fixed,
        write: Meaning::Enables(!0),
        arms: Arms::Period,
        saved: SavedAs::Itself,
        ..READ_ONLY
    },
    Row {
        run: MsrRun::new("IA32_FIXED_CTR", 0x309, Pmc::MAX_FIXED as u32),
        register: Numbering::Fixed(Register::FixedCounter),
        since: V2,
        takes: Takes::Only(ArchPerfmonConfig::mask),
        stored: ArchPerfmonConfig::mask,
        touches: Touches::Itself,
        write: Meaning::SetsCounter,
        arms: Arms::Period,
        saved: SavedAs::Itself,
        ..READ_ONLY
    },
    Row {
        run: MsrRun::one("IA32_PERF_GLOBAL_OVF_CTRL / _STATUS_RESET", GLOBAL_OVF_CTRL),
        register: Numbering::One(Register::GlobalOvfCtrl),
        since: V2,
        takes: Takes::Only(ArchPerfmonConfig::status_clear_mask),
        touches: Touches::All,
        write: Meaning::Acknowledges,
        arms: Arms::IfNotZero,
        ..READ_ONLY
    },
    Row {
        run: MsrRun::new("IA32_PERFEVTSEL", 0x186, Pmc::MAX_GP as u32),
        register: Numbering::Gp(Register::EventSel),
        since: V1,
        takes: Takes::Only(ArchPerfmonConfig::event_sel_mask),
        stored: ArchPerfmonConfig::event_sel_mask,
        touches: Touches::Itself,
        write: Meaning::Enables(EventSel::new().with_enable(true).into_bits()),
        arms: Arms::Period,
        saved: SavedAs::Itself,
        ..READ_ONLY
    },
    Row {
        run: MsrRun::new("IA32_A_PMC", 0x4c1, Pmc::MAX_GP as u32),
        register: Numbering::Gp(Register::FullWidthCounter),
        since: V2,
        takes: Takes::Only(ArchPerfmonConfig::mask),
        stored: ArchPerfmonConfig::mask,
        touches: Touches::Itself,
        write: Meaning::SetsCounter,
        arms: Arms::Period,
        ..READ_ONLY
    },
    // A write stores the sign-extended low half: the other bits are ignored.
    Row {
        run: MsrRun::new("IA32_PMC", 0xc1, Pmc::MAX_GP as u32),
        register: Numbering::Gp(Register::Counter),
        since: V1,
        takes: Takes::Only(|_| !0),
        stored: ArchPerfmonConfig::mask,
        touches: Touches::Itself,
        write: Meaning::SetsCounter,
        arms: Arms::Period,
        saved: SavedAs::Itself,
        ..READ_ONLY
    },
    Row {
        run: MsrRun::one("IA32_PERF_CAPABILITIES", PERF_CAPABILITIES),
        register: Numbering::One(Register::PerfCapabilities),
        since: V2,
        reset: |config| config.capabilities().into_bits(),
        ..READ_ONLY
    },
    Row {
        run: MsrRun::one("IA32_PERF_GLOBAL_STATUS_SET", GLOBAL_STATUS_SET),
        register: Numbering::One(Register::GlobalStatusSet),
        since: V4,
        takes: Takes::Only(ArchPerfmonConfig::status_set_mask),
        touches: Touches::All,
        ..READ_ONLY
    },
    Row {
        run: MsrRun::one("IA32_PERF_GLOBAL_INUSE", GLOBAL_INUSE),
        register: Numbering::One(Register::GlobalInUse),
        since: V4,
        ..READ_ONLY
    },
    Row {
        run: MsrRun::one("MSR_PERF_METRICS", PERF_METRICS),
        register: Numbering::One(Register::PerfMetrics),
        since: ArchSince::Metrics,
        takes: Takes::Only(|_| !0),
        stored: |_| !0,
        saved: SavedAs::Itself,
        ..READ_ONLY
    },
    // AMD's DebugCtl has branch tracing alone, which is KVM's to emulate.
    Row {
        run: MsrRun::one("IA32_DEBUGCTL", DEBUGCTL).only_for(Vendor::Intel),
        register: Numbering::One(Register::DebugCtl),
        since: V1,
        takes: Takes::Only(ArchPerfmonConfig::debug_ctl_mask),
        stored: ArchPerfmonConfig::debug_ctl_mask,
        saved: SavedAs::Itself,
        ..READ_ONLY
    },
];

/// Status bits of version 4 that are no counters'.
const STATUS_V4: u64 =
    STATUS_TRACE | STATUS_LBR_FROZEN | STATUS_COUNTERS_FROZEN | STATUS_ASCI | STATUS_UNCORE;

impl ArchPerfmonConfig {
    /// After RESET: all general-purpose counters, no fixed one (SDM vol. 3A,
    /// "Processor State Following Power-up, Reset, or INIT").
    const fn global_ctrl_reset(&self) -> u64 {
        self.general_purpose().0
    }

    /// The fields of IA32_PERFEVTSELx: AnyThread is among them where it is
    /// supported.
    const fn event_sel_mask(&self) -> u64 {
        !self.event_sel_reserved()
    }

    /// OS, USR and PMI of each fixed counter, and AnyThread where it is supported.
    const fn fixed_ctrl_mask(&self) -> u64 {
        let field = if self.has_any_thread() {
            0b1111
        } else {
            0b1011
        };
        let (mut mask, mut i) = (0, 0);
        while let Some(pmc) = Pmc::fixed(i) {
            if self.counters().contains(pmc) {
                mask |= field << (4 * i as u32);
            }
            i += 1;
        }
        mask
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
    pub(super) const fn status_mask(&self) -> u64 {
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

    /// LBR and BTF are stored without effect; KVM alone, without LBRs, takes the
    /// two and keeps neither. The freeze of LBRs is stored without effect as well,
    /// as there are no LBRs: SDM vol. 3B, "Freezing LBR and Performance Counters on
    /// PMI", has it together with the freeze of counters, where there are PDCM and
    /// version 2, and KVM refuses it. Branch tracing, bus-lock detection and
    /// freezing in SMM are not offered.
    const fn debug_ctl_mask(&self) -> u64 {
        let freeze = if self.has_globals() {
            DEBUGCTL_FREEZE_LBRS_ON_PMI | DEBUGCTL_FREEZE_PERFMON_ON_PMI
        } else {
            0
        };
        DEBUGCTL_LBR_BTF | freeze
    }
}

impl RowConfig for ArchPerfmonConfig {
    type Register = Register;
    type Since = ArchSince;

    fn has(&self, since: ArchSince, _: u8) -> bool {
        match since {
            ArchSince::Version(first) => self.version() >= first,
            ArchSince::Metrics => self.has_metrics(),
        }
    }

    fn counters(&self) -> PmcSet {
        self.counters()
    }

    fn has_status(&self) -> bool {
        self.has_globals()
    }
}

/// All indices of [`ROWS`].
static WINDOW: Window<0x500> = Window::new(0, &ROWS);

impl ArchPerfmonConfig {
    /// The row of `msr` and the number of the register in its run, if some version
    /// has the register.
    pub(in crate::guest) fn row(msr: MsrIndex) -> Option<(&'static IntelRow, u8)> {
        WINDOW.row(&ROWS, msr)
    }

    /// The counters that have registers of their own in the rows.
    pub(super) fn counters_with_registers(&self) -> PmcSet {
        let owners = ROWS.iter().map(|row| row.owners(self));
        owners.fold(PmcSet::EMPTY, |all, set| PmcSet(all.0 | set.0))
    }

    /// Whether the rows have a register at `msr` for this PMU.
    pub(super) fn has_register(&self, msr: MsrIndex) -> bool {
        self.decode(msr).is_ok()
    }

    /// The register at `msr`, ready to be read and written.
    ///
    /// # Errors
    /// [`MsrError::Unknown`] if this PMU has none there.
    pub(super) fn decode(&self, msr: MsrIndex) -> Result<Access<Register>, MsrError> {
        let (row, number) = Self::row(msr).ok_or(MsrError::Unknown)?;
        row.access(self, number)
    }
}
