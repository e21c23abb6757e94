/* Placing storages in one arena: those that live at the same time must not overlap. Greedy best fit,
 * once by size and once by size times lifetime; the smaller result is kept. */
#include "runtime/graph_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct placement {
    int32_t index;
    uint64_t key;
    int32_t first;
} placement;

/* Descending key; ties by first step, then by index, so that the order is the same everywhere. */
static int compare_placements(const void *a, const void *b) {
    const placement *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* The next offset at or after `offset` where `size` bytes do not cross a multiple of `limit`. */
static uint64_t fit(uint64_t offset, uint64_t size, uint64_t limit) {
    if (!limit || size == 0) return offset;
    uint64_t chunk = offset / limit;
    return offset + size <= (chunk + 1) * limit ? offset : (chunk + 1) * limit;
}

/* Places in the given order. `placed` holds the indices of what is placed, sorted by offset. */
static uint64_t place_in_order(kin_storage *storages, const placement *order, int32_t count,
                               uint64_t limit, int32_t *placed) {
    uint64_t total = 0;
    for (int32_t n = 0; n < count; n++) {
        kin_storage *s = &storages[order[n].index];
        uint64_t cursor = 0, best = UINT64_MAX, best_gap = UINT64_MAX;
        for (int32_t k = 0; k < n; k++) {
            const kin_storage *other = &storages[placed[k]];
            if (other->last < s->first || other->first > s->last) continue;
            uint64_t start = fit(cursor, s->size, limit);
            if (other->offset >= start + s->size && other->offset - cursor < best_gap) {
                best_gap = other->offset - cursor;
                best = start;
            }
            uint64_t end = other->offset + other->size;
            if (end > cursor) cursor = end;
        }
        if (best == UINT64_MAX) best = fit(cursor, s->size, limit);
        s->offset = best;
        if (best + s->size > total) total = best + s->size;
        int32_t at = n;
        while (at > 0 && storages[placed[at - 1]].offset > best) {
            placed[at] = placed[at - 1];
            at--;
        }
        placed[at] = order[n].index;
    }
    return total;
}

static uint64_t lower_bound(const kin_storage *storages, int32_t count, int32_t step_count,
                            uint64_t *live, int32_t *out_peak_step) {
    uint64_t sum = 0, most = 0;
    memset(live, 0, sizeof *live * ((size_t)step_count + 2));
    for (int32_t i = 0; i < count; i++) {
        live[storages[i].first] += storages[i].size;
        live[storages[i].last + 1] -= storages[i].size; /* wraps; the running sum is right */
    }
    *out_peak_step = 0;
    for (int32_t step = 0; step <= step_count; step++) {
        sum += live[step];
        if (sum > most) {
            most = sum;
            *out_peak_step = step;
        }
    }
    return most;
}

kin_status kin_arena_place(kin_context *context, kin_storage *storages, int32_t count,
                           int32_t step_count, uint64_t alignment, uint64_t limit,
                           uint64_t *out_size, uint64_t *out_lower_bound, int32_t *out_peak_step) {
    *out_size = *out_lower_bound = 0;
    *out_peak_step = 0;
    if (limit) limit -= limit % alignment;
    for (int32_t i = 0; i < count; i++) {
        storages[i].size = (storages[i].size + alignment - 1) / alignment * alignment;
        if (limit && storages[i].size > limit)
            return kin_fail(context, KIN_OUT_OF_MEMORY,
                            "one tensor needs %llu bytes, but the device allocates at most %llu at "
                            "once: use smaller sizes",
                            (unsigned long long)storages[i].size, (unsigned long long)limit);
    }
    size_t n = (size_t)count + 1;
    placement *order = kin_alloc(context, n * sizeof *order);
    int32_t *placed = kin_alloc(context, n * sizeof *placed);
    uint64_t *offsets = kin_alloc(context, n * sizeof *offsets);
    uint64_t *live = kin_alloc(context, ((size_t)step_count + 2) * sizeof *live);
    kin_status status = KIN_OUT_OF_MEMORY;
    if (order && placed && offsets && live) {
        status = KIN_OK;
        *out_lower_bound = lower_bound(storages, count, step_count, live, out_peak_step);
        uint64_t best = UINT64_MAX;
        for (int strategy = 0; strategy < 2 && best > *out_lower_bound; strategy++) {
            for (int32_t i = 0; i < count; i++) {
                uint64_t span = (uint64_t)(storages[i].last - storages[i].first + 1);
                order[i] = (placement){i, storages[i].size * (strategy ? span : 1),
                                       storages[i].first};
            }
            qsort(order, (size_t)count, sizeof *order, compare_placements);
            uint64_t size = place_in_order(storages, order, count, limit, placed);
            if (size < best) {
                best = size;
                for (int32_t i = 0; i < count; i++) offsets[i] = storages[i].offset;
            }
        }
        for (int32_t i = 0; i < count; i++) storages[i].offset = offsets[i];
        *out_size = count ? best : 0;
    }
    kin_free(context, order);
    kin_free(context, placed);
    kin_free(context, offsets);
    kin_free(context, live);
    return status;
}
