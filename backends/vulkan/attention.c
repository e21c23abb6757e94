/* Kernels of attention and its gradient. Each invocation keeps whole rows of queries (or keys) in
 * registers, so that nothing of the size of the scores is stored and nothing is added by two
 * invocations. Software drivers read the operands by texels, others by words. */
#include "backends/vulkan/heavy.h"
#include "ops/attention_attrs.h"

enum { FORWARD_LENGTHS = 3, FORWARD_BIAS = 4 };
enum { SAVED_O = 3, SAVED_LSE, D_O, D_LSE, BACKWARD_LENGTHS, BACKWARD_BIAS };
enum { LARGEST_HEAD = 512, BINDINGS = 10 };

static const kin_operand absent = {.desc = {.rank = -1}};

static const kin_operand *input(const kin_call *call, int index) {
    return index < call->in_count ? &call->in[index] : &absent;
}

typedef struct shape {
    int64_t b0, b1, heads, queries, keys, size;
} shape;

static shape shape_of(const kin_call *call) {
    const kin_desc *q = &call->in[0].desc, *k = &call->in[1].desc;
    const int64_t *tail = q->dims + q->rank - 3;
    return (shape){q->dims[0], q->rank == 5 ? q->dims[1] : 1, tail[1],
                   tail[0],    k->dims[k->rank - 3],          tail[2]};
}

/* ---- what the shaders are told: attention.glsl ---- */

typedef struct rows {
    uint32_t at, b0, b1, n, h;
} rows;

typedef struct attention_push {
    uint32_t queries, keys, b1_size, heads, total;
    rows q, k, v, g;
    uint32_t bias, lengths, lse, delta, out0, out1;
    float scale;
} attention_push;

/* Binds an operand of rows; its strides in elements, or in texels. */
static rows bind_rows(const kin_device *device, kin_vulkan_work *work, const kin_operand *operand,
                      bool texels) {
    const kin_desc *desc = &operand->desc;
    const int64_t *s = desc->strides, *tail = s + desc->rank - 3, unit = texels ? 4 : 1;
    rows x = {.b0 = (uint32_t)(s[0] / unit),
              .b1 = desc->rank == 5 ? (uint32_t)(s[1] / unit) : 0,
              .n = (uint32_t)(tail[0] / unit),
              .h = (uint32_t)(tail[1] / unit)};
    x.at =
        texels ? kin_vulkan_texels(device, work, operand) : kin_vulkan_read(device, work, operand);
    return x;
}

/* Sizes and strides of [B0, B1, H, Nq, Nk] or [B0, H, Nq, Nk]; the strides are 0 along axes of
 * size 1.
 */
static void bias_axes(const kin_desc *desc, uint32_t out_sizes[5], uint32_t out_strides[5]) {
    for (int i = 0; i < 5; i++) {
        const int axis = desc->rank == 5 ? i : i == 0 ? 0 : i - 1;
        const bool repeats = (desc->rank == 4 && i == 1) || desc->dims[axis] == 1;
        out_sizes[i] = repeats ? 1 : (uint32_t)desc->dims[axis];
        out_strides[i] = repeats ? 0 : (uint32_t)desc->strides[axis];
    }
}

static attention_push push_of(const kin_call *call) {
    const kin_attention_attrs *attrs = call->attrs;
    const shape s = shape_of(call);
    return (attention_push){.queries = (uint32_t)s.queries,
                            .keys = (uint32_t)s.keys,
                            .b1_size = (uint32_t)s.b1,
                            .heads = (uint32_t)s.heads,
                            .total = (uint32_t)(s.b0 * s.b1 * s.heads),
                            .scale = (float)attrs->scale};
}

