/* The table of functions of cuda-emulated: device memory is the host's, work is done when it is
 * queued, and a graph is the list of what was queued while it was captured. Memory that is freed,
 * streams and events are looked after, so that a test sees what was left behind. */
#define _POSIX_C_SOURCE 200809L
#include "backends/cuda/emulator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    CODE_INVALID = 1,
    CODE_MEMORY = 2,
    CODE_NO_DEVICE = 100,
    CODE_CAPTURE = 900,
    CODE_FAULT = 700
};

typedef enum call_kind { CALL_LAUNCH, CALL_COPY, CALL_FILL, CALL_RUN } call_kind;
enum { DATA_BYTES = 256 };

/* What was queued while a graph was captured. Launches point to their list's arguments, as CUDA
 * copies those: they live as long as the list, and so does the graph. */
typedef struct captured {
    call_kind kind;
    kin_cuda_launch_record launch;
    void *target;
    const void *source;
    size_t size;
    int byte;
    int (*run)(const void *data);
    _Alignas(16) unsigned char data[DATA_BYTES];
} captured;

typedef struct graph {
    captured *calls;
    size_t count, capacity;
} graph;

typedef struct stream {
    graph *capturing;
} stream;

typedef struct event {
    struct timespec time;
    bool timed, recorded;
} event;

static kin_emulator_control control = {.devices = 1, .capability = 80, .memory = UINT64_C(8) << 30};
static char detail[256];

kin_emulator_control *kin_emulator_control_get(void) {
    return &control;
}

/* True if this call is the one that is to fail. */
static bool fails(void) {
    control.calls++;
    detail[0] = '\0';
    return control.fail_at != 0 && control.calls == control.fail_at;
}

int kin_emulator_misuse(const char *what) {
    control.counts.misuses++;
    snprintf(detail, sizeof detail, "%s", what);
    return CODE_INVALID;
}

static kin_status emulated_configure(kin_context *context) {
    static const char *const orders[] = {"forward", "reverse", "shuffled"};
    const char *order = kin_context_setting(context, "cuda.order");
    const char *capability = kin_context_setting(context, "cuda.capability");
    for (int i = 0; order != NULL && i < 3; i++)
        if (strcmp(order, orders[i]) == 0) {
            control.order = (kin_emulator_order)i;
            order = NULL;
        }
    if (order != NULL)
        return kin_fail(context, KIN_INVALID,
                        "the setting cuda.order=%s is neither forward, reverse nor shuffled",
                        order);
    if (capability == NULL) return KIN_OK;
    if (strcmp(capability, "75") != 0 && strcmp(capability, "80") != 0 &&
        strcmp(capability, "90") != 0)
        return kin_fail(context, KIN_INVALID,
                        "the setting cuda.capability=%s is neither 75, 80 nor 90", capability);
    control.capability = atoi(capability);
    return KIN_OK;
}

static int emulated_count(int *out_count, const char **out_why) {
    *out_count = control.devices;
    *out_why = control.devices == 0 ? "the emulator was told to have no device" : NULL;
    return control.devices == 0 ? CODE_NO_DEVICE : 0;
}

static int emulated_choose(int ordinal) {
    return ordinal >= 0 && ordinal < control.devices ? 0 : CODE_NO_DEVICE;
}

static int emulated_describe(int ordinal, kin_cuda_properties *out) {
    *out = (kin_cuda_properties){.capability = control.capability,
                                 .units = 8,
                                 .driver = 13000,
                                 .runtime = 13000,
                                 .memory_total = (size_t)control.memory,
                                 .memory_free = (size_t)(control.memory - control.counts.bytes),
                                 .shared_limit = control.capability >= 90 ? 232448 : 166912,
                                 .l2_bytes = 40 << 20};
    snprintf(out->name, sizeof out->name, "the host as a GPU, number %d", ordinal);
    return fails() ? CODE_FAULT : 0;
}

static const char *emulated_error_name(int code) {
    switch (code) {
    case CODE_INVALID:
        return "cudaErrorInvalidValue";
    case CODE_MEMORY:
        return "cudaErrorMemoryAllocation";
    case CODE_NO_DEVICE:
        return "cudaErrorNoDevice";
    case CODE_CAPTURE:
        return "cudaErrorStreamCaptureUnsupported";
    case CODE_FAULT:
        return "cudaErrorIllegalAddress";
    default:
        return "an unknown error";
    }
}

static const char *emulated_error_detail(void) {
    return detail[0] != '\0' ? detail : NULL;
}

/* ---- memory: in front of it lie its size and a mark ---- */

