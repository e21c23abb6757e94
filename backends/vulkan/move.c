/* Kernels that move elements: copy, concat, slice_grad, pad and its gradient. */
#include "backends/vulkan/move.h"
#include "ops/layout_attrs.h"
#include "ops/pad_attrs.h"
#include "ops/views_attrs.h"

#include <string.h>

enum { WIDTH = 64, EACH = 4, MAX_RANK = 8, MAX_BOX = 6 };

/* Axes in words or parts of them: i64 has one axis more, of its two words. */
typedef struct move_job {
    vulkan_move_mode mode;
    uint32_t per_word;
    size_t element; /* bytes */
    int rank;
    int64_t dims[KIN_MAX_RANK + 1];    /* of the result */
    int64_t strides[KIN_MAX_RANK + 1]; /* of the input */
    int64_t low[KIN_MAX_RANK + 1], size[KIN_MAX_RANK + 1];
    kin_buffer *from, *to;
    size_t from_offset, to_offset;
} move_job;

typedef struct move_push {
    uint32_t count, from_first, to_first, empty;
    uint32_t dims[MAX_RANK], strides[MAX_RANK];
    uint32_t low[MAX_BOX], size[MAX_BOX];
} move_push;

static void add_axis(move_job *job, int64_t dim, int64_t stride, int64_t low, int64_t size) {
    int last = job->rank - 1;
    bool whole = low == 0 && size == dim;
    /* An axis that the box leaves whole joins the one in front, whose box it multiplies. */
    if (last >= 0 && whole && job->strides[last] == stride * dim) {
        bool last_whole = job->low[last] == 0 && job->size[last] == job->dims[last];
        if (last_whole || job->mode != VULKAN_MOVE_REPEAT) {
            job->dims[last] *= dim;
            job->low[last] *= dim;
            job->size[last] *= dim;
            job->strides[last] = stride;
            return;
        }
    }
    job->dims[job->rank] = dim;
    job->strides[job->rank] = stride;
    job->low[job->rank] = low;
    job->size[job->rank++] = size;
}

static move_job job_of(const kin_desc *in, const kin_desc *out, const int64_t *low,
                       vulkan_move_mode mode) {
    size_t size = kin_dtype_size(out->dtype);
    move_job job = {.mode = mode, .per_word = size < 4 ? (uint32_t)(4 / size) : 1};
    int64_t words = size == 8 ? 2 : 1;
    job.element = size == 8 ? 4 : size;
    for (int axis = 0; axis < out->rank; axis++)
        if (out->dims[axis] != 1 || in->dims[axis] != 1)
            add_axis(&job, out->dims[axis], in->strides[axis] * words, low != NULL ? low[axis] : 0,
                     in->dims[axis]);
    if (words == 2) add_axis(&job, 2, 1, 0, 2);
    if (job.rank == 0) add_axis(&job, 1, 1, 0, 1);
    return job;
}

/* The first axis that the box limits; rank if there is none. */
static int first_limited(const move_job *job) {
    int axis = 0;
    while (axis < job->rank && job->low[axis] == 0 && job->size[axis] == job->dims[axis]) axis++;
    return axis;
}

static bool is_possible(const move_job *job) {
    return job->rank <= MAX_RANK && job->rank - first_limited(job) <= MAX_BOX;
}

static int64_t count_from(const move_job *job, int first) {
    int64_t count = 1;
    for (int axis = first; axis < job->rank; axis++) count *= job->dims[axis];
    return count;
}

/* Elements of the input from the first to the last; 0 if the box is empty. */
static int64_t input_span(const move_job *job) {
    int64_t span = 1;
    for (int axis = 0; axis < job->rank; axis++) {
        if (job->size[axis] <= 0) return 0;
        span += (job->size[axis] - 1) * job->strides[axis];
    }
    return span;
}

