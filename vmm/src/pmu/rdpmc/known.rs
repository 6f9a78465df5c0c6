//! The scanned text and the patched text of a guest: which text a scan has read,
//! with which result, and where instructions were patched.
//!
//! A guest decides how much of it exists, so each list has a bound.

use std::ops::RangeInclusive;

use super::ReaderService;
use super::entry_hook::EntryHook;
use super::scan::Scan;

/// Pieces of text: a kernel has one or a few, its modules one each.
const MOST_TEXTS: usize = 256;
/// Rewritten instructions: a kernel has less than ten.
pub(super) const MOST_SITES: usize = 256;
/// A kernel has one.
const MOST_HOOKS: usize = 16;

/// The scanned and the patched text of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

    /// Remembers the text that a scan from `rip` has read. The results of earlier
    /// scans of this text are forgotten.
    pub(super) fn add_text(&mut self, rip: u64, found: &Scan, verdict: ReaderService) {
        let (Some(first), Some(last)) = (found.text.first(), found.text.last()) else {
            return;
        };
        let (first, last) = (*first.start(), *last.end());
        self.texts
            .retain(|(text, _)| *text.end() < first || *text.start() > last);
        let fits = self.texts.len() + found.text.len() <= MOST_TEXTS;
        let pieces = found.text.iter().filter(|text| fits || text.contains(&rip));
        self.texts
            .extend(pieces.map(|text| (text.clone(), verdict)));
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
    /// Adds the text of such scans until no more fits.
    pub(super) fn fill(&mut self, scan: impl Fn(u64) -> Scan) {
        for found in (0..).map(scan) {
            if self.is_full() {
                return;
            }
            let Some(first) = found.text.first() else {
                return;
            };
            self.add_text(*first.start(), &found, ReaderService::Served);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0x1000;

    /// A scan that has looked at one page in two, `pages` of them.
    fn scan(first: u64, pages: u64) -> Scan {
        let starts = (0..pages).map(|n| first + n * 2 * PAGE);
        Scan {
            text: starts.map(|start| start..=start + (PAGE - 1)).collect(),
            ..Scan::default()
        }
    }

    #[test]
    fn text_is_found_and_what_lies_between_is_not() {
        let mut known = Known::default();
        known.add_text(0x9000, &scan(0x9000, 1), ReaderService::Unserved);
        known.add_text(0x1000, &scan(0x1000, 3), ReaderService::Served);
        known.add_text(u64::MAX, &scan(u64::MAX - 0xfff, 1), ReaderService::Served);
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
        known.add_text(0x1000, &scan(0x1000, 5), ReaderService::Unserved);
        let whole: Vec<_> = known.texts.iter().map(|(text, _)| *text.start()).collect();
        assert_eq!(whole[..5], [0x1000, 0x3000, 0x5000, 0x7000, 0x9000]);
        assert_eq!(known.verdict(0x1000), Some(ReaderService::Unserved), "anew");
    }

    #[test]
    fn a_guest_cannot_have_more_and_more_remembered() {
        let mut known = Known::default();
        for n in 0.. {
            if known.is_full() {
                break;
            }
            let first = n << 30;
            known.add_text(first, &scan(first, 60), ReaderService::Served);
            assert!(known.verdict(first).is_some() && known.texts.len() <= MOST_TEXTS);
        }
        assert_eq!(known.texts.len(), MOST_TEXTS);
        let most = MOST_SITES as u64;
        assert_eq!(known.add_sites((0..most).rev()), Some(()));
        assert_eq!(known.add_sites(0..most), Some(()), "no new one");
        assert_eq!(known.add_sites(most..most + 1), None);
        assert!(known.is_site(0) && known.is_site(most - 1) && !known.is_site(most));
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
            known.add_text(first, &scan(first, 1), verdict);
        }
        known.add_sites([0x1100, 0x3100, 0x3200, 0x7100].into_iter());
        let left = known.checked(|site| site != 0x3200, |_| true);
        let kept = [0x1000, 0x3000, 0x5000, 0x7000].map(|rip| left.verdict(rip).is_some());
        assert_eq!(kept, [true, false, false, false]);
        assert_eq!(left.sites(), [0x1100, 0x3100, 0x7100], "each for itself");
    }
}
