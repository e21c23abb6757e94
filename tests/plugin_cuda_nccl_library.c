/* NCCL itself, as far as it goes without a GPU: it is found, has all that is asked for, tells its
 * version, makes ids, and refuses what cannot be. Exit status 77: there is no NCCL here. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/nccl.h"

static int fail(const char *what) {
    printf("FAILED: %s\n", what);
    return 1;
}

int main(void) {
    kin_nccl_functions nccl;
    kin_nccl_id one, two;
    const char *why = NULL;
    void *library = NULL, *comm = NULL;
    int version = 0;
    if (kin_nccl_load("/nowhere/libnccl.so.2", &nccl, &library, &why) || library || !why)
        return fail("a library that is not there is loaded");
    if (!kin_nccl_load(NULL, &nccl, &library, &why)) {
        printf("skipped: %s\n", why);
        return 77;
    }
    if (nccl.version(&version) != 0 || version < KIN_NCCL_OLDEST)
        return fail("the version, or it is older than 2.10");
    memset(&one, 0, sizeof one);
    memset(&two, 0, sizeof two);
    int code = nccl.unique_id(&one);
    if (code == 0) code = nccl.unique_id(&two);
    if (code != 0) { /* it looks for a network interface first */
        printf("no id: %s\n", nccl.error_string(code));
    } else if (memcmp(&one, &two, sizeof one) == 0) {
        return fail("two ids are the same");
    } else if (nccl.init_rank(&comm, 1, one, 1) == 0) {
        return fail("rank 1 of 1 has joined");
    }
    if (nccl.all_reduce(NULL, NULL, 1, KIN_NCCL_FLOAT32, KIN_NCCL_AVG, NULL, NULL) == 0)
        return fail("a sum without a communicator");
    if (nccl.group_start() != 0 || nccl.group_end() != 0) return fail("an empty group");
    if (strlen(nccl.error_string(5)) == 0) return fail("an error without a text");
    kin_nccl_unload(library);
    printf("NCCL %d: wrong calls are refused\n", version);
    return 0;
}
