/* Layer norm, its modulated form, RMS norm, and their gradients: rows in parallel.
 *
 * A row is read several times, but from memory only once: it stays in the first cache. */
#include "backends/cpu/norm_table.h"
#include "backends/cpu/row_math.h"

/* weight[i], or 1, or 1 + weight[i]; bias[i], or 0. */
KIN_INLINE vf factor(const float *weight, bool plus_one, int64_t i, int k) {
    if (weight == NULL) return vf_set1(1.0f);
    vf w = row_load(weight + i, k);
    return plus_one ? w + vf_set1(1.0f) : w;
}

KIN_INLINE vf addend(const float *bias, int64_t i, int k) {
    return bias == NULL ? vf_zero() : row_load(bias + i, k);
}

static const float *of_sample(const float *base, int64_t stride, int64_t sample) {
    return base == NULL ? NULL : base + sample * stride;
}

KIN_INLINE void layer_norm_row(const float *x, const float *weight, const float *bias,
                               bool plus_one, int64_t width, double eps, float *y) {
    row_normalizer n = row_normalizer_of(row_moments_of(x, width), eps);
    int64_t i = 0;
    for (; i + VF_WIDTH <= width; i += VF_WIDTH) {
        vf hat = row_normalize(&n, vf_load(x + i));
        vf w = factor(weight, plus_one, i, VF_WIDTH);
        vf_store(y + i, vf_fma(hat, w, addend(bias, i, VF_WIDTH)));
    }
    if (i < width) {
        int k = (int)(width - i);
        vf hat = row_normalize(&n, vf_load_n(x + i, k));
        vf_store_n(y + i, vf_fma(hat, factor(weight, plus_one, i, k), addend(bias, i, k)), k);
    }
}

static void layer_norm(const cpu_norm_call *c, int threads) {
    int64_t rows = c->samples * c->rows;
    (void)threads; /* without OpenMP */
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        int64_t sample = row / c->rows;
        layer_norm_row(cpu_row(&c->x, row), of_sample(c->weight, c->weight_stride, sample),
                       of_sample(c->bias, c->bias_stride, sample), c->plus_one, c->width, c->eps,
                       c->out + row * c->width);
    }
}

/* 1 / sqrt(mean(x^2) + eps) */
KIN_INLINE float rms_scale(const float *x, int64_t width, double eps) {
    return (float)(1.0 / sqrt(row_squares(x, width) / (double)width + eps));
}

static void rms_norm(const cpu_norm_call *c, int threads) {
    int64_t rows = c->samples * c->rows, width = c->width;
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const float *x = cpu_row(&c->x, row);
        float *y = c->out + row * width;
        vf scale = vf_set1(rms_scale(x, width, c->eps));
        int64_t i = 0;
        for (; i + VF_WIDTH <= width; i += VF_WIDTH)
            vf_store(y + i, vf_load(x + i) * scale * factor(c->weight, false, i, VF_WIDTH));
        if (i < width) {
            int k = (int)(width - i);
            vf_store_n(y + i, vf_load_n(x + i, k) * scale * factor(c->weight, false, i, k), k);
        }
    }
}

/* One row of a gradient: with h the normalised x and g = dy * factor,
 *     dx = scale (g - mean(g) - h mean(g h)),
 * where RMS norm lacks the term mean(g). dy and dy * h are added to the sums of the weight. */
typedef struct grad_row {
    const float *x, *dy, *weight;
    bool plus_one, centred;
    int64_t width;
    row_normalizer n;
    float *dx, *dweight, *dbias; /* the last two are sums */
} grad_row;

KIN_INLINE void grad_row_sums(const grad_row *r, int64_t i, int k, vf *g_sum, vf *gh_sum) {
    vf h = row_keep(row_normalize(&r->n, row_load(r->x + i, k)), k);
    vf g = row_load(r->dy + i, k) * factor(r->weight, r->plus_one, i, k);
    *g_sum += g;
    *gh_sum = vf_fma(g, h, *gh_sum);
}

