//! Fields of the Intel PMU registers.

use bitfield_struct::bitfield;

/// IA32_PERFEVTSELx.
///
/// SDM vol. 3B, "Architectural Performance Monitoring Version 1" and, for
/// `any_thread`, "Version 3".
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct EventSel {
    /// Event select.
    pub event: u8,
    /// Unit mask.
    pub umask: u8,
    /// Count at privilege levels 1 to 3.
    pub usr: bool,
    /// Count at privilege level 0.
    pub os: bool,
    /// Count deasserted-to-asserted transitions instead of cycles.
    pub edge: bool,
    /// Toggle the PMi pins; kept and without effect.
    pub pin_control: bool,
    /// Raise a PMI when the counter overflows.
    pub int: bool,
    /// Count for all threads of the core; reserved before version 3.
    pub any_thread: bool,
    /// Enable the counter.
    pub enable: bool,
    /// Invert the comparison with `cmask`.
    pub inv: bool,
    /// Count cycles in which at least this many events occur; 0: count events.
    pub cmask: u8,
    /// Reserved up to version 5 without optional features.
    #[bits(32)]
    pub reserved: u32,
}

impl EventSel {
    /// Bits that give #GP when written under architectural version 2.
    pub const RESERVED_V2: u64 = 0xffff_ffff_0020_0000;
}

/// The four bits of one counter in IA32_FIXED_CTR_CTRL.
///
/// SDM vol. 3B, "Architectural Performance Monitoring Version 2".
#[bitfield(u8)]
#[derive(PartialEq, Eq, Hash)]
pub struct FixedCtrl {
    /// Count at privilege level 0.
    pub os: bool,
    /// Count at privilege levels 1 to 3.
    pub usr: bool,
    /// Count for all threads of the core; reserved under version 2.
    pub any_thread: bool,
    /// Raise a PMI when the counter overflows.
    pub pmi: bool,
    #[bits(4)]
    __: u8,
}

/// IA32_PERF_CAPABILITIES.
///
/// SDM vol. 3B, "Full-Width Writes to Performance Counter Registers" and
/// vol. 4, table of architectural MSRs.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PerfCapabilities {
    /// Format of LBR records.
    #[bits(6)]
    pub lbr_format: u8,
    /// PEBS is trap-like.
    pub pebs_trap: bool,
    /// PEBS saves architectural registers.
    pub pebs_arch_regs: bool,
    /// Format of PEBS records.
    #[bits(4)]
    pub pebs_format: u8,
    /// IA32_DEBUGCTL can freeze counters in SMM.
    pub freeze_smm: bool,
    /// IA32_A_PMCx exist: writes of all bits of a counter.
    pub full_width_writes: bool,
    /// PEBS baseline.
    pub pebs_baseline: bool,
    /// PERF_METRICS exists.
    pub perf_metrics: bool,
    #[bits(48)]
    __: u64,
}

/// Bit 62 of IA32_PERF_GLOBAL_STATUS and GLOBAL_OVF_CTRL: DS buffer overflow.
pub const STATUS_DS_BUFFER: u64 = 1 << 62;
/// Bit 63 of IA32_PERF_GLOBAL_STATUS and GLOBAL_OVF_CTRL: condition changed.
pub const STATUS_COND_CHANGED: u64 = 1 << 63;
