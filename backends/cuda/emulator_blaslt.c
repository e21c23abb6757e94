/* cuBLASLt for cuda-emulated: products by plain loops from exactly what the library would be given,
 * so that tests see whether it was asked for the right thing. What the library would refuse counts
 * as a misuse. */
#include "backends/cuda/blaslt.h"
#include "backends/cuda/emulator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct layout {
    int type;
    uint64_t rows, columns;
    int64_t lead, step;
    int32_t batch;
} layout;

typedef struct desc {
    int32_t a_across, b_across, epilogue, bias_type;
    const void *bias;
} desc;

typedef struct preference {
    uint64_t workspace;
    uint32_t alignment[4];
} preference;

static int lt_create(void **out_handle) {
    *out_handle = malloc(1);
    return *out_handle != NULL ? 0 : 3;
}

static int lt_free(void *object) {
    free(object);
    return 0;
}

static const char *lt_status_name(int status) {
    return status == 3 ? "CUBLAS_STATUS_ALLOC_FAILED" : "CUBLAS_STATUS_INVALID_VALUE";
}

static int layout_create(void **out, int type, uint64_t rows, uint64_t columns, int64_t lead) {
    layout *l = calloc(1, sizeof *l);
    *out = l;
    if (l == NULL) return 3;
    *l = (layout){.type = type, .rows = rows, .columns = columns, .lead = lead, .batch = 1};
    return 0;
}

static int set(void *place, const void *value, size_t size, size_t expected) {
    if (size != expected) return kin_emulator_misuse("an attribute of another size");
    memcpy(place, value, size);
    return 0;
}

static int layout_set(void *of, int attribute, const void *value, size_t size) {
    layout *l = of;
    if (attribute == KIN_LT_LAYOUT_BATCH_COUNT) return set(&l->batch, value, size, sizeof l->batch);
    if (attribute == KIN_LT_LAYOUT_STRIDED_BATCH_OFFSET)
        return set(&l->step, value, size, sizeof l->step);
    return kin_emulator_misuse("an attribute of a layout that is not known");
}

static int desc_create(void **out, int compute, int scale_type) {
    *out = calloc(1, sizeof(desc));
    if (compute != KIN_LT_COMPUTE_32F && compute != KIN_LT_COMPUTE_32F_FAST_TF32)
        return kin_emulator_misuse("a product that is not computed in f32");
    if (scale_type != KIN_LT_R_32F) return kin_emulator_misuse("factors that are not f32");
    return *out != NULL ? 0 : 3;
}

static bool is_epilogue(int32_t epilogue) {
    return epilogue == 0 || epilogue == KIN_LT_EPILOGUE_DEFAULT ||
           epilogue == KIN_LT_EPILOGUE_BIAS || epilogue == KIN_LT_EPILOGUE_GELU ||
           epilogue == KIN_LT_EPILOGUE_GELU_BIAS;
}

static int desc_set(void *of, int attribute, const void *value, size_t size) {
    desc *d = of;
    switch (attribute) {
    case KIN_LT_DESC_TRANSA:
        return set(&d->a_across, value, size, sizeof d->a_across);
    case KIN_LT_DESC_TRANSB:
        return set(&d->b_across, value, size, sizeof d->b_across);
    case KIN_LT_DESC_EPILOGUE:
        if (size == sizeof d->epilogue && !is_epilogue(*(const int32_t *)value))
            return kin_emulator_misuse("an epilogue that is not known");
        return set(&d->epilogue, value, size, sizeof d->epilogue);
    case KIN_LT_DESC_BIAS_POINTER:
        return set(&d->bias, value, size, sizeof d->bias);
    case KIN_LT_DESC_BIAS_DATA_TYPE:
        return set(&d->bias_type, value, size, sizeof d->bias_type);
    default:
        return kin_emulator_misuse("an attribute of a product that is not known");
    }
}

