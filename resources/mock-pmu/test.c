// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests the mock host PMU from user space, on the host: `mock-pmu-test KIND [N]` where
 * KIND is core, hybrid, uncore or scoped, and N the counters of each CPU. Prints a line for
 * each check, `ok` or `FAILED`; exits with the number of failures.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX 33

static int failures;

__attribute__((format(printf, 2, 3)))
static void check(int good, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("%s ", good ? "ok    " : "FAILED");
	vprintf(format, args);
	printf("\n");
	va_end(args);
	failures += !good;
}

static int open_event(struct perf_event_attr *attr, pid_t task, int cpu, int group)
{
	attr->size = sizeof(*attr);
	return syscall(SYS_perf_event_open, attr, task, cpu, group, 0);
}

/* An event of this task: cycles, counting in both modes. */
static struct perf_event_attr cycles(void)
{
	return (struct perf_event_attr) {
		.type = PERF_TYPE_HARDWARE, .config = PERF_COUNT_HW_CPU_CYCLES,
		.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
	};
}

/* That no such event opens, for this reason. */
static void refused(struct perf_event_attr *attr, pid_t task, int cpu, int group,
		    int error, const char *what)
{
	int fd = open_event(attr, task, cpu, group);

	check(fd < 0 && errno == error, "%s: %s", what, fd < 0 ? strerror(errno) : "opens");
	if (fd >= 0)
		close(fd);
}

static int pinned(void)
{
	struct perf_event_attr attr = cycles();

	attr.pinned = 1;
	return open_event(&attr, 0, -1, -1);
}

struct reading {
	uint64_t count, enabled, running;
};

/* The bytes that were read. */
static int reading(int fd, struct reading *r)
{
	memset(r, 0, sizeof(*r));
	return read(fd, r, sizeof(*r));
}

static uint64_t count(int fd)
{
	struct reading r;

	return reading(fd, &r) == sizeof(r) ? r.count : 0;
}

static void spin(unsigned long n)
{
	while (n--)
		__asm__ volatile("");
}

static void close_all(int *fds, int n)
{
	while (n)
		close(fds[--n]);
}

/* N pinned events have a counter, one more has none; it gets the first that is free. */
static void pinned_events(int n)
{
	struct reading r;
	int fds[MAX], i, got;

	for (i = 0; i <= n; i++)
		fds[i] = pinned();
	for (i = 0; i < n; i++) {
		uint64_t before = count(fds[i]);

		spin(100000);
		check(count(fds[i]) > before, "pinned event %d of %d moves", i + 1, n);
	}
	got = reading(fds[n], &r);
	check(got == 0, "pinned event %d reads %d bytes", n + 1, got);
	close(fds[0]);
	ioctl(fds[n], PERF_EVENT_IOC_ENABLE, 0);
	spin(100000);
	check(count(fds[n]) > 0, "it moves when a counter is free and it is enabled");
	close_all(fds + 1, n);
}

/*
 * Spins until the group's leader was enabled for some time, or has run, and reads the
 * group. The clock of these times may stand still for a tick or longer on a busy machine.
 */
static void spin_until(int to_run, const int *group, struct reading *lead,
		       struct reading *second)
{
	int i;

	for (i = 0; i < 1000; i++) {
		spin(1000000);
		reading(group[0], lead);
		reading(group[1], second);
		if (to_run ? lead->running && second->running : lead->enabled > 0)
			break;
	}
}

/* A group has all of its counters or none. */
static void groups(int n)
{
	struct perf_event_attr attr = cycles();
	struct reading lead, second;
	int fds[MAX], group[MAX], i;

	for (i = 0; i < n - 1; i++)
		fds[i] = pinned();
	attr.disabled = 1;
	group[0] = open_event(&attr, 0, -1, -1);
	attr.disabled = 0;
	group[1] = open_event(&attr, 0, -1, group[0]);
	ioctl(group[0], PERF_EVENT_IOC_ENABLE, 0);
	spin_until(0, group, &lead, &second);
	check(lead.enabled && !lead.running && !lead.count,
	      "a group of 2 beside %d: its leader has no counter: "
	      "enabled for %llu ns, ran for %llu ns, counted %llu", n - 1,
	      (unsigned long long)lead.enabled, (unsigned long long)lead.running,
	      (unsigned long long)lead.count);
	check(!second.running && !second.count, "nor has its second event");
	close(fds[--i]);
	spin_until(1, group, &lead, &second);
	check(lead.running && lead.count, "beside %d: its leader counts", n - 2);
	check(second.running && second.count, "and its second event");
	close_all(group, 2);
	close_all(fds, i);
	group[0] = open_event(&attr, 0, -1, -1);
	for (i = 1; i < n; i++)
		group[i] = open_event(&attr, 0, -1, group[0]);
	check(group[n - 1] >= 0, "a group of %d opens", n);
	refused(&attr, 0, -1, group[0], EINVAL, "a group of one more");
	close_all(group, n);
}

