// SPDX-License-Identifier: GPL-2.0-only
/*
 * The counters of a CPU. All of them are alike. An event reads the clock of its CPU
 * when it is started and when it is stopped or read; between the two nothing runs
 * for it, unless it samples: then one timer for each CPU is armed for the nearest
 * overflow.
 */
#include <linux/bitops.h>
#include <linux/kprobes.h>
#include <linux/math64.h>
#include <linux/sched/task_stack.h>
#include <asm/ibt.h>
#include <asm/irq_regs.h>
#include <asm/msr.h>
#include <asm/tsc.h>

#include "mock.h"

DEFINE_PER_CPU(struct mock_cpu, mock_cpus);

/* perf_event_overflow(), which is not exported: the core samples, signals, throttles. */
static int (*tell_core)(struct perf_event *event, struct perf_sample_data *data,
			struct pt_regs *regs);

/* Overflows that are further away than this (TSC ticks) are left alone. */
#define FAR	BIT_ULL(40)

static struct mock_cpu *this_cpu(void)
{
	struct mock_cpu *cpu = this_cpu_ptr(&mock_cpus);

	lockdep_assert_irqs_disabled();
	mock_clock_sync(cpu);
	return cpu;
}

/* What the event's counter would show. hw.event_base is the shift of its rate. */
static u64 counter(const struct mock_cpu *cpu, const struct perf_event *event)
{
	return mock_clock_read(cpu, event->hw.config) >> event->hw.event_base;
}

static void update(const struct mock_cpu *cpu, struct perf_event *event)
{
	u64 now = counter(cpu, event);
	u64 delta = now - local64_xchg(&event->hw.prev_count, now);

	local64_add(delta, &event->count);
	local64_sub(delta, &event->hw.period_left);
}

/*
 * Sets the distance to the next overflow. Periods that passed unseen give one
 * overflow together, as on a counter whose interrupt comes late.
 */
static void next_period(struct perf_event *event)
{
	struct hw_perf_event *hw = &event->hw;
	s64 period = hw->sample_period;
	s64 left = local64_read(&hw->period_left) + period;

	if (left <= 0 || left > period)
		left = period;
	local64_set(&hw->period_left, left);
	hw->last_period = period;
}

/* Host mode; interrupts are off. */
static void arm(struct mock_cpu *cpu, u64 left)
{
	u64 at = rdtsc() + left;

	if (left >= FAR)
		return;
	/* An earlier one finds nothing to do, and the next entry arms it again. */
	if (cpu->timer_at && cpu->timer_at <= at)
		return;
	cpu->timer_at = at;
	hrtimer_start(&cpu->timer,
		      ns_to_ktime(mul_u64_u32_div(left, USEC_PER_SEC, tsc_khz) + 1),
		      HRTIMER_MODE_REL_PINNED_HARD);
}

/* Arms the timer for the nearest overflow of the events that count in these modes. */
void mock_counters_arm(struct mock_cpu *cpu, u64 modes)
{
	u64 nearest = FAR, left, set = cpu->sampling;

	for (; set; set &= set - 1) {
		const struct perf_event *event = cpu->events[__ffs64(set)];

		if (!(event->hw.config & modes))
			continue;
		left = max_t(s64, local64_read(&event->hw.period_left), 1);
		if (left < FAR)
			nearest = min(nearest, left << event->hw.event_base);
	}
	arm(cpu, nearest);
}

/* The event's counter goes on, from where it is. */
static void go(struct mock_cpu *cpu, struct perf_event *event)
{
	u64 slot = BIT_ULL(event->hw.idx);

	event->hw.state = 0;
	local64_set(&event->hw.prev_count, counter(cpu, event));
	cpu->started |= slot;
	if (is_sampling_event(event)) {
		/* 0: a new period is to be loaded. Less: an overflow is due. */
		if (!local64_read(&event->hw.period_left))
			next_period(event);
		cpu->sampling |= slot;
		if (event->hw.config & MOCK_HOST)
			mock_counters_arm(cpu, MOCK_HOST);
	}
	perf_event_update_userpage(event);
}

static void mock_start(struct perf_event *event, int flags)
{
	struct mock_cpu *cpu = this_cpu();

	if (event->hw.idx >= 0 && event->hw.state & PERF_HES_STOPPED) {
		cpu->wanted &= ~BIT_ULL(event->hw.idx);
		go(cpu, event);
	}
}

static void mock_stop(struct perf_event *event, int flags)
{
	struct mock_cpu *cpu = this_cpu();

	if (event->hw.idx < 0 || event->hw.state & PERF_HES_STOPPED)
		return;
	update(cpu, event);
	cpu->started &= ~BIT_ULL(event->hw.idx);
	cpu->sampling &= ~BIT_ULL(event->hw.idx);
	event->hw.state = PERF_HES_STOPPED | PERF_HES_UPTODATE;
}

static void mock_read(struct perf_event *event)
{
	struct mock_cpu *cpu = this_cpu();

	if (!(event->hw.state & PERF_HES_STOPPED))
		update(cpu, event);
}

static bool over_committed(const struct mock_cpu *cpu)
{
	return hweight64(cpu->used) > cpu->gp;
}

/* In a transaction the room is tested at its end, for the group as a whole. */
static int mock_add(struct perf_event *event, int flags)
{
	struct mock_cpu *cpu = this_cpu();
	u64 slot;

	if (!~cpu->used)
		return -EAGAIN;
	event->hw.idx = __ffs64(~cpu->used);
	slot = BIT_ULL(event->hw.idx);
	cpu->used |= slot;
	if (!(cpu->txn_flags & PERF_PMU_TXN_ADD) && over_committed(cpu)) {
		cpu->used &= ~slot;
		event->hw.idx = -1;
		return -EAGAIN;
	}
	cpu->events[event->hw.idx] = event;
	event->hw.state = PERF_HES_STOPPED | PERF_HES_UPTODATE;
	if (flags & PERF_EF_START)
		cpu->wanted |= slot;
	perf_event_update_userpage(event);
	return 0;
}

