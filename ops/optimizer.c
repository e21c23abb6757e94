/* The end of a training step: norm of the gradients, AdamW, averages, assignments. */
#include "ops/optimizer.h"

#include <math.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/reduce.h"

static kin_status check_scalar(kin_infer *infer, int input, kin_dtype dtype) {
    kin_status status = kin_infer_dtype(infer, input, dtype);
    if (status != KIN_OK || infer->in[input]->rank == 0) return status;
    return kin_infer_fail(infer, "input %d must be a scalar", input);
}

#define IN(r, ...)                                                                                 \
    {                                                                                              \
        .dtype = KIN_F32, .rank = (r), .dims = { __VA_ARGS__ }                                     \
    }
#define PLAIN(r, ...)                                                                              \
    { .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .fixed = true }
#define POSITIVE(size, r, ...)                                                                     \
    {                                                                                              \
        .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .fill = KIN_FILL_POSITIVE,           \
        .scale = (size), .fixed = true                                                             \
    }
#define ZERO                                                                                       \
    { .dtype = KIN_F32, .rank = 0, .fill = KIN_FILL_ZERO, .fixed = true }
#define ABSENT                                                                                     \
    { .rank = -1 }
#define CASES(list) .cases = list, .case_count = sizeof list / sizeof *list

/* ---- global_norm --------------------------------------------------------------------------- */

static kin_status infer_norm(kin_infer *infer) {
    if (infer->in_count < 1) return kin_infer_fail(infer, "needs a tensor at least");
    for (int i = 0; i < infer->in_count; i++) {
        kin_status status = kin_infer_float(infer, i);
        if (status != KIN_OK) return status;
    }
    infer->out[0] = kin_desc_dense(KIN_F32, 0, NULL);
    return KIN_OK;
}

static void reference_norm(const kin_reference *call) {
    double sum = 0;
    for (int i = 0; i < call->in_count; i++) {
        int64_t count = kin_desc_count(&call->in_desc[i]);
        for (int64_t k = 0; k < count; k++) sum += call->in[i][k] * call->in[i][k];
    }
    call->out[0][0] = sqrt(sum);
}

static void lower_norm(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    kin_tensor sum = KIN_NONE;
    for (int i = 0; i < call->in_count; i++) {
        kin_tensor x = kin_cast(graph, call->in[i], KIN_F32);
        kin_tensor square = kin_sum_all(graph, kin_square(graph, x));
        sum = i == 0 ? square : kin_add(graph, sum, square);
    }
    call->out[0] = kin_sqrt(graph, sum);
}

static void cost_norm(const kin_cost_call *call, kin_cost *cost) {
    cost->reduction = 0;
    for (int i = 0; i < call->in_count; i++)
        cost->reduction += (double)kin_desc_count(&call->in[i]);
    cost->flops = 2 * cost->reduction;
}

static const kin_case norm_cases[] = {
    {.name = "one number", .input_count = 1, .inputs = {IN(0, 0)}},
    {.name = "several shapes",
     .input_count = 4,
     .inputs = {IN(2, 3, 4), IN(1, 7), IN(0, 0), IN(3, 5, 67, 3)}},
    {.name = "longer than a part", .input_count = 2, .inputs = {IN(2, 70, 1000), IN(1, 1)}},
    {.name = "large", .input_count = 2, .inputs = {IN(2, 4608, 1152), IN(1, 4608)}, .bench = true},
};

const kin_op kin_op_global_norm = {
    .name = "global_norm",
    .summary = "sqrt of the sum of the squares of all elements of all inputs",
    .flags = KIN_OP_COMPOSITE,
    .outputs = 1,
    .infer = infer_norm,
    .reference = reference_norm,
    .lower = lower_norm,
    .cost = cost_norm,
    CASES(norm_cases),
};

/* ---- clip_scale ---------------------------------------------------------------------------- */

static kin_status infer_clip(kin_infer *infer) {
    const kin_clip_scale_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) status = check_scalar(infer, 0, KIN_F32);
    if (status != KIN_OK) return status;
    if (!(attrs->max_norm > 0)) return kin_infer_fail(infer, "the largest norm must be positive");
    infer->out[0] = kin_desc_dense(KIN_F32, 0, NULL);
    return KIN_OK;
}

static void reference_clip(const kin_reference *call) {
    const kin_clip_scale_attrs *attrs = call->attrs;
    double norm = call->in[0][0], scale = attrs->max_norm / (norm + 1e-6);
    call->out[0][0] = !isfinite(norm) ? 0 : scale < 1 ? scale : 1;
}

