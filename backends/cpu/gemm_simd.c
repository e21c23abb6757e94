/* Matrix products by panels: blocks of both operands are copied, in f32, into panels that fit the
 * caches, and a small kernel multiplies panels with the results in registers (Goto and van de
 * Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008). Each thread
 * works on tiles of the result of its own. The sums run over k in a fixed order.
 */
#include "backends/cpu/gemm.h"
#include "backends/cpu/simd.h"
#include "backends/cpu/simd_run.h"
#include "backends/cpu/simd_transpose.h"

#if defined(KIN_SIMD_AVX512)
enum { MR = 12 };
#elif defined(KIN_SIMD_AVX2)
enum { MR = 6 };
#else
enum { MR = 4 };
#endif

enum {
    NR = 2 * VF_WIDTH,
    KC = 256,
    MC = 20 * MR,
    NC = 512,
    FEW_ROWS = 4,
    Q8_BLOCK = 32,
    Q8_BYTES = 34
};

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t round_up(int64_t n, int64_t unit) {
    return (n + unit - 1) / unit * unit;
}

/* ---- packing ---- */

static float read_half(const unsigned char *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
#if defined(__F16C__)
    return _cvtsh_ss(half);
#else
    return kin_f16_to_f32(half);
#endif
}

/* n elements of a q8_0 row from `index` on. The loop over a whole block is one that compilers turn
 * into vectors; GCC 12 takes vectors of bytes apart. */
static void read_q8_0(const unsigned char *data, int64_t index, int64_t n, float *restrict to) {
    for (int64_t i = 0; i < n;) {
        const unsigned char *block = data + (index + i) / Q8_BLOCK * Q8_BYTES;
        int64_t position = (index + i) % Q8_BLOCK, count = min64(Q8_BLOCK - position, n - i);
        const float scale = read_half(block);
        const int8_t *restrict values = (const int8_t *)(block + 2) + position;
        float *restrict part = to + i;
        if (count == Q8_BLOCK) {
            for (int j = 0; j < Q8_BLOCK; j++) part[j] = scale * (float)values[j];
        } else {
            for (int64_t j = 0; j < count; j++) part[j] = scale * (float)values[j];
        }
        i += count;
    }
}

/* n elements that lie side by side, as floats. */
static void read_run(const cpu_matrix *matrix, int64_t index, int64_t n, float *to) {
    if (matrix->dtype == KIN_Q8_0) read_q8_0(matrix->data, index, n, to);
    else run_to_f32(matrix->data, matrix->dtype, index, n, to);
}

static float element(const cpu_matrix *matrix, int64_t index) {
    if (matrix->dtype == KIN_F32) return ((const float *)matrix->data)[index];
    return (float)kin_element_get(matrix->data, matrix->dtype, index);
}

/* A matrix seen from a panel: lanes (rows of a, columns of b) against k. */
typedef struct panel_source {
    cpu_matrix matrix;
    int64_t lane_step, k_step;
} panel_source;

/* The rows of a panel lie along k: they are read one by one, and transposed in registers. */
static void pack_along_k(const panel_source *source, int64_t offset, int lanes, int64_t k,
                         int width, float *to) {
    float rows[NR][KC];
    const float *from = (const float *)source->matrix.data + offset;
    int64_t step = source->lane_step;
    if (source->matrix.dtype != KIN_F32) {
        for (int i = 0; i < lanes; i++) read_run(&source->matrix, offset + i * step, k, rows[i]);
        from = rows[0];
        step = KC;
    }
    /* A group of vector lanes may write beyond the panel's width: the next column overwrites it. */
    for (int i = 0; i < width; i += VF_WIDTH) {
        if (i < lanes)
            pack_columns(from + i * step, step, lanes - i < VF_WIDTH ? lanes - i : VF_WIDTH, k,
                         1.0f, to + i, width);
    }
}

/* One panel: to[k * width + lane], from lane `first` on. Lanes that do not exist hold anything
 * finite or not: their results are thrown away. */
