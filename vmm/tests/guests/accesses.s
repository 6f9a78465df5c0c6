# A guest that does one kind of thing again and again, and powers off. The word at its
# byte 4 says what, that at byte 8 how often. Entered in 64-bit mode at 2 MiB, with the
# first 4 GiB mapped one to one; uses 4 MiB of memory. A fault that nobody expects is a
# triple fault.
#
# accesses.hex is made of it by:
#   as --64 -o accesses.o accesses.s && ld -Ttext=0x200000 -o accesses.elf accesses.o &&
#   objcopy -O binary -j .text accesses.elf accesses.bin &&
#   xxd -p -c 32 accesses.bin > accesses.hex

.set STACK, 0x310000
.set RING_0_STACK, 0x320000     # of traps that come from ring 3
.set RING_3_STACK, 0x330000
.set TSS, 0x300000
.set INTERRUPTS, 0x301000
.set APIC, 0xfee00000
.set NOBODY, 0xc0000000         # an address that no device has
.set CYCLES, 0x43003c           # user and kernel code, enabled
.set USER_CYCLES, 0x41003c
.set PMI_CYCLES, 0x53003c       # with a PMI
.set INSTRUCTIONS, 0x4300c0
.set PERIOD, 50000

.set EVENTSEL, 0x186
.set COUNTER, 0x4c1
.set STATUS, 0x38e
.set CONTROL, 0x38f
.set CLEAR, 0x390

.macro write register, value
    mov $\register, %ecx
    mov $\value, %eax
    xor %edx, %edx
    wrmsr
.endm

.macro read register
    mov $\register, %ecx
    rdmsr
.endm

.code64
.globl _start
_start:
    jmp begin
.balign 4
kind:
    .long 0
rounds:
    .long 0

begin:
    mov $STACK, %esp
    lgdt table_of_segments
    push $0x08
    lea 1f(%rip), %rax
    push %rax
    lretq
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    movq $RING_0_STACK, TSS + 4
    mov $0x28, %eax
    ltr %ax
    mov $2, %edi
    lea interrupted(%rip), %rax
    call gate
    mov $13, %edi
    lea refused(%rip), %rax
    call gate
    lidt table_of_interrupts
    # Pages for ring 3: the first gigabyte.
    mov %cr3, %rdi
    orb $4, (%rdi)
    mov (%rdi), %rdi
    and $-4096, %rdi
    orb $4, (%rdi)
    mov (%rdi), %rdi
    and $-4096, %rdi
    mov $512, %ecx
2:  orb $4, (%rdi)
    add $8, %rdi
    loop 2b
    mov %cr3, %rdi
    mov %rdi, %cr3
    mov %cr4, %rax
    or $0x100, %eax             # PCE
    mov %rax, %cr4
    # The local APIC is on; PMIs are NMIs.
    mov $APIC, %edi
    movl $0x1ff, 0xf0(%rdi)
    movl $0x400, 0x340(%rdi)
    mov rounds(%rip), %r12d
    mov kind(%rip), %ebx
    lea kinds(%rip), %rax
    movslq (%rax, %rbx, 4), %rbx
    add %rax, %rbx
    call *%rbx
    write CONTROL, 0
    mov $0x600, %edx
    mov $0x34, %al
    out %al, %dx
3:  jmp 3b

# The interrupt gate EDI for the handler RAX.
gate:
    shl $4, %edi
    add $INTERRUPTS, %edi
    mov %ax, (%rdi)
    movw $8, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    shr $16, %eax
    mov %ax, 6(%rdi)
    movq $0, 8(%rdi)
    ret

.balign 4
kinds:
    .long ports - kinds, memory - kinds, reads - kinds, same - kinds, stops - kinds
    .long switches - kinds, rdpmc_0 - kinds, rdpmc_3 - kinds, pmis - kinds, levels - kinds
    .long faults - kinds

ports:
    mov $0x1234, %edx
    in %dx, %al
    out %al, %dx
    dec %r12d
    jnz ports
    ret

memory:
    mov $NOBODY, %edi
    mov (%rdi), %eax
    mov %eax, (%rdi)
    dec %r12d
    jnz memory
    ret

reads:
    call start_four
