/* Kernels that move or make elements: copy, cast, fill, one, concat, slice_grad. */
#include "backends/cpu/cpu.h"
#include "backends/cpu/map.h"
#include "ops/layout_attrs.h"
#include "ops/views_attrs.h"

#include <string.h>

enum { TILE = 16 };

/* A block of elements of `size` bytes that moves from one set of strides to another. Strides are
 * in elements. */
typedef struct block {
    int rank;
    size_t size;
    int64_t dims[KIN_MAX_RANK];
    int64_t from_strides[KIN_MAX_RANK];
    int64_t to_strides[KIN_MAX_RANK];
    const unsigned char *from;
    unsigned char *to;
} block;

/* Drops axes of size 1 and joins axes that follow one another without a gap on both sides. */
static block block_of(const kin_desc *desc, const int64_t *to_strides, const void *from, void *to) {
    block b = {.size = kin_dtype_size(desc->dtype), .from = from, .to = to};
    for (int axis = 0; axis < desc->rank; axis++) {
        int64_t dim = desc->dims[axis], stride = desc->strides[axis], target = to_strides[axis];
        int last = b.rank - 1;
        if (dim == 1) continue;
        if (last >= 0 && b.from_strides[last] == stride * dim &&
            b.to_strides[last] == target * dim) {
            b.dims[last] *= dim;
            b.from_strides[last] = stride;
            b.to_strides[last] = target;
        } else {
            b.dims[b.rank] = dim;
            b.from_strides[b.rank] = stride;
            b.to_strides[b.rank++] = target;
        }
    }
    return b;
}

/* Moves an axis to another place, those between them up or down by one. */
static void move_axis(block *b, int from, int to) {
    int64_t *lists[3] = {b->dims, b->from_strides, b->to_strides};
    for (int list = 0; list < 3; list++) {
        int64_t value = lists[list][from];
        for (int i = from; i < to; i++) lists[list][i] = lists[list][i + 1];
        for (int i = from; i > to; i--) lists[list][i] = lists[list][i - 1];
        lists[list][to] = value;
    }
}

/* The axis, other than the last, along which the source is read one element after the other; -1 if
 * there is none. */
static int contiguous_source_axis(const block *b) {
    if (b->from_strides[b->rank - 1] == 1) return -1;
    for (int i = b->rank - 2; i >= 0; i--)
        if (b->from_strides[i] == 1 && b->dims[i] > 1) return i;
    return -1;
}

/* Two axes: rows along which the source is contiguous (step 1), columns along which the target is.
 */
#define TRANSPOSE(type)                                                                            \
    static void transpose_##type(const type *from, int64_t from_step, type *to, int64_t to_step,   \
                                 int64_t rows, int64_t columns) {                                  \
        for (int64_t r0 = 0; r0 < rows; r0 += TILE) {                                              \
            int64_t r1 = r0 + TILE < rows ? r0 + TILE : rows;                                      \
            for (int64_t c0 = 0; c0 < columns; c0 += TILE) {                                       \
                int64_t c1 = c0 + TILE < columns ? c0 + TILE : columns;                            \
                for (int64_t r = r0; r < r1; r++)                                                  \
                    for (int64_t c = c0; c < c1; c++)                                              \
                        to[r * to_step + c] = from[r + c * from_step];                             \
            }                                                                                      \
        }                                                                                          \
    }
TRANSPOSE(uint8_t)
TRANSPOSE(uint16_t)
TRANSPOSE(uint32_t)
TRANSPOSE(uint64_t)

static void transpose(const block *b, const void *from, void *to) {
    int r = b->rank - 2, c = b->rank - 1;
    int64_t from_step = b->from_strides[c], to_step = b->to_strides[r];
    if (b->size == 1) transpose_uint8_t(from, from_step, to, to_step, b->dims[r], b->dims[c]);
    else if (b->size == 2) transpose_uint16_t(from, from_step, to, to_step, b->dims[r], b->dims[c]);
    else if (b->size == 4) transpose_uint32_t(from, from_step, to, to_step, b->dims[r], b->dims[c]);
    else transpose_uint64_t(from, from_step, to, to_step, b->dims[r], b->dims[c]);
}

#define GATHER(type)                                                                               \
    static void gather_##type(const type *from, int64_t from_step, type *to, int64_t to_step,      \
                              int64_t count) {                                                     \
        for (int64_t i = 0; i < count; i++) to[i * to_step] = from[i * from_step];                 \
    }
GATHER(uint8_t)
GATHER(uint16_t)
GATHER(uint32_t)
GATHER(uint64_t)

static void move_row(const block *b, const void *from, void *to) {
    int axis = b->rank - 1;
    int64_t n = b->rank > 0 ? b->dims[axis] : 1;
    int64_t from_step = b->rank > 0 ? b->from_strides[axis] : 1;
    int64_t to_step = b->rank > 0 ? b->to_strides[axis] : 1;
    if (from_step == 1 && to_step == 1) memcpy(to, from, (size_t)n * b->size);
    else if (b->size == 1) gather_uint8_t(from, from_step, to, to_step, n);
    else if (b->size == 2) gather_uint16_t(from, from_step, to, to_step, n);
    else if (b->size == 4) gather_uint32_t(from, from_step, to, to_step, n);
    else gather_uint64_t(from, from_step, to, to_step, n);
}

