/* The contract between the runtime and a device backend: one table of functions and a list of
 * kernels. A backend is a shared library that exports kin_backend_get; only the CPU is built in.
 *
 * Memory is always {buffer, offset}: a device need not be able to point into a buffer. Functions
 * return a status and set the message of device->context. A device is used by one thread at a time.
 */
#ifndef KIN_RUNTIME_BACKEND_H
#define KIN_RUNTIME_BACKEND_H

#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_BACKEND_ABI = 1 };

typedef struct kin_backend kin_backend;
typedef struct kin_buffer kin_buffer;     /* the backend's own: device memory */
typedef struct kin_commands kin_commands; /* the backend's own: a recorded list of work */

typedef struct kin_device_info {
    char name[32];         /* "cpu", "cuda0" */
    char description[160]; /* model, instruction set, driver */
    uint64_t memory_total; /* bytes; 0: not known */
    uint64_t memory_free;
    uint64_t max_allocation; /* bytes of the largest single buffer; 0: no limit */
    uint32_t alignment;      /* of offsets, bytes, a power of two; 0 means 64 */
    uint32_t dtypes;         /* bit 1 << kin_dtype: storage that kernels accept */
    int threads;
    kin_dtype product_dtype; /* what operands of products (KIN_OP_PRODUCT) are rounded to, whatever
                                they are stored in: KIN_BF16 where the matrix unit takes nothing
                                else. KIN_F32 (0): they are not rounded */
    bool simulated;          /* timestamps come from a model of the device, not from a clock */
    uint32_t granularity;    /* bytes that the size of each buffer is rounded up to; 0: as asked.
                                Stores    then put many tensors into one buffer */
} kin_device_info;

/* An open device: made by the runtime (device.h); `state` is the backend's. */
typedef struct kin_device {
    const kin_backend *backend;
    kin_context *context;
    void *state;
    kin_device_info info;
    struct kin_group *group; /* the runtime's (collective.h), or NULL */
} kin_device;

/* A tensor as a kernel sees it. Element 0 lies `offset` bytes into the buffer. */
typedef struct kin_operand {
    kin_desc desc;
    kin_buffer *buffer; /* NULL while planning, and for an input that is absent (desc.rank -1) */
    size_t offset;
} kin_operand;

/* One node as a kernel sees it. Outputs are dense. */
typedef struct kin_call {
    const char *op;
    const void *attrs;
    int in_count, out_count;
    const kin_operand *in;
    const kin_operand *out;
    kin_buffer *scratch; /* scratch_size bytes from scratch_offset, contents undefined */
    size_t scratch_offset, scratch_size;
} kin_call;

/* What one recorded call did, where the device counts it; 0: not counted. */
typedef struct kin_call_counters {
    double cycles;
    uint64_t bytes_moved; /* between the device's memory and the units that compute */
    uint64_t scratchpad;  /* bytes of on-chip memory in use at one time */
} kin_call_counters;

/* What collective ops (KIN_OP_COLLECTIVE) have as attributes. */
typedef enum kin_reduction_kind { KIN_REDUCTION_SUM, KIN_REDUCTION_MEAN } kin_reduction_kind;

typedef struct kin_reduction {
    int64_t kind; /* kin_reduction_kind */
} kin_reduction;

/* Names a group of devices in several processes; rank 0 makes it, and the others are given it. */
typedef struct kin_group_id {
    unsigned char bytes[128];
} kin_group_id;

typedef struct kin_device_group kin_device_group; /* the backend's own: membership of a group */

/* One row of a backend's kernel list. The first row of the op whose `can` agrees is taken. */
typedef struct kin_kernel {
    const char *op;
    const char *name;  /* cpu_attention_forward */
    uint64_t strided;  /* bit i: input i may be any view; otherwise the planner makes it dense */
    uint64_t in_place; /* bit i: output 0 may lie on input i (same bytes) */
    /* NULL: f32 operands (and integers where the op has them) of any shape. Strides of inputs are
     * as they will be: a kernel may ask for, say, a last stride of 1 by saying no. */
    bool (*can)(const kin_device *device, const kin_call *call);
    size_t (*scratch)(const kin_device *device, const kin_call *call); /* bytes; NULL: none */
    /* May be NULL if the backend has `compile`. */
    kin_status (*launch)(kin_device *device, kin_commands *commands, const kin_call *call);
} kin_kernel;

/* New functions are appended and optional, so that a table made for an older or a newer header of
 * the same ABI serves: what lies behind struct_size counts as NULL. */
