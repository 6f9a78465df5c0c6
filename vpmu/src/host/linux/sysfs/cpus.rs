//! Sets of host CPUs, in the kernel's list format.

use std::collections::BTreeSet;
use std::fmt;

use crate::ids::HostCpu;

/// A set of host CPUs. Its text is the kernel's list format: `0-3,8`.
///
/// # Examples
/// ```
/// use vpmu::host::linux::sysfs::CpuSet;
/// use vpmu::ids::HostCpu;
///
/// let cpus = CpuSet::parse("0-3,8").unwrap();
/// assert_eq!(cpus.len(), 5);
/// assert!(cpus.contains(HostCpu(8)));
/// assert_eq!(CpuSet::parse("3-0"), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<HostCpu>);

impl CpuSet {
    /// The largest CPU number that a text may hold: a bound on what a few bytes
    /// of text can make of memory. No Linux build has as many.
    pub const MAX: HostCpu = HostCpu(65_535);

    /// Reads the list format; empty text is the empty set. `None` if it is no
    /// list, a range runs backwards, or a number exceeds [`CpuSet::MAX`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |s: &str| s.parse().ok().filter(|n| *n <= Self::MAX.0);
        let mut cpus = BTreeSet::new();
        if text.is_empty() {
            return Some(Self(cpus));
        }
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            cpus.extend((first..=last).map(HostCpu));
        }
        Some(Self(cpus))
    }

    /// Whether `cpu` is in it.
    #[must_use]
    pub fn contains(&self, cpu: HostCpu) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many CPUs it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all of it is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// The CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = HostCpu> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<HostCpu> for CpuSet {
    fn from_iter<T: IntoIterator<Item = HostCpu>>(cpus: T) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for HostCpu(cpu) in self.iter() {
            match runs.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(cpu) => *last = cpu,
                _ => runs.push((cpu, cpu)),
            }
        }
        let mut comma = "";
        for (first, last) in runs {
            write!(f, "{comma}{first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for text in ["0", "0-3", "0-3,8", "0,2,4", "10-11,65535"] {
            assert_eq!(CpuSet::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(CpuSet::parse("3,0-2").unwrap().to_string(), "0-3");
        assert_eq!(CpuSet::parse("").unwrap().to_string(), "none");
        assert_eq!(CpuSet::parse("1-3").unwrap().len(), 3);
    }

    #[test]
    fn what_is_no_list_is_refused_and_small_text_stays_small() {
        for text in ["x", "1-", "-1", "3-1", "1,,2", "0-65536", "0-4294967295"] {
            assert_eq!(CpuSet::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sets_compare_as_sets() {
        let set = |text| CpuSet::parse(text).unwrap();
        assert!(set("1-2").is_subset(&set("0-3")));
        assert!(!set("2-4").is_subset(&set("0-3")));
        assert_eq!(set("2-5").intersection(&set("0-3")), set("2-3"));
        assert_eq!(set("0-1").union(&set("3")), set("0-1,3"));
    }
}
