//! Counter reads that do not reach us (rule G-504).
//!
//! Where RDPMC faults, an RDPMC that the scan missed is noticed. A host that answers
//! RDPMC by itself returns 0, and no exit tells the VMM. But Linux reads a counter
//! each time it has stopped it. So a guest that writes its counters and never reads
//! them reads them by an RDPMC that was not rewritten.

use super::rdpmc::UserAccess;

/// The write in a row, without a read, that is refused.
const LOST_AT: u32 = 1_000;

/// The number of counter writes of one vCPU without a read between them.
#[derive(Debug)]
pub(super) struct LostReads {
    /// The host would hide a read from us.
    can_be: bool,
    /// Counter writes since the last counter read.
    unread: u32,
    are: bool,
}

impl LostReads {
    /// Nothing is written yet, on a host that treats RDPMC so.
    pub(super) const fn new(access: UserAccess) -> Self {
        Self {
            can_be: matches!(access, UserAccess::Answered),
            unread: 0,
            are: false,
        }
    }

    /// Whether the guest's reads go astray: no counter is to be started.
    pub(super) const fn are_lost(&self) -> bool {
        self.are
    }

    /// The guest wrote a counter. Whether that was the write that shows that its
    /// reads go astray.
    pub(super) const fn written(&mut self) -> bool {
        if !self.can_be || self.are {
            return false;
        }
        self.unread += 1;
        self.are = self.unread == LOST_AT;
        self.are
    }

    /// The guest read a counter by its register, or in user mode: it has its ways.
    pub(super) const fn read(&mut self) {
        self.unread = 0;
    }

    /// The writes since the last read, and whether reads are lost, for a snapshot.
    pub(super) const fn saved(&self) -> (u32, bool) {
        (self.unread, self.are)
    }

    /// Goes on from there, on a host on which reads can be lost.
    pub(super) const fn put_back(&mut self, (unread, are): (u32, bool)) {
        if self.can_be {
            // One less than the write that shows it, so that it is still to come.
            self.unread = if unread < LOST_AT {
                unread
            } else {
                LOST_AT - 1
            };
            self.are = are;
        }
    }

    /// A RDPMC of its kernel's reached us, or its driver comes up anew.
    pub(super) const fn forgive(&mut self) {
        *self = Self {
            can_be: self.can_be,
            unread: 0,
            are: false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::UserAccess::{Answered, Faults};
    use super::*;

    /// How many of `n` writes show that reads are lost.
    fn write(reads: &mut LostReads, n: u32) -> usize {
        (0..n).filter(|_| reads.written()).count()
    }

    /// G-504. A line of the log hangs on it.
    #[test]
    fn it_is_seen_once_whatever_is_written_and_read_after_it() {
        let mut reads = LostReads::new(Answered);
        assert_eq!(write(&mut reads, LOST_AT - 1), 0);
        reads.read();
        assert_eq!(write(&mut reads, LOST_AT - 1), 0);
        assert!(!reads.are_lost());
        assert_eq!(write(&mut reads, 1), 1);
        assert!(reads.are_lost());
        for _ in 0..20 {
            assert_eq!(write(&mut reads, LOST_AT), 0);
            reads.read();
        }
        assert!(reads.are_lost(), "such a read says nothing of the kernel's");
    }

    #[test]
    fn a_read_that_arrives_and_a_new_driver_begin_anew() {
        let mut reads = LostReads::new(Answered);
        write(&mut reads, LOST_AT);
        reads.forgive();
        assert!(!reads.are_lost());
        assert_eq!(write(&mut reads, LOST_AT - 1), 0);
        assert_eq!(write(&mut reads, 1), 1);
    }

    /// A sampler that reloads its counter at each PMI looks at no count.
    #[test]
    fn where_a_missed_rdpmc_faults_none_is_lost() {
        let mut reads = LostReads::new(Faults);
        assert_eq!(write(&mut reads, 10 * LOST_AT), 0);
        assert!(!reads.are_lost());
    }
}
