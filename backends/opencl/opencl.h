/* What the OpenCL backend's files share: the device, programs, launches, and the lists of kernels.
 *
 * A family of kernels is one file backends/opencl/<family>.c that exports
 *     const kin_kernel kin_opencl_<family>_kernels[];    ended by an empty row
 * (the build finds it by that name) and one <family>.cl, whose text the build puts into the
 * library. A row's `launch` only records: it makes one or more launches, whose arguments are set
 * there once. Programs are compiled when they are first asked for, so recording may compile;
 * submitting does not. Kernels compute in f32; f16 and bf16 are storage (common.cl has the loads
 * and stores).
 *
 * A launch is made so; errors stick, so only the end is looked at:
 *     char defines[64];
 *     snprintf(defines, sizeof defines, "-DX=%s -DY=%s", kin_opencl_type(x), kin_opencl_type(y));
 *     kin_opencl_launch launch =
 *         kin_opencl_start(device, commands, "softmax", defines, "softmax_rows");
 *     kin_opencl_set_operand(&launch, x);
 *     kin_opencl_set_operand(&launch, y);
 *     kin_opencl_set_int(&launch, width);
 *     return kin_opencl_finish(&launch, 1, &global, &local);
 */
#ifndef KIN_BACKENDS_OPENCL_OPENCL_H
#define KIN_BACKENDS_OPENCL_OPENCL_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include "runtime/backend.h"

struct kin_buffer {
    cl_mem memory;
    size_t size;
};

typedef struct kin_opencl_program kin_opencl_program; /* program.c */

/* device->state. The limits are the device's own, or smaller ones from the context's settings
 * (docs/opencl.md), so that kernels are tried under limits that no device here has. */
typedef struct kin_opencl_device {
    cl_platform_id platform;
    cl_device_id id;
    cl_context context;
    cl_command_queue queue; /* in order, with profiling */
    bool is_cpu;            /* rows go to single work-items with long vectors */
    size_t group_limit;     /* most work-items of a work-group */
    size_t group_limits[3]; /* of each dimension */
    size_t local_memory;    /* bytes that a work-group may use */
    int units;              /* compute units */
    int vector;             /* V: floats of one vector load, 4, 8 or 16 */
    char *identity;         /* platform, device and driver: the key of compiled programs */
    char *cache;            /* folder of compiled programs, or NULL */
    kin_opencl_program *programs;
    kin_kernel *kernels; /* all families' rows */
    size_t kernel_count;
    kin_commands *submitted; /* lists that ran since the last wait, newest first */
    kin_status failed;       /* of a submit since the last wait */
} kin_opencl_device;

static inline kin_opencl_device *kin_opencl_of(const kin_device *device) {
    return (kin_opencl_device *)device->state;
}

/* ---- rows of the kernel list ---- */

/* True for f32, f16 and bf16. */
static inline bool kin_opencl_is_real(kin_dtype dtype) {
    return dtype == KIN_F32 || dtype == KIN_F16 || dtype == KIN_BF16;
}

static inline bool kin_opencl_is_absent(const kin_operand *operand) {
    return operand->desc.rank < 0;
}

/* True if input `index` is there. */
static inline bool kin_opencl_has(const kin_call *call, int index) {
    return index < call->in_count && !kin_opencl_is_absent(&call->in[index]);
}

/* Kernels index elements of one operand with 32 bits. True if all operands allow it: every `can`
 * asks. */
bool kin_opencl_fits(const kin_call *call);
/* A `can`: all operands that are there are f32, f16 or bf16, and fit. */
bool kin_opencl_can_real(const kin_device *device, const kin_call *call);
/* What a row without a `can` serves: f32 and integers, and they fit. */
bool kin_opencl_can_plain(const kin_device *device, const kin_call *call);

/* The name of a dtype in common.cl's macros: "f32", "bf16", "i64"; "f32" for an absent operand. */
const char *kin_opencl_type(const kin_operand *operand);

/* ---- launches ---- */

