/* The first program of a guest that measures its disk, /dev/vda: what requests of 4 KiB cost,
 * in ticks of the TSC, which are instructions of the whole machine where the host counts them.
 * Its arguments are the requests of a measurement of depth 1, and files of modules to load
 * first. Of depth 16 there are 16 times as many.
 *
 * It prints "begin WAY DEPTH", and "end WAY DEPTH REQUESTS TICKS". Between
 * these lines and the requests it sleeps, so that whoever reads them has done so: not for long,
 * as a kernel whose tick goes on leaves the guest four times in 4 ms. "none" makes no
 * request. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/fs.h>
#include <unistd.h>
#include <x86intrin.h>

#define BLOCK 4096
#define DEEPEST 16
/* A measurement has so many parts: requests that went in one batch may fall into several by
 * chance, and stay so until all have ended. */
#define PARTS 5
/* Microseconds around a measurement. */
#define PAUSE 40000

static uint64_t blocks;
static int disk;
static char buffers[DEEPEST][BLOCK] __attribute__((aligned(BLOCK)));

static void end(const char *what) {
	if (what)
		perror(what);
	fflush(NULL);
	sync();
	reboot(RB_AUTOBOOT);
	exit(1);
}

/* xorshift64: the same blocks in each run. */
static uint64_t any_block(void) {
	static uint64_t state = 88172645463325252;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % blocks;
}

/* Makes so many requests, of which up to `depth` are under way at a time; returns the ticks that
 * they took. The kernel waits for a while when it gives a context up. */
static uint64_t make(int way, unsigned depth, unsigned requests) {
	struct iocb blocks_of[DEEPEST], *list[DEEPEST];
	struct io_event done[DEEPEST];
	aio_context_t context = 0;
	unsigned begun = 0, ended = 0, ready = depth;
	if (syscall(SYS_io_setup, DEEPEST, &context))
		end("io_setup");
	for (unsigned i = 0; i < depth; i++)
		list[i] = &blocks_of[i];
	uint64_t before = __rdtsc();
	while (ended < requests) {
		unsigned n = ready < requests - begun ? ready : requests - begun;
		for (unsigned i = 0; i < n; i++) {
			unsigned slot = list[i] - blocks_of;
			*list[i] = (struct iocb){ .aio_lio_opcode = way, .aio_fildes = disk, .aio_data = slot,
				.aio_buf = (uintptr_t)buffers[slot], .aio_nbytes = BLOCK,
				.aio_offset = any_block() * BLOCK };
		}
		for (unsigned sent = 0; sent < n;) {
			long some = syscall(SYS_io_submit, context, n - sent, list + sent);
			if (some <= 0)
				end("io_submit");
			sent += some;
		}
		begun += n;
		long got = syscall(SYS_io_getevents, context, 1, DEEPEST, done, NULL);
		if (got <= 0)
			end("io_getevents");
		for (long i = 0; i < got; i++) {
			if (done[i].res != BLOCK)
				end("a request failed");
			list[i] = &blocks_of[done[i].data];
		}
		ready = got;
		ended += got;
	}
	uint64_t ticks = __rdtsc() - before;
	syscall(SYS_io_destroy, context);
	return ticks;
}

static void measure(const char *name, int way, unsigned depth, unsigned requests) {
	uint64_t ticks = 0;
	make(way, depth, requests / 8);
	printf("begin %s %u\n", name, depth);
	usleep(PAUSE);
	for (int i = 0; i < PARTS; i++)
		ticks += make(way, depth, requests / PARTS);
	usleep(PAUSE);
	printf("end %s %u %u %lu\n", name, depth, requests, ticks);
}

int main(int count, char **words) {
	unsigned requests = count > 1 ? atoi(words[1]) : 0;
	uint64_t bytes;
	setvbuf(stdout, NULL, _IOLBF, 0);
	mkdir("/dev", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	for (int i = 2; i < count; i++) {
		int module = open(words[i], O_RDONLY);
		/* 4: it is packed. */
		int packed = strlen(words[i]) > 3 && strcmp(words[i] + strlen(words[i]) - 3, ".ko");
		if (module < 0 || syscall(SYS_finit_module, module, "", packed ? 4 : 0))
			end(words[i]);
	}
	disk = open("/dev/vda", O_RDWR | O_DIRECT);
	if (disk < 0 || ioctl(disk, BLKGETSIZE64, &bytes))
		end("/dev/vda");
	blocks = bytes / BLOCK;
	measure("none", IOCB_CMD_PREAD, 1, 0);
	measure("read", IOCB_CMD_PREAD, 1, requests);
	measure("read", IOCB_CMD_PREAD, 16, 16 * requests);
	measure("write", IOCB_CMD_PWRITE, 1, requests);
	measure("write", IOCB_CMD_PWRITE, 16, 16 * requests);
	end(NULL);
}
