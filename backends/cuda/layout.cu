/* Ops that move or make elements: copy, cast, fill, one, concat, slice_grad, assign. The limit is
 * memory bandwidth. */
#include "backends/cuda/launch.cuh"
#include "backends/cuda/places.cuh"
#include "ops/layout_attrs.h"
#include "ops/views_attrs.h"

#include <string.h>

namespace {

enum { THREADS = 256 };

static size_t size_of(const kin_operand *operand) {
    return kin_dtype_size(operand->desc.dtype);
}

/* ---- moving, by the size of the element ---- */

/* Aligned, so that it is one access. */
struct alignas(16) bytes_16 {
    uint64_t low, high;
};

/* Element `index` of the axes, from place to place: operand 0 is the source, 1 the target. */
template <typename E>
static __global__ void __launch_bounds__(THREADS)
    move(const E *__restrict__ x, E *__restrict__ y, kin_cuda_shape shape) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t places[2];
    if (index >= shape.count) return;
    kin_places(shape, index, places);
    y[places[1]] = x[places[0]];
}

/* A transposition: the axis that is dense in the source is not the last one. Tiles of 32 x 32 go
 * through shared memory, so that both sides are read and written along dense rows. */
enum { SIDE = 32, STEP = 8 };
template <typename E>
static __global__ void __launch_bounds__(SIDE *STEP)
    turn(const E *__restrict__ x, E *__restrict__ y, kin_cuda_shape outer, int64_t rows,
         int64_t columns, int64_t x_column, int64_t y_row) {
    __shared__ E tile[SIDE][SIDE + 1];
    const int64_t row_tiles = (rows + SIDE - 1) / SIDE, column_tiles = (columns + SIDE - 1) / SIDE;
    const int64_t one = blockIdx.x % (row_tiles * column_tiles);
    const int64_t row = one / column_tiles * SIDE, column = one % column_tiles * SIDE;
    int64_t places[2];
    kin_places(outer, blockIdx.x / (row_tiles * column_tiles), places);
    for (int j = (int)threadIdx.y; j < SIDE; j += STEP)
        if (row + (int)threadIdx.x < rows && column + j < columns)
            tile[j][threadIdx.x] = x[places[0] + row + threadIdx.x + (column + j) * x_column];
    __syncthreads();
    for (int j = (int)threadIdx.y; j < SIDE; j += STEP)
        if (row + j < rows && column + (int)threadIdx.x < columns)
            y[places[1] + (row + j) * y_row + column + threadIdx.x] = tile[threadIdx.x][j];
}

/* The axis other than the last along which the source is dense, if a turn pays; else -1. */
static int dense_axis(const kin_cuda_shape *s) {
    const int last = s->rank - 1;
    if (s->rank < 2 || s->strides[1][last] != 1 || s->strides[0][last] == 1 ||
        s->strides[0][last] == 0 || s->dims[last] < 8)
        return -1;
    for (int axis = 0; axis < last; axis++)
        if (s->strides[0][axis] == 1 && s->dims[axis] >= 8) return axis;
    return -1;
}

template <typename E>
static kin_status launch_turn(kin_device *device, kin_commands *commands, const void *x, void *y,
                              const kin_cuda_shape *s, int axis) {
    const int last = s->rank - 1;
    kin_cuda_shape outer = *s;
    outer.rank = 0;
    outer.count = 1;
    for (int a = 0; a < last; a++) {
        if (a == axis) continue;
        outer.dims[outer.rank] = s->dims[a];
        outer.strides[0][outer.rank] = s->strides[0][a];
        outer.strides[1][outer.rank++] = s->strides[1][a];
        outer.count *= s->dims[a];
    }
    const int64_t rows = s->dims[axis], columns = s->dims[last];
    const int64_t tiles = (rows + SIDE - 1) / SIDE * ((columns + SIDE - 1) / SIDE);
    return kin_cuda_launch(device, commands, turn<E>, dim3(kin_cuda_blocks(tiles * outer.count, 1)),
                           dim3(SIDE, STEP), 0, static_cast<const E *>(x), static_cast<E *>(y),
                           outer, rows, columns, s->strides[0][last], s->strides[1][axis]);
}

template <typename E>
static kin_status launch_elements(kin_device *device, kin_commands *commands, const void *x,
                                  void *y, const kin_cuda_shape *s) {
    const int axis = dense_axis(s);
    if (axis >= 0 && s->count > 0) return launch_turn<E>(device, commands, x, y, s, axis);
    return kin_cuda_launch(device, commands, move<E>, dim3(kin_cuda_blocks(s->count, THREADS)),
                           dim3(THREADS), 0, static_cast<const E *>(x), static_cast<E *>(y), *s);
}

