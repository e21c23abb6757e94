/* Cases of single ops: several sub-cases S with inputs S.NAME, results S.out and gradients
 * S.grad.NAME of sum(S.out * S.cotangent). */
#include "tools/check/case_run.h"

#include <math.h>
#include <string.h>

#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/loss.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/reduce.h"
#include "ops/rope.h"
#include "ops/softmax.h"
#include "ops/upsample.h"
#include "ops/views.h"

/* One sub-case while its graph is built. */
typedef struct sub_case {
    kin_case_run *run;
    kin_case_graph graph;
    kin_graph *g;
    const char *name;
    const json_t *args;
} sub_case;

static bool has(const sub_case *sub, const char *name) {
    char full[KIN_CASE_NAME];
    snprintf(full, sizeof full, "%s.%s", sub->name, name);
    return kin_case_input_tensor(sub->run, full) != NULL;
}

static kin_tensor in(sub_case *sub, const char *name) {
    char full[KIN_CASE_NAME];
    snprintf(full, sizeof full, "%s.%s", sub->name, name);
    return kin_case_feed_input(&sub->graph, full, KIN_I32);
}

/* KIN_NONE where the sub-case has no such input. */
static kin_tensor maybe(sub_case *sub, const char *name) {
    return has(sub, name) ? in(sub, name) : KIN_NONE;
}

static double number(const sub_case *sub, const char *key, double fallback) {
    return kin_case_number(sub->args, key, fallback);
}

static const char *text(const sub_case *sub, const char *key) {
    const char *value = json_string_value(json_object_get(sub->args, key));
    return value ? value : "";
}

static bool flag(const sub_case *sub, const char *key) {
    return json_is_true(json_object_get(sub->args, key));
}

/* A whole number or a list of them; a number stands for every entry. */
static void read_ints(const sub_case *sub, const char *key, int64_t *values, size_t count) {
    const json_t *value = json_object_get(sub->args, key);
    for (size_t i = 0; i < count; i++)
        values[i] = json_integer_value(json_is_array(value) ? json_array_get(value, i) : value);
}

static kin_tensor activations(sub_case *sub) {
    kin_tensor x = in(sub, "x");
    const char *fn = text(sub, "fn");
    if (strcmp(fn, "silu") == 0) return kin_silu(sub->g, x);
    if (strcmp(fn, "relu") == 0) return kin_relu(sub->g, x);
    if (strcmp(fn, "gelu_erf") == 0) return kin_gelu(sub->g, x);
    if (strcmp(fn, "gelu_tanh") == 0) return kin_gelu_tanh(sub->g, x);
    return kin_graph_fail(sub->g, KIN_UNSUPPORTED, "no activation '%s'", fn);
}

/* keep, true where a key takes part, as numbers to add to the scores. */
static kin_tensor mask_to_add(sub_case *sub) {
    char full[KIN_CASE_NAME];
    snprintf(full, sizeof full, "%s.keep", sub->name);
    const kin_named_tensor *keep = kin_case_input_tensor(sub->run, full);
    float *values = kin_case_values(sub->run, keep, KIN_F32);
    if (!values) return KIN_NONE;
    for (int64_t i = 0; i < kin_desc_count(&keep->desc); i++)
        values[i] = values[i] != 0 ? 0 : -INFINITY;
    kin_tensor mask =
        kin_case_feed_values(&sub->graph, full, KIN_F32, keep->desc.rank, keep->desc.dims, values);
    kin_free(sub->run->context, values);
    return mask;
}

static kin_tensor attention(sub_case *sub) {
    kin_graph *g = sub->g;
    kin_tensor q = in(sub, "q"), k = in(sub, "k"), v = in(sub, "v");
    kin_tensor bias = has(sub, "keep") ? mask_to_add(sub) : maybe(sub, "mask");
    double scale = number(sub, "scale", 1 / sqrt((double)kin_dim(g, q, -1)));
    /* [B, H, N, D] there, [B, N, H, D] here. */
    kin_tensor out = kin_attention(g, kin_transpose(g, q, 1, 2), kin_transpose(g, k, 1, 2),
                                   kin_transpose(g, v, 1, 2), KIN_NONE, bias, scale);
    return kin_transpose(g, out, 1, 2);
}

