/* What the CPU's kernel files share: pointers of operands, threads, and the lists of kernels.
 *
 * A family of kernels is one file backends/cpu/<family>.c that exports
 *     const kin_kernel cpu_<family>_kernels[];    ended by an empty row
 * and is named in the list of cpu.c. `launch` computes at once. Rows need only serve f32 (can =
 * NULL): for f16, bf16 and Q8_0 operands the backend puts an adapter around them (adapter.c) that
 * converts through scratch memory.
 *
 * `can`, `scratch` and `launch` look at the device's info and context alone: a backend that hands
 * calls on to this one (onednn) passes its own device.
 */
#ifndef KIN_BACKENDS_CPU_CPU_H
#define KIN_BACKENDS_CPU_CPU_H

#include "runtime/backend.h"
#include "backends/cpu/cpu_isa.h"

struct kin_buffer {
    unsigned char *data; /* aligned to CPU_ALIGNMENT bytes */
    size_t size;
};

enum {
    CPU_ALIGNMENT = 64,
    CPU_PARALLEL_MIN = 32768 /* below so many elements threads cost more than they give */
};

/* Element 0 of an operand; NULL for an absent input. */
static inline void *cpu_data(const kin_operand *operand) {
    return operand->buffer == NULL ? NULL : operand->buffer->data + operand->offset;
}

static inline bool cpu_is_absent(const kin_operand *operand) {
    return operand->desc.rank < 0;
}

/* The call's scratch memory, aligned to CPU_ALIGNMENT bytes; NULL if it has none. */
static inline void *cpu_scratch(const kin_call *call) {
    return call->scratch == NULL ? NULL : call->scratch->data + call->scratch_offset;
}

static inline int cpu_threads(const kin_device *device) {
    return device->info.threads;
}

/* Threads for work on `count` elements: 1 where it is small. For num_threads(...). */
static inline int cpu_threads_for(const kin_device *device, int64_t count) {
    return count < CPU_PARALLEL_MIN ? 1 : cpu_threads(device);
}

/* True for f32, f16 and bf16. */
static inline bool cpu_is_real(kin_dtype dtype) {
    return dtype == KIN_F32 || dtype == KIN_F16 || dtype == KIN_BF16;
}

/* Row `index` of all families' lists, as the families wrote them; NULL past the end. */
const kin_kernel *cpu_kernel_at(size_t index);

/* True if all operands are f32 or integers: what a row without `can` serves. */
bool cpu_is_plain_call(const kin_device *device, const kin_call *call);

/* The adapter's row for an op: it serves f16, bf16 and q8_0 operands by a row that serves f32. */
kin_kernel cpu_adapter_for(const char *op);

#endif