/* Work with the constants 0 to 13 of attention.glsl. */
static kin_vulkan_work work_of(const kin_device *device, const char *shader, uint32_t width,
                               uint32_t own, const kin_call *call, const kin_operand *g,
                               kin_dtype out, const kin_operand *lengths, const kin_operand *bias) {
    uint32_t sizes[5], strides[5] = {0};
    kin_vulkan_work work = kin_vulkan_work_of(shader, width);
    if (!kin_vulkan_is_absent(bias)) bias_axes(&bias->desc, sizes, strides);
    const uint32_t specs[] = {(uint32_t)shape_of(call).size,
                              own,
                              kin_vulkan_dtype_spec(&call->in[0]),
                              kin_vulkan_dtype_spec(g),
                              (uint32_t)out,
                              kin_vulkan_dtype_spec(bias),
                              !kin_vulkan_is_absent(lengths),
                              !kin_vulkan_features_of(device)->is_cpu};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) kin_vulkan_spec(&work, specs[i]);
    for (int i = 0; i < 5; i++) kin_vulkan_spec(&work, strides[i]);
    return work;
}

/* ---- rows that an invocation keeps ---- */

enum { TEXEL_WIDTH = 8, WORD_WIDTH = 64, MOST_ROWS = 4 };

/* As many rows as fit in 32 KiB for eight invocations if each takes `arrays` arrays of its size,
 * and no more than there are. One where registers are what counts. */
static uint32_t own_rows(const kin_device *device, int64_t size, int64_t count, int arrays,
                         uint32_t width) {
    uint32_t own = MOST_ROWS;
    const int64_t row = (size + 3) / 4 * 16 * TEXEL_WIDTH * arrays;
    if (!kin_vulkan_features_of(device)->is_cpu) return 1;
    while (own > 1 && (own * row > 32768 || (own - 1) * (int64_t)width >= count)) own /= 2;
    return own;
}

static uint32_t width_for(const kin_device *device, bool texels) {
    return texels || kin_vulkan_features_of(device)->is_cpu ? TEXEL_WIDTH : WORD_WIDTH;
}

/* ---- what can be done ---- */

static bool is_real_or_absent(const kin_operand *operand) {
    return kin_vulkan_is_absent(operand) || kin_vulkan_is_real(operand->desc.dtype);
}

/* The elements of a head are neighbours. */
static bool has_rows(const kin_operand *operand) {
    const kin_desc *desc = &operand->desc;
    return kin_vulkan_is_real(desc->dtype) &&
           (desc->strides[desc->rank - 1] == 1 || desc->dims[desc->rank - 1] == 1);
}

static bool has_texel_rows(const kin_device *device, const kin_operand *operand) {
    const kin_desc *desc = &operand->desc;
    for (int i = 0; i < desc->rank - 1; i++)
        if (desc->dims[i] > 1 && desc->strides[i] % 4 != 0) return false;
    return desc->dims[desc->rank - 1] % 4 == 0 && desc->strides[desc->rank - 1] == 1 &&
           kin_vulkan_texels_fit(device, operand);
}

/* bf16 arrives as integers, the others as floats: all of a shader's texels must be one or the
 * other. */
static bool are_alike(const kin_operand *a, const kin_operand *b) {
    return (a->desc.dtype == KIN_BF16) == (b->desc.dtype == KIN_BF16);
}

static bool can_words(const kin_device *device, const kin_call *call, unsigned with_rows,
                      int lengths, int bias) {
    for (int i = 0; i < call->in_count; i++)
        if ((with_rows >> i & 1) != 0 && !has_rows(&call->in[i])) return false;
    for (int i = 0; i < call->out_count; i++)
        if (!kin_vulkan_is_real(call->out[i].desc.dtype)) return false;
    const kin_operand *counts = input(call, lengths);
    return shape_of(call).size <= LARGEST_HEAD && is_real_or_absent(input(call, bias)) &&
           (kin_vulkan_is_absent(counts) || counts->desc.dtype == KIN_I32) &&
           kin_vulkan_features_of(device)->max_bindings >= BINDINGS &&
           kin_vulkan_fits(device, call);
}

