/* Kernels of matmul and linear, plain and fused: our own products (gemm.h), or OpenBLAS where that
 * is faster. */
#include "backends/cpu/cpu.h"
#include "backends/cpu/gemm.h"
#include "ops/product_attrs.h"

#include <limits.h>
#include <string.h>

#ifdef KIN_HAVE_OPENBLAS
#include <cblas.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#endif

enum { PARALLEL_PRODUCT = 64 * 64 * 64 }; /* fewer multiplications: one thread */

static bool is_operand(const kin_operand *operand, bool may_be_q8_0) {
    const kin_desc *desc = &operand->desc;
    if (desc->dtype != KIN_Q8_0) return cpu_is_real(desc->dtype);
    return may_be_q8_0 && desc->rank >= 2 && desc->strides[desc->rank - 1] == 1 &&
           desc->dims[desc->rank - 1] % 32 == 0;
}

static int threads_for(const kin_device *device, const cpu_gemm_call *gemm) {
    double work = (double)gemm->m * (double)gemm->n * (double)gemm->k;
    return work < PARALLEL_PRODUCT ? 1 : cpu_threads(device);
}

/* ---- epilogues ---- */

/* Where operand `input` of a fused product has its rows; the result has the shape `out`. */
static cpu_row_operand row_operand(const kin_operand *operand, const kin_desc *out) {
    const kin_desc *desc = &operand->desc;
    cpu_row_operand rows = {.data = cpu_data(operand), .dtype = desc->dtype};
    for (int axis = out->rank - 1; axis >= 0; axis--) {
        const int own = axis - (out->rank - desc->rank);
        const int64_t stride = own < 0 || desc->dims[own] == 1 ? 0 : desc->strides[own];
        if (axis == out->rank - 1) {
            rows.column_stride = stride;
            continue;
        }
        if (out->dims[axis] == 1) continue;
        const int last = rows.rank - 1;
        if (last >= 0 && stride == rows.strides[last] * rows.dims[last]) {
            rows.dims[last] *= out->dims[axis];
            continue;
        }
        rows.dims[rows.rank] = out->dims[axis];
        rows.strides[rows.rank++] = stride;
    }
    return rows;
}

/* Of a fused call, whose residual and gate are inputs `first` and the one behind it. */
static cpu_epilogue epilogue_of(const kin_call *call, int first) {
    const kin_product_attrs *attrs = call->attrs;
    cpu_epilogue epilogue = {.activation = attrs->activation,
                             .has_residual = !cpu_is_absent(&call->in[first]),
                             .has_gate = !cpu_is_absent(&call->in[first + 1])};
    if (epilogue.has_residual)
        epilogue.residual = row_operand(&call->in[first], &call->out[0].desc);
    if (epilogue.has_gate) epilogue.gate = row_operand(&call->in[first + 1], &call->out[0].desc);
    return epilogue;
}

static bool can_finish(const kin_call *call, int first) {
    const kin_product_attrs *attrs = call->attrs;
    for (int i = first; i < first + 2; i++)
        if (!cpu_is_absent(&call->in[i]) && !cpu_is_real(call->in[i].desc.dtype)) return false;
    return attrs->activation >= 0 && attrs->activation < KIN_ACTIVATION_COUNT;
}

/* ---- OpenBLAS ---- */

#ifdef KIN_HAVE_OPENBLAS

/* True if the matrix can be handed over: 1 in one direction, and no overlap in the other. */
static bool blas_takes(const cpu_matrix *matrix, int64_t rows, int64_t columns) {
    if (matrix->dtype != KIN_F32) return false;
    if (matrix->column_stride == 1 && matrix->row_stride >= columns)
        return matrix->row_stride <= INT_MAX;
    return matrix->row_stride == 1 && matrix->column_stride >= rows &&
           matrix->column_stride <= INT_MAX;
}

/* With AVX-512 the products are our own: 1.4 to 1.9 times OpenBLAS where it does not know the
 * processor and uses AVX2, 0.72 to 1.03 of it where it does (docs/benchmarks.md). Elsewhere
 * OpenBLAS is left out for few rows and for short sums. */
