//! `exit_floor PAYLOAD WORDS`: the least that an exit to user space costs. It starts a
//! payload of guest-tests in a VM of one vCPU, as perfvisor does, and answers each access of
//! an MSR or a port by nothing at all. What comes to COM1 is printed; WORDS is the payload's
//! command line.

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result, bail};
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MAX_CPUID_ENTRIES, KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{
    Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuExit, VcpuFd, VmFd,
};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Enough for a payload, which ends below 6 MiB.
const MEMORY: usize = 16 << 20;
const PAGE_TABLES: u64 = 0x9000;
const BOOT_PARAMS: u64 = 0x7000;
/// Linux: "The Linux/x86 Boot Protocol", `cmd_line_ptr`.
const COMMAND_LINE_POINTER: u64 = BOOT_PARAMS + 0x228;
const COMMAND_LINE: u64 = 0x2_0000;
const TSS: usize = 0xfffb_d000;
const COM1: u16 = 0x3f8;
const POWER: u16 = 0x600;

/// The PMU's registers, as perfvisor denies them to KVM: first and number.
const RANGES: [(u32, u32); 12] = [
    (0, 2),
    (0xc1, 16),
    (0x186, 16),
    (0x309, 8),
    (0x345, 1),
    (0x38d, 6),
    (0x3f1, 10),
    (0x4c1, 16),
    (0x600, 0x60),
    (0xc001_0000, 8),
    (0xc001_0200, 16),
    (0x4000_0000, 16),
];

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let payload = words
        .next()
        .context("usage: exit_floor PAYLOAD [WORDS]...")?;
    let line = words.collect::<Vec<_>>().join(" ");
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])?;
    let mut file = File::open(&payload).with_context(|| format!("cannot open {payload}"))?;
    let entry = Elf::load(&memory, None, &mut file, None)?.kernel_load;
    boot_parameters(&memory, &line)?;
    page_tables(&memory)?;
    let kvm = Kvm::new().context("/dev/kvm")?;
    let vm = kvm.create_vm()?;
    vm.set_tss_address(TSS)?;
    vm.create_irq_chip()?;
    deny(&vm)?;
    give(&vm, &memory)?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    enter(&vcpu, entry.0)?;
    run(&mut vcpu)
}

/// Answers exits until the payload powers off.
fn run(vcpu: &mut VcpuFd) -> Result<()> {
    let mut output = std::io::stdout().lock();
    loop {
        match vcpu.run()? {
            VcpuExit::X86Rdmsr(read) => (*read.data, *read.error) = (0, 0),
            VcpuExit::X86Wrmsr(write) => *write.error = 0,
            VcpuExit::IoOut(COM1, bytes) => output.write_all(bytes)?,
            VcpuExit::IoOut(POWER, _) => return Ok(output.flush()?),
            VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => {}
            exit => bail!("an exit that no payload causes: {exit:?}"),
        }
    }
}

/// Has the MSRs of [`RANGES`] exit to us.
fn deny(vm: &VmFd) -> Result<()> {
    let reasons =
        KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [u64::from(reasons), 0, 0, 0],
        ..kvm_enable_cap::default()
    })?;
    let none = [0; 0x60];
    let ranges = RANGES.map(|(base, msr_count)| MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base,
        msr_count,
        bitmap: &none[..(msr_count as usize).div_ceil(8)],
    });
    Ok(vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)?)
}

#[expect(unsafe_code, reason = "KVM is given memory of this process")]
fn give(vm: &VmFd, memory: &GuestMemoryMmap<()>) -> Result<()> {
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.get_host_address(GuestAddress(0))?.addr() as u64,
    };
    // SAFETY: `memory` is a mapping of this size, which lives as long as `main`, and the VM
    // does not run when that is over.
    unsafe { vm.set_user_memory_region(region)? };
    Ok(())
}

fn boot_parameters(memory: &GuestMemoryMmap<()>, line: &str) -> Result<()> {
    let pointer = u32::try_from(COMMAND_LINE)?;
    memory.write_obj(pointer, GuestAddress(COMMAND_LINE_POINTER))?;
    memory.write_slice(line.as_bytes(), GuestAddress(COMMAND_LINE))?;
    Ok(())
}

/// The first 4 GiB one to one, in pages of 2 MiB.
fn page_tables(memory: &GuestMemoryMmap<()>) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let table = |n: u64| PAGE_TABLES + n * 0x1000;
    let set = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at));
    set(table(0), table(1) | PRESENT_WRITABLE)?;
    for directory in 0..4 {
        set(
            table(1) + directory * 8,
            table(2 + directory) | PRESENT_WRITABLE,
        )?;
    }
    for page in 0..4 * 512 {
        set(table(2) + page * 8, page << 21 | PRESENT_WRITABLE | LARGE)?;
    }
    Ok(())
}

/// 64-bit mode, at the payload's entry.
fn enter(vcpu: &VcpuFd, rip: u64) -> Result<()> {
    const PROTECTED_AND_PAGED: u64 = 1 << 31 | 1 << 4 | 1;
    const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
    const LONG_MODE_ENABLED_AND_ACTIVE: u64 = 1 << 10 | 1 << 8;
    let code = kvm_segment {
        selector: 0x10,
        type_: 0b1011,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        limit: u32::MAX,
        ..kvm_segment::default()
    };
    let data = kvm_segment {
        selector: 0x18,
        type_: 0b0011,
        l: 0,
        db: 1,
        ..code
    };
    let mut special = vcpu.get_sregs()?;
    special.cr0 = PROTECTED_AND_PAGED;
    special.cr3 = PAGE_TABLES;
    special.cr4 = PHYSICAL_ADDRESS_EXTENSION;
    special.efer = LONG_MODE_ENABLED_AND_ACTIVE;
    special.cs = code;
    (special.ds, special.es, special.ss) = (data, data, data);
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&kvm_regs {
        rip,
        rsi: BOOT_PARAMS,
        rsp: BOOT_PARAMS + 0x1ff0,
        rflags: 2,
        ..kvm_regs::default()
    })?;
    Ok(())
}
