//! The CPUID leaves that describe a PMU: leaf 0AH, "Architectural Performance
//! Monitoring", and AMD's extended features.

use bitfield_struct::bitfield;

/// CPUID.0AH:EAX.
///
/// # Examples
/// ```
/// use vpmu::x86::cpuid::Leaf0AEax;
///
/// let eax = Leaf0AEax::from_bits(0x0730_0402);
/// assert_eq!((eax.version(), eax.gp_counters(), eax.gp_width()), (2, 4, 48));
/// ```
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
///
/// # Examples
/// ```
/// use vpmu::x86::cpuid::Leaf0AEdx;
///
/// let edx = Leaf0AEdx::from_bits(0x603);
/// assert_eq!((edx.fixed_counters(), edx.fixed_width()), (3, 48));
/// ```
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
///
/// # Examples
/// ```
/// use vpmu::guest::ArchPerfmonConfig;
/// use vpmu::x86::event::ArchEventSet;
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
/// assert_eq!(config.leaf_0a().words(), [0x0730_0402, 0, 0, 0x603]);
/// ```
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

impl Leaf0A {
    /// EAX, EBX, ECX and EDX.
    #[must_use]
    pub const fn words(&self) -> [u32; 4] {
        [
            self.eax.into_bits(),
            self.ebx,
            self.ecx,
            self.edx.into_bits(),
        ]
    }
}

/// CPUID.8000_0022H:EBX.
///
/// APM vol. 3, "Extended Performance Monitoring and Debug".
///
/// # Examples
/// ```
/// use vpmu::x86::cpuid::Leaf22Ebx;
///
/// assert_eq!(Leaf22Ebx::new().with_core_counters(6).into_bits(), 6);
/// ```
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Leaf22Ebx {
    /// Core counters.
    #[bits(4)]
    pub core_counters: u8,
    /// Entries of the LBR stack.
    #[bits(6)]
    pub lbr_entries: u8,
    /// Data-fabric counters.
    #[bits(6)]
    pub df_counters: u8,
    /// Memory-controller counters.
    #[bits(6)]
    pub umc_counters: u8,
    #[bits(10)]
    __: u16,
}

/// Whose CPU a guest sees.
///
/// # Examples
/// ```
/// use vpmu::x86::cpuid::Vendor;
///
/// let words = Vendor::Amd.leaf_0(); // EBX, ECX, EDX
/// assert_eq!(Vendor::of_leaf_0(words), Some(Vendor::Amd));
/// assert_eq!(Vendor::of_leaf_0([0; 3]), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD.
    Amd,
}

impl Vendor {
    /// The vendor's name as leaf 0 has it in EBX, EDX and ECX.
    #[must_use]
    pub const fn leaf_0(self) -> [u32; 3] {
        let [ebx, edx, ecx] = match self {
            Self::Intel => [*b"Genu", *b"ineI", *b"ntel"],
            Self::Amd => [*b"Auth", *b"enti", *b"cAMD"],
        };
        [
            u32::from_le_bytes(ebx),
            u32::from_le_bytes(edx),
            u32::from_le_bytes(ecx),
        ]
    }

    /// The vendor whose name leaf 0 has in EBX, EDX and ECX.
    #[must_use]
    pub fn of_leaf_0(name: [u32; 3]) -> Option<Self> {
        let vendors = [Self::Intel, Self::Amd];
        vendors.into_iter().find(|vendor| vendor.leaf_0() == name)
    }
}

/// What CPUID says of an architectural PMU.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmonConfig, CoreType};
/// use vpmu::x86::cpuid::PmuCpuid;
/// use vpmu::x86::event::ArchEventSet;
///
/// let config = ArchPerfmonConfig::hybrid(CoreType::Core, ArchEventSet::ALL);
/// let PmuCpuid::Intel(leaves) = config.cpuid() else {
///     panic!("an Intel model has Intel's leaves");
/// };
/// assert!(leaves.pdcm);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntelLeaves {
    /// Leaf 0AH.
    pub leaf_0a: Leaf0A,
    /// Leaf 01H: ECX bit 15, IA32_PERF_CAPABILITIES is there.
    pub pdcm: bool,
}

/// What CPUID says of an AMD PMU.
///
/// # Examples
/// ```
/// use vpmu::guest::{AmdConfig, AmdVersion};
/// use vpmu::x86::cpuid::PmuCpuid;
/// use vpmu::x86::event::ArchEventSet;
///
/// let config = AmdConfig::new(AmdVersion::K7, ArchEventSet::ALL);
/// let PmuCpuid::Amd(leaves) = config.cpuid() else {
///     panic!("an AMD model has AMD's leaves");
/// };
/// assert!(!leaves.perfctr_core && leaves.leaf_22.is_none());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AmdLeaves {
    /// Leaf 8000_0001H: ECX bit 23, six counters at C001_0200.
    pub perfctr_core: bool,
    /// Leaf 8000_0022H, if there is one: EAX bit 0 is PerfMonV2.
    pub leaf_22: Option<Leaf22Ebx>,
}

/// What CPUID says of a PMU. Everything else that has to do with performance
/// monitoring is to be absent (guest-contract §1.5, §3.1).
///
/// # Examples
/// ```
/// use vpmu::guest::{Model, ModelConfig, ModelKind, GuestPmu};
/// use vpmu::x86::cpuid::PmuCpuid;
/// use vpmu::x86::event::ArchEventSet;
///
/// let kind = ModelKind::from_name("amd-v2").unwrap();
/// let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap();
/// let PmuCpuid::Amd(leaves) = Model::new(config).cpuid() else {
///     panic!("an AMD model has AMD's leaves");
/// };
/// assert!(leaves.perfctr_core && leaves.leaf_22.is_some());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PmuCpuid {
    /// An architectural PMU.
    Intel(IntelLeaves),
    /// An AMD PMU.
    Amd(AmdLeaves),
}

impl PmuCpuid {
    /// Whose CPU it is a part of.
    #[must_use]
    pub const fn vendor(&self) -> Vendor {
        match self {
            Self::Intel(_) => Vendor::Intel,
            Self::Amd(_) => Vendor::Amd,
        }
    }
}