static bool use_blas(const cpu_gemm_call *gemm) {
    if (cpu_isa() == CPU_ISA_AVX512 || gemm->c_dtype != KIN_F32) return false;
    if (gemm->m < 16 || gemm->n < 16 || gemm->k < 16) return false;
    if (gemm->m > INT_MAX || gemm->n > INT_MAX || gemm->k > INT_MAX) return false;
    double work = (double)gemm->m * (double)gemm->n * (double)gemm->k;
    return work >= 8.0 * PARALLEL_PRODUCT && gemm->c_stride <= INT_MAX &&
           blas_takes(&gemm->a, gemm->m, gemm->k) && blas_takes(&gemm->b, gemm->k, gemm->n);
}

static void run_blas(const cpu_gemm_call *gemm, int threads) {
    float beta = 0;
    float *c = gemm->c;
    if (gemm->bias != NULL) {
        beta = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t i = 0; i < gemm->m; i++)
            kin_convert(gemm->bias, gemm->bias_dtype, c + i * gemm->c_stride, KIN_F32, gemm->n);
    }
    const bool a_plain = gemm->a.column_stride == 1 && gemm->a.row_stride >= gemm->k;
    const bool b_plain = gemm->b.column_stride == 1 && gemm->b.row_stride >= gemm->n;
#ifdef _OPENMP
    const int before = omp_get_max_threads();
    if (before != threads) omp_set_num_threads(threads);
#endif
    cblas_sgemm(CblasRowMajor, a_plain ? CblasNoTrans : CblasTrans,
                b_plain ? CblasNoTrans : CblasTrans, (int)gemm->m, (int)gemm->n, (int)gemm->k, 1.0f,
                gemm->a.data, (int)(a_plain ? gemm->a.row_stride : gemm->a.column_stride),
                gemm->b.data, (int)(b_plain ? gemm->b.row_stride : gemm->b.column_stride), beta, c,
                (int)gemm->c_stride);
#ifdef _OPENMP
    if (before != threads) omp_set_num_threads(before);
#endif
    CPU_PICK(cpu_gemm).finish(gemm, threads);
}

#else

static bool use_blas(const cpu_gemm_call *gemm) {
    (void)gemm;
    return false;
}

static void run_blas(const cpu_gemm_call *gemm, int threads) {
    (void)gemm, (void)threads;
}

#endif

static void run_product(const kin_device *device, const cpu_gemm_call *gemm, void *scratch) {
    if (use_blas(gemm)) run_blas(gemm, cpu_threads(device));
    else CPU_PICK(cpu_gemm).run(gemm, scratch, threads_for(device, gemm));
}

static size_t scratch_for(const kin_device *device, const cpu_gemm_call *gemm) {
    size_t one = CPU_PICK(cpu_gemm).scratch(gemm->m, gemm->n, gemm->k);
    return one * (size_t)cpu_threads(device);
}

/* ---- linear ---- */

/* Leading axes that can be counted through with one stride: the rows of x. */
static bool rows_of(const kin_desc *x, int64_t *out_rows, int64_t *out_stride) {
    *out_rows = 1;
    *out_stride = x->rank > 0 ? x->dims[x->rank - 1] : 1;
    for (int axis = x->rank - 2; axis >= 0; axis--) {
        if (x->dims[axis] == 1) continue;
        if (*out_rows == 1) *out_stride = x->strides[axis];
        else if (x->strides[axis] != *out_rows * *out_stride) return false;
        *out_rows *= x->dims[axis];
    }
    return true;
}

static bool can_linear(const kin_device *device, const kin_call *call) {
    (void)device;
    int64_t rows, stride;
    if (!is_operand(&call->in[0], false) || !is_operand(&call->in[1], true)) return false;
    if (!cpu_is_absent(&call->in[2]) && !is_operand(&call->in[2], false)) return false;
    return cpu_is_real(call->out[0].desc.dtype) && rows_of(&call->in[0].desc, &rows, &stride);
}

static cpu_gemm_call linear_gemm(const kin_call *call) {
    const kin_desc *x = &call->in[0].desc, *w = &call->in[1].desc;
    cpu_gemm_call gemm = {.n = w->dims[0], .k = w->dims[1]};
    int64_t row_stride;
    rows_of(x, &gemm.m, &row_stride);
    gemm.a = (cpu_matrix){cpu_data(&call->in[0]), x->dtype, row_stride, x->strides[x->rank - 1]};
    gemm.b = (cpu_matrix){cpu_data(&call->in[1]), w->dtype, w->strides[1], w->strides[0]};
    gemm.c = cpu_data(&call->out[0]);
    gemm.c_dtype = call->out[0].desc.dtype;
    gemm.c_stride = gemm.n;
    gemm.bias = cpu_data(&call->in[2]);
    gemm.bias_dtype = call->in[2].desc.dtype;
    return gemm;
}

