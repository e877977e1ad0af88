/* Leave to use AMX's registers, which Linux lends a process on request. */
#include <sys/syscall.h>
#include <unistd.h>

#include "tiles.h"

int tiles;

/* Nonzero: there are none, or they were refused. */
int tiles_use(i64 wanted) {
    tiles = HAS_TILES && wanted && !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* the tiles' data */);
    return wanted && !tiles;
}
