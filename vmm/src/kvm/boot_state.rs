//! The registers of the boot CPU at the first instruction.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use super::layout;

/// CR0: extension type, which is always set.
const CR0_ET: u64 = 0x10;
/// CR0: protected mode, extension type.
const CR0_PE_ET: u64 = CR0_ET | 1;
/// CR0: paging.
const CR0_PG: u64 = 1 << 31;
/// CR4: physical address extension.
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER_LME_LMA: u64 = 0x500;
/// RFLAGS: the bit that is always set.
const RFLAGS_RESERVED: u64 = 2;

/// EAX of a multiboot kernel.
const MULTIBOOT_MAGIC: u64 = 0x2bad_b002;

/// The real-mode interrupt table: 256 far pointers.
const REAL_IDT_LIMIT: u16 = 256 * 4 - 1;

/// The state in which the boot CPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootState {
    /// 64-bit mode, first 4 GiB identity-mapped, RSI = `boot_params` (Linux
    /// x86 boot protocol, "64-bit Boot Protocol").
    Long {
        /// The first instruction.
        entry: u64,
    },
    /// 32-bit protected mode without paging, EBX = start info (Xen "PVH"
    /// direct boot ABI).
    Pvh {
        /// The first instruction.
        entry: u64,
    },
    /// 32-bit protected mode without paging, EAX = magic number, EBX = the
    /// information structure ("Multiboot Specification", "Machine state").
    Multiboot {
        /// The first instruction.
        entry: u64,
    },
    /// Real mode, every segment based at 0, the interrupt table at 0: for the
    /// few bytes of a probe.
    Real {
        /// The first instruction.
        entry: u16,
        /// The stack pointer.
        stack: u16,
    },
}

impl BootState {
    pub(super) fn regs(self) -> kvm_regs {
        let common = kvm_regs {
            rflags: RFLAGS_RESERVED,
            ..kvm_regs::default()
        };
        match self {
            Self::Long { entry } => kvm_regs {
                rip: entry,
                rsi: layout::BOOT_PARAMS,
                rsp: layout::BOOT_STACK,
                rbp: layout::BOOT_STACK,
                ..common
            },
            Self::Pvh { entry } => kvm_regs {
                rip: entry,
                rbx: layout::PVH_START_INFO,
                ..common
            },
            Self::Multiboot { entry } => kvm_regs {
                rip: entry,
                rax: MULTIBOOT_MAGIC,
                rbx: layout::MULTIBOOT_INFO,
                ..common
            },
            Self::Real { entry, stack } => kvm_regs {
                rip: entry.into(),
                rsp: stack.into(),
                ..common
            },
        }
    }

    /// Changes what the reset state has to change.
    pub(super) fn apply(self, sregs: &mut kvm_sregs) {
        if let Self::Real { .. } = self {
            apply_real(sregs);
            return;
        }
        let long = matches!(self, Self::Long { .. });
        let data = segment(0x18, 0x3, !long);
        sregs.cs = segment(0x10, 0xb, !long);
        sregs.ds = data;
        sregs.es = data;
        sregs.fs = data;
        sregs.gs = data;
        sregs.ss = data;
        sregs.tr = kvm_segment {
            base: 0,
            limit: 0x67,
            selector: 0x20,
            type_: 0xb,
            present: 1,
            ..kvm_segment::default()
        };
        sregs.gdt.base = layout::GDT;
        sregs.gdt.limit = layout::GDT_LIMIT;
        sregs.idt.base = layout::IDT;
        sregs.idt.limit = layout::IDT_LIMIT;
        if long {
            sregs.cr3 = layout::PML4;
            sregs.cr4 = CR4_PAE;
            sregs.cr0 = CR0_PE_ET | CR0_PG;
            sregs.efer = EFER_LME_LMA;
        } else {
            sregs.cr0 = CR0_PE_ET;
            sregs.cr4 = 0;
        }
    }
}

/// As the reset state, but for CS, which begins at 0 and not at the end of the 4 GiB.
fn apply_real(sregs: &mut kvm_sregs) {
    let data = kvm_segment {
        limit: 0xffff,
        selector: 0,
        g: 0,
        db: 0,
        ..segment(0, 0x3, true)
    };
    sregs.cs = kvm_segment { type_: 0xb, ..data };
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.idt.base = 0;
    sregs.idt.limit = REAL_IDT_LIMIT;
    sregs.cr0 = CR0_ET;
    (sregs.cr3, sregs.cr4, sregs.efer) = (0, 0, 0);
}

/// A flat 4 GiB segment; code is 64-bit unless `bits32`.
fn segment(selector: u16, type_: u8, bits32: bool) -> kvm_segment {
    let code = type_ & 0x8 != 0;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        l: u8::from(code && !bits32),
        db: u8::from(!code || bits32),
        ..kvm_segment::default()
    }
}
