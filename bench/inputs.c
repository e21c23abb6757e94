/* What benchmarks compute on. Values do not change how long most kernels take, but zeros,
 * denormals and NaN would. */
#include "bench/bench.h"
#include "runtime/op.h"
#include "runtime/philox.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 4096 };

static double value_at(const kin_case_input *spec, int64_t i, int64_t count) {
    double scale = spec->scale != 0 ? spec->scale : 1;
    double uniform = kin_philox_element_uniform(1, 0, 0, (uint64_t)i);
    switch (spec->fill) {
    case KIN_FILL_NORMAL:
        return scale * kin_philox_element_normal(1, 0, 1, (uint64_t)i);
    case KIN_FILL_POSITIVE:
        return scale * (0.5 + uniform);
    case KIN_FILL_INDEX:
        return spec->limit > 0 ? floor(uniform * (double)spec->limit) : 0;
    case KIN_FILL_LENGTH:
        return i == count - 1 ? (double)spec->limit : floor(uniform * (double)(spec->limit + 1));
    case KIN_FILL_COUNT:
        return (double)i;
    case KIN_FILL_ZERO:
        break;
    }
    return 0;
}

/* Q8_0 holds blocks of 32 elements in 34 bytes. */
static size_t bytes_of(kin_dtype dtype, int64_t count) {
    return kin_desc_bytes(&(kin_desc){.dtype = dtype, .rank = 1, .dims = {count}, .strides = {1}});
}

kin_status kin_bench_fill(kin_context *context, const kin_case_input *spec, kin_dtype dtype,
                          int64_t count, void *data) {
    double *values = kin_alloc(context, BLOCK * sizeof *values);
    unsigned char *target = data;
    bool repeats = spec->fill != KIN_FILL_COUNT && spec->fill != KIN_FILL_LENGTH;
    if (!values) return KIN_OUT_OF_MEMORY;
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t here = count - start < BLOCK ? count - start : BLOCK;
        if (repeats && start > 0 && here == BLOCK) {
            memcpy(target, data, bytes_of(dtype, here));
        } else {
            for (int64_t i = 0; i < here; i++) values[i] = value_at(spec, start + i, count);
            kin_convert(values, KIN_F64, target, dtype, here);
        }
        target += bytes_of(dtype, here);
    }
    kin_free(context, values);
    return KIN_OK;
}
