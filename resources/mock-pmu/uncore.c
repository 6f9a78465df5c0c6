// SPDX-License-Identifier: GPL-2.0-only
/*
 * PMUs of a scope (a package, a die, …): events of CPUs only, which the CPU that
 * stands for the scope counts. From 6.12 on the core has scopes; before, the driver
 * keeps the mask of those CPUs, and moves the events when one goes away.
 */
#include <linux/cpuhotplug.h>
#include <linux/cpumask.h>
#include <linux/device.h>
#include <linux/slab.h>
#include <linux/topology.h>
#include <linux/version.h>
#include <asm/msr.h>

#include "mock.h"

#define CORE_HAS_SCOPES (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0))

/* The most of them. */
#define MOST_UNCORES 8

struct mock_uncore {
	struct pmu	pmu;
	const struct mock_kind *kind;
	unsigned int	gp;
	char		name[24];
	/* An event may be read by any CPU of the scope. */
	raw_spinlock_t	lock;
	u8		used[NR_CPUS];
	const struct attribute_group *groups[4];
#if !CORE_HAS_SCOPES
	const struct scope *scope;
	struct cpumask	cpus;
	struct hlist_node node;
	bool		watching;
#endif
};

struct scope {
	const char	*name;
#if CORE_HAS_SCOPES
	unsigned int	number;
#else
	const struct cpumask *(*cpus)(int cpu);
#endif
};

#if CORE_HAS_SCOPES
#define SCOPE(word, id, topology) { word, PERF_PMU_SCOPE_##id }
#else
#define SCOPE(word, id, topology) { word, topology }

static const struct cpumask *cpus_of_core(int cpu)
{
	return topology_sibling_cpumask(cpu);
}

static const struct cpumask *cpus_of_die(int cpu)
{
	return topology_die_cpumask(cpu);
}

static const struct cpumask *cpus_of_package(int cpu)
{
	return topology_core_cpumask(cpu);
}

static const struct cpumask *cpus_of_system(int cpu)
{
	return cpu_online_mask;
}
#endif

static const struct scope scopes[] = {
	SCOPE("core", CORE, cpus_of_core),
	SCOPE("die", DIE, cpus_of_die),
#if CORE_HAS_SCOPES	/* before, the topology is not for modules */
	SCOPE("cluster", CLUSTER, 0),
#endif
	SCOPE("package", PKG, cpus_of_package),
	SCOPE("system", SYS_WIDE, cpus_of_system),
};

static struct mock_uncore *uncores[MOST_UNCORES];

static struct mock_uncore *uncore_of(const struct pmu *pmu)
{
	return container_of(pmu, struct mock_uncore, pmu);
}

static void uncore_read(struct perf_event *event)
{
	struct mock_uncore *uncore = uncore_of(event->pmu);
	int log2 = event->hw.idx;
	unsigned long flags;
	u64 ticks;

	raw_spin_lock_irqsave(&uncore->lock, flags);
	if (!(event->hw.state & PERF_HES_STOPPED)) {
		ticks = rdtsc() - local64_read(&event->hw.prev_count);
		/* Ticks that make no whole event are left for the next time. */
		if (log2 < 0)
			ticks = ticks >> -log2 << -log2;
		local64_add(ticks, &event->hw.prev_count);
		local64_add(log2 < 0 ? ticks >> -log2 : ticks << log2, &event->count);
	}
	raw_spin_unlock_irqrestore(&uncore->lock, flags);
}

static void uncore_start(struct perf_event *event, int flags)
{
	local64_set(&event->hw.prev_count, rdtsc());
	event->hw.state = 0;
}

static void uncore_stop(struct perf_event *event, int flags)
{
	uncore_read(event);
	event->hw.state = PERF_HES_STOPPED | PERF_HES_UPTODATE;
}

static int uncore_add(struct perf_event *event, int flags)
{
	struct mock_uncore *uncore = uncore_of(event->pmu);
	u8 *used = &uncore->used[smp_processor_id()];

	if (*used >= uncore->gp)
		return -EAGAIN;
	++*used;
	event->hw.state = PERF_HES_STOPPED | PERF_HES_UPTODATE;
	if (flags & PERF_EF_START)
		uncore_start(event, flags);
	return 0;
}

static void uncore_del(struct perf_event *event, int flags)
{
	uncore_stop(event, PERF_EF_UPDATE);
	--uncore_of(event->pmu)->used[smp_processor_id()];
}

static int uncore_event_init(struct perf_event *event)
{
	const struct mock_rate *rate = uncore_of(event->pmu)->kind->rates;

	if (event->attr.type != event->pmu->type)
		return -ENOENT;
	while (rate->config && rate->config != event->attr.config)
		rate++;
	if (is_sampling_event(event) || event->attach_state & PERF_ATTACH_TASK ||
	    event->cpu < 0 || !rate->config)
		return -EINVAL;
	event->hw.idx = rate->log2;
#if !CORE_HAS_SCOPES
	{
		struct mock_uncore *uncore = uncore_of(event->pmu);

		event->cpu = cpumask_any_and(&uncore->cpus,
					     uncore->scope->cpus(event->cpu));
		if (event->cpu >= nr_cpu_ids)
			return -ENODEV;
	}
#endif
	return 0;
}

#if CORE_HAS_SCOPES
static int scope_watch(struct mock_uncore *uncore)
{
	return 0;
}

