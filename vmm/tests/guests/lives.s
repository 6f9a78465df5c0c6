# A guest that sets all of its state to numbers of their own, and then looks at them again and
# again: after each look it prints the next letter from `a` to `p`. What is not as it was
# it tells by `!` and the number of the check, as two letters (a is 0), and powers off. A
# counter that runs must not go back, a timer that runs down must not go up. Entered in
# 64-bit mode at 2 MiB, with the first 4 GiB mapped one to one; uses 4 MiB of memory. A
# fault is a triple fault.
#
# lives.hex is made of it by:
#   as --64 -o lives.o lives.s && ld -Ttext=0x200000 -o lives.elf lives.o &&
#   objcopy -O binary -j .text lives.elf lives.bin && xxd -p -c 32 lives.bin > lives.hex

.set STACK, 0x310000
.set FX, 0x300000               # the image of FXSAVE, and that of now
.set FX_NOW, 0x300200
.set TABLES, 0x300400           # GDTR, IDTR and selectors, and those of now
.set TABLES_NOW, 0x300440
.set YMM, 0x300480              # the upper halves of two registers, and those of now
.set YMM_NOW, 0x3004a0
.set FLAGS, 0x3004c0            # has AVX
.set PAGES, 0x320000            # 64 pages, each with its number
.set IOAPIC, 0xfec00000
.set HOTPLUG, 0x3004c8
.set SERIAL, 0x3f8

.macro pattern register, value
    movabs $\value, %\register
.endm

# Fails as check number `n` unless the register has the value; uses RAX.
.macro holds n, register, value
    movabs $\value, %rax
    cmp %rax, %\register
    mov $\n, %eax
    jne fail
.endm

.macro same n, register, memory
    cmp \memory, %\register
    mov $\n, %eax
    jne fail
.endm

# Byte 4 says whether the KVM can do all: one that runs ring 0 in software knows the moves
# of SSE alone.
    jmp start
    .balign 4
all:
    .long 1

start:
    mov $STACK, %esp
    # CPUID.1:ECX: AVX and XSAVE
    mov $1, %eax
    cpuid
    and $0x14000000, %ecx
    xor %eax, %eax
    cmp $0x14000000, %ecx
    sete %al
    mov %eax, FLAGS
    # CR0: monitor coprocessor, numeric error, no emulation, caches on
    mov %cr0, %rax
    and $~0x6000000c, %eax
    or $0x22, %eax
    mov %rax, %cr0
    # CR4: DE, OSFXSR, OSXMMEXCPT, and OSXSAVE where there is AVX
    mov %cr4, %rax
    or $0x608, %rax
    cmpl $0, FLAGS
    je 1f
    or $0x40000, %rax
1:  mov %rax, %cr4
    movabs $0x123456789abc, %rax
    mov %rax, %cr2
    # debug registers, of which none breaks
    movabs $0xd0d0d0, %rax
    mov %rax, %db0
    inc %rax
    mov %rax, %db1
    inc %rax
    mov %rax, %db2
    inc %rax
    mov %rax, %db3
    mov $0xffff0ff5, %eax
    mov %rax, %db6
    mov $0x400, %eax
    mov %rax, %db7
    # segments
    sgdt TABLES
    sidt TABLES+10
    movw $0x0fff, TABLES+10
    movl $0x00345000, TABLES+12
    lidt TABLES+10
    # MSRs: each is written, and what it is then is kept
    lea msrs(%rip), %r15
1:  mov (%r15), %ecx
    test %ecx, %ecx
    jz 2f
    mov 8(%r15), %eax
    mov 12(%r15), %edx
    wrmsr
    rdmsr
    mov %eax, 8(%r15)
    mov %edx, 12(%r15)
    add $16, %r15
    jmp 1b
2:  # ports
    lea ports(%rip), %r15
1:  movzwl (%r15), %edx
    test %edx, %edx
    jz 2f
    mov 2(%r15), %al
    out %al, %dx
    in %dx, %al
    mov %al, 2(%r15)
    add $4, %r15
    jmp 1b
