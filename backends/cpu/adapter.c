/* The adapter: any kernel that serves f32 serves f16, bf16 and q8_0 operands, too.
 *
 * Inputs of those types are converted to dense floats in scratch memory, the kernel runs on them,
 * and its results are converted back. The sizes follow from the descriptions, so the scratch memory
 * is known when the plan is made.
 */
#include "backends/cpu/cpu.h"
#include "backends/cpu/map.h"

#include <string.h>

enum { MAX_INPUTS = 32, MAX_OUTPUTS = 8, PART = 8192 };

/* The call as the f32 kernel will see it. */
typedef struct adapted {
    const kin_kernel *kernel;
    kin_call call;
    kin_operand in[MAX_INPUTS], out[MAX_OUTPUTS];
    bool in_converted[MAX_INPUTS], out_converted[MAX_OUTPUTS];
} adapted;

static bool is_plain(kin_dtype dtype) {
    return dtype != KIN_F16 && dtype != KIN_BF16 && dtype != KIN_Q8_0 && dtype != KIN_F64;
}

bool cpu_is_plain_call(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++)
        if (!cpu_is_absent(&call->in[i]) && !is_plain(call->in[i].desc.dtype)) return false;
    for (int i = 0; i < call->out_count; i++)
        if (!is_plain(call->out[i].desc.dtype)) return false;
    return true;
}

/* Blocks of q8_0 are unpacked only where rows are whole blocks, side by side. */
static bool is_convertible(const kin_desc *desc) {
    if (desc->dtype != KIN_Q8_0) return cpu_is_real(desc->dtype);
    return kin_desc_is_dense(desc) && desc->rank > 0 && desc->dims[desc->rank - 1] % 32 == 0;
}

static void use_f32(kin_operand *operand) {
    operand->desc = kin_desc_dense(KIN_F32, operand->desc.rank, operand->desc.dims);
}

/* Replaces 16-bit and q8_0 operands. False if there are none, or some that cannot be replaced. */
static bool convert_operands(const kin_call *call, adapted *out) {
    bool any = false;
    if (call->in_count > MAX_INPUTS || call->out_count > MAX_OUTPUTS) return false;
    for (int i = 0; i < call->in_count; i++) {
        out->in[i] = call->in[i];
        out->in_converted[i] = !cpu_is_absent(&call->in[i]) && !is_plain(call->in[i].desc.dtype);
        if (!out->in_converted[i]) continue;
        if (!is_convertible(&call->in[i].desc)) return false;
        use_f32(&out->in[i]);
        any = true;
    }
    for (int i = 0; i < call->out_count; i++) {
        out->out[i] = call->out[i];
        out->out_converted[i] = !is_plain(call->out[i].desc.dtype);
        if (!out->out_converted[i]) continue;
        if (!cpu_is_real(call->out[i].desc.dtype)) return false;
        use_f32(&out->out[i]);
        any = true;
    }
    out->call = *call;
    out->call.in = out->in;
    out->call.out = out->out;
    out->call.scratch_size = 0;
    return any;
}

/* Operands that are not converted reach the kernel as they are. */
static bool takes_views(const kin_kernel *kernel, const kin_call *call) {
    for (int i = 0; i < call->in_count; i++)
        if (!cpu_is_absent(&call->in[i]) && (i >= 64 || (kernel->strided >> i & 1) == 0) &&
            !kin_desc_is_dense(&call->in[i].desc))
            return false;
    return true;
}

static bool adapt(const kin_device *device, const kin_call *call, adapted *out) {
    memset(out, 0, sizeof *out);
    if (!convert_operands(call, out)) return false;
    for (size_t i = 0; (out->kernel = cpu_kernel_at(i)) != NULL; i++) {
        const kin_kernel *kernel = out->kernel;
        bool (*can)(const kin_device *, const kin_call *) =
            kernel->can != NULL ? kernel->can : cpu_is_plain_call;
        if (strcmp(kernel->op, call->op) == 0 && takes_views(kernel, &out->call) &&
            can(device, &out->call))
            return true;
    }
    return false;
}

static bool can_adapt(const kin_device *device, const kin_call *call) {
    adapted work;
    return adapt(device, call, &work);
}

