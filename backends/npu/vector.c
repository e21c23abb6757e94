/* What the vector unit does, instruction by instruction. It computes in f32 and converts what it
 * reads and writes on the way; the scalar unit beside it knows double. */
#include "npu.h"

#include "ops/elementwise_attrs.h"
#include "ops/optimizer_attrs.h"
#include "runtime/philox.h"

#include <math.h>
#include <string.h>

#define KX_C(c) ((float)(c))
#define KX_EXP(v) expf(v)
#define KX_LOG(v) logf(v)
#define KX_SQRT(v) sqrtf(v)
#define KX_SIN(v) sinf(v)
#define KX_COS(v) cosf(v)
#define KX_TANH(v) tanhf(v)
#define KX_ERF(v) erff(v)
#define KX_SELECT(cond, v, w) ((cond) ? (v) : (w))

enum { PART = 256 };

static void read_part(const unsigned char *scratchpad, const npu_port *port, int64_t first,
                      int64_t count, float *out) {
    const unsigned char *from = scratchpad + port->at;
    if (!port->used) return;
    if (!port->repeat) {
        kin_convert(from + (size_t)first * kin_dtype_size(port->dtype), port->dtype, out, KIN_F32,
                    count);
        return;
    }
    for (int64_t i = 0; i < count;) {
        int64_t at = (first + i) / port->repeat, left = port->repeat - (first + i) % port->repeat;
        float value;
        kin_convert(from + (size_t)at * kin_dtype_size(port->dtype), port->dtype, &value, KIN_F32,
                    1);
        for (; i < count && left > 0; i++, left--) out[i] = value;
    }
}

static void write_part(unsigned char *scratchpad, const npu_port *port, int64_t first,
                       int64_t count, const float *values) {
    kin_convert(values, KIN_F32,
                scratchpad + port->at + (size_t)first * kin_dtype_size(port->dtype), port->dtype,
                count);
}

/* ---- element-wise ---- */

#define UNARY_CASE(name, value, ...)                                                               \
    case NPU_FN_##name:                                                                            \
        for (int64_t i = 0; i < count; i++) {                                                      \
            const float x = a_[i];                                                                 \
            out[i] = value;                                                                        \
        }                                                                                          \
        break;
#define SLOPE_CASE(name, value, slope)                                                             \
    case NPU_FN_##name##_grad:                                                                     \
        for (int64_t i = 0; i < count; i++) {                                                      \
            const float x = a_[i];                                                                 \
            out[i] = b_[i] * (slope);                                                              \
        }                                                                                          \
        break;
#define BINARY_CASE(name, value)                                                                   \
    case NPU_FN_##name:                                                                            \
        for (int64_t i = 0; i < count; i++) {                                                      \
            const float a = a_[i], b = b_[i];                                                      \
            out[i] = value;                                                                        \
        }                                                                                          \
        break;

static void apply(npu_function function, float p, float q, const float *a_, const float *b_,
                  const float *c_, int64_t count, float *out) {
    switch (function) {
        KX_UNARY(UNARY_CASE)
        KX_AFFINE(UNARY_CASE)
        KX_UNARY(SLOPE_CASE)
    case NPU_FN_where:
        for (int64_t i = 0; i < count; i++) out[i] = a_[i] != 0 ? b_[i] : c_[i];
        break;
        KX_BINARY(BINARY_CASE)
    default:
        break;
    }
}

static void run_map(unsigned char *scratchpad, const npu_vector *v) {
    float in[3][PART], out[PART];
    for (int64_t at = 0; at < v->count; at += PART) {
        int64_t count = v->count - at < PART ? v->count - at : PART;
        for (int i = 0; i < 3; i++) read_part(scratchpad, &v->in[i], at, count, in[i]);
        apply(v->function, (float)v->p, (float)v->q, in[0], in[1], in[2], count, out);
        write_part(scratchpad, &v->out[0], at, count, out);
    }
}

static void run_fill(unsigned char *scratchpad, const npu_vector *v) {
    size_t size = kin_dtype_size(v->out[0].dtype);
    unsigned char *to = scratchpad + v->out[0].at;
    kin_element_set(to, v->out[0].dtype, 0, v->p);
    for (int64_t i = 1; i < v->count; i++) memcpy(to + (size_t)i * size, to, size);
}

/* ---- reductions ---- */

