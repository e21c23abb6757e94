/* Tolerances, costs, and running references on host tensors. */
#include "runtime/check.h"

#include <math.h>

double kin_tolerance(kin_dtype dtype, double reduction) {
    double f32 = ldexp(1.0, -24) * (16 + 4 * sqrt(reduction > 1 ? reduction : 1));
    switch (dtype) {
    case KIN_F32: return f32;
    case KIN_F64: return f32;
    case KIN_F16: return f32 + ldexp(1.0, -10);
    case KIN_BF16: return f32 + ldexp(1.0, -7);
    default: return 0;
    }
}

double kin_device_tolerance(const kin_device_info *info, const kin_op *op, kin_dtype operands,
                            kin_dtype dtype, double reduction) {
    double own = kin_tolerance(dtype, reduction);
    if ((op->flags & KIN_OP_ROUNDS) && kin_dtype_is_float(dtype) && kin_dtype_is_float(operands))
        own = fmax(own, kin_tolerance(operands, reduction));
    if (!(op->flags & KIN_OP_PRODUCT) || !kin_dtype_is_float(dtype)) return own;
    return fmax(own, kin_tolerance(info->product_dtype, reduction));
}

kin_cost kin_op_cost(const kin_op *op, const void *attrs, int in_count, const kin_desc *in,
                     int out_count, const kin_desc *out) {
    kin_cost cost = {.reduction = 1};
    for (int i = 0; i < in_count; i++)
        if (in[i].rank >= 0) cost.bytes += (double)kin_desc_bytes(&in[i]);
    for (int j = 0; j < out_count; j++) cost.bytes += (double)kin_desc_bytes(&out[j]);
    if (op->cost) {
        kin_cost_call call = {attrs, in_count, in, out_count, out};
        op->cost(&call, &cost);
    }
    return cost;
}

kin_status kin_reference_run(kin_context *context, const kin_op *op, const void *attrs,
                             int in_count, const kin_host_tensor *in, int out_count,
                             kin_host_tensor *out) {
    if (!op->reference)
        return kin_fail(context, KIN_UNSUPPORTED, "%s has no reference", op->name);
    size_t total = (size_t)(in_count + out_count);
    double **data = kin_calloc(context, total, sizeof *data);
    kin_desc *descs = kin_calloc(context, total, sizeof *descs);
    kin_status status = data && descs ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t k = 0; status == KIN_OK && k < total; k++) {
        const kin_host_tensor *tensor =
            k < (size_t)in_count ? &in[k] : &out[k - (size_t)in_count];
        descs[k] = tensor->desc;
        if (tensor->desc.rank < 0) continue;
        int64_t count = kin_desc_count(&tensor->desc);
        data[k] = kin_alloc(context, (size_t)count * sizeof(double));
        if (!data[k]) status = KIN_OUT_OF_MEMORY;
        else if (k < (size_t)in_count)
            kin_convert(tensor->data, tensor->desc.dtype, data[k], KIN_F64, count);
    }
    if (status == KIN_OK) {
        kin_reference call = {op,
                              attrs,
                              in_count,
                              descs,
                              (const double *const *)data,
                              out_count,
                              descs + in_count,
                              data + in_count};
        op->reference(&call);
        for (int j = 0; j < out_count; j++)
            kin_convert(data[in_count + j], KIN_F64, out[j].data, out[j].desc.dtype,
                        kin_desc_count(&out[j].desc));
    }
    for (size_t k = 0; data && k < total; k++) kin_free(context, data[k]);
    kin_free(context, data);
    kin_free(context, descs);
    return status;
}
