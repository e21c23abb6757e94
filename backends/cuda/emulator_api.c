/* The table of functions of cuda-emulated: device memory is the host's, work that is queued is done
 * when the host waits for it, and a graph is the list of what was queued while it was captured. It
 * refuses what CUDA refuses, and looks after memory, streams and events, so that a test sees what
 * was wrong or left behind. */
#define _POSIX_C_SOURCE 200809L
#include "backends/cuda/emulator.h"
#include "backends/cuda/ptx/ptx.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* CUDA's numbers. */
enum {
    CODE_INVALID = 1,
    CODE_MEMORY = 2,
    CODE_CONFIGURATION = 9,
    CODE_NO_DEVICE = 100,
    CODE_INVALID_DEVICE = 101,
    CODE_HANDLE = 400,
    CODE_NOT_READY = 600,
    CODE_FAULT = 700,
    CODE_RESOURCES = 701,
    CODE_CAPTURE = 900,
    CODE_CAPTURE_BROKEN = 901
};

typedef enum call_kind {
    CALL_LAUNCH,
    CALL_COPY,
    CALL_FILL,
    CALL_RUN,
    CALL_EVENT,
    CALL_GRAPH
} call_kind;
enum { DATA_BYTES = 256, PARAMETER_BYTES = 4096, SHARED_BYTES = 48 << 10, MOST_STREAMS = 64 };

struct stream;

typedef struct event {
    struct timespec time;
    const struct stream *on; /* where it was recorded last */
    uint64_t at;             /* the stream's number of that */
    int device;
    bool timed, captured;
} event;

/* What was queued. Launches point to their list's arguments, as CUDA copies those: they live as
 * long as the list, and so does the graph. */
typedef struct queued {
    call_kind kind;
    kin_cuda_launch_record launch;
    void *target;
    const void *source;
    size_t size;
    int byte;
    event *event;
    const struct graph *graph;
    int (*run)(const void *data);
    _Alignas(16) unsigned char data[DATA_BYTES];
} queued;

typedef struct list {
    queued *calls;
    size_t count, capacity;
} list;

typedef struct graph {
    list list;
    int device;
    bool broken; /* something was asked for that a capture does not allow */
} graph;

typedef struct stream {
    graph *capturing;
    list pending;
    int device;
    uint64_t recorded, done; /* numbers of events: the last that was recorded, that is over */
} stream;

/* What `prepare` knows of a kernel. */
typedef struct loaded {
    const void *kernel;
    size_t shared; /* the most dynamic shared memory that it may have */
} loaded;

static kin_emulator_control control = {.devices = 1, .capability = 80, .memory = UINT64_C(8) << 30};
static char detail[1024];
static _Thread_local int current;      /* the thread's device */
static _Thread_local stream *captures; /* what the thread captures; it may not wait meanwhile */
static stream *streams[MOST_STREAMS];
static struct {
    loaded *list;
    size_t count, capacity;
} kernels;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of streams and kernels */

kin_emulator_control *kin_emulator_control_get(void) {
    return &control;
}

/* True if this call is the one that is to fail. */
static bool fails(void) {
    control.calls++;
    detail[0] = '\0';
    return control.fail_at != 0 && control.calls == control.fail_at;
}

static int refuse(int code, const char *what) {
    control.counts.misuses++;
    snprintf(detail, sizeof detail, "%s", what);
    return code;
}

int kin_emulator_misuse(const char *what) {
    return refuse(CODE_INVALID, what);
}

/* True if the thread captures a graph, which this ends. */
static bool breaks_capture(void) {
    if (captures == NULL) return false;
    captures->capturing->broken = true;
    return true;
}

static int refuse_capture(const char *what) {
    return refuse(CODE_CAPTURE, what);
}

#ifndef KIN_CUDA_PTX_FOLDER
#define KIN_CUDA_PTX_FOLDER NULL
#endif