static void scope_unwatch(struct mock_uncore *uncore)
{
}
#else
static ssize_t cpumask_show(struct device *dev, struct device_attribute *attr, char *page)
{
	const struct mock_uncore *uncore = uncore_of(dev_get_drvdata(dev));

	return cpumap_print_to_pagebuf(true, page, &uncore->cpus);
}
static DEVICE_ATTR_RO(cpumask);

static struct attribute *cpumask_attrs[] = { &dev_attr_cpumask.attr, NULL };
static const struct attribute_group cpumask_group = { .attrs = cpumask_attrs };

/* The hotplug state that all our PMUs share; 0: none yet. */
static int state;

static int uncore_online(unsigned int cpu, struct hlist_node *node)
{
	struct mock_uncore *uncore = hlist_entry(node, struct mock_uncore, node);

	if (!cpumask_intersects(&uncore->cpus, uncore->scope->cpus(cpu)))
		cpumask_set_cpu(cpu, &uncore->cpus);
	return 0;
}

static int uncore_offline(unsigned int cpu, struct hlist_node *node)
{
	struct mock_uncore *uncore = hlist_entry(node, struct mock_uncore, node);
	unsigned int other;

	if (!cpumask_test_and_clear_cpu(cpu, &uncore->cpus))
		return 0;
	other = cpumask_any_but(uncore->scope->cpus(cpu), cpu);
	if (other < nr_cpu_ids) {
		cpumask_set_cpu(other, &uncore->cpus);
		perf_pmu_migrate_context(&uncore->pmu, cpu, other);
	}
	return 0;
}

static int scope_watch(struct mock_uncore *uncore)
{
	int err;

	if (!state) {
		err = cpuhp_setup_state_multi(CPUHP_AP_ONLINE_DYN, "perf/mock:online",
					      uncore_online, uncore_offline);
		if (err < 0)
			return err;
		state = err;
	}
	err = cpuhp_state_add_instance(state, &uncore->node);
	uncore->watching = !err;
	return err;
}

static void scope_unwatch(struct mock_uncore *uncore)
{
	if (uncore->watching)
		cpuhp_state_remove_instance_nocalls(state, &uncore->node);
}
#endif

static struct mock_uncore *uncore_new(const struct mock_kind *kind, const struct scope *scope,
				      const char *name, unsigned int gp)
{
	struct mock_uncore *uncore = kzalloc(sizeof(*uncore), GFP_KERNEL);
	int n = 0;

	if (!uncore)
		return NULL;
	raw_spin_lock_init(&uncore->lock);
	uncore->gp = gp;
	uncore->kind = kind;
	strscpy(uncore->name, name, sizeof(uncore->name));
	uncore->groups[n++] = kind->format;
	if (kind->events)
		uncore->groups[n++] = kind->events;
	uncore->pmu = (struct pmu) {
		.module		= THIS_MODULE,
		.task_ctx_nr	= perf_invalid_context,
		.capabilities	= PERF_PMU_CAP_NO_EXCLUDE | PERF_PMU_CAP_NO_INTERRUPT,
		.attr_groups	= uncore->groups,
		.event_init	= uncore_event_init,
		.add		= uncore_add,
		.del		= uncore_del,
		.start		= uncore_start,
		.stop		= uncore_stop,
		.read		= uncore_read,
	};
#if CORE_HAS_SCOPES
	uncore->pmu.scope = scope->number;
#else
	uncore->groups[n++] = &cpumask_group;
	uncore->scope = scope;
#endif
	return uncore;
}

static const struct scope *scope_of(const char *name)
{
	int n;

	for (n = 0; n < ARRAY_SIZE(scopes); n++)
		if (!strcmp(scopes[n].name, name))
			return &scopes[n];
	pr_err("no scope %s: core, die, cluster, package or system\n", name);
	return NULL;
}

int mock_uncore_add(const char *name, const char *scope_name, unsigned int gp)
{
	const struct mock_kind *kind = mock_kind_of(name);
	struct mock_uncore *uncore;
	const struct scope *scope;
	char own[24];
	int n, err;

	if (!kind) {
		pr_err("no name %s: power, amd_l3, amd_df or amd_umc_N\n", name);
		return -EINVAL;
	}
	scope = scope_of(scope_name ?: kind->scope);
	if (!scope)
		return -EINVAL;
	if (!name) {
		snprintf(own, sizeof(own), "uncore_%s", scope->name);
		name = own;
	}
	for (n = 0; n < MOST_UNCORES && uncores[n]; n++)
		if (!strcmp(uncores[n]->name, name))
			return -EEXIST;
	if (n == MOST_UNCORES)
		return -ENOSPC;
	uncore = uncore_new(kind, scope, name, gp);
	if (!uncore)
		return -ENOMEM;
	err = perf_pmu_register(&uncore->pmu, uncore->name, -1);
	if (err) {
		kfree(uncore);
		return err;
	}
	/* Until it is watched its mask is empty, and nobody can open an event. */
	uncores[n] = uncore;
	return scope_watch(uncore);
}

void mock_uncore_remove(void)
{
	int n;

	for (n = 0; n < ARRAY_SIZE(uncores); n++) {
		if (!uncores[n])
			continue;
		scope_unwatch(uncores[n]);
		perf_pmu_unregister(&uncores[n]->pmu);
		kfree(uncores[n]);
		uncores[n] = NULL;
	}
#if !CORE_HAS_SCOPES
	if (state)
		cpuhp_remove_multi_state(state);
	state = 0;
#endif
}
