/* The emulator's own parts: running a launch (emulator.cc), memory (emulator_memory.c) and the
 * table of functions that stands for CUDA (emulator_api.c), with which tests look at what was asked
 * of it and let it fail. */
#ifndef KIN_BACKENDS_CUDA_EMULATOR_H
#define KIN_BACKENDS_CUDA_EMULATOR_H

#include "backends/cuda/api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In which order the threads between two barriers run; all give what a GPU could give. */
typedef enum kin_emulator_order {
    KIN_EMULATOR_FORWARD,
    KIN_EMULATOR_REVERSE,
    KIN_EMULATOR_SHUFFLED
} kin_emulator_order;

/* Runs all blocks of a launch, one after the other. False, with a text, if threads wait for others
 * that never come, or if there is no memory for them. */
bool kin_emulator_run(const kin_cuda_launch_record *launch, kin_emulator_order order,
                      char *out_error, size_t error_size);

/* What was asked of the table since it was loaded. */
typedef struct kin_emulator_counts {
    uint64_t allocations, releases, bytes; /* bytes: now in use */
    uint64_t most_bytes;
    uint64_t pinned;
    uint64_t copies, fills, launches, graph_launches;
    uint64_t waits;                   /* of the host, for streams and events */
    uint64_t streams, events, graphs; /* now there */
    uint64_t misuses;                 /* calls that CUDA would refuse or that are wrong */
} kin_emulator_counts;

/* How the table behaves; for tests. */
typedef struct kin_emulator_control {
    kin_emulator_counts counts;
    int devices;      /* 1 as a rule; 0: as without a driver */
    int capability;   /* what `describe` gives: 80 as a rule */
    const char *code; /* capabilities that kernels are built for, as the build says; NULL: all */
    uint64_t memory;  /* bytes of the device */
    uint64_t fail_at; /* the call of this number fails, counted from 1; 0: none */
    uint64_t calls;   /* of the table */
    kin_emulator_order order;
    /* The folder of the kernels' PTX, which the PTX machine runs (ptx/ptx.h); "": the host's
     * functions run. */
    char ptx[1024];
} kin_emulator_control;

/* The plug-in's one control; exported, so that a test finds it with dlsym. */
KIN_API kin_emulator_control *kin_emulator_control_get(void);

/* The plug-in's table, exported likewise, so that a test misuses it on purpose. */
KIN_API const kin_cuda_api *kin_emulator_api_get(void);

/* ---- emulator_memory.c ---- */

/* Memory of a device, or pinned memory of the host. False: there is none. */
bool kin_emulator_give(void **out_address, size_t size, bool pinned, int device);
/* False if it was not given so, or was taken back before. */
bool kin_emulator_take_back(void *address, bool pinned, size_t *out_size);
/* What is wrong with work of `device` on `size` bytes, or NULL. */
const char *kin_emulator_range_fault(const void *address, size_t size, int device);
/* Looks at a launch's parameters for addresses into memory that was freed or is another device's;
 * what is wrong, or NULL. */
const char *kin_emulator_words_fault(const void *words, size_t bytes, int device);

/* ---- for libraries that are emulated, too ---- */

/* Queues a function with a copy of its data, like a launch. Returns the table's codes. */
int kin_emulator_queue(void *stream, int (*run)(const void *data), const void *data, size_t size);
/* Counts a call that the library would refuse, and keeps why. Returns a code. */
int kin_emulator_misuse(const char *what);

#ifdef __cplusplus
}
#endif
#endif
