// SPDX-License-Identifier: GPL-2.0-only
/*
 * PMUs of CPUs: which events there are, and on which CPUs.
 */
#include <linux/cpumask.h>
#include <linux/device.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "mock.h"

struct mock_core {
	struct pmu	pmu;
	struct cpumask	cpus;
	unsigned int	gp;
	bool		cache;		/* it has the events of caches and stalls */
};

/* A hybrid host has two. */
static struct mock_core *cores[2];

static struct mock_core *core_of(const struct pmu *pmu)
{
	return container_of(pmu, struct mock_core, pmu);
}

/*
 * The generic events: their code as a raw event (umask and event select as Intel
 * numbers its architectural events), and the rate: one for 2^shift ticks.
 */
static const struct {
	u64		code;
	unsigned int	shift;
} kinds[PERF_COUNT_HW_MAX] = {
	[PERF_COUNT_HW_CPU_CYCLES]		= { 0x003c, 0 },
	[PERF_COUNT_HW_INSTRUCTIONS]		= { 0x00c0, 0 },
	[PERF_COUNT_HW_CACHE_REFERENCES]	= { 0x4f2e, 6 },
	[PERF_COUNT_HW_CACHE_MISSES]		= { 0x412e, 10 },
	[PERF_COUNT_HW_BRANCH_INSTRUCTIONS]	= { 0x00c4, 3 },
	[PERF_COUNT_HW_BRANCH_MISSES]		= { 0x00c5, 8 },
	[PERF_COUNT_HW_BUS_CYCLES]		= { 0x013c, 3 },
	[PERF_COUNT_HW_REF_CPU_CYCLES]		= { 0x0300, 0 },
};

/* What a Zen has under generic names beside those: the type, the number, the rate. */
#define CACHE(cache, op, result)	(PERF_COUNT_HW_CACHE_##cache |		\
					 PERF_COUNT_HW_CACHE_OP_##op << 8 |	\
					 PERF_COUNT_HW_CACHE_RESULT_##result << 16)
static const struct {
	u32		type;
	u64		config;
	unsigned int	shift;
} zen_kinds[] = {
	{ PERF_TYPE_HARDWARE, PERF_COUNT_HW_STALLED_CYCLES_FRONTEND,	4 },
	{ PERF_TYPE_HARDWARE, PERF_COUNT_HW_STALLED_CYCLES_BACKEND,	5 },
	{ PERF_TYPE_HW_CACHE, CACHE(L1D, READ, ACCESS),			2 },
	{ PERF_TYPE_HW_CACHE, CACHE(L1D, READ, MISS),			7 },
	{ PERF_TYPE_HW_CACHE, CACHE(L1D, PREFETCH, ACCESS),		9 },
	{ PERF_TYPE_HW_CACHE, CACHE(L1I, READ, ACCESS),			1 },
	{ PERF_TYPE_HW_CACHE, CACHE(L1I, READ, MISS),			11 },
	{ PERF_TYPE_HW_CACHE, CACHE(DTLB, READ, ACCESS),		12 },
	{ PERF_TYPE_HW_CACHE, CACHE(DTLB, READ, MISS),			13 },
	{ PERF_TYPE_HW_CACHE, CACHE(ITLB, READ, ACCESS),		14 },
	{ PERF_TYPE_HW_CACHE, CACHE(ITLB, READ, MISS),			15 },
};

/* The shift of what the event asks for, or an error. */
static int rate_of(const struct perf_event *event)
{
	u64 config = event->attr.config;
	int n;

	for (n = 0; n < ARRAY_SIZE(zen_kinds) && core_of(event->pmu)->cache; n++)
		if (zen_kinds[n].type == event->attr.type && zen_kinds[n].config == config)
			return zen_kinds[n].shift;
	if (event->attr.type == PERF_TYPE_HW_CACHE)
		return -ENOENT;
	if (event->attr.type == PERF_TYPE_HARDWARE) {
		if (config >= ARRAY_SIZE(kinds) || !kinds[config].code)
			return -ENOENT;
		return kinds[config].shift;
	}
	for (n = 0; n < ARRAY_SIZE(kinds); n++)
		if (kinds[n].code && kinds[n].code == config)
			return kinds[n].shift;
	return -EINVAL;
}

/* The modes that an event counts in. Host mode is not split by privilege level. */
static u64 modes_of(const struct perf_event_attr *attr)
{
	u64 modes = 0;

	if (!attr->exclude_host && !(attr->exclude_user && attr->exclude_kernel))
		modes |= MOCK_HOST;
	if (!attr->exclude_guest && !attr->exclude_user)
		modes |= MOCK_GUEST_USER;
	if (!attr->exclude_guest && !attr->exclude_kernel)
		modes |= MOCK_GUEST_KERNEL;
	return modes;
}

/* Whether the event's group could be placed if nothing else were there. */
static bool group_fits(const struct perf_event *event)
{
	const struct perf_event *leader = event->group_leader, *sibling;
	unsigned int n = 1;

	if (event == leader)
		return true;
	n += leader->pmu == event->pmu;
	for_each_sibling_event(sibling, leader)
		n += sibling->pmu == event->pmu &&
		     sibling->state > PERF_EVENT_STATE_OFF;
	return n <= core_of(event->pmu)->gp;
}