2:  mov $0xcf8, %edx
    mov $0x80000804, %eax
    out %eax, %dx
    # I/O APIC: entries 5 and 9, masked
    mov $IOAPIC, %r15d
    movl $0x1a, (%r15)
    movl $0x1a955, 16(%r15)
    movl $0x1b, (%r15)
    movl $0x07000000, 16(%r15)
    movl $0x22, (%r15)
    movl $0x10031, 16(%r15)
    # x87 and SSE
    fninit
    lea vectors(%rip), %r15
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu \n*8(%r15), %xmm\n
    .endr
    cmpl $0, all(%rip)
    je 1f
    fldpi
    fldl2e
    fld1
    pushq $0x027f
    fldcw (%rsp)
    movl $0x1fa0, (%rsp)
    ldmxcsr (%rsp)
    pop %rax
    fxsave64 FX
    cmpl $0, FLAGS
    je 1f
    xor %ecx, %ecx
    xor %edx, %edx
    mov $7, %eax
    xsetbv
    vinsertf128 $1, %xmm3, %ymm5, %ymm5
    vinsertf128 $1, %xmm4, %ymm14, %ymm14
    vextractf128 $1, %ymm5, YMM
    vextractf128 $1, %ymm14, YMM+16
1:
    # pages
    mov $PAGES, %r15d
    mov $64, %ecx
1:  mov %rcx, (%r15)
    mov %rcx, 4088(%r15)
    add $4096, %r15
    dec %ecx
    jnz 1b
    # selectors of their own: data segments by the one that is loaded
    mov %ss, %eax
    mov %eax, %fs
    mov %eax, %es
    # the bases again: a selector has taken them
    lea bases(%rip), %r15
    mov $2, %r14d
1:  mov (%r15), %ecx
    mov 8(%r15), %eax
    mov 12(%r15), %edx
    wrmsr
    add $16, %r15
    dec %r14d
    jnz 1b
    .irp s, cs, ds, es, fs, gs, ss
    mov %\s, %eax
    mov %eax, selector_\s(%rip)
    .endr
    str %eax
    mov %eax, selector_tr(%rip)
    sldt %eax
    mov %eax, selector_ldt(%rip)
    mov %cr0, %rax
    mov %rax, first_cr0(%rip)
    mov %cr3, %rax
    mov %rax, first_cr3(%rip)
    mov %cr4, %rax
    mov %rax, first_cr4(%rip)
    mov %db6, %rax
    mov %rax, first_dr6(%rip)
    # RFLAGS: AC and ID
    pushfq
    orl $0x240000, (%rsp)
    popfq
    # general registers
    pattern rsi, 0x5151515151515151
    pattern rdi, 0xd1d1d1d1d1d1d1d1
    pattern rbp, 0xb9b9b9b9b9b9b9b9
    pattern r8, 0x0808080808080808
    pattern r9, 0x0909090909090909
    pattern r10, 0x1010101010101010
    pattern r11, 0x1111111111111111
    pattern r12, 0x1212121212121212
    pattern r13, 0x1313131313131313
    pattern r14, 0x1414141414141414
    xor %ebx, %ebx

look:
    holds 0, rsi, 0x5151515151515151
    holds 1, rdi, 0xd1d1d1d1d1d1d1d1
    holds 2, rbp, 0xb9b9b9b9b9b9b9b9
    holds 3, rsp, STACK
    holds 4, r8, 0x0808080808080808
    holds 5, r9, 0x0909090909090909
    holds 6, r10, 0x1010101010101010
    holds 7, r11, 0x1111111111111111
    holds 8, r12, 0x1212121212121212
    holds 9, r13, 0x1313131313131313
    holds 10, r14, 0x1414141414141414
    pushfq
    pop %rdx
    and $0x240000, %rdx
    holds 11, rdx, 0x240000
    mov %cr0, %rdx
    same 12, rdx, first_cr0(%rip)
    mov %cr2, %rdx
    holds 13, rdx, 0x123456789abc
    mov %cr3, %rdx
    same 14, rdx, first_cr3(%rip)
    mov %cr4, %rdx
    same 15, rdx, first_cr4(%rip)
    mov %cr8, %rdx
    holds 16, rdx, 3
    mov %db0, %rdx
    holds 17, rdx, 0xd0d0d0
    mov %db1, %rdx
    holds 18, rdx, 0xd0d0d1
    mov %db2, %rdx
    holds 19, rdx, 0xd0d0d2
    mov %db3, %rdx
    holds 20, rdx, 0xd0d0d3
    mov %db6, %rdx
    same 21, rdx, first_dr6(%rip)
    mov %db7, %rdx
    holds 22, rdx, 0x400
    sgdt TABLES_NOW
    sidt TABLES_NOW+10
    .irp at, 0, 8, 12
    mov TABLES+\at, %rdx
    cmp %rdx, TABLES_NOW+\at
    mov $23, %eax
    jne fail
    .endr
    .irp s, cs, ds, es, fs, gs, ss
    mov %\s, %edx
    same 24, edx, selector_\s(%rip)
    .endr
    str %edx
    same 25, edx, selector_tr(%rip)
    sldt %edx
    same 26, edx, selector_ldt(%rip)
    # MSRs: check 32 and on
    lea msrs(%rip), %r15
