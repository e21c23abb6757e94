/* Gradients of a convolution to its weights and its bias.
 *
 * dw[co][row] = sum over pixels of dy[co][pixel] patch[row][pixel], row = (channel, tap). A task
 * takes a block of rows, a block of channels and a slice of the pixels, and walks over its slice in
 * stretches of 256 pixels: it turns dy into [pixel][channel] and gathers the patches as
 * [row][pixel] (conv_pack.h); then a register tile of 12 rows x 2 vectors of channels runs over the
 * stretch. How many slices there are follows from the shape alone, and their partial sums are
 * added in order: the number of threads does not change a bit.
 */
#include "backends/cpu/conv_pack.h"
#include "backends/cpu/conv_winograd.h"

#if defined(KIN_SIMD_AVX512)
#define TILE_ROWS 12
#else
#define TILE_ROWS 6
#endif

enum {
    TILE_VECTORS = 2,
    TILE_WIDTH = TILE_VECTORS * VF_WIDTH,
    STRETCH = 256,
    PITCH = STRETCH + 16, /* not a power of two, for the cache's sets */
    ROW_BLOCK = 24 * TILE_ROWS,
    CHANNEL_BLOCK = 128,
    TASKS = 32 /* so many are worth making if the pixels allow it */
};

typedef struct weight_plan {
    conv_grid grid;
    int64_t rows, pixels, stretches;
    int64_t width; /* channels, rounded up to whole vectors: the pitch of partial sums */
    int64_t row_blocks, row_block, channel_blocks, slices;
} weight_plan;

static weight_plan plan_make(const cpu_conv_shape *s) {
    weight_plan p = {0};
    conv_grid *g = &p.grid;
    g->batch = s->batch;
    g->channels = s->cin;
    g->clamp_front = s->causal;
    for (int a = 0; a < 3; a++) {
        g->grid[a] = s->out[a];
        g->source[a] = s->in[a];
        g->step[a] = s->stride[a];
        g->base[a] = -s->pad[a];
        g->increment[a] = 1;
        g->taps[a] = s->kernel[a];
    }
    p.rows = s->cin * conv_volume(s->kernel);
    p.pixels = s->batch * conv_volume(s->out);
    p.stretches = conv_ceil_div(p.pixels, STRETCH);
    p.width = conv_ceil_div(s->cout, VF_WIDTH) * VF_WIDTH;
    p.row_blocks = conv_ceil_div(p.rows, ROW_BLOCK);
    p.row_block = conv_ceil_div(conv_ceil_div(p.rows, p.row_blocks), TILE_ROWS) * TILE_ROWS;
    p.row_blocks = conv_ceil_div(p.rows, p.row_block);
    p.channel_blocks = conv_ceil_div(p.width, CHANNEL_BLOCK);
    int64_t blocks = p.row_blocks * p.channel_blocks;
    int64_t most = conv_max(1, (16 << 20) / (p.rows * p.width * (int64_t)sizeof(float)));
    p.slices = conv_min(conv_ceil_div(TASKS, blocks), p.stretches / 4);
    p.slices = conv_max(1, conv_min(p.slices, most));
    return p;
}

static size_t partial_bytes(const weight_plan *p) {
    return conv_align(sizeof(float) * (size_t)(p->slices * p->rows * p->width));
}

static size_t spans_bytes(const weight_plan *p) {
    return conv_spans_bytes(&p->grid, STRETCH / VF_WIDTH);
}

static size_t thread_scratch(const weight_plan *p) {
    return spans_bytes(p) + conv_align(sizeof(float) * (size_t)(p->row_block * PITCH)) +
           conv_align(sizeof(float) * CHANNEL_BLOCK * STRETCH);
}

size_t KIN_ISA_NAME(cpu_conv_weight_scratch)(const cpu_conv_shape *s, int threads) {
    if (KIN_ISA_NAME(cpu_winograd_weight_fits)(s))
        return KIN_ISA_NAME(cpu_winograd_weight_scratch)(s, threads);
    weight_plan p = plan_make(s);
    return partial_bytes(&p) + (size_t)threads * thread_scratch(&p);
}