static size_t linear_scratch(const kin_device *device, const kin_call *call) {
    const cpu_gemm_call gemm = linear_gemm(call);
    return scratch_for(device, &gemm);
}

static kin_status launch_linear(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    const cpu_gemm_call gemm = linear_gemm(call);
    run_product(device, &gemm, cpu_scratch(call));
    return KIN_OK;
}

static bool can_linear_fused(const kin_device *device, const kin_call *call) {
    return can_linear(device, call) && can_finish(call, 3);
}

/* OpenBLAS writes the product before the residual is read. */
static bool can_linear_in_place(const kin_device *device, const kin_call *call) {
    if (!can_linear_fused(device, call)) return false;
    const cpu_gemm_call gemm = linear_gemm(call);
    return !use_blas(&gemm);
}

static kin_status launch_linear_fused(kin_device *device, kin_commands *commands,
                                      const kin_call *call) {
    (void)commands;
    const cpu_epilogue epilogue = epilogue_of(call, 3);
    cpu_gemm_call gemm = linear_gemm(call);
    gemm.epilogue = &epilogue;
    run_product(device, &gemm, cpu_scratch(call));
    return KIN_OK;
}

/* ---- matmul ---- */

static bool can_matmul(const kin_device *device, const kin_call *call) {
    (void)device;
    return is_operand(&call->in[0], false) && is_operand(&call->in[1], true) &&
           cpu_is_real(call->out[0].desc.dtype);
}

/* The products of a batch: one gemm, and the strides of its operands per leading axis. */
typedef struct batch {
    cpu_gemm_call gemm;
    int rank;
    int64_t dims[KIN_MAX_RANK], a_strides[KIN_MAX_RANK], b_strides[KIN_MAX_RANK];
    int64_t count;
} batch;

static int64_t leading_stride(const kin_desc *desc, const kin_desc *out, int axis) {
    int own = axis - (out->rank - desc->rank);
    return own < 0 || desc->dims[own] == 1 ? 0 : desc->strides[own];
}

static cpu_matrix matrix_of(const kin_operand *operand) {
    const kin_desc *desc = &operand->desc;
    return (cpu_matrix){cpu_data(operand), desc->dtype, desc->strides[desc->rank - 2],
                        desc->strides[desc->rank - 1]};
}

/* A fused product's result may have another shape, of the same rows. */
static kin_desc product_shape(const kin_call *call) {
    const kin_desc *a = &call->in[0].desc, *b = &call->in[1].desc;
    const int rank = a->rank > b->rank ? a->rank : b->rank;
    kin_desc shape = {.dtype = call->out[0].desc.dtype, .rank = rank};
    for (int axis = 0; axis < rank - 2; axis++) {
        const int in_a = axis - (rank - a->rank), in_b = axis - (rank - b->rank);
        const int64_t from_a = in_a < 0 ? 1 : a->dims[in_a], from_b = in_b < 0 ? 1 : b->dims[in_b];
        shape.dims[axis] = from_a == 1 ? from_b : from_a;
    }
    shape.dims[rank - 2] = a->dims[a->rank - 2];
    shape.dims[rank - 1] = b->dims[b->rank - 1];
    return shape;
}

static batch matmul_batch(const kin_call *call) {
    const kin_desc *a = &call->in[0].desc, *b = &call->in[1].desc;
    const kin_desc shape = product_shape(call), *out = &shape;
    batch all = {.count = 1};
    all.gemm = (cpu_gemm_call){.m = out->dims[out->rank - 2],
                               .n = out->dims[out->rank - 1],
                               .k = a->dims[a->rank - 1],
                               .a = matrix_of(&call->in[0]),
                               .b = matrix_of(&call->in[1]),
                               .c = cpu_data(&call->out[0]),
                               .c_dtype = out->dtype,
                               .c_stride = out->dims[out->rank - 1]};
    for (int axis = out->rank - 3; axis >= 0; axis--) {
        int64_t dim = out->dims[axis];
        int64_t a_stride = leading_stride(a, out, axis), b_stride = leading_stride(b, out, axis);
        if (dim == 1) continue;
        /* One b for many a that follow one another: one taller product. */
        if (all.rank == 0 && b_stride == 0 && a_stride == all.gemm.m * all.gemm.a.row_stride) {
            all.gemm.m *= dim;
            continue;
        }
        all.dims[all.rank] = dim;
        all.a_strides[all.rank] = a_stride;
        all.b_strides[all.rank++] = b_stride;
        all.count *= dim;
    }
    return all;
}

