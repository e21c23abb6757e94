/* What the tests of systems share: small models written with the names, forms and shapes of the
 * published files. */
#ifndef KIN_TESTS_SYSTEM_HELPER_H
#define KIN_TESTS_SYSTEM_HELPER_H

#include "tests/runtime_support.h"

#include <math.h>
#include <sys/stat.h>

#include "runtime/pickle_write.h"
#include "runtime/safetensors.h"
#include "runtime/tokenizer.h"
#include "runtime/weights.h"
#include "tools/system/model_folder.h"
#include "tools/system/system_internal.h"

/* Sizes that heads can be told from where a file tells: width 128 is two heads of 64. */
enum { WIDTH = 128, HEADS = 2, CAPTION = 24, DEPTH = 2, MAX_TENSORS = 1024, MAX_PATHS = 4096 };

static char *folder; /* of one test */
static char *paths[MAX_PATHS];
static size_t path_count;
static kin_context *context;

static inline int setup(void **state) {
    (void)state;
    folder = make_folder();
    return kin_context_create(NULL, &context) == KIN_OK ? 0 : -1;
}

static inline int teardown(void **state) {
    (void)state;
    char command[256];
    kin_context_destroy(context);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    int code = system(command);
    free(folder);
    while (path_count > 0) free(paths[--path_count]);
    return code;
}

/* A path in a folder, valid to the end of the test. */
static inline const char *inside_of(const char *parent, const char *name) {
    size_t size = strlen(parent) + strlen(name) + 2;
    assert_true(path_count < MAX_PATHS);
    char *path = paths[path_count++] = malloc(size);
    assert_non_null(path);
    snprintf(path, size, "%s/%s", parent, name);
    return path;
}

static inline const char *in(const char *name) {
    return inside_of(folder, name);
}

static inline void must(kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(context));
}

/* ---- models to write --------------------------------------------------------------------------
 */

static inline kin_model_choice denoiser_of(kin_denoiser_kind kind) {
    kin_model_choice m = {.kind = KIN_MODEL_DENOISER,
                          .denoiser = {.kind = kind,
                                       .stdit = kin_stdit_config_default(),
                                       .stdit2 = kin_stdit2_config_default(),
                                       .pixart = kin_latte_config_default(),
                                       .opensora_plan = kin_opensora_plan_config_default()}};
    kin_stdit_config *both[] = {&m.denoiser.stdit, &m.denoiser.stdit2.common};
    for (int i = 0; i < 2; i++) {
        both[i]->hidden_size = i ? 192 : WIDTH; /* STDiT2's is a multiple of 3 */
        both[i]->num_heads = i ? 3 : HEADS;
        both[i]->depth = DEPTH;
        both[i]->caption_channels = CAPTION;
        both[i]->model_max_length = 7;
    }
    m.denoiser.stdit2.qk_norm = true;
    m.denoiser.stdit2.input_sq_size = 512;
    kin_pixart_config *pixart = &m.denoiser.pixart;
    if (kind == KIN_DENOISER_PIXART) *pixart = kin_pixart_config_default();
    pixart->num_attention_heads = HEADS;
    pixart->attention_head_dim = WIDTH / HEADS;
    pixart->num_layers = DEPTH;
    pixart->caption_channels = CAPTION;
    must(kin_opensora_plan_config_named(context, "OpenSoraT2V-ROPE-L/122-480p",
                                        &m.denoiser.opensora_plan));
    m.denoiser.opensora_plan.num_attention_heads = 1;
    m.denoiser.opensora_plan.num_layers = DEPTH;
    m.denoiser.opensora_plan.caption_channels = CAPTION;
    return m;
}

static inline kin_model_choice vae_of(kin_vae_kind kind) {
    kin_model_choice m = {.kind = KIN_MODEL_VAE,
                          .vae = {.kind = kind,
                                  .sd = kin_sd_vae_config_default(),
                                  .causal = kin_causal_vae_config_default()}};
    must(kin_causal_vae_config_named(context, "causal-vae-1.2", &m.vae.causal));
    m.vae.sd.levels = 2;
    m.vae.sd.block_out_channels[0] = 32;
    m.vae.sd.block_out_channels[1] = 64;
    m.vae.sd.layers_per_block = 1;
    m.vae.causal.hidden_size = 32;
    for (int i = 0; i < 4; i++) m.vae.causal.hidden_size_mult[i] = 1 + i / 2;
    m.vae.causal.num_res_blocks = 1;
    return m;
}

static inline kin_model_choice t5_of(void) {
    return (kin_model_choice){.kind = KIN_MODEL_T5,
                              .t5 = {.vocab_size = 64,
                                     .d_model = CAPTION,
                                     .num_heads = 3,
                                     .d_kv = 4,
                                     .d_ff = 40,
                                     .num_layers = 2,
                                     .gated = true,
                                     .layer_norm_epsilon = 1e-6,
                                     .relative_attention_num_buckets = 32,
                                     .relative_attention_max_distance = 128,
                                     .initializer_factor = 1}};
}

/* ---- writing them -----------------------------------------------------------------------------
 */

/* Renames a variable for a file; false: it is not in it. parts: so many of it make the tensor. */
typedef bool (*file_name)(const char *variable, char *out, size_t size, int *out_parts);

typedef struct listed {
    kin_named_tensor tensors[MAX_TENSORS];
    size_t count;
} listed;