static bool can_texels(const kin_device *device, const kin_call *call, unsigned with_rows) {
    for (int i = 0; i < call->in_count; i++)
        if ((with_rows >> i & 1) != 0 &&
            (!has_texel_rows(device, &call->in[i]) || !are_alike(&call->in[i], &call->in[0])))
            return false;
    return kin_vulkan_features_of(device)->is_cpu;
}

enum {
    QKV = 7,
    FORWARD_VIEWS = QKV | 1 << FORWARD_BIAS,
    BACKWARD_ROWS = QKV | 1 << SAVED_O | 1 << D_O,
    BACKWARD_VIEWS = BACKWARD_ROWS | 1 << BACKWARD_BIAS
};

/* ---- forward ---- */

static bool forward_can(const kin_device *device, const kin_call *call) {
    return can_words(device, call, QKV, FORWARD_LENGTHS, FORWARD_BIAS);
}

static bool forward_can_texels(const kin_device *device, const kin_call *call) {
    return forward_can(device, call) && can_texels(device, call, QKV);
}

static bool is_odd(const kin_operand *out) {
    return kin_vulkan_is_odd(out->desc.dtype, out->desc.dims[out->desc.rank - 1]);
}

static size_t narrow_bytes(const kin_operand *out) {
    return is_odd(out) ? kin_vulkan_scratch_bytes(kin_desc_count(&out->desc)) : 0;
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return narrow_bytes(&call->out[0]);
}

/* Binds an output, or f32 scratch memory in its place at *io_offset, which moves on. */
static uint32_t bind_output(const kin_device *device, kin_vulkan_work *work, const kin_call *call,
                            const kin_operand *out, size_t *io_offset) {
    if (!is_odd(out)) return kin_vulkan_write(device, work, out);
    const size_t at = call->scratch_offset + *io_offset, size = narrow_bytes(out);
    *io_offset += size;
    return kin_vulkan_bytes(device, work, call->scratch, at, size, true);
}

static kin_dtype stored_dtype(const kin_operand *out) {
    return is_odd(out) ? KIN_F32 : out->desc.dtype;
}

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call,
                          bool texels) {
    const kin_operand *lengths = input(call, FORWARD_LENGTHS), *bias = input(call, FORWARD_BIAS);
    const kin_operand *o = &call->out[0];
    const bool bf16 = call->in[0].desc.dtype == KIN_BF16;
    const char *shader = !texels ? "attention" : bf16 ? "attention_texels_16" : "attention_texels";
    const shape s = shape_of(call);
    const uint32_t width = width_for(device, texels);
    const uint32_t own = own_rows(device, s.size, s.queries, 2, width);
    kin_vulkan_work work =
        work_of(device, shader, width, own, call, &absent, stored_dtype(o), lengths, bias);
    attention_push push = push_of(call);
    size_t offset = 0;
    push.q = bind_rows(device, &work, &call->in[0], texels);
    push.k = bind_rows(device, &work, &call->in[1], texels);
    push.v = bind_rows(device, &work, &call->in[2], texels);
    push.bias = kin_vulkan_read(device, &work, bias);
    push.lengths = kin_vulkan_read(device, &work, lengths);
    push.out0 = bind_output(device, &work, call, o, &offset);
    push.lse = kin_vulkan_write(device, &work, &call->out[1]);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = push.total * kin_vulkan_groups(s.queries, (int64_t)own * width);
    kin_status status = kin_vulkan_launch(device, commands, &work);
    if (status == KIN_OK && is_odd(o)) status = kin_vulkan_narrow(device, commands, call, 0, o);
    return status;
}

static kin_status forward_words(kin_device *device, kin_commands *commands, const kin_call *call) {
    return forward(device, commands, call, false);
}

static kin_status forward_texels(kin_device *device, kin_commands *commands, const kin_call *call) {
    return forward(device, commands, call, true);
}