/* Lane i takes elements i, i + 64, ...; then the lanes are folded in halves. */
static float fold(const float *values, int64_t count, bool is_sum) {
    float lanes[NPU_LANES];
    for (int i = 0; i < NPU_LANES; i++) lanes[i] = is_sum ? 0 : -INFINITY;
    for (int64_t k = 0; k < count; k++) {
        float *lane = &lanes[k % NPU_LANES], value = values[k];
        if (is_sum) *lane += value;
        else if (value > *lane || value != value) *lane = value;
    }
    for (int half = NPU_LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) {
            float other = lanes[i + half];
            if (is_sum) lanes[i] += other;
            else if (other > lanes[i] || other != other) lanes[i] = other;
        }
    return lanes[0];
}

/* The tile of in 0 is small enough to be held as f32 in parts: rows of z, or columns. */
static void run_reduce(unsigned char *scratchpad, const npu_vector *v) {
    const bool is_sum = v->function == NPU_FN_sum;
    float *out = (float *)(void *)(scratchpad + v->out[0].at), part[PART];
    for (int64_t x = 0; x < v->x; x++) {
        float *row = out + x * v->z;
        for (int64_t z = 0; v->q == 0 && z < v->z; z++) row[z] = is_sum ? 0 : -INFINITY;
        for (int64_t y = 0; v->z > 1 && y < v->y; y++)
            for (int64_t z = 0; z < v->z; z += PART) {
                int64_t count = v->z - z < PART ? v->z - z : PART;
                read_part(scratchpad, &v->in[0], (x * v->y + y) * v->z + z, count, part);
                for (int64_t i = 0; i < count; i++) {
                    float *to = &row[z + i];
                    if (is_sum) *to += part[i];
                    else if (part[i] > *to || part[i] != part[i]) *to = part[i];
                }
            }
        for (int64_t y = 0; v->z == 1 && y < v->y; y += PART) {
            int64_t count = v->y - y < PART ? v->y - y : PART;
            read_part(scratchpad, &v->in[0], x * v->y + y, count, part);
            float value = fold(part, count, is_sum);
            if (is_sum) row[0] += value;
            else if (value > row[0] || value != value) row[0] = value;
        }
    }
}

static void run_scatter(unsigned char *scratchpad, const npu_vector *v) {
    float *table = (float *)(void *)(scratchpad + v->out[0].at), part[PART];
    int64_t rows = v->count / v->y;
    for (int64_t i = 0; i < rows; i++) {
        int64_t id = 0;
        kin_convert(scratchpad + v->in[1].at + (size_t)i * kin_dtype_size(v->in[1].dtype),
                    v->in[1].dtype, &id, KIN_I64, 1);
        if (id < v->z || id >= v->z + v->x) continue;
        float *row = table + (id - v->z) * v->y;
        for (int64_t c = 0; c < v->y; c += PART) {
            int64_t count = v->y - c < PART ? v->y - c : PART;
            read_part(scratchpad, &v->in[0], i * v->y + c, count, part);
            for (int64_t k = 0; k < count; k++) row[c + k] += part[k];
        }
    }
}

/* ---- angles and random numbers ---- */

/* x (p + q) in turns: the whole turns of x p are cut off before the rest is added, so that large
 * angles lose nothing. */
static void run_turns(unsigned char *scratchpad, const npu_vector *v) {
    const float two_pi = 6.28318530717958648f, high = (float)v->p, low = (float)v->q;
    float *out = (float *)(void *)(scratchpad + v->out[0].at), part[PART];
    for (int64_t at = 0; at < v->count; at += PART) {
        int64_t count = v->count - at < PART ? v->count - at : PART;
        read_part(scratchpad, &v->in[0], at, count, part);
        for (int64_t i = 0; i < count; i++) {
            float turns = part[i] * high, rest = fmaf(part[i], high, -turns);
            float angle = two_pi * (turns - rintf(turns) + fmaf(part[i], low, rest));
            out[at + i] = v->function == NPU_FN_cosine ? cosf(angle) : sinf(angle);
        }
    }
}

static void run_random(unsigned char *scratchpad, const npu_vector *v) {
    uint64_t seed[2];
    float *out = (float *)(void *)(scratchpad + v->out[0].at);
    memcpy(seed, scratchpad + v->in[0].at, sizeof seed);
    if (v->function == NPU_FN_normal)
        kin_philox_fill_normal(seed[0], (uint32_t)v->x, seed[1], (uint64_t)v->y, (size_t)v->count,
                               out);
    else
        kin_philox_fill_uniform(seed[0], (uint32_t)v->x, seed[1], (uint64_t)v->y, (size_t)v->count,
                                out);
}

/* ---- updates ---- */

/* The numbers of a step: gradient scale, weight decay factor, step size, 1 / sqrt(correction of v),
 * and 0 if the step is skipped. */
