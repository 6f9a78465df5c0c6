//! Fields of the PMU registers.

use bitfield_struct::bitfield;

/// IA32_PERFEVTSELx.
///
/// SDM vol. 3B, "Architectural Performance Monitoring Version 1" and, for
/// `any_thread`, "Version 3".
///
/// # Examples
/// ```
/// use vpmu::x86::regs::EventSel;
///
/// let sel = EventSel::from_bits(0x53_003c);
/// assert_eq!((sel.event(), sel.umask()), (0x3c, 0));
/// assert!(sel.usr() && sel.os() && sel.int() && sel.enable());
/// ```
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
    /// Bits that give #GP when written, where AnyThread is not supported.
    pub const RESERVED: u64 = 0xffff_ffff_0020_0000;
    /// Bits that give #GP when written, where AnyThread is supported.
    pub const RESERVED_WITH_ANY_THREAD: u64 = 0xffff_ffff_0000_0000;

    /// Whether the event select is 0. No general-purpose counter has an event
    /// there; kernels use it for codes of their own, of what fixed counters count
    /// and PERF_METRICS shows (guest-contract §1.1: 0300, 0400).
    #[must_use]
    pub const fn is_pseudo(self) -> bool {
        self.event() == 0
    }
}

/// AMD PERF_CTLx.
///
/// APM vol. 2, "Core Performance Event-Select Registers".
///
/// # Examples
/// ```
/// use vpmu::x86::regs::AmdEventSel;
///
/// let sel = AmdEventSel::new().with_event_low(0x76).with_enable(true);
/// assert_eq!(sel.event(), 0x76);
/// ```
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct AmdEventSel {
    /// Event select, bits 7 to 0.
    pub event_low: u8,
    /// Unit mask.
    pub umask: u8,
    /// Count at privilege levels 1 to 3.
    pub usr: bool,
    /// Count at privilege level 0.
    pub os: bool,
    /// Count deasserted-to-asserted transitions instead of cycles.
    pub edge: bool,
    __: bool,
    /// Raise a PMI when the counter overflows.
    pub int: bool,
    __: bool,
    /// Enable the counter.
    pub enable: bool,
    /// Invert the comparison with `cmask`.
    pub inv: bool,
    /// Count cycles in which at least this many events occur; 0: count events.
    pub cmask: u8,
    /// Event select, bits 11 to 8.
    #[bits(4)]
    pub event_high: u8,
    #[bits(4)]
    __: u8,
    /// Count while a guest of this CPU runs, if EFER.SVME is set.
    pub guest_only: bool,
    /// Count while no guest of this CPU runs, if EFER.SVME is set.
    pub host_only: bool,
    #[bits(22)]
    __: u32,
}

impl AmdEventSel {
    /// The bits that a write stores; it drops the others (rule G-301). KVM's
    /// mask drops HostOnly and GuestOnly as well; a counter that asks for
    /// guests alone would then count what it must not.
    pub const STORED: u64 = 0x0000_030f_ffd7_ffff;

    /// The whole event select.
    #[must_use]
    pub const fn event(self) -> u16 {
        (self.event_high() as u16) << 8 | self.event_low() as u16
    }
}

/// The four bits of one counter in IA32_FIXED_CTR_CTRL.
///
/// SDM vol. 3B, "Architectural Performance Monitoring Version 2".
///
/// # Examples
/// ```
/// use vpmu::x86::regs::FixedCtrl;
///
/// let field = FixedCtrl::from_bits(0xb);
/// assert!(field.os() && field.usr() && field.pmi() && !field.any_thread());
/// ```
#[bitfield(u8)]
#[derive(PartialEq, Eq, Hash)]
pub struct FixedCtrl {
    /// Count at privilege level 0.
    pub os: bool,
    /// Count at privilege levels 1 to 3.
    pub usr: bool,
    /// Count for all threads of the core; versions 3 and 4 alone have it.
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
///
/// # Examples
/// ```
/// use vpmu::x86::regs::PerfCapabilities;
///
/// assert!(PerfCapabilities::from_bits(0x2000).full_width_writes());
/// ```
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

/// Bit 48 of IA32_PERF_GLOBAL_CTRL: PERF_METRICS counts; of the status: it has
/// overflowed.
pub const GLOBAL_PERF_METRICS: u64 = 1 << 48;
/// Bit 55 of IA32_PERF_GLOBAL_STATUS: trace buffer overflow.
pub const STATUS_TRACE: u64 = 1 << 55;
/// Bit 58 of IA32_PERF_GLOBAL_STATUS: LBRs frozen.
pub const STATUS_LBR_FROZEN: u64 = 1 << 58;
/// Bit 59 of IA32_PERF_GLOBAL_STATUS, from version 4 on: no counter counts
/// while it is set.
pub const STATUS_COUNTERS_FROZEN: u64 = 1 << 59;
/// Bit 60 of IA32_PERF_GLOBAL_STATUS: an enclave has contributed.
pub const STATUS_ASCI: u64 = 1 << 60;
/// Bit 61 of IA32_PERF_GLOBAL_STATUS: uncore overflow.
pub const STATUS_UNCORE: u64 = 1 << 61;
/// Bit 62 of IA32_PERF_GLOBAL_STATUS and GLOBAL_OVF_CTRL: DS buffer overflow.
pub const STATUS_DS_BUFFER: u64 = 1 << 62;
/// Bit 63 of IA32_PERF_GLOBAL_STATUS and GLOBAL_OVF_CTRL: condition changed.
pub const STATUS_COND_CHANGED: u64 = 1 << 63;
/// Bit 63 of IA32_PERF_GLOBAL_INUSE: some counter asks for interrupts.
pub const INUSE_PMI: u64 = 1 << 63;
/// Bits 0 and 1 of IA32_DEBUGCTL: last branch records, single-step on branches.
pub const DEBUGCTL_LBR_BTF: u64 = 0b11;
/// Bit 11 of IA32_DEBUGCTL: a PMI freezes the last branch records.
pub const DEBUGCTL_FREEZE_LBRS_ON_PMI: u64 = 1 << 11;
/// Bit 12 of IA32_DEBUGCTL: a PMI freezes the counters.
pub const DEBUGCTL_FREEZE_PERFMON_ON_PMI: u64 = 1 << 12;