static inline void list_free(listed *list) {
    for (size_t i = 0; i < list->count; i++) {
        free((void *)list->tensors[i].name);
        free((void *)list->tensors[i].data);
    }
    free(list);
}

/* All variables of a model, zero. */
static inline listed *list_model(const kin_model_choice *model, file_name rename,
                                 const char *prefix) {
    listed *list = calloc(1, sizeof *list);
    kin_graph *graph;
    must(kin_graph_create(context, &graph));
    kin_model_append_any(graph, model);
    must(kin_graph_status(graph));
    for (int i = 0; i < kin_variable_count(graph); i++) {
        kin_tensor variable = kin_variable_at(graph, i);
        const char *own = kin_variable_name(graph, variable);
        char name[512], full[600];
        int parts = 1;
        snprintf(name, sizeof name, "%s", own);
        if (rename && !rename(own, name, sizeof name, &parts)) continue;
        snprintf(full, sizeof full, "%s%s", prefix ? prefix : "", name);
        kin_desc desc = *kin_tensor_desc(graph, variable);
        desc.dims[0] *= parts;
        assert_true(list->count < MAX_TENSORS);
        kin_named_tensor *tensor = &list->tensors[list->count++];
        *tensor = (kin_named_tensor){.name = strdup(full),
                                     .desc = kin_desc_dense(KIN_F32, desc.rank, desc.dims)};
        tensor->data = calloc(1, kin_desc_bytes(&tensor->desc) + 1);
    }
    kin_graph_destroy(graph);
    return list;
}

static inline void make_folder_of(const char *path) {
    char *parent = kin_path_folder(context, path);
    must(kin_make_folders(context, parent));
    kin_free(context, parent);
}

static inline void write_safetensors(const kin_model_choice *model, const char *path,
                                     file_name rename, const char *prefix) {
    listed *list = list_model(model, rename, prefix);
    make_folder_of(path);
    must(kin_safetensors_write(context, path, list->tensors, list->count, NULL, 0, NULL, NULL));
    list_free(list);
}

/* A pickle with the tensors at one or two places, such as "ema". */
static inline void write_pickle(const kin_model_choice *model, const char *path, file_name rename,
                                const kin_pickle_place *places, size_t place_count) {
    listed *list = list_model(model, rename, NULL);
    kin_pickle_layout layout = {.places = places, .place_count = place_count};
    make_folder_of(path);
    must(kin_pickle_write(context, path, list->tensors, list->count, &layout, NULL, NULL));
    list_free(list);
}

/* The tensors over two shards of pickles or safetensors with their index. */
static inline void write_shards(const kin_model_choice *model, const char *inside, const char *stem,
                                const char *ending) {
    listed *list = list_model(model, NULL, NULL);
    json_t *map = json_object();
    char name[300], path[600];
    must(kin_make_folders(context, inside));
    size_t half = list->count / 2;
    for (int shard = 0; shard < 2; shard++) {
        size_t first = shard ? half : 0, count = shard ? list->count - half : half;
        snprintf(name, sizeof name, "%s-0000%d-of-00002%s", stem, shard + 1, ending);
        snprintf(path, sizeof path, "%s/%s", inside, name);
        for (size_t i = first; i < first + count; i++)
            json_object_set_new(map, list->tensors[i].name, json_string(name));
        if (strcmp(ending, ".bin") == 0)
            must(kin_pickle_write(context, path, list->tensors + first, count, NULL, NULL, NULL));
        else
            must(kin_safetensors_write(context, path, list->tensors + first, count, NULL, 0, NULL,
                                       NULL));
    }
    snprintf(name, sizeof name, "%s%s.index.json", stem, ending);
    must(kin_write_json(
        context, inside, name,
        json_pack("{s:{s:i}, s:o}", "metadata", "total_size", 1, "weight_map", map)));
    list_free(list);
}

static inline void write_config(const kin_model_choice *model, const char *inside,
                                const char *name) {
    json_t *json = NULL;
    if (model->kind == KIN_MODEL_DENOISER)
        must(kin_denoiser_config_json(context, &model->denoiser, &json));
    else if (model->kind == KIN_MODEL_VAE) must(kin_vae_config_json(context, &model->vae, &json));
    if (json) must(kin_write_json(context, inside, name, json));
    else must(kin_write_t5_config(context, inside, &model->t5));
}

static inline void write_text(const char *path, const char *text) {
    make_folder_of(path);
    write_bytes(path, text, strlen(text));
}

static inline void write_part(const kin_model_choice *model, const char *inside, const char *file) {
    write_safetensors(model, inside_of(inside, file), NULL, NULL);
    write_config(model, inside, "config.json");
}

/* vae, text_encoder and tokenizer of diffusers' layout. */
static inline void write_others(const char *inside, kin_vae_kind vae) {
    kin_model_choice model = vae_of(vae), text = t5_of();
    write_part(&model, inside_of(inside, "vae"), "diffusion_pytorch_model.safetensors");
    write_part(&text, inside_of(inside, "text_encoder"), "model.safetensors");
    const char *pieces = inside_of(inside, "tokenizer/spiece.model");
#ifdef KIN_HAVE_SENTENCEPIECE
    static const char *const words[] = {"a ball moves to the left", "a square moves to the right"};
    make_folder_of(pieces);
    must(kin_tokenizer_train(context, words, 2, 40, pieces));
#else
    write_text(pieces, "no pieces");
#endif
}

#endif
