/* The CPU backend: memory of the host, and command lists that call kernels one after the other. */
#define _POSIX_C_SOURCE 200809L

#include "backends/cpu/cpu.h"
#include "runtime/device.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Every family of kernels. */
#define CPU_FAMILIES(X)                                                                            \
    X(layout)                                                                                      \
    X(elementwise)                                                                                 \
    X(matmul)                                                                                      \
    X(attention)                                                                                   \
    X(self_attention)                                                                              \
    X(rope)                                                                                        \
    X(conv)                                                                                        \
    X(upsample)                                                                                    \
    X(pad)                                                                                         \
    X(norm)                                                                                        \
    X(group_norm)                                                                                  \
    X(softmax)                                                                                     \
    X(reduce)                                                                                      \
    X(embedding)                                                                                   \
    X(random)                                                                                      \
    X(optimizer)

#define DECLARE_FAMILY(name) extern const kin_kernel cpu_##name##_kernels[];
CPU_FAMILIES(DECLARE_FAMILY)

#define FAMILY_ENTRY(name) cpu_##name##_kernels,
static const kin_kernel *const families[] = {CPU_FAMILIES(FAMILY_ENTRY)};

enum { FAMILY_COUNT = sizeof families / sizeof *families };

const kin_kernel *cpu_kernel_at(size_t index) {
    for (size_t family = 0; family < FAMILY_COUNT; family++)
        for (const kin_kernel *row = families[family]; row->op != NULL; row++)
            if (index-- == 0) return row;
    return NULL;
}

/* ---- instruction sets ---- */

cpu_isa_kind cpu_isa(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CPU_ISA_GENERIC;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return CPU_ISA_AVX512;
    return CPU_ISA_AVX2;
#else
    return CPU_ISA_GENERIC;
#endif
}

const char *cpu_isa_name(cpu_isa_kind isa) {
    return isa == CPU_ISA_AVX512 ? "avx512" : isa == CPU_ISA_AVX2 ? "avx2" : "generic";
}

/* ---- the device ---- */

/* All rows: those of the families, then one adapter for each op. */
typedef struct cpu_state {
    kin_status failed; /* of the last submit */
    size_t kernel_count;
    kin_kernel kernels[];
} cpu_state;

struct kin_commands {
    kin_context *context;
    size_t count, capacity;
    struct cpu_command {
        const kin_kernel *kernel;
        const kin_call *call;
        double seconds;
    } * list;
};

static int cpu_count(kin_context *context, const char **out_why) {
    (void)context;
    if (out_why != NULL) *out_why = NULL;
    return 1;
}

/* "model name : ..." of Linux; the architecture is enough elsewhere. */
static void describe(char *text, size_t size, const char *isa) {
    char line[256], model[128] = "processor";
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
        snprintf(model, sizeof model, "%.*s",
                 (int)strcspn(colon + 1 + strspn(colon + 1, " "), "\n"),
                 colon + 1 + strspn(colon + 1, " "));
        break;
    }
    if (file != NULL) fclose(file);
    snprintf(text, size, "%s, %s", model, isa);
}

static uint64_t memory_bytes(int pages_name) {
    long pages = sysconf(pages_name), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

static bool is_listed(const cpu_state *state, size_t count, const char *op) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(state->kernels[i].op, op) == 0) return true;
    return false;
}

static void list_kernels(cpu_state *state) {
    size_t rows = 0;
    for (const kin_kernel *row; (row = cpu_kernel_at(rows)) != NULL; rows++) {
        state->kernels[rows] = *row;
        if (row->can == NULL) state->kernels[rows].can = cpu_is_plain_call;
    }
    state->kernel_count = rows;
    for (size_t i = 0; i < rows; i++)
        if (!is_listed(state, i, state->kernels[i].op))
            state->kernels[state->kernel_count++] = cpu_adapter_for(state->kernels[i].op);
}

static kin_status cpu_open(kin_device *device, int index) {
    size_t rows = 0;
    (void)index;
    while (cpu_kernel_at(rows) != NULL) rows++;
    cpu_state *state =
        kin_calloc(device->context, 1, sizeof *state + 2 * rows * sizeof *state->kernels);
    if (state == NULL) return KIN_OUT_OF_MEMORY;
    list_kernels(state);
    device->state = state;
    device->info = (kin_device_info){.name = "cpu", .alignment = CPU_ALIGNMENT};
    describe(device->info.description, sizeof device->info.description, cpu_isa_name(cpu_isa()));
    device->info.threads = kin_context_threads(device->context);
#if defined(_SC_PHYS_PAGES) && defined(_SC_AVPHYS_PAGES)
    device->info.memory_total = memory_bytes(_SC_PHYS_PAGES);
    device->info.memory_free = memory_bytes(_SC_AVPHYS_PAGES);
#endif
    for (int dtype = 0; dtype < KIN_DTYPE_COUNT; dtype++)
        if (dtype != KIN_F64) device->info.dtypes |= 1u << dtype;
    return KIN_OK;
}

static void cpu_close(kin_device *device) {
    kin_free(device->context, device->state);
    device->state = NULL;
}

static const kin_kernel *cpu_kernel(const kin_device *device, size_t index) {
    const cpu_state *state = device->state;
    return index < state->kernel_count ? &state->kernels[index] : NULL;
}

/* ---- memory ---- */