/* cuda.execute and cuda.ptx. */
static kin_status configure_ptx(kin_context *context) {
    const char *execute = kin_context_setting(context, "cuda.execute");
    const char *folder = kin_context_setting(context, "cuda.ptx");
    if (execute == NULL) return KIN_OK;
    control.ptx[0] = '\0';
    if (strcmp(execute, "host") == 0) return KIN_OK;
    if (strcmp(execute, "ptx") != 0)
        return kin_fail(context, KIN_INVALID, "the setting cuda.execute=%s is neither host nor ptx",
                        execute);
    if (folder == NULL) folder = KIN_CUDA_PTX_FOLDER;
    if (folder == NULL || strlen(folder) + 16 > sizeof control.ptx)
        return kin_fail(context, KIN_UNSUPPORTED,
                        "this build has no PTX of the kernels (it had no nvcc); the setting "
                        "cuda.ptx names a folder of it");
    snprintf(control.ptx, sizeof control.ptx, "%s", folder);
    return KIN_OK;
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
    kin_status status = configure_ptx(context);
    if (status != KIN_OK || capability == NULL) return status;
    static const char *const known[] = {"75", "80", "86", "89", "90", "100", "120", NULL};
    for (int i = 0; known[i] != NULL; i++)
        if (strcmp(capability, known[i]) == 0) {
            control.capability = atoi(capability);
            return KIN_OK;
        }
    return kin_fail(context, KIN_INVALID,
                    "the setting cuda.capability=%s is none of 75, 80, 86, 89, 90, 100 and 120",
                    capability);
}

static int emulated_count(int *out_count, const char **out_why) {
    *out_count = control.devices;
    *out_why = control.devices == 0 ? "the emulator was told to have no device" : NULL;
    return control.devices == 0 ? CODE_NO_DEVICE : 0;
}

static int emulated_choose(int ordinal) {
    if (ordinal < 0 || ordinal >= control.devices) return CODE_INVALID_DEVICE;
    current = ordinal;
    return 0;
}

/* The most shared memory of one block: that of the multiprocessor, less 1 KB. */
static size_t shared_limit(void) {
    switch (control.capability) {
    case 80:
        return 163 << 10;
    case 90:
    case 100:
        return 227 << 10;
    default: /* 8.6, 8.9, 12.0 */
        return 99 << 10;
    }
}

static int emulated_describe(int ordinal, kin_cuda_properties *out) {
    *out = (kin_cuda_properties){.capability = control.capability,
                                 .units = 8,
                                 .driver = 13000,
                                 .runtime = 13000,
                                 .memory_total = (size_t)control.memory,
                                 .memory_free = (size_t)(control.memory - control.counts.bytes),
                                 .shared_limit = shared_limit(),
                                 .l2_bytes = 40 << 20};
    snprintf(out->name, sizeof out->name, "the host as a GPU, number %d", ordinal);
    return fails() ? CODE_FAULT : 0;
}