typedef struct header {
    uint64_t mark;
    size_t size;
} header;
static const uint64_t mark_device = 0x4B494E4F52410001, mark_pinned = 0x4B494E4F52410002;
enum { HEADER_BYTES = 256 };

static int give(void **out_address, size_t size, uint64_t mark) {
    *out_address = NULL;
    size_t whole = (size + HEADER_BYTES - 1) / HEADER_BYTES * HEADER_BYTES + HEADER_BYTES;
    char *memory = whole > size ? aligned_alloc(HEADER_BYTES, whole) : NULL;
    if (memory == NULL) return CODE_MEMORY;
    *(header *)(void *)memory = (header){mark, size};
    *out_address = memory + HEADER_BYTES;
    return 0;
}

static int take_back(void *address, uint64_t mark, size_t *out_size) {
    *out_size = 0;
    if (address == NULL) return 0;
    header *h = (header *)(void *)((char *)address - HEADER_BYTES);
    if (h->mark != mark) return kin_emulator_misuse("memory is freed that was not allocated so");
    *out_size = h->size;
    h->mark = 0;
    free(h);
    return 0;
}

static int emulated_allocate(void **out_address, size_t size) {
    *out_address = NULL;
    if (fails() || size > control.memory - control.counts.bytes) return CODE_MEMORY;
    int code = give(out_address, size, mark_device);
    if (code != 0) return code;
    control.counts.allocations++;
    control.counts.bytes += size;
    if (control.counts.bytes > control.counts.most_bytes)
        control.counts.most_bytes = control.counts.bytes;
    return 0;
}

static int emulated_release(void *address) {
    size_t size;
    int code = take_back(address, mark_device, &size);
    control.counts.releases += address != NULL && code == 0;
    control.counts.bytes -= size;
    return code;
}

static int emulated_memory(size_t *out_free, size_t *out_total) {
    *out_total = (size_t)control.memory;
    *out_free = (size_t)(control.memory - control.counts.bytes);
    return 0;
}

static int emulated_allocate_pinned(void **out_address, size_t size) {
    *out_address = NULL;
    if (fails()) return CODE_MEMORY;
    int code = give(out_address, size, mark_pinned);
    control.counts.pinned += code == 0;
    return code;
}

static int emulated_release_pinned(void *address) {
    size_t size;
    int code = take_back(address, mark_pinned, &size);
    control.counts.pinned -= address != NULL && code == 0;
    return code;
}

/* ---- streams and events ---- */

static int emulated_stream_create(void **out_stream) {
    *out_stream = fails() ? NULL : calloc(1, sizeof(stream));
    control.counts.streams += *out_stream != NULL;
    return *out_stream != NULL ? 0 : CODE_MEMORY;
}

static int emulated_stream_destroy(void *of) {
    control.counts.streams--;
    free(of);
    return 0;
}

static int emulated_stream_wait(void *of) {
    const stream *s = of;
    control.counts.waits++;
    if (s->capturing != NULL)
        return kin_emulator_misuse("the host waits while a graph is captured");
    return fails() ? CODE_FAULT : 0;
}

static int emulated_event_create(void **out_event, bool timed) {
    event *e = fails() ? NULL : calloc(1, sizeof *e);
    *out_event = e;
    if (e == NULL) return CODE_MEMORY;
    e->timed = timed;
    control.counts.events++;
    return 0;
}

static int emulated_event_destroy(void *of) {
    control.counts.events--;
    free(of);
    return 0;
}

static int emulated_event_record(void *of, void *on) {
    event *e = of;
    if (on == NULL) return kin_emulator_misuse("an event without a stream");
    if (fails()) return CODE_FAULT;
    e->recorded = clock_gettime(CLOCK_MONOTONIC, &e->time) == 0;
    return 0;
}

static int emulated_event_wait(void *of) {
    const event *e = of;
    control.counts.waits++;
    if (!e->recorded)
        return kin_emulator_misuse("the host waits for an event that was not recorded");
    return fails() ? CODE_FAULT : 0;
}

static int emulated_event_milliseconds(float *out_milliseconds, void *first, void *last) {
    const event *a = first, *b = last;
    *out_milliseconds = 0;
    if (!a->recorded || !b->recorded || !a->timed || !b->timed)
        return kin_emulator_misuse("a time between events that have none");
    *out_milliseconds = (float)((double)(b->time.tv_sec - a->time.tv_sec) * 1e3 +
                                (double)(b->time.tv_nsec - a->time.tv_nsec) * 1e-6);
    return 0;
}

/* ---- work ---- */

