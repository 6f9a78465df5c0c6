//! The registers of AMD's core counters, one row each: the only place that says
//! which bits a register stores and drops and has after RESET, and which
//! generation brought it.
//!
//! APM vol. 2, "Performance Monitoring Counters"; guest-contract §8. No bit gives
//! #GP: the bits that a register does not take are dropped (rule G-301). AMD's
//! hardware masks no LVTPC with a PMI, so that no write arms (rule G-304).

use crate::ids::{MsrIndex, PmcSet};
use crate::x86::msr::row::{Arms, Numbering, Row, RowConfig, SavedAs, Takes, Touches};
use crate::x86::msr::window::Window;
use crate::x86::msr::{
    AMD_GLOBAL_CTL, AMD_GLOBAL_STATUS, AMD_GLOBAL_STATUS_CLR, AMD_GLOBAL_STATUS_SET, Access,
    Meaning, MsrError, MsrRun, Register,
};
use crate::x86::regs::AmdEventSel;

use super::{AmdConfig, AmdVersion, COUNTER_MASK};

type AmdRow = Row<AmdConfig>;

const ENABLE: u64 = AmdEventSel::new().with_enable(true).into_bits();

/// The counters at the old addresses.
const LEGACY: u8 = 4;

/// An event select, as every generation has it.
const SELECT: AmdRow = Row {
    run: MsrRun::new("", 0, 0),
    register: Numbering::Gp(Register::AmdEventSel),
    since: AmdVersion::K7,
    takes: Takes::Part(|_| AmdEventSel::STORED),
    stored: |_| AmdEventSel::STORED,
    reset: |_| 0,
    touches: Touches::Itself,
    write: Meaning::Enables(ENABLE),
    arms: Arms::Never,
    saved: SavedAs::Itself,
};

/// A counter, as every generation has it.
const COUNTER: AmdRow = Row {
    register: Numbering::Gp(Register::AmdCounter),
    takes: Takes::Part(|_| COUNTER_MASK),
    stored: |_| COUNTER_MASK,
    write: Meaning::SetsCounter,
    ..SELECT
};

/// A global register of PerfMonV2 that stores nothing.
const GLOBAL: AmdRow = Row {
    run: MsrRun::new("", 0, 0),
    register: Numbering::One(Register::AmdGlobalStatus),
    since: AmdVersion::V2,
    takes: Takes::Part(all_counters),
    stored: |_| 0,
    reset: |_| 0,
    touches: Touches::All,
    write: Meaning::Other,
    arms: Arms::Never,
    saved: SavedAs::Nothing,
};

/// Every register that some generation has. Saved states list registers in this
/// order, those of alternating rows by their index.
pub(in crate::guest) static ROWS: [AmdRow; 8] = [
    Row {
        run: MsrRun::new("PERF_CTL", 0xc001_0200, 6).alternating(),
        since: AmdVersion::Core,
        saved: SavedAs::From(LEGACY),
        ..SELECT
    },
    Row {
        run: MsrRun::new("PERF_CTR", 0xc001_0201, 6).alternating(),
        since: AmdVersion::Core,
        saved: SavedAs::From(LEGACY),
        ..COUNTER
    },
    Row {
        run: MsrRun::one("PerfCntrGlobalCtl", AMD_GLOBAL_CTL),
        register: Numbering::One(Register::AmdGlobalCtl),
        stored: all_counters,
        reset: all_counters,
        write: Meaning::Enables(!0),
        saved: SavedAs::Itself,
        ..GLOBAL
    },
    // Writes are ignored.
    Row {
        run: MsrRun::one("PerfCntrGlobalStatus", AMD_GLOBAL_STATUS),
        register: Numbering::One(Register::AmdGlobalStatus),
        takes: Takes::Part(|_| 0),
        stored: all_counters,
        saved: SavedAs::Itself,
        ..GLOBAL
    },
    Row {
        run: MsrRun::one("PerfCntrGlobalStatusClr", AMD_GLOBAL_STATUS_CLR),
        register: Numbering::One(Register::AmdGlobalStatusClr),
        write: Meaning::Acknowledges,
        ..GLOBAL
    },
    Row {
        run: MsrRun::new("PerfEvtSel", 0xc001_0000, LEGACY as u32),
        ..SELECT
    },
    Row {
        run: MsrRun::new("PerfCtr", 0xc001_0004, LEGACY as u32),
        ..COUNTER
    },
    Row {
        run: MsrRun::one("PerfCntrGlobalStatusSet", AMD_GLOBAL_STATUS_SET),
        register: Numbering::One(Register::AmdGlobalStatusSet),
        ..GLOBAL
    },
];

/// PerfCntrGlobalCtl and its neighbours have a bit for each counter. All are
/// enabled after RESET, as KVM does it; guest-contract §10 has found nothing about
/// physical CPUs.
const fn all_counters(config: &AmdConfig) -> u64 {
    config.counters().0
}

impl RowConfig for AmdConfig {
    type Register = Register;
    type Since = AmdVersion;

    fn has(&self, since: AmdVersion, _: u8) -> bool {
        self.version() >= since
    }

    fn counters(&self) -> PmcSet {
        self.counters()
    }

    fn has_status(&self) -> bool {
        self.has_globals()
    }
}

/// The indices of event selects and counters.
static COUNTERS: Window<0x20c> = Window::new(0xc001_0000, &ROWS);
/// The indices of the global registers.
static GLOBALS: Window<4> = Window::new(AMD_GLOBAL_STATUS.0, &ROWS);

impl AmdConfig {
    /// The row of `msr` and the number of the register in its run, if some
    /// generation has the register.
    pub(in crate::guest) fn row(msr: MsrIndex) -> Option<(&'static AmdRow, u8)> {
        if msr.0 < 0xc001_0000 {
            GLOBALS.row(&ROWS, msr)
        } else {
            COUNTERS.row(&ROWS, msr)
        }
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
