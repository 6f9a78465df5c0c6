//! Why an MSR access did not happen, as a type that chains.

/// Why an MSR access did not happen. The two are never confused: the first asks
/// the next PMU, the second is the guest's fault.
///
/// # Examples
/// ```
/// use vpmu::guest::{AmdConfig, AmdPmu, AmdVersion, GuestPmu, MsrError};
/// use vpmu::ids::MsrIndex;
/// use vpmu::x86::event::ArchEventSet;
///
/// let pmu = AmdPmu::new(AmdConfig::new(AmdVersion::V2, ArchEventSet::ALL));
/// assert_eq!(pmu.rdmsr(MsrIndex(0x10)), Err(MsrError::Unknown), "the TSC");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MsrError {
    /// Not a register of this PMU.
    #[error("this PMU has no such register")]
    Unknown,
    /// The register refuses the access: #GP(0).
    #[error("the register refuses the access")]
    InvalidAccess,
}

/// Asks one PMU after the other for a register.
pub trait OrElseIfUnknown: Sized {
    /// This result, or that of `next` if it is [`MsrError::Unknown`]. A #GP is
    /// final.
    ///
    /// # Examples
    /// ```
    /// use vpmu::guest::{MsrError, OrElseIfUnknown};
    ///
    /// let unknown: Result<u64, _> = Err(MsrError::Unknown);
    /// assert_eq!(unknown.or_else_if_unknown(|| Ok(7)), Ok(7));
    /// let fault: Result<u64, _> = Err(MsrError::InvalidAccess);
    /// assert_eq!(fault.or_else_if_unknown(|| Ok(7)), fault);
    /// ```
    #[must_use]
    fn or_else_if_unknown(self, next: impl FnOnce() -> Self) -> Self;
}

impl<T> OrElseIfUnknown for Result<T, MsrError> {
    fn or_else_if_unknown(self, next: impl FnOnce() -> Self) -> Self {
        match self {
            Err(MsrError::Unknown) => next(),
            found => found,
        }
    }
}