static kin_status launch_job(kin_device *device, kin_commands *commands, const move_job *job) {
    int64_t span = input_span(job), count = count_from(job, 0);
    int box = job->rank - first_limited(job);
    move_push push = {.count = (uint32_t)count, .empty = span == 0};
    if (span == 0 && job->mode != VULKAN_MOVE_ZERO) return KIN_OK;
    kin_vulkan_work work = kin_vulkan_work_of("move", WIDTH);
    kin_vulkan_spec(&work, (uint32_t)job->rank);
    kin_vulkan_spec(&work, job->per_word);
    kin_vulkan_spec(&work, box > 0 ? job->mode : VULKAN_MOVE_ALL);
    kin_vulkan_spec(&work, (uint32_t)box);
    for (int axis = 0; axis < job->rank; axis++) {
        push.dims[axis] = (uint32_t)job->dims[axis];
        push.strides[axis] = (uint32_t)job->strides[axis];
    }
    for (int i = 0; i < box; i++) {
        push.low[i] = (uint32_t)job->low[job->rank - box + i];
        push.size[i] = (uint32_t)(span == 0 ? 0 : job->size[job->rank - box + i]);
    }
    /* As tensors of one axis, so that offsets count in elements. */
    kin_dtype dtype = job->element == 4 ? KIN_I32 : job->element == 2 ? KIN_F16 : KIN_U8;
    kin_operand from = {kin_desc_dense(dtype, 1, &span), job->from, job->from_offset};
    kin_operand to = {kin_desc_dense(dtype, 1, &count), job->to, job->to_offset};
    push.from_first = kin_vulkan_read(device, &work, &from);
    push.to_first = kin_vulkan_write(device, &work, &to);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(count, EACH * WIDTH * (int64_t)job->per_word);
    return kin_vulkan_launch(device, commands, &work);
}

/* Elements that one binding takes. */
static int64_t largest_part(const kin_device *device, const move_job *job) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    int64_t most =
        (int64_t)((features->max_range - features->binding_alignment - 8) / job->element);
    return most < INT32_MAX ? most : INT32_MAX;
}

/* Rows first .. first + rows - 1 of the outermost axis. */
static move_job part_of(const move_job *job, int64_t first, int64_t rows) {
    move_job part = *job;
    int64_t begin = job->low[0] > first ? job->low[0] : first;
    int64_t end = job->low[0] + job->size[0];
    if (end > first + rows) end = first + rows;
    part.dims[0] = rows;
    part.to_offset += (size_t)(first * count_from(job, 1)) * job->element;
    part.low[0] = begin - first;
    part.size[0] = end - begin;
    if (end > begin)
        part.from_offset += (size_t)((begin - job->low[0]) * job->strides[0]) * job->element;
    else part.low[0] = part.size[0] = 0;
    if (rows > 1 || job->rank == 1 || part.low[0] != 0 || part.size[0] != 1) return part;
    part.rank--;
    size_t bytes = (size_t)part.rank * sizeof *part.dims;
    memmove(part.dims, part.dims + 1, bytes);
    memmove(part.strides, part.strides + 1, bytes);
    memmove(part.low, part.low + 1, bytes);
    memmove(part.size, part.size + 1, bytes);
    return part;
}

/* Elements first .. first + count - 1 of an axis of the input, all of the result. */
static move_job input_part(const move_job *job, int axis, int64_t first, int64_t count) {
    move_job part = *job;
    part.from_offset += (size_t)(first * job->strides[axis]) * job->element;
    part.low[axis] += first;
    part.size[axis] = count;
    if (job->mode == VULKAN_MOVE_ALL || first > 0) part.mode = VULKAN_MOVE_KEEP;
    return part;
}

/* The axis along which the input reaches farthest. */
static int widest_axis(const move_job *job) {
    int widest = 0;
    for (int axis = 1; axis < job->rank; axis++)
        if ((job->size[axis] - 1) * job->strides[axis] >
            (job->size[widest] - 1) * job->strides[widest])
            widest = axis;
    return widest;
}

/* Rows of one part where the result is to be halved, so many that a part begins on a word; 0 if
 * there is no way. */
static int64_t part_rows(const move_job *job) {
    int64_t rows = (job->dims[0] + 1) / 2, unit = 1;
    while (count_from(job, 1) * unit % job->per_word != 0) unit *= 2;
    rows = (rows + unit - 1) / unit * unit;
    if (rows >= job->dims[0]) rows = job->rank > 1 && job->dims[0] == 1 && unit == 1 ? 1 : 0;
    return rows;
}

/* Halves, as often as the device's limits ask for it: the result by its outermost axis, then the
 * input by its widest. */
