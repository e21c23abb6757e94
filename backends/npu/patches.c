/* conv_patches and its gradient: for each tap of the kernel the part of the input that it reads is
 * a box with steps, so one transfer fetches it, and what lies in the padding stays zero. */
#include "npu.h"

#include "ops/conv_attrs.h"

enum { PLACES = 16384 }; /* elements of a tile */

/* Axis 0 counts channels, axes 1 to 3 are time, rows and columns. */
typedef struct patches {
    const kin_conv_attrs *conv;
    int64_t kernel[4], image[4], result[4]; /* sizes; [0]: 1, channels, channels */
    int64_t batch, taps;
    npu_tensor pixels, columns; /* steps of axes 0 to 3 of the image, and of the result */
    int64_t pixel_batch, column_batch, column_tap; /* in elements */
} patches;

static patches patches_of(const kin_conv_attrs *conv, const int64_t kernel[3],
                          const kin_operand *pixels, const kin_operand *columns) {
    patches p = {.conv = conv, .batch = pixels->desc.dims[0], .taps = 1};
    const kin_desc *desc = &pixels->desc;
    p.kernel[0] = 1;
    p.image[0] = p.result[0] = desc->dims[1];
    p.pixels = (npu_tensor){pixels->buffer, pixels->offset, desc->dtype, {desc->strides[1]}};
    p.columns = (npu_tensor){columns->buffer, columns->offset, columns->desc.dtype, {0}};
    int64_t places = 1;
    for (int a = 2; a >= 0; a--) {
        int axis = desc->rank - 3 + a;
        bool there = axis >= 2; /* an image has no time */
        p.kernel[a + 1] = kernel[a];
        p.taps *= kernel[a];
        p.image[a + 1] = there ? desc->dims[axis] : 1;
        p.pixels.steps[a + 1] = there ? desc->strides[axis] : 0;
        p.result[a + 1] =
            (p.image[a + 1] + conv->before[a] + conv->after[a] - kernel[a]) / conv->stride[a] + 1;
        p.columns.steps[a + 1] = places * columns->desc.strides[2];
        places *= p.result[a + 1];
    }
    p.columns.steps[0] = p.taps * columns->desc.strides[1];
    p.column_tap = columns->desc.strides[1];
    p.column_batch = columns->desc.strides[0];
    p.pixel_batch = desc->strides[0];
    return p;
}

/* Of the places first .. first + count - 1 of an axis of the result, those whose tap lies within
 * low .. high - 1 of the image. */
static int64_t clip_axis(const patches *p, int axis, int64_t tap, int64_t low, int64_t high,
                         int64_t *first, int64_t count) {
    if (axis == 0) {
        int64_t start = *first > low ? *first : low, end = *first + count;
        if (end > high) end = high;
        *first = start;
        return end > start ? end - start : 0;
    }
    int64_t stride = p->conv->stride[axis - 1], shift = tap - p->conv->before[axis - 1];
    int64_t start = *first, end = *first + count;
    while (start < end && start * stride + shift < low) start++;
    while (end > start && (end - 1) * stride + shift >= high) end--;
    *first = start;
    return end - start;
}

static void tap_at(const patches *p, int64_t index, int64_t tap[4]) {
    tap[0] = 0;
    for (int axis = 3; axis >= 1; axis--) {
        tap[axis] = index % p->kernel[axis];
        index /= p->kernel[axis];
    }
}

/* The pixels that the places of a box of the result see through a tap: a tensor whose axes are
 * those of the result. */
static npu_tensor seen(const patches *p, const int64_t tap[4], int64_t batch, const npu_box *box) {
    npu_tensor tensor = p->pixels;
    int64_t offset = batch * p->pixel_batch + box->start[0] * tensor.steps[0];
    for (int axis = 1; axis < 4; axis++) {
        int64_t stride = p->conv->stride[axis - 1];
        int64_t pixel = box->start[axis] * stride + tap[axis] - p->conv->before[axis - 1];
        offset += pixel * tensor.steps[axis];
        tensor.steps[axis] *= stride;
    }
    tensor.offset += (uint64_t)offset * kin_dtype_size(tensor.dtype);
    return tensor;
}

