#include "tools/check/case_memory.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD = 16 }; /* in front of each block: its size, and the alignment of malloc */

static void *counted_resize(void *user, void *ptr, size_t size) {
    kin_case_memory *c = user;
    char *base = ptr ? (char *)ptr - HEAD : NULL;
    size_t old = 0;
    if (base) memcpy(&old, base, sizeof old);
    if (size == 0) {
        free(base);
        c->now -= old;
        return NULL;
    }
    if (size > SIZE_MAX - HEAD) return NULL;
    char *larger = realloc(base, size + HEAD);
    if (!larger) return NULL;
    memcpy(larger, &size, sizeof size);
    c->now += size - old;
    if (c->now > c->peak) c->peak = c->now;
    return larger + HEAD;
}

kin_status kin_case_memory_context(kin_case_memory *memory, kin_context **out_context) {
    kin_context_options options = {
        .struct_size = sizeof options, .allocator = {counted_resize, memory}, .threads = 1};
    return kin_context_create(&options, out_context);
}