static kin_status run_parts(kin_device *device, kin_commands *commands, const move_job *job) {
    int64_t most = largest_part(device, job);
    bool fits = count_from(job, 0) <= most, cut = fits && input_span(job) > most;
    int axis = cut ? widest_axis(job) : 0;
    int64_t length = cut ? job->size[axis] : job->dims[0];
    int64_t step = cut ? (length + 1) / 2 : part_rows(job);
    kin_status status = KIN_OK;
    if (fits && !cut) return launch_job(device, commands, job);
    if (step == 0 || job->mode == VULKAN_MOVE_REPEAT)
        return kin_fail(device->context, KIN_UNSUPPORTED,
                        "%s: a tensor that cannot be split to the device's limits",
                        device->info.name);
    for (int64_t first = 0; first < length && status == KIN_OK; first += step) {
        int64_t count = length - first < step ? length - first : step;
        move_job part = cut ? input_part(job, axis, first, count) : part_of(job, first, count);
        status = run_parts(device, commands, &part);
    }
    return status;
}

bool vulkan_move_can(const kin_desc *in, const kin_desc *out, const int64_t *low,
                     vulkan_move_mode mode) {
    if (kin_dtype_size(out->dtype) == 0) return false;
    move_job job = job_of(in, out, low, mode);
    return is_possible(&job);
}

kin_status vulkan_move(kin_device *device, kin_commands *commands, const kin_operand *in,
                       const kin_operand *out, const int64_t *low, vulkan_move_mode mode) {
    move_job job = job_of(&in->desc, &out->desc, low, mode);
    job.from = in->buffer;
    job.to = out->buffer;
    job.from_offset = in->offset;
    job.to_offset = out->offset;
    return count_from(&job, 0) == 0 ? KIN_OK : run_parts(device, commands, &job);
}

kin_status vulkan_move_bytes(kin_device *device, kin_commands *commands, const kin_operand *in,
                             const kin_operand *out, size_t bytes) {
    int64_t count = (int64_t)bytes;
    kin_desc desc = kin_desc_dense(KIN_U8, 1, &count);
    if (bytes % 4 == 0) {
        count /= 4;
        desc = kin_desc_dense(KIN_I32, 1, &count);
    }
    kin_operand from = {desc, in->buffer, in->offset}, to = {desc, out->buffer, out->offset};
    return vulkan_move(device, commands, &from, &to, NULL, VULKAN_MOVE_ALL);
}

/* ---- copy ---- */

static bool can_copy(const kin_device *device, const kin_call *call) {
    (void)device;
    return vulkan_move_can(&call->in[0].desc, &call->out[0].desc, NULL, VULKAN_MOVE_ALL);
}

static kin_status launch_copy(kin_device *device, kin_commands *commands, const kin_call *call) {
    return vulkan_move(device, commands, &call->in[0], &call->out[0], NULL, VULKAN_MOVE_ALL);
}

static bool can_copy_blocks(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[0].desc.dtype == KIN_Q8_0;
}

static kin_status launch_copy_blocks(kin_device *device, kin_commands *commands,
                                     const kin_call *call) {
    return vulkan_move_bytes(device, commands, &call->in[0], &call->out[0],
                             kin_desc_bytes(&call->in[0].desc));
}

/* ---- concat and slice_grad ---- */

static bool can_concat(const kin_device *device, const kin_call *call) {
    const kin_concat_attrs *attrs = call->attrs;
    int64_t low[KIN_MAX_RANK] = {0};
    (void)device;
    for (int i = 0; i < call->in_count; i++) {
        if (!vulkan_move_can(&call->in[i].desc, &call->out[0].desc, low, VULKAN_MOVE_KEEP))
            return false;
        low[attrs->axis] += call->in[i].desc.dims[attrs->axis];
    }
    return true;
}

static kin_status launch_concat(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_concat_attrs *attrs = call->attrs;
    int64_t low[KIN_MAX_RANK] = {0};
    kin_status status = KIN_OK;
    for (int i = 0; i < call->in_count && status == KIN_OK; i++) {
        status = vulkan_move(device, commands, &call->in[i], &call->out[0], low, VULKAN_MOVE_KEEP);
        low[attrs->axis] += call->in[i].desc.dims[attrs->axis];
    }
    return status;
}

static bool can_slice_grad(const kin_device *device, const kin_call *call) {
    const kin_slice_grad_attrs *attrs = call->attrs;
    int64_t low[KIN_MAX_RANK] = {0};
    (void)device;
    low[attrs->axis] = attrs->start;
    return vulkan_move_can(&call->in[0].desc, &call->out[0].desc, low, VULKAN_MOVE_ZERO);
}

