// SPDX-License-Identifier: GPL-2.0-only
/*
 * The mock host PMU: reads its parameter and registers the PMUs that it names.
 */
#include <linux/cpumask.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <asm/perf_event.h>

#include "mock.h"

static char *spec = "core";
module_param(spec, charp, 0444);
MODULE_PARM_DESC(spec, "core[:gp=N][:cache=on|off] | hybrid[:gp=N][:cpus=C] | uncore[:name=P][:scope=S][:gp=N], with + between");

/* CPUs of each PMU of a hybrid host, unless told. */
#define HYBRID_CPUS 2

/* One part of the parameter. */
struct part {
	const char	*kind;
	const char	*name;
	const char	*scope;
	unsigned int	gp;
	unsigned int	cpus;
	bool		cache;
};

/* Whether the value is there and is a number from 1 to most. */
static bool parse_number(const char *value, unsigned int most, unsigned int *number)
{
	return value && !kstrtouint(value, 10, number) &&
	       *number >= 1 && *number <= most;
}

static bool parse_word(const char *word, const char *value, struct part *part)
{
	if (!strcmp(word, "gp"))
		return parse_number(value, MOCK_MAX_GP, &part->gp);
	if (!strcmp(word, "cpus"))
		return parse_number(value, NR_CPUS / 2, &part->cpus);
	if (!strcmp(word, "cache"))
		return value && !kstrtobool(value, &part->cache);
	if (!strcmp(word, "scope"))
		part->scope = value;
	else if (!strcmp(word, "name"))
		part->name = value;
	else
		return false;
	return value;
}

static int parse_part(char *text, struct part *part)
{
	char *word, *value;

	*part = (struct part) { .kind = strsep(&text, ":"), .gp = MOCK_GP, .cache = true };
	while ((word = strsep(&text, ":"))) {
		value = strchr(word, '=');
		if (value)
			*value++ = 0;
		if (!parse_word(word, value, part)) {
			pr_err("%s: want gp=1..%d, cpus=1..%d, cache=off, name=P or scope=S\n",
			       word, MOCK_MAX_GP, NR_CPUS / 2);
			return -EINVAL;
		}
	}
	return 0;
}

static int add_hybrid(unsigned int gp, unsigned int each)
{
	cpumask_var_t cpus;
	unsigned int n;
	int err;

	if (nr_cpu_ids < 2 * each) {
		pr_err("hybrid: needs %u CPUs, there are %u\n", 2 * each, nr_cpu_ids);
		return -ENODEV;
	}
	if (!zalloc_cpumask_var(&cpus, GFP_KERNEL))
		return -ENOMEM;
	for (n = 0; n < each; n++)
		cpumask_set_cpu(n, cpus);
	err = mock_core_add("cpu_core", PERF_TYPE_RAW, cpus, gp, false, true);
	cpumask_clear(cpus);
	for (; n < 2 * each; n++)
		cpumask_set_cpu(n, cpus);
	if (!err)
		err = mock_core_add("cpu_atom", -1, cpus, gp, false, true);
	free_cpumask_var(cpus);
	return err;
}

/* The type of raw events is taken where the CPU has a PMU that the kernel drives. */
static bool cpu_has_pmu(void)
{
	struct x86_pmu_capability real;

	perf_get_x86_pmu_capability(&real);
	return real.num_counters_gp;
}

static int add(const struct part *part, bool *has_core)
{
	bool hybrid = !strcmp(part->kind, "hybrid");
	unsigned int cpus = part->cpus ? : HYBRID_CPUS;

	if (part->cpus && !hybrid) {
		pr_err("%s: cpus= is of hybrid\n", part->kind);
		return -EINVAL;
	}
	if (!strcmp(part->kind, "uncore"))
		return mock_uncore_add(part->name, part->scope, part->gp);
	if (!hybrid && strcmp(part->kind, "core")) {
		pr_err("%s: want core, hybrid or uncore\n", part->kind);
		return -EINVAL;
	}
	if (part->name || part->scope || *has_core) {
		pr_err("%s: has no name or scope, and one of core and hybrid is the most\n", part->kind);
		return -EINVAL;
	}
	if (cpu_has_pmu()) {
		pr_err("%s: the CPU has a PMU of its own\n", part->kind);
		return -EBUSY;
	}
	*has_core = true;
	return hybrid ? add_hybrid(part->gp, cpus) :
			mock_core_add("cpu", PERF_TYPE_RAW, cpu_possible_mask, part->gp, part->cache, false);
}

static int add_all(char *text)
{
	bool has_core = false;
	struct part part;
	char *word;
	int err = 0;

	while (!err && (word = strsep(&text, "+"))) {
		err = parse_part(word, &part);
		if (!err)
			err = add(&part, &has_core);
	}
	return err;
}

static void remove_all(void)
{
	mock_core_remove();
	mock_uncore_remove();
	mock_clock_stop();
	mock_counters_exit();
}

static int __init mock_init(void)
{
	char *text = kstrdup(spec, GFP_KERNEL);
	int err;

	if (!text)
		return -ENOMEM;
	err = mock_counters_init();
	if (!err)
		err = mock_clock_start();
	if (!err) {
		err = add_all(text);
		if (err)
			remove_all();
	}
	kfree(text);
	if (err)
		pr_err("spec=%s: error %d\n", spec, err);
	return err;
}
module_init(mock_init);

static void __exit mock_exit(void)
{
	remove_all();
}
module_exit(mock_exit);

MODULE_DESCRIPTION("Mock host PMU: counts TSC ticks in guest mode");
MODULE_LICENSE("GPL");
