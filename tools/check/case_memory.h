/* Contexts that count their memory: readers of files must not take much, whatever a file claims. */
#ifndef KIN_TOOLS_CASE_MEMORY_H
#define KIN_TOOLS_CASE_MEMORY_H

#include "runtime/context.h"

typedef struct kin_case_memory {
    size_t now, peak; /* bytes; 0 `now` once all is freed */
} kin_case_memory;

/* A context of one thread whose allocator counts in *memory, which must outlive it. */
kin_status kin_case_memory_context(kin_case_memory *memory, kin_context **out_context);

#endif
