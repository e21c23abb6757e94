/* The table of the backend: devices, their settings, and the list of kernels. */
#include "backends/cuda/internal.h"

#include "backends/cuda/blaslt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

kin_status kin_cuda_fail(kin_device *device, int code, const char *what) {
    const kin_cuda_api *api = kin_cuda_of(device)->api;
    const char *detail = api->error_detail(code);
    return kin_fail(device->context, KIN_DEVICE, "%s: %s failed: %s (%d)%s%s", device->info.name,
                    what, api->error_name(code), code, detail != NULL ? ": " : "",
                    detail != NULL ? detail : "");
}

kin_status cuda_checked(kin_device *device, int code, const char *what) {
    return code == 0 ? KIN_OK : kin_cuda_fail(device, code, what);
}

kin_status cuda_enter(kin_device *device) {
    const kin_cuda_device *state = kin_cuda_of(device);
    return cuda_checked(device, state->api->choose(state->ordinal), "choosing the device");
}

/* ---- what rows ask ---- */

static bool fits(const kin_operand *operand) {
    int64_t last = 0;
    if (operand->desc.rank < 0) return true;
    for (int a = 0; a < operand->desc.rank; a++) {
        if (operand->desc.dims[a] > INT32_MAX) return false;
        last += (operand->desc.dims[a] - 1) * operand->desc.strides[a];
    }
    int64_t count = kin_desc_count(&operand->desc);
    return last < INT32_MAX - 65536 && count < INT32_MAX - 65536;
}

bool kin_cuda_fits(const kin_call *call) {
    for (int i = 0; i < call->in_count; i++)
        if (!fits(&call->in[i])) return false;
    for (int j = 0; j < call->out_count; j++)
        if (!fits(&call->out[j])) return false;
    return true;
}

bool kin_cuda_can_real(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++)
        if (!kin_cuda_is_absent(&call->in[i]) && !kin_cuda_is_real(call->in[i].desc.dtype))
            return false;
    for (int j = 0; j < call->out_count; j++)
        if (!kin_cuda_is_real(call->out[j].desc.dtype)) return false;
    return true;
}

/* ---- devices ---- */

static int cuda_count(kin_context *context, const char **out_why) {
    (void)context;
    int count = 0;
    *out_why = NULL;
    if (kin_cuda_api_table.count(&count, out_why) != 0) return 0;
    return count;
}

/* One of two words; *out_first says whether it is the first. Unset: *out_first stays. */
static kin_status choose(kin_device *device, const char *name, const char *first,
                         const char *second, bool *out_first) {
    const char *text = kin_context_setting(device->context, name);
    if (text == NULL) return KIN_OK;
    if (strcmp(text, first) != 0 && strcmp(text, second) != 0)
        return kin_fail(device->context, KIN_INVALID, "the setting %s=%s is neither %s nor %s",
                        name, text, first, second);
    *out_first = strcmp(text, first) == 0;
    return KIN_OK;
}

/* "80,90a,90-virtual": machine code serves its own and later minor versions of its major one, that
 * with an "a" its own version alone, and PTX all later versions. */
bool cuda_has_code(const char *built, int capability) {
    while (built != NULL && *built != '\0') {
        char *end;
        const long number = strtol(built, &end, 10);
        const size_t length = strcspn(end, ",");
        const bool exact = *end == 'a',
                   ptx = length >= 8 && memcmp(end + length - 8, "-virtual", 8) == 0;
        if (number == capability) return true;
        if (!exact && number < capability && (ptx || number / 10 == capability / 10)) return true;
        built = end + length + (end[length] == ',');
    }
    return built == NULL;
}

static kin_status describe(kin_device *device, kin_cuda_device *state, int index) {
    kin_cuda_properties *p = &state->properties;
    int code = state->api->describe(index, p);
    if (code != 0) return kin_cuda_fail(device, code, "asking for the device's properties");
    snprintf(device->info.description, sizeof device->info.description,
             "%.48s, compute capability %d.%d, CUDA driver %d.%d, runtime %d.%d", p->name,
             p->capability / 10, p->capability % 10, p->driver / 1000, p->driver % 1000 / 10,
             p->runtime / 1000, p->runtime % 1000 / 10);
    if (p->capability < 80)
        return kin_fail(device->context, KIN_UNSUPPORTED,
                        "%s has compute capability %d.%d, and kernels are built for 8.0 and later",
                        p->name, p->capability / 10, p->capability % 10);
    if (!cuda_has_code(state->api->code(), p->capability))
        return kin_fail(device->context, KIN_UNSUPPORTED,
                        "%s has compute capability %d.%d, and kernels are built for %s only: build "
                        "with -DKINORA_CUDA_ARCHS=%d or with PTX (%d-virtual)",
                        p->name, p->capability / 10, p->capability % 10, state->api->code(),
                        p->capability, p->capability);
    device->info.memory_total = p->memory_total;
    device->info.memory_free = p->memory_free;
    device->info.alignment = 256;
    device->info.granularity = 2 << 20; /* pages of the device */
    device->info.threads = p->units;
    if (state->tf32) device->info.product_dtype = KIN_BF16;
    for (int dtype = 0; dtype < KIN_DTYPE_COUNT; dtype++)
        if (dtype != KIN_F64) device->info.dtypes |= 1u << dtype;
    return KIN_OK;
}

