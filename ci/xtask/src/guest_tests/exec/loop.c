/* Something to count and to sample, with a name that a report shows. */
#include <stdio.h>

static volatile unsigned long total;

__attribute__((noinline)) void hot_loop(unsigned long rounds)
{
	for (unsigned long n = 0; n < rounds; n++)
		total += n;
}

int main(void)
{
	hot_loop(100000000);
	printf("looped %lu\n", total);
	return 0;
}
