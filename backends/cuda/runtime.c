/* The table of functions over CUDA's runtime, which is linked in and loads the driver by itself
 * when there is one. */
#include "backends/cuda/api.h"

#include <cuda_runtime_api.h>

#include <stdio.h>
#include <string.h>

/* A driver that is too old and none at all give the same code, but for the driver's version. */
static const char *why_none(cudaError_t code) {
    int driver = 0;
    if (code == cudaErrorNoDevice) return "the driver shows no GPU";
    if (code != cudaErrorInsufficientDriver) return cudaGetErrorString(code);
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return "there is no NVIDIA driver";
    return "the NVIDIA driver is too old for CUDA 13, which needs version 580 or later";
}

static int real_count(int *out_count, const char **out_why) {
    cudaError_t code = cudaGetDeviceCount(out_count);
    *out_why = NULL;
    if (code != cudaSuccess) *out_count = 0;
    if (code == cudaSuccess && *out_count == 0) *out_why = "the driver shows no GPU";
    if (code != cudaSuccess) *out_why = why_none(code);
    (void)cudaGetLastError();
    return (int)code;
}

static int real_choose(int ordinal) {
    return (int)cudaSetDevice(ordinal);
}

static int attribute(int ordinal, enum cudaDeviceAttr which) {
    int value = 0;
    return cudaDeviceGetAttribute(&value, which, ordinal) == cudaSuccess ? value : 0;
}

static int real_describe(int ordinal, kin_cuda_properties *out) {
    struct cudaDeviceProp properties;
    cudaError_t code = cudaGetDeviceProperties(&properties, ordinal);
    *out = (kin_cuda_properties){.units = 0};
    if (code != cudaSuccess) return (int)code;
    snprintf(out->name, sizeof out->name, "%.95s", properties.name);
    out->capability = 10 * properties.major + properties.minor;
    out->units = properties.multiProcessorCount;
    out->shared_limit = (size_t)attribute(ordinal, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    out->l2_bytes = (size_t)attribute(ordinal, cudaDevAttrL2CacheSize);
    code = cudaMemGetInfo(&out->memory_free, &out->memory_total);
    if (code == cudaSuccess) code = cudaDriverGetVersion(&out->driver);
    if (code == cudaSuccess) code = cudaRuntimeGetVersion(&out->runtime);
    return (int)code;
}

static const char *real_error_name(int code) {
    return cudaGetErrorName((cudaError_t)code);
}

static const char *real_error_detail(int code) {
    return cudaGetErrorString((cudaError_t)code);
}

static const char *real_code(void) {
    return KIN_CUDA_CODE;
}

/* Out of memory is no lasting error: the runtime would give it again for the next launch. */
static int forgotten(cudaError_t code) {
    if (code != cudaSuccess) (void)cudaGetLastError();
    return (int)code;
}

static int real_allocate(void **out_address, size_t size) {
    return forgotten(cudaMalloc(out_address, size));
}

static int real_release(void *address) {
    return (int)cudaFree(address);
}

static int real_memory(size_t *out_free, size_t *out_total) {
    return (int)cudaMemGetInfo(out_free, out_total);
}

static int real_allocate_pinned(void **out_address, size_t size) {
    return forgotten(cudaHostAlloc(out_address, size, cudaHostAllocDefault));
}

static int real_release_pinned(void *address) {
    return (int)cudaFreeHost(address);
}

static int real_stream_create(void **out_stream) {
    cudaStream_t stream = NULL;
    cudaError_t code = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    *out_stream = stream;
    return (int)code;
}

static int real_stream_destroy(void *stream) {
    return (int)cudaStreamDestroy(stream);
}

static int real_stream_wait(void *stream) {
    return (int)cudaStreamSynchronize(stream);
}

static int real_event_create(void **out_event, bool timed) {
    cudaEvent_t event = NULL;
    cudaError_t code =
        cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming);
    *out_event = event;
    return (int)code;
}

static int real_event_destroy(void *event) {
    return (int)cudaEventDestroy(event);
}

static int real_event_record(void *event, void *stream) {
    return (int)cudaEventRecord(event, stream);
}

static int real_event_wait(void *event) {
    return (int)cudaEventSynchronize(event);
}

static int real_event_milliseconds(float *out_milliseconds, void *first, void *last) {
    return (int)cudaEventElapsedTime(out_milliseconds, first, last);
}

static int real_copy(void *target, const void *source, size_t size, void *stream) {
    return (int)cudaMemcpyAsync(target, source, size, cudaMemcpyDefault, stream);
}

static int real_fill(void *target, int byte, size_t size, void *stream) {
    return (int)cudaMemsetAsync(target, byte, size, stream);
}

/* The attributes of a kernel make the runtime load it, as it does late by itself (lazy loading),
 * which a capture does not allow. The launch bounds that it was compiled with are the limit of its
 * threads. */
static int real_prepare(const void *kernel, size_t shared, unsigned threads) {
    struct cudaFuncAttributes attributes;
    cudaError_t code = cudaFuncGetAttributes(&attributes, kernel);
    if (code == cudaSuccess && threads > (unsigned)attributes.maxThreadsPerBlock)
        code = cudaErrorLaunchOutOfResources;
    if (code == cudaSuccess && shared + attributes.sharedSizeBytes > 48 * 1024 &&
        (int)shared > attributes.maxDynamicSharedSizeBytes)
        code =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    return forgotten(code);
}

static int real_launch(const kin_cuda_launch_record *launch, void *stream) {
    dim3 grid = {launch->grid[0], launch->grid[1], launch->grid[2]};
    dim3 block = {launch->block[0], launch->block[1], launch->block[2]};
    return (int)cudaLaunchKernel(launch->kernel, grid, block, launch->arguments, launch->shared,
                                 stream);
}

static int real_capture_begin(void *stream) {
    return (int)cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
}

static int real_capture_end(void *stream, void **out_graph) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready = NULL;
    cudaError_t code = cudaStreamEndCapture(stream, &graph);
    *out_graph = NULL;
    if (code == cudaSuccess) code = cudaGraphInstantiate(&ready, graph, 0);
    if (code == cudaSuccess) *out_graph = ready;
    if (graph != NULL) (void)cudaGraphDestroy(graph);
    return forgotten(code);
}

static int real_graph_launch(void *graph, void *stream) {
    return (int)cudaGraphLaunch(graph, stream);
}

static int real_graph_destroy(void *graph) {
    return (int)cudaGraphExecDestroy(graph);
}

const kin_cuda_api kin_cuda_api_table = {
    .name = "cuda",
    .count = real_count,
    .choose = real_choose,
    .describe = real_describe,
    .error_name = real_error_name,
    .error_detail = real_error_detail,
    .code = real_code,
    .allocate = real_allocate,
    .release = real_release,
    .memory = real_memory,
    .allocate_pinned = real_allocate_pinned,
    .release_pinned = real_release_pinned,
    .stream_create = real_stream_create,
    .stream_destroy = real_stream_destroy,
    .stream_wait = real_stream_wait,
    .event_create = real_event_create,
    .event_destroy = real_event_destroy,
    .event_record = real_event_record,
    .event_wait = real_event_wait,
    .event_milliseconds = real_event_milliseconds,
    .copy = real_copy,
    .fill = real_fill,
    .prepare = real_prepare,
    .launch = real_launch,
    .capture_begin = real_capture_begin,
    .capture_end = real_capture_end,
    .graph_launch = real_graph_launch,
    .graph_destroy = real_graph_destroy,
};