static kin_status list_kernels(kin_device *device, kin_cuda_device *state) {
    size_t count = 0;
    for (size_t f = 0; kin_cuda_families[f] != NULL; f++)
        for (const kin_kernel *row = kin_cuda_families[f]; row->op != NULL; row++) count++;
    state->kernels = kin_calloc(device->context, count + 1, sizeof *state->kernels);
    if (state->kernels == NULL) return KIN_OUT_OF_MEMORY;
    for (size_t f = 0; kin_cuda_families[f] != NULL; f++)
        for (const kin_kernel *row = kin_cuda_families[f]; row->op != NULL; row++)
            state->kernels[state->kernel_count++] = *row;
    return KIN_OK;
}

static void cuda_close(kin_device *device) {
    kin_cuda_device *state = device->state;
    if (state == NULL) return;
    if (state->api->choose(state->ordinal) == 0) {
        if (state->stream != NULL) (void)state->api->stream_wait(state->stream);
        kin_cuda_blaslt_close(device);
        cuda_close_staging(device);
        if (state->stream != NULL) (void)state->api->stream_destroy(state->stream);
    }
    kin_free(device->context, state->kernels);
    kin_free(device->context, state);
    device->state = NULL;
}

static kin_status cuda_open(kin_device *device, int index) {
    const char *why = NULL;
    int count = cuda_count(device->context, &why);
    if (index < 0 || index >= count)
        return kin_fail(device->context, KIN_NOT_FOUND, "%s has no device %d: %s",
                        kin_cuda_api_table.name, index, why != NULL ? why : "there are fewer");
    kin_cuda_device *state = kin_calloc(device->context, 1, sizeof *state);
    if (state == NULL) return KIN_OUT_OF_MEMORY;
    device->state = state;
    device->info = (kin_device_info){.memory_free = 0};
    snprintf(device->info.name, sizeof device->info.name, "%s%d", kin_cuda_api_table.name, index);
    *state = (kin_cuda_device){.api = &kin_cuda_api_table, .ordinal = index, .graphs = true};
    kin_status status =
        state->api->configure != NULL ? state->api->configure(device->context) : KIN_OK;
    if (status == KIN_OK) status = choose(device, "cuda.graphs", "on", "off", &state->graphs);
    if (status == KIN_OK) status = choose(device, "cuda.tf32", "on", "off", &state->tf32);
    if (status == KIN_OK) status = cuda_enter(device);
    if (status == KIN_OK) status = describe(device, state, index);
    if (status == KIN_OK)
        status = cuda_checked(device, state->api->stream_create(&state->stream), "a stream");
    if (status == KIN_OK) status = cuda_open_staging(device);
    if (status == KIN_OK) status = kin_cuda_blaslt_open(device);
    if (status == KIN_OK) status = list_kernels(device, state);
    if (status != KIN_OK) cuda_close(device);
    return status;
}

static const kin_kernel *cuda_kernel(const kin_device *device, size_t index) {
    const kin_cuda_device *state = device->state;
    return index < state->kernel_count ? &state->kernels[index] : NULL;
}

#ifdef KIN_CUDA_EMULATED
#define BACKEND_NAME "cuda-emulated"
#else
#define BACKEND_NAME "cuda"
#endif

static const kin_backend backend = {
    .abi = KIN_BACKEND_ABI,
    .struct_size = sizeof(kin_backend),
    .name = BACKEND_NAME,
    .count = cuda_count,
    .open = cuda_open,
    .close = cuda_close,
    .kernel = cuda_kernel,
    .allocate = cuda_allocate,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .fill = cuda_fill,
    .begin = cuda_begin,
    .record = cuda_record,
    .end = cuda_end,
    .submit = cuda_submit,
    .wait = cuda_wait,
    .discard = cuda_discard,
    .timestamps = cuda_timestamps,
    .set_timed = cuda_set_timed,
    .group_id = cuda_group_id,
    .group_join = cuda_group_join,
    .group_leave = cuda_group_leave,
    .all_reduce = cuda_all_reduce,
    .group_broadcast = cuda_group_broadcast,
};

KIN_API const kin_backend *kin_backend_get(uint32_t abi);

KIN_API const kin_backend *kin_backend_get(uint32_t abi) {
    return abi == KIN_BACKEND_ABI ? &backend : NULL;
}