static kin_tensor convolution(sub_case *sub) {
    kin_graph *g = sub->g;
    const char *fn = text(sub, "fn");
    kin_tensor x = in(sub, "x");
    int64_t stride[3], pad[3], around[4], scale[3];
    if (strcmp(fn, "upsample_nearest") == 0) {
        bool image = kin_rank(g, x) == 4;
        read_ints(sub, "scale", scale, image ? 2 : 3);
        return image ? kin_upsample_nearest(g, x, 1, scale[0], scale[1])
                     : kin_upsample_nearest(g, x, scale[0], scale[1], scale[2]);
    }
    kin_tensor w = in(sub, "w"), b = maybe(sub, "b");
    read_ints(sub, "stride", stride, 3);
    read_ints(sub, "padding", pad, 3);
    if (strcmp(fn, "conv_transpose2d") == 0)
        return kin_conv_transpose2d(g, x, w, b, stride[0], pad[0],
                                    (int64_t)number(sub, "output_padding", 0));
    if (json_object_get(sub->args, "replicate_front")) {
        if (kin_dim(g, w, 2) - 1 != (int64_t)number(sub, "replicate_front", 0) || pad[1] != pad[2])
            return kin_graph_fail(g, KIN_UNSUPPORTED, "no such causal convolution");
        return kin_conv3d_causal(g, x, w, b, stride, pad[1]);
    }
    if (json_object_get(sub->args, "pad_before")) { /* left, right, top, bottom */
        read_ints(sub, "pad_before", around, 4);
        kin_conv_attrs attrs = {.stride = {1, stride[1], stride[2]},
                                .before = {0, around[2], around[0]},
                                .after = {0, around[3], around[1]}};
        return kin_conv(g, x, w, b, &attrs);
    }
    if (strcmp(fn, "conv2d") == 0) return kin_conv2d(g, x, w, b, stride[0], pad[0]);
    if (strcmp(fn, "conv3d") == 0) return kin_conv3d(g, x, w, b, stride, pad);
    return kin_graph_fail(g, KIN_UNSUPPORTED, "no convolution '%s'", fn);
}

static kin_tensor embedding(sub_case *sub) {
    kin_tensor table = in(sub, "table");
    return kin_embedding(sub->g, table, in(sub, "ids"));
}

static kin_tensor group_norm(sub_case *sub) {
    kin_tensor x = in(sub, "x"), weight = in(sub, "weight"), bias = in(sub, "bias");
    return kin_group_norm(sub->g, x, weight, bias, (int)number(sub, "groups", 1),
                          number(sub, "eps", 1e-5), false);
}

static kin_tensor layer_norm(sub_case *sub) {
    kin_tensor x = in(sub, "x"), weight = maybe(sub, "weight"), bias = maybe(sub, "bias");
    return kin_layer_norm(sub->g, x, weight, bias, number(sub, "eps", 1e-5));
}

static kin_tensor rms_norm(sub_case *sub) {
    kin_tensor x = in(sub, "x");
    return kin_rms_norm(sub->g, x, in(sub, "weight"), number(sub, "eps", 1e-6));
}

static kin_tensor linear(sub_case *sub) {
    kin_tensor x = in(sub, "x"), w = in(sub, "w");
    return kin_linear(sub->g, x, w, maybe(sub, "b"));
}

static kin_tensor matmul(sub_case *sub) {
    kin_tensor a = in(sub, "a"), b = in(sub, "b");
    if (flag(sub, "trans_a")) a = kin_transpose(sub->g, a, -2, -1);
    if (flag(sub, "trans_b")) b = kin_transpose(sub->g, b, -2, -1);
    return kin_matmul(sub->g, a, b);
}