static void pack_panel(const panel_source *source, int64_t first, int lanes, int64_t k_first,
                       int64_t k, int width, float *to) {
    const int64_t offset = first * source->lane_step + k_first * source->k_step;
    if (lanes < width) memset(to, 0, (size_t)(k * width) * sizeof *to);
    if (source->k_step == 1 && (source->lane_step != 1 || source->matrix.dtype == KIN_Q8_0)) {
        pack_along_k(source, offset, lanes, k, width, to);
    } else if (source->lane_step == 1) {
        for (int64_t l = 0; l < k; l++)
            read_run(&source->matrix, offset + l * source->k_step, lanes, to + l * width);
    } else {
        for (int64_t l = 0; l < k; l++)
            for (int i = 0; i < lanes; i++)
                to[l * width + i] =
                    element(&source->matrix, offset + l * source->k_step + i * source->lane_step);
    }
}

static void pack(const panel_source *source, int64_t first, int64_t count, int64_t k_first,
                 int64_t k, int width, float *to) {
    for (int64_t i = 0; i < count; i += width)
        pack_panel(source, first + i, (int)min64(width, count - i), k_first, k, width, to + i * k);
}

/* ---- the kernel in registers ---- */

/* to (+)= panel a [k, MR] times panel b [k, NR] (+ bias). */
static void multiply(int64_t k, const float *a, const float *b, float *to, int64_t stride, int add,
                     const float *bias) {
    vf sum[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) sum[i][0] = sum[i][1] = vf_zero();
    for (int64_t l = 0; l < k; l++) {
        const vf b0 = vf_load(b + l * NR), b1 = vf_load(b + l * NR + VF_WIDTH);
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) {
            const vf x = vf_set1(a[l * MR + i]);
            sum[i][0] = vf_fma(x, b0, sum[i][0]);
            sum[i][1] = vf_fma(x, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
        float *row = to + i * stride;
        vf c0 = sum[i][0], c1 = sum[i][1];
        if (add) {
            c0 += vf_load(row);
            c1 += vf_load(row + VF_WIDTH);
        } else if (bias != NULL) {
            c0 += vf_load(bias);
            c1 += vf_load(bias + VF_WIDTH);
        }
        vf_store(row, c0);
        vf_store(row + VF_WIDTH, c1);
    }
}

/* The same where the tile ends within the panels. */
static void multiply_edge(int64_t k, const float *a, const float *b, float *to, int64_t stride,
                          int add, const float *bias, int rows, int columns) {
    float tile[MR * NR];
    multiply(k, a, b, tile, NR, 0, NULL);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            float value = tile[i * NR + j];
            if (add) value += to[i * stride + j];
            else if (bias != NULL) value += bias[j];
            to[i * stride + j] = value;
        }
}

/* ---- tiles ---- */

/* The scratch memory of one thread. */
typedef struct gemm_scratch {
    float *a, *b, *tile, *bias;
} gemm_scratch;

/* Panels may be overwritten by a vector behind their end (pack_along_k). */
static size_t a_floats(int64_t m, int64_t k) {
    return (size_t)(round_up(min64(m, MC), MR) * min64(k, KC) + 2 * VF_WIDTH + 15) / 16 * 16;
}

static size_t b_floats(int64_t n, int64_t k) {
    return (size_t)(round_up(min64(n, NC), NR) * min64(k, KC) + 2 * VF_WIDTH + 15) / 16 * 16;
}

static size_t tile_floats(int64_t m, int64_t n) {
    return (size_t)(min64(m, MC) * round_up(min64(n, NC), 16));
}

static size_t bias_floats(int64_t n) {
    return (size_t)round_up(min64(n, NC), NR) / 16 * 16 + 16;
}

static size_t scratch_size(int64_t m, int64_t n, int64_t k) {
    size_t floats = a_floats(m, k) + b_floats(n, k) + tile_floats(m, n) + bias_floats(n);
    size_t few = m <= FEW_ROWS ? (size_t)round_up(m * k, 16) : 0;
    return (floats > few ? floats : few) * sizeof(float);
}

static gemm_scratch scratch_of(const cpu_gemm_call *call, void *memory, int thread) {
    char *base = (char *)memory + scratch_size(call->m, call->n, call->k) * (size_t)thread;
    gemm_scratch scratch = {.a = (float *)(void *)base};
    scratch.b = scratch.a + a_floats(call->m, call->k);
    scratch.tile = scratch.b + b_floats(call->n, call->k);
    scratch.bias = scratch.tile + tile_floats(call->m, call->n);
    return scratch;
}

