//! What a guest's driver knows of the registers, in numbers of its own.

use vpmu::uncore::UncorePmu;

/// What the guest knows of a register, told by its address alone.
pub(crate) fn counter_at(msr: u32, amd: bool) -> Option<(UncorePmu, u8, bool)> {
    let pair = |pmu, base: u32| Some((pmu, ((msr - base) / 2) as u8, (msr - base) % 2 == 1));
    match msr {
        0xc001_0230..=0xc001_023b if amd => pair(UncorePmu::L3, 0xc001_0230),
        0xc001_0240..=0xc001_0247 if amd => pair(UncorePmu::DataFabric, 0xc001_0240),
        0xc001_0800..=0xc001_0807 if amd => pair(UncorePmu::Umc(0), 0xc001_0800),
        0xc001_0808..=0xc001_080f if amd => pair(UncorePmu::Umc(1), 0xc001_0808),
        0xc001_029b if amd => Some((UncorePmu::Power, 0, true)),
        0x611 if !amd => Some((UncorePmu::Power, 0, true)),
        0x619 if !amd => Some((UncorePmu::Power, 2, true)),
        _ => None,
    }
}

pub(crate) fn kept(pmu: UncorePmu) -> u64 {
    match pmu {
        UncorePmu::Power => 0,
        UncorePmu::L3 => 0xff0f_dc00_0040_ffff,
        UncorePmu::DataFabric => 0x1800_003f_0f40_ffff,
        UncorePmu::Umc(_) => 0x8000_03ff,
    }
}

pub(crate) fn enable(pmu: UncorePmu) -> u64 {
    if matches!(pmu, UncorePmu::Umc(_)) {
        1 << 31
    } else {
        1 << 22
    }
}
