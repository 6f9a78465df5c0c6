//! A CPUID table that can be edited by leaf.

use vpmu::x86::cpuid::Vendor;

use crate::kvm::CpuidEntry;

#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<CpuidEntry>,
}

impl Table {
    pub(super) fn new(entries: &[CpuidEntry]) -> Self {
        Self {
            entries: entries.to_vec(),
        }
    }

    pub(super) fn into_entries(self) -> Vec<CpuidEntry> {
        self.entries
    }

    /// The entry of a leaf and subleaf, added if it is not there.
    pub(super) fn get(&mut self, leaf: u32, subleaf: u32) -> &mut CpuidEntry {
        let found = self
            .entries
            .iter()
            .position(|e| e.leaf == leaf && (!e.indexed || e.subleaf == subleaf));
        let index = found.unwrap_or_else(|| {
            self.entries.push(CpuidEntry {
                leaf,
                subleaf,
                ..CpuidEntry::default()
            });
            self.entries.len() - 1
        });
        &mut self.entries[index]
    }

    /// Makes a leaf without subleaves answer these EAX, EBX, ECX, EDX.
    pub(super) fn set_plain(&mut self, leaf: u32, values: [u32; 4]) {
        self.remove(leaf);
        self.push(leaf, None, values);
    }

    /// Makes a leaf answer these subleaves, from 0 on.
    pub(super) fn set_indexed(&mut self, leaf: u32, subleaves: &[[u32; 4]]) {
        self.remove(leaf);
        for (subleaf, &values) in (0u32..).zip(subleaves) {
            self.push(leaf, Some(subleaf), values);
        }
    }

    fn push(&mut self, leaf: u32, subleaf: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) {
        self.entries.push(CpuidEntry {
            leaf,
            subleaf: subleaf.unwrap_or(0),
            indexed: subleaf.is_some(),
            eax,
            ebx,
            ecx,
            edx,
        });
    }

    pub(super) fn remove(&mut self, leaf: u32) {
        self.entries.retain(|entry| entry.leaf != leaf);
    }

    pub(super) fn has(&self, leaf: u32) -> bool {
        self.entries.iter().any(|entry| entry.leaf == leaf)
    }

    pub(super) fn has_subleaf(&self, leaf: u32, subleaf: u32) -> bool {
        let fits = |e: &CpuidEntry| e.leaf == leaf && (!e.indexed || e.subleaf == subleaf);
        self.entries.iter().any(fits)
    }

    /// Drops the leaves of a predicate.
    pub(super) fn remove_if(&mut self, drop: impl Fn(u32) -> bool) {
        self.entries.retain(|entry| !drop(entry.leaf));
    }

    fn vendor(&mut self) -> Option<Vendor> {
        let leaf = self.get(0, 0);
        Vendor::of_leaf_0([leaf.ebx, leaf.edx, leaf.ecx])
    }

    pub(super) fn is_intel(&mut self) -> bool {
        self.vendor() == Some(Vendor::Intel)
    }

    pub(super) fn is_amd(&mut self) -> bool {
        self.vendor() == Some(Vendor::Amd)
    }

    pub(super) fn set_vendor(&mut self, vendor: Vendor) {
        let leaf = self.get(0, 0);
        [leaf.ebx, leaf.edx, leaf.ecx] = vendor.leaf_0();
    }

    /// Makes the extended range reach at least to `leaf`. AMD repeats the
    /// vendor there.
    pub(super) fn raise_max_extended_leaf(&mut self, leaf: u32) {
        let vendor = *self.get(0, 0);
        let max = self.get(0x8000_0000, 0);
        max.eax = max.eax.max(leaf);
        [max.ebx, max.ecx, max.edx] = [vendor.ebx, vendor.ecx, vendor.edx];
    }

    /// Makes the basic range reach at least to `leaf`.
    pub(super) fn raise_max_leaf(&mut self, leaf: u32) {
        let max = &mut self.get(0, 0).eax;
        *max = (*max).max(leaf);
    }
}