/* More events than counters take turns. */
static void rotation(int n)
{
	struct perf_event_attr attr = cycles();
	int fds[MAX], i, shared = 0;
	struct reading r;

	for (i = 0; i <= n; i++)
		fds[i] = open_event(&attr, 0, -1, -1);
	spin(200000000);
	for (i = 0; i <= n; i++) {
		reading(fds[i], &r);
		shared += r.running > 0 && r.running < r.enabled;
	}
	check(shared == n + 1, "%d of %d events took turns", shared, n + 1);
	close_all(fds, n + 1);
}

/* What is opened, and with which outcome. */
static void kinds(void)
{
	static const struct {
		uint32_t type;
		uint64_t config;
		int error;
	} rows[] = {
		{ PERF_TYPE_RAW, 0x00c0, 0 },
		{ PERF_TYPE_RAW, 0x003c, 0 },
		{ PERF_TYPE_RAW, 0x1234, EINVAL },
		{ PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS, 0 },
		{ PERF_TYPE_HARDWARE, PERF_COUNT_HW_REF_CPU_CYCLES, 0 },
		{ PERF_TYPE_HARDWARE, PERF_COUNT_HW_STALLED_CYCLES_FRONTEND, 0 },
		{ PERF_TYPE_HW_CACHE, PERF_COUNT_HW_CACHE_L1D, 0 },
		{ PERF_TYPE_HW_CACHE, PERF_COUNT_HW_CACHE_NODE, ENOENT },
	};
	struct perf_event_attr attr;
	unsigned int i;
	int fd;

	for (i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		attr = cycles();
		attr.type = rows[i].type;
		attr.config = rows[i].config;
		fd = open_event(&attr, 0, -1, -1);
		check(rows[i].error ? fd < 0 && errno == rows[i].error : fd >= 0,
		      "type %u config %#llx: %s", rows[i].type,
		      (unsigned long long)rows[i].config, fd < 0 ? strerror(errno) : "opens");
		if (fd >= 0)
			close(fd);
	}
	attr = cycles();
	attr.exclude_host = 1;
	fd = open_event(&attr, 0, -1, -1);
	spin(1000000);
	check(fd >= 0 && !count(fd), "exclude_host counts nothing without a guest");
	close(fd);
}

static volatile int signals;

static void on_signal(int number)
{
	(void)number;
	signals++;
}

/* Each period gives one signal; none is lost, none comes twice. */
static void sampling(void)
{
	const uint64_t period = 20000000;
	struct f_owner_ex self = { .type = F_OWNER_TID, .pid = gettid() };
	struct perf_event_attr attr = cycles();
	uint64_t seen, due;
	int fd;

	signal(SIGRTMIN, on_signal);
	attr.sample_period = period;
	attr.disabled = 1;
	attr.pinned = 1;
	fd = open_event(&attr, 0, -1, -1);
	fcntl(fd, F_SETOWN_EX, &self);
	fcntl(fd, F_SETSIG, SIGRTMIN);
	fcntl(fd, F_SETFL, O_ASYNC);
	ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
	while (count(fd) < 20 * period)
		spin(100000);
	ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
	seen = signals;
	due = count(fd) / period;
	check(seen + 1 >= due && seen <= due, "%llu signals of %llu overflows",
	      (unsigned long long)seen, (unsigned long long)due);
	close(fd);
}

/* The content of a file of a PMU in sysfs. */
static int attribute(const char *pmu, const char *name, char *text, int size)
{
	char path[128];
	int fd, n = -1;

	snprintf(path, sizeof(path), "/sys/bus/event_source/devices/%s/%s", pmu, name);
	fd = open(path, O_RDONLY);
	if (fd >= 0) {
		n = read(fd, text, size - 1);
		close(fd);
	}
	text[n > 0 ? n : 0] = 0;
	text[strcspn(text, "\n")] = 0;
	check(n > 0, "%s/%s is `%s`", pmu, name, text);
	return n > 0;
}