static kin_status launch_slice_grad(kin_device *device, kin_commands *commands,
                                    const kin_call *call) {
    const kin_slice_grad_attrs *attrs = call->attrs;
    int64_t low[KIN_MAX_RANK] = {0};
    low[attrs->axis] = attrs->start;
    return vulkan_move(device, commands, &call->in[0], &call->out[0], low, VULKAN_MOVE_ZERO);
}

/* ---- pad ---- */

static vulkan_move_mode pad_mode(const kin_pad_attrs *attrs) {
    return attrs->replicate ? VULKAN_MOVE_REPEAT : VULKAN_MOVE_ZERO;
}

/* An input without elements has no outermost ones. */
static bool can_pad(const kin_device *device, const kin_call *call) {
    const kin_pad_attrs *attrs = call->attrs;
    return kin_desc_count(&call->in[0].desc) > 0 && kin_vulkan_fits(device, call) &&
           vulkan_move_can(&call->in[0].desc, &call->out[0].desc, attrs->before, pad_mode(attrs));
}

static kin_status launch_pad(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_pad_attrs *attrs = call->attrs;
    return vulkan_move(device, commands, &call->in[0], &call->out[0], attrs->before,
                       pad_mode(attrs));
}

/* The part of the padded tensor that the box is, as a view. */
static kin_operand inner_part(const kin_operand *padded, const kin_desc *inner,
                              const kin_pad_attrs *attrs) {
    kin_operand view = *padded;
    int64_t offset = 0;
    for (int axis = 0; axis < inner->rank; axis++) {
        offset += attrs->before[axis] * padded->desc.strides[axis];
        view.desc.dims[axis] = inner->dims[axis];
    }
    view.offset += (size_t)offset * kin_dtype_size(padded->desc.dtype);
    return view;
}

static bool can_pad_grad(const kin_device *device, const kin_call *call) {
    return kin_vulkan_fits_real(device, call) && kin_desc_count(&call->out[0].desc) > 0;
}

/* Zeros were added: their gradients are left out. Elements were repeated: theirs are summed. */
static kin_status launch_pad_grad(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    const kin_pad_attrs *attrs = call->attrs;
    const kin_desc *in = &call->in[0].desc, *out = &call->out[0].desc;
    struct {
        uint32_t count, x_first, y_first, unused;
        uint32_t size[KIN_MAX_RANK], before[KIN_MAX_RANK], padded[KIN_MAX_RANK];
    } push = {.count = (uint32_t)kin_desc_count(out)};
    if (!attrs->replicate && in->dtype == out->dtype) {
        kin_operand part = inner_part(&call->in[0], out, attrs);
        return vulkan_move(device, commands, &part, &call->out[0], NULL, VULKAN_MOVE_ALL);
    }
    kin_vulkan_work work = kin_vulkan_work_of("fold", WIDTH);
    kin_vulkan_spec(&work, (uint32_t)out->rank);
    kin_vulkan_spec(&work, in->dtype);
    kin_vulkan_spec(&work, out->dtype);
    for (int axis = 0; axis < out->rank; axis++) {
        push.size[axis] = (uint32_t)out->dims[axis];
        push.before[axis] = (uint32_t)attrs->before[axis];
        push.padded[axis] = (uint32_t)in->dims[axis];
    }
    push.x_first = kin_vulkan_read(device, &work, &call->in[0]);
    push.y_first = kin_vulkan_write(device, &work, &call->out[0]);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(push.count, WIDTH * (out->dtype == KIN_F32 ? 1 : 2));
    return kin_vulkan_launch(device, commands, &work);
}

const kin_kernel kin_vulkan_move_kernels[] = {
    {"copy", "vulkan_copy", 1, 0, can_copy, NULL, launch_copy},
    {"copy", "vulkan_copy_blocks", 0, 0, can_copy_blocks, NULL, launch_copy_blocks},
    {"concat", "vulkan_concat", ~UINT64_C(0), 0, can_concat, NULL, launch_concat},
    {"slice_grad", "vulkan_slice_grad", 1, 0, can_slice_grad, NULL, launch_slice_grad},
    {"pad", "vulkan_pad", 1, 0, can_pad, NULL, launch_pad},
    {"pad_grad", "vulkan_pad_grad", 0, 0, can_pad_grad, NULL, launch_pad_grad},
    {0},
};
