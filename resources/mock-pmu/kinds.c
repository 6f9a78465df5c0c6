// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the PMUs of a scope look like in sysfs, and what they count. Some have the
 * names, formats and events of real ones.
 */
#include <linux/device.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "mock.h"

#define GROUP(word, directory, ...)						\
	static struct attribute *word##_attrs[] = { __VA_ARGS__, NULL };	\
	static const struct attribute_group word##_group = {			\
		.name = directory, .attrs = word##_attrs			\
	}

PMU_FORMAT_ATTR(event, "config:0-7");
GROUP(format, "format", &format_attr_event.attr);

/* As a Zen has them. */
PMU_FORMAT_ATTR(umask, "config:8-15");
GROUP(l3_format, "format", &format_attr_event.attr, &format_attr_umask.attr);

static ssize_t df_event_show(struct device *dev, struct device_attribute *attr, char *page)
{
	return sysfs_emit(page, "config:0-7,32-35\n");
}
static struct device_attribute format_attr_df_event = __ATTR(event, 0444, df_event_show, NULL);
GROUP(df_format, "format", &format_attr_df_event.attr, &format_attr_umask.attr);

PMU_FORMAT_ATTR(rdwrmask, "config:8-9");
GROUP(umc_format, "format", &format_attr_event.attr, &format_attr_rdwrmask.attr);

PMU_EVENT_ATTR_STRING(clockticks, clockticks, "event=0x01");
GROUP(uncore_events, "events", &clockticks.attr.attr);

/* 2^-32 J, as every `power` of Linux counts. */
PMU_EVENT_ATTR_STRING(energy-pkg, energy_pkg, "event=0x02");
PMU_EVENT_ATTR_STRING(energy-pkg.scale, energy_pkg_scale, "2.3283064365386962890625e-10");
PMU_EVENT_ATTR_STRING(energy-pkg.unit, energy_pkg_unit, "Joules");
GROUP(power_events, "events", &energy_pkg.attr.attr, &energy_pkg_scale.attr.attr,
      &energy_pkg_unit.attr.attr);

static const struct mock_kind kinds[] = {
	{ "uncore_", "package", &format_group, &uncore_events_group,
	  (const struct mock_rate[]) { { 0x01, 0 }, {} } },
	/* 3.7 W for each GHz of the TSC. */
	{ "power", "package", &format_group, &power_events_group,
	  (const struct mock_rate[]) { { 0x02, 4 }, {} } },
	/* Accesses of the cache, and those that missed. */
	{ "amd_l3", "die", &l3_format_group, NULL,
	  (const struct mock_rate[]) { { 0xff04, -4 }, { 0x0104, -8 }, {} } },
	/* Beats of a memory channel: event 0x07, and 0x107, whose bit 8 is bit 32. */
	{ "amd_df", "die", &df_format_group, NULL,
	  (const struct mock_rate[]) { { 0x3807, -5 }, { 0x100003807, -6 }, {} } },
	/* The memory's clock, and commands of either direction. */
	{ "amd_umc_", "die", &umc_format_group, NULL,
	  (const struct mock_rate[]) { { 0x01, -1 }, { 0x010a, -6 }, { 0x020a, -7 }, {} } },
};

/* The kind of this name; without one, that of `uncore_SCOPE`. NULL: there is none. */
const struct mock_kind *mock_kind_of(const char *name)
{
	const struct mock_kind *kind;
	unsigned int number;

	if (!name)
		return &kinds[0];
	for (kind = &kinds[1]; kind < kinds + ARRAY_SIZE(kinds); kind++) {
		size_t length = str_has_prefix(name, kind->name);

		if (!length)
			continue;
		if (kind->name[length - 1] == '_' ? !kstrtouint(name + length, 10, &number) :
						    !name[length])
			return kind;
	}
	return NULL;
}