static size_t aligned(size_t bytes) {
    return (bytes + CPU_ALIGNMENT - 1) / CPU_ALIGNMENT * CPU_ALIGNMENT;
}

static size_t adapter_scratch(const kin_device *device, const kin_call *call) {
    adapted work;
    size_t size = 0;
    if (!adapt(device, call, &work)) return 0;
    for (int i = 0; i < call->in_count; i++)
        if (work.in_converted[i]) size += aligned(kin_desc_bytes(&work.in[i].desc));
    for (int i = 0; i < call->out_count; i++)
        if (work.out_converted[i]) size += aligned(kin_desc_bytes(&work.out[i].desc));
    return size + (work.kernel->scratch != NULL ? work.kernel->scratch(device, &work.call) : 0);
}

static void convert_dense(const kin_device *device, const void *from, kin_dtype from_dtype,
                          void *to, kin_dtype to_dtype, int64_t count) {
    (void)device; /* for the threads, where there are any */
    const unsigned char *source = from;
    unsigned char *target = to;
#pragma omp parallel for num_threads(cpu_threads_for(device, count)) schedule(static)
    for (int64_t at = 0; at < count; at += PART) {
        int64_t n = count - at < PART ? count - at : PART;
        int64_t offset =
            from_dtype == KIN_Q8_0 ? at / 32 * 34 : at * (int64_t)kin_dtype_size(from_dtype);
        kin_convert(source + offset, from_dtype, target + at * (int64_t)kin_dtype_size(to_dtype),
                    to_dtype, n);
    }
}

/* Converts one input into the place in scratch memory that its operand names. */
static void read_input(const kin_device *device, const kin_operand *from, const kin_operand *to) {
    int64_t count = kin_desc_count(&from->desc);
    if (from->desc.dtype == KIN_Q8_0)
        convert_dense(device, cpu_data(from), KIN_Q8_0, cpu_data(to), KIN_F32, count);
    else cpu_map_to_f32(&from->desc, cpu_data(from), cpu_data(to), cpu_threads_for(device, count));
}

/* The input that an output overwrites (an update), or -1: they then share their place. */
static int overwritten_input(const kin_call *call, int output, const adapted *work) {
    for (int i = 0; i < call->in_count; i++)
        if (work->in_converted[i] && call->in[i].buffer == call->out[output].buffer &&
            call->in[i].offset == call->out[output].offset)
            return i;
    return -1;
}

static kin_status adapter_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    adapted work;
    if (!adapt(device, call, &work))
        return kin_fail(device->context, KIN_UNSUPPORTED, "%s: no kernel for these operands",
                        call->op);
    size_t at = call->scratch_offset;
    for (int i = 0; i < call->in_count; i++) {
        if (!work.in_converted[i]) continue;
        work.in[i].buffer = call->scratch;
        work.in[i].offset = at;
        at += aligned(kin_desc_bytes(&work.in[i].desc));
        read_input(device, &call->in[i], &work.in[i]);
    }
    for (int i = 0; i < call->out_count; i++) {
        if (!work.out_converted[i]) continue;
        int shared = overwritten_input(call, i, &work);
        work.out[i].buffer = call->scratch;
        work.out[i].offset = shared >= 0 ? work.in[shared].offset : at;
        if (shared < 0) at += aligned(kin_desc_bytes(&work.out[i].desc));
    }
    work.call.scratch = call->scratch;
    work.call.scratch_offset = at;
    work.call.scratch_size = call->scratch_size - (at - call->scratch_offset);
    kin_status status = work.kernel->launch(device, commands, &work.call);
    for (int i = 0; i < call->out_count && status == KIN_OK; i++)
        if (work.out_converted[i])
            convert_dense(device, cpu_data(&work.out[i]), KIN_F32, cpu_data(&call->out[i]),
                          call->out[i].desc.dtype, kin_desc_count(&call->out[i].desc));
    return status;
}

kin_kernel cpu_adapter_for(const char *op) {
    return (kin_kernel){.op = op,
                        .name = "cpu_through_f32",
                        .strided = ~UINT64_C(0),
                        .can = can_adapt,
                        .scratch = adapter_scratch,
                        .launch = adapter_launch};
}