enum { RATE_SCALE, RATE_KEEP, RATE_STEP, RATE_ROOT, RATE_GO, RATES };

static double scalar_of(const unsigned char *scratchpad, const npu_port *port, double absent) {
    return port->used ? kin_element_get(scratchpad + port->at, port->dtype, 0) : absent;
}

static void run_rates(unsigned char *scratchpad, const npu_vector *v) {
    const kin_adamw_attrs *a = v->attrs;
    double lr = scalar_of(scratchpad, &v->in[0], 0), step = scalar_of(scratchpad, &v->in[1], 1);
    double scale = scalar_of(scratchpad, &v->in[2], 1);
    bool skipped = v->in[2].used && (scale == 0 || !isfinite(scale));
    float rates[RATES] = {
        [RATE_SCALE] = (float)scale,
        [RATE_KEEP] = (float)(1 - lr * a->weight_decay),
        [RATE_STEP] = (float)(lr / (1 - pow(a->beta1, step))),
        [RATE_ROOT] = (float)(1 / sqrt(1 - pow(a->beta2, step))),
        [RATE_GO] = skipped ? 0 : 1,
    };
    memcpy(scratchpad + v->out[0].at, rates, sizeof rates);
}

static void run_adamw(unsigned char *scratchpad, const npu_vector *v) {
    const kin_adamw_attrs *a = v->attrs;
    float rates[RATES], in[4][PART];
    const float beta1 = (float)a->beta1, beta2 = (float)a->beta2;
    const float rest1 = (float)(1 - a->beta1), rest2 = (float)(1 - a->beta2), eps = (float)a->eps;
    memcpy(rates, scratchpad + v->in[4].at, sizeof rates);
    for (int64_t at = 0; at < v->count; at += PART) {
        int64_t count = v->count - at < PART ? v->count - at : PART;
        for (int i = 0; i < 4; i++) read_part(scratchpad, &v->in[i], at, count, in[i]);
        float *p = in[0], *m = in[2], *s = in[3];
        for (int64_t i = 0; rates[RATE_GO] != 0 && i < count; i++) {
            float g = in[1][i] * rates[RATE_SCALE];
            m[i] = beta1 * m[i] + rest1 * g;
            s[i] = beta2 * s[i] + rest2 * g * g;
            p[i] = p[i] * rates[RATE_KEEP] -
                   rates[RATE_STEP] * m[i] / (sqrtf(s[i]) * rates[RATE_ROOT] + eps);
        }
        write_part(scratchpad, &v->out[0], at, count, p);
        write_part(scratchpad, &v->out[1], at, count, m);
        write_part(scratchpad, &v->out[2], at, count, s);
    }
}

static void run_ema(unsigned char *scratchpad, const npu_vector *v) {
    double scale = scalar_of(scratchpad, &v->in[2], 1);
    bool skipped = v->in[2].used && (scale == 0 || !isfinite(scale));
    const float keep = skipped ? 1 : (float)v->p, take = skipped ? 0 : (float)(1 - v->p);
    float average[PART], value[PART];
    for (int64_t at = 0; at < v->count; at += PART) {
        int64_t count = v->count - at < PART ? v->count - at : PART;
        read_part(scratchpad, &v->in[0], at, count, average);
        read_part(scratchpad, &v->in[1], at, count, value);
        for (int64_t i = 0; !skipped && i < count; i++)
            average[i] = keep * average[i] + take * value[i];
        write_part(scratchpad, &v->out[0], at, count, average);
    }
}

void npu_run_vector(unsigned char *scratchpad, const npu_vector *v) {
    switch (v->function) {
    case NPU_FN_convert:
        kin_convert(scratchpad + v->in[0].at, v->in[0].dtype, scratchpad + v->out[0].at,
                    v->out[0].dtype, v->count);
        break;
    case NPU_FN_fill:
        run_fill(scratchpad, v);
        break;
    case NPU_FN_sum:
    case NPU_FN_max:
        run_reduce(scratchpad, v);
        break;
    case NPU_FN_cosine:
    case NPU_FN_sine:
        run_turns(scratchpad, v);
        break;
    case NPU_FN_uniform:
    case NPU_FN_normal:
        run_random(scratchpad, v);
        break;
    case NPU_FN_scatter:
        run_scatter(scratchpad, v);
        break;
    case NPU_FN_adamw_rate:
        run_rates(scratchpad, v);
        break;
    case NPU_FN_adamw:
        run_adamw(scratchpad, v);
        break;
    case NPU_FN_ema:
        run_ema(scratchpad, v);
        break;
    default:
        run_map(scratchpad, v);
        break;
    }
}
