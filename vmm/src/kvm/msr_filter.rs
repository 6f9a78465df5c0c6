//! Which MSR accesses KVM must hand to us (KVM API documentation,
//! "KVM_X86_SET_MSR_FILTER").

use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use super::{KvmError, ioctl};

/// The most ranges that one filter may have.
pub const MAX_RANGES: usize = 16;
/// The most MSRs in one range: a bitmap of 0x600 bytes.
pub const MAX_RANGE_LEN: u32 = 0x600 * 8;

/// The accesses that a range of the filter catches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAccess {
    /// RDMSR only.
    Read,
    /// RDMSR and WRMSR.
    Both,
}

/// MSRs that KVM must not handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrRange {
    first: u32,
    access: MsrAccess,
    /// One bit each, as KVM reads it: 1 = KVM handles it.
    allowed: Vec<u8>,
    len: u32,
}

impl MsrRange {
    /// Denies `len` MSRs from `first` on; `len` is cut at [`MAX_RANGE_LEN`].
    #[must_use]
    pub fn deny(first: u32, len: u32, access: MsrAccess) -> Self {
        let len = len.min(MAX_RANGE_LEN);
        Self {
            first,
            access,
            allowed: vec![0; len.div_ceil(8) as usize],
            len,
        }
    }

    /// Leaves one MSR of the range to KVM.
    #[must_use]
    pub fn except(mut self, index: u32) -> Self {
        let offset = index.wrapping_sub(self.first);
        if offset < self.len
            && let Some(byte) = self.allowed.get_mut((offset / 8) as usize)
        {
            *byte |= 1 << (offset % 8);
        }
        self
    }
}

/// A whole filter: the first range that covers an access decides, what no range
/// covers stays with KVM. MSRs 0x800–0x8ff (x2APIC) are never filtered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MsrFilter {
    ranges: Vec<MsrRange>,
}

impl MsrFilter {
    /// A filter of these ranges, at most [`MAX_RANGES`].
    ///
    /// # Errors
    /// If there are more.
    pub fn new(ranges: Vec<MsrRange>) -> Result<Self, KvmError> {
        if ranges.len() > MAX_RANGES {
            return Err(KvmError::TooMany {
                what: "the MSR filter",
                len: ranges.len(),
            });
        }
        Ok(Self { ranges })
    }

    /// Whether RDMSR of this index leaves KVM.
    #[cfg(test)]
    pub(crate) fn denies_reading(&self, msr: vpmu::ids::MsrIndex) -> bool {
        let bit = |range: &MsrRange| {
            let offset = msr.0.checked_sub(range.first).filter(|o| *o < range.len)?;
            let byte = range.allowed.get((offset / 8) as usize)?;
            Some(byte >> (offset % 8) & 1 == 0)
        };
        self.ranges.iter().find_map(bit).unwrap_or(false)
    }

    pub(super) fn apply(&self, fd: &VmFd) -> Result<(), KvmError> {
        let ranges: Vec<_> = self
            .ranges
            .iter()
            .map(|range| MsrFilterRange {
                flags: match range.access {
                    MsrAccess::Read => MsrFilterRangeFlags::READ,
                    MsrAccess::Both => MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
                },
                base: range.first,
                msr_count: range.len,
                bitmap: &range.allowed,
            })
            .collect();
        fd.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
            .map_err(ioctl("KVM_X86_SET_MSR_FILTER"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_set_the_bit_that_kvm_reads_as_allowed() {
        let range = MsrRange::deny(0x606, 16, MsrAccess::Both)
            .except(0x60d)
            .except(0x1000);
        assert_eq!(range.allowed, [0x80, 0]);
    }

    #[test]
    fn seventeen_ranges_are_refused() {
        let range = MsrRange::deny(0, 1, MsrAccess::Read);
        assert!(MsrFilter::new(vec![range.clone(); 16]).is_ok());
        assert!(MsrFilter::new(vec![range; 17]).is_err());
    }
}