static int mock_event_init(struct perf_event *event)
{
	const struct mock_core *core = core_of(event->pmu);
	int rate;

	if (event->attr.type != event->pmu->type &&
	    event->attr.type != PERF_TYPE_HARDWARE &&
	    event->attr.type != PERF_TYPE_HW_CACHE)
		return -ENOENT;
	if (event->cpu >= 0 && !cpumask_test_cpu(event->cpu, &core->cpus))
		return -ENOENT;
	rate = rate_of(event);
	if (rate < 0)
		return rate;
	if (has_branch_stack(event) || event->attr.precise_ip)
		return -EOPNOTSUPP;
	event->hw.idx = -1;
	event->hw.event_base = rate;
	event->hw.config = modes_of(&event->attr);
	return group_fits(event) ? 0 : -EINVAL;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
/* Whether the core is to leave the PMU alone on this CPU. */
static bool mock_filter(struct pmu *pmu, int cpu)
{
	return !cpumask_test_cpu(cpu, &core_of(pmu)->cpus);
}
#else
static int mock_filter_match(struct perf_event *event)
{
	return cpumask_test_cpu(smp_processor_id(), &core_of(event->pmu)->cpus);
}
#endif

static ssize_t cpus_show(struct device *dev, struct device_attribute *attr, char *page)
{
	const struct mock_core *core = core_of(dev_get_drvdata(dev));

	return cpumap_print_to_pagebuf(true, page, &core->cpus);
}
static DEVICE_ATTR_RO(cpus);

static struct attribute *cpus_attrs[] = { &dev_attr_cpus.attr, NULL };
static const struct attribute_group cpus_group = { .attrs = cpus_attrs };

PMU_FORMAT_ATTR(event, "config:0-7");
PMU_FORMAT_ATTR(umask, "config:8-15");
static struct attribute *format_attrs[] = {
	&format_attr_event.attr, &format_attr_umask.attr, NULL
};
static const struct attribute_group format_group = {
	.name = "format", .attrs = format_attrs
};

PMU_EVENT_ATTR_STRING(cpu-cycles, cycles, "event=0x3c");
PMU_EVENT_ATTR_STRING(instructions, instructions, "event=0xc0");
PMU_EVENT_ATTR_STRING(cache-references, cache_references, "event=0x2e,umask=0x4f");
PMU_EVENT_ATTR_STRING(cache-misses, cache_misses, "event=0x2e,umask=0x41");
PMU_EVENT_ATTR_STRING(branch-instructions, branches, "event=0xc4");
PMU_EVENT_ATTR_STRING(branch-misses, branch_misses, "event=0xc5");
PMU_EVENT_ATTR_STRING(bus-cycles, bus_cycles, "event=0x3c,umask=0x01");
PMU_EVENT_ATTR_STRING(ref-cycles, ref_cycles, "event=0x00,umask=0x03");
static struct attribute *event_attrs[] = {
	&cycles.attr.attr, &instructions.attr.attr, &cache_references.attr.attr,
	&cache_misses.attr.attr, &branches.attr.attr, &branch_misses.attr.attr,
	&bus_cycles.attr.attr, &ref_cycles.attr.attr, NULL
};
static const struct attribute_group events_group = {
	.name = "events", .attrs = event_attrs
};

static const struct attribute_group *groups[] = {
	&format_group, &events_group, NULL
};
static const struct attribute_group *hybrid_groups[] = {
	&format_group, &events_group, &cpus_group, NULL
};

/*
 * Registers a PMU with gp counters on each of the CPUs; type -1 is any that is free.
 */
int mock_core_add(const char *name, int type, const struct cpumask *cpus,
		  unsigned int gp, bool cache, bool hybrid)
{
	struct mock_core **place = cores[0] ? &cores[1] : &cores[0];
	struct mock_core *core = kzalloc(sizeof(*core), GFP_KERNEL);
	int err;

	if (!core)
		return -ENOMEM;
	core->pmu = mock_counter_ops;
	core->gp = gp;
	core->cache = cache;
	cpumask_copy(&core->cpus, cpus);
	core->pmu.event_init = mock_event_init;
	core->pmu.attr_groups = hybrid ? hybrid_groups : groups;
	if (hybrid)
		core->pmu.capabilities |= PERF_PMU_CAP_EXTENDED_HW_TYPE;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	core->pmu.filter = mock_filter;
#else
	core->pmu.filter_match = mock_filter_match;
	/* More than one PMU in the tasks' hardware context; also after another load. */
	core->pmu.capabilities |= PERF_PMU_CAP_HETEROGENEOUS_CPUS;
#endif
	mock_counters_of(cpus, gp);
	err = perf_pmu_register(&core->pmu, name, type);
	if (err)
		kfree(core);
	else
		*place = core;
	return err;
}

void mock_core_remove(void)
{
	int n;

	for (n = ARRAY_SIZE(cores) - 1; n >= 0; n--) {
		if (!cores[n])
			continue;
		perf_pmu_unregister(&cores[n]->pmu);
		kfree(cores[n]);
		cores[n] = NULL;
	}
}