static kin_status cpu_allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    *out_buffer = NULL;
    kin_buffer *buffer = NULL;
    if (size <= SIZE_MAX - sizeof *buffer - CPU_ALIGNMENT)
        buffer = kin_alloc(device->context, sizeof *buffer + CPU_ALIGNMENT + size);
    if (buffer == NULL)
        return kin_fail(device->context, KIN_OUT_OF_MEMORY, "cpu: no memory for %zu bytes", size);
    uintptr_t end = (uintptr_t)(buffer + 1);
    buffer->data = (unsigned char *)(buffer + 1) + (CPU_ALIGNMENT - end % CPU_ALIGNMENT);
    buffer->size = size;
    *out_buffer = buffer;
    return KIN_OK;
}

static void cpu_release(kin_device *device, kin_buffer *buffer) {
    kin_free(device->context, buffer);
}

static kin_status check_range(kin_device *device, const kin_buffer *buffer, size_t offset,
                              size_t size) {
    if (offset <= buffer->size && size <= buffer->size - offset) return KIN_OK;
    return kin_fail(device->context, KIN_INVALID,
                    "cpu: bytes %zu to %zu of a buffer that has %zu bytes", offset, offset + size,
                    buffer->size);
}

static kin_status cpu_upload(kin_device *device, const void *source, kin_buffer *buffer,
                             size_t offset, size_t size) {
    kin_status status = check_range(device, buffer, offset, size);
    if (status == KIN_OK && size > 0) memcpy(buffer->data + offset, source, size);
    return status;
}

static kin_status cpu_download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                               size_t size) {
    kin_status status = check_range(device, buffer, offset, size);
    if (status == KIN_OK && size > 0) memcpy(target, buffer->data + offset, size);
    return status;
}

static kin_status cpu_copy(kin_device *device, kin_buffer *source, size_t source_offset,
                           kin_buffer *target, size_t target_offset, size_t size) {
    kin_status status = check_range(device, source, source_offset, size);
    if (status == KIN_OK) status = check_range(device, target, target_offset, size);
    if (status == KIN_OK && size > 0)
        memmove(target->data + target_offset, source->data + source_offset, size);
    return status;
}

static kin_status cpu_fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                           uint8_t byte) {
    kin_status status = check_range(device, buffer, offset, size);
    if (status == KIN_OK && size > 0) memset(buffer->data + offset, byte, size);
    return status;
}

static void *cpu_address(kin_device *device, kin_buffer *buffer) {
    (void)device;
    return buffer->data;
}

/* ---- work ---- */

static kin_status cpu_begin(kin_device *device, kin_commands **out_commands) {
    kin_commands *commands = kin_calloc(device->context, 1, sizeof *commands);
    *out_commands = commands;
    if (commands == NULL) return KIN_OUT_OF_MEMORY;
    commands->context = device->context;
    return KIN_OK;
}

static kin_status cpu_record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                             const kin_call *call) {
    if (commands->count == commands->capacity) {
        size_t capacity = commands->capacity > 0 ? 2 * commands->capacity : 64;
        struct cpu_command *list =
            kin_realloc(device->context, commands->list, capacity * sizeof *list);
        if (list == NULL) return KIN_OUT_OF_MEMORY;
        commands->list = list;
        commands->capacity = capacity;
    }
    commands->list[commands->count++] = (struct cpu_command){kernel, call, 0};
    return KIN_OK;
}

static kin_status cpu_end(kin_device *device, kin_commands *commands) {
    (void)device, (void)commands;
    return KIN_OK;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Runs at once; the first error is kept for wait, and ends the list. */
static kin_status cpu_submit(kin_device *device, kin_commands *commands) {
    cpu_state *state = device->state;
    double before = seconds_now();
    for (size_t i = 0; i < commands->count && state->failed == KIN_OK; i++) {
        struct cpu_command *command = &commands->list[i];
        state->failed = command->kernel->launch(device, commands, command->call);
        double after = seconds_now();
        command->seconds = after - before;
        before = after;
    }
    return KIN_OK;
}

static kin_status cpu_wait(kin_device *device) {
    cpu_state *state = device->state;
    kin_status status = state->failed;
    state->failed = KIN_OK;
    return status;
}

static void cpu_discard(kin_device *device, kin_commands *commands) {
    if (commands == NULL) return;
    kin_free(device->context, commands->list);
    kin_free(device->context, commands);
}

static kin_status cpu_timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                                 size_t count) {
    if (count != commands->count)
        return kin_fail(device->context, KIN_INVALID, "cpu: %zu timestamps asked for, %zu there",
                        count, commands->count);
    for (size_t i = 0; i < count; i++) out_seconds[i] = commands->list[i].seconds;
    return KIN_OK;
}

const kin_backend kin_backend_cpu = {
    .abi = KIN_BACKEND_ABI,
    .struct_size = sizeof(kin_backend),
    .name = "cpu",
    .count = cpu_count,
    .open = cpu_open,
    .close = cpu_close,
    .kernel = cpu_kernel,
    .allocate = cpu_allocate,
    .release = cpu_release,
    .upload = cpu_upload,
    .download = cpu_download,
    .copy = cpu_copy,
    .fill = cpu_fill,
    .begin = cpu_begin,
    .record = cpu_record,
    .end = cpu_end,
    .submit = cpu_submit,
    .wait = cpu_wait,
    .discard = cpu_discard,
    .timestamps = cpu_timestamps,
    .address = cpu_address,
};
