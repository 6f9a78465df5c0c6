//! The scanned text and the patched text of a guest: which text a scan has read,
//! with which result, and where instructions were patched.
//!
//! A guest decides how much of it exists, so each list has a bound.

use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

use super::ReaderService;
use super::entry_hook::EntryHook;

/// Pieces of text: a kernel has one or a few, its modules one each.
const MOST_TEXTS: usize = 256;
/// Rewritten instructions: a kernel has less than ten.
pub(super) const MOST_SITES: usize = 256;
/// A kernel has one.
const MOST_HOOKS: usize = 16;

/// The scanned and the patched text of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// The scanned text: ascending and disjoint.
    texts: Vec<(RangeInclusive<u64>, ReaderService)>,
    /// Guest-virtual addresses of rewritten instructions, ascending.
    sites: Vec<u64>,
    /// #GP entries with a doorbell.
    hooks: Vec<EntryHook>,
}

impl Known {
    /// How the scan of the text around `rip` ended, if there was one.
    pub(super) fn verdict(&self, rip: u64) -> Option<ReaderService> {
        let at = self.texts.partition_point(|(text, _)| *text.end() < rip);
        let (text, verdict) = self.texts.get(at)?;
        text.contains(&rip).then_some(*verdict)
    }

    /// Whether the guest has a PMU that works.
    pub(super) fn has_served(&self) -> bool {
        self.texts
            .iter()
            .any(|(_, verdict)| *verdict == ReaderService::Served)
    }

    /// Whether no more text can be remembered.
    pub(super) const fn is_full(&self) -> bool {
        self.texts.len() >= MOST_TEXTS
    }

    /// Remembers text that was looked at. The results of earlier scans of it are forgotten.
    pub(super) fn add_text(&mut self, text: RangeInclusive<u64>, verdict: ReaderService) {
        self.texts
            .retain(|(known, _)| known.end() < text.start() || known.start() > text.end());
        if self.texts.len() < MOST_TEXTS {
            self.texts.push((text, verdict));
        }
        self.texts.sort_unstable_by_key(|(text, _)| *text.start());
    }

    /// Whether the instruction at `rip` is a rewritten RDPMC.
    pub(super) fn is_site(&self, rip: u64) -> bool {
        self.sites.binary_search(&rip).is_ok()
    }

    /// The rewritten instructions.
    pub(super) fn sites(&self) -> &[u64] {
        &self.sites
    }

    /// Remembers all of these rewritten instructions, or `None` if there are too
    /// many.
    pub(super) fn add_sites(&mut self, sites: impl Iterator<Item = u64>) -> Option<()> {
        let mut all = self.sites.clone();
        all.extend(sites);
        all.sort_unstable();
        all.dedup();
        (all.len() <= MOST_SITES).then(|| self.sites = all)
    }

    /// The doorbell at which a vCPU at `rip` has just rung.
    pub(super) fn rung_at(&self, rip: u64) -> Option<&EntryHook> {
        self.hooks.iter().find(|hook| hook.rings_at(rip))
    }

    /// Whether a doorbell writes to the port.
    pub(super) fn is_bell(&self, port: u8) -> bool {
        self.hooks.iter().any(|hook| hook.port() == port)
    }

    /// Whether these can be the places of a guest: within the bounds, in their order, and
    /// with doorbells at ports that no device has.
    pub(super) fn is_possible(&self) -> bool {
        let ends = self.texts.iter().zip(self.texts.iter().skip(1));
        let in_order = self
            .texts
            .iter()
            .all(|(text, _)| text.start() <= text.end())
            && { ends }.all(|((one, _), (next, _))| one.end() < next.start());
        let sites = self.sites.len() <= MOST_SITES && self.sites.is_sorted_by(|a, b| a < b);
        let hooks = self.hooks.len() <= MOST_HOOKS && self.hooks.iter().all(EntryHook::is_possible);
        self.texts.len() <= MOST_TEXTS && in_order && sites && hooks
    }

    /// Whether the text of a guest has been looked at before.
    pub(super) const fn has_text(&self) -> bool {
        !self.texts.is_empty()
    }

    /// The doorbell that was put at `bell`.
    pub(super) fn hook_at(&self, bell: u64) -> Option<&EntryHook> {
        self.hooks.iter().find(|hook| hook.address() == bell)
    }

    /// Remembers a doorbell in the place of one that was there, or `None` if there
    /// are too many.
    pub(super) fn add_hook(&mut self, hook: EntryHook) -> Option<()> {
        self.hooks.retain(|known| known.address() != hook.address());
        (self.hooks.len() < MOST_HOOKS).then(|| self.hooks.push(hook))
    }

