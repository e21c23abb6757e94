/* Where elements and rows lie: the device's side of shape.h. Counts below 2^31 are taken apart with
 * 32-bit divisions. */
#ifndef KIN_BACKENDS_CUDA_PLACES_CUH
#define KIN_BACKENDS_CUDA_PLACES_CUH

#include "backends/cuda/device.cuh"
#include "backends/cuda/shape.h"

template <typename I, int J>
static __device__ __forceinline__ void kin_places_by(const kin_cuda_shape &s, I rest,
                                                     int64_t (&places)[J]) {
    for (int axis = s.rank - 1; axis > 0; axis--) {
        const I dim = (I)s.dims[axis], next = rest / dim;
        const int64_t at = (int64_t)(rest - next * dim);
#pragma unroll
        for (int j = 0; j < J; j++) places[j] += at * s.strides[j][axis];
        rest = next;
    }
#pragma unroll
    for (int j = 0; j < J; j++) places[j] += (int64_t)rest * s.strides[j][0];
}

/* The places, in elements from element 0, of the first J operands' element `index` (below count).
 */
template <int J>
static __device__ __forceinline__ void kin_places(const kin_cuda_shape &s, int64_t index,
                                                  int64_t (&places)[J]) {
#pragma unroll
    for (int j = 0; j < J; j++) places[j] = 0;
    if (s.rank == 0) return;
    if (s.count <= INT32_MAX) kin_places_by(s, (unsigned)index, places);
    else kin_places_by(s, (unsigned long long)index, places);
}

/* Where row `row` starts. */
static __device__ __forceinline__ int64_t kin_row_place(const kin_cuda_rows &rows, int64_t row) {
    int64_t place = 0;
    for (int axis = rows.rank - 1; axis >= 0; axis--) {
        const int64_t next = axis > 0 ? row / rows.dims[axis] : 0;
        place += (row - next * rows.dims[axis]) * rows.strides[axis];
        row = next;
    }
    return place;
}

#endif
