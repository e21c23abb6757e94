/* Sums and maxima over axes.
 *
 * Sums add up to ROW_BLOCK elements in float vectors, and blocks in double; columns add 256 terms
 * in float before they go to a second float sum. */
#include "backends/cpu/reduce_table.h"
#include "backends/cpu/row_math.h"

enum { COLUMN_TERMS = 256 };

/* A place in axes, and its offsets. */
typedef struct walker {
    int64_t index[KIN_MAX_RANK];
    int64_t offset, out_offset;
} walker;

static walker walker_at(const cpu_reduce_axes *axes, int64_t position) {
    walker w = {.offset = 0};
    for (int axis = axes->rank - 1; axis >= 0; --axis) {
        w.index[axis] = position % axes->dims[axis];
        position /= axes->dims[axis];
        w.offset += w.index[axis] * axes->strides[axis];
        w.out_offset += w.index[axis] * axes->out_strides[axis];
    }
    return w;
}

static void walker_next(const cpu_reduce_axes *axes, walker *w) {
    for (int axis = axes->rank - 1; axis >= 0; --axis) {
        w->offset += axes->strides[axis];
        if (++w->index[axis] < axes->dims[axis]) return;
        w->offset -= axes->dims[axis] * axes->strides[axis];
        w->index[axis] = 0;
    }
}

/* Maxima that let NaN through. */
KIN_INLINE vf max_of(vf a, vf b) {
    return vf_select((b > a) | (b != b), b, a);
}

KIN_INLINE double max_scalar(double a, double b) {
    return b > a || b != b ? b : a;
}

static double run_max(const float *x, int64_t n) {
    vf top = vf_set1(-INFINITY);
    for (int64_t i = 0; i < n; i += VF_WIDTH) {
        int k = (int)row_min(n - i, VF_WIDTH);
        top = max_of(top, row_keep_or(row_load(x + i, k), k, -INFINITY));
    }
    double max = top[0];
    for (int i = 1; i < VF_WIDTH; ++i) max = max_scalar(max, top[i]);
    return max;
}

KIN_INLINE double run_of(const float *x, int64_t n, int64_t stride, bool max) {
    if (stride == 1) return max ? run_max(x, n) : row_sum(x, n);
    double all = max ? -INFINITY : 0.0;
    for (int64_t i = 0; i < n; ++i)
        all = max ? max_scalar(all, x[i * stride]) : all + x[i * stride];
    return all;
}

/* Pieces first .. last-1 of one output: a piece is a stretch of one run. */
KIN_INLINE double pieces_of(const cpu_reduce_plan *plan, const float *x, int64_t first,
                            int64_t last, bool max) {
    int64_t per_run = (plan->run + CPU_REDUCE_PIECE - 1) / CPU_REDUCE_PIECE;
    walker at = walker_at(&plan->reduced, first / per_run);
    int64_t piece = first % per_run;
    double all = max ? -INFINITY : 0.0;
    for (; first < last; ++first) {
        int64_t start = piece * CPU_REDUCE_PIECE;
        double one = run_of(x + at.offset + start * plan->run_stride,
                            row_min(plan->run - start, CPU_REDUCE_PIECE), plan->run_stride, max);
        all = max ? max_scalar(all, one) : all + one;
        if (++piece == per_run) {
            piece = 0;
            walker_next(&plan->reduced, &at);
        }
    }
    return all;
}

KIN_INLINE void reduce_along(const cpu_reduce_plan *plan, const float *x, float *out,
                             double *partials, bool max, int threads) {
    int64_t outputs = plan->kept.count, chunks = plan->chunks;
    int64_t pieces = plan->reduced.count * ((plan->run + CPU_REDUCE_PIECE - 1) / CPU_REDUCE_PIECE);
    (void)threads; /* without OpenMP */
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t unit = 0; unit < outputs * chunks; ++unit) {
        int64_t output = unit / chunks, chunk = unit % chunks;
        walker at = walker_at(&plan->kept, output);
        double all = pieces_of(plan, x + at.offset, pieces * chunk / chunks,
                               pieces * (chunk + 1) / chunks, max);
        if (chunks > 1) partials[unit] = all;
        else out[at.out_offset] = (float)(all * plan->scale);
    }
    for (int64_t output = 0; chunks > 1 && output < outputs; ++output) {
        double all = partials[output * chunks];
        for (int64_t chunk = 1; chunk < chunks; ++chunk) {
            double one = partials[output * chunks + chunk];
            all = max ? max_scalar(all, one) : all + one;
        }
        out[walker_at(&plan->kept, output).out_offset] = (float)(all * plan->scale);
    }
}

KIN_INLINE void fill(float *values, int64_t count, float value) {
    for (int64_t i = 0; i < count; ++i) values[i] = value;
}