/* The shape with elements of `factor` times the size, if they are whole everywhere. */
static bool widen(kin_cuda_shape *s, int64_t factor) {
    const int last = s->rank - 1;
    if (s->rank == 0 || s->dims[last] % factor != 0) return false;
    for (int j = 0; j < 2; j++) {
        if (s->strides[j][last] != 1) return false;
        for (int axis = 0; axis < last; axis++)
            if (s->strides[j][axis] % factor != 0) return false;
    }
    s->dims[last] /= factor;
    s->count /= factor;
    for (int j = 0; j < 2; j++)
        for (int axis = 0; axis < last; axis++) s->strides[j][axis] /= factor;
    return true;
}

/* Copies the elements of `in` to y, which has the shape of in and the strides of target. */
static kin_status move_to(kin_device *device, kin_commands *commands, const kin_operand *in,
                          const kin_desc *target, void *y) {
    const kin_desc *both[2] = {&in->desc, target};
    const void *x = kin_cuda_address(in);
    kin_cuda_shape s = kin_cuda_shape_of(in->desc.rank, in->desc.dims, 2, both);
    size_t size = size_of(in);
    while (size < 16 && ((uintptr_t)x | (uintptr_t)y) % (2 * size) == 0 && widen(&s, 2)) size *= 2;
    switch (size) {
    case 1:
        return launch_elements<uint8_t>(device, commands, x, y, &s);
    case 2:
        return launch_elements<uint16_t>(device, commands, x, y, &s);
    case 4:
        return launch_elements<uint32_t>(device, commands, x, y, &s);
    case 8:
        return launch_elements<uint64_t>(device, commands, x, y, &s);
    default:
        return launch_elements<bytes_16>(device, commands, x, y, &s);
    }
}

static bool can_move(const kin_device *device, const kin_call *call) {
    (void)device;
    return size_of(&call->out[0]) > 0;
}

static kin_status launch_copy(kin_device *device, kin_commands *commands, const kin_call *call) {
    return move_to(device, commands, &call->in[0], &call->out[0].desc,
                   kin_cuda_address(&call->out[0]));
}

static kin_status launch_concat(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_concat_attrs *attrs = static_cast<const kin_concat_attrs *>(call->attrs);
    const kin_desc *out = &call->out[0].desc;
    char *start = static_cast<char *>(kin_cuda_address(&call->out[0]));
    for (int i = 0; i < call->in_count; i++) {
        const kin_operand *in = &call->in[i];
        kin_desc target = in->desc;
        memcpy(target.strides, out->strides, sizeof target.strides);
        kin_status status = move_to(device, commands, in, &target, start);
        if (status != KIN_OK) return status;
        start += in->desc.dims[attrs->axis] * out->strides[attrs->axis] * (int64_t)size_of(in);
    }
    return KIN_OK;
}

static bool can_copy_blocks(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[0].desc.dtype == KIN_Q8_0 && kin_desc_is_dense(&call->in[0].desc);
}

static kin_status launch_copy_blocks(kin_device *device, kin_commands *commands,
                                     const kin_call *call) {
    return kin_cuda_add_copy(device, commands, kin_cuda_address(&call->out[0]),
                             kin_cuda_address(&call->in[0]), kin_desc_bytes(&call->in[0].desc));
}

static bool can_assign(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[1].desc.dtype == call->out[0].desc.dtype && size_of(&call->out[0]) > 0;
}

static kin_status launch_assign(kin_device *device, kin_commands *commands, const kin_call *call) {
    void *x = kin_cuda_address(&call->in[1]), *out = kin_cuda_address(&call->out[0]);
    if (x == out) return KIN_OK;
    return kin_cuda_add_copy(device, commands, out, x, kin_desc_bytes(&call->out[0].desc));
}

/* ---- cast ---- */

/* Real numbers to integers: cut towards zero and saturated; NaN gives 0. */
static __device__ __forceinline__ int64_t cut(float v, float low, float high, int64_t least,
                                              int64_t most) {
    if (v != v) return 0;
    return v <= low ? least : v >= high ? most : (int64_t)v;
}

static __device__ __forceinline__ int64_t cut_to(int dtype, float v) {
    if (dtype == KIN_I64) return cut(v, -0x1p63f, 0x1p63f, INT64_MIN, INT64_MAX);
    if (dtype == KIN_I32) return cut(v, -0x1p31f, 0x1p31f, INT32_MIN, INT32_MAX);
    return cut(v, 0, 256, 0, 255);
}

