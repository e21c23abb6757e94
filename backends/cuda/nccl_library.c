/* Loading NCCL: as the dynamic linker finds it, or from the folder of the toolkit that this was
 * built with. */
#include "backends/cuda/library.h"
#include "backends/cuda/nccl.h"

#ifdef KIN_CUDA_NCCL_HEADER /* where it is there, what nccl.h says here is held to it */
#include <nccl.h>

#define SAME(a, b) _Static_assert((int)(a) == (int)(b), #a " is " #b)
SAME(KIN_NCCL_ID_BYTES, NCCL_UNIQUE_ID_BYTES);
SAME(sizeof(kin_nccl_id), sizeof(ncclUniqueId));
SAME(sizeof(int), sizeof(ncclResult_t));
SAME(sizeof(int), sizeof(ncclDataType_t));
SAME(sizeof(int), sizeof(ncclRedOp_t));
SAME(KIN_NCCL_UINT8, ncclUint8);
SAME(KIN_NCCL_FLOAT16, ncclFloat16);
SAME(KIN_NCCL_FLOAT32, ncclFloat32);
SAME(KIN_NCCL_BFLOAT16, ncclBfloat16);
SAME(KIN_NCCL_SUM, ncclSum);
SAME(KIN_NCCL_AVG, ncclAvg);

/* The library's functions have the types that are written here. */
#define TYPE(function, result, ...)                                                                \
    _Static_assert(_Generic(&function, result(*)(__VA_ARGS__) : 1, default : 0), #function)
TYPE(ncclGetVersion, ncclResult_t, int *);
TYPE(ncclGetUniqueId, ncclResult_t, ncclUniqueId *);
TYPE(ncclCommInitRank, ncclResult_t, ncclComm_t *, int, ncclUniqueId, int);
TYPE(ncclCommDestroy, ncclResult_t, ncclComm_t);
TYPE(ncclAllReduce, ncclResult_t, const void *, void *, size_t, ncclDataType_t, ncclRedOp_t,
     ncclComm_t, cudaStream_t);
TYPE(ncclBroadcast, ncclResult_t, const void *, void *, size_t, ncclDataType_t, int, ncclComm_t,
     cudaStream_t);
TYPE(ncclGroupStart, ncclResult_t, void);
TYPE(ncclGroupEnd, ncclResult_t, void);
TYPE(ncclGetErrorString, const char *, ncclResult_t);
#endif

static bool find_all(void *library, kin_nccl_functions *out) {
    return kin_library_find(library, "ncclGetVersion", &out->version) &&
           kin_library_find(library, "ncclGetUniqueId", &out->unique_id) &&
           kin_library_find(library, "ncclCommInitRank", &out->init_rank) &&
           kin_library_find(library, "ncclCommDestroy", &out->destroy) &&
           kin_library_find(library, "ncclAllReduce", &out->all_reduce) &&
           kin_library_find(library, "ncclBroadcast", &out->broadcast) &&
           kin_library_find(library, "ncclGroupStart", &out->group_start) &&
           kin_library_find(library, "ncclGroupEnd", &out->group_end) &&
           kin_library_find(library, "ncclGetErrorString", &out->error_string);
}

bool kin_nccl_load(const char *file, kin_nccl_functions *out, void **out_library,
                   const char **out_why) {
    static const char *const usual[] = {"libnccl.so.2", KIN_CUDA_LIBRARIES "/libnccl.so.2", NULL};
    void *library = kin_library_open(file, usual);
    *out_library = library;
    if (library != NULL && find_all(library, out)) return true;
    *out_why = library != NULL
                   ? "the NCCL that was found lacks a function"
                   : "libnccl.so.2 was not found (the setting cuda.nccl=FILE says where "
                     "it is)";
    kin_nccl_unload(library);
    *out_library = NULL;
    return false;
}

void kin_nccl_unload(void *library) {
    if (library != NULL) (void)dlclose(library);
}