/* Squared errors averaged over the axes of `axes`. */
static kin_tensor mean_square(sub_case *sub, kin_tensor a, kin_tensor b, uint32_t axes) {
    return kin_mean(sub->g, kin_square(sub->g, kin_sub(sub->g, a, b)), axes, false);
}

static kin_tensor mse(sub_case *sub) {
    kin_graph *g = sub->g;
    kin_tensor a = in(sub, "a"), b = in(sub, "b");
    if (strcmp(sub->name, "per_sample") == 0) return kin_mse_per_sample(g, a, b);
    if (strcmp(sub->name, "weighted") == 0)
        return kin_mean_all(g, kin_mul(g, kin_mse_per_sample(g, a, b), in(sub, "w")));
    if (strcmp(sub->name, "masked") ==
        0) { /* over channels, rows, columns; then frames that count */
        kin_tensor mask = in(sub, "m");
        kin_tensor frames = kin_mul(g, mean_square(sub, a, b, 0x1A), mask);
        return kin_div(g, kin_sum(g, frames, 2, false), kin_sum(g, mask, 2, false));
    }
    return kin_mse(g, a, b);
}

static kin_tensor rope(sub_case *sub) {
    kin_tensor x = in(sub, "x"), position = in(sub, "pos");
    kin_rope_attrs attrs = kin_rope_defaults();
    attrs.interleaved = strcmp(text(sub, "layout"), "interleaved") == 0;
    attrs.theta = number(sub, "theta", 10000);
    x = kin_rope(sub->g, kin_transpose(sub->g, x, 1, 2), position, &attrs);
    return kin_transpose(sub->g, x, 1, 2);
}

static kin_tensor softmax(sub_case *sub) {
    kin_tensor x = in(sub, "x");
    int axis = (int)number(sub, "dim", -1);
    if (axis == -1) return kin_softmax(sub->g, x);
    return kin_transpose(sub->g, kin_softmax(sub->g, kin_transpose(sub->g, x, axis, -1)), axis, -1);
}

/* Builds, differentiates where the case has gradients, runs and compares. */
static void run_differentiable(sub_case *sub, kin_tensor (*build)(sub_case *sub)) {
    kin_case_run *run = sub->run;
    char name[KIN_CASE_NAME];
    kin_tensor out = build(sub);
    snprintf(name, sizeof name, "%s.out", sub->name);
    kin_case_output(&sub->graph, name, out);
    bool any = false;
    for (int i = 0; i < sub->graph.feed_count; i++) {
        const kin_case_feed *feed = &sub->graph.feeds[i];
        snprintf(name, sizeof name, "%s.grad.%s", sub->name, feed->name + strlen(sub->name) + 1);
        if (!kin_case_output_tensor(run, name)) continue;
        kin_want_gradient(sub->g, feed->tensor);
        any = true;
    }
    if (any) {
        int inputs = sub->graph.feed_count;
        snprintf(name, sizeof name, "%s.cotangent", sub->name);
        kin_backward(sub->g, kin_case_dot(&sub->graph, out, name));
        for (int i = 0; i < inputs; i++) {
            const kin_case_feed *feed = &sub->graph.feeds[i];
            kin_tensor gradient = kin_gradient(sub->g, feed->tensor);
            snprintf(name, sizeof name, "%s.grad.%s", sub->name,
                     feed->name + strlen(sub->name) + 1);
            if (gradient.id && kin_case_output_tensor(run, name))
                kin_case_output(&sub->graph, name, gradient);
        }
    }
    if (kin_case_prepare(&sub->graph, NULL, NULL)) kin_case_run_and_compare(&sub->graph);
}

