/* Group norm and its gradient, with an optional SiLU: (sample, group) pairs in parallel. */
#include "backends/cpu/norm_table.h"
#include "backends/cpu/row_math.h"

KIN_INLINE vf sigmoid(vf z) {
    return vf_set1(1.0f) / (vf_set1(1.0f) + vf_exp(-z));
}

/* One channel: y = ((x - near) - rest) * (scale * w) + b. */
typedef struct channel {
    row_normalizer n;
    vf weight, bias;
    bool silu;
} channel;

KIN_INLINE void forward_step(const channel *c, const float *x, float *y, int k) {
    vf z = vf_fma(row_normalize(&c->n, row_load(x, k)), c->weight, c->bias);
    row_store(y, c->silu ? z * sigmoid(z) : z, k);
}

KIN_INLINE void forward_channel(const channel *c, const float *x, float *y, int64_t count) {
    int64_t i = 0;
    for (; i + VF_WIDTH <= count; i += VF_WIDTH) forward_step(c, x + i, y + i, VF_WIDTH);
    if (i < count) forward_step(c, x + i, y + i, (int)(count - i));
}

static void forward(const cpu_group_norm_call *c, int threads) {
    int64_t pairs = c->batch * c->groups, width = c->channels / c->groups;
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t pair = 0; pair < pairs; ++pair) {
        int64_t first = pair % c->groups * width, start = pair * width * c->positions;
        channel ch = {.silu = c->silu};
        ch.n = row_normalizer_of(row_moments_of(c->x + start, width * c->positions), c->eps);
        for (int64_t i = 0; i < width; ++i) {
            const float *x = c->x + start + i * c->positions;
            float *y = c->out + start + i * c->positions;
            ch.weight = vf_set1(c->weight[first + i]);
            ch.bias = vf_set1(c->bias[first + i]);
            if (c->silu) forward_channel(&ch, x, y, c->positions);
            else forward_channel(&(channel){ch.n, ch.weight, ch.bias, false}, x, y, c->positions);
        }
    }
}

/* The gradient before the affine map, dz, goes to dx for now; its sum and that of dz * hat come
 * back. d silu(z) = s (1 + z (1 - s)) with s = sigmoid(z). */
KIN_INLINE void gather_step(const channel *c, const float *x, const float *dy, float *dz, int k,
                            vf *sum, vf *hat_sum) {
    vf hat = row_keep(row_normalize(&c->n, row_load(x, k)), k);
    vf g = row_load(dy, k);
    if (c->silu) {
        vf z = vf_fma(hat, c->weight, c->bias), s = sigmoid(z);
        g *= s * vf_fma(z, vf_set1(1.0f) - s, vf_set1(1.0f));
    }
    *sum += g;
    *hat_sum = vf_fma(g, hat, *hat_sum);
    row_store(dz, g, k);
}

KIN_INLINE void gather_block(const channel *c, const float *x, const float *dy, float *dz,
                             int64_t count, double *sum, double *hat_sum) {
    vf a = vf_zero(), b = vf_zero(), ah = vf_zero(), bh = vf_zero();
    int64_t i = 0;
    for (; i + 2 * VF_WIDTH <= count; i += 2 * VF_WIDTH) {
        gather_step(c, x + i, dy + i, dz + i, VF_WIDTH, &a, &ah);
        gather_step(c, x + i + VF_WIDTH, dy + i + VF_WIDTH, dz + i + VF_WIDTH, VF_WIDTH, &b, &bh);
    }
    for (; i < count; i += VF_WIDTH)
        gather_step(c, x + i, dy + i, dz + i, (int)row_min(count - i, VF_WIDTH), &a, &ah);
    *sum += vf_sum(a + b);
    *hat_sum += vf_sum(ah + bh);
}

/* dx = scale (w dz - mean(w dz) - hat mean(w dz hat)), in place. */
KIN_INLINE void finish_channel(const channel *c, const float *x, float *dx, int64_t count, vf mean,
                               vf hat_mean) {
    for (int64_t i = 0; i < count; i += VF_WIDTH) {
        int k = (int)row_min(count - i, VF_WIDTH);
        vf hat = row_normalize(&c->n, row_load(x + i, k));
        vf g = row_load(dx + i, k) * c->weight;
        row_store(dx + i, c->n.scale * ((g - mean) - hat * hat_mean), k);
    }
}

static void backward_pair(const cpu_group_norm_call *c, int64_t pair) {
    int64_t width = c->channels / c->groups, positions = c->positions;
    int64_t first = pair % c->groups * width, start = pair * width * positions;
    channel ch = {.silu = c->silu};
    ch.n = row_normalizer_of(row_moments_of(c->x + start, width * positions), c->eps);
    double total = 0, hat_total = 0;
    for (int64_t i = 0; i < width; ++i) {
        double sum = 0, hat_sum = 0;
        ch.weight = vf_set1(c->weight[first + i]);
        ch.bias = vf_set1(c->bias[first + i]);
        for (int64_t p = 0; p < positions; p += ROW_BLOCK) {
            int64_t at = start + i * positions + p;
            gather_block(&ch, c->x + at, c->dy + at, c->out + at, row_min(positions - p, ROW_BLOCK),
                         &sum, &hat_sum);
        }
        float *partial = c->partials + (pair * width + i) * 2;
        partial[0] = (float)hat_sum;
        partial[1] = (float)sum;
        total += sum * c->weight[first + i];
        hat_total += hat_sum * c->weight[first + i];
    }
    double count = (double)(width * positions);
    vf mean = vf_set1((float)(total / count)), hat_mean = vf_set1((float)(hat_total / count));
    for (int64_t i = 0; i < width; ++i) {
        int64_t at = start + i * positions;
        ch.weight = vf_set1(c->weight[first + i]);
        finish_channel(&ch, c->x + at, c->out + at, positions, mean, hat_mean);
    }
}

static void backward(const cpu_group_norm_call *c, int threads) {
    int64_t pairs = c->batch * c->groups;
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t pair = 0; pair < pairs; ++pair) backward_pair(c, pair);
    for (int64_t i = 0; i < c->channels; ++i) {
        double weight = 0, bias = 0;
        for (int64_t b = 0; b < c->batch; ++b) {
            weight += c->partials[(b * c->channels + i) * 2];
            bias += c->partials[(b * c->channels + i) * 2 + 1];
        }
        c->dweight[i] = (float)weight;
        c->dbias[i] = (float)bias;
    }
}

const cpu_group_norm_table KIN_ISA_NAME(cpu_group_norm) = {
    .forward = forward,
    .backward = backward,
};