/* ---- backward ---- */

static bool backward_can(const kin_device *device, const kin_call *call) {
    return can_words(device, call, BACKWARD_ROWS, BACKWARD_LENGTHS, BACKWARD_BIAS);
}

static bool backward_can_texels(const kin_device *device, const kin_call *call) {
    return backward_can(device, call) && can_texels(device, call, QKV | 1 << D_O);
}

/* Scratch memory: delta of each query, dbias in f32, then outputs that must be narrowed. */
typedef struct backward_plan {
    size_t bias_offset, narrow_offset, size;
} backward_plan;

static bool bias_is_narrow(const kin_call *call) {
    return call->out_count == 4 && call->out[3].desc.dtype != KIN_F32;
}

static backward_plan backward_plan_of(const kin_call *call) {
    const shape s = shape_of(call);
    backward_plan plan = {0};
    plan.bias_offset = kin_vulkan_scratch_bytes(s.b0 * s.b1 * s.heads * s.queries);
    plan.narrow_offset = plan.bias_offset;
    if (bias_is_narrow(call))
        plan.narrow_offset += kin_vulkan_scratch_bytes(kin_desc_count(&call->out[3].desc));
    plan.size = plan.narrow_offset;
    for (int i = 0; i < 3; i++) plan.size += narrow_bytes(&call->out[i]);
    return plan;
}

static size_t backward_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return backward_plan_of(call).size;
}

static kin_status launch_delta(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_operand *dlse = input(call, D_LSE), *g = &call->in[D_O], *o = &call->in[SAVED_O];
    const uint32_t width = WORD_WIDTH;
    kin_vulkan_work work =
        work_of(device, "attention_delta", width, 1, call, g, KIN_F32, &absent, &absent);
    attention_push push = push_of(call);
    work.specs[3] = kin_vulkan_dtype_spec(o);
    kin_vulkan_spec(&work, !kin_vulkan_is_absent(dlse));
    push.q = bind_rows(device, &work, o, false);
    push.lse = kin_vulkan_read(device, &work, dlse);
    push.delta = kin_vulkan_bytes(device, &work, call->scratch, call->scratch_offset,
                                  backward_plan_of(call).bias_offset, true);
    push.g = bind_rows(device, &work, g, false);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups((int64_t)push.total * push.queries, width);
    return kin_vulkan_launch(device, commands, &work);
}

/* Binds what all three other shaders read. */
static attention_push bind_backward(const kin_device *device, kin_vulkan_work *work,
                                    const kin_call *call, bool texels) {
    attention_push push = push_of(call);
    push.q = bind_rows(device, work, &call->in[0], texels);
    push.k = bind_rows(device, work, &call->in[1], texels);
    push.v = bind_rows(device, work, &call->in[2], texels);
    push.g = bind_rows(device, work, &call->in[D_O], texels);
    push.bias = kin_vulkan_read(device, work, input(call, BACKWARD_BIAS));
    push.lengths = kin_vulkan_read(device, work, input(call, BACKWARD_LENGTHS));
    push.lse = kin_vulkan_read(device, work, &call->in[SAVED_LSE]);
    push.delta = kin_vulkan_bytes(device, work, call->scratch, call->scratch_offset,
                                  backward_plan_of(call).bias_offset, false);
    return push;
}

static const char *backward_shader(const kin_call *call, bool texels, bool of_keys) {
    static const char *const names[2][3] = {
        {"attention_grad_q", "attention_grad_q_texels", "attention_grad_q_texels_16"},
        {"attention_grad_k", "attention_grad_k_texels", "attention_grad_k_texels_16"}};
    return names[of_keys][!texels ? 0 : call->in[0].desc.dtype == KIN_BF16 ? 2 : 1];
}

