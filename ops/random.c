/* Random draws by Philox. */
#include "ops/random.h"

#include "runtime/philox.h"

static kin_status infer(kin_infer *call) {
    const kin_random_attrs *attrs = call->attrs;
    kin_status status = kin_infer_inputs(call, 1, 1);
    if (status == KIN_OK) status = kin_infer_dtype(call, 0, KIN_I64);
    if (status == KIN_OK) status = kin_infer_rank(call, 0, 1, 1);
    if (status != KIN_OK) return status;
    if (call->in[0]->dims[0] != 2)
        return kin_infer_fail(call, "the seed must be {seed, counter}: i64 [2]");
    bool valid = attrs->rank >= 0 && attrs->rank <= KIN_MAX_RANK;
    int64_t count = 1;
    for (int axis = 0; valid && axis < attrs->rank; axis++) {
        valid = attrs->dims[axis] > 0 && attrs->dims[axis] <= INT64_MAX / 16 / count;
        if (valid) count *= attrs->dims[axis];
    }
    if (!valid) return kin_infer_fail(call, "the shape asked for is impossible");
    call->out[0] = kin_desc_dense(KIN_F32, attrs->rank, attrs->dims);
    return KIN_OK;
}

typedef float element_fn(uint64_t seed, uint32_t stream, uint64_t step, uint64_t index);

/* Seeds and counters are exact up to 2^53 here. */
static void reference(const kin_reference *call, element_fn *element) {
    const kin_random_attrs *attrs = call->attrs;
    uint64_t seed = (uint64_t)(int64_t)call->in[0][0], step = (uint64_t)(int64_t)call->in[0][1];
    int64_t count = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < count; i++)
        call->out[0][i] = element(seed, attrs->stream, step, (uint64_t)i);
}

static void reference_normal(const kin_reference *call) {
    reference(call, kin_philox_element_normal);
}

static void reference_uniform(const kin_reference *call) {
    reference(call, kin_philox_element_uniform);
}

static void cost(const kin_cost_call *call, kin_cost *result) {
    result->flops = 40 * (double)kin_desc_count(&call->out[0]);
}

#define SEED                                                                                       \
    {                                                                                              \
        {                                                                                          \
            .dtype = KIN_I64, .rank = 1, .dims = {2}, .fill = KIN_FILL_INDEX, .limit = 1 << 30,    \
            .fixed = true, .constant = true                                                        \
        }                                                                                          \
    }

static const kin_random_attrs scalar = {0, 0, {0}}, three = {1, 1, {3}};
static const kin_random_attrs odd = {0xFFFFFFFFu, 3, {3, 7, 31}}, longer = {7, 2, {3, 4099}};
static const kin_random_attrs video = {2, 5, {4, 4, 16, 64, 64}};

static const kin_case cases[] = {
    {.name = "scalar", .attrs = &scalar, .input_count = 1, .inputs = SEED},
    {.name = "less than a block", .attrs = &three, .input_count = 1, .inputs = SEED},
    {.name = "odd sizes, last stream", .attrs = &odd, .input_count = 1, .inputs = SEED},
    {.name = "several parts", .attrs = &longer, .input_count = 1, .inputs = SEED},
    {.name = "latent video", .attrs = &video, .input_count = 1, .inputs = SEED, .bench = true},
};

const kin_op kin_op_random_normal = {
    .name = "random_normal",
    .summary = "N(0, 1) from Philox4x32-10 and Box-Muller: a function of (seed, counter, stream)",
    .attrs_size = sizeof(kin_random_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = reference_normal,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};

const kin_op kin_op_random_uniform = {
    .name = "random_uniform",
    .summary = "uniform in [0, 1) from Philox4x32-10: a function of (seed, counter, stream)",
    .attrs_size = sizeof(kin_random_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = reference_uniform,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};

static kin_tensor draw(kin_graph *graph, const kin_op *op, kin_tensor seed, uint32_t stream,
                       int rank, const int64_t *dims) {
    kin_random_attrs attrs = {stream, rank, {0}};
    for (int axis = 0; axis < rank && axis < KIN_MAX_RANK; axis++) attrs.dims[axis] = dims[axis];
    return kin_append1(graph, op, &attrs, &seed, 1);
}

kin_tensor kin_random_normal(kin_graph *graph, kin_tensor seed, uint32_t stream, int rank,
                             const int64_t *dims) {
    return draw(graph, &kin_op_random_normal, seed, stream, rank, dims);
}

kin_tensor kin_random_uniform(kin_graph *graph, kin_tensor seed, uint32_t stream, int rank,
                              const int64_t *dims) {
    return draw(graph, &kin_op_random_uniform, seed, stream, rank, dims);
}