static kin_tensor scalar(kin_graph *graph, double value) {
    return kin_fill(graph, KIN_F32, 0, NULL, value);
}

static const double largest_f32 = 0x1.fffffep127;

static void lower_clip(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    const kin_clip_scale_attrs *attrs = call->attrs;
    kin_tensor norm = call->in[0];
    kin_tensor scale =
        kin_div(graph, scalar(graph, attrs->max_norm), kin_scale(graph, norm, 1, 1e-6));
    kin_tensor finite = kin_less(graph, norm, scalar(graph, largest_f32));
    scale = kin_minimum(graph, scale, scalar(graph, 1));
    call->out[0] = kin_where(graph, finite, scale, scalar(graph, 0));
}

static const kin_clip_scale_attrs clip1 = {1}, clip_large = {1e4};

static const kin_case clip_cases[] = {
    {.name = "clips", .attrs = &clip1, .input_count = 1, .inputs = {POSITIVE(100, 0, 0)}},
    {.name = "keeps", .attrs = &clip_large, .input_count = 1, .inputs = {POSITIVE(100, 0, 0)}},
    {.name = "no gradient", .attrs = &clip1, .input_count = 1, .inputs = {ZERO}},
};

const kin_op kin_op_clip_scale = {
    .name = "clip_scale",
    .summary = "min(1, max_norm / (norm + 1e-6)); 0 if the norm is not finite",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_clip_scale_attrs),
    .outputs = 1,
    .infer = infer_clip,
    .reference = reference_clip,
    .lower = lower_clip,
    CASES(clip_cases),
};

/* ---- adamw --------------------------------------------------------------------------------- */

static bool is_below_one(double beta) {
    return beta >= 0 && beta < 1;
}

/* p, gradient and `states` states of one shape, then lr, step and scale. */
static kin_status check_step(kin_infer *infer, int states, const kin_adamw_attrs *attrs) {
    const int lr = 2 + states;
    kin_status status = kin_infer_inputs(infer, lr + 3, lr + 3);
    for (int i = 0; i < lr && status == KIN_OK; i++) {
        status = kin_infer_float(infer, i);
        if (status == KIN_OK && i > 0) status = kin_infer_same_shape(infer, 0, i);
    }
    if (status == KIN_OK) status = check_scalar(infer, lr, KIN_F32);
    if (status == KIN_OK) status = check_scalar(infer, lr + 1, KIN_I64);
    if (status == KIN_OK && infer->in[lr + 2]) status = check_scalar(infer, lr + 2, KIN_F32);
    if (status != KIN_OK) return status;
    if (!is_below_one(attrs->beta1) || !is_below_one(attrs->beta2) || !(attrs->eps >= 0) ||
        !(attrs->weight_decay >= 0))
        return kin_infer_fail(infer,
                              "needs betas in [0, 1), and eps and weight decay not negative");
    for (int j = 0; j <= states; j++) {
        const int target = j == 0 ? 0 : j + 1;
        kin_infer_like(infer, j, target, infer->in[target]->dtype);
    }
    return KIN_OK;
}

static kin_status infer_adamw(kin_infer *infer) {
    return check_step(infer, 2, infer->attrs);
}

static bool skips(const double *scale) {
    return scale && (scale[0] == 0 || !isfinite(scale[0]));
}

/* lr, step and scale are inputs lr_at and the two behind it. */
static void reference_step(const kin_reference *call, const kin_adamw_attrs *a, int lr_at) {
    const double *const *scalars = call->in + lr_at;
    double lr = scalars[0][0], scale = scalars[2] ? scalars[2][0] : 1;
    double correction1 = 1 - pow(a->beta1, scalars[1][0]);
    double correction2 = 1 - pow(a->beta2, scalars[1][0]);
    int64_t count = kin_desc_count(&call->in_desc[0]);
    for (int64_t i = 0; i < count; i++) {
        double p = call->in[0][i], m = call->in[2][i], v = call->in[3][i];
        double g = call->in[1][i] * scale;
        if (!skips(scalars[2])) {
            p *= 1 - lr * a->weight_decay;
            m = a->beta1 * m + (1 - a->beta1) * g;
            v = a->beta2 * v + (1 - a->beta2) * g * g;
            p -= lr / correction1 * m / (sqrt(v) / sqrt(correction2) + a->eps);
        }
        call->out[0][i] = p;
        call->out[1][i] = m;
        call->out[2][i] = v;
    }
}

static void reference_adamw(const kin_reference *call) {
    reference_step(call, call->attrs, 4);
}

static void cost_adamw(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = 16 * (double)kin_desc_count(&call->out[0]);
}