static int preference_create(void **out) {
    *out = calloc(1, sizeof(preference));
    return *out != NULL ? 0 : 3;
}

static int preference_set(void *of, int attribute, const void *value, size_t size) {
    preference *p = of;
    if (attribute == KIN_LT_PREF_MAX_WORKSPACE_BYTES)
        return set(&p->workspace, value, size, sizeof p->workspace);
    if (attribute >= KIN_LT_PREF_MIN_ALIGNMENT_A_BYTES &&
        attribute <= KIN_LT_PREF_MIN_ALIGNMENT_D_BYTES)
        return set(&p->alignment[attribute - KIN_LT_PREF_MIN_ALIGNMENT_A_BYTES], value, size,
                   sizeof p->alignment[0]);
    uint32_t scheme;
    if (attribute == KIN_LT_PREF_REDUCTION_SCHEME_MASK)
        return set(&scheme, value, size, sizeof scheme);
    return kin_emulator_misuse("a preference that is not known");
}

static uint64_t rows_of(const layout *l, int across) {
    return across ? l->columns : l->rows;
}

/* True if the layouts are those of one product that the library has. */
static bool agree(const desc *op, const layout *a, const layout *b, const layout *d) {
    const bool types = a->type == b->type && (d->type == a->type || d->type == KIN_LT_R_32F);
    const uint64_t k = rows_of(a, !op->a_across);
    const bool has_bias = (op->epilogue & KIN_LT_EPILOGUE_BIAS) != 0;
    const layout *all[] = {a, b, d};
    bool fits = types && rows_of(a, op->a_across) == d->rows &&
                rows_of(b, !op->b_across) == d->columns && rows_of(b, op->b_across) == k && k > 0;
    for (int i = 0; i < 3; i++)
        fits = fits && all[i]->lead >= (int64_t)all[i]->rows && all[i]->batch == d->batch;
    if (has_bias) fits = fits && op->bias != NULL && op->bias_type == d->type;
    return fits && d->rows > 0 && d->columns > 0;
}

/* c lies as d does: all that this backend asks for, and always allowed, c being d included. */
static bool same_layout(const layout *c, const layout *d) {
    return c->type == d->type && c->rows == d->rows && c->columns == d->columns &&
           c->lead == d->lead && c->batch == d->batch && c->step == d->step;
}

/* The way found is marked with what it was found for. */
static int heuristic(void *handle, void *op, void *a, void *b, void *c, void *d, void *of,
                     int wanted, kin_lt_heuristic *out, int *out_count) {
    const preference *p = of;
    const layout *result = d;
    *out_count = 0;
    if (handle == NULL || wanted < 1 || !agree(op, a, b, d) || !same_layout(c, d))
        return kin_emulator_misuse("a product whose parts do not go together");
    memset(out, 0, sizeof *out);
    out->algo.data[0] = result->rows;
    out->algo.data[1] = result->columns;
    out->algo.data[2] = p->alignment[0];
    out->algo.data[3] = p->alignment[1];
    out->algo.data[4] = p->alignment[3];
    out->algo.data[5] = p->workspace;
    out->algo.data[6] = p->alignment[2];
    out->algo.data[7] = (uint64_t)((const desc *)op)->epilogue;
    out->workspace = (size_t)p->workspace;
    *out_count = 1;
    return 0;
}

/* ---- running ---- */

typedef struct job {
    desc op;
    layout a, b, d;
    const void *a_data, *b_data, *c_data;
    void *d_data;
    float alpha, beta;
} job;

static kin_dtype dtype_of(int type) {
    return type == KIN_LT_R_16F ? KIN_F16 : type == KIN_LT_R_16BF ? KIN_BF16 : KIN_F32;
}

static double at(const layout *l, const void *data, int across, int32_t batch, uint64_t row,
                 uint64_t column) {
    const uint64_t i = across ? column : row, j = across ? row : column;
    return kin_element_get(data, dtype_of(l->type),
                           batch * l->step + (int64_t)j * l->lead + (int64_t)i);
}