    /// A copy without the patches that were overwritten: `is_site` and `is_hook` say
    /// whether a patch is still in place. The copy keeps only text with patches
    /// that are all in place. Text without patches is dropped: another kernel may
    /// lie there by now.
    pub(super) fn checked(
        &self,
        is_site: impl Fn(u64) -> bool,
        is_hook: impl Fn(&EntryHook) -> bool,
    ) -> Self {
        let mut left = self.clone();
        left.sites.retain(|site| is_site(*site));
        left.hooks.retain(is_hook);
        let changed_in = |text: &RangeInclusive<u64>, known: &Self| {
            let sites = known.sites.iter().copied();
            let all = sites.chain(known.hooks.iter().map(EntryHook::address));
            all.filter(|place| text.contains(place)).count()
        };
        left.texts = self
            .texts
            .iter()
            .filter(|(text, verdict)| {
                let before = changed_in(text, self);
                let intact = before > 0 && changed_in(text, &left) == before;
                *verdict == ReaderService::Served && intact
            })
            .cloned()
            .collect();
        left
    }
}

#[cfg(test)]
impl Known {
    /// Adds such texts until no more fits.
    pub(super) fn fill(&mut self, text: impl Fn(u64) -> RangeInclusive<u64>) {
        for text in (0..).map(text) {
            if self.is_full() {
                return;
            }
            self.add_text(text, ReaderService::Served);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page at `first`.
    const fn page(first: u64) -> RangeInclusive<u64> {
        first..=first + 0xfff
    }

    #[test]
    fn text_is_found_and_what_lies_between_is_not() {
        let mut known = Known::default();
        known.add_text(page(0x9000), ReaderService::Unserved);
        known.add_text(page(0x1000), ReaderService::Served);
        known.add_text(page(0x5000), ReaderService::Served);
        known.add_text(page(u64::MAX - 0xfff), ReaderService::Served);
        for (rip, verdict) in [
            (0xfff, None),
            (0x1000, Some(ReaderService::Served)),
            (0x1fff, Some(ReaderService::Served)),
            (0x2000, None),
            (0x5123, Some(ReaderService::Served)),
            (0x9fff, Some(ReaderService::Unserved)),
            (0xa000, None),
            (u64::MAX, Some(ReaderService::Served)),
        ] {
            assert_eq!(known.verdict(rip), verdict, "{rip:#x}");
        }
        known.add_text(0x1000..=0x6000, ReaderService::Unserved);
        let starts: Vec<_> = known.texts.iter().map(|(text, _)| *text.start()).collect();
        assert_eq!(starts, [0x1000, 0x9000, u64::MAX - 0xfff]);
        assert_eq!(known.verdict(0x1000), Some(ReaderService::Unserved), "anew");
    }

    #[test]
    fn a_guest_cannot_have_more_and_more_remembered() {
        let mut known = Known::default();
        known.fill(|n| page(n << 30));
        assert_eq!(known.texts.len(), MOST_TEXTS);
        known.add_text(page(1 << 50), ReaderService::Served);
        assert_eq!(known.texts.len(), MOST_TEXTS);
        let most = MOST_SITES as u64;
        assert_eq!(known.add_sites((0..most).rev()), Some(()));
        assert_eq!(known.add_sites(0..most), Some(()), "no new one");
        assert_eq!(known.add_sites(most..most + 1), None);
        assert!(known.is_site(0) && known.is_site(most - 1) && !known.is_site(most));
    }

    /// What a snapshot says is taken only within the bounds.
    #[test]
    fn lists_out_of_order_or_beyond_their_bounds_are_impossible() {
        let mut known = Known::default();
        known.fill(|n| page(n << 30));
        known.add_sites((0..MOST_SITES as u64).rev());
        assert!(known.is_possible());
        let changed = |change: fn(&mut Known)| {
            let mut other = known.clone();
            change(&mut other);
            other.is_possible()
        };
        assert!(!changed(|known| known.sites.push(u64::MAX)), "one too many");
        assert!(!changed(|known| known.sites.swap(0, 1)));
        assert!(!changed(|known| known.sites[1] = known.sites[0]));
        assert!(!changed(|known| known.texts.swap(0, 1)));
        assert!(!changed(
            |known| known.texts[0].0 = RangeInclusive::new(5, 4)
        ));
        assert!(!changed(|known| known
            .texts
            .push((page(1 << 60), ReaderService::Served))));
    }

    #[test]
    fn text_without_a_trace_of_ours_is_forgotten() {
        let mut known = Known::default();
        for (first, verdict) in [
            (0x1000, ReaderService::Served),
            (0x3000, ReaderService::Served),
            (0x5000, ReaderService::Served),
            (0x7000, ReaderService::Unserved),
        ] {
            known.add_text(page(first), verdict);
        }
        known.add_sites([0x1100, 0x3100, 0x3200, 0x7100].into_iter());
        let left = known.checked(|site| site != 0x3200, |_| true);
        let kept = [0x1000, 0x3000, 0x5000, 0x7000].map(|rip| left.verdict(rip).is_some());
        assert_eq!(kept, [true, false, false, false]);
        assert_eq!(left.sites(), [0x1100, 0x3100, 0x7100], "each for itself");
    }
}