1:  mov (%r15), %ecx
    test %ecx, %ecx
    jz 2f
    rdmsr
    shl $32, %rdx
    or %rax, %rdx
    cmp 8(%r15), %rdx
    mov 4(%r15), %eax
    jne fail
    add $16, %r15
    jmp 1b
2:  # counters that run forward
    lea running(%rip), %r15
1:  mov (%r15), %ecx
    test %ecx, %ecx
    jz 2f
    rdmsr
    shl $32, %rdx
    or %rax, %rdx
    cmp 8(%r15), %rdx
    mov 4(%r15), %eax
    jb fail
    mov %rdx, 8(%r15)
    add $16, %r15
    jmp 1b
2:  # and a timer that runs down
    mov $0x839, %ecx
    rdmsr
    cmp timer(%rip), %eax
    mov %eax, timer(%rip)
    mov $27, %eax
    ja fail
    # x87 and SSE, and the upper halves
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu %xmm\n, FX_NOW
    mov vectors+\n*8(%rip), %rdx
    cmp %rdx, FX_NOW
    mov $28, %eax
    jne fail
    mov vectors+\n*8+8(%rip), %rdx
    cmp %rdx, FX_NOW+8
    jne fail
    .endr
    cmpl $0, all(%rip)
    je 2f
    fxsave64 FX_NOW
    xor %r15d, %r15d
1:  mov FX(%r15), %rdx
    cmp FX_NOW(%r15), %rdx
    mov $28, %eax
    jne fail
    add $8, %r15
    cmp $512, %r15
    jne 1b
    cmpl $0, FLAGS
    je 2f
    vextractf128 $1, %ymm5, YMM_NOW
    vextractf128 $1, %ymm14, YMM_NOW+16
    xor %r15d, %r15d
1:  mov YMM(%r15), %rdx
    cmp YMM_NOW(%r15), %rdx
    mov $29, %eax
    jne fail
    add $8, %r15
    cmp $32, %r15
    jne 1b
    xor %ecx, %ecx
    xgetbv
    cmp $7, %eax
    mov $30, %eax
    jne fail
2:  # pages
    mov $PAGES, %r15d
    mov $64, %ecx
1:  cmp %rcx, (%r15)
    mov $31, %eax
    jne fail
    cmp %rcx, 4088(%r15)
    jne fail
    add $4096, %r15
    dec %ecx
    jnz 1b
    # ports: check 96 and on
    lea ports(%rip), %r15
1:  movzwl (%r15), %edx
    test %edx, %edx
    jz 2f
    in %dx, %al
    cmp 2(%r15), %al
    movzbl 3(%r15), %eax
    jne fail
    add $4, %r15
    jmp 1b
2:  mov $0xcf8, %edx
    in %dx, %eax
    cmp $0x80000804, %eax
    mov $128, %eax
    jne fail
    # the divisor of the UART is behind a bit
    mov $SERIAL+3, %edx
    mov $0x83, %al
    out %al, %dx
    mov $SERIAL, %edx
    in %dx, %al
    mov %al, %cl
    mov $SERIAL+3, %edx
    mov $3, %al
    out %al, %dx
    cmp $12, %cl
    mov $129, %eax
    jne fail
    mov $IOAPIC, %r15d
    .irp entry, 0x1a, 0x1b, 0x22
    movl $\entry, (%r15)
    mov 16(%r15), %edx
    cmpl $0, ioapic_\entry(%rip)
    jne 1f
    mov %edx, ioapic_\entry(%rip)