static __device__ __forceinline__ int64_t narrow_to(int dtype, int64_t v) {
    if (dtype == KIN_I32) return v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : v;
    if (dtype == KIN_U8) return v < 0 ? 0 : v > 255 ? 255 : v;
    return v;
}

static __device__ __forceinline__ int64_t get_integer(const kin_ref &ref, int64_t i) {
    switch (ref.dtype) {
    case KIN_I64:
        return static_cast<const int64_t *>(ref.data)[i];
    case KIN_I32:
        return static_cast<const int32_t *>(ref.data)[i];
    case KIN_BOOL:
        return static_cast<const uint8_t *>(ref.data)[i] != 0;
    default:
        return static_cast<const uint8_t *>(ref.data)[i];
    }
}

static __device__ __forceinline__ void put_integer(const kin_ref &ref, int64_t i, int64_t v) {
    switch (ref.dtype) {
    case KIN_I64:
        static_cast<int64_t *>(ref.data)[i] = v;
        return;
    case KIN_I32:
        static_cast<int32_t *>(ref.data)[i] = (int32_t)v;
        return;
    default:
        static_cast<uint8_t *>(ref.data)[i] = (uint8_t)v;
    }
}

static __device__ __forceinline__ bool is_real(int dtype) {
    return dtype == KIN_F32 || dtype == KIN_F16 || dtype == KIN_BF16;
}

static __global__ void __launch_bounds__(THREADS) cast(kin_ref x, kin_ref y, kin_cuda_shape shape) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t places[1];
    if (index >= shape.count) return;
    kin_places(shape, index, places);
    if (is_real(x.dtype) || x.dtype == KIN_Q8_0) {
        const float v =
            x.dtype == KIN_Q8_0 ? kin_get_q8_0(x.data, places[0]) : kin_get(x, places[0]);
        if (is_real(y.dtype)) kin_put(y, index, v);
        else if (y.dtype == KIN_BOOL) put_integer(y, index, v != 0);
        else put_integer(y, index, cut_to(y.dtype, v));
    } else {
        const int64_t v = get_integer(x, places[0]);
        if (is_real(y.dtype)) kin_put(y, index, (float)v);
        else if (y.dtype == KIN_BOOL) put_integer(y, index, v != 0);
        else put_integer(y, index, narrow_to(y.dtype, v));
    }
}

/* Between f32, f16 and bf16, 8 elements at once. */
static __global__ void __launch_bounds__(THREADS)
    cast_packs(kin_ref x, kin_ref y, kin_cuda_shape shape) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t places[1];
    float values[8];
    if (index >= shape.count) return;
    kin_places(shape, index, places);
    kin_get_pack<8>(x, places[0], values);
    kin_put_pack<8>(y, index * 8, values);
}

/* Rows of q8_0 are whole blocks only where the last axis is a multiple of 32. */
static bool can_cast(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_desc *in = &call->in[0].desc;
    if (in->dtype == KIN_Q8_0 &&
        (!kin_desc_is_dense(in) || in->rank == 0 || in->dims[in->rank - 1] % 32 != 0))
        return false;
    return in->dtype != KIN_F64 && call->out[0].desc.dtype != KIN_Q8_0 &&
           call->out[0].desc.dtype != KIN_F64;
}

static kin_status launch_cast(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_operand *x = &call->in[0], *y = &call->out[0];
    const kin_desc *in = &x->desc;
    const kin_cuda_shape shape = kin_cuda_shape_of(in->rank, in->dims, 1, &in);
    const bool packs = kin_cuda_is_real(in->dtype) && kin_cuda_is_real(y->desc.dtype) &&
                       kin_cuda_is_aligned(x) && kin_cuda_is_aligned(y) &&
                       kin_cuda_shape_has_packs(&shape) && shape.strides[0][shape.rank - 1] == 1;
    if (!packs)
        return kin_cuda_launch(device, commands, cast, dim3(kin_cuda_blocks(shape.count, THREADS)),
                               dim3(THREADS), 0, kin_ref_of(x), kin_ref_of(y), shape);
    const kin_cuda_shape counted = kin_cuda_shape_in_packs(&shape);
    return kin_cuda_launch(device, commands, cast_packs,
                           dim3(kin_cuda_blocks(counted.count, THREADS)), dim3(THREADS), 0,
                           kin_ref_of(x), kin_ref_of(y), counted);
}