/* dq, or dk and dv. */
static kin_status launch_gradient(kin_device *device, kin_commands *commands, const kin_call *call,
                                  bool texels, bool of_keys, size_t *io_offset) {
    const kin_operand *first = &call->out[of_keys ? 1 : 0];
    const shape s = shape_of(call);
    const int64_t count = of_keys ? s.keys : s.queries;
    const uint32_t width = width_for(device, texels);
    const uint32_t own = own_rows(device, s.size, count, of_keys ? 4 : 3, width);
    kin_vulkan_work work =
        work_of(device, backward_shader(call, texels, of_keys), width, own, call, &call->in[D_O],
                stored_dtype(first), input(call, BACKWARD_LENGTHS), input(call, BACKWARD_BIAS));
    attention_push push = bind_backward(device, &work, call, texels);
    push.out0 = bind_output(device, &work, call, first, io_offset);
    if (of_keys) push.out1 = bind_output(device, &work, call, first + 1, io_offset);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = push.total * kin_vulkan_groups(count, (int64_t)own * width);
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status launch_bias(kin_device *device, kin_commands *commands, const kin_call *call) {
    const backward_plan plan = backward_plan_of(call);
    const kin_operand *dbias = &call->out[3];
    uint32_t sizes[5], strides[5];
    kin_vulkan_work work =
        work_of(device, "attention_grad_bias", WORD_WIDTH, 1, call, &call->in[D_O], KIN_F32,
                input(call, BACKWARD_LENGTHS), input(call, BACKWARD_BIAS));
    bias_axes(&dbias->desc, sizes, strides);
    for (int i = 0; i < 5; i++) kin_vulkan_spec(&work, sizes[i]);
    attention_push push = bind_backward(device, &work, call, false);
    push.out0 = !bias_is_narrow(call)
                    ? kin_vulkan_write(device, &work, dbias)
                    : kin_vulkan_bytes(device, &work, call->scratch,
                                       call->scratch_offset + plan.bias_offset,
                                       plan.narrow_offset - plan.bias_offset, true);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(kin_desc_count(&dbias->desc), WORD_WIDTH);
    kin_status status = kin_vulkan_launch(device, commands, &work);
    if (status != KIN_OK || !bias_is_narrow(call)) return status;
    return kin_vulkan_narrow(device, commands, call, plan.bias_offset, dbias);
}

static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call,
                           bool texels) {
    size_t offset = backward_plan_of(call).narrow_offset;
    kin_status status = launch_delta(device, commands, call);
    for (int of_keys = 0; of_keys < 2 && status == KIN_OK; of_keys++)
        status = launch_gradient(device, commands, call, texels, of_keys, &offset);
    if (status == KIN_OK && call->out_count == 4) status = launch_bias(device, commands, call);
    offset = backward_plan_of(call).narrow_offset;
    for (int i = 0; i < 3 && status == KIN_OK; i++) {
        if (!is_odd(&call->out[i])) continue;
        status = kin_vulkan_narrow(device, commands, call, offset, &call->out[i]);
        offset += narrow_bytes(&call->out[i]);
    }
    return status;
}

static kin_status backward_words(kin_device *device, kin_commands *commands, const kin_call *call) {
    return backward(device, commands, call, false);
}

static kin_status backward_texels(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    return backward(device, commands, call, true);
}

const kin_kernel kin_vulkan_attention_kernels[] = {
    {"attention", "vulkan_attention_texels", FORWARD_VIEWS, 0, forward_can_texels, forward_scratch,
     forward_texels},
    {"attention", "vulkan_attention_words", FORWARD_VIEWS, 0, forward_can, forward_scratch,
     forward_words},
    {"attention_grad", "vulkan_attention_grad_texels", BACKWARD_VIEWS, 0, backward_can_texels,
     backward_scratch, backward_texels},
    {"attention_grad", "vulkan_attention_grad_words", BACKWARD_VIEWS, 0, backward_can,
     backward_scratch, backward_words},
    {0},
};