/* The library's form, with tanh. */
static double gelu(double x) {
    return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
}

static int run(const void *data) {
    const job *s = data;
    const uint64_t k_count = rows_of(&s->a, !s->op.a_across);
    for (int32_t batch = 0; batch < s->d.batch; batch++)
        for (uint64_t column = 0; column < s->d.columns; column++)
            for (uint64_t row = 0; row < s->d.rows; row++) {
                const int64_t place =
                    batch * s->d.step + (int64_t)(column * (uint64_t)s->d.lead + row);
                double sum = 0;
                for (uint64_t k = 0; k < k_count; k++)
                    sum += at(&s->a, s->a_data, s->op.a_across, batch, row, k) *
                           at(&s->b, s->b_data, s->op.b_across, batch, k, column);
                sum *= (double)s->alpha;
                if (s->beta != 0)
                    sum += (double)s->beta * kin_element_get(s->c_data, dtype_of(s->d.type), place);
                if (s->op.epilogue & KIN_LT_EPILOGUE_BIAS)
                    sum += kin_element_get(s->op.bias, dtype_of(s->op.bias_type), (int64_t)row);
                if (s->op.epilogue & KIN_LT_EPILOGUE_GELU) sum = gelu(sum);
                kin_element_set(s->d_data, dtype_of(s->d.type), place, sum);
            }
    return 0;
}

static bool is_aligned(const void *address, uint64_t alignment) {
    return alignment > 0 && (uintptr_t)address % alignment == 0;
}

static int matmul(void *handle, void *op, const void *alpha, const void *a, void *a_layout,
                  const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                  void *d, void *d_layout, const kin_lt_algo *algo, void *workspace,
                  size_t workspace_size, void *stream) {
    job s = {.op = *(const desc *)op,
             .a = *(const layout *)a_layout,
             .b = *(const layout *)b_layout,
             .d = *(const layout *)d_layout,
             .a_data = a,
             .b_data = b,
             .c_data = c,
             .d_data = d,
             .alpha = *(const float *)alpha,
             .beta = *(const float *)beta};
    if (handle == NULL || c == NULL || !same_layout(c_layout, d_layout) ||
        !agree(op, a_layout, b_layout, d_layout))
        return kin_emulator_misuse("a product whose parts do not go together");
    if (algo->data[0] != s.d.rows || algo->data[1] != s.d.columns ||
        !is_aligned(a, algo->data[2]) || !is_aligned(b, algo->data[3]) ||
        !is_aligned(d, algo->data[4]) || !is_aligned(c, algo->data[6]) ||
        algo->data[7] != (uint64_t)s.op.epilogue)
        return kin_emulator_misuse("a way that was found for another product");
    if (workspace_size < algo->data[5] || (workspace == NULL && workspace_size > 0))
        return kin_emulator_misuse("less workspace than was planned");
    if (workspace_size > 0) memset(workspace, 0xFF, workspace_size);
    return kin_emulator_queue(stream, run, &s, sizeof s);
}

bool kin_lt_load(const char *file, kin_lt_functions *out, void **out_library,
                 const char **out_why) {
    *out_library = NULL;
    *out_why = "the file is not there";
    if (file != NULL) return false;
    *out = (kin_lt_functions){.create = lt_create,
                              .destroy = lt_free,
                              .status_name = lt_status_name,
                              .layout_create = layout_create,
                              .layout_destroy = lt_free,
                              .layout_set = layout_set,
                              .desc_create = desc_create,
                              .desc_destroy = lt_free,
                              .desc_set = desc_set,
                              .preference_create = preference_create,
                              .preference_destroy = lt_free,
                              .preference_set = preference_set,
                              .heuristic = heuristic,
                              .matmul = matmul};
    return true;
}

void kin_lt_unload(void *library) {
    (void)library;
}