struct kin_backend {
    uint32_t abi;         /* KIN_BACKEND_ABI */
    uint32_t struct_size; /* sizeof(kin_backend) */
    const char *name;     /* "cpu", "cuda" */

    /* Devices. count may be 0 (no driver): then *out_why says why. open fills device->state and
     * device->info. */
    int (*count)(kin_context *context, const char **out_why);
    kin_status (*open)(kin_device *device, int index);
    void (*close)(kin_device *device);

    /* Row `index` of the kernel list, best first within an op; NULL past the end. */
    const kin_kernel *(*kernel)(const kin_device *device, size_t index);

    /* Memory. Sizes and offsets in bytes. upload, download, copy and fill are complete on return
     * and ordered after everything submitted before. */
    kin_status (*allocate)(kin_device *device, size_t size, kin_buffer **out_buffer);
    void (*release)(kin_device *device, kin_buffer *buffer);
    kin_status (*upload)(kin_device *device, const void *source, kin_buffer *buffer, size_t offset,
                         size_t size);
    kin_status (*download)(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                           size_t size);
    kin_status (*copy)(kin_device *device, kin_buffer *source, size_t source_offset,
                       kin_buffer *target, size_t target_offset, size_t size);
    kin_status (*fill)(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                       uint8_t byte);

    /* Work. begin makes an empty list; record appends one call, which stays valid (with everything
     * it points to) until the list is freed; end closes the list; submit runs it, as often as
     * wanted; wait returns when all is done, with the first error. discard frees the list. */
    kin_status (*begin)(kin_device *device, kin_commands **out_commands);
    kin_status (*record)(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                         const kin_call *call);
    kin_status (*end)(kin_device *device, kin_commands *commands);
    kin_status (*submit)(kin_device *device, kin_commands *commands);
    kin_status (*wait)(kin_device *device);
    void (*discard)(kin_device *device, kin_commands *commands);

    /* Seconds that each recorded call of the last submit took; count entries. NULL: no timer. */
    kin_status (*timestamps)(kin_device *device, kin_commands *commands, double *out_seconds,
                             size_t count);

    /* For devices that take whole ranges (NPUs): compiles `count` calls into one recorded unit.
     * NULL: calls are recorded one by one. */
    kin_status (*compile)(kin_device *device, kin_commands *commands,
                          const kin_kernel *const *kernels, const kin_call *calls, size_t count);

    /* Counters of each recorded call of the last submit; count entries. NULL: none. */
    kin_status (*counters)(kin_device *device, kin_commands *commands,
                           kin_call_counters *out_counters, size_t count);

    /* Where the host sees the buffer's first byte, for backends that build on this one; what it
     * writes there is as if uploaded. NULL: the host sees no device memory. */
    void *(*address)(kin_device *device, kin_buffer *buffer);

    /* Says whether the following submits of a list will be asked for their timestamps, for devices
     * where these cost much. NULL: every submit may be. */
    kin_status (*set_timed)(kin_device *device, kin_commands *commands, bool timed);

    /* Collectives between the devices of several processes, by the device's own library. All five
     * or none (NULL): the runtime then sums by way of the host. group_id makes the id of a new
     * group; with NULL it only says whether the device can be in one (KIN_UNSUPPORTED: no, and the
     * message says why). group_join returns when all `count` ranks have called it; *out_bytes is
     * the device memory that membership takes. all_reduce appends `count` calls of collective ops
     * to a list, each f32, f16 or bf16 and dense, its output the same bytes as its input or none of
     * them; all ranks submit lists with the same calls in the same order. group_broadcast copies a
     * range of rank 0's buffer to all ranks, and is complete on return. */
    kin_status (*group_id)(kin_device *device, kin_group_id *out_id);
    kin_status (*group_join)(kin_device *device, const kin_group_id *id, int rank, int count,
                             kin_device_group **out_group, uint64_t *out_bytes);
    void (*group_leave)(kin_device *device, kin_device_group *group);
    kin_status (*all_reduce)(kin_device *device, kin_commands *commands, kin_device_group *group,
                             const kin_call *calls, size_t count);
    kin_status (*group_broadcast)(kin_device *device, kin_device_group *group, kin_buffer *buffer,
                                  size_t offset, size_t size);
};

/* What a plug-in exports: its table, or NULL if it cannot serve this ABI. */
typedef const kin_backend *(*kin_backend_get_fn)(uint32_t abi);
#define KIN_BACKEND_SYMBOL "kin_backend_get"

#ifdef __cplusplus
}
#endif
#endif