static void mock_del(struct perf_event *event, int flags)
{
	struct mock_cpu *cpu = this_cpu();
	u64 slot = BIT_ULL(event->hw.idx);

	mock_stop(event, PERF_EF_UPDATE);
	cpu->wanted &= ~slot;
	cpu->used &= ~slot;
	cpu->events[event->hw.idx] = NULL;
	event->hw.idx = -1;
	perf_event_update_userpage(event);
}

/*
 * What was placed begins here. The core disables the PMU around each add, and a
 * transaction keeps the whole group waiting.
 */
static void mock_enable(struct pmu *pmu)
{
	struct mock_cpu *cpu = this_cpu_ptr(&mock_cpus);
	unsigned long flags;

	if (!cpu->wanted || cpu->txn_flags & PERF_PMU_TXN_ADD)
		return;
	local_irq_save(flags);
	mock_clock_sync(cpu);
	while (cpu->wanted) {
		int slot = __ffs64(cpu->wanted);

		cpu->wanted &= cpu->wanted - 1;
		go(cpu, cpu->events[slot]);
	}
	local_irq_restore(flags);
}

static void mock_disable(struct pmu *pmu)
{
}

static void mock_start_txn(struct pmu *pmu, unsigned int flags)
{
	this_cpu_write(mock_cpus.txn_flags, flags);
}

static void mock_cancel_txn(struct pmu *pmu)
{
	this_cpu_write(mock_cpus.txn_flags, 0);
}

/* After a failure the core takes out what was added, and then cancels. */
static int mock_commit_txn(struct pmu *pmu)
{
	struct mock_cpu *cpu = this_cpu_ptr(&mock_cpus);
	unsigned int flags = cpu->txn_flags;

	if (flags & PERF_PMU_TXN_ADD && over_committed(cpu))
		return -EAGAIN;
	cpu->txn_flags = 0;
	if (flags & PERF_PMU_TXN_ADD)
		mock_enable(pmu);
	return 0;
}

static void overflow(struct perf_event *event)
{
	struct pt_regs *regs = get_irq_regs() ?: task_pt_regs(current);
	struct perf_sample_data data;

	perf_sample_data_init(&data, 0, event->hw.last_period);
	next_period(event);
	if (tell_core(event, &data, regs))
		mock_stop(event, 0);
}

/* Tells the core of every overflow that has happened. Interrupts are off. */
void mock_counters_check(struct mock_cpu *cpu)
{
	u64 set = cpu->sampling;

	for (; set; set &= set - 1) {
		int slot = __ffs64(set);
		struct perf_event *event = cpu->events[slot];

		/* What the core does at an overflow may stop others. */
		if (!(cpu->sampling & BIT_ULL(slot)))
			continue;
		update(cpu, event);
		if (local64_read(&event->hw.period_left) <= 0)
			overflow(event);
	}
}

static enum hrtimer_restart on_timer(struct hrtimer *timer)
{
	struct mock_cpu *owner = container_of(timer, struct mock_cpu, timer);
	struct mock_cpu *cpu = this_cpu_ptr(&mock_cpus);

	owner->timer_at = 0;
	/* The timers of a CPU that went away come to another, and mean nothing. */
	if (owner != cpu)
		return HRTIMER_NORESTART;
	mock_clock_sync(cpu);
	mock_counters_check(cpu);
	/* In guest mode the next entry does it. */
	mock_counters_arm(cpu, MOCK_HOST);
	return HRTIMER_NORESTART;
}

/* A probe that is never armed finds the address of a function. */
static int find_core(void)
{
	struct kprobe probe = {
		.symbol_name	= "perf_event_overflow",
		.flags		= KPROBE_FLAG_DISABLED,
	};
	int err = register_kprobe(&probe);
	const u32 *start;

	if (err) {
		pr_err("cannot find %s: error %d\n", probe.symbol_name, err);
		return err;
	}
	start = (const u32 *)probe.addr;
	unregister_kprobe(&probe);
	/* A probe sits behind the mark for indirect calls, if the function has one. */
	if (is_endbr(start[-1]))
		start--;
	tell_core = (void *)start;
	return 0;
}

int mock_counters_init(void)
{
	int n;

	for_each_possible_cpu(n) {
		struct hrtimer *timer = &per_cpu(mock_cpus, n).timer;

		hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
		timer->function = on_timer;
	}
	return find_core();
}

void mock_counters_exit(void)
{
	int n;

	for_each_possible_cpu(n)
		hrtimer_cancel(&per_cpu(mock_cpus, n).timer);
}

/* Gives each of the CPUs its counters. Before any event is there. */
void mock_counters_of(const struct cpumask *cpus, unsigned int gp)
{
	int n;

	for_each_cpu(n, cpus)
		per_cpu(mock_cpus, n).gp = gp;
}

/* What every PMU of CPUs does with its counters. */
const struct pmu mock_counter_ops = {
	.module		= THIS_MODULE,
	.task_ctx_nr	= perf_hw_context,
	.pmu_enable	= mock_enable,
	.pmu_disable	= mock_disable,
	.add		= mock_add,
	.del		= mock_del,
	.start		= mock_start,
	.stop		= mock_stop,
	.read		= mock_read,
	.start_txn	= mock_start_txn,
	.commit_txn	= mock_commit_txn,
	.cancel_txn	= mock_cancel_txn,
};