#define STEP                                                                                       \
    { .dtype = KIN_I64, .rank = 0, .fill = KIN_FILL_POSITIVE, .scale = 10, .fixed = true }
#define ADAMW(title, attributes, scale, ...)                                                       \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 7, .inputs = {                       \
            PLAIN(__VA_ARGS__),                                                                    \
            IN(__VA_ARGS__),                                                                       \
            PLAIN(__VA_ARGS__),                                                                    \
            POSITIVE(0.1, __VA_ARGS__),                                                            \
            POSITIVE(1e-2, 0, 0),                                                                  \
            STEP,                                                                                  \
            scale                                                                                  \
        }                                                                                          \
    }

static const kin_adamw_attrs usual = {0.9, 0.999, 1e-8, 0.01}, plain = {0, 0.95, 1e-6, 0};

static const kin_case adamw_cases[] = {
    ADAMW("one number", usual, ABSENT, 0, 0),
    ADAMW("odd size", usual, ABSENT, 2, 4, 9),
    ADAMW("scaled", plain, POSITIVE(0.5, 0, 0), 2, 5, 33),
    ADAMW("skipped", usual, ZERO, 1, 37),
    ADAMW("several parts", usual, ABSENT, 2, 41, 1000),
    {.name = "4608 x 1152",
     .attrs = &usual,
     .input_count = 7,
     .inputs = {PLAIN(2, 4608, 1152), IN(2, 4608, 1152), PLAIN(2, 4608, 1152),
                POSITIVE(0.1, 2, 4608, 1152), POSITIVE(1e-2, 0, 0), STEP, ABSENT},
     .bench = true},
};

const kin_op kin_op_adamw = {
    .name = "adamw",
    .summary = "p, gradient, m, v, lr, step, scale -> p, m, v after a step of AdamW "
               "(arXiv:1711.05101, as in PyTorch); a scale of 0 skips it",
    .flags = KIN_OP_UPDATE,
    .attrs_size = sizeof(kin_adamw_attrs),
    .outputs = 3,
    .aliases = {1, 3, 4},
    .optional = 1u << 6,
    .infer = infer_adamw,
    .reference = reference_adamw,
    .cost = cost_adamw,
    CASES(adamw_cases),
};

/* ---- ema ----------------------------------------------------------------------------------- */

static bool is_decay(double decay) {
    return decay >= 0 && decay <= 1;
}

static kin_status fail_decay(kin_infer *infer, double decay) {
    return kin_infer_fail(infer, "the decay must be within [0, 1], not %g", decay);
}

static kin_status infer_ema(kin_infer *infer) {
    const kin_ema_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 3, 3);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_float(infer, 1);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, 0, 1);
    if (status == KIN_OK && infer->in[2]) status = check_scalar(infer, 2, KIN_F32);
    if (status != KIN_OK) return status;
    if (!is_decay(attrs->decay)) return fail_decay(infer, attrs->decay);
    kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return KIN_OK;
}

static void reference_ema(const kin_reference *call) {
    const kin_ema_attrs *attrs = call->attrs;
    double decay = skips(call->in[2]) ? 1 : attrs->decay;
    int64_t count = kin_desc_count(&call->in_desc[0]);
    for (int64_t i = 0; i < count; i++)
        call->out[0][i] = decay * call->in[0][i] + (1 - decay) * call->in[1][i];
}

static void cost_ema(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = 3 * (double)kin_desc_count(&call->out[0]);
}

static const kin_ema_attrs slow = {0.9999}, half = {0.5}, none = {0};

static const kin_case ema_cases[] = {
    {.name = "one number",
     .attrs = &half,
     .input_count = 3,
     .inputs = {PLAIN(0, 0), IN(0, 0), ABSENT}},
    {.name = "slow",
     .attrs = &slow,
     .input_count = 3,
     .inputs = {PLAIN(2, 5, 7), IN(2, 5, 7), ABSENT}},
    {.name = "no memory",
     .attrs = &none,
     .input_count = 3,
     .inputs = {PLAIN(1, 19), IN(1, 19), POSITIVE(1, 0, 0)}},
    {.name = "skipped",
     .attrs = &half,
     .input_count = 3,
     .inputs = {PLAIN(1, 19), IN(1, 19), ZERO}},
    {.name = "4608 x 1152",
     .attrs = &slow,
     .input_count = 3,
     .inputs = {PLAIN(2, 4608, 1152), IN(2, 4608, 1152), ABSENT},
     .bench = true},
};

