/* The start of a small STDiT. */
#include "models/stdit_start.h"

#include "runtime/philox.h"

#include <math.h>
#include <stdio.h>

#define KEY_GAIN 1.5f
#define VALUE_GAIN 2.0f
#define CAPTION_GAIN 3.0f

/* One edit in progress: the first failure sticks. */
typedef struct editor {
    kin_store *store;
    const char *prefix;
    uint64_t seed;
    uint32_t stream; /* of the next tensor */
    kin_status status;
} editor;

/* The values of a tensor in fresh memory, or NULL. */
static float *fetch(editor *e, const char *name, const kin_desc **out_desc, char full[256]) {
    kin_context *context = kin_store_device(e->store)->context;
    if (e->status != KIN_OK) return NULL;
    snprintf(full, 256, "%s.%s", e->prefix, name);
    kin_store_entry *entry = kin_store_find(e->store, full);
    if (!entry) {
        e->status = kin_fail(context, KIN_NOT_FOUND, "the store has no tensor \"%s\"", full);
        return NULL;
    }
    *out_desc = &entry->desc;
    float *values = kin_alloc(context, (size_t)kin_desc_count(&entry->desc) * sizeof *values);
    e->status = values ? kin_store_read(e->store, full, KIN_F32, values) : KIN_OUT_OF_MEMORY;
    return values;
}

static void put(editor *e, const char *full, float *values) {
    if (e->status == KIN_OK) e->status = kin_store_write(e->store, full, KIN_F32, values);
    kin_free(kin_store_device(e->store)->context, values);
}

/* A weight [out, in]: uniform in +-sqrt(6 / (in + out)). */
static void xavier(editor *e, const char *name) {
    const kin_desc *desc = NULL;
    char full[256];
    float *values = fetch(e, name, &desc, full);
    if (e->status == KIN_OK) {
        size_t count = (size_t)kin_desc_count(desc);
        float bound = (float)sqrt(6.0 / (double)(desc->dims[0] + desc->dims[1]));
        kin_philox_fill_uniform(e->seed, e->stream++, 0, 0, count, values);
        for (size_t i = 0; i < count; i++) values[i] = (2 * values[i] - 1) * bound;
    }
    put(e, full, values);
}

/* Rows 2 and 5 of [6, C]: the gates of attention and MLP. */
static void open_gates(editor *e, const char *name) {
    const kin_desc *desc = NULL;
    char full[256];
    float *values = fetch(e, name, &desc, full);
    for (int64_t c = 0; e->status == KIN_OK && c < desc->dims[1]; c++) {
        values[2 * desc->dims[1] + c] += 1;
        values[5 * desc->dims[1] + c] += 1;
    }
    put(e, full, values);
}

/* qkv [3C, C]: keys are the queries, so that a frame looks at itself; values are larger. */
static void look_at_oneself(editor *e, const char *name) {
    const kin_desc *desc = NULL;
    char full[256];
    float *values = fetch(e, name, &desc, full);
    size_t square = e->status == KIN_OK ? (size_t)(desc->dims[1] * desc->dims[1]) : 0;
    for (size_t i = 0; i < square; i++) {
        values[i] *= KEY_GAIN;
        values[square + i] = values[i];
        values[2 * square + i] *= VALUE_GAIN;
    }
    put(e, full, values);
}

static void scale(editor *e, const char *name, float factor) {
    const kin_desc *desc = NULL;
    char full[256];
    float *values = fetch(e, name, &desc, full);
    size_t count = e->status == KIN_OK ? (size_t)kin_desc_count(desc) : 0;
    for (size_t i = 0; i < count; i++) values[i] *= factor;
    put(e, full, values);
}

kin_status kin_stdit_start_from_nothing(kin_store *store, const char *prefix,
                                        const kin_stdit_config *config, uint64_t seed) {
    static const char *const shared[] = {"t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight",
                                         "y_embedder.y_proj.fc1.weight",
                                         "y_embedder.y_proj.fc2.weight"};
    static const char *const in_block[] = {"attn_temp.proj.weight", "cross_attn.proj.weight"};
    editor e = {store, prefix, seed, 0x53544152, KIN_OK};
    char name[128];
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) xavier(&e, shared[i]);
    for (int b = 0; b < config->depth; b++) {
        for (size_t i = 0; i < sizeof in_block / sizeof *in_block; i++) {
            snprintf(name, sizeof name, "blocks.%d.%s", b, in_block[i]);
            xavier(&e, name);
        }
        snprintf(name, sizeof name, "blocks.%d.scale_shift_table", b);
        open_gates(&e, name);
    }
    look_at_oneself(&e, "blocks.0.attn_temp.qkv.weight");
    scale(&e, "y_embedder.y_proj.fc2.weight", CAPTION_GAIN);
    return e.status;
}