static void multiply_blocks(const gemm_scratch *scratch, int64_t m, int64_t n, int64_t k, float *to,
                            int64_t stride, int add, const float *bias) {
    for (int64_t j = 0; j < n; j += NR) {
        const float *b = scratch->b + j * k, *bias_j = bias != NULL ? bias + j : NULL;
        for (int64_t i = 0; i < m; i += MR) {
            float *at = to + i * stride + j;
            int rows = (int)min64(MR, m - i), columns = (int)min64(NR, n - j);
            if (rows == MR && columns == NR)
                multiply(k, scratch->a + i * k, b, at, stride, add, bias_j);
            else multiply_edge(k, scratch->a + i * k, b, at, stride, add, bias_j, rows, columns);
        }
    }
}

static cpu_epilogue_row *const finish_row = KIN_ISA_NAME(cpu_finish_row);

/* Columns first .. first + n - 1 of a row of the result: what is still to be done, and into c. */
static void write_row(const cpu_gemm_call *call, int64_t row, int64_t first, int64_t n,
                      float *values) {
    if (call->epilogue != NULL) finish_row(call->epilogue, call->first_row + row, first, n, values);
    run_from_f32(values, n, call->c, call->c_dtype, row * call->c_stride + first);
}

/* Rows i .. i + m - 1, columns j .. j + n - 1 of the result. */
static void run_tile(const cpu_gemm_call *call, const gemm_scratch *scratch, int64_t i, int64_t j,
                     int64_t m, int64_t n) {
    const panel_source a = {call->a, call->a.row_stride, call->a.column_stride};
    const panel_source b = {call->b, call->b.column_stride, call->b.row_stride};
    /* c may lie on the residual, which is read before it is written */
    const bool direct = call->c_dtype == KIN_F32 && call->epilogue == NULL;
    float *to = direct ? (float *)call->c + i * call->c_stride + j : scratch->tile;
    int64_t stride = direct ? call->c_stride : round_up(n, 16);
    const float *bias = NULL;
    if (call->bias != NULL) {
        const cpu_matrix row = {.data = call->bias, .dtype = call->bias_dtype};
        read_run(&row, j, n, scratch->bias);
        bias = scratch->bias;
    }
    for (int64_t l = 0; l < call->k; l += KC) {
        int64_t k = min64(KC, call->k - l);
        pack(&b, j, n, l, k, NR, scratch->b);
        pack(&a, i, m, l, k, MR, scratch->a);
        multiply_blocks(scratch, m, n, k, to, stride, l > 0, bias);
    }
    for (int64_t row = 0; row < m && !direct; row++)
        write_row(call, i + row, j, n, to + row * stride);
}

static float bias_at(const cpu_gemm_call *call, int64_t column) {
    if (call->bias == NULL) return 0.0f;
    return (float)kin_element_get(call->bias, call->bias_dtype, column);
}

/* No terms to sum: the product is 0. */
static void write_empty_sums(const cpu_gemm_call *call) {
    float values[NR];
    for (int64_t i = 0; i < call->m; i++)
        for (int64_t j = 0; j < call->n; j += NR) {
            const int64_t n = min64(NR, call->n - j);
            for (int64_t column = 0; column < n; column++)
                values[column] = bias_at(call, j + column);
            write_row(call, i, j, n, values);
        }
}

/* Halves the larger side of the tiles until there is work for all threads. */
static void choose_tiles(const cpu_gemm_call *call, int threads, int64_t *out_m, int64_t *out_n) {
    int64_t m = min64(MC, round_up(call->m, MR)), n = min64(NC, round_up(call->n, NR));
    for (;;) {
        int64_t tiles = ((call->m + m - 1) / m) * ((call->n + n - 1) / n);
        if (tiles >= 2 * threads || threads == 1 || (m <= 2 * MR && n <= 2 * NR)) break;
        if (n >= m && n > 2 * NR) n = round_up(n / 2, NR);
        else if (m > 2 * MR) m = round_up(m / 2, MR);
        else n = round_up(n / 2, NR);
    }
    *out_m = m;
    *out_n = n;
}

/* ---- few rows ---- */

/* With a few rows, packing b costs more than the product. Where its columns lie along k, each is
 * read once and multiplied with all rows of a, which are kept as floats in scratch memory. */
static bool is_few_rows(const cpu_gemm_call *call) {
    return call->m <= FEW_ROWS && call->b.row_stride == 1 && call->k >= VF_WIDTH;
}

static float *few_rows_of(const cpu_gemm_call *call, void *memory) {
    float *rows = memory;
    for (int64_t i = 0; i < call->m; i++) {
        if (call->a.column_stride == 1) {
            read_run(&call->a, i * call->a.row_stride, call->k, rows + i * call->k);
            continue;
        }
        for (int64_t l = 0; l < call->k; l++)
            rows[i * call->k + l] =
                element(&call->a, i * call->a.row_stride + l * call->a.column_stride);
    }
    return rows;
}

