/* The one product under all of attention: C[i][j] = C0 + sum over s of A[i][s] * B[s][j], where j
 * runs over `vectors` vectors, B's rows are loaded, and A's elements are broadcast.
 *
 * Lanes are queries in the products that make scores, o and dq, so that a head size of any kind
 * costs no padding and row maxima need no shuffles; they are head elements in dk and dv. A lies
 * either with its steps adjacent (a row of keys) or with its rows adjacent (a column of them).
 */
#ifndef KIN_BACKENDS_CPU_ATTENTION_TILE_H
#define KIN_BACKENDS_CPU_ATTENTION_TILE_H

#include "backends/cpu/simd.h"

#include <stdbool.h>

/* As many accumulators as the registers hold beside one row of B and one element of A. */
#if defined(KIN_SIMD_AVX512) || defined(__aarch64__)
#define TILE_VECTORS 5
#define TILE_QUERY_VECTORS 4
static const int tile_rows[TILE_VECTORS + 1] = {0, 8, 8, 8, 6, 5};
#else
#define TILE_VECTORS 3
#define TILE_QUERY_VECTORS 2
static const int tile_rows[TILE_VECTORS + 1] = {0, 8, 6, 4};
#endif
#define TILE_ROWS 8

typedef struct tile_product {
    int64_t steps;
    const float *a;
    int64_t a_stride; /* between rows, or between steps if the rows are adjacent */
    const float *b;
    int64_t b_stride;
    float *c;
    int64_t c_stride;
    const float *factor; /* NULL, or `vectors` vectors that C0 is multiplied by */
    bool clear;          /* C0 is 0 */
    bool rows_adjacent;
    int64_t rows;
    int vectors;
} tile_product;

#define TILE_UNROLL _Pragma("GCC unroll 8")

KIN_INLINE void tile_body(const int rows, const int vectors, const bool rows_adjacent,
                          const tile_product *t, const float *a, float *c) {
    vf sum[TILE_ROWS][TILE_VECTORS];
    const int64_t c_stride = t->c_stride;
    TILE_UNROLL for (int i = 0; i < rows; i++) TILE_UNROLL for (int j = 0; j < vectors; j++)
        sum[i][j] = vf_zero();
    if (!t->clear) {
        TILE_UNROLL for (int i = 0; i < rows; i++) TILE_UNROLL for (int j = 0; j < vectors; j++)
            sum[i][j] = vf_load(c + i * c_stride + j * VF_WIDTH);
        if (t->factor) {
            TILE_UNROLL for (int j = 0; j < vectors; j++) {
                const vf f = vf_load(t->factor + j * VF_WIDTH);
                TILE_UNROLL for (int i = 0; i < rows; i++) sum[i][j] *= f;
            }
        }
    }
    const int64_t steps = t->steps, a_stride = t->a_stride, b_stride = t->b_stride;
    const float *b = t->b;
    for (int64_t s = 0; s < steps; s++, b += b_stride) {
        vf row[TILE_VECTORS];
        TILE_UNROLL for (int j = 0; j < vectors; j++) row[j] = vf_load(b + j * VF_WIDTH);
        TILE_UNROLL for (int i = 0; i < rows; i++) {
            const vf x = vf_set1(rows_adjacent ? a[s * a_stride + i] : a[i * a_stride + s]);
            TILE_UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = vf_fma(x, row[j], sum[i][j]);
        }
    }
    TILE_UNROLL for (int i = 0; i < rows; i++) TILE_UNROLL for (int j = 0; j < vectors; j++)
        vf_store(c + i * c_stride + j * VF_WIDTH, sum[i][j]);
}

typedef void tile_function(const tile_product *t, const float *a, float *c);

#define TILE_DEFINE(rows, vectors)                                                                 \
    static void tile_steps_##rows##x##vectors(const tile_product *t, const float *a, float *c) {   \
        tile_body(rows, vectors, false, t, a, c);                                                  \
    }                                                                                              \
    static void tile_rows_##rows##x##vectors(const tile_product *t, const float *a, float *c) {    \
        tile_body(rows, vectors, true, t, a, c);                                                   \
    }
#define TILE_DEFINE4(vectors)                                                                      \
    TILE_DEFINE(1, vectors)                                                                        \
    TILE_DEFINE(2, vectors)                                                                        \
    TILE_DEFINE(3, vectors)                                                                        \
    TILE_DEFINE(4, vectors)
#define TILE_DEFINE6(vectors)                                                                      \
    TILE_DEFINE4(vectors)                                                                          \
    TILE_DEFINE(5, vectors)                                                                        \
    TILE_DEFINE(6, vectors)
#define TILE_DEFINE8(vectors)                                                                      \
    TILE_DEFINE6(vectors)                                                                          \
    TILE_DEFINE(7, vectors)                                                                        \
    TILE_DEFINE(8, vectors)
#define TILE_LIST4(kind, vectors)                                                                  \
    tile_##kind##_1x##vectors, tile_##kind##_2x##vectors, tile_##kind##_3x##vectors,               \
        tile_##kind##_4x##vectors
#define TILE_LIST6(kind, vectors)                                                                  \
    TILE_LIST4(kind, vectors), tile_##kind##_5x##vectors, tile_##kind##_6x##vectors
#define TILE_LIST8(kind, vectors)                                                                  \
    TILE_LIST6(kind, vectors), tile_##kind##_7x##vectors, tile_##kind##_8x##vectors

TILE_DEFINE8(1)
#if TILE_VECTORS == 5
TILE_DEFINE8(2)
TILE_DEFINE8(3)
TILE_DEFINE6(4)
TILE_DEFINE4(5)
TILE_DEFINE(5, 5)
static tile_function *const tile_functions[2][TILE_VECTORS][TILE_ROWS] = {
    {{TILE_LIST8(steps, 1)},
     {TILE_LIST8(steps, 2)},
     {TILE_LIST8(steps, 3)},
     {TILE_LIST6(steps, 4)},
     {TILE_LIST4(steps, 5), tile_steps_5x5}},
    {{TILE_LIST8(rows, 1)},
     {TILE_LIST8(rows, 2)},
     {TILE_LIST8(rows, 3)},
     {TILE_LIST6(rows, 4)},
     {TILE_LIST4(rows, 5), tile_rows_5x5}}};
#else
TILE_DEFINE6(2)
TILE_DEFINE4(3)
static tile_function *const tile_functions[2][TILE_VECTORS][TILE_ROWS] = {
    {{TILE_LIST8(steps, 1)}, {TILE_LIST6(steps, 2)}, {TILE_LIST4(steps, 3)}},
    {{TILE_LIST8(rows, 1)}, {TILE_LIST6(rows, 2)}, {TILE_LIST4(rows, 3)}}};
#endif

/* The rows in groups of nearly equal size. */
static inline void tile_multiply(const tile_product *t) {
    const int64_t most = tile_rows[t->vectors];
    const int64_t groups = (t->rows + most - 1) / most;
    tile_function *const *functions = tile_functions[t->rows_adjacent][t->vectors - 1];
    const float *a = t->a;
    float *c = t->c;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t count = t->rows / groups + (g < t->rows % groups);
        functions[count - 1](t, a, c);
        a += count * (t->rows_adjacent ? 1 : t->a_stride);
        c += count * t->c_stride;
    }
}

#endif
