/* The PTX machine: runs what nvcc makes of a kernel, in PTX, on the host, and looks for what
 * compute-sanitizer looks for. docs/cuda.md ("The PTX machine") says what it shows.
 *
 * It knows PTX from the PTX ISA alone and nothing of the emulator's bodies for instructions, so
 * that each checks the other. */
#ifndef KIN_BACKENDS_CUDA_PTX_PTX_H
#define KIN_BACKENDS_CUDA_PTX_PTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Device memory: what a kernel may touch is what was added. Not to be called while a launch runs.
 */
void kin_ptx_memory_add(const void *address, size_t size);
void kin_ptx_memory_remove(const void *address);

typedef struct kin_ptx_launch {
    unsigned grid[3], block[3];
    size_t shared; /* bytes of dynamic shared memory */
    unsigned argument_count;
    void *const *arguments; /* as many bytes as the entry's parameters have */
    int order;              /* of a block's warps: 0 forward, 1 reverse, 2 shuffled */
} kin_ptx_launch;

/* Runs an entry of a module that is given as text, under its mangled name. False, with a text that
 * says what is wrong, where and for which thread. For tests. */
bool kin_ptx_run_text(const char *text, const char *entry, const kin_ptx_launch *launch,
                      char *out_error, size_t error_size);

/* Runs the entry that the host's function `kernel` is compiled from as well: its name and the file
 * it stands in come from the symbols of the library that holds it, and the module is FILE.ptx of
 * `folder`. Modules are kept until the process ends. */
bool kin_ptx_run(const char *folder, const void *kernel, const kin_ptx_launch *launch,
                 char *out_error, size_t error_size);

#ifdef __cplusplus
}
#endif
#endif