/* Splits the innermost axis in two where there is nothing else to share among threads. */
static void split_row(block *b, int threads) {
    if (threads <= 1 || b->rank != 1 || b->dims[0] % threads != 0) return;
    int64_t part = b->dims[0] / threads;
    *b = (block){.rank = 2,
                 .size = b->size,
                 .dims = {threads, part},
                 .from_strides = {part * b->from_strides[0], b->from_strides[0]},
                 .to_strides = {part * b->to_strides[0], b->to_strides[0]},
                 .from = b->from,
                 .to = b->to};
}

static void move_block(block b, int threads) {
    split_row(&b, threads);
    int inner = 1; /* axes that one step of the loop below moves */
    int along = b.rank > 1 ? contiguous_source_axis(&b) : -1;
    if (along >= 0 && b.to_strides[b.rank - 1] == 1) {
        move_axis(&b, along, b.rank - 2);
        inner = 2;
    }
    int outer = b.rank > inner ? b.rank - inner : 0;
    int64_t steps = 1;
    for (int i = 0; i < outer; i++) steps *= b.dims[i];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t step = 0; step < steps; step++) {
        int64_t rest = step, from = 0, to = 0;
        for (int i = outer - 1; i >= 0; i--) {
            from += rest % b.dims[i] * b.from_strides[i];
            to += rest % b.dims[i] * b.to_strides[i];
            rest /= b.dims[i];
        }
        const void *source = b.from + from * (int64_t)b.size;
        void *target = b.to + to * (int64_t)b.size;
        if (inner == 2) transpose(&b, source, target);
        else move_row(&b, source, target);
    }
}

/* ---- copy ---- */

static bool has_elements(kin_dtype dtype) {
    return kin_dtype_size(dtype) > 0;
}

static bool can_copy(const kin_device *device, const kin_call *call) {
    (void)device;
    return has_elements(call->in[0].desc.dtype);
}

static kin_status launch_copy(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    const kin_desc *in = &call->in[0].desc;
    int64_t count = kin_desc_count(in);
    if (count > 0)
        move_block(block_of(in, call->out[0].desc.strides, cpu_data(&call->in[0]),
                            cpu_data(&call->out[0])),
                   cpu_threads_for(device, count));
    return KIN_OK;
}

static bool can_copy_blocks(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[0].desc.dtype == KIN_Q8_0 && kin_desc_is_dense(&call->in[0].desc);
}

static kin_status launch_copy_blocks(kin_device *device, kin_commands *commands,
                                     const kin_call *call) {
    (void)device, (void)commands;
    memcpy(cpu_data(&call->out[0]), cpu_data(&call->in[0]), kin_desc_bytes(&call->in[0].desc));
    return KIN_OK;
}

/* ---- cast ---- */

/* Between the types that a map reads and writes: any strides, in vectors. */
static bool can_cast_views(const kin_device *device, const kin_call *call) {
    (void)device;
    return cpu_map_reads(call->in[0].desc.dtype) && cpu_is_real(call->out[0].desc.dtype);
}

static kin_status launch_cast_views(kin_device *device, kin_commands *commands,
                                    const kin_call *call) {
    (void)commands;
    const kin_desc *in = &call->in[0].desc;
    cpu_map map = {.function = CPU_MAP_identity, .in_count = 1, .out_count = 1};
    map.in[0] = (cpu_map_operand){.data = cpu_data(&call->in[0]), .dtype = in->dtype};
    map.out[0] = cpu_data(&call->out[0]);
    map.out_dtype = call->out[0].desc.dtype;
    cpu_map_shape(&map, in->rank, in->dims, &in);
    int64_t count = kin_desc_count(in);
    if (count > 0) CPU_PICK(cpu_map).run(&map, cpu_threads_for(device, count));
    return KIN_OK;
}

/* Rows of q8_0 are whole blocks only where the last axis is a multiple of 32. */
static bool can_cast(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_desc *in = &call->in[0].desc;
    return in->dtype != KIN_Q8_0 || (in->rank > 0 && in->dims[in->rank - 1] % 32 == 0);
}

static kin_status launch_cast(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)device, (void)commands;
    kin_dtype from = call->in[0].desc.dtype, to = call->out[0].desc.dtype;
    int64_t count = kin_desc_count(&call->in[0].desc), part = 8192;
    const unsigned char *source = cpu_data(&call->in[0]);
    unsigned char *target = cpu_data(&call->out[0]);