static const char *emulated_error_name(int code) {
    static const struct {
        int code;
        const char *name;
    } names[] = {
        {CODE_INVALID, "cudaErrorInvalidValue"},
        {CODE_MEMORY, "cudaErrorMemoryAllocation"},
        {CODE_CONFIGURATION, "cudaErrorInvalidConfiguration"},
        {CODE_NO_DEVICE, "cudaErrorNoDevice"},
        {CODE_INVALID_DEVICE, "cudaErrorInvalidDevice"},
        {CODE_HANDLE, "cudaErrorInvalidResourceHandle"},
        {CODE_NOT_READY, "cudaErrorNotReady"},
        {CODE_FAULT, "cudaErrorIllegalAddress"},
        {CODE_RESOURCES, "cudaErrorLaunchOutOfResources"},
        {CODE_CAPTURE, "cudaErrorStreamCaptureUnsupported"},
        {CODE_CAPTURE_BROKEN, "cudaErrorStreamCaptureInvalidated"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code) return names[i].name;
    return "an unknown error";
}

static const char *emulated_error_detail(int code) {
    (void)code;
    return detail[0] != '\0' ? detail : NULL;
}

static const char *emulated_code(void) {
    return control.code;
}

/* ---- doing what was queued ---- */

/* By the host's function, or what nvcc made of it. Of several faults the first one is told. */
static bool run_launch(const kin_cuda_launch_record *launch) {
    char folder[sizeof control.ptx + 8], unused[2];
    const bool is_first = detail[0] == '\0';
    char *text = is_first ? detail : unused;
    const size_t size = is_first ? sizeof detail : sizeof unused;
    if (control.ptx[0] == '\0') return kin_emulator_run(launch, control.order, text, size);
    snprintf(folder, sizeof folder, "%s/%s", control.ptx, control.capability == 90 ? "90a" : "80");
    kin_ptx_launch ptx = {.shared = launch->shared,
                          .argument_count = launch->argument_count,
                          .arguments = launch->arguments,
                          .order = (int)control.order};
    memcpy(ptx.grid, launch->grid, sizeof ptx.grid);
    memcpy(ptx.block, launch->block, sizeof ptx.block);
    return kin_ptx_run(folder, launch->kernel, &ptx, text, size);
}

static int run(stream *s, const queued *call) {
    int code = 0;
    switch (call->kind) {
    case CALL_LAUNCH:
        control.counts.launches++;
        if (run_launch(&call->launch)) return 0;
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
    case CALL_EVENT:
        s->done = call->event->at > s->done ? call->event->at : s->done;
        return clock_gettime(CLOCK_MONOTONIC, &call->event->time) == 0 ? 0 : CODE_FAULT;
    case CALL_GRAPH:
        for (size_t i = 0; i < call->graph->list.count && code == 0; i++)
            code = run(s, &call->graph->list.calls[i]);
        return code;
    }
    return CODE_INVALID;
}

static bool append(list *l, const queued *call) {
    if (l->count == l->capacity) {
        size_t wanted = l->capacity > 0 ? 2 * l->capacity : 64;
        queued *larger = realloc(l->calls, wanted * sizeof *larger);
        if (larger == NULL) return false;
        l->calls = larger;
        l->capacity = wanted;
    }
    l->calls[l->count++] = *call;
    return true;
}

/* Up to event number `number` of the stream; what fails is told, and the rest goes on, as the rest
 * of a GPU's work would be lost. */
static int finish(stream *s, uint64_t number) {
    size_t i = 0;
    int code = 0;
    for (; i < s->pending.count && s->done < number; i++) {
        const int mine = run(s, &s->pending.calls[i]);
        if (code == 0) code = mine;
    }
    s->pending.count -= i;
    if (s->pending.count > 0 && i > 0)
        memmove(s->pending.calls, s->pending.calls + i, s->pending.count * sizeof(queued));
    return code;
}

/* What a call that waits for a whole device does. */
static int finish_device(int device) {
    int code = 0;
    for (int i = 0; i < MOST_STREAMS; i++) {
        if (streams[i] == NULL || streams[i]->device != device) continue;
        const int mine = finish(streams[i], UINT64_MAX);
        if (code == 0) code = mine;
    }
    return code;
}

/* ---- memory ---- */

static int emulated_allocate(void **out_address, size_t size) {
    *out_address = NULL;
    if (breaks_capture()) return refuse_capture("memory is asked for while a graph is captured");
    if (fails() || size > control.memory - control.counts.bytes) return CODE_MEMORY;
    if (!kin_emulator_give(out_address, size, false, current)) return CODE_MEMORY;
    control.counts.allocations++;
    control.counts.bytes += size;
    if (control.counts.bytes > control.counts.most_bytes)
        control.counts.most_bytes = control.counts.bytes;
    return 0;
}

/* Waits for the device, as cudaFree does. */
static int emulated_release(void *address) {
    size_t size;
    if (breaks_capture()) return refuse_capture("memory is freed while a graph is captured");
    if (address == NULL) return 0;
    const int code = finish_device(current);
    if (!kin_emulator_take_back(address, false, &size))
        return kin_emulator_misuse("memory is freed that was not allocated so");
    control.counts.releases++;
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
    if (breaks_capture()) return refuse_capture("memory is asked for while a graph is captured");
    if (fails() || !kin_emulator_give(out_address, size, true, current)) return CODE_MEMORY;
    control.counts.pinned++;
    return 0;
}

static int emulated_release_pinned(void *address) {
    size_t size;
    if (breaks_capture()) return refuse_capture("memory is freed while a graph is captured");
    if (address == NULL) return 0;
    const int code = finish_device(current);
    if (!kin_emulator_take_back(address, true, &size))
        return kin_emulator_misuse("memory is freed that was not allocated so");
    control.counts.pinned--;
    return code;
}

/* ---- streams and events ---- */

static int emulated_stream_create(void **out_stream) {
    stream *s = fails() ? NULL : calloc(1, sizeof *s);
    *out_stream = NULL;
    if (s == NULL) return CODE_MEMORY;
    s->device = current;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST_STREAMS && *out_stream == NULL; i++)
        if (streams[i] == NULL) *out_stream = streams[i] = s;
    pthread_mutex_unlock(&lock);
    if (*out_stream == NULL) {
        free(s);
        return CODE_MEMORY;
    }
    control.counts.streams++;
    return 0;
}

