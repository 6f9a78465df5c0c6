//! The host CPUs on which a thread may run, and the CPU on which it runs now.
#![expect(
    unsafe_code,
    reason = "sched_setaffinity and its relatives have no safe binding"
)]

use std::io;

use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::HostCpu;

/// A thread as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tid(libc::pid_t);

const WORD_BITS: u32 = u64::BITS;
/// Words of a mask that has room for every CPU that a [`CpuSet`] can hold. The
/// kernel refuses to write into a mask that is shorter than its own.
const WORDS: usize = (CpuSet::MAX.0 as usize + 1) / WORD_BITS as usize;

impl Tid {
    /// The calling thread, by system call: the standard library refers to
    /// `gettid` weakly, which leaves it undefined in a static binary.
    #[must_use]
    pub fn current() -> Self {
        // SAFETY: the call takes nothing and cannot fail.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) };
        Self(libc::pid_t::try_from(tid).unwrap_or(0))
    }

    /// The process's first thread.
    #[must_use]
    pub fn process() -> Self {
        Self(libc::pid_t::try_from(std::process::id()).unwrap_or(0))
    }

    /// Its number.
    pub(super) const fn number(self) -> libc::pid_t {
        self.0
    }

    /// The CPUs that the thread may run on.
    ///
    /// # Errors
    /// What `sched_getaffinity` says; `ESRCH` if the thread is gone.
    pub fn affinity(self) -> io::Result<CpuSet> {
        let mut mask = vec![0u64; WORDS];
        // SAFETY: the mask is valid for writes of the length that is given.
        let result = unsafe {
            libc::sched_getaffinity(
                self.0,
                size_of_val(mask.as_slice()),
                mask.as_mut_ptr().cast(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let bits = |(word, base): (u64, u32)| {
            (0..WORD_BITS)
                .filter(move |bit| word >> bit & 1 != 0)
                .map(move |bit| HostCpu(base + bit))
        };
        let bases = (0..).step_by(WORD_BITS as usize);
        let has_some = |(word, _): &(u64, u32)| *word != 0;
        let words = mask.into_iter().zip(bases).filter(has_some);
        Ok(words.flat_map(bits).collect())
    }
}

/// Binds the calling thread to these CPUs, and moves it there.
///
/// # Errors
/// What `sched_setaffinity` says; `EINVAL` if none of them is online and open
/// to this process (cpusets).
pub fn bind_this_thread(cpus: &CpuSet) -> io::Result<()> {
    const THIS_THREAD: libc::pid_t = 0;
    let mut mask = vec![0u64; WORDS];
    for HostCpu(cpu) in cpus.iter() {
        if let Some(word) = mask.get_mut((cpu / WORD_BITS) as usize) {
            *word |= 1 << (cpu % WORD_BITS);
        }
    }
    // SAFETY: the mask is valid for reads of the length that is given.
    let result = unsafe {
        libc::sched_setaffinity(
            THIS_THREAD,
            size_of_val(mask.as_slice()),
            mask.as_ptr().cast(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The CPU that the calling thread is on: a few nanoseconds, without entering
/// the kernel (vDSO or rseq). `None` on a kernel that cannot tell.
#[must_use]
pub fn current_cpu() -> Option<HostCpu> {
    // SAFETY: the call takes nothing; it fails on kernels without getcpu only.
    let cpu = unsafe { libc::sched_getcpu() };
    u32::try_from(cpu).ok().map(HostCpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_thread_is_where_it_was_bound_to() {
        std::thread::spawn(|| {
            let all = Tid::current().affinity().unwrap();
            assert!(all.contains(current_cpu().unwrap()));
            for cpu in all.iter() {
                let one: CpuSet = [cpu].into_iter().collect();
                bind_this_thread(&one).unwrap();
                assert_eq!(Tid::current().affinity().unwrap(), one);
                assert_eq!(current_cpu(), Some(cpu));
            }
            bind_this_thread(&all).unwrap();
            assert_eq!(Tid::current().affinity().unwrap(), all);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_host_without_these_cpus_says_so() {
        let none: CpuSet = [CpuSet::MAX].into_iter().collect();
        let error = std::thread::spawn(move || bind_this_thread(&none))
            .join()
            .unwrap()
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
