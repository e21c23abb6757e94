/* Softmax over rows, and its gradient. */
#include "backends/cuda/rows.cuh"

namespace {

template <int GROUP, int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    softmax(kin_ref x, kin_cuda_rows x_rows, kin_ref y, int64_t rows, int64_t width) {
    bool there;
    const int64_t row = kin_row_there<GROUP>(rows, &there);
    const int64_t from = kin_row_place(x_rows, row), to = row * width;
    float most = -INFINITY, sum = 0, v[N];
    KIN_FOR_ROW(GROUP, N, width) {
        kin_get_pack<N>(x, from + i, v);
#pragma unroll
        for (int j = 0; j < N; j++) most = fmaxf(most, v[j]);
    }
    const float top = kin_row_max<GROUP>(most);
    KIN_FOR_ROW(GROUP, N, width) {
        kin_get_pack<N>(x, from + i, v);
#pragma unroll
        for (int j = 0; j < N; j++) sum += expf(v[j] - top);
    }
    const float share = 1.0f / kin_row_sum<GROUP>(sum);
    if (!there) return;
    KIN_FOR_ROW(GROUP, N, width) {
        kin_get_pack<N>(x, from + i, v);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = expf(v[j] - top) * share;
        kin_put_pack<N>(y, to + i, v);
    }
}

/* dx = y (dy - sum(dy y)); dx may lie on dy or y. */
template <int GROUP, int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    softmax_grad(kin_ref dy, kin_cuda_rows dy_rows, kin_ref y, kin_cuda_rows y_rows, kin_ref dx,
                 int64_t rows, int64_t width) {
    bool there;
    const int64_t row = kin_row_there<GROUP>(rows, &there);
    const int64_t d_from = kin_row_place(dy_rows, row), y_from = kin_row_place(y_rows, row);
    const int64_t to = row * width;
    float sum = 0, d[N], v[N];
    KIN_FOR_ROW(GROUP, N, width) {
        kin_get_pack<N>(dy, d_from + i, d);
        kin_get_pack<N>(y, y_from + i, v);
#pragma unroll
        for (int j = 0; j < N; j++) sum += d[j] * v[j];
    }
    const float dot = kin_row_sum<GROUP>(sum);
    if (!there) return;
    KIN_FOR_ROW(GROUP, N, width) {
        kin_get_pack<N>(dy, d_from + i, d);
        kin_get_pack<N>(y, y_from + i, v);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] *= d[j] - dot;
        kin_put_pack<N>(dx, to + i, v);
    }
}

static bool rows_are_dense(const kin_device *device, const kin_call *call) {
    if (!kin_cuda_can_real(device, call)) return false;
    for (int i = 0; i < call->in_count; i++)
        if (!kin_cuda_rows_are_dense(&call->in[i].desc)) return false;
    return true;
}

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_operand *x = &call->in[0], *y = &call->out[0];
    const int64_t width = kin_cuda_row_width(&x->desc), rows = kin_cuda_row_count(&x->desc);
    const bool packs = kin_cuda_row_packs(x) && kin_cuda_row_packs(y);
    if (width == 0) return KIN_OK;
    return KIN_LAUNCH_ROWS(softmax, packs, width, rows, kin_ref_of(x), kin_cuda_rows_of(&x->desc),
                           kin_ref_of(y), rows, width);
}

static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_operand *dy = &call->in[0], *y = &call->in[1], *dx = &call->out[0];
    const int64_t width = kin_cuda_row_width(&y->desc), rows = kin_cuda_row_count(&y->desc);
    const bool packs = kin_cuda_row_packs(dy) && kin_cuda_row_packs(y) && kin_cuda_row_packs(dx);
    if (width == 0) return KIN_OK;
    return KIN_LAUNCH_ROWS(softmax_grad, packs, width, rows, kin_ref_of(dy),
                           kin_cuda_rows_of(&dy->desc), kin_ref_of(y), kin_cuda_rows_of(&y->desc),
                           kin_ref_of(dx), rows, width);
}

} // namespace

KIN_CUDA_ROWS(softmax) = {
    {"softmax", "cuda_softmax", 1, 1, rows_are_dense, nullptr, forward},
    {"softmax_grad", "cuda_softmax_grad", 3, 3, rows_are_dense, nullptr, backward},
    {},
};