#pragma omp parallel for num_threads(cpu_threads_for(device, count)) schedule(static)
    for (int64_t at = 0; at < count; at += part) {
        int64_t n = count - at < part ? count - at : part;
        int64_t offset = from == KIN_Q8_0 ? at / 32 * 34 : at * (int64_t)kin_dtype_size(from);
        kin_convert(source + offset, from, target + at * (int64_t)kin_dtype_size(to), to, n);
    }
    return KIN_OK;
}

/* ---- fill and one ---- */

static bool can_fill(const kin_device *device, const kin_call *call) {
    (void)device;
    return has_elements(call->out[0].desc.dtype);
}

/* Writes the value once, then copies what is there to twice its length. */
static void fill_elements(unsigned char *to, kin_dtype dtype, int64_t count, double value) {
    size_t size = kin_dtype_size(dtype), total = (size_t)count * size, done = size;
    if (count <= 0) return;
    kin_element_set(to, dtype, 0, value);
    while (done < total) {
        size_t more = done < total - done ? done : total - done;
        if (more > 4096) more = 4096 / size * size; /* the source stays in the first cache */
        memcpy(to + done, to, more);
        done += more;
    }
}

static void fill_tensor(const kin_device *device, const kin_operand *out, double value) {
    (void)device;
    int64_t count = kin_desc_count(&out->desc), part = CPU_PARALLEL_MIN;
    kin_dtype dtype = out->desc.dtype;
    unsigned char *to = cpu_data(out);
#pragma omp parallel for num_threads(cpu_threads_for(device, count)) schedule(static)
    for (int64_t at = 0; at < count; at += part)
        fill_elements(to + at * (int64_t)kin_dtype_size(dtype), dtype,
                      count - at < part ? count - at : part, value);
}

static kin_status launch_fill(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    fill_tensor(device, &call->out[0], ((const kin_fill_attrs *)call->attrs)->value);
    return KIN_OK;
}

static kin_status launch_one(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    fill_tensor(device, &call->out[0], 1.0);
    return KIN_OK;
}

/* ---- concat and slice_grad ---- */

static bool can_concat(const kin_device *device, const kin_call *call) {
    (void)device;
    return has_elements(call->out[0].desc.dtype);
}

static kin_status launch_concat(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    const int axis = (int)((const kin_concat_attrs *)call->attrs)->axis;
    const kin_desc *out = &call->out[0].desc;
    unsigned char *to = cpu_data(&call->out[0]);
    size_t step = (size_t)out->strides[axis] * kin_dtype_size(out->dtype);
    for (int i = 0; i < call->in_count; i++) {
        const kin_desc *in = &call->in[i].desc;
        int64_t count = kin_desc_count(in);
        if (count > 0)
            move_block(block_of(in, out->strides, cpu_data(&call->in[i]), to),
                       cpu_threads_for(device, count));
        to += (size_t)in->dims[axis] * step;
    }
    return KIN_OK;
}

/* Writes zeros before and behind the input's stretch of the axis, then the input. */
static kin_status launch_slice_grad(kin_device *device, kin_commands *commands,
                                    const kin_call *call) {
    (void)commands;
    const kin_slice_grad_attrs *attrs = call->attrs;
    const kin_desc *in = &call->in[0].desc, *out = &call->out[0].desc;
    int64_t total = kin_desc_count(out), outer = 1;
    if (total == 0) return KIN_OK;
    for (int i = 0; i < attrs->axis; i++) outer *= out->dims[i];
    unsigned char *to = cpu_data(&call->out[0]);
    const size_t step = (size_t)out->strides[attrs->axis] * kin_dtype_size(out->dtype);
    const size_t before = (size_t)attrs->start * step;
    const size_t middle = (size_t)in->dims[attrs->axis] * step, row = (size_t)attrs->size * step;
#pragma omp parallel for num_threads(cpu_threads_for(device, total)) schedule(static)
    for (int64_t i = 0; i < outer; i++) {
        unsigned char *start = to + (size_t)i * row;
        memset(start, 0, before);
        memset(start + before + middle, 0, row - before - middle);
    }
    if (kin_desc_count(in) > 0)
        move_block(block_of(in, out->strides, cpu_data(&call->in[0]), to + before),
                   cpu_threads_for(device, kin_desc_count(in)));
    return KIN_OK;
}

const kin_kernel cpu_layout_kernels[] = {
    {"copy", "cpu_copy", 1, 0, can_copy, NULL, launch_copy},
    {"copy", "cpu_copy_blocks", 0, 0, can_copy_blocks, NULL, launch_copy_blocks},
    {"cast", "cpu_cast_views", 1, 0, can_cast_views, NULL, launch_cast_views},
    {"cast", "cpu_cast", 0, 0, can_cast, NULL, launch_cast},
    {"fill", "cpu_fill", 0, 0, can_fill, NULL, launch_fill},
    {"one", "cpu_one", 0, 0, can_fill, NULL, launch_one},
    {"concat", "cpu_concat", ~UINT64_C(0), 0, can_concat, NULL, launch_concat},
    {"slice_grad", "cpu_slice_grad", 1, 0, can_fill, NULL, launch_slice_grad},
    {0},
};