/* ---- fill, one ---- */

template <typename E>
static __global__ void __launch_bounds__(THREADS) fill(E *y, E value, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) y[i] = value;
}

template <typename E>
static kin_status fill_as(kin_device *device, kin_commands *commands, const kin_operand *out,
                          const void *value) {
    const int64_t count = kin_desc_count(&out->desc);
    E element;
    memcpy(&element, value, sizeof element);
    return kin_cuda_launch(device, commands, fill<E>, dim3(kin_cuda_blocks(count, THREADS)),
                           dim3(THREADS), 0, static_cast<E *>(kin_cuda_address(out)), element,
                           count);
}

static kin_status fill_with(kin_device *device, kin_commands *commands, const kin_operand *out,
                            double value) {
    unsigned char bytes[8] = {};
    kin_element_set(bytes, out->desc.dtype, 0, value);
    switch (size_of(out)) {
    case 1:
        return fill_as<uint8_t>(device, commands, out, bytes);
    case 2:
        return fill_as<uint16_t>(device, commands, out, bytes);
    case 4:
        return fill_as<uint32_t>(device, commands, out, bytes);
    default:
        return fill_as<uint64_t>(device, commands, out, bytes);
    }
}

static kin_status launch_fill(kin_device *device, kin_commands *commands, const kin_call *call) {
    return fill_with(device, commands, &call->out[0],
                     static_cast<const kin_fill_attrs *>(call->attrs)->value);
}

static kin_status launch_one(kin_device *device, kin_commands *commands, const kin_call *call) {
    return fill_with(device, commands, &call->out[0], 1);
}

/* ---- slice_grad ---- */

/* y [outer, size, inner]: x [outer, length, inner], in any strides, at start; zeros elsewhere. */
template <typename E>
static __global__ void __launch_bounds__(THREADS)
    place(const E *x, E *y, int64_t start, int64_t length, int64_t size, int64_t inner,
          int64_t count, kin_cuda_shape shape) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t places[1];
    if (i >= count) return;
    const int64_t column = i % inner, rest = i / inner;
    const int64_t at = rest % size - start, outer = rest / size;
    E value = 0;
    if (at >= 0 && at < length) {
        kin_places(shape, (outer * length + at) * inner + column, places);
        value = x[places[0]];
    }
    y[i] = value;
}

template <typename E>
static kin_status place_as(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_slice_grad_attrs *attrs = static_cast<const kin_slice_grad_attrs *>(call->attrs);
    const kin_desc *in = &call->in[0].desc, *out = &call->out[0].desc;
    const kin_cuda_shape shape = kin_cuda_shape_of(in->rank, in->dims, 1, &in);
    const int64_t count = kin_desc_count(out);
    return kin_cuda_launch(device, commands, place<E>, dim3(kin_cuda_blocks(count, THREADS)),
                           dim3(THREADS), 0, static_cast<const E *>(kin_cuda_address(&call->in[0])),
                           static_cast<E *>(kin_cuda_address(&call->out[0])), attrs->start,
                           in->dims[attrs->axis], attrs->size, out->strides[attrs->axis], count,
                           shape);
}

static kin_status launch_slice_grad(kin_device *device, kin_commands *commands,
                                    const kin_call *call) {
    switch (size_of(&call->out[0])) {
    case 1:
        return place_as<uint8_t>(device, commands, call);
    case 2:
        return place_as<uint16_t>(device, commands, call);
    case 4:
        return place_as<uint32_t>(device, commands, call);
    default:
        return place_as<uint64_t>(device, commands, call);
    }
}

} // namespace

KIN_CUDA_ROWS(layout) = {
    {"copy", "cuda_copy", 1, 0, can_move, nullptr, launch_copy},
    {"copy", "cuda_copy_blocks", 0, 0, can_copy_blocks, nullptr, launch_copy_blocks},
    {"cast", "cuda_cast", 1, 0, can_cast, nullptr, launch_cast},
    {"fill", "cuda_fill", 0, 0, can_move, nullptr, launch_fill},
    {"one", "cuda_one", 0, 0, can_move, nullptr, launch_one},
    {"concat", "cuda_concat", ~UINT64_C(0), 0, can_move, nullptr, launch_concat},
    {"slice_grad", "cuda_slice_grad", 1, 0, can_move, nullptr, launch_slice_grad},
    {"assign", "cuda_assign", 0, 1, can_assign, nullptr, launch_assign},
    {},
};
