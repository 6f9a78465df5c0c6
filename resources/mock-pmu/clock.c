// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ticks (TSC) that a CPU has spent in guest mode, by privilege level.
 *
 * The tracepoint kvm_entry begins a stretch of guest mode. What ends it is whatever
 * comes first after the exit: the tracepoint kvm_exit, a switch to another task, or
 * a call of ours from an interrupt. KVM notes the time of the exit itself
 * (last_guest_tsc), so that it does not matter how much later that is.
 */
#include <linux/kvm_host.h>
#include <linux/tracepoint.h>
#include <linux/version.h>
#include <asm/msr.h>
#include <asm/svm.h>

#include "mock.h"

#define KVM_ISA_SVM 2	/* the second argument of kvm_exit */

extern struct tracepoint __tracepoint_kvm_entry;
extern struct tracepoint __tracepoint_kvm_exit;

static struct tracepoint *tp_sched_switch;
/* KVM has told us that it is AMD's: what we look into is laid out as we know it. */
static bool is_svm __read_mostly;

/*
 * The VMCB of a vCPU: the first field after the common part in both kernels that we
 * are built for (struct vcpu_svm). Its RIP has to be the one that KVM took from it.
 */
static const struct vmcb *vmcb_of(const struct kvm_vcpu *vcpu)
{
	const struct vmcb *vmcb = *(struct vmcb *const *)(vcpu + 1);

	if (!is_svm || !virt_addr_valid(vmcb))
		return NULL;
	return vmcb->save.rip == vcpu->arch.regs[VCPU_REGS_RIP] ? vmcb : NULL;
}

static bool in_guest_user(const struct kvm_vcpu *vcpu)
{
	const struct vmcb *vmcb = vmcb_of(vcpu);

	if (vmcb)
		return vmcb->save.cpl == 3;
	/* Where Linux has its user space. */
	return (s64)vcpu->arch.regs[VCPU_REGS_RIP] >= 0;
}

/* When the vCPU left guest mode, in the host's TSC. */
static u64 left_at(const struct mock_cpu *cpu, const struct kvm_vcpu *vcpu)
{
	u64 now = rdtsc();
	u64 noted = vcpu->arch.last_guest_tsc - vcpu->arch.l1_tsc_offset;

	if (vcpu->mode != OUTSIDE_GUEST_MODE || !is_svm ||
	    vcpu->arch.l1_tsc_scaling_ratio != SVM_TSC_RATIO_DEFAULT)
		return now;
	return noted >= cpu->since && noted <= now ? noted : now;
}

/*
 * Brings the ticks of guest mode up to date. The CPU is in host mode, in which every
 * caller runs; interrupts are off.
 */
void mock_clock_sync(struct mock_cpu *cpu)
{
	const struct kvm_vcpu *vcpu = cpu->vcpu;
	u64 ticks;

	if (!vcpu)
		return;
	ticks = left_at(cpu, vcpu) - cpu->since;
	cpu->vcpu = NULL;
	if (in_guest_user(vcpu))
		cpu->guest_user += ticks;
	else
		cpu->guest_kernel += ticks;
	if (cpu->sampling)
		mock_counters_check(cpu);
}

/* Ticks in these modes since some time in the past. After mock_clock_sync(). */
u64 mock_clock_read(const struct mock_cpu *cpu, u64 modes)
{
	u64 ticks = 0;

	if (modes & MOCK_HOST)
		ticks += rdtsc() - cpu->guest_user - cpu->guest_kernel;
	if (modes & MOCK_GUEST_USER)
		ticks += cpu->guest_user;
	if (modes & MOCK_GUEST_KERNEL)
		ticks += cpu->guest_kernel;
	return ticks;
}

/* Interrupts are off. */
static void on_entry(void *data, struct kvm_vcpu *vcpu, bool force_immediate_exit)
{
	struct mock_cpu *cpu = this_cpu_ptr(&mock_cpus);

	/* With no event there is nothing to do; KVM may also enter again by itself. */
	if (!cpu->started || cpu->vcpu == vcpu)
		return;
	if (cpu->sampling)
		mock_counters_arm(cpu, MOCK_GUEST_USER | MOCK_GUEST_KERNEL);
	cpu->vcpu = vcpu;
	cpu->since = rdtsc();
}

static void sync_this_cpu(void)
{
	unsigned long flags;

	if (!this_cpu_read(mock_cpus.vcpu))
		return;
	local_irq_save(flags);
	mock_clock_sync(this_cpu_ptr(&mock_cpus));
	local_irq_restore(flags);
}

static void on_exit(void *data, struct kvm_vcpu *vcpu, u32 isa)
{
	if (unlikely(!is_svm && isa == KVM_ISA_SVM))
		is_svm = true;
	sync_this_cpu();
}

/* Before the vCPU's thread leaves the CPU: it may exit elsewhere. */
static void on_switch(void *data, bool preempt, struct task_struct *prev,
		      struct task_struct *next, unsigned int prev_state)
{
	sync_this_cpu();
}

static void find_switch(struct tracepoint *tp, void *data)
{
	if (!strcmp(tp->name, "sched_switch"))
		tp_sched_switch = tp;
}

int mock_clock_start(void)
{
	int err;

	for_each_kernel_tracepoint(find_switch, NULL);
	if (!tp_sched_switch) {
		pr_err("this kernel has no tracepoint sched_switch\n");
		return -ENOENT;
	}
	err = tracepoint_probe_register(tp_sched_switch, on_switch, NULL);
	if (err)
		return err;
	err = tracepoint_probe_register(&__tracepoint_kvm_exit, on_exit, NULL);
	if (err)
		goto no_exit;
	err = tracepoint_probe_register(&__tracepoint_kvm_entry, on_entry, NULL);
	if (!err)
		return 0;
	tracepoint_probe_unregister(&__tracepoint_kvm_exit, on_exit, NULL);
no_exit:
	tracepoint_probe_unregister(tp_sched_switch, on_switch, NULL);
	tracepoint_synchronize_unregister();
	return err;
}

void mock_clock_stop(void)
{
	tracepoint_probe_unregister(&__tracepoint_kvm_entry, on_entry, NULL);
	tracepoint_probe_unregister(&__tracepoint_kvm_exit, on_exit, NULL);
	tracepoint_probe_unregister(tp_sched_switch, on_switch, NULL);
	tracepoint_synchronize_unregister();
}
