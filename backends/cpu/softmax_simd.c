/* Softmax and its gradient: rows in parallel. */
#include "backends/cpu/softmax_table.h"
#include "backends/cpu/row_math.h"

static float row_max(const float *x, int64_t n) {
    vf a = vf_set1(-INFINITY), b = a;
    int64_t i = 0;
    for (; i + 2 * VF_WIDTH <= n; i += 2 * VF_WIDTH) {
        a = vf_max(a, vf_load(x + i));
        b = vf_max(b, vf_load(x + i + VF_WIDTH));
    }
    for (; i < n; i += VF_WIDTH) {
        int k = (int)row_min(n - i, VF_WIDTH);
        a = vf_max(a, row_keep_or(row_load(x + i, k), k, -INFINITY));
    }
    return vf_max_of(vf_max(a, b));
}

/* y = exp(x - max) for up to ROW_BLOCK elements; returns their sum. */
static float exp_block(const float *x, float *y, int64_t n, float max) {
    vf top = vf_set1(max), a = vf_zero(), b = vf_zero();
    int64_t i = 0;
    for (; i + 2 * VF_WIDTH <= n; i += 2 * VF_WIDTH) {
        vf e = vf_exp(vf_load(x + i) - top), f = vf_exp(vf_load(x + i + VF_WIDTH) - top);
        vf_store(y + i, e);
        vf_store(y + i + VF_WIDTH, f);
        a += e;
        b += f;
    }
    for (; i < n; i += VF_WIDTH) {
        int k = (int)row_min(n - i, VF_WIDTH);
        vf e = row_keep(vf_exp(row_load(x + i, k) - top), k);
        row_store(y + i, e, k);
        a += e;
    }
    return vf_sum(a + b);
}

static void softmax_row(const float *x, float *y, int64_t n) {
    float max = row_max(x, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i += ROW_BLOCK)
        sum += exp_block(x + i, y + i, row_min(n - i, ROW_BLOCK), max);
    vf scale = vf_set1((float)(1.0 / sum));
    for (int64_t i = 0; i < n; i += VF_WIDTH) {
        int k = (int)row_min(n - i, VF_WIDTH);
        row_store(y + i, row_load(y + i, k) * scale, k);
    }
}

static float dot_block(const float *x, const float *y, int64_t n) {
    vf a = vf_zero(), b = vf_zero();
    int64_t i = 0;
    for (; i + 2 * VF_WIDTH <= n; i += 2 * VF_WIDTH) {
        a = vf_fma(vf_load(x + i), vf_load(y + i), a);
        b = vf_fma(vf_load(x + i + VF_WIDTH), vf_load(y + i + VF_WIDTH), b);
    }
    for (; i < n; i += VF_WIDTH) {
        int k = (int)row_min(n - i, VF_WIDTH);
        a = vf_fma(row_load(x + i, k), row_load(y + i, k), a);
    }
    return vf_sum(a + b);
}

static void grad_row(const float *dy, const float *y, float *dx, int64_t n) {
    double dot = 0;
    for (int64_t i = 0; i < n; i += ROW_BLOCK)
        dot += dot_block(dy + i, y + i, row_min(n - i, ROW_BLOCK));
    vf mean = vf_set1((float)dot);
    for (int64_t i = 0; i < n; i += VF_WIDTH) {
        int k = (int)row_min(n - i, VF_WIDTH);
        row_store(dx + i, row_load(y + i, k) * (row_load(dy + i, k) - mean), k);
    }
}

static void forward(const cpu_rows *x, float *out, int64_t rows, int64_t width, int threads) {
    (void)threads; /* without OpenMP */
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) softmax_row(cpu_row(x, row), out + row * width, width);
}

static void backward(const cpu_rows *dy, const cpu_rows *y, float *out, int64_t rows, int64_t width,
                     int threads) {
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row)
        grad_row(cpu_row(dy, row), cpu_row(y, row), out + row * width, width);
}

const cpu_softmax_table KIN_ISA_NAME(cpu_softmax) = {.forward = forward, .backward = backward};
