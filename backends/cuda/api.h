/* What the host side of the CUDA backend asks of CUDA: one table of functions, so that no file but
 * runtime.c and blaslt.c knows the toolkit. The plug-in `cuda` has the table of runtime.c; the
 * plug-in `cuda-emulated` that of emulator_api.c, which is also the tests' fake driver: it counts
 * calls, and fails when it is told to.
 *
 * Functions return 0 or CUDA's error code, whose name `error_name` gives. */
#ifndef KIN_BACKENDS_CUDA_API_H
#define KIN_BACKENDS_CUDA_API_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_cuda_properties {
    char name[96];
    int capability;      /* 10 * major + minor: 80, 90 */
    int units;           /* multiprocessors */
    int driver, runtime; /* versions, 1000 * major + 10 * minor */
    size_t memory_total, memory_free;
    size_t shared_limit; /* most bytes of shared memory of one block */
    size_t l2_bytes;
} kin_cuda_properties;

/* One launch with its arguments. */
typedef struct kin_cuda_launch_record {
    const char *name;   /* of the kernel row it is part of */
    const void *kernel; /* the host's function of that name */
    /* Calls the kernel for the thread that runs; NULL but in cuda-emulated. */
    void (*emulated)(const void *kernel, void *const *arguments);
    unsigned grid[3], block[3];
    size_t shared; /* bytes of dynamic shared memory */
    unsigned argument_count;
    void **arguments;
    const void *values; /* what the arguments point to, in one piece */
    size_t value_bytes;
} kin_cuda_launch_record;

typedef struct kin_cuda_api {
    const char *name; /* of the backend */

    /* Settings of the context that are this table's own; NULL: there are none. */
    kin_status (*configure)(kin_context *context);
    int (*count)(int *out_count, const char **out_why);
    int (*choose)(int ordinal); /* the calling thread's device */
    int (*describe)(int ordinal, kin_cuda_properties *out_properties);
    const char *(*error_name)(int code);
    /* What there is to say of the last error, which was `code`, beside its name; or NULL. */
    const char *(*error_detail)(int code);
    /* The capabilities that kernels are built for ("80,90a,90-virtual"); NULL: any. */
    const char *(*code)(void);

    int (*allocate)(void **out_address, size_t size);
    int (*release)(void *address);
    int (*memory)(size_t *out_free, size_t *out_total);
    int (*allocate_pinned)(void **out_address, size_t size);
    int (*release_pinned)(void *address);

    int (*stream_create)(void **out_stream);
    int (*stream_destroy)(void *stream);
    int (*stream_wait)(void *stream);
    int (*event_create)(void **out_event, bool timed);
    int (*event_destroy)(void *event);
    int (*event_record)(void *event, void *stream);
    int (*event_wait)(void *event);
    int (*event_milliseconds)(float *out_milliseconds, void *first, void *last);

    /* Between any of device and pinned host memory; the ranges do not overlap. */
    int (*copy)(void *target, const void *source, size_t size, void *stream);
    int (*fill)(void *target, int byte, size_t size, void *stream);
    /* Loads the kernel, so that no launch has to, and lets it have that much shared memory. Blocks
     * will have `threads` threads; an error if the kernel does not take so many. */
    int (*prepare)(const void *kernel, size_t shared, unsigned threads);
    int (*launch)(const kin_cuda_launch_record *launch, void *stream);

    int (*capture_begin)(void *stream);
    int (*capture_end)(void *stream, void **out_graph); /* ready to be launched */
    int (*graph_launch)(void *graph, void *stream);
    int (*graph_destroy)(void *graph);
} kin_cuda_api;

/* The table of this plug-in. */
extern const kin_cuda_api kin_cuda_api_table;

#ifdef __cplusplus
}
#endif
#endif