/* NULL, after a refusal whose code is 400, if it is no stream that the thread may use now. */
static stream *checked(void *of) {
    bool known = false;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST_STREAMS; i++) known = known || (of != NULL && streams[i] == of);
    pthread_mutex_unlock(&lock);
    stream *s = of;
    if (!known) (void)refuse(CODE_HANDLE, "a stream that is not there");
    else if (s->device != current) (void)refuse(CODE_HANDLE, "a stream of another device");
    else return s;
    return NULL;
}

static int emulated_stream_destroy(void *of) {
    stream *s = checked(of);
    if (s == NULL) return CODE_HANDLE;
    if (s->capturing != NULL) return refuse_capture("a stream that captures is destroyed");
    const int code = finish(s, UINT64_MAX);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST_STREAMS; i++)
        if (streams[i] == s) streams[i] = NULL;
    pthread_mutex_unlock(&lock);
    control.counts.streams--;
    free(s->pending.calls);
    free(s);
    return code;
}

static int emulated_stream_wait(void *of) {
    stream *s = checked(of);
    control.counts.waits++;
    if (s == NULL) return CODE_HANDLE;
    if (breaks_capture()) return refuse_capture("the host waits while a graph is captured");
    const bool failed = fails();
    const int code = finish(s, UINT64_MAX);
    s->done = s->recorded;
    return failed ? CODE_FAULT : code;
}

static int emulated_event_create(void **out_event, bool timed) {
    event *e = fails() ? NULL : calloc(1, sizeof *e);
    *out_event = e;
    if (e == NULL) return CODE_MEMORY;
    e->timed = timed;
    e->device = current;
    control.counts.events++;
    return 0;
}

static int emulated_event_destroy(void *of) {
    control.counts.events--;
    free(of);
    return 0;
}

static int queue(void *on, const queued *call) {
    stream *s = checked(on);
    if (s == NULL) return CODE_HANDLE;
    if (fails()) return CODE_FAULT;
    if (s->capturing != NULL && s != captures)
        return refuse_capture("work for a capture from another thread");
    return append(s->capturing != NULL ? &s->capturing->list : &s->pending, call) ? 0 : CODE_MEMORY;
}

static int emulated_event_record(void *of, void *on) {
    event *e = of;
    stream *s = checked(on);
    if (s == NULL) return CODE_HANDLE;
    if (e->device != s->device) return refuse(CODE_HANDLE, "an event of another device");
    e->on = s;
    e->at = ++s->recorded;
    e->captured = s->capturing != NULL;
    return queue(on, &(queued){.kind = CALL_EVENT, .event = e});
}

static int emulated_event_wait(void *of) {
    const event *e = of;
    control.counts.waits++;
    if (breaks_capture()) return refuse_capture("the host waits while a graph is captured");
    if (e->captured) return refuse_capture("the host waits for an event within a graph");
    if (e->on == NULL)
        return kin_emulator_misuse("the host waits for an event that was not recorded");
    stream *s = checked((void *)(uintptr_t)e->on);
    if (s == NULL) return CODE_HANDLE;
    const bool failed = fails();
    const int code = finish(s, e->at);
    return failed ? CODE_FAULT : code;
}

