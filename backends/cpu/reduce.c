/* Kernels of sum, mean and max over axes. */
#include "backends/cpu/cpu.h"
#include "backends/cpu/reduce_table.h"
#include "ops/reduce_attrs.h"

typedef struct axis {
    int64_t dim, stride, out_stride;
    bool reduced;
} axis;

/* The axes of x that are longer than 1, neighbours merged where they can be; returns how many. */
static int merge_axes(const kin_desc *x, uint32_t reduced, axis axes[KIN_MAX_RANK]) {
    int rank = 0;
    int64_t out_stride = 1;
    for (int i = x->rank - 1; i >= 0; --i) {
        axis next = {x->dims[i], x->strides[i], out_stride, (reduced >> i & 1u) != 0};
        if (!next.reduced) out_stride *= next.dim;
        if (next.dim == 1) continue;
        axis *last = rank > 0 ? &axes[rank - 1] : NULL;
        if (last != NULL && last->reduced == next.reduced &&
            next.stride == last->dim * last->stride)
            last->dim *= next.dim;
        else axes[rank++] = next;
    }
    return rank;
}

/* The run: an axis of stride 1, else the innermost reduced one, else the innermost. */
static int choose_run(const axis *axes, int rank) {
    for (int i = 0; i < rank; ++i)
        if (axes[i].stride == 1) return i;
    for (int i = 0; i < rank; ++i)
        if (axes[i].reduced) return i;
    return 0;
}

/* Adds an axis in front of those that are there. */
static void add_axis(cpu_reduce_axes *axes, const axis *a) {
    for (int i = axes->rank++; i > 0; --i) {
        axes->dims[i] = axes->dims[i - 1];
        axes->strides[i] = axes->strides[i - 1];
        axes->out_strides[i] = axes->out_strides[i - 1];
    }
    axes->dims[0] = a->dim;
    axes->strides[0] = a->stride;
    axes->out_strides[0] = a->reduced ? 0 : a->out_stride;
    axes->count *= a->dim;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Enough chunks for 64 threads, where there is enough to do. */
static int64_t choose_chunks(int64_t tasks, int64_t parts, int64_t elements) {
    if (elements < 2 * CPU_PARALLEL_MIN || tasks >= 64) return 1;
    int64_t wanted = ceil_div(64, tasks);
    return wanted < parts ? wanted : parts;
}

static cpu_reduce_plan plan_of(const kin_call *call) {
    const kin_desc *x = &call->in[0].desc;
    const kin_reduce_attrs *attrs = call->attrs;
    axis axes[KIN_MAX_RANK] = {{0}};
    int rank = merge_axes(x, attrs->axes, axes);
    cpu_reduce_plan plan = {.along = true, .run = 1, .run_stride = 1, .scale = 1};
    plan.kept.count = plan.reduced.count = 1;
    int run = choose_run(axes, rank);
    for (int i = 0; i < rank; ++i)
        if (i != run) add_axis(axes[i].reduced ? &plan.reduced : &plan.kept, &axes[i]);
    if (rank > 0) {
        plan.run = axes[run].dim;
        plan.run_stride = axes[run].stride;
        plan.run_out_stride = axes[run].out_stride;
        /* columns need stride 1; without it a kept run is one more axis to walk */
        plan.along = axes[run].reduced || plan.run_stride != 1;
        if (plan.along && !axes[run].reduced) {
            add_axis(&plan.kept, &axes[run]);
            plan.run = 1;
        }
    }
    int64_t elements = plan.kept.count * plan.reduced.count * plan.run;
    if (plan.along)
        plan.chunks = choose_chunks(
            plan.kept.count, plan.reduced.count * ceil_div(plan.run, CPU_REDUCE_PIECE), elements);
    else
        plan.chunks = choose_chunks(plan.kept.count * ceil_div(plan.run, CPU_REDUCE_TILE),
                                    ceil_div(plan.reduced.count, 32), elements);
    return plan;
}

static size_t scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    cpu_reduce_plan plan = plan_of(call);
    if (plan.chunks == 1) return 0;
    size_t units = (size_t)(plan.kept.count * plan.chunks);
    return plan.along ? units * sizeof(double) : units * (size_t)plan.run * sizeof(float);
}

static int threads_of(const kin_device *device, const kin_call *call) {
    return cpu_threads_for(device, kin_desc_count(&call->in[0].desc));
}

static kin_status sum(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_reduce_plan plan = plan_of(call);
    CPU_PICK(cpu_reduce)
        .sum(&plan, cpu_data(&call->in[0]), cpu_data(&call->out[0]), cpu_scratch(call),
             threads_of(device, call));
    return KIN_OK;
}

static kin_status mean(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_reduce_plan plan = plan_of(call);
    plan.scale =
        (double)kin_desc_count(&call->out[0].desc) / (double)kin_desc_count(&call->in[0].desc);
    CPU_PICK(cpu_reduce)
        .sum(&plan, cpu_data(&call->in[0]), cpu_data(&call->out[0]), cpu_scratch(call),
             threads_of(device, call));
    return KIN_OK;
}

static kin_status max(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_reduce_plan plan = plan_of(call);
    CPU_PICK(cpu_reduce)
        .max(&plan, cpu_data(&call->in[0]), cpu_data(&call->out[0]), cpu_scratch(call),
             threads_of(device, call));
    return KIN_OK;
}

const kin_kernel cpu_reduce_kernels[] = {
    {"sum", "cpu_sum", 1, 0, NULL, scratch, sum},
    {"sum_cast", "cpu_sum_cast", 1, 0, NULL, scratch, sum},
    {"mean", "cpu_mean", 1, 0, NULL, scratch, mean},
    {"max", "cpu_max", 1, 0, NULL, scratch, max},
    {0},
};