KIN_INLINE void grad_row_write(const grad_row *r, int64_t i, int k, vf g_mean, vf gh_mean) {
    vf h = row_normalize(&r->n, row_load(r->x + i, k));
    vf dy = row_load(r->dy + i, k);
    vf g = dy * factor(r->weight, r->plus_one, i, k);
    row_store(r->dx + i, r->n.scale * ((g - g_mean) - h * gh_mean), k);
    row_store(r->dweight + i, vf_fma(dy, h, row_load(r->dweight + i, k)), k);
    if (r->centred) row_store(r->dbias + i, row_load(r->dbias + i, k) + dy, k);
}

KIN_INLINE void grad_row_run(const grad_row *r) {
    vf a = vf_zero(), b = vf_zero(), ah = vf_zero(), bh = vf_zero();
    int64_t i = 0, width = r->width;
    for (; i + 2 * VF_WIDTH <= width; i += 2 * VF_WIDTH) {
        grad_row_sums(r, i, VF_WIDTH, &a, &ah);
        grad_row_sums(r, i + VF_WIDTH, VF_WIDTH, &b, &bh);
    }
    for (; i < width; i += VF_WIDTH)
        grad_row_sums(r, i, (int)row_min(width - i, VF_WIDTH), &a, &ah);
    vf g_mean = vf_set1(r->centred ? (float)((double)vf_sum(a + b) / (double)width) : 0.0f);
    vf gh_mean = vf_set1((float)((double)vf_sum(ah + bh) / (double)width));
    for (i = 0; i + VF_WIDTH <= width; i += VF_WIDTH)
        grad_row_write(r, i, VF_WIDTH, g_mean, gh_mean);
    if (i < width) grad_row_write(r, i, (int)(width - i), g_mean, gh_mean);
}

/* out = the sum of `count` rows that lie `stride` apart; rows in order. */
static void add_rows(const float *parts, int64_t count, int64_t stride, int64_t width, float *out,
                     int threads) {
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < width; i += VF_WIDTH) {
        int k = (int)row_min(width - i, VF_WIDTH);
        vf sum = vf_zero();
        for (int64_t part = 0; part < count; ++part) sum += row_load(parts + part * stride + i, k);
        row_store(out + i, sum, k);
    }
}

KIN_INLINE void grad(const cpu_norm_call *c, bool centred, int threads) {
    int64_t chunks = c->chunks, width = c->width, units = c->samples * chunks;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t unit = 0; unit < units; ++unit) {
        int64_t sample = unit / chunks, chunk = unit % chunks;
        grad_row r = {.weight = of_sample(c->weight, c->weight_stride, sample),
                      .plus_one = c->plus_one,
                      .centred = centred,
                      .width = width,
                      .dweight = c->partials + unit * 2 * width,
                      .dbias = c->partials + (unit * 2 + 1) * width};
        memset(r.dweight, 0, (size_t)(2 * width) * sizeof(float));
        for (int64_t i = c->rows * chunk / chunks; i < c->rows * (chunk + 1) / chunks; ++i) {
            int64_t row = sample * c->rows + i;
            r.x = cpu_row(&c->x, row);
            r.dy = cpu_row(&c->dy, row);
            r.dx = c->out + row * width;
            if (centred) r.n = row_normalizer_of(row_moments_of(r.x, width), c->eps);
            else
                r.n =
                    (row_normalizer){vf_zero(), vf_zero(), vf_set1(rms_scale(r.x, width, c->eps))};
            grad_row_run(&r);
        }
    }
    int64_t targets = c->shared ? 1 : c->samples, parts = c->shared ? units : chunks;
    for (int64_t t = 0; t < targets; ++t) {
        const float *part = c->partials + t * chunks * 2 * width;
        add_rows(part, parts, 2 * width, width, c->dweight + t * width, threads);
        if (centred) add_rows(part + width, parts, 2 * width, width, c->dbias + t * width, threads);
    }
}

static void layer_norm_grad(const cpu_norm_call *c, int threads) {
    grad(c, true, threads);
}

static void rms_norm_grad(const cpu_norm_call *c, int threads) {
    grad(c, false, threads);
}

const cpu_norm_table KIN_ISA_NAME(cpu_norm) = {
    .layer_norm = layer_norm,
    .layer_norm_grad = layer_norm_grad,
    .rms_norm = rms_norm,
    .rms_norm_grad = rms_norm_grad,
};
