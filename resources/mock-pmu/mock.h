/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The mock host PMU: what its files share. README.md says what it models.
 *
 *	main.c		the parameter, and who registers what
 *	clock.c		ticks of a CPU by mode, told by KVM's tracepoints
 *	counter.c	the counters of a CPU: placing, counting, overflow
 *	core.c		PMUs of CPUs: cpu, or cpu_core and cpu_atom
 *	uncore.c	PMUs of a scope
 *	kinds.c		what those look like, and what they count
 */
#ifndef MOCK_H
#define MOCK_H

#undef pr_fmt
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/hrtimer.h>
#include <linux/perf_event.h>

/* The most counters that a CPU may have. */
#define MOCK_MAX_GP	32
/* Counters of a CPU when the parameter does not say. */
#define MOCK_GP		4
/* Places for events: a group may be placed beyond the counters until it is tested. */
#define MOCK_SLOTS	64

/* Modes that an event counts in: hw.config. */
#define MOCK_HOST		BIT(0)
#define MOCK_GUEST_USER		BIT(1)
#define MOCK_GUEST_KERNEL	BIT(2)

struct kvm_vcpu;

/* One CPU. Touched on that CPU only, with interrupts off. */
struct mock_cpu {
	/* clock.c: the vCPU in guest mode, since when, and what has passed. */
	struct kvm_vcpu	*vcpu;
	u64		since;
	u64		guest_user;
	u64		guest_kernel;

	/* counter.c: events by slot, and sets of slots. */
	struct perf_event *events[MOCK_SLOTS];
	u64		used;
	u64		wanted;		/* to be started when the PMU is enabled */
	u64		started;
	u64		sampling;	/* of those started */
	unsigned int	gp;
	unsigned int	txn_flags;

	struct hrtimer	timer;
	u64		timer_at;	/* TSC; 0: not armed */
};

DECLARE_PER_CPU(struct mock_cpu, mock_cpus);

/* clock.c */
int mock_clock_start(void);
void mock_clock_stop(void);
void mock_clock_sync(struct mock_cpu *cpu);
u64 mock_clock_read(const struct mock_cpu *cpu, u64 modes);

/* counter.c */
int mock_counters_init(void);
void mock_counters_exit(void);
void mock_counters_of(const struct cpumask *cpus, unsigned int gp);
void mock_counters_check(struct mock_cpu *cpu);
void mock_counters_arm(struct mock_cpu *cpu, u64 modes);
extern const struct pmu mock_counter_ops;

/* core.c */
int mock_core_add(const char *name, int type, const struct cpumask *cpus,
		  unsigned int gp, bool cache, bool hybrid);
void mock_core_remove(void);

/* kinds.c */
/* An event: 2^log2 for each TSC tick, in any mode. */
struct mock_rate {
	u64		config;
	int		log2;
};

/* What a PMU looks like, and what it counts. */
struct mock_kind {
	const char	*name;		/* up to a number at its end */
	const char	*scope;		/* if the parameter names none */
	const struct attribute_group *format;
	const struct attribute_group *events;
	const struct mock_rate *rates;	/* up to one whose config is 0 */
};

const struct mock_kind *mock_kind_of(const char *name);

/* uncore.c */
int mock_uncore_add(const char *name, const char *scope, unsigned int gp);
void mock_uncore_remove(void);

#endif
