/* An allocator for a test's context: counts what is asked for and what is left. */
#ifndef KIN_TESTS_COUNTED_MEMORY_H
#define KIN_TESTS_COUNTED_MEMORY_H

#include <stddef.h>
#include <stdlib.h>

typedef struct counter {
    long calls, blocks;
} counter;

/* For kin_allocator; user: a counter. */
static inline void *counted_resize(void *user, void *ptr, size_t size) {
    counter *c = user;
    c->calls++;
    if (size == 0) {
        c->blocks -= ptr != NULL;
        free(ptr);
        return NULL;
    }
    void *made = realloc(ptr, size);
    if (made && !ptr) c->blocks++;
    return made;
}

#endif
