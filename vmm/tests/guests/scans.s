# A guest that asks for scans all the time, on all its vCPUs: each writes what a
# driver's counter test writes, from text that is mapped executable for 128 MiB each
# way, in pages of 4 KiB. Entered in 64-bit mode at 2 MiB; uses 5 MiB of memory.
#
# scans.hex is made of it by:
#   as --64 -o scans.o scans.s && ld -Ttext=0x200000 -o scans.elf scans.o &&
#   objcopy -O binary -j .text scans.elf scans.bin && xxd -p -c 32 scans.bin > scans.hex

.set TABLE, 0x400000            # 512 pages of 4 KiB: the 2 MiB from 2 MiB on
.set LOW, 0x401000              # directory of the first GiB
.set POINTERS, 0x402000
.set ROOT, 0x403000
.set APIC_PAGES, 0x404000       # directory of the fourth GiB
.set APIC, 0xfee00000
.set ALIAS, 320 << 20           # where the code runs
.set START, 0x30000             # where the other vCPUs begin

.code64
.globl _start
_start:
    mov $0x500000, %esp
    mov $TABLE, %edi
    mov $0x200003, %eax
    mov $0x1000, %edx
    call fill
    mov $LOW, %edi
    mov $0x83, %eax
    mov $0x200000, %edx
    call fill
    mov $APIC_PAGES, %edi
    mov $0xc0000083, %eax
    call fill
    # From 128 MiB to 512 MiB, each 2 MiB is the table's.
    mov $(LOW + 64 * 8), %edi
    mov $192, %ecx
1:  movq $(TABLE + 3), (%rdi)
    add $8, %edi
    loop 1b
    movq $(LOW + 3), POINTERS
    movq $(APIC_PAGES + 3), POINTERS + 3 * 8
    movq $(POINTERS + 3), ROOT
    mov $ROOT, %eax
    mov %rax, %cr3
    # The others: INIT, then where to begin.
    lea start(%rip), %rsi
    mov $START, %edi
    mov $(end - start), %ecx
    rep movsb
    mov $APIC, %edi
    movl $0x1ff, 0xf0(%rdi)
    movl $0xc4500, 0x300(%rdi)
    mov $100000, %ecx
2:  loop 2b
    movl $(0xc4600 + START / 4096), 0x300(%rdi)
    mov $(ALIAS + test - _start), %eax
    jmp *%rax

# Fills the 512 entries at RDI with RAX, RAX + RDX, …
fill:
    mov $512, %ecx
3:  mov %rax, (%rdi)
    add $8, %edi
    add %rdx, %rax
    loop 3b
    ret

test:
    mov $0xffff, %esi
4:  mov $0xc1, %ecx             # IA32_PMC0
    mov %esi, %eax
    xor %edx, %edx
    wrmsr
    xor $0xffff, %esi
    jmp 4b

.balign 16
start:
.code16
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl (gdtr - start)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x10, $(START + protected - start)
.code32
protected:
    mov $8, %ax
    mov %ax, %ds
    mov %cr4, %eax
    or $0x20, %eax              # PAE
    mov %eax, %cr4
    mov $ROOT, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx       # EFER.LME
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ljmpl $0x18, $(START + long_mode - start)
.code64
long_mode:
    mov $(ALIAS + test - _start), %eax
    jmp *%rax
.balign 8
gdt:
    .quad 0
    .quad 0x00cf92000000ffff
    .quad 0x00cf9a000000ffff
    .quad 0x00af9a000000ffff
gdtr:
    .word 31
    .long START + gdt - start
end:
