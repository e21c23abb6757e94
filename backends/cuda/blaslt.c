/* Products by cuBLASLt: what it is asked is put together while recording, with the way that its
 * heuristics choose for the shape. That choice is kept for later products of the same shape. */
#include "backends/cuda/blaslt.h"

#include <string.h>

enum { KEPT_CHOICES = 256 };

typedef struct choice {
    kin_cuda_blaslt_shape shape;
    bool found;
    kin_lt_algo algo;
} choice;

struct kin_cuda_blaslt {
    kin_lt_functions lt;
    void *library, *handle;
    choice choices[KEPT_CHOICES]; /* the oldest makes room */
    size_t choice_count;
};

/* What a step needs to run. */
typedef struct product_step {
    kin_cuda_blaslt *blaslt;
    void *desc, *a_layout, *b_layout, *d_layout;
    kin_lt_algo algo;
    kin_cuda_blaslt_data data;
    size_t workspace_size;
    float alpha, beta;
} product_step;

static kin_status failed(kin_device *device, int code, const char *what) {
    const kin_cuda_blaslt *blaslt = kin_cuda_of(device)->blaslt;
    return kin_fail(device->context, KIN_DEVICE, "%s: cuBLASLt: %s failed: %s (%d)",
                    device->info.name, what, blaslt->lt.status_name(code), code);
}

kin_status kin_cuda_blaslt_open(kin_device *device) {
    kin_cuda_device *state = kin_cuda_of(device);
    const char *which = kin_context_setting(device->context, "cuda.products");
    const char *why = NULL;
    if (which != NULL && strcmp(which, "own") == 0) return KIN_OK;
    if (which != NULL && strcmp(which, "cublaslt") != 0)
        return kin_fail(device->context, KIN_INVALID,
                        "the setting cuda.products=%s is neither cublaslt nor own", which);
    kin_cuda_blaslt *blaslt = kin_calloc(device->context, 1, sizeof *blaslt);
    if (blaslt == NULL) return KIN_OUT_OF_MEMORY;
    if (!kin_lt_load(kin_context_setting(device->context, "cuda.cublaslt"), &blaslt->lt,
                     &blaslt->library, &why)) {
        kin_free(device->context, blaslt);
        kin_log(device->context, KIN_LOG_WARN,
                "%s: products run by Kinora's own plain kernels, which are slow: %s",
                device->info.name, why);
        return KIN_OK;
    }
    state->blaslt = blaslt;
    int code = blaslt->lt.create(&blaslt->handle);
    return code == 0 ? KIN_OK : failed(device, code, "opening");
}

void kin_cuda_blaslt_close(kin_device *device) {
    kin_cuda_device *state = kin_cuda_of(device);
    kin_cuda_blaslt *blaslt = state->blaslt;
    if (blaslt == NULL) return;
    if (blaslt->handle != NULL) (void)blaslt->lt.destroy(blaslt->handle);
    kin_lt_unload(blaslt->library);
    kin_free(device->context, blaslt);
    state->blaslt = NULL;
}

/* ---- one product ---- */

static int type_of(kin_dtype dtype) {
    return dtype == KIN_F16 ? KIN_LT_R_16F : dtype == KIN_BF16 ? KIN_LT_R_16BF : KIN_LT_R_32F;
}

static uint32_t alignment_of(const void *address) {
    uintptr_t bits = (uintptr_t)address;
    uint32_t alignment = 1;
    while (alignment < 256 && (bits & alignment) == 0) alignment *= 2;
    return alignment;
}

static int make_layout(const kin_lt_functions *lt, kin_dtype dtype, int64_t rows, int64_t columns,
                       int64_t lead, int64_t batch, int64_t step, void **out) {
    int32_t count = (int32_t)batch;
    int code = lt->layout_create(out, type_of(dtype), (uint64_t)rows, (uint64_t)columns, lead);
    if (code != 0 || batch == 1) return code;
    code = lt->layout_set(*out, KIN_LT_LAYOUT_BATCH_COUNT, &count, sizeof count);
    if (code != 0) return code;
    return lt->layout_set(*out, KIN_LT_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step);
}

static int make_desc(const kin_lt_functions *lt, const kin_cuda_blaslt_shape *s, bool tf32,
                     const void *bias, void **out) {
    const int32_t a = s->a_across ? KIN_LT_OP_T : KIN_LT_OP_N;
    const int32_t b = s->b_across ? KIN_LT_OP_T : KIN_LT_OP_N;
    const int32_t bias_type = type_of(s->result);
    const int32_t epilogue = s->gelu ? (s->bias ? KIN_LT_EPILOGUE_GELU_BIAS : KIN_LT_EPILOGUE_GELU)
                             : s->bias ? KIN_LT_EPILOGUE_BIAS
                                       : KIN_LT_EPILOGUE_DEFAULT;
    const bool fast = tf32 && s->operands == KIN_F32;
    int code = lt->desc_create(out, fast ? KIN_LT_COMPUTE_32F_FAST_TF32 : KIN_LT_COMPUTE_32F,
                               KIN_LT_R_32F);
    if (code == 0) code = lt->desc_set(*out, KIN_LT_DESC_TRANSA, &a, sizeof a);
    if (code == 0) code = lt->desc_set(*out, KIN_LT_DESC_TRANSB, &b, sizeof b);
    if (code == 0 && epilogue != KIN_LT_EPILOGUE_DEFAULT)
        code = lt->desc_set(*out, KIN_LT_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (code != 0 || !s->bias) return code;
    if (code == 0)
        code = lt->desc_set(*out, KIN_LT_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type);
    if (code == 0) code = lt->desc_set(*out, KIN_LT_DESC_BIAS_POINTER, &bias, sizeof bias);
    return code;
}

static void end_product(kin_device *device, void *data) {
    product_step *step = data;
    const kin_lt_functions *lt = &step->blaslt->lt;
    if (step->desc != NULL) (void)lt->desc_destroy(step->desc);
    if (step->a_layout != NULL) (void)lt->layout_destroy(step->a_layout);
    if (step->b_layout != NULL) (void)lt->layout_destroy(step->b_layout);
    if (step->d_layout != NULL) (void)lt->layout_destroy(step->d_layout);
    kin_free(device->context, step);
}

static kin_status run_product(kin_device *device, void *data, void *stream) {
    const product_step *s = data;
    const kin_cuda_blaslt_data *at = &s->data;
    const void *c = at->c != NULL ? at->c : at->d;
    int code = s->blaslt->lt.matmul(
        s->blaslt->handle, s->desc, &s->alpha, at->a, s->a_layout, at->b, s->b_layout, &s->beta, c,
        s->d_layout, at->d, s->d_layout, &s->algo, at->workspace, s->workspace_size, stream);
    return code == 0 ? KIN_OK : failed(device, code, "a product");
}

static int describe(product_step *step, const kin_cuda_blaslt_shape *s, bool tf32,
                    const void *bias) {
    const kin_lt_functions *lt = &step->blaslt->lt;
    int code = make_desc(lt, s, tf32, bias, &step->desc);
    if (code == 0)
        code = make_layout(lt, s->operands, s->a_across ? s->k : s->m, s->a_across ? s->m : s->k,
                           s->a_lead, s->batch, s->a_step, &step->a_layout);
    if (code == 0)
        code = make_layout(lt, s->operands, s->b_across ? s->n : s->k, s->b_across ? s->k : s->n,
                           s->b_lead, s->batch, s->b_step, &step->b_layout);
    if (code == 0)
        code =
            make_layout(lt, s->result, s->m, s->n, s->d_lead, s->batch, s->d_step, &step->d_layout);
    return code;
}

/* ---- the choice ---- */

static int ask(const product_step *step, const kin_cuda_blaslt_shape *s, choice *out) {
    const kin_lt_functions *lt = &step->blaslt->lt;
    /* Splits of the sum are added up by a second kernel, in one order, or not made. */
    const uint32_t scheme = KIN_LT_REDUCTION_COMPUTE_TYPE;
    const uint64_t workspace = s->workspace;
    kin_lt_heuristic found;
    void *preference = NULL;
    int count = 0, code = lt->preference_create(&preference);
    memset(&found, 0, sizeof found);
    if (code != 0) return code;
    code = lt->preference_set(preference, KIN_LT_PREF_MAX_WORKSPACE_BYTES, &workspace,
                              sizeof workspace);
    if (code == 0)
        code = lt->preference_set(preference, KIN_LT_PREF_REDUCTION_SCHEME_MASK, &scheme,
                                  sizeof scheme);
    if (code == 0)
        code = lt->preference_set(preference, KIN_LT_PREF_MIN_ALIGNMENT_A_BYTES, &s->a_alignment,
                                  sizeof s->a_alignment);
    if (code == 0)
        code = lt->preference_set(preference, KIN_LT_PREF_MIN_ALIGNMENT_B_BYTES, &s->b_alignment,
                                  sizeof s->b_alignment);
    if (code == 0)
        code = lt->preference_set(preference, KIN_LT_PREF_MIN_ALIGNMENT_C_BYTES, &s->c_alignment,
                                  sizeof s->c_alignment);
    if (code == 0)
        code = lt->preference_set(preference, KIN_LT_PREF_MIN_ALIGNMENT_D_BYTES, &s->d_alignment,
                                  sizeof s->d_alignment);
    /* An error of the question itself is an answer, too: no way is known for this shape. */
    if (code == 0 &&
        lt->heuristic(step->blaslt->handle, step->desc, step->a_layout, step->b_layout,
                      step->d_layout, step->d_layout, preference, 1, &found, &count) == 0 &&
        count > 0 && found.state == 0 && found.workspace <= s->workspace) {
        out->found = true;
        out->algo = found.algo;
    }
    (void)lt->preference_destroy(preference);
    return code;
}

/* Shapes are made whole by one function (product.c) from zeroed memory, so bytes are compared. */
static kin_status choose(kin_device *device, const product_step *step,
                         const kin_cuda_blaslt_shape *shape, const choice **out) {
    kin_cuda_blaslt *blaslt = step->blaslt;
    size_t kept = blaslt->choice_count < KEPT_CHOICES ? blaslt->choice_count : KEPT_CHOICES;
    for (size_t i = 0; i < kept; i++)
        if (memcmp(&blaslt->choices[i].shape, shape, sizeof *shape) == 0) {
            *out = &blaslt->choices[i];
            return KIN_OK;
        }
    choice *mine = &blaslt->choices[blaslt->choice_count % KEPT_CHOICES];
    memset(mine, 0, sizeof *mine);
    /* Planning asks, too, whatever device was in use before. */
    int code = kin_cuda_of(device)->api->choose(kin_cuda_of(device)->ordinal);
    if (code != 0) return kin_cuda_fail(device, code, "choosing the device");
    code = ask(step, shape, mine);
    if (code != 0) return failed(device, code, "asking for a way");
    memcpy(&mine->shape, shape, sizeof *shape);
    blaslt->choice_count++;
    *out = mine;
    return KIN_OK;
}

kin_status kin_cuda_blaslt_add(kin_device *device, kin_commands *commands,
                               const kin_cuda_blaslt_shape *shape, const kin_cuda_blaslt_data *data,
                               bool *out_taken) {
    kin_cuda_device *state = kin_cuda_of(device);
    kin_cuda_blaslt_shape aligned;
    const choice *chosen = NULL;
    *out_taken = false;
    if (state->blaslt == NULL || shape->batch > INT32_MAX) return KIN_OK;
    memcpy(&aligned, shape, sizeof aligned);
    aligned.a_alignment = alignment_of(data->a);
    aligned.b_alignment = alignment_of(data->b);
    aligned.c_alignment = alignment_of(data->c != NULL ? data->c : data->d);
    aligned.d_alignment = alignment_of(data->d);
    aligned.bias_alignment = shape->bias ? alignment_of(data->bias) : 0;
    product_step *step = kin_calloc(device->context, 1, sizeof *step);
    if (step == NULL) return KIN_OUT_OF_MEMORY;
    *step = (product_step){.blaslt = state->blaslt,
                           .data = *data,
                           .workspace_size = shape->workspace,
                           .alpha = 1,
                           .beta = shape->adds ? 1.0f : 0.0f};
    int code = describe(step, shape, state->tf32, data->bias);
    kin_status status = code == 0 ? choose(device, step, &aligned, &chosen)
                                  : failed(device, code, "describing a product");
    *out_taken = status == KIN_OK && chosen->found;
    if (!*out_taken || commands == NULL) {
        end_product(device, step);
        return status;
    }
    step->algo = chosen->algo;
    return kin_cuda_add_step(device, commands, run_product, end_product, step);
}
