/* Gathering of convolution patches into small panels, shared by conv_simd.c and
 * conv_weight_simd.c. Included after simd.h, once per instruction set.
 *
 * A pass over a convolution is a matrix product whose columns are pixels of a grid and whose rows
 * are (channel, tap) pairs. Pixels are counted through the whole batch, so that small images fill
 * whole vectors. A vector of pixels reads, for one tap, a few runs of neighbours (one run unless
 * the vector crosses a row); a span says where a run lies and which of its pixels exist.
 */
#ifndef KIN_BACKENDS_CPU_CONV_PACK_H
#define KIN_BACKENDS_CPU_CONV_PACK_H

#include "backends/cpu/conv.h"
#include "backends/cpu/simd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

/* The weight passes live in conv_weight_simd.c. */
size_t KIN_ISA_NAME(cpu_conv_weight_scratch)(const cpu_conv_shape *shape, int threads);
void KIN_ISA_NAME(cpu_conv_weight)(const cpu_conv_shape *shape, const float *x, const float *dy,
                                   float *dw, void *scratch, int threads);
void KIN_ISA_NAME(cpu_conv_bias)(const cpu_conv_shape *shape, const float *dy, float *dbias,
                                 int threads);

/* Source coordinate of grid pixel g at tap j, per axis: g * step + base + j * increment. */
typedef struct conv_grid {
    int64_t batch, channels;
    int64_t grid[3];   /* pixels of one sample */
    int64_t source[3]; /* size of a source plane */
    int64_t step[3], base[3], increment[3];
    int64_t taps[3];
    bool clamp_front; /* time before 0 reads time 0 */
} conv_grid;

/* Lane l of the vector reads source[offset + l * step] of each channel if bit l of mask is set. */
typedef struct conv_span {
    int64_t offset;
    uint32_t mask;
} conv_span;