static int emulated_event_milliseconds(float *out_milliseconds, void *first, void *last) {
    const event *a = first, *b = last;
    *out_milliseconds = 0;
    if (breaks_capture()) return refuse_capture("events are looked at while a graph is captured");
    if (a->on == NULL || b->on == NULL || !a->timed || !b->timed)
        return refuse(CODE_HANDLE, "a time between events that have none");
    if (a->at > a->on->done || b->at > b->on->done)
        return refuse(CODE_NOT_READY, "a time between events that the host has not waited for");
    *out_milliseconds = (float)((double)(b->time.tv_sec - a->time.tv_sec) * 1e3 +
                                (double)(b->time.tv_nsec - a->time.tv_nsec) * 1e-6);
    return 0;
}

/* ---- work ---- */

int kin_emulator_queue(void *on, int (*function)(const void *data), const void *data, size_t size) {
    queued call = {.kind = CALL_RUN, .run = function};
    if (size > sizeof call.data) return kin_emulator_misuse("a step with more data than fits");
    memcpy(call.data, data, size);
    return queue(on, &call);
}

static int emulated_copy(void *target, const void *source, size_t size, void *on) {
    const char *to = target, *from = source;
    const char *fault = kin_emulator_range_fault(target, size, current);
    if (fault == NULL) fault = kin_emulator_range_fault(source, size, current);
    if (fault == NULL && from < to + size && to < from + size)
        fault = "a copy of ranges that overlap";
    if (fault != NULL) return kin_emulator_misuse(fault);
    return queue(on,
                 &(queued){.kind = CALL_COPY, .target = target, .source = source, .size = size});
}

static int emulated_fill(void *target, int byte, size_t size, void *on) {
    const char *fault = kin_emulator_range_fault(target, size, current);
    if (fault != NULL) return kin_emulator_misuse(fault);
    return queue(on, &(queued){.kind = CALL_FILL, .target = target, .byte = byte, .size = size});
}

static loaded *find_kernel(const void *kernel) {
    for (size_t i = 0; i < kernels.count; i++)
        if (kernels.list[i].kernel == kernel) return &kernels.list[i];
    return NULL;
}

static int emulated_prepare(const void *kernel, size_t shared, unsigned threads) {
    if (kernel == NULL || fails()) return CODE_INVALID;
    if (breaks_capture()) return refuse_capture("a kernel is loaded while a graph is captured");
    if (threads > 1024) return refuse(CODE_RESOURCES, "more threads than a block has");
    if (shared > shared_limit()) return kin_emulator_misuse("more shared memory than a block has");
    pthread_mutex_lock(&lock);
    loaded *known = find_kernel(kernel);
    if (known == NULL && kernels.count == kernels.capacity) {
        size_t wanted = kernels.capacity > 0 ? 2 * kernels.capacity : 64;
        loaded *larger = realloc(kernels.list, wanted * sizeof *larger);
        if (larger != NULL) kernels.list = larger, kernels.capacity = wanted;
    }
    if (known == NULL && kernels.count < kernels.capacity) {
        known = &kernels.list[kernels.count++];
        *known = (loaded){kernel, SHARED_BYTES};
    }
    if (known != NULL && shared > known->shared) known->shared = shared;
    pthread_mutex_unlock(&lock);
    return known != NULL ? 0 : CODE_MEMORY;
}

__attribute__((destructor)) static void forget_kernels(void) {
    free(kernels.list);
}

/* What CUDA would say of a launch; 0, or a refusal's code. */
static int check_launch(const kin_cuda_launch_record *l) {
    const uint64_t threads = (uint64_t)l->block[0] * l->block[1] * l->block[2];
    const uint64_t blocks = (uint64_t)l->grid[0] * l->grid[1] * l->grid[2];
    if (threads == 0 || blocks == 0) return refuse(CODE_CONFIGURATION, "a launch of no threads");
    if (threads > 1024 || l->block[2] > 64)
        return refuse(CODE_CONFIGURATION, "a block of more threads than there may be");
    if (l->grid[0] > INT32_MAX || l->grid[1] > 65535 || l->grid[2] > 65535)
        return refuse(CODE_CONFIGURATION, "more blocks than there may be");
    if (l->value_bytes > PARAMETER_BYTES)
        return kin_emulator_misuse("more than 4 KB of parameters");
    pthread_mutex_lock(&lock);
    const loaded *known = find_kernel(l->kernel);
    const size_t most = known != NULL ? known->shared : 0;
    pthread_mutex_unlock(&lock);
    if (known == NULL) return kin_emulator_misuse("a launch of a kernel that was not loaded");
    if (l->shared > most)
        return kin_emulator_misuse("more shared memory than the kernel was allowed");
    return 0;
}