const kin_op kin_op_ema = {
    .name = "ema",
    .summary = "average, p, scale -> decay * average + (1 - decay) * p; a scale of 0 skips it",
    .flags = KIN_OP_UPDATE,
    .attrs_size = sizeof(kin_ema_attrs),
    .outputs = 1,
    .aliases = {1},
    .optional = 1u << 2,
    .infer = infer_ema,
    .reference = reference_ema,
    .cost = cost_ema,
    CASES(ema_cases),
};

/* ---- adamw_ema: both in one pass over memory ------------------------------------------------ */

static kin_status infer_adamw_ema(kin_infer *infer) {
    const kin_adamw_ema_attrs *attrs = infer->attrs;
    kin_status status = check_step(infer, 3, &attrs->adamw);
    if (status == KIN_OK && !is_decay(attrs->decay)) status = fail_decay(infer, attrs->decay);
    return status;
}

static void reference_adamw_ema(const kin_reference *call) {
    const kin_adamw_ema_attrs *attrs = call->attrs;
    double decay = skips(call->in[7]) ? 1 : attrs->decay;
    int64_t count = kin_desc_count(&call->in_desc[0]);
    reference_step(call, &attrs->adamw, 5);
    for (int64_t i = 0; i < count; i++)
        call->out[3][i] = decay * call->in[4][i] + (1 - decay) * call->out[0][i];
}

static void lower_adamw_ema(kin_lower_call *call) {
    const kin_adamw_ema_attrs *attrs = call->attrs;
    const kin_tensor *in = call->in;
    kin_tensor step[] = {in[0], in[1], in[2], in[3], in[5], in[6], in[7]}, out[KIN_MAX_OUTPUTS];
    kin_append(call->graph, &kin_op_adamw, &attrs->adamw, step, 7, out);
    for (int j = 0; j < 3; j++) call->out[j] = out[j];
    call->out[3] = kin_ema(call->graph, in[4], out[0], attrs->decay, in[7]);
}

static void cost_adamw_ema(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = 19 * (double)kin_desc_count(&call->out[0]);
}

#define ADAMW_EMA(title, attributes, scale, ...)                                                   \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 8, .inputs = {                       \
            PLAIN(__VA_ARGS__),                                                                    \
            IN(__VA_ARGS__),                                                                       \
            PLAIN(__VA_ARGS__),                                                                    \
            POSITIVE(0.1, __VA_ARGS__),                                                            \
            PLAIN(__VA_ARGS__),                                                                    \
            POSITIVE(1e-2, 0, 0),                                                                  \
            STEP,                                                                                  \
            scale                                                                                  \
        }                                                                                          \
    }

static const kin_adamw_ema_attrs usual_slow = {{0.9, 0.999, 1e-8, 0.01}, 0.9999},
                                 plain_half = {{0, 0.95, 1e-6, 0}, 0.5};

static const kin_case adamw_ema_cases[] = {
    ADAMW_EMA("one number", plain_half, ABSENT, 0, 0),
    ADAMW_EMA("odd size", usual_slow, ABSENT, 2, 4, 9),
    ADAMW_EMA("scaled", plain_half, POSITIVE(0.5, 0, 0), 2, 5, 33),
    ADAMW_EMA("skipped", plain_half, ZERO, 1, 37),
    ADAMW_EMA("several parts", usual_slow, ABSENT, 2, 41, 1000),
    {.name = "4608 x 1152",
     .attrs = &usual_slow,
     .input_count = 8,
     .inputs = {PLAIN(2, 4608, 1152), IN(2, 4608, 1152), PLAIN(2, 4608, 1152),
                POSITIVE(0.1, 2, 4608, 1152), PLAIN(2, 4608, 1152), POSITIVE(1e-2, 0, 0), STEP,
                ABSENT},
     .bench = true},
};

const kin_op kin_op_adamw_ema = {
    .name = "adamw_ema",
    .summary =
        "p, gradient, m, v, average, lr, step, scale -> p, m, v after adamw, and the average "
        "after ema of that p",
    .flags = KIN_OP_UPDATE | KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_adamw_ema_attrs),
    .outputs = 4,
    .aliases = {1, 3, 4, 5},
    .optional = 1u << 7,
    .infer = infer_adamw_ema,
    .reference = reference_adamw_ema,
    .lower = lower_adamw_ema,
    .cost = cost_adamw_ema,
    CASES(adamw_ema_cases),
};

/* ---- accumulate and assign ----------------------------------------------------------------- */

static kin_status infer_accumulate(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 2, 2);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_float(infer, 1);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, 0, 1);
    if (status == KIN_OK) kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return status;
}

