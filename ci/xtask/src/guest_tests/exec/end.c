/* A first program that ends its guest at once. */
#include <sys/reboot.h>

int main(void) {
	reboot(RB_AUTOBOOT);
	return 1;
}