static void dense_steps(const npu_box *box, int64_t steps[4]) {
    int64_t step = 1;
    for (int axis = 3; axis >= 0; axis--) {
        steps[axis] = step;
        step *= box->size[axis];
    }
}

/* Loads the part of a box that a tap sees at `part`; `first_frame`: of frame 0, again and again. */
static void load_part(npu_compiler *compiler, const patches *p, const int64_t tap[4], int64_t batch,
                      const npu_box *box, const npu_box *part, bool first_frame, npu_ref tile) {
    int64_t steps[4], place = 0, from_tap[4] = {0, tap[1], tap[2], tap[3]};
    npu_box origin = *part, counts = {.rank = 4};
    if (npu_box_count(part) == 0) return;
    dense_steps(box, steps);
    for (int axis = 0; axis < 4; axis++) {
        place += (part->start[axis] - box->start[axis]) * steps[axis];
        counts.size[axis] = part->size[axis];
    }
    if (first_frame) {
        origin.start[1] = 0;
        from_tap[1] = p->conv->before[0];
    }
    npu_tensor pixels = seen(p, from_tap, batch, &origin);
    if (first_frame) pixels.steps[1] = 0;
    npu_load(compiler, &pixels, &counts, tile.slot,
             (uint32_t)((size_t)place * kin_dtype_size(tile.dtype)), steps);
}

/* Loads what a tap sees of a box of the result; padding is zero, and a causal convolution sees
 * frame 0 in front of the first. */
static void load_tap(npu_compiler *compiler, const patches *p, const int64_t tap[4], int64_t batch,
                     const npu_box *box, npu_ref tile) {
    npu_box part = {.rank = 4};
    for (int axis = 0; axis < 4; axis++) {
        part.start[axis] = box->start[axis];
        part.size[axis] =
            clip_axis(p, axis, tap[axis], 0, p->image[axis], &part.start[axis], box->size[axis]);
    }
    if (npu_box_count(&part) != npu_box_count(box))
        npu_emit_fill(compiler, tile, npu_box_count(box), 0);
    load_part(compiler, p, tap, batch, box, &part, false, tile);
    if (!p->conv->causal) return;
    part.size[1] = part.start[1] - box->start[1]; /* frames in front of the video */
    part.start[1] = box->start[1];
    load_part(compiler, p, tap, batch, box, &part, true, tile);
}

void npu_build_patches(npu_compiler *compiler, const kin_call *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    patches p = patches_of(&attrs->conv, attrs->size, &call->in[0], &call->out[0]);
    int64_t sizes[4];
    int slots[2], turn = 0;
    npu_box_sizes(4, p.result, PLACES, sizes);
    uint64_t bytes = (uint64_t)npu_count(4, sizes) * kin_dtype_size(p.pixels.dtype);
    for (int i = 0; i < 2; i++) slots[i] = npu_take(compiler, bytes);
    for (int64_t b = 0; b < p.batch; b++)
        for (int64_t k = 0; k < p.taps && compiler->status == KIN_OK; k++) {
            npu_tensor to = p.columns;
            npu_box box = {.rank = 0};
            int64_t tap[4];
            tap_at(&p, k, tap);
            to.offset +=
                (uint64_t)(b * p.column_batch + k * p.column_tap) * kin_dtype_size(to.dtype);
            while (npu_box_next(4, p.result, sizes, &box)) {
                load_tap(compiler, &p, tap, b, &box, (npu_ref){slots[turn], 0, p.pixels.dtype, 0});
                npu_store(compiler, &to, &box, slots[turn], 0, NULL);
                turn = !turn;
            }
        }
}

/* ---- the gradient ---- */

/* Adds to a box of pixels what its places in the result give through a tap: they are loaded to
 * where they belong in a zeroed tile. `frame`: with a frame of the result that sees frame 0 early,
 * or -1. */
