/* AdamW, averages and norms of gradients: one pass over memory each. */
#include "backends/cpu/optimizer_table.h"
#include "backends/cpu/row_math.h"

KIN_INLINE void adamw_step(const cpu_adamw_step *s, const cpu_adamw_data *d, int64_t i, int k) {
    vf g = row_load(d->gradient + i, k) * vf_set1(s->gradient_scale);
    vf m = vf_fma(row_load(d->m + i, k), vf_set1(s->keep1), g * vf_set1(s->take1));
    vf v = vf_fma(row_load(d->v + i, k), vf_set1(s->keep2), g * g * vf_set1(s->take2));
    vf root = vf_fma(vf_sqrt(v), vf_set1(s->root_scale), vf_set1(s->eps));
    vf change = vf_set1(s->rate) * m / root;
    vf p = row_load(d->p + i, k) * vf_set1(s->decay) - change;
    row_store(d->p_out + i, p, k);
    row_store(d->m_out + i, m, k);
    row_store(d->v_out + i, v, k);
    if (d->average) {
        vf old = row_load(d->average + i, k);
        row_store(d->average_out + i, vf_fma(p - old, vf_set1(d->average_weight), old), k);
    }
}

static void adamw(const cpu_adamw_step *step, const cpu_adamw_data *data, int64_t first,
                  int64_t last) {
    int64_t i = first;
    for (; i + VF_WIDTH <= last; i += VF_WIDTH) adamw_step(step, data, i, VF_WIDTH);
    if (i < last) adamw_step(step, data, i, (int)(last - i));
}

static void blend(const float *a, const float *b, float weight, float *out, int64_t first,
                  int64_t last) {
    vf w = vf_set1(weight);
    for (int64_t i = first; i < last; i += VF_WIDTH) {
        int k = (int)row_min(last - i, VF_WIDTH);
        vf old = row_load(a + i, k);
        row_store(out + i, vf_fma(row_load(b + i, k) - old, w, old), k);
    }
}

static void add(const float *a, const float *b, float *out, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i += VF_WIDTH) {
        int k = (int)row_min(last - i, VF_WIDTH);
        row_store(out + i, row_load(a + i, k) + row_load(b + i, k), k);
    }
}

static double squares(const float *x, int64_t count) {
    return row_squares(x, count);
}

const cpu_optimizer_table KIN_ISA_NAME(cpu_optimizer) = {
    .adamw = adamw,
    .blend = blend,
    .add = add,
    .squares = squares,
};
