/* Placing things that live for a stretch of steps in one piece of memory. */
#ifndef KIN_RUNTIME_ARENA_H
#define KIN_RUNTIME_ARENA_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Lives from step `first` to step `last`. */
typedef struct kin_storage {
    uint64_t size;
    int32_t first, last;
    uint64_t offset;
} kin_storage;

/* Finds offsets at which no two of what lives at the same time overlap; sizes are rounded up to
 * `alignment`, and nothing crosses a multiple of `limit` (0: no limit). out_lower_bound: the
 * largest sum of sizes at one step, which is out_peak_step. KIN_OUT_OF_MEMORY if something is
 * larger than the limit or the host has no memory for the tables. */
KIN_API kin_status kin_arena_place(kin_context *context, kin_storage *storages, int32_t count,
                                   int32_t step_count, uint64_t alignment, uint64_t limit,
                                   uint64_t *out_size, uint64_t *out_lower_bound,
                                   int32_t *out_peak_step);

#ifdef __cplusplus
}
#endif
#endif