static int run(const captured *call) {
    switch (call->kind) {
    case CALL_LAUNCH:
        control.counts.launches++;
        if (kin_emulator_run(&call->launch, control.order, detail, sizeof detail)) return 0;
        control.counts.misuses++;
        return CODE_FAULT;
    case CALL_COPY:
        control.counts.copies++;
        memcpy(call->target, call->source, call->size);
        return 0;
    case CALL_FILL:
        control.counts.fills++;
        memset(call->target, call->byte, call->size);
        return 0;
    case CALL_RUN:
        return call->run(call->data);
    }
    return CODE_INVALID;
}

static int queue(void *on, const captured *call) {
    stream *s = on;
    if (s == NULL) return kin_emulator_misuse("work without a stream");
    if (fails()) return CODE_FAULT;
    if (s->capturing == NULL) return run(call);
    graph *g = s->capturing;
    if (g->count == g->capacity) {
        size_t wanted = g->capacity > 0 ? 2 * g->capacity : 64;
        captured *larger = realloc(g->calls, wanted * sizeof *larger);
        if (larger == NULL) return CODE_MEMORY;
        g->calls = larger;
        g->capacity = wanted;
    }
    g->calls[g->count++] = *call;
    return 0;
}

int kin_emulator_queue(void *on, int (*function)(const void *data), const void *data, size_t size) {
    captured call = {.kind = CALL_RUN, .run = function};
    if (size > sizeof call.data) return kin_emulator_misuse("a step with more data than fits");
    memcpy(call.data, data, size);
    return queue(on, &call);
}

static int emulated_copy(void *target, const void *source, size_t size, void *on) {
    const char *to = target, *from = source;
    if (from < to + size && to < from + size)
        return kin_emulator_misuse("a copy of ranges that overlap");
    return queue(on,
                 &(captured){.kind = CALL_COPY, .target = target, .source = source, .size = size});
}

static int emulated_fill(void *target, int byte, size_t size, void *on) {
    return queue(on, &(captured){.kind = CALL_FILL, .target = target, .byte = byte, .size = size});
}

static int emulated_prepare(const void *kernel, size_t shared) {
    (void)shared;
    return kernel != NULL && !fails() ? 0 : CODE_INVALID;
}

static int emulated_launch(const kin_cuda_launch_record *launch, void *on) {
    return queue(on, &(captured){.kind = CALL_LAUNCH, .launch = *launch});
}

static int emulated_capture_begin(void *on) {
    stream *s = on;
    if (s->capturing != NULL) return kin_emulator_misuse("a capture within a capture");
    if (fails()) return CODE_CAPTURE;
    s->capturing = calloc(1, sizeof *s->capturing);
    return s->capturing != NULL ? 0 : CODE_MEMORY;
}

static int emulated_graph_destroy(void *of) {
    graph *g = of;
    control.counts.graphs--;
    free(g->calls);
    free(g);
    return 0;
}

static int emulated_capture_end(void *on, void **out_graph) {
    stream *s = on;
    *out_graph = s->capturing;
    if (s->capturing == NULL) return kin_emulator_misuse("the end of a capture that was not begun");
    s->capturing = NULL;
    control.counts.graphs++;
    if (!fails()) return 0;
    (void)emulated_graph_destroy(*out_graph);
    *out_graph = NULL;
    return CODE_CAPTURE;
}

static int emulated_graph_launch(void *of, void *on) {
    const graph *g = of;
    int code = on != NULL && !fails() ? 0 : CODE_FAULT;
    control.counts.graph_launches++;
    for (size_t i = 0; i < g->count && code == 0; i++) code = run(&g->calls[i]);
    return code;
}

const kin_cuda_api kin_cuda_api_table = {
    .name = "cuda-emulated",
    .configure = emulated_configure,
    .count = emulated_count,
    .choose = emulated_choose,
    .describe = emulated_describe,
    .error_name = emulated_error_name,
    .error_detail = emulated_error_detail,
    .allocate = emulated_allocate,
    .release = emulated_release,
    .memory = emulated_memory,
    .allocate_pinned = emulated_allocate_pinned,
    .release_pinned = emulated_release_pinned,
    .stream_create = emulated_stream_create,
    .stream_destroy = emulated_stream_destroy,
    .stream_wait = emulated_stream_wait,
    .event_create = emulated_event_create,
    .event_destroy = emulated_event_destroy,
    .event_record = emulated_event_record,
    .event_wait = emulated_event_wait,
    .event_milliseconds = emulated_event_milliseconds,
    .copy = emulated_copy,
    .fill = emulated_fill,
    .prepare = emulated_prepare,
    .launch = emulated_launch,
    .capture_begin = emulated_capture_begin,
    .capture_end = emulated_capture_end,
    .graph_launch = emulated_graph_launch,
    .graph_destroy = emulated_graph_destroy,
};