static const void *moved(const cpu_matrix *matrix, int64_t elements) {
    const unsigned char *base = matrix->data;
    if (matrix->dtype == KIN_Q8_0) return base + elements / 32 * 34;
    return base + elements * (int64_t)kin_dtype_size(matrix->dtype);
}

/* Product `index` of the batch; axes lie in the order last to first. */
static cpu_gemm_call product_at(const batch *all, int64_t index) {
    cpu_gemm_call gemm = all->gemm;
    const int64_t first_row = index * gemm.m;
    int64_t a = 0, b = 0, c = first_row * gemm.c_stride;
    for (int i = 0; i < all->rank; i++) {
        a += index % all->dims[i] * all->a_strides[i];
        b += index % all->dims[i] * all->b_strides[i];
        index /= all->dims[i];
    }
    gemm.a.data = moved(&all->gemm.a, a);
    gemm.b.data = moved(&all->gemm.b, b);
    gemm.c = (unsigned char *)gemm.c + c * (int64_t)kin_dtype_size(gemm.c_dtype);
    gemm.first_row = first_row;
    return gemm;
}

static size_t matmul_scratch(const kin_device *device, const kin_call *call) {
    const batch all = matmul_batch(call);
    return scratch_for(device, &all.gemm);
}

/* Many small products run side by side, each on one thread; large ones one after the other. */
static kin_status run_batch(kin_device *device, const kin_call *call,
                            const cpu_epilogue *epilogue) {
    batch all = matmul_batch(call);
    all.gemm.epilogue = epilogue;
    if (kin_desc_count(&call->out[0].desc) == 0) return KIN_OK;
    unsigned char *scratch = cpu_scratch(call);
    const int threads = cpu_threads(device);
    const double work = (double)all.gemm.m * (double)all.gemm.n * (double)all.gemm.k;
    if (all.count < 2 * threads || work * (double)all.count < PARALLEL_PRODUCT ||
        use_blas(&all.gemm)) {
        for (int64_t i = 0; i < all.count; i++) {
            const cpu_gemm_call gemm = product_at(&all, i);
            run_product(device, &gemm, scratch);
        }
        return KIN_OK;
    }
    const cpu_gemm_table *table = &CPU_PICK(cpu_gemm);
    const size_t part = table->scratch(all.gemm.m, all.gemm.n, all.gemm.k);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t last = all.count * (thread + 1) / threads;
        for (int64_t i = all.count * thread / threads; i < last; i++) {
            const cpu_gemm_call gemm = product_at(&all, i);
            table->run(&gemm, scratch + part * (size_t)thread, 1);
        }
    }
    return KIN_OK;
}

static kin_status launch_matmul(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    return run_batch(device, call, NULL);
}

static bool can_matmul_fused(const kin_device *device, const kin_call *call) {
    return can_matmul(device, call) && can_finish(call, 2);
}

static bool can_matmul_in_place(const kin_device *device, const kin_call *call) {
    if (!can_matmul_fused(device, call)) return false;
    const batch all = matmul_batch(call);
    return !use_blas(&all.gemm);
}

static kin_status launch_matmul_fused(kin_device *device, kin_commands *commands,
                                      const kin_call *call) {
    (void)commands;
    const cpu_epilogue epilogue = epilogue_of(call, 2);
    return run_batch(device, call, &epilogue);
}

const kin_kernel cpu_matmul_kernels[] = {
    {"linear_fused", "cpu_linear_fused", 27, 1 << 3, can_linear_in_place, linear_scratch,
     launch_linear_fused},
    {"linear_fused", "cpu_linear_fused", 27, 0, can_linear_fused, linear_scratch,
     launch_linear_fused},
    {"matmul_fused", "cpu_matmul_fused", 15, 1 << 2, can_matmul_in_place, matmul_scratch,
     launch_matmul_fused},
    {"matmul_fused", "cpu_matmul_fused", 15, 0, can_matmul_fused, matmul_scratch,
     launch_matmul_fused},
    {"linear", "cpu_linear", 3, 0, can_linear, linear_scratch, launch_linear},
    {"matmul", "cpu_matmul", 3, 0, can_matmul, matmul_scratch, launch_matmul},
    {0},
};
