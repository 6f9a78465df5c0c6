//! CPUID leaf 0AH, "Architectural Performance Monitoring".

use bitfield_struct::bitfield;

/// CPUID.0AH:EAX.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Leaf0AEax {
    /// Version of architectural performance monitoring.
    pub version: u8,
    /// Number of general-purpose counters.
    pub gp_counters: u8,
    /// Width of a general-purpose counter, in bits.
    pub gp_width: u8,
    /// Length of the bit vector in EBX.
    pub event_mask_length: u8,
}

/// CPUID.0AH:EDX.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Leaf0AEdx {
    /// Number of contiguous fixed counters.
    #[bits(5)]
    pub fixed_counters: u8,
    /// Width of a fixed counter, in bits.
    pub fixed_width: u8,
    #[bits(2)]
    __: u8,
    /// AnyThread is deprecated.
    pub any_thread_deprecated: bool,
    #[bits(16)]
    __: u16,
}

/// The four registers of leaf 0AH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf0A {
    /// Version, counters and width.
    pub eax: Leaf0AEax,
    /// A bit for each pre-defined event that is *not* available.
    pub ebx: u32,
    /// Bitmap of fixed counters, from version 5 on.
    pub ecx: u32,
    /// Fixed counters.
    pub edx: Leaf0AEdx,
}