1:  read 0
    read EVENTSEL
    read COUNTER
    read STATUS
    read CONTROL
    dec %r12d
    jnz 1b
    ret

same:
    call start_four
1:  write EVENTSEL, CYCLES
    write CONTROL, 0xf
    dec %r12d
    jnz 1b
    ret

stops:
    call start_four
1:  write CONTROL, 0
    write CONTROL, 0xf
    dec %r12d
    jnz 1b
    ret

# From one task's events to another's, as a driver does it.
switches:
    call start_four
1:  write CONTROL, 0
    read COUNTER
    write EVENTSEL, INSTRUCTIONS
    write COUNTER, 77
    write CONTROL, 0xf
    write COUNTER + 1, 78
    write CONTROL, 0
    write EVENTSEL, CYCLES
    write COUNTER, 79
    write CONTROL, 0xf
    dec %r12d
    jnz 1b
    ret

rdpmc_0:
    call start_four
1:  xor %ecx, %ecx
    rdpmc
    # As compilers join the halves.
    shl $32, %rdx
    or %rdx, %rax
    call is_counting
    dec %r12d
    jnz 1b
    ret

rdpmc_3:
    call start_four
    push %rbp
    mov %rsp, %rbp
    push $0x1b
    push $RING_3_STACK
    pushf
    push $0x23
    lea 1f(%rip), %rax
    push %rax
    iretq
1:  xor %ecx, %ecx
    rdpmc
    shl $32, %rdx
    or %rdx, %rax
    call is_counting
    dec %r12d
    jnz 1b
    hlt
# Back in ring 0, on the stack of the call: of all that faults there, this is the end.
left:
    mov $0x10, %eax
    mov %eax, %ss
    mov %rbp, %rsp
    pop %rbp
    ret

# What was read is no counter that runs: the end, by a fault.
is_counting:
    cmp $0, %rax
    ja 1f
    ud2
1:  ret

pmis:
    write EVENTSEL, PMI_CYCLES
    call rearm
1:  cmpl $0, %r12d
    jg 1b
    ret

# Of a program and its calls: a clock samples the privilege level.
levels:
    write EVENTSEL, USER_CYCLES
    write CONTROL, 1
    rdtsc
    mov %eax, %esi
1:  rdtsc
    sub %esi, %eax
    cmp $4000000, %eax
    jb 1b
    dec %r12d
    jnz levels
    ret

faults:
    read 0x2f0
    write 0x2f0, 1
    dec %r12d
    jnz faults
    ret

start_four:
    write EVENTSEL, CYCLES
    write EVENTSEL + 1, INSTRUCTIONS
    write EVENTSEL + 2, USER_CYCLES
    write EVENTSEL + 3, CYCLES
    write COUNTER, 1
    write CONTROL, 0xf
    ret

rearm:
    mov $COUNTER, %ecx
    mov $-PERIOD, %eax
    mov $0xffff, %edx
    wrmsr
    write CONTROL, 1
    ret

# A PMI, with what Linux's handler does.
interrupted:
    push %rax
    push %rcx
    push %rdx
    push %rdi
    mov $APIC, %edi
    movl $0x400, 0x340(%rdi)
    write CONTROL, 0
    read STATUS
    mov $CLEAR, %ecx
    wrmsr
    read COUNTER
    dec %r12d
    jle 1f
    call rearm
1:  pop %rdi
    pop %rdx
    pop %rcx
    pop %rax
    iretq

# #GP, as Linux's handler begins: behind the instruction. An RDPMC does not come here.
.balign 8
refused:
    .byte 0x0f, 0x1f, 0x00
    cld
    push %rax
    mov 16(%rsp), %rax
    cmpb $0xf4, (%rax)
    je left
    cmpb $0x33, 1(%rax)
    je 1f
    addq $2, 16(%rsp)
    pop %rax
    add $8, %rsp
    iretq
1:  ud2

.balign 8
segments:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cff3000000ffff    # data of ring 3
    .quad 0x00affb000000ffff    # its code
    .quad 0x0000893000000067    # the task's state, at TSS
    .quad 0
table_of_segments:
    .word 55
    .quad segments
table_of_interrupts:
    .word 14 * 16 - 1
    .quad INTERRUPTS
