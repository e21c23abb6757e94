#include "tools/train/megabatch.h"

#include <string.h>

#include "runtime/torch_random.h"

/* What the steps below share. */
typedef struct job {
    kin_context *context;
    const int64_t *lengths;
    size_t batch, world;
    kin_megabatch_choose choose;
    void *user;
    int64_t *scratch; /* [batch * world] */
    int64_t *sums;    /* [world] */
    size_t *filled;   /* [world] */
} job;

/* Longest first, equal ones in the order they have. */
static void merge_sort(const int64_t *lengths, int64_t *items, size_t count, int64_t *scratch) {
    if (count < 2) return;
    size_t half = count / 2, a = 0, b = half, k = 0;
    merge_sort(lengths, items, half, scratch);
    merge_sort(lengths, items + half, count - half, scratch);
    while (a < half || b < count) {
        bool first = b == count || (a < half && lengths[items[a]] >= lengths[items[b]]);
        scratch[k++] = items[first ? a++ : b++];
    }
    memcpy(items, scratch, count * sizeof *items);
}

/* Deals one step's samples to `world` chunks of room `batch`: to the chunk with the smallest sum of
 * lengths that is not full, or, where the samples do not divide evenly, one after the other. */
static void deal(job *j, const int64_t *items, size_t count, int64_t *chunks) {
    bool even = count % j->world == 0;
    size_t room = count / j->world;
    for (size_t i = 0; i < j->world; i++) j->sums[i] = 0, j->filled[i] = 0;
    for (size_t i = 0; i < count; i++) {
        size_t to = i % j->world;
        if (even) {
            to = j->world;
            for (size_t k = 0; k < j->world; k++)
                if (j->filled[k] < room && (to == j->world || j->sums[k] < j->sums[to])) to = k;
        }
        chunks[to * j->batch + j->filled[to]++] = items[i];
        j->sums[to] += j->lengths[items[i]];
    }
}

/* Fills short chunks with repeats of their own, empty ones with a copy of one before. */
static void top_up(job *j, int64_t *chunks) {
    for (size_t i = 0; i < j->world; i++) {
        int64_t *chunk = chunks + i * j->batch;
        size_t have = j->filled[i];
        if (have == 0)
            memcpy(chunk, chunks + j->choose(j->user, i) * j->batch, j->batch * sizeof *chunk);
        for (size_t k = have; have > 0 && k < j->batch; k++)
            chunk[k] = chunk[j->choose(j->user, have)];
    }
}

/* How many of the batch have that length. */
static size_t frequency(const job *j, const int64_t *batch, int64_t length) {
    size_t count = 0;
    for (size_t i = 0; i < j->batch; i++) count += j->lengths[batch[i]] == length;
    return count;
}

/* Keeps the most frequent length (of equals the one whose first sample comes last), without
 * repeats, and fills up with repeats of what is kept. */
static void unify(job *j, int64_t *batch) {
    int64_t length = j->lengths[batch[0]];
    size_t most = frequency(j, batch, length);
    if (most == j->batch) return;
    for (size_t i = 1; i < j->batch; i++) {
        bool met = false;
        for (size_t k = 0; k < i; k++) met = met || j->lengths[batch[k]] == j->lengths[batch[i]];
        size_t times = frequency(j, batch, j->lengths[batch[i]]);
        if (!met && times >= most) length = j->lengths[batch[i]], most = times;
    }
    size_t kept = 0;
    for (size_t i = 0; i < j->batch; i++) {
        bool wanted = j->lengths[batch[i]] == length;
        for (size_t k = 0; k < kept; k++) wanted = wanted && batch[k] != batch[i];
        if (wanted) batch[kept++] = batch[i];
    }
    for (size_t i = kept; i < j->batch; i++) batch[i] = batch[j->choose(j->user, kept)];
}

static void order(job *j, int64_t *items, size_t count, const kin_megabatch_options *options,
                  int64_t *result, int64_t *steps, int64_t *chunks, int64_t *scratch) {
    size_t size = j->batch * j->world, step_count = (count + size - 1) / size;
    kin_torch_cpu generator;
    kin_torch_cpu_seed(&generator, options->seed);
    kin_torch_cpu_permutation(&generator, count, items);
    if (options->group_frame) merge_sort(j->lengths, items, count, scratch);
    for (size_t i = 0; i < step_count; i++) {
        size_t first = i * size, here = count - first < size ? count - first : size;
        merge_sort(j->lengths, items + first, here, scratch);
        deal(j, items + first, here, chunks + first);
        top_up(j, chunks + first);
    }
    kin_torch_cpu_permutation(&generator, step_count, steps);
    for (size_t i = 0; i < step_count; i++)
        memcpy(result + i * size, chunks + (size_t)steps[i] * size, size * sizeof *result);
    for (size_t i = 0; options->group_frame && i < step_count * j->world; i++)
        unify(j, result + i * j->batch);
}

kin_status kin_megabatch_order(kin_context *context, const int64_t *lengths, size_t count,
                               const kin_megabatch_options *options, kin_megabatch_choose choose,
                               void *user, int64_t **out_indices, size_t *out_count) {
    enum { LIMIT = 1 << 20 };
    *out_indices = NULL;
    *out_count = 0;
    if (options->batch_size < 1 || options->world_size < 1 || options->batch_size > LIMIT ||
        options->world_size > LIMIT || count < 1)
        return kin_fail(context, KIN_INVALID,
                        "megabatches need samples, a batch size and a number of ranks of at least "
                        "1");
    job j = {.context = context,
             .lengths = lengths,
             .batch = (size_t)options->batch_size,
             .world = (size_t)options->world_size,
             .choose = choose,
             .user = user};
    size_t size = j.batch * j.world, step_count = (count + size - 1) / size;
    size_t total = step_count * size;
    int64_t *block = kin_calloc(context, 2 * count + total + step_count + j.world, sizeof *block);
    j.filled = kin_calloc(context, j.world, sizeof *j.filled);
    int64_t *result = kin_calloc(context, total, sizeof *result);
    kin_status status = block && j.filled && result ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) {
        int64_t *items = block, *scratch = items + count, *chunks = scratch + count;
        int64_t *steps = chunks + total;
        j.sums = steps + step_count;
        order(&j, items, count, options, result, steps, chunks, scratch);
        *out_indices = result;
        *out_count = total;
        result = NULL;
    }
    kin_free(context, result);
    kin_free(context, j.filled);
    kin_free(context, block);
    return status;
}