#if defined(KIN_SIMD_AVX512)
/* Four rounds of a perfect shuffle transpose 16 x 16. */
KIN_INLINE void transpose(vf row[VF_WIDTH]) {
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high =
        _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
        vf next[VF_WIDTH];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            next[2 * i] = (vf)_mm512_permutex2var_ps((__m512)row[i], low, (__m512)row[i + 8]);
            next[2 * i + 1] = (vf)_mm512_permutex2var_ps((__m512)row[i], high, (__m512)row[i + 8]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) row[i] = next[i];
    }
}
#else
KIN_INLINE void transpose(vf row[VF_WIDTH]) {
    float old[VF_WIDTH][VF_WIDTH], new[VF_WIDTH][VF_WIDTH];
    memcpy(old, row, sizeof old);
    for (int i = 0; i < VF_WIDTH; i++)
        for (int j = 0; j < VF_WIDTH; j++) new[j][i] = old[i][j];
    memcpy(row, new, sizeof new);
}
#endif

/* dy of channels [channel, channel + count) and the stretch from pixel `first` on, as
 * turned[vector of channels][pixel][lane]. Zero where no pixel or no channel is. */
static void dy_turn(const weight_plan *p, const float *dy, int64_t channels, int64_t channel,
                    int64_t count, int64_t first, float *turned) {
    int64_t plane = conv_volume(p->grid.grid);
    for (int64_t v = 0; v < count; v += VF_WIDTH)
        for (int64_t i = 0; i < STRETCH; i += VF_WIDTH) {
            vf row[VF_WIDTH];
            int64_t pixel = first + i, inside = pixel % plane;
            for (int c = 0; c < VF_WIDTH; c++) {
                int64_t o = channel + v + c;
                row[c] = vf_zero();
                if (o >= channels || pixel >= p->pixels) continue;
                if (inside + VF_WIDTH <= plane) {
                    row[c] = vf_load(dy + (pixel / plane * channels + o) * plane + inside);
                    continue;
                }
                float lane[VF_WIDTH] = {0};
                for (int64_t l = 0; l < VF_WIDTH && pixel + l < p->pixels; l++)
                    lane[l] =
                        dy[((pixel + l) / plane * channels + o) * plane + (pixel + l) % plane];
                row[c] = vf_load(lane);
            }
            transpose(row);
            float *to = turned + v * STRETCH + i * VF_WIDTH;
            for (int l = 0; l < VF_WIDTH; l++) vf_store(to + l * VF_WIDTH, row[l]);
        }
}