/* One launch being made. */
typedef struct kin_opencl_launch {
    kin_device *device;
    kin_commands *commands;
    cl_kernel kernel;
    cl_uint arguments;
    kin_status status;
} kin_opencl_launch;

/* `parts` are the .cl files, without the ending and separated by spaces, that make up the program
 * behind common.cl: "matmul", or "elementwise_expr group_norm". defines: "-DX=f32 -DTILE=8", or "".
 * The program is compiled if the device has not got it yet. */
kin_opencl_launch kin_opencl_start(kin_device *device, kin_commands *commands, const char *parts,
                                   const char *defines, const char *kernel);

/* Each sets the next argument. An operand or memory takes two arguments of the kernel: a __global
 * pointer to the buffer, and the uint64 (ulong) number of elements from there to its element 0.
 * Absent operands are a null pointer and 0. */
void kin_opencl_set_operand(kin_opencl_launch *launch, const kin_operand *operand);
void kin_opencl_set_memory(kin_opencl_launch *launch, const kin_buffer *buffer, size_t offset,
                           size_t element_size);
/* The call's scratch memory, `skip` bytes from its start. */
void kin_opencl_set_scratch(kin_opencl_launch *launch, const kin_call *call, size_t skip,
                            size_t element_size);
void kin_opencl_set_int(kin_opencl_launch *launch, int64_t value); /* int; must fit */
void kin_opencl_set_long(kin_opencl_launch *launch, int64_t value);
void kin_opencl_set_float(kin_opencl_launch *launch, double value); /* float */
/* A struct by value, of 4-byte members only. */
void kin_opencl_set_bytes(kin_opencl_launch *launch, const void *value, size_t size);
void kin_opencl_set_local(kin_opencl_launch *launch, size_t size); /* __local memory */

/* The largest power of two that is at most `wanted`, that the device and this kernel take as the
 * number of work-items of a group, and for which `local_each` bytes per work-item are there. At
 * least 1. */
size_t kin_opencl_group(kin_opencl_launch *launch, size_t wanted, size_t local_each);

/* Adds the launch to the commands. global is rounded up to a multiple of local, so kernels look
 * whether they are needed. Fails if local is more than the device or the kernel takes. */
kin_status kin_opencl_finish(kin_opencl_launch *launch, cl_uint dims, const size_t *global,
                             const size_t *local);
/* `count` work-items in one dimension, in groups of any size: for kernels without __local memory.
 * A count of 0 launches nothing. */
kin_status kin_opencl_finish_items(kin_opencl_launch *launch, int64_t count);

/* A step that queues work by itself when the list is submitted (a library's product): run is called
 * with the data and sets *out_event to its last event, or leaves it NULL. The data is freed with
 * kin_free when the list is discarded, and by this function if it fails. */
typedef kin_status (*kin_opencl_step_fn)(kin_device *device, void *data, cl_event *out_event);
kin_status kin_opencl_step(kin_device *device, kin_commands *commands, kin_opencl_step_fn run,
                           void *data);

/* Read-only device memory with a copy of `size` bytes, which lives as long as the list: tables that
 * are made on the host while recording. */
kin_status kin_opencl_table(kin_device *device, kin_commands *commands, const void *data,
                            size_t size, const kin_buffer **out_buffer);

/* A device error with the name of an OpenCL error code. */
kin_status kin_opencl_fail(kin_device *device, cl_int code, const char *what);
const char *kin_opencl_error_name(cl_int code);

/* ---- programs (program.c) ---- */

/* The program's kernel, compiled now if need be; the caller releases it. */
kin_status kin_opencl_kernel(kin_device *device, const char *parts, const char *defines,
                             const char *name, cl_kernel *out_kernel);
void kin_opencl_programs_free(kin_device *device);

/* Program texts and rows, made by the build (embed.cmake). */
typedef struct kin_opencl_source {
    const char *name;
    const char *text; /* not ended by NUL */
    size_t size;
} kin_opencl_source;
extern const kin_opencl_source kin_opencl_sources[];
extern const size_t kin_opencl_source_count;
extern const kin_kernel *const kin_opencl_families[]; /* NULL at the end */

#endif