/* all[i] = all[i] + x[i], or the larger. */
KIN_INLINE void join(float *all, const float *x, int64_t count, bool max) {
    for (int64_t i = 0; i < count; i += VF_WIDTH) {
        int k = (int)row_min(count - i, VF_WIDTH);
        vf a = row_load(all + i, k), b = row_load(x + i, k);
        row_store(all + i, max ? max_of(a, b) : a + b, k);
    }
}

/* all[i] joined with four rows of x at once: all is read and written once for them. */
KIN_INLINE void join_four(float *all, const float *const x[4], int64_t count, bool max) {
    for (int64_t i = 0; i < count; i += VF_WIDTH) {
        int k = (int)row_min(count - i, VF_WIDTH);
        vf a = row_load(x[0] + i, k), b = row_load(x[1] + i, k);
        vf c = row_load(x[2] + i, k), d = row_load(x[3] + i, k), e = row_load(all + i, k);
        vf sum = max ? max_of(max_of(a, b), max_of(c, d)) : (a + b) + (c + d);
        row_store(all + i, max ? max_of(e, sum) : e + sum, k);
    }
}

/* Terms first .. last-1 of up to CPU_REDUCE_TILE columns. */
KIN_INLINE void columns_of(const cpu_reduce_plan *plan, const float *x, int64_t first, int64_t last,
                           int64_t count, float *total, bool max) {
    float block[CPU_REDUCE_TILE];
    walker at = walker_at(&plan->reduced, first);
    fill(total, count, max ? -INFINITY : 0.0f);
    while (first < last) {
        int64_t end = row_min(first + COLUMN_TERMS, last);
        fill(block, count, max ? -INFINITY : 0.0f);
        for (; first + 4 <= end; first += 4) {
            const float *rows[4];
            for (int i = 0; i < 4; ++i) {
                rows[i] = x + at.offset;
                walker_next(&plan->reduced, &at);
            }
            join_four(block, rows, count, max);
        }
        for (; first < end; ++first) {
            join(block, x + at.offset, count, max);
            walker_next(&plan->reduced, &at);
        }
        join(total, block, count, max);
    }
}

KIN_INLINE void finish_columns(const cpu_reduce_plan *plan, const float *total, int64_t count,
                               float *out) {
    for (int64_t i = 0; i < count; ++i)
        out[i * plan->run_out_stride] = (float)(total[i] * plan->scale);
}

KIN_INLINE void reduce_columns(const cpu_reduce_plan *plan, const float *x, float *out,
                               float *partials, bool max, int threads) {
    int64_t tiles = (plan->run + CPU_REDUCE_TILE - 1) / CPU_REDUCE_TILE, chunks = plan->chunks;
    int64_t terms = plan->reduced.count, run = plan->run, tasks = plan->kept.count * tiles;
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t unit = 0; unit < tasks * chunks; ++unit) {
        float total[CPU_REDUCE_TILE];
        int64_t chunk = unit / tasks, output = unit % tasks / tiles;
        int64_t start = unit % tiles * CPU_REDUCE_TILE;
        int64_t count = row_min(run - start, CPU_REDUCE_TILE);
        walker at = walker_at(&plan->kept, output);
        columns_of(plan, x + at.offset + start, terms * chunk / chunks,
                   terms * (chunk + 1) / chunks, count, total, max);
        if (chunks > 1)
            memcpy(partials + (output * chunks + chunk) * run + start, total,
                   (size_t)count * sizeof(float));
        else finish_columns(plan, total, count, out + at.out_offset + start * plan->run_out_stride);
    }
    if (chunks == 1) return;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        float total[CPU_REDUCE_TILE];
        int64_t output = task / tiles, start = task % tiles * CPU_REDUCE_TILE;
        int64_t count = row_min(run - start, CPU_REDUCE_TILE);
        const float *part = partials + output * chunks * run + start;
        memcpy(total, part, (size_t)count * sizeof(float));
        for (int64_t chunk = 1; chunk < chunks; ++chunk)
            join(total, part + chunk * run, count, max);
        finish_columns(plan, total, count,
                       out + walker_at(&plan->kept, output).out_offset +
                           start * plan->run_out_stride);
    }
}

static void sum(const cpu_reduce_plan *plan, const float *x, float *out, void *partials,
                int threads) {
    if (plan->along) reduce_along(plan, x, out, partials, false, threads);
    else reduce_columns(plan, x, out, partials, false, threads);
}

static void max(const cpu_reduce_plan *plan, const float *x, float *out, void *partials,
                int threads) {
    if (plan->along) reduce_along(plan, x, out, partials, true, threads);
    else reduce_columns(plan, x, out, partials, true, threads);
}

const cpu_reduce_table KIN_ISA_NAME(cpu_reduce) = {.sum = sum, .max = max};