static int emulated_launch(const kin_cuda_launch_record *launch, void *on) {
    int code = check_launch(launch);
    if (code != 0) return code;
    const char *fault = kin_emulator_words_fault(launch->values, launch->value_bytes, current);
    if (fault != NULL) return refuse(CODE_FAULT, fault);
    return queue(on, &(queued){.kind = CALL_LAUNCH, .launch = *launch});
}

/* ---- graphs ---- */

static int emulated_capture_begin(void *on) {
    stream *s = checked(on);
    if (s == NULL) return CODE_HANDLE;
    if (s->capturing != NULL || captures != NULL)
        return kin_emulator_misuse("a capture within a capture");
    if (fails()) return CODE_CAPTURE;
    s->capturing = calloc(1, sizeof *s->capturing);
    if (s->capturing == NULL) return CODE_MEMORY;
    s->capturing->device = s->device;
    captures = s;
    return 0;
}

static int emulated_graph_destroy(void *of) {
    graph *g = of;
    control.counts.graphs--;
    (void)finish_device(g->device); /* CUDA keeps it until its last launch is over */
    free(g->list.calls);
    free(g);
    return 0;
}

static int emulated_capture_end(void *on, void **out_graph) {
    stream *s = checked(on);
    *out_graph = NULL;
    if (s == NULL) return CODE_HANDLE;
    graph *g = s->capturing;
    if (g == NULL) return kin_emulator_misuse("the end of a capture that was not begun");
    s->capturing = NULL;
    captures = NULL;
    control.counts.graphs++;
    const int code = g->broken ? CODE_CAPTURE_BROKEN : fails() ? CODE_CAPTURE : 0;
    if (code == 0) *out_graph = g;
    else (void)emulated_graph_destroy(g);
    return code;
}

/* Memory that a graph works on must be there each time. */
static const char *graph_fault(const graph *g) {
    const char *fault = NULL;
    for (size_t i = 0; i < g->list.count && fault == NULL; i++) {
        const queued *call = &g->list.calls[i];
        if (call->kind == CALL_LAUNCH)
            fault =
                kin_emulator_words_fault(call->launch.values, call->launch.value_bytes, g->device);
        if (call->kind == CALL_COPY || call->kind == CALL_FILL)
            fault = kin_emulator_range_fault(call->target, call->size, g->device);
        if (fault == NULL && call->kind == CALL_COPY)
            fault = kin_emulator_range_fault(call->source, call->size, g->device);
    }
    return fault;
}

static int emulated_graph_launch(void *of, void *on) {
    const graph *g = of;
    const stream *s = checked(on);
    control.counts.graph_launches++;
    if (s == NULL) return CODE_HANDLE;
    if (s->capturing != NULL) return refuse_capture("a graph is launched while one is captured");
    if (g->device != s->device) return refuse(CODE_HANDLE, "a graph of another device");
    const char *fault = graph_fault(g);
    if (fault != NULL) return refuse(CODE_FAULT, fault);
    return queue(on, &(queued){.kind = CALL_GRAPH, .graph = g});
}

const kin_cuda_api kin_cuda_api_table = {
    .name = "cuda-emulated",
    .configure = emulated_configure,
    .count = emulated_count,
    .choose = emulated_choose,
    .describe = emulated_describe,
    .error_name = emulated_error_name,
    .error_detail = emulated_error_detail,
    .code = emulated_code,
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

const kin_cuda_api *kin_emulator_api_get(void) {
    return &kin_cuda_api_table;
}
