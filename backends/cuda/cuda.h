/* What the CUDA backend's files share: the device, launches, and the lists of kernels.
 *
 * A family of kernels is one file backends/cuda/<family>.cu that defines
 *     KIN_CUDA_ROWS(family) = { {"softmax", "cuda_softmax", 1, 1, can, NULL, launch}, ..., {} };
 * ended by an empty row; the build finds it by that line. Families whose names end in _hopper stand
 * in front of all others, so a row of theirs is asked first. A row's `launch` only records: it
 * appends launches (launch.cuh) and other steps to the list, whose arguments are copied there.
 * Submitting allocates nothing and waits for nothing. Kernels compute in f32; f16 and bf16 are
 * storage and operands of products. */
#ifndef KIN_BACKENDS_CUDA_CUDA_H
#define KIN_BACKENDS_CUDA_CUDA_H

#include "backends/cuda/api.h"
#include "runtime/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kin_buffer {
    char *address; /* on the device */
    size_t size;
};

typedef struct kin_cuda_blaslt kin_cuda_blaslt; /* blaslt.h */

/* device->state. */
typedef struct kin_cuda_device {
    const kin_cuda_api *api;
    int ordinal;
    kin_cuda_properties properties;
    void *stream;
    bool graphs;             /* a list that is submitted again becomes a CUDA graph */
    bool tf32;               /* products of f32 may round their operands to tf32 */
    char *staging[2];        /* pinned memory for transfers */
    void *staged[2];         /* events: the transfer that used it is done */
    kin_cuda_blaslt *blaslt; /* NULL: not to be had, own kernels do the products */
    kin_kernel *kernels;     /* all families' rows */
    size_t kernel_count;
} kin_cuda_device;

static inline kin_cuda_device *kin_cuda_of(const kin_device *device) {
    return (kin_cuda_device *)device->state;
}

/* ---- operands ---- */

/* True for f32, f16 and bf16. */
static inline bool kin_cuda_is_real(kin_dtype dtype) {
    return dtype == KIN_F32 || dtype == KIN_F16 || dtype == KIN_BF16;
}

static inline bool kin_cuda_is_absent(const kin_operand *operand) {
    return operand->desc.rank < 0;
}

/* True if input `index` is there. */
static inline bool kin_cuda_has(const kin_call *call, int index) {
    return index < call->in_count && !kin_cuda_is_absent(&call->in[index]);
}

/* Where element 0 lies on the device; NULL if the operand is absent. */
static inline void *kin_cuda_address(const kin_operand *operand) {
    return operand->buffer != NULL ? operand->buffer->address + operand->offset : NULL;
}

/* The call's scratch memory, `skip` bytes from its start. It is aligned like all offsets, to 256.
 */
static inline void *kin_cuda_scratch(const kin_call *call, size_t skip) {
    return call->scratch->address + call->scratch_offset + skip;
}

/* True if element offsets of every operand fit into 31 bits, for kernels that index with int. */
bool kin_cuda_fits(const kin_call *call);
/* A `can`: all operands that are there are f32, f16 or bf16. */
bool kin_cuda_can_real(const kin_device *device, const kin_call *call);

/* ---- steps of a list ---- */

/* Appends a launch; the arguments behind record->arguments are copied by their sizes. Kernels are
 * launched by kin_cuda_launch (launch.cuh), which calls this. A grid of 0 blocks adds nothing.
 * KIN_UNSUPPORTED if the grid, the block or the shared memory is more than the device takes. */
kin_status kin_cuda_add_launch(kin_device *device, kin_commands *commands,
                               const kin_cuda_launch_record *record, const size_t *sizes,
                               const size_t *alignments);

/* The twin of a kernel with one parameter: it takes (table of such parameters, number of the first
 * block of each and behind the last, count). */
typedef struct kin_cuda_joined_kernel {
    const void *kernel;
    void (*emulated)(const void *kernel, void *const *arguments); /* as in the record */
} kin_cuda_joined_kernel;
/* The launch that was added last is all of its call, and may be one with those of neighbouring
 * calls that have the same twin (joined.cuh). */
kin_status kin_cuda_may_join(kin_device *device, kin_commands *commands,
                             const kin_cuda_joined_kernel *twin);

/* A copy within device memory, and a fill. */
kin_status kin_cuda_add_copy(kin_device *device, kin_commands *commands, void *target,
                             const void *source, size_t size);
kin_status kin_cuda_add_fill(kin_device *device, kin_commands *commands, void *target, int byte,
                             size_t size);

/* A step that queues work by itself when the list is submitted (a library's product). The data is
 * given to `end` (or kin_free, where that is NULL) when the list is discarded, and by this function
 * if it fails. `run` neither allocates nor waits, since it is also called while a graph is made. */
typedef kin_status (*kin_cuda_step_fn)(kin_device *device, void *data, void *stream);
typedef void (*kin_cuda_step_end_fn)(kin_device *device, void *data);
kin_status kin_cuda_add_step(kin_device *device, kin_commands *commands, kin_cuda_step_fn run,
                             kin_cuda_step_end_fn end, void *data);

/* Read-only device memory with a copy of `size` bytes, which lives as long as the list: tables that
 * are made on the host while recording. */
kin_status kin_cuda_table(kin_device *device, kin_commands *commands, const void *data, size_t size,
                          void **out_address);

/* A device error with the name of a CUDA error code. */
kin_status kin_cuda_fail(kin_device *device, int code, const char *what);

/* ---- rows, as the build found them ---- */

extern const kin_kernel *const kin_cuda_families[]; /* NULL at the end */

#ifdef __cplusplus
}
#define KIN_CUDA_ROWS(family)                                                                      \
    extern "C" {                                                                                   \
    extern const kin_kernel kin_cuda_##family##_kernels[];                                         \
    }                                                                                              \
    const kin_kernel kin_cuda_##family##_kernels[]
#else
#define KIN_CUDA_ROWS(family)                                                                      \
    extern const kin_kernel kin_cuda_##family##_kernels[];                                         \
    const kin_kernel kin_cuda_##family##_kernels[]
#endif
#endif
