/* Products of any strides and dtypes by a plain kernel: what cuBLASLt does not take (mixed dtypes,
 * q8_0, strides along both axes), and all products where it is not there. A block makes a tile of
 * 64 x 64 results from slices of depth 16 in shared memory; a thread has 4 x 4 of them. */
#include "backends/cuda/elementwise.cuh"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/product.h"
#include "ops/product_attrs.h"

namespace {

enum { TILE = 64, DEPTH = 16, SIDE = 16, EACH = TILE / SIDE, THREADS = SIDE * SIDE };

static __device__ __forceinline__ float element(const kin_ref &ref, int64_t at) {
    return ref.dtype == KIN_Q8_0 ? kin_get_q8_0(ref.data, at) : kin_get(ref, at);
}

/* a_at and b_at: element 0 of this block's product. Neighbouring threads read along the axis whose
 * step is 1, whichever it is. */
static __device__ __forceinline__ void load_tiles(const kin_cuda_product &p, const kin_ref &a,
                                                  const kin_ref &b, int64_t a_at, int64_t b_at,
                                                  int64_t row, int64_t column, int64_t first,
                                                  float (&a_tile)[DEPTH][TILE + 1],
                                                  float (&b_tile)[DEPTH][TILE + 1]) {
    const bool a_deep = p.a.column_step == 1, b_deep = p.b.row_step == 1;
    for (int i = (int)threadIdx.x; i < DEPTH * TILE; i += THREADS) {
        const int ad = a_deep ? i % DEPTH : i / TILE, ar = a_deep ? i / DEPTH : i % TILE;
        const int bd = b_deep ? i % DEPTH : i / TILE, bc = b_deep ? i / DEPTH : i % TILE;
        const bool a_there = row + ar < p.rows && first + ad < p.depth;
        const bool b_there = column + bc < p.columns && first + bd < p.depth;
        a_tile[ad][ar] =
            a_there ? element(a, a_at + (row + ar) * p.a.row_step + (first + ad) * p.a.column_step)
                    : 0.0f;
        b_tile[bd][bc] =
            b_there
                ? element(b, b_at + (first + bd) * p.b.row_step + (column + bc) * p.b.column_step)
                : 0.0f;
    }
}

static __device__ __forceinline__ float activate(int activation, float x) {
    switch (activation) {
    case KIN_ACTIVATION_GELU_TANH:
        return KX_GELU_TANH(x);
    case KIN_ACTIVATION_GELU:
        return x * KX_NORMAL_CDF(x);
    case KIN_ACTIVATION_SILU:
        return x * KX_SIGMOID(x);
    default:
        return x;
    }
}

static __device__ __forceinline__ int64_t row_start(const kin_cuda_rows &rows, int64_t row) {
    int64_t at = 0;
    for (int axis = 0; axis < rows.rank; axis++) {
        at += row % rows.dims[axis] * rows.steps[axis];
        row /= rows.dims[axis];
    }
    return at;
}

static __device__ __forceinline__ float element_of(const kin_cuda_rows &rows, int64_t at) {
    return kin_get(kin_ref{const_cast<void *>(rows.data), rows.dtype}, at);
}

/* A thread's results in one row, SIDE columns apart from `first` on. */
static __device__ __forceinline__ void finish_row(const kin_cuda_product &p, int64_t result_row,
                                                  int64_t first, const float (&sums)[EACH]) {
    const kin_ref c = {p.c, p.c_dtype}, bias = {const_cast<void *>(p.bias), p.bias_dtype};
    const int64_t residual_at = p.has_residual ? row_start(p.residual, result_row) : 0;
    const int64_t gate_at = p.has_gate ? row_start(p.gate, result_row) : 0;
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        const int64_t k = first + j * SIDE;
        if (k >= p.columns) break;
        float value = activate(p.activation, p.has_bias ? sums[j] + kin_get(bias, k) : sums[j]);
        if (p.has_gate) value *= element_of(p.gate, gate_at + k * p.gate.column_step);
        if (p.has_residual)
            value += element_of(p.residual, residual_at + k * p.residual.column_step);
        kin_put(c, result_row * p.columns + k, value);
    }
}

static __global__ void __launch_bounds__(THREADS) multiply(kin_cuda_product p, int64_t products) {
    __shared__ float a_tile[DEPTH][TILE + 1], b_tile[DEPTH][TILE + 1];
    const kin_ref a = {const_cast<void *>(p.a.data), p.a.dtype};
    const kin_ref b = {const_cast<void *>(p.b.data), p.b.dtype};
    const int64_t row_tiles = (p.rows + TILE - 1) / TILE;
    const int64_t column_tiles = (p.columns + TILE - 1) / TILE;
    const int64_t product = blockIdx.x / (row_tiles * column_tiles);
    const int64_t tile = blockIdx.x % (row_tiles * column_tiles);
    const int64_t row = tile / column_tiles * TILE, column = tile % column_tiles * TILE;
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    int64_t a_at = 0, b_at = 0, rest = product;
    float sums[EACH][EACH] = {};
    if (product >= products) return; /* the whole block */
    for (int axis = 0; axis < p.rank; axis++) {
        const int64_t at = rest % p.dims[axis];
        a_at += at * p.a.steps[axis];
        b_at += at * p.b.steps[axis];
        rest /= p.dims[axis];
    }
    for (int64_t first = 0; first < p.depth; first += DEPTH) {
        load_tiles(p, a, b, a_at, b_at, row, column, first, a_tile, b_tile);
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    sums[i][j] += a_tile[d][y + i * SIDE] * b_tile[d][x + j * SIDE];
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int64_t r = row + y + i * SIDE;
        if (r < p.rows) finish_row(p, product * p.rows + r, column + x, sums[i]);
    }
}

} // namespace

kin_status kin_cuda_tiles(kin_device *device, kin_commands *commands,
                          const kin_cuda_product *product) {
    int64_t products = 1;
    for (int a = 0; a < product->rank; a++) products *= product->dims[a];
    const int64_t row_tiles = (product->rows + TILE - 1) / TILE;
    const int64_t column_tiles = (product->columns + TILE - 1) / TILE;
    return kin_cuda_launch(device, commands, multiply,
                           dim3(kin_cuda_blocks(row_tiles * column_tiles * products, 1)),
                           dim3(THREADS), 0, *product, products);
}
