/* The null backend: plans any graph and computes nothing. It tells how much memory a plan needs
 * without a device, and it is the smallest table to start a new backend from.
 *
 * It has one row for every op that is not a view. The rows say of strides and of in-place results
 * what a device usually can, so that plans look like those of a real one.
 */
#include "runtime/device.h"
#include "runtime/op.h"

#include <stdio.h>
#include <string.h>

typedef struct null_state {
    size_t count;
    kin_kernel kernels[];
} null_state;

/* A size without memory behind it. */
struct kin_buffer {
    size_t size;
};

struct kin_commands {
    size_t count;
};

/* Ops that read views as they lie. */
typedef struct null_trait {
    const char *op;
    uint64_t strided, in_place;
} null_trait;

static const null_trait traits[] = {
    {"copy", 1, 0},
    {"cast", 1, 0},
    {"concat", ~UINT64_C(0), 0},
    {"slice_grad", 1, 0},
    {"matmul", 3, 0},
    {"linear", 3, 0},
    {"matmul_fused", 15, 4},
    {"linear_fused", 27, 8},
    {"sum_cast", 1, 0},
    {"attention", 7, 0},
    {"attention_grad", ~UINT64_C(0), 0},
    {"rope", 1, 1},
    {"modulate", 7, 7},
    {"gated_add", 7, 7},
    {"gated_gelu", 3, 3},
    {"gated_gelu_grad", 7, 7},
    {"where", 7, 6},
    {"add", 3, 3},
    {"sub", 3, 3},
    {"mul", 3, 3},
    {"div", 3, 3},
    {"maximum", 3, 3},
    {"minimum", 3, 3},
    {"less", 3, 3},
    {"greater", 3, 3},
    {"neg", 1, 1},
    {"scale", 1, 1},
    {"exp", 1, 1},
    {"log", 1, 1},
    {"sqrt", 1, 1},
    {"rsqrt", 1, 1},
    {"square", 1, 1},
    {"abs", 1, 1},
    {"sin", 1, 1},
    {"cos", 1, 1},
    {"tanh", 1, 1},
    {"sigmoid", 1, 1},
    {"relu", 1, 1},
    {"silu", 1, 1},
    {"gelu", 1, 1},
    {"gelu_tanh", 1, 1},
    {"clamp", 1, 1},
    {"silu_grad", 3, 3},
    {"gelu_grad", 3, 3},
    {"gelu_tanh_grad", 3, 3},
    {"layer_norm", 0, 1},
    {"rms_norm", 0, 1},
    {"layer_norm_modulate", 6, 1},
    {"softmax", 0, 1},
};

static kin_status refuse(kin_device *device, const char *what) {
    return kin_fail(device->context, KIN_UNSUPPORTED,
                    "device null cannot %s: it only plans; open another device", what);
}

static int null_count(kin_context *context, const char **out_why) {
    (void)context;
    if (out_why != NULL) *out_why = NULL;
    return 1;
}

static kin_status null_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands, (void)call;
    return refuse(device, "run kernels");
}

static bool null_can(const kin_device *device, const kin_call *call) {
    (void)device, (void)call;
    return true;
}

static kin_kernel row_of(const kin_op *op) {
    kin_kernel row = {.op = op->name, .name = op->name, .can = null_can, .launch = null_launch};
    for (size_t i = 0; i < sizeof traits / sizeof *traits; i++) {
        if (strcmp(traits[i].op, op->name) != 0) continue;
        row.strided = traits[i].strided;
        row.in_place = traits[i].in_place;
    }
    return row;
}

static kin_status null_open(kin_device *device, int index) {
    size_t count = 0;
    (void)index;
    while (kin_op_list[count] != NULL) count++;
    null_state *state =
        kin_calloc(device->context, 1, sizeof *state + count * sizeof *state->kernels);
    if (state == NULL) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++)
        if ((kin_op_list[i]->flags & KIN_OP_VIEW) == 0)
            state->kernels[state->count++] = row_of(kin_op_list[i]);
    device->state = state;
    device->info = (kin_device_info){.name = "null",
                                     .description = "plans only: no memory, no kernels",
                                     .dtypes = (1u << KIN_DTYPE_COUNT) - 1,
                                     .threads = 1};
    return KIN_OK;
}

static void null_close(kin_device *device) {
    kin_free(device->context, device->state);
    device->state = NULL;
}

static const kin_kernel *null_kernel(const kin_device *device, size_t index) {
    const null_state *state = device->state;
    return index < state->count ? &state->kernels[index] : NULL;
}

static kin_status null_allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    *out_buffer = kin_alloc(device->context, sizeof **out_buffer);
    if (*out_buffer == NULL) return KIN_OUT_OF_MEMORY;
    (*out_buffer)->size = size;
    return KIN_OK;
}

static void null_release(kin_device *device, kin_buffer *buffer) {
    kin_free(device->context, buffer);
}

static kin_status null_upload(kin_device *device, const void *source, kin_buffer *buffer,
                              size_t offset, size_t size) {
    (void)source, (void)buffer, (void)offset, (void)size;
    return refuse(device, "hold data");
}

static kin_status null_download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                                size_t size) {
    (void)buffer, (void)offset, (void)target, (void)size;
    return refuse(device, "give data back");
}

static kin_status null_copy(kin_device *device, kin_buffer *source, size_t source_offset,
                            kin_buffer *target, size_t target_offset, size_t size) {
    (void)source, (void)source_offset, (void)target, (void)target_offset, (void)size;
    return refuse(device, "copy data");
}

static kin_status null_fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                            uint8_t byte) {
    (void)buffer, (void)offset, (void)size, (void)byte;
    return refuse(device, "hold data");
}

static kin_status null_begin(kin_device *device, kin_commands **out_commands) {
    *out_commands = kin_calloc(device->context, 1, sizeof **out_commands);
    return *out_commands != NULL ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status null_record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                              const kin_call *call) {
    (void)device, (void)kernel, (void)call;
    commands->count++;
    return KIN_OK;
}

static kin_status null_end(kin_device *device, kin_commands *commands) {
    (void)device, (void)commands;
    return KIN_OK;
}

static kin_status null_submit(kin_device *device, kin_commands *commands) {
    (void)commands;
    return refuse(device, "run a plan");
}

static kin_status null_wait(kin_device *device) {
    (void)device;
    return KIN_OK;
}

static void null_discard(kin_device *device, kin_commands *commands) {
    kin_free(device->context, commands);
}

const kin_backend kin_backend_null = {
    .abi = KIN_BACKEND_ABI,
    .struct_size = sizeof(kin_backend),
    .name = "null",
    .count = null_count,
    .open = null_open,
    .close = null_close,
    .kernel = null_kernel,
    .allocate = null_allocate,
    .release = null_release,
    .upload = null_upload,
    .download = null_download,
    .copy = null_copy,
    .fill = null_fill,
    .begin = null_begin,
    .record = null_record,
    .end = null_end,
    .submit = null_submit,
    .wait = null_wait,
    .discard = null_discard,
};
