/* Placing storages in one arena: those that live at the same time must not overlap. Greedy best
 * fit, by size and by size times lifetime. Where that leaves gaps, what came to lie above the lower
 * bound is placed earlier in a next round. The smallest result is kept. */
#include "runtime/graph_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    GOOD_ENOUGH = 500, /* a part this small above the lower bound is not worth another round */
    ROUNDS_LEAST = 8,  /* for each key; more for fewer storages */
    ROUNDS_MOST = 64,
    ROUNDS_WORK = 40000
};

typedef struct placement {
    int32_t index, raised;
    uint64_t key;
    int32_t first;
} placement;

/* What was raised more often, then descending key; ties by first step, then by index, so that the
 * order is the same everywhere. */
static int compare_placements(const void *a, const void *b) {
    const placement *x = a, *y = b;
    if (x->raised != y->raised) return x->raised > y->raised ? -1 : 1;
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

/* Places in the given order. `placed` holds copies of what is placed, sorted by offset: a walk over
 * it stays in order in memory, and it is most of the work. */
static uint64_t place_in_order(kin_storage *storages, const placement *order, int32_t count,
                               uint64_t limit, kin_storage *placed) {
    uint64_t total = 0;
    for (int32_t n = 0; n < count; n++) {
        kin_storage *s = &storages[order[n].index];
        uint64_t cursor = 0, best = UINT64_MAX, best_gap = UINT64_MAX;
        for (int32_t k = 0; k < n; k++) {
            const kin_storage *other = &placed[k];
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
        while (at > 0 && placed[at - 1].offset > best) at--;
        memmove(&placed[at + 1], &placed[at], (size_t)(n - at) * sizeof *placed);
        placed[at] = *s;
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
    kin_storage *placed = kin_alloc(context, n * sizeof *placed);
    uint64_t *offsets = kin_alloc(context, n * sizeof *offsets);
    uint64_t *live = kin_alloc(context, ((size_t)step_count + 2) * sizeof *live);
    int32_t *raised = kin_alloc(context, n * sizeof *raised);
    kin_status status = KIN_OUT_OF_MEMORY;
    if (order && placed && offsets && live && raised) {
        status = KIN_OK;
        *out_lower_bound = lower_bound(storages, count, step_count, live, out_peak_step);
        uint64_t best = UINT64_MAX, bound = *out_lower_bound;
        for (int weighted = 0; weighted < 2; weighted++) {
            int most = ROUNDS_WORK / (count + 1), rounds = 1;
            if (most > ROUNDS_MOST) most = ROUNDS_MOST;
            if (most < ROUNDS_LEAST) most = ROUNDS_LEAST;
            memset(raised, 0, (size_t)count * sizeof *raised);
            for (int round = 0; round < rounds && best > bound + bound / GOOD_ENOUGH; round++) {
                for (int32_t i = 0; i < count; i++) {
                    uint64_t span = (uint64_t)(storages[i].last - storages[i].first + 1);
                    order[i] = (placement){i, raised[i], storages[i].size * (weighted ? span : 1),
                                           storages[i].first};
                }
                qsort(order, (size_t)count, sizeof *order, compare_placements);
                uint64_t size = place_in_order(storages, order, count, limit, placed);
                if (size < best) {
                    best = size;
                    for (int32_t i = 0; i < count; i++) offsets[i] = storages[i].offset;
                }
                if (size > bound + bound / GOOD_ENOUGH) rounds = most;
                for (int32_t i = 0; i < count; i++)
                    raised[i] += storages[i].offset + storages[i].size > bound;
            }
        }
        for (int32_t i = 0; i < count; i++) storages[i].offset = offsets[i];
        *out_size = count ? best : 0;
    }
    kin_free(context, order);
    kin_free(context, placed);
    kin_free(context, offsets);
    kin_free(context, live);
    kin_free(context, raised);
    return status;
}