static void clip(sub_case *sub) {
    char name[KIN_CASE_NAME], part[16];
    kin_tensor gradients[8];
    int count = 0;
    for (; count < 8; count++) {
        snprintf(part, sizeof part, "g.%d", count);
        if (!has(sub, part)) break;
        gradients[count] = in(sub, part);
    }
    kin_tensor norm = kin_global_norm(sub->g, gradients, count);
    kin_tensor scale = kin_clip_scale(sub->g, norm, number(sub, "max_norm", 1));
    snprintf(name, sizeof name, "%s.norm", sub->name);
    kin_case_output(&sub->graph, name, norm);
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s.g.%d", sub->name, i);
        kin_case_output(&sub->graph, name, kin_mul(sub->g, gradients[i], scale));
    }
    if (kin_case_prepare(&sub->graph, NULL, NULL)) kin_case_run_and_compare(&sub->graph);
}

/* Writes the case's input S.PART.STEP to the plan's input `to`. */
static bool write_step(sub_case *sub, const char *part, int step, const char *to) {
    char name[KIN_CASE_NAME];
    snprintf(name, sizeof name, "%s.%s.%d", sub->name, part, step);
    const kin_named_tensor *tensor = kin_case_input_tensor(sub->run, name);
    kin_status status =
        tensor ? kin_plan_write(sub->graph.plan, to, tensor->desc.dtype, tensor->data)
               : kin_fail(sub->run->context, KIN_NOT_FOUND, "the case has no input \"%s\"", name);
    return kin_case_ok(sub->run, name, status);
}

/* Compares a variable with the case's output S.PART.STEP. */
static void compare_state(sub_case *sub, const char *variable, const char *part, int step) {
    char name[KIN_CASE_NAME];
    kin_store_entry *entry = kin_store_find(sub->graph.store, variable);
    snprintf(name, sizeof name, "%s.%s.%d", sub->name, part, step);
    if (!entry) {
        kin_case_expect(sub->run, name, false, "is no variable of the plan");
        return;
    }
    int64_t count = kin_desc_count(&entry->desc);
    float *values = kin_alloc(sub->run->context, (size_t)count * sizeof *values);
    kin_status status =
        values ? kin_store_read(sub->graph.store, variable, KIN_F32, values) : KIN_OUT_OF_MEMORY;
    if (kin_case_ok(sub->run, name, status))
        kin_case_compare(sub->run, name, KIN_F32, values, count);
    kin_free(sub->run->context, values);
}

static double learning_rate(const sub_case *sub, int step) {
    const json_t *lr = json_object_get(sub->args, "lr");
    return json_number_value(json_is_array(lr) ? json_array_get(lr, (size_t)step - 1) : lr);
}

static void adamw(sub_case *sub) {
    kin_graph *g = sub->g;
    const json_t *betas = json_object_get(sub->args, "betas");
    kin_adamw_attrs attrs = {.beta1 = json_number_value(json_array_get(betas, 0)),
                             .beta2 = json_number_value(json_array_get(betas, 1)),
                             .eps = number(sub, "eps", 1e-8),
                             .weight_decay = number(sub, "weight_decay", 0)};
    char start[KIN_CASE_NAME];
    snprintf(start, sizeof start, "%s.p.0", sub->name);
    kin_tensor p = kin_case_state(&sub->graph, start, KIN_VARIABLE_WEIGHT);
    kin_desc desc = *kin_tensor_desc(g, p);
    kin_init zero = {KIN_INIT_ZERO, 0};
    kin_tensor m = kin_variable(g, "m", KIN_VARIABLE_STATE, KIN_F32, desc.rank, desc.dims, zero);
    kin_tensor v = kin_variable(g, "v", KIN_VARIABLE_STATE, KIN_F32, desc.rank, desc.dims, zero);
    kin_tensor gradient = kin_input(g, "gradient", KIN_F32, desc.rank, desc.dims);
    kin_tensor lr = kin_input(g, "lr", KIN_F32, 0, NULL);
    kin_tensor count = kin_input(g, "step", KIN_I64, 0, NULL);
    kin_adamw(g, p, gradient, m, v, lr, count, KIN_NONE, &attrs);
    if (!kin_case_prepare(&sub->graph, NULL, NULL)) return;
    for (int step = 1; step <= (int)number(sub, "steps", 0); step++) {
        float rate = (float)learning_rate(sub, step);
        int64_t number_of_step = step;
        kin_status status = kin_plan_write(sub->graph.plan, "lr", KIN_F32, &rate);
        if (status == KIN_OK)
            status = kin_plan_write(sub->graph.plan, "step", KIN_I64, &number_of_step);
        if (!kin_case_ok(sub->run, "inputs", status) || !write_step(sub, "g", step, "gradient") ||
            !kin_case_ok(sub->run, "run", kin_plan_run(sub->graph.plan)))
            return;
        compare_state(sub, start, "p", step);
        compare_state(sub, "m", "m", step);
        compare_state(sub, "v", "v", step);
    }
}

