/* Two threads that compute at the same time. */
#include <pthread.h>
#include <stdio.h>

static void *count(void *to) {
	volatile unsigned long *n = to;
	while (*n < 20000000)
		++*n;
	return NULL;
}

int main(void) {
	unsigned long n[2] = { 0, 0 };
	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, count, &n[i]))
			return 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("threads counted %lu\n", n[0] + n[1]);
	return 0;
}
