/* What the files of the convolution ops share: sizes along the three axes, and where a tap reads.
 */
#ifndef KIN_OPS_CONV_SHAPE_H
#define KIN_OPS_CONV_SHAPE_H

#include "ops/conv_attrs.h"
#include "runtime/op.h"

/* Sizes of time, rows and columns of a tensor of rank 4 or 5; time is 1 on images. */
static inline void conv_axes(const kin_desc *desc, int64_t out_size[3]) {
    for (int a = 0; a < 3; a++) {
        int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : desc->dims[axis];
    }
}

static inline int64_t conv_count(const int64_t size[3]) {
    return size[0] * size[1] * size[2];
}

/* Fails unless stride and padding make sense for tensors of this rank; gives the output's size. */
static inline kin_status conv_out_size(kin_infer *infer, const kin_conv_attrs *attrs, int rank,
                                       const int64_t in[3], const int64_t kernel[3],
                                       int64_t out_size[3]) {
    static const char *const names[3] = {"time", "rows", "columns"};
    for (int a = 0; a < 3; a++) {
        int64_t before = attrs->before[a], after = attrs->after[a];
        bool plain = attrs->stride[a] == 1 && before == 0 && after == 0 && kernel[a] == 1;
        if (attrs->stride[a] < 1 || before < 0 || after < 0)
            return kin_infer_fail(infer, "stride of %s must be at least 1 and padding at least 0",
                                  names[a]);
        if (a == 0 && rank == 4 && !plain)
            return kin_infer_fail(infer, "an image has no time axis to stride or pad");
        int64_t room = in[a] + before + after - kernel[a];
        if (room < 0)
            return kin_infer_fail(
                infer, "the kernel is %lld long along %s, the padded input only %lld",
                (long long)kernel[a], names[a], (long long)(in[a] + before + after));
        out_size[a] = room / attrs->stride[a] + 1;
    }
    return KIN_OK;
}

/* The output's size where it is known to be valid. */
static inline void conv_size(const kin_conv_attrs *attrs, const int64_t in[3],
                             const int64_t kernel[3], int64_t out_size[3]) {
    for (int a = 0; a < 3; a++)
        out_size[a] =
            (in[a] + attrs->before[a] + attrs->after[a] - kernel[a]) / attrs->stride[a] + 1;
}

/* [batch, channels, size] as a dense description of rank 4 or 5. */
static inline kin_desc conv_desc(kin_dtype dtype, int rank, int64_t batch, int64_t channels,
                                 const int64_t size[3]) {
    int64_t dims[5] = {batch, channels, size[0], size[1], size[2]};
    if (rank == 4) {
        dims[2] = size[1];
        dims[3] = size[2];
    }
    return kin_desc_dense(dtype, rank, dims);
}

/* The element of a plane of size `in` that output `at` reads at `tap`; -1: padding. */
static inline int64_t conv_source(const kin_conv_attrs *attrs, const int64_t in[3],
                                  const int64_t at[3], const int64_t tap[3]) {
    int64_t place = 0;
    for (int a = 0; a < 3; a++) {
        int64_t i = at[a] * attrs->stride[a] + tap[a] - attrs->before[a];
        if (a == 0 && i < 0 && attrs->causal) i = 0;
        if (i < 0 || i >= in[a]) return -1;
        place = place * in[a] + i;
    }
    return place;
}

/* Splits index 0 .. count - 1 into positions along three axes. */
static inline void conv_split(int64_t index, const int64_t size[3], int64_t out_at[3]) {
    out_at[2] = index % size[2];
    out_at[1] = index / size[2] % size[1];
    out_at[0] = index / size[2] / size[1];
}

#define KIN_CONV_INPUT4(a, b, c, d)                                                                \
    {                                                                                              \
        .dtype = KIN_F32, .rank = 4, .dims = { a, b, c, d }                                        \
    }
#define KIN_CONV_INPUT5(a, b, c, d, e)                                                             \
    {                                                                                              \
        .dtype = KIN_F32, .rank = 5, .dims = { a, b, c, d, e }                                     \
    }

#endif