static void core(int n)
{
	char text[64];

	attribute("cpu", "type", text, sizeof(text));
	check(!strcmp(text, "4"), "the type is that of raw events");
	pinned_events(n);
	if (n > 1)
		groups(n);
	rotation(n);
	kinds();
	sampling();
}

static void move_to(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	check(!sched_setaffinity(0, sizeof(set), &set), "on CPU %d", cpu);
}

/* An event of either PMU counts on its CPUs and nowhere else. */
static void hybrid(int n)
{
	static const char *const names[2] = { "cpu_core", "cpu_atom" };
	static const char *const cpus[2] = { "0-1", "2-3" };
	uint64_t before[2], after[2];
	struct perf_event_attr attr;
	char text[64];
	int fds[2], i, cpu;

	for (i = 0; i < 2; i++) {
		attribute(names[i], "cpus", text, sizeof(text));
		check(!strcmp(text, cpus[i]), "its CPUs are %s", cpus[i]);
		attribute(names[i], "type", text, sizeof(text));
		attr = cycles();
		attr.config |= (uint64_t)atoi(text) << PERF_PMU_TYPE_SHIFT;
		fds[i] = open_event(&attr, 0, -1, -1);
		check(fds[i] >= 0, "cycles of %s opens", names[i]);
		refused(&attr, -1, i ? 0 : 2, -1, ENOENT, "a CPU that is not its own");
	}
	for (cpu = 0; cpu < 4; cpu++) {
		move_to(cpu);
		for (i = 0; i < 2; i++)
			before[i] = count(fds[i]);
		spin(1000000);
		for (i = 0; i < 2; i++)
			after[i] = count(fds[i]);
		check((after[0] > before[0]) == (cpu < 2), "%s there", names[0]);
		check((after[1] > before[1]) == (cpu >= 2), "%s there", names[1]);
	}
	close_all(fds, 2);
	move_to(0);
	pinned_events(n);
	groups(n);
}

/* A PMU of a scope: an event of a CPU counts, at this rate beside the TSC. */
static void uncore(const char *name, uint64_t config, double per_tick)
{
	struct perf_event_attr attr = { .config = config };
	uint64_t before, after, least, most, start;
	char text[64];
	double counted;
	int fd;

	attribute(name, "type", text, sizeof(text));
	attr.type = atoi(text);
	attribute(name, "cpumask", text, sizeof(text));
	refused(&attr, 0, -1, -1, EINVAL, "an event of a task");
	attr.config = 0xee;
	refused(&attr, -1, 0, -1, EINVAL, "an event that it does not have");
	attr.config = config;
	fd = open_event(&attr, -1, 0, -1);
	check(fd >= 0, "event %#llx of a CPU opens", (unsigned long long)config);
	/*
	 * Between the reads lie at least and at most so many ticks: whoever runs this machine
	 * may let it wait at any instruction.
	 */
	start = __builtin_ia32_rdtsc();
	if (read(fd, &before, sizeof(before)) != sizeof(before))
		before = 0;
	least = __builtin_ia32_rdtsc();
	spin(20000000);
	least = __builtin_ia32_rdtsc() - least;
	if (read(fd, &after, sizeof(after)) != sizeof(after))
		after = 0;
	most = __builtin_ia32_rdtsc() - start;
	counted = after - before;
	check(counted > 0.9 * per_tick * least && counted < 1.1 * per_tick * most,
	      "%g counted in %g to %g ticks, %g for each are due",
	      counted, (double)least, (double)most, per_tick);
	close(fd);
}

/* The PMUs with the names of real ones. */
static void scoped(void)
{
	char text[64];

	uncore("power", 0x02, 16);
	attribute("power", "events/energy-pkg.scale", text, sizeof(text));
	attribute("power", "events/energy-pkg.unit", text, sizeof(text));
	check(!strcmp(text, "Joules"), "it is energy");
	uncore("amd_l3", 0xff04, 1.0 / 16);
	uncore("amd_df", 0x3807, 1.0 / 32);
	uncore("amd_umc_0", 0x01, 1.0 / 2);
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	int n = argc > 2 ? atoi(argv[2]) : 4;

	setbuf(stdout, NULL);
	if (n < 1 || n >= MAX)
		return 255;
	if (!strcmp(kind, "core"))
		core(n);
	else if (!strcmp(kind, "hybrid"))
		hybrid(n);
	else if (!strcmp(kind, "uncore"))
		uncore("uncore_package", 1, 1);
	else if (!strcmp(kind, "scoped"))
		scoped();
	else
		return 255;
	printf("%d failed\n", failures);
	return failures;
}