static void ema(sub_case *sub) {
    char start[KIN_CASE_NAME];
    snprintf(start, sizeof start, "%s.ema.0", sub->name);
    kin_tensor average = kin_case_state(&sub->graph, start, KIN_VARIABLE_STATE);
    kin_desc desc = *kin_tensor_desc(sub->g, average);
    kin_tensor p = kin_input(sub->g, "p", KIN_F32, desc.rank, desc.dims);
    kin_ema(sub->g, average, p, number(sub, "decay", 0), KIN_NONE);
    if (!kin_case_prepare(&sub->graph, NULL, NULL)) return;
    for (int step = 1; step <= (int)number(sub, "steps", 0); step++) {
        if (!write_step(sub, "p", step, "p") ||
            !kin_case_ok(sub->run, "run", kin_plan_run(sub->graph.plan)))
            return;
        compare_state(sub, start, "ema", step);
    }
}

typedef struct op_kind {
    const char *folder;
    kin_tensor (*build)(sub_case *sub); /* a differentiable op, or */
    void (*run)(sub_case *sub);         /* one that does all by itself */
} op_kind;

static const op_kind op_kinds[] = {
    {"ops-activations", activations, NULL}, {"ops-adamw", NULL, adamw},
    {"ops-attention", attention, NULL},     {"ops-clip-grad-norm", NULL, clip},
    {"ops-conv", convolution, NULL},        {"ops-ema", NULL, ema},
    {"ops-embedding", embedding, NULL},     {"ops-groupnorm", group_norm, NULL},
    {"ops-layernorm", layer_norm, NULL},    {"ops-linear", linear, NULL},
    {"ops-matmul", matmul, NULL},           {"ops-mse", mse, NULL},
    {"ops-rmsnorm", rms_norm, NULL},        {"ops-rope", rope, NULL},
    {"ops-softmax", softmax, NULL},
};

void kin_case_ops(kin_case_run *run) {
    const op_kind *kind = NULL;
    for (size_t i = 0; i < sizeof op_kinds / sizeof *op_kinds; i++)
        if (strcmp(run->report->name, op_kinds[i].folder) == 0) kind = &op_kinds[i];
    const json_t *list = json_object_get(run->config, "cases");
    bool known = kind && json_array_size(list) > 0;
    if (!known) kin_case_expect(run, run->report->name, false, "is no known op");
    double usual = run->tolerance;
    for (size_t i = 0; known && i < json_array_size(list); i++) {
        const json_t *args = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(args, "name"));
        sub_case sub = {.run = run, .name = name ? name : "", .args = args};
        run->tolerance = kin_case_number(json_object_get(args, "tolerance"), "rel", usual);
        if (!kin_case_begin(run, &sub.graph)) break;
        sub.g = sub.graph.graph;
        if (kind->build) run_differentiable(&sub, kind->build);
        else kind->run(&sub);
        kin_case_end(&sub.graph);
    }
    run->tolerance = usual;
}