1:  cmp %edx, ioapic_\entry(%rip)
    mov $130, %eax
    jne fail
    .endr
    # the letter
    mov %ebx, %eax
    and $15, %al
    add $'a', %al
    mov $SERIAL, %edx
    out %al, %dx
    inc %rbx
    jmp look

fail:
    mov %eax, %ecx
    mov $SERIAL, %edx
    mov $'!', %al
    out %al, %dx
    mov %ecx, %eax
    shr $4, %eax
    and $15, %al
    add $'a', %al
    out %al, %dx
    mov %ecx, %eax
    and $15, %al
    add $'a', %al
    out %al, %dx
    mov $0x600, %edx
    mov $0x34, %al
    out %al, %dx
1:  jmp 1b

    .balign 16
# Two neighbours are a register.
vectors:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
    .quad 0x8040201008040201 + \n * 0x0101010101010101
    .endr

.macro msr n, index, value
    .long \index, \n
    .quad \value
.endm

# index, check, and what is written at first
msrs:
    msr 33, 0xc0000081, 0x0013000800000000      # STAR
    msr 34, 0xc0000082, 0xffffffff81000040      # LSTAR
    msr 35, 0xc0000083, 0xffffffff81000080      # CSTAR
    msr 36, 0xc0000084, 0x47700                 # SFMASK
    msr 37, 0xc0000102, 0xffff888000001000      # the other GS base
    msr 38, 0x174, 0x10                         # SYSENTER
    msr 39, 0x175, 0x00007f0000001000
    msr 40, 0x176, 0x00007f0000002000
    msr 41, 0x277, 0x0007010600070106           # PAT
    msr 42, 0x200, 0x80000006                   # MTRR 0, off
    msr 43, 0x201, 0xf0000000
    msr 44, 0x250, 0x0606060606060606
    msr 45, 0x1b, 0xfee00d00                    # APIC: x2APIC, enabled
    msr 46, 0x80f, 0x1ff                        # its spurious vector
    msr 47, 0x808, 0x30                         # its task priority, which is CR8
    msr 48, 0x832, 0x10040                      # its timer, once, masked
    msr 49, 0x83e, 0xa                          # by 128
    msr 50, 0x838, 0xffffffff
    msr 51, 0x834, 0x10400                      # PMIs, masked
    msr 52, 0x835, 0x10700
    msr 53, 0x836, 0x10400
    msr 54, 0x837, 0x100fe
    msr 55, 0x187, 0x1300c0                     # counter 1: instructions, off
    msr 56, 0xc2, 0x01234567
    msr 57, 0x309, 0x76543210                   # fixed counter 0: it has a number, off
    msr 58, 0x38d, 0x30                         # fixed counter 1 runs
    msr 59, 0x186, 0x43003c                     # counter 0: cycles
    msr 60, 0x38f, 0x200000001
    .long 0

# what runs, and where it was
running:
    msr 80, 0x10, 0
    msr 81, 0xc1, 0
    msr 82, 0x30a, 0
    .long 0

timer:
    .long 0xffffffff

bases:
    msr 0, 0xc0000100, 0x00007fff00001000
    msr 0, 0xc0000101, 0xffff888000002000

.macro io n, port, value
    .word \port
    .byte \value, \n
.endm

ports:
    io 96, 0x21, 0xfb                           # PICs: masks
    io 97, 0xa1, 0xef
    io 98, 0x4d0, 0x20                          # and edges
    io 99, 0x4d1, 0x0c
    io 100, SERIAL+7, 0x5a                      # the UART: scratch
    io 101, SERIAL+3, 3
    io 102, SERIAL+4, 0xb
    io 103, SERIAL+1, 0
    .word 0

    .balign 8
first_cr0: .quad 0
first_cr3: .quad 0
first_cr4: .quad 0
first_dr6: .quad 0
selector_cs: .long 0
selector_ds: .long 0
selector_es: .long 0
selector_fs: .long 0
selector_gs: .long 0
selector_ss: .long 0
selector_tr: .long 0
selector_ldt: .long 0
ioapic_0x1a: .long 0
ioapic_0x1b: .long 0
ioapic_0x22: .long 0