/* sums[i] += x[i] . y over n elements, two vectors at a time */
KIN_INLINE void dot_rows(const float *x, int64_t stride, int rows, const float *y, int64_t n,
                         vf sums[FEW_ROWS][2]) {
    int64_t l = 0;
    for (; l + 2 * VF_WIDTH <= n; l += 2 * VF_WIDTH) {
        const vf y0 = vf_load(y + l), y1 = vf_load(y + l + VF_WIDTH);
        for (int i = 0; i < rows; i++) {
            sums[i][0] = vf_fma(vf_load(x + i * stride + l), y0, sums[i][0]);
            sums[i][1] = vf_fma(vf_load(x + i * stride + l + VF_WIDTH), y1, sums[i][1]);
        }
    }
    for (; l < n; l += VF_WIDTH) {
        const int lanes = (int)min64(VF_WIDTH, n - l);
        const vf y0 = vf_load_n(y + l, lanes);
        for (int i = 0; i < rows; i++)
            sums[i][0] = vf_fma(vf_load_n(x + i * stride + l, lanes), y0, sums[i][0]);
    }
}

static void few_rows_columns(const cpu_gemm_call *call, const float *x, int64_t first,
                             int64_t last) {
    const bool direct = call->b.dtype == KIN_F32;
    const int rows = (int)call->m;
    float buffer[KC], results[FEW_ROWS][NR];
    for (int64_t j = first; j < last; j++) {
        vf sums[FEW_ROWS][2] = {{{0}}};
        const int64_t column = j * call->b.column_stride, place = (j - first) % NR;
        for (int64_t l = 0; l < call->k; l += KC) {
            const int64_t n = min64(KC, call->k - l);
            const float *y = direct ? (const float *)call->b.data + column + l : buffer;
            if (!direct) read_run(&call->b, column + l, n, buffer);
            if (rows == 1) dot_rows(x + l, call->k, 1, y, n, sums);
            else if (rows == 2) dot_rows(x + l, call->k, 2, y, n, sums);
            else dot_rows(x + l, call->k, rows, y, n, sums);
        }
        const float bias = bias_at(call, j);
        for (int i = 0; i < rows; i++) results[i][place] = vf_sum(sums[i][0] + sums[i][1]) + bias;
        if (place != NR - 1 && j != last - 1) continue;
        for (int i = 0; i < rows; i++) write_row(call, i, j - place, place + 1, results[i]);
    }
}

static void run_few_rows(const cpu_gemm_call *call, void *memory, int threads) {
    const float *x = few_rows_of(call, memory);
    const int64_t part = ((call->n + threads - 1) / threads + 15) / 16 * 16;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int thread = 0; thread < threads; thread++)
        few_rows_columns(call, x, thread * part, min64(call->n, (thread + 1) * part));
}

static void run(const cpu_gemm_call *call, void *memory, int threads) {
    if (call->m <= 0 || call->n <= 0) return;
    if (call->k <= 0) {
        write_empty_sums(call);
        return;
    }
    if (is_few_rows(call)) {
        run_few_rows(call, memory, threads);
        return;
    }
    int64_t tile_m, tile_n;
    choose_tiles(call, threads, &tile_m, &tile_n);
    const int64_t down = (call->m + tile_m - 1) / tile_m, across = (call->n + tile_n - 1) / tile_n;
    const int64_t tiles = down * across;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int thread = 0; thread < threads; thread++) {
        const gemm_scratch scratch = scratch_of(call, memory, thread);
        for (int64_t t = tiles * thread / threads; t < tiles * (thread + 1) / threads; t++) {
            int64_t i = t % down * tile_m, j = t / down * tile_n;
            run_tile(call, &scratch, i, j, min64(tile_m, call->m - i), min64(tile_n, call->n - j));
        }
    }
}

static void finish(const cpu_gemm_call *call, int threads) {
    float *c = call->c;
    if (call->epilogue == NULL) return;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t i = 0; i < call->m; i++)
        finish_row(call->epilogue, call->first_row + i, 0, call->n, c + i * call->c_stride);
}

const cpu_gemm_table KIN_ISA_NAME(cpu_gemm) = {scratch_size, run, finish};
