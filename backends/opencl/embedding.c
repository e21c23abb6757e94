/* Kernels of embedding, embedding_grad and timestep_embedding. */
#include "backends/opencl/opencl.h"
#include "ops/embedding_attrs.h"

#include <math.h>
#include <stdio.h>

enum { BLOCK = 32 }; /* as in embedding.cl */

static bool can_lookup(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_desc *table = &call->in[0].desc;
    if (table->dtype == KIN_Q8_0 && table->dims[1] % 32 != 0) return false;
    return (table->dtype == KIN_Q8_0 || kin_opencl_is_real(table->dtype)) &&
           kin_opencl_is_real(call->out[0].desc.dtype) && kin_opencl_fits(call);
}

static kin_status lookup(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_operand *table = &call->in[0], *ids = &call->in[1], *out = &call->out[0];
    int64_t count = kin_desc_count(&out->desc);
    char defines[96];
    snprintf(defines, sizeof defines, "-DLOOKUP -DX=%s -DI=%s -DY=%s -DQUANTISED=%d",
             kin_opencl_type(table), kin_opencl_type(ids), kin_opencl_type(out),
             table->desc.dtype == KIN_Q8_0);
    kin_opencl_launch launch = kin_opencl_start(device, commands, "embedding", defines, "lookup");
    kin_opencl_set_operand(&launch, table);
    kin_opencl_set_operand(&launch, ids);
    kin_opencl_set_operand(&launch, out);
    kin_opencl_set_int(&launch, table->desc.dims[0]);
    kin_opencl_set_int(&launch, table->desc.dims[1]);
    kin_opencl_set_int(&launch, count);
    return kin_opencl_finish_items(&launch, count);
}

static bool can_scatter(const kin_device *device, const kin_call *call) {
    (void)device;
    return kin_opencl_is_real(call->in[0].desc.dtype) &&
           kin_opencl_is_real(call->out[0].desc.dtype) && kin_opencl_fits(call);
}

static kin_status scatter(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_operand *dy = &call->in[0], *ids = &call->in[1], *out = &call->out[0];
    int64_t rows = out->desc.dims[0], width = out->desc.dims[1];
    int64_t items = rows * ((width + BLOCK - 1) / BLOCK);
    char defines[96];
    snprintf(defines, sizeof defines, "-DGRADIENT -DX=%s -DI=%s -DY=%s", kin_opencl_type(dy),
             kin_opencl_type(ids), kin_opencl_type(out));
    kin_opencl_launch launch = kin_opencl_start(device, commands, "embedding", defines, "scatter");
    kin_opencl_set_operand(&launch, dy);
    kin_opencl_set_operand(&launch, ids);
    kin_opencl_set_operand(&launch, out);
    kin_opencl_set_int(&launch, width);
    kin_opencl_set_int(&launch, kin_desc_count(&ids->desc));
    kin_opencl_set_int(&launch, items);
    return kin_opencl_finish_items(&launch, items);
}

/* f_k / (2 pi), f_k = max_period^(-k / half), as pairs of floats. */
static kin_status make_turns(kin_device *device, kin_commands *commands,
                             const kin_timestep_embedding_attrs *attrs,
                             const kin_buffer **out_table) {
    int64_t half = attrs->dim / 2;
    float *turns = kin_alloc(device->context, (size_t)half * 2 * sizeof *turns);
    if (turns == NULL) return KIN_OUT_OF_MEMORY;
    for (int64_t k = 0; k < half; k++) {
        double turn = pow(attrs->max_period, -(double)k / (double)half) / 6.283185307179586;
        turns[2 * k] = (float)turn;
        turns[2 * k + 1] = (float)(turn - (double)turns[2 * k]);
    }
    kin_status status =
        kin_opencl_table(device, commands, turns, (size_t)half * 2 * sizeof *turns, out_table);
    kin_free(device->context, turns);
    return status;
}

static kin_status features(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_timestep_embedding_attrs *attrs = call->attrs;
    const kin_buffer *turns = NULL;
    int64_t count = kin_desc_count(&call->out[0].desc);
    char defines[64];
    kin_status status = make_turns(device, commands, attrs, &turns);
    if (status != KIN_OK) return status;
    snprintf(defines, sizeof defines, "-DFEATURES -DI=%s", kin_opencl_type(&call->in[0]));
    kin_opencl_launch launch = kin_opencl_start(device, commands, "embedding", defines, "features");
    kin_opencl_set_operand(&launch, &call->in[0]);
    kin_opencl_set_memory(&launch, turns, 0, sizeof(float));
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_int(&launch, attrs->dim);
    kin_opencl_set_int(&launch, count);
    return kin_opencl_finish_items(&launch, count);
}

const kin_kernel kin_opencl_embedding_kernels[] = {
    {"embedding", "opencl_embedding", 0, 0, can_lookup, NULL, lookup},
    {"embedding_grad", "opencl_embedding_grad", 0, 0, can_scatter, NULL, scatter},
    {"timestep_embedding", "opencl_timestep_embedding", 0, 0, NULL, NULL, features},
    {0},
};
