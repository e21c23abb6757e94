/* Sums between GPUs of several processes by NCCL, which is loaded when a device is to join a group.
 * The declarations are those of NCCL 2.10 and later, whose binary interface has not changed since:
 * https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html */
#ifndef KIN_BACKENDS_CUDA_NCCL_H
#define KIN_BACKENDS_CUDA_NCCL_H

#include "backends/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    KIN_NCCL_ID_BYTES = 128,
    KIN_NCCL_OLDEST = 21000, /* 2.10.0, the first with averages */
    KIN_NCCL_UINT8 = 1,
    KIN_NCCL_FLOAT16 = 6,
    KIN_NCCL_FLOAT32 = 7,
    KIN_NCCL_BFLOAT16 = 9,
    KIN_NCCL_SUM = 0,
    KIN_NCCL_AVG = 4
};

/* Passed by value, as ncclUniqueId is. */
typedef struct kin_nccl_id {
    char internal[KIN_NCCL_ID_BYTES];
} kin_nccl_id;

/* Results are ncclResult_t: 0 is success. comm is an ncclComm_t. */
typedef struct kin_nccl_functions {
    int (*version)(int *out_version);
    int (*unique_id)(kin_nccl_id *out_id);
    int (*init_rank)(void **out_comm, int count, kin_nccl_id id, int rank);
    int (*destroy)(void *comm);
    int (*all_reduce)(const void *send, void *receive, size_t count, int type, int op, void *comm,
                      void *stream);
    int (*broadcast)(const void *send, void *receive, size_t count, int type, int root, void *comm,
                     void *stream);
    int (*group_start)(void);
    int (*group_end)(void);
    const char *(*error_string)(int code);
} kin_nccl_functions;

/* Loads the functions (nccl_library.c, or emulator_nccl.c): file may be NULL for the usual one.
 * False if they are not to be had, with why. *out_library is what kin_nccl_unload takes. */
bool kin_nccl_load(const char *file, kin_nccl_functions *out, void **out_library,
                   const char **out_why);
void kin_nccl_unload(void *library);

#ifdef __cplusplus
}
#endif
#endif
