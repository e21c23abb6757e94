/* Loading cuBLASLt: as the dynamic linker finds it, or from the folder of the toolkit that this was
 * built with. */
#include "backends/cuda/blaslt.h"
#include "backends/cuda/library.h"

#include <stddef.h>

#include <cublasLt.h>

#define SAME(a, b) _Static_assert((int)(a) == (int)(b), #a " is " #b)
SAME(KIN_LT_R_32F, CUDA_R_32F);
SAME(KIN_LT_R_16F, CUDA_R_16F);
SAME(KIN_LT_R_16BF, CUDA_R_16BF);
SAME(KIN_LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(KIN_LT_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_32F_FAST_TF32);
SAME(KIN_LT_OP_N, CUBLAS_OP_N);
SAME(KIN_LT_OP_T, CUBLAS_OP_T);
SAME(KIN_LT_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
SAME(KIN_LT_LAYOUT_STRIDED_BATCH_OFFSET, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
SAME(KIN_LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(KIN_LT_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(KIN_LT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(KIN_LT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(KIN_LT_DESC_BIAS_DATA_TYPE, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE);
SAME(KIN_LT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT);
SAME(KIN_LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(KIN_LT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU);
SAME(KIN_LT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS);
SAME(KIN_LT_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(KIN_LT_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(KIN_LT_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(KIN_LT_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(KIN_LT_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(KIN_LT_PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(KIN_LT_REDUCTION_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(sizeof(kin_lt_algo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(kin_lt_heuristic), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(kin_lt_heuristic, workspace),
     offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(kin_lt_heuristic, state), offsetof(cublasLtMatmulHeuristicResult_t, state));

static bool find_all(void *library, kin_lt_functions *out) {
    return kin_library_find(library, "cublasLtCreate", &out->create) &&
           kin_library_find(library, "cublasLtDestroy", &out->destroy) &&
           kin_library_find(library, "cublasLtGetStatusName", &out->status_name) &&
           kin_library_find(library, "cublasLtMatrixLayoutCreate", &out->layout_create) &&
           kin_library_find(library, "cublasLtMatrixLayoutDestroy", &out->layout_destroy) &&
           kin_library_find(library, "cublasLtMatrixLayoutSetAttribute", &out->layout_set) &&
           kin_library_find(library, "cublasLtMatmulDescCreate", &out->desc_create) &&
           kin_library_find(library, "cublasLtMatmulDescDestroy", &out->desc_destroy) &&
           kin_library_find(library, "cublasLtMatmulDescSetAttribute", &out->desc_set) &&
           kin_library_find(library, "cublasLtMatmulPreferenceCreate", &out->preference_create) &&
           kin_library_find(library, "cublasLtMatmulPreferenceDestroy", &out->preference_destroy) &&
           kin_library_find(library, "cublasLtMatmulPreferenceSetAttribute",
                            &out->preference_set) &&
           kin_library_find(library, "cublasLtMatmulAlgoGetHeuristic", &out->heuristic) &&
           kin_library_find(library, "cublasLtMatmul", &out->matmul);
}

bool kin_lt_load(const char *file, kin_lt_functions *out, void **out_library,
                 const char **out_why) {
    static const char *const usual[] = {"libcublasLt.so.13",
                                        KIN_CUDA_LIBRARIES "/libcublasLt.so.13",
                                        "/usr/local/cuda/lib64/libcublasLt.so.13", NULL};
    void *library = kin_library_open(file, usual);
    *out_library = library;
    if (library != NULL && find_all(library, out)) return true;
    *out_why = library != NULL ? "the libcublasLt that was found lacks a function"
                               : "libcublasLt.so.13 was not found (the setting cuda.cublaslt=FILE "
                                 "says where it is)";
    kin_lt_unload(library);
    return false;
}

void kin_lt_unload(void *library) {
    if (library != NULL) (void)dlclose(library);
}