static void add_tap(npu_compiler *compiler, const patches *p, int64_t batch, int64_t tap_index,
                    const npu_box *box, int64_t frame, npu_ref tile, npu_ref sum) {
    int64_t tap[4], steps[4], place = 0, offset = batch * p->column_batch;
    npu_box counts = {.rank = 4};
    npu_tensor columns = p->columns;
    tap_at(p, tap_index, tap);
    dense_steps(box, steps);
    for (int axis = 0; axis < 4; axis++) {
        int64_t low = box->start[axis], high = low + box->size[axis], first = 0;
        int64_t count = clip_axis(p, axis, tap[axis], low, high, &first, p->result[axis]);
        int64_t pixel = first;
        if (axis == 1 && frame >= 0) {
            first = frame;
            count = 1;
            pixel = 0;
        } else if (axis > 0) {
            pixel = first * p->conv->stride[axis - 1] + tap[axis] - p->conv->before[axis - 1];
        }
        if (count == 0) return;
        counts.size[axis] = count;
        offset += first * columns.steps[axis];
        place += (pixel - low) * steps[axis];
        if (axis > 0) steps[axis] *= p->conv->stride[axis - 1];
    }
    offset += tap_index * p->column_tap;
    columns.offset += (uint64_t)offset * kin_dtype_size(columns.dtype);
    int64_t elements = npu_box_count(box);
    npu_emit_fill(compiler, tile, elements, 0);
    npu_load(compiler, &columns, &counts, tile.slot,
             (uint32_t)((size_t)place * kin_dtype_size(tile.dtype)), steps);
    npu_vector add = {.function = NPU_FN_add, .count = elements};
    npu_ref in[2] = {sum, tile};
    npu_emit_vector(compiler, add, in, 2, &sum, 1);
}

/* The frames of the result that see frame 0 through a tap although they lie in front of it. */
static int64_t early_frames(const patches *p, int64_t tap_index, const npu_box *box) {
    int64_t tap[4], count = 0;
    tap_at(p, tap_index, tap);
    if (!p->conv->causal || box->start[1] > 0) return 0;
    while (count < p->result[1] && count * p->conv->stride[0] + tap[1] < p->conv->before[0])
        count++;
    return count;
}

void npu_build_patches_grad(npu_compiler *compiler, const kin_call *call) {
    const kin_conv_patches_grad_attrs *attrs = call->attrs;
    patches p = patches_of(&attrs->conv, attrs->kernel, &call->out[0], &call->in[0]);
    const kin_dtype dtype = p.columns.dtype;
    int64_t sizes[4];
    npu_ref tiles[2], sums[2], narrow = {-1, 0, p.pixels.dtype, 0};
    int turn = 0, sum_turn = 0;
    npu_box_sizes(4, p.image, PLACES, sizes);
    uint64_t elements = (uint64_t)npu_count(4, sizes);
    for (int i = 0; i < 2; i++) {
        tiles[i] = (npu_ref){npu_take(compiler, elements * kin_dtype_size(dtype)), 0, dtype, 0};
        sums[i] = (npu_ref){npu_take(compiler, elements * sizeof(float)), 0, KIN_F32, 0};
    }
    if (p.pixels.dtype != KIN_F32)
        narrow.slot = npu_take(compiler, elements * kin_dtype_size(p.pixels.dtype));
    for (int64_t b = 0; b < p.batch; b++) {
        npu_tensor to = p.pixels;
        npu_box box = {.rank = 0};
        to.offset += (uint64_t)(b * p.pixel_batch) * kin_dtype_size(to.dtype);
        while (compiler->status == KIN_OK && npu_box_next(4, p.image, sizes, &box)) {
            npu_ref sum = sums[sum_turn];
            npu_emit_fill(compiler, sum, npu_box_count(&box), 0);
            for (int64_t k = 0; k < p.taps; k++)
                for (int64_t f = -1; f < early_frames(&p, k, &box); f++, turn = !turn)
                    add_tap(compiler, &p, b, k, &box, f, tiles[turn], sum);
            if (narrow.slot >= 0) {
                npu_emit_convert(compiler, sum, narrow, npu_box_count(&box));
                sum = narrow;
            }
            npu_store(compiler, &to, &box, sum.slot, 0, NULL);
            sum_turn = !sum_turn;
        }
    }
}