static kin_status infer_assign(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 2, 2);
    if (status == KIN_OK) status = kin_infer_dtype(infer, 1, infer->in[0]->dtype);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, 0, 1);
    if (status == KIN_OK) kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return status;
}

static void reference_accumulate(const kin_reference *call) {
    int64_t count = kin_desc_count(&call->in_desc[0]);
    for (int64_t i = 0; i < count; i++) call->out[0][i] = call->in[0][i] + call->in[1][i];
}

static void reference_assign(const kin_reference *call) {
    int64_t count = kin_desc_count(&call->in_desc[0]);
    for (int64_t i = 0; i < count; i++) call->out[0][i] = call->in[1][i];
}

static void cost_accumulate(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = (double)kin_desc_count(&call->out[0]);
}

/* The old value is not read. */
static void cost_assign(const kin_cost_call *call, kin_cost *cost) {
    cost->bytes = 2 * (double)kin_desc_bytes(&call->out[0]);
}

static const kin_case pair_cases[] = {
    {.name = "one number", .input_count = 2, .inputs = {PLAIN(0, 0), PLAIN(0, 0)}},
    {.name = "odd size", .input_count = 2, .inputs = {PLAIN(3, 3, 5, 7), PLAIN(3, 3, 5, 7)}},
    {.name = "from a view",
     .input_count = 2,
     .inputs = {PLAIN(2, 9, 17),
                {.dtype = KIN_F32,
                 .rank = 2,
                 .dims = {9, 17},
                 .layout = KIN_LAYOUT_TRANSPOSED,
                 .fixed = true}}},
    {.name = "4608 x 1152",
     .input_count = 2,
     .inputs = {PLAIN(2, 4608, 1152), PLAIN(2, 4608, 1152)},
     .bench = true},
};

const kin_op kin_op_accumulate = {
    .name = "accumulate",
    .summary = "sum, x -> sum + x",
    .flags = KIN_OP_UPDATE,
    .outputs = 1,
    .aliases = {1},
    .infer = infer_accumulate,
    .reference = reference_accumulate,
    .cost = cost_accumulate,
    CASES(pair_cases),
};

const kin_op kin_op_assign = {
    .name = "assign",
    .summary = "target, x -> x",
    .flags = KIN_OP_UPDATE,
    .outputs = 1,
    .aliases = {1},
    .infer = infer_assign,
    .reference = reference_assign,
    .cost = cost_assign,
    CASES(pair_cases),
};

/* ---- builders ------------------------------------------------------------------------------ */

kin_tensor kin_global_norm(kin_graph *graph, const kin_tensor *gradients, int count) {
    return kin_append1(graph, &kin_op_global_norm, NULL, gradients, count);
}

kin_tensor kin_clip_scale(kin_graph *graph, kin_tensor norm, double max_norm) {
    return kin_append1(graph, &kin_op_clip_scale, &(kin_clip_scale_attrs){max_norm}, &norm, 1);
}

kin_tensor kin_adamw(kin_graph *graph, kin_tensor p, kin_tensor gradient, kin_tensor m,
                     kin_tensor v, kin_tensor lr, kin_tensor step, kin_tensor grad_scale,
                     const kin_adamw_attrs *attrs) {
    kin_tensor inputs[] = {p, gradient, m, v, lr, step, grad_scale};
    return kin_append1(graph, &kin_op_adamw, attrs, inputs, 7);
}

kin_tensor kin_adamw_ema(kin_graph *graph, kin_tensor p, kin_tensor gradient, kin_tensor m,
                         kin_tensor v, kin_tensor average, kin_tensor lr, kin_tensor step,
                         kin_tensor grad_scale, const kin_adamw_ema_attrs *attrs) {
    kin_tensor inputs[] = {p, gradient, m, v, average, lr, step, grad_scale};
    return kin_append1(graph, &kin_op_adamw_ema, attrs, inputs, 8);
}

kin_tensor kin_ema(kin_graph *graph, kin_tensor average, kin_tensor p, double decay,
                   kin_tensor scale) {
    kin_tensor inputs[] = {average, p, scale};
    return kin_append1(graph, &kin_op_ema, &(kin_ema_attrs){decay}, inputs, 3);
}

kin_tensor kin_accumulate(kin_graph *graph, kin_tensor sum, kin_tensor x) {
    kin_tensor inputs[] = {sum, x};
    return kin_append1(graph, &kin_op_accumulate, NULL, inputs, 2);
}

kin_tensor kin_assign(kin_graph *graph, kin_tensor target, kin_tensor x) {
    kin_tensor inputs[] = {target, x};
    return kin_append1(graph, &kin_op_assign, NULL, inputs, 2);
}
