/* Something to count and to sample, in a program and in the kernel, with names that a
   report shows. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static volatile unsigned long total;
static char page[1 << 20];

__attribute__((noinline)) void hot_loop(unsigned long rounds)
{
	for (unsigned long n = 0; n < rounds; n++)
		total += n;
}

/* The kernel clears the memory. */
__attribute__((noinline)) static void read_zeros(int megabytes)
{
	int zeros = open("/dev/zero", O_RDONLY);

	while (megabytes-- > 0)
		if (read(zeros, page, sizeof(page)) != sizeof(page))
			break;
	close(zeros);
}

int main(void)
{
	hot_loop(20000000);
	read_zeros(32);
	printf("looped %lu\n", total);
	return 0;
}