/* The number of the calling thread within its team. */
KIN_INLINE int conv_thread(void) {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

KIN_INLINE int64_t conv_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

KIN_INLINE int64_t conv_max(int64_t a, int64_t b) {
    return a > b ? a : b;
}

KIN_INLINE int64_t conv_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

KIN_INLINE size_t conv_align(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

KIN_INLINE int64_t conv_volume(const int64_t size[3]) {
    return size[0] * size[1] * size[2];
}

/* The most runs that one vector of pixels can have. */
KIN_INLINE int64_t conv_spans_per_vector(const conv_grid *g) {
    int64_t runs = (VF_WIDTH - 2) / conv_max(g->grid[2], 1) + 2;
    return conv_min(VF_WIDTH, g->grid[2] % VF_WIDTH == 0 ? 1 : runs);
}

/* Bytes of the table that conv_spans_fill writes for `vectors` vectors. */
KIN_INLINE size_t conv_spans_bytes(const conv_grid *g, int64_t vectors) {
    return conv_align((size_t)(conv_volume(g->taps) * vectors * conv_spans_per_vector(g)) *
                      sizeof(conv_span));
}

/* The span of `count` grid pixels from (t, y, x), put at lanes from `lane` on, for one tap. */
KIN_INLINE conv_span conv_span_make(const conv_grid *g, int64_t sample, const int64_t at[3],
                                    const int64_t tap[3], int lane, int count) {
    conv_span span = {0, 0};
    int64_t t = at[0] * g->step[0] + g->base[0] + tap[0] * g->increment[0];
    int64_t y = at[1] * g->step[1] + g->base[1] + tap[1] * g->increment[1];
    int64_t x = at[2] * g->step[2] + g->base[2] + tap[2] * g->increment[2];
    if (t < 0 && g->clamp_front) t = 0;
    if (t < 0 || t >= g->source[0] || y < 0 || y >= g->source[1] || x >= g->source[2]) return span;
    int64_t step = g->step[2];
    int64_t low = x < 0 ? conv_ceil_div(-x, step) : 0;
    int64_t high = conv_min(count, conv_ceil_div(g->source[2] - x, step));
    if (low >= high) return span;
    span.offset = sample * g->channels * conv_volume(g->source) +
                  (t * g->source[1] + y) * g->source[2] + x - lane * step;
    span.mask = (uint32_t)(((1u << high) - (1u << low)) << lane);
    return span;
}

/* Writes the spans of pixels [first, first + vectors * VF_WIDTH), those from `end` on being empty:
 * table[tap][vector][run]. */
static inline void conv_spans_fill(const conv_grid *g, int64_t first, int64_t end, int64_t vectors,
                                   conv_span *table) {
    int64_t runs = conv_spans_per_vector(g), volume = conv_volume(g->grid);
    int64_t taps = conv_volume(g->taps);
    memset(table, 0, (size_t)(taps * vectors * runs) * sizeof *table);
    for (int64_t v = 0; v < vectors; v++) {
        int64_t pixel = first + v * VF_WIDTH;
        int lane = 0;
        for (int64_t run = 0; run < runs && lane < VF_WIDTH && pixel < end; run++) {
            int64_t inside = pixel % volume, row = inside / g->grid[2];
            int64_t at[3] = {row / g->grid[1], row % g->grid[1], inside % g->grid[2]};
            int count = (int)conv_min(conv_min(VF_WIDTH - lane, g->grid[2] - at[2]), end - pixel);
            int64_t index = 0, tap[3];
            for (tap[0] = 0; tap[0] < g->taps[0]; tap[0]++)
                for (tap[1] = 0; tap[1] < g->taps[1]; tap[1]++)
                    for (tap[2] = 0; tap[2] < g->taps[2]; tap[2]++, index++)
                        table[(index * vectors + v) * runs + run] =
                            conv_span_make(g, pixel / volume, at, tap, lane, count);
            lane += count;
            pixel += count;
        }
    }
}

#if defined(KIN_SIMD_AVX512)
/* Bit i of the result's even bits is bit i of x. */
KIN_INLINE uint32_t conv_spread_bits(uint32_t x) {
    x = (x | (x << 8)) & 0x00ff00ffu;
    x = (x | (x << 4)) & 0x0f0f0f0fu;
    x = (x | (x << 2)) & 0x33333333u;
    return (x | (x << 1)) & 0x55555555u;
}
#endif

/* One vector for one channel: zero where no pixel is. step is 1, 2 or, as 0, any other. */
KIN_INLINE vf conv_gather(const float *source, const conv_span *span, int64_t runs, int step,
                          int64_t any_step) {
#if defined(KIN_SIMD_AVX512)
    if (step == 1) {
        __m512 v = _mm512_maskz_loadu_ps((__mmask16)span->mask, source + span->offset);
        for (int64_t r = 1; r < runs; r++)
            v = _mm512_mask_loadu_ps(v, (__mmask16)span[r].mask, source + span[r].offset);
        return (vf)v;
    }
    if (step == 2) {
        const __m512i even =
            _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        __m512 low = _mm512_setzero_ps(), high = low;
        for (int64_t r = 0; r < runs; r++) {
            uint32_t mask = conv_spread_bits(span[r].mask);
            const float *p = source + span[r].offset;
            low = _mm512_mask_loadu_ps(low, (__mmask16)mask, p);
            high = _mm512_mask_loadu_ps(high, (__mmask16)(mask >> 16), p + 16);
        }
        return (vf)_mm512_permutex2var_ps(low, even, high);
    }
#endif
    const uint32_t all = (uint32_t)((1ull << VF_WIDTH) - 1);
    if (step == 1 && span->mask == all) return vf_load(source + span->offset);
    float lanes[VF_WIDTH] = {0};
    for (int64_t r = 0; r < runs; r++)
        for (int l = 0; l < VF_WIDTH; l++)
            if (span[r].mask >> l & 1) lanes[l] = source[span[r].offset + l * any_step];
    return vf_load(lanes);
}

/* Asks for the line that a channel further on will need: short runs of far apart planes are nothing
 * that the processor foresees. The address need not exist. */
KIN_INLINE void conv_prefetch(const float *source, int64_t offset) {
    __builtin_prefetch((const void *)((uintptr_t)source + (uintptr_t)offset * sizeof *source));
}

/* Rows [first, end) of the patch matrix, row = channel * taps + tap, for the vectors of a span
 * table: panel[(row - first) * pitch + lane]. */
KIN_INLINE void conv_pack_rows(const conv_grid *g, const float *source, const conv_span *table,
                               int64_t vectors, int64_t first, int64_t end, float *panel,
                               int64_t pitch, int64_t runs, int step) {
    int64_t taps = conv_volume(g->taps), plane = conv_volume(g->source);
    int64_t tap = first % taps;
    const float *channel = source + first / taps * plane;
    for (int64_t row = first; row < end;) {
        int64_t stop = conv_min(end, row + taps - tap);
        const conv_span *span = table + tap * vectors * runs;
        for (; row < stop; row++, panel += pitch)
            for (int64_t v = 0; v < vectors; v++, span += runs) {
                conv_prefetch(channel, 3 * plane + span->offset);
                vf_store(panel + v * VF_WIDTH, conv_gather(channel, span, runs, step, g->step[2]));
            }
        tap = 0;
        channel += plane;
    }
}

/* The same with the common cases as constants. */
KIN_INLINE void conv_pack(const conv_grid *g, const float *source, const conv_span *table,
                          int64_t vectors, int64_t first, int64_t end, float *panel,
                          int64_t pitch) {
    int64_t runs = conv_spans_per_vector(g);
    if (first >= end) return;
    if (g->step[2] == 1 && runs == 1)
        conv_pack_rows(g, source, table, vectors, first, end, panel, pitch, 1, 1);
    else if (g->step[2] == 1)
        conv_pack_rows(g, source, table, vectors, first, end, panel, pitch, runs, 1);
    else if (g->step[2] == 2)
        conv_pack_rows(g, source, table, vectors, first, end, panel, pitch, runs, 2);
    else conv_pack_rows(g, source, table, vectors, first, end, panel, pitch, runs, 0);
}

#endif
