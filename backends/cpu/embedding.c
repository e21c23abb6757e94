/* Kernels of table look-ups, their gradient, and the timestep features. */
#include "backends/cpu/cpu.h"
#include "ops/embedding_attrs.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { COLUMN_BLOCK = 64 };

typedef struct id_list {
    const void *data;
    kin_dtype dtype;
    int64_t count;
} id_list;

static id_list ids_of(const kin_operand *operand) {
    return (id_list){cpu_data(operand), operand->desc.dtype, kin_desc_count(&operand->desc)};
}

static int64_t id_at(const id_list *ids, int64_t index) {
    return ids->dtype == KIN_I64 ? ((const int64_t *)ids->data)[index]
                                 : ((const int32_t *)ids->data)[index];
}

static bool is_id(kin_dtype dtype) {
    return dtype == KIN_I32 || dtype == KIN_I64;
}

/* The table may have any storage type: a row is copied, or converted where Q8_0 becomes f32. */
static bool can_embed(const kin_device *device, const kin_call *call) {
    (void)device;
    kin_dtype table = call->in[0].desc.dtype, out = call->out[0].desc.dtype;
    return is_id(call->in[1].desc.dtype) && (cpu_is_real(table) || table == KIN_Q8_0) &&
           (out == table || (table == KIN_Q8_0 && cpu_is_real(out)));
}

static kin_status check_ids(const kin_device *device, const id_list *ids, int64_t rows) {
    for (int64_t i = 0; i < ids->count; ++i) {
        int64_t id = id_at(ids, i);
        if (id < 0 || id >= rows)
            return kin_fail(device->context, KIN_INVALID,
                            "embedding: id %" PRId64 " at position %" PRId64
                            " is outside of the table, which has %" PRId64 " rows",
                            id, i, rows);
    }
    return KIN_OK;
}

static kin_status embedding(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    const kin_desc *desc = &call->in[0].desc;
    id_list ids = ids_of(&call->in[1]);
    int64_t width = desc->dims[1];
    kin_dtype from = desc->dtype, to = call->out[0].desc.dtype;
    kin_desc source_row = kin_desc_dense(from, 1, &width),
             target_row = kin_desc_dense(to, 1, &width);
    size_t source_bytes = kin_desc_bytes(&source_row), target_bytes = kin_desc_bytes(&target_row);
    const unsigned char *table = cpu_data(&call->in[0]);
    unsigned char *out = cpu_data(&call->out[0]);
    kin_status status = check_ids(device, &ids, desc->dims[0]);
    if (status != KIN_OK) return status;
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, ids.count *width))
    for (int64_t i = 0; i < ids.count; ++i) {
        const unsigned char *row = table + (size_t)id_at(&ids, i) * source_bytes;
        unsigned char *target = out + (size_t)i * target_bytes;
        if (from == to) memcpy(target, row, source_bytes);
        else kin_convert(row, from, target, to, width);
    }
    return KIN_OK;
}

/* Threads share the columns out, so that each sum is taken in the order of the ids. */
static kin_status embedding_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    const kin_desc *desc = &call->out[0].desc;
    id_list ids = ids_of(&call->in[1]);
    int64_t rows = desc->dims[0], width = desc->dims[1];
    const float *dy = cpu_data(&call->in[0]);
    float *table = cpu_data(&call->out[0]);
    kin_status status = check_ids(device, &ids, rows);
    if (status != KIN_OK) return status;
#pragma omp parallel for schedule(static)                                                          \
    num_threads(cpu_threads_for(device, (rows + ids.count) * width))
    for (int64_t start = 0; start < width; start += COLUMN_BLOCK) {
        int64_t count = width - start < COLUMN_BLOCK ? width - start : COLUMN_BLOCK;
        for (int64_t row = 0; row < rows; ++row)
            memset(table + row * width + start, 0, (size_t)count * sizeof(float));
        for (int64_t i = 0; i < ids.count; ++i) {
            float *sum = table + id_at(&ids, i) * width + start;
            const float *more = dy + i * width + start;
            for (int64_t c = 0; c < count; ++c) sum[c] += more[c];
        }
    }
    return KIN_OK;
}

static kin_status timestep_embedding(kin_device *device, kin_commands *commands,
                                     const kin_call *call) {
    (void)device;
    (void)commands;
    const kin_timestep_embedding_attrs *attrs = call->attrs;
    const void *t = cpu_data(&call->in[0]);
    int64_t count = call->in[0].desc.dims[0], half = attrs->dim / 2;
    for (int64_t i = 0; i < count; ++i) {
        float *out = (float *)cpu_data(&call->out[0]) + i * attrs->dim;
        double time = kin_element_get(t, call->in[0].desc.dtype, i);
        for (int64_t k = 0; k < half; ++k) {
            double angle = time * exp(-log(attrs->max_period) * (double)k / (double)half);
            out[k] = (float)cos(angle);
            out[half + k] = (float)sin(angle);
        }
        if (attrs->dim % 2 != 0) out[attrs->dim - 1] = 0;
    }
    return KIN_OK;
}

const kin_kernel cpu_embedding_kernels[] = {
    {"embedding", "cpu_embedding", 0, 0, can_embed, NULL, embedding},
    {"embedding_grad", "cpu_embedding_grad", 0, 0, NULL, NULL, embedding_grad},
    {"timestep_embedding", "cpu_timestep_embedding", 0, 0, NULL, NULL, timestep_embedding},
    {0},
};