/* sums[rows][vectors] += patches[rows][pixel] * turned[vectors][pixel], over a stretch. */
KIN_INLINE void micro_kernel(const float *patches, const float *turned, float *sums, int64_t pitch,
                             bool start, int rows, int vectors) {
    vf sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[r][v] = start ? vf_zero() : vf_load(sums + r * pitch + v * VF_WIDTH);
    for (int64_t i = 0; i < STRETCH; i++) {
        vf column[TILE_VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            column[v] = vf_load(turned + (v * STRETCH + i) * VF_WIDTH);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            vf patch = vf_set1(patches[r * PITCH + i]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[r][v] = vf_fma(patch, column[v], sum[r][v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) vf_store(sums + r * pitch + v * VF_WIDTH, sum[r][v]);
}

/* A full tile, then single rows. */
KIN_INLINE void tile_rows(const float *patches, const float *turned, float *sums, int64_t pitch,
                          bool start, int64_t rows, int vectors) {
    if (rows >= TILE_ROWS) {
        micro_kernel(patches, turned, sums, pitch, start, TILE_ROWS, vectors);
        return;
    }
    for (int64_t r = 0; r < rows;) {
        const float *from = patches + r * PITCH;
        float *to = sums + r * pitch;
        if (rows - r >= 3) {
            micro_kernel(from, turned, to, pitch, start, 3, vectors);
            r += 3;
        } else {
            micro_kernel(from, turned, to, pitch, start, 1, vectors);
            r += 1;
        }
    }
}

typedef struct weight_task {
    int64_t row, rows, channel, count; /* count: whole vectors */
    int64_t from, to;                  /* stretches */
    float *sums;                       /* [rows][p->width], at (row, channel) */
} weight_task;

static weight_task task_make(const weight_plan *p, int64_t index, float *partial) {
    weight_task t;
    int64_t slice = index % p->slices, block = index / p->slices;
    t.row = block / p->channel_blocks * p->row_block;
    t.rows = conv_min(p->row_block, p->rows - t.row);
    t.channel = block % p->channel_blocks * CHANNEL_BLOCK;
    t.count = conv_min(CHANNEL_BLOCK, p->width - t.channel);
    t.from = p->stretches * slice / p->slices;
    t.to = p->stretches * (slice + 1) / p->slices;
    t.sums = partial + (slice * p->rows + t.row) * p->width + t.channel;
    return t;
}

static void task_run(const weight_plan *p, const weight_task *t, const float *x, const float *dy,
                     int64_t channels, char *scratch) {
    conv_span *spans = (conv_span *)scratch;
    float *patches = (float *)(scratch + spans_bytes(p));
    float *turned =
        (float *)((char *)patches + conv_align(sizeof(float) * (size_t)(p->row_block * PITCH)));
    for (int64_t stretch = t->from; stretch < t->to; stretch++) {
        int64_t first = stretch * STRETCH;
        bool start = stretch == t->from;
        conv_spans_fill(&p->grid, first, p->pixels, STRETCH / VF_WIDTH, spans);
        conv_pack(&p->grid, x, spans, STRETCH / VF_WIDTH, t->row, t->row + t->rows, patches, PITCH);
        dy_turn(p, dy, channels, t->channel, t->count, first, turned);
        for (int64_t v = 0; v < t->count; v += TILE_WIDTH)
            for (int64_t r = 0; r < t->rows; r += TILE_ROWS) {
                float *sums = t->sums + r * p->width + v;
                const float *from = patches + r * PITCH;
                if (t->count - v >= TILE_WIDTH)
                    tile_rows(from, turned + v * STRETCH, sums, p->width, start, t->rows - r, 2);
                else tile_rows(from, turned + v * STRETCH, sums, p->width, start, t->rows - r, 1);
            }
    }
}

/* Adds the slices of VF_WIDTH rows from `first` on and writes them as dw[channel][row]. */
static void rows_reduce(const weight_plan *p, const float *partial, int64_t channels, int64_t first,
                        float *dw) {
    int rows = (int)conv_min(VF_WIDTH, p->rows - first);
    for (int64_t o = 0; o < channels; o += VF_WIDTH) {
        vf sum[VF_WIDTH];
        for (int r = 0; r < VF_WIDTH; r++) {
            sum[r] = vf_zero();
            for (int64_t i = 0; i < p->slices && r < rows; i++)
                sum[r] += vf_load(partial + (i * p->rows + first + r) * p->width + o);
        }
        transpose(sum);
        for (int64_t c = 0; c < VF_WIDTH && o + c < channels; c++)
            vf_store_n(dw + (o + c) * p->rows + first, sum[c], rows);
    }
}

void KIN_ISA_NAME(cpu_conv_weight)(const cpu_conv_shape *s, const float *x, const float *dy,
                                   float *dw, void *scratch, int threads) {
    if (KIN_ISA_NAME(cpu_winograd_weight_fits)(s)) {
        KIN_ISA_NAME(cpu_winograd_weight)(s, x, dy, dw, scratch, threads);
        return;
    }
    weight_plan plan = plan_make(s);
    const weight_plan *p = &plan;
    if (p->pixels <= 0) {
        memset(dw, 0, sizeof(float) * (size_t)(s->cout * p->rows));
        return;
    }
    float *partial = scratch;
    size_t each = thread_scratch(p);
    int64_t tasks = p->row_blocks * p->channel_blocks * p->slices;
#pragma omp parallel num_threads(threads)
    {
        char *mine = (char *)scratch + partial_bytes(p) + (size_t)conv_thread() * each;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks; i++) {
            weight_task task = task_make(p, i, partial);
            task_run(p, &task, x, dy, s->cout, mine);
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < p->rows; row += VF_WIDTH)
            rows_reduce(p, partial, s->cout, row, dw);
    }
}

/* Sums runs of 1024 in vectors and the runs in double. */
void KIN_ISA_NAME(cpu_conv_bias)(const cpu_conv_shape *s, const float *dy, float *dbias,
                                 int threads) {
    int64_t plane = conv_volume(s->out);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < s->cout; o++) {
        double total = 0;
        for (int64_t n = 0; n < s->batch; n++) {
            const float *from = dy + (n * s->cout + o) * plane;
            for (int64_t i = 0; i < plane; i += 1024) {
                int64_t stop = conv_min(plane, i + 1024), j = i;
                vf sum = vf_zero();
                for (; j + VF_WIDTH <= stop; j += VF_WIDTH) sum += vf_load(from + j);
                if (j < stop) sum += vf_load_n(from + j, (int)(stop - j));
                total += vf_sum(sum);
            }
        }
        dbias[o] = (float)total;
    }
}
