/* kinora init: the parts of each system and their files. */
#define _POSIX_C_SOURCE 200809L
#include "tools/system/init.h"

#include "runtime/json.h"
#include "tools/system/model_folder.h"
#include "tools/system/random_weights.h"
#include "tools/system/weight_files.h"

#include <string.h>

/* How a part's repository keeps its weights. Where the fact sheets do not know the dtype, it is
 * f32, in which all of these models were trained. */
typedef struct part_form {
    const char *folder;
    const char *base, *ending;
    uint64_t shard_bytes;
    const kin_pickle_layout *layout;
    bool old_names; /* of the autoencoder's attention */
} part_form;

typedef struct part {
    part_form form;
    kin_model_choice choice;
    json_t *config;
    kin_dtype dtype;
} part;

typedef struct parts {
    part list[KIN_INIT_MAX_PARTS];
    int count;
} parts;

static const uint64_t GB = 1000 * 1000 * 1000;

/* What the training script of the causal autoencoder saves: the averages are looked for first. */
static const kin_pickle_place causal_places[] = {{"state_dict/gen_model", NULL},
                                                 {"ema_state_dict", "module."}};
static const kin_pickle_number causal_numbers[] = {{"epoch", 0}, {"batch_idx", 0}};
static const kin_pickle_layout causal_layout = {
    .places = causal_places, .place_count = 2, .numbers = causal_numbers, .number_count = 2};

static const part_form denoiser_forms[KIN_SYSTEM_KINDS] = {
    [KIN_SYSTEM_OPEN_SORA_1_0] = {"transformer", "OpenSora-v1-HQ-16x256x256", ".pth", 0, NULL,
                                  false},
    [KIN_SYSTEM_OPEN_SORA_1_1] = {"transformer", "model", ".safetensors", 0, NULL, false},
    [KIN_SYSTEM_LATTE] = {"transformer", "diffusion_pytorch_model", ".safetensors", 0, NULL, false},
    [KIN_SYSTEM_PIXART] = {"transformer", "diffusion_pytorch_model", ".safetensors", 0, NULL,
                           false},
    [KIN_SYSTEM_OPEN_SORA_PLAN] = {"transformer", "diffusion_pytorch_model", ".safetensors", 0,
                                   NULL, false},
};
static const part_form image_vae_form = {"vae", "diffusion_pytorch_model", ".safetensors", 0, NULL,
                                         false};
static const part_form old_vae_form = {"vae", "diffusion_pytorch_model", ".safetensors", 0, NULL,
                                       true};
static const part_form causal_form = {"vae", "checkpoint", ".ckpt", 0, &causal_layout, false};
static const part_form temporal_form = {
    "vae_temporal_decoder", "diffusion_pytorch_model", ".safetensors", 0, NULL, false};

static part_form text_form(kin_system_kind system) {
    if (system == KIN_SYSTEM_LATTE || system == KIN_SYSTEM_PIXART)
        return (part_form){"text_encoder", "model", ".safetensors", 5 * GB, NULL, false};
    if (system == KIN_SYSTEM_OPEN_SORA_PLAN)
        return (part_form){"text_encoder", "pytorch_model", ".bin", 0, NULL, false};
    return (part_form){"text_encoder", "pytorch_model", ".bin", 10 * GB, NULL, false};
}

static bool is_wanted(const kin_init_options *options, const char *folder) {
    for (int i = 0; i < options->part_count; i++)
        if (strcmp(options->parts[i], folder) == 0) return true;
    return options->part_count == 0;
}

static kin_status add_part(kin_context *context, const kin_init_options *options, parts *all,
                           const part_form *form, const kin_model_choice *choice, kin_status status,
                           json_t *config) {
    if (status != KIN_OK) return status;
    if (!config) return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for a configuration");
    if (!is_wanted(options, form->folder)) {
        json_decref(config);
        return KIN_OK;
    }
    part *p = &all->list[all->count++];
    *p = (part){.form = *form, .choice = *choice, .config = config};
    if (!options->dtype) return KIN_OK;
    if (!kin_dtype_from_name(options->dtype, &p->dtype) ||
        (p->dtype != KIN_F32 && p->dtype != KIN_F16 && p->dtype != KIN_BF16 &&
         p->dtype != KIN_Q8_0))
        return kin_fail(context, KIN_INVALID, "weights are kept in f32, f16, bf16 or q8_0, not %s",
                        options->dtype);
    /* torch.save's form has no q8_0. */
    if (p->dtype == KIN_Q8_0 && strcmp(p->form.ending, ".safetensors") != 0) {
        if (strncmp(p->form.base, "pytorch_model", 13) == 0) p->form.base = "model";
        if (strcmp(p->form.base, "checkpoint") == 0) p->form.base = "diffusion_pytorch_model";
        p->form.ending = ".safetensors";
        p->form.layout = NULL;
    }
    return KIN_OK;
}

static kin_status check_part_names(kin_context *context, const kin_init_options *options) {
    static const char *const names[] = {"transformer",  "vae",       "vae_temporal_decoder",
                                        "text_encoder", "tokenizer", "scheduler"};
    for (int i = 0; i < options->part_count; i++) {
        bool known = false;
        for (size_t k = 0; k < sizeof names / sizeof *names; k++)
            known = known || strcmp(options->parts[i], names[k]) == 0;
        if (!known)
            return kin_fail(context, KIN_INVALID,
                            "there is no part \"%s\"; parts are transformer, vae, "
                            "vae_temporal_decoder (Latte's), text_encoder, tokenizer, scheduler",
                            options->parts[i]);
        if (strcmp(options->parts[i], "vae_temporal_decoder") == 0 &&
            options->system != KIN_SYSTEM_LATTE)
            return kin_fail(context, KIN_INVALID, "%s has no part vae_temporal_decoder: Latte has",
                            kin_system_name(options->system));
    }
    return KIN_OK;
}

static kin_status list_parts(kin_context *context, const kin_init_options *options,
                             const kin_init_configs *c, parts *all) {
    bool open_sora =
        options->system == KIN_SYSTEM_OPEN_SORA_1_0 || options->system == KIN_SYSTEM_OPEN_SORA_1_1;
    json_t *json = NULL;
    kin_model_choice choice = {.kind = KIN_MODEL_DENOISER, .denoiser = c->denoiser};
    part_form text = text_form(options->system);
    *all = (parts){.count = 0};
    kin_status status = check_part_names(context, options);
    if (status == KIN_OK) status = kin_denoiser_config_json(context, &c->denoiser, &json);
    status =
        add_part(context, options, all, &denoiser_forms[options->system], &choice, status, json);
    choice = (kin_model_choice){.kind = KIN_MODEL_VAE, .vae = c->vae};
    if (status == KIN_OK) status = kin_vae_config_json(context, &c->vae, &json);
    status = add_part(context, options, all,
                      c->vae.kind == KIN_VAE_CAUSAL ? &causal_form
                      : open_sora                   ? &old_vae_form
                                                    : &image_vae_form,
                      &choice, status, json);
    if (options->system == KIN_SYSTEM_LATTE) {
        choice = (kin_model_choice){.kind = KIN_MODEL_VAE, .vae = c->temporal};
        if (status == KIN_OK) status = kin_vae_config_json(context, &c->temporal, &json);
        status = add_part(context, options, all, &temporal_form, &choice, status, json);
    }
    choice = (kin_model_choice){.kind = KIN_MODEL_T5, .t5 = c->t5};
    if (status == KIN_OK)
        status =
            add_part(context, options, all, &text, &choice, status,
                     kin_init_t5_json(
                         c, options->dtype && strcmp(options->dtype, "f16") == 0    ? "float16"
                            : options->dtype && strcmp(options->dtype, "bf16") == 0 ? "bfloat16"
                                                                                    : "float32"));
    return status;
}

static void free_parts(parts *all) {
    for (int i = 0; i < all->count; i++) json_decref(all->list[i].config);
    all->count = 0;
}

static kin_status create_weights(kin_context *context, const kin_init_options *options,
                                 const part *p, kin_random_weights *out_weights) {
    return kin_random_weights_create(context, &p->choice, p->dtype, options->seed,
                                     p->form.old_names, out_weights);
}

static kin_status count_bytes(kin_context *context, const kin_init_options *options,
                              const parts *all, uint64_t *out_bytes) {
    *out_bytes = 0;
    for (int i = 0; i < all->count; i++) {
        kin_random_weights weights;
        kin_status status = create_weights(context, options, &all->list[i], &weights);
        if (status != KIN_OK) return status;
        *out_bytes += kin_weight_bytes(weights.tensors, weights.count);
        kin_random_weights_free(&weights);
    }
    return KIN_OK;
}

kin_status kin_init_bytes(kin_context *context, const kin_init_options *options,
                          uint64_t *out_bytes) {
    kin_init_configs configs;
    parts all = {.count = 0};
    kin_status status = kin_init_configure(context, options, &configs);
    if (status == KIN_OK) status = list_parts(context, options, &configs, &all);
    if (status == KIN_OK) status = count_bytes(context, options, &all, out_bytes);
    free_parts(&all);
    return status;
}

static kin_status write_part(kin_context *context, const kin_init_options *options, part *p,
                             const char *root) {
    kin_random_weights weights;
    char *folder = kin_path_join(context, root, p->form.folder);
    if (!folder) return KIN_OUT_OF_MEMORY;
    kin_status status = kin_write_json(context, folder, "config.json", json_incref(p->config));
    if (status == KIN_OK) status = create_weights(context, options, p, &weights);
    if (status != KIN_OK) {
        kin_free(context, folder);
        return status;
    }
    /* Files of torch.save hold T5's table under both of its names. */
    kin_pickle_layout layout = p->form.layout ? *p->form.layout : (kin_pickle_layout){0};
    if (weights.alias.name) {
        layout.aliases = &weights.alias;
        layout.alias_count = 1;
    }
    kin_weight_form form = {.base = p->form.base,
                            .ending = p->form.ending,
                            .shard_bytes = p->form.shard_bytes,
                            .layout = &layout};
    kin_progress progress = kin_weight_progress(
        p->form.folder, kin_weight_bytes(weights.tensors, weights.count), options->quiet);
    status = kin_weight_files_write(context, folder, &form, weights.tensors, weights.count,
                                    kin_random_weights_fill, &weights, &progress);
    kin_progress_end(&progress);
    kin_random_weights_free(&weights);
    kin_free(context, folder);
    return status;
}

/* T5's repositories hold their tokenizer beside the weights; diffusers' folders have one of its
 * own. */
static kin_status write_tokenizer(kin_context *context, const kin_init_options *options,
                                  const kin_init_configs *c, const char *root) {
    bool own = options->system == KIN_SYSTEM_LATTE || options->system == KIN_SYSTEM_PIXART;
    const char *name = own ? "tokenizer" : "text_encoder";
    if (!is_wanted(options, "tokenizer") && (own || !is_wanted(options, name))) return KIN_OK;
    char *folder = kin_path_join(context, root, name);
    kin_status status =
        folder ? kin_init_tokenizer(context, folder, c->t5.vocab_size, c->mt5) : KIN_OUT_OF_MEMORY;
    kin_free(context, folder);
    return status;
}

static kin_status write_index(kin_context *context, const kin_init_options *options,
                              const kin_init_configs *c, const char *root) {
    kin_system system = {.context = context,
                         .kind = options->system,
                         .denoiser = c->denoiser,
                         .vae = c->vae,
                         .text_encoder = c->t5};
    system.defaults = kin_system_defaults_of(options->system, &c->denoiser);
    if (options->size == KIN_INIT_SIZE_TINY && options->system == KIN_SYSTEM_OPEN_SORA_1_1) {
        /* Its configuration does not tell a size. */
        system.defaults.frames = 4;
        system.defaults.height = system.defaults.width = 64;
    }
    if (!is_wanted(options, "scheduler")) return KIN_OK;
    return kin_system_write_index(&system, root);
}

kin_status kin_init_folder(kin_context *context, const kin_init_options *options,
                           const char *folder) {
    kin_init_configs configs;
    kin_staging staging = {.context = NULL};
    parts all = {.count = 0};
    uint64_t bytes = 0;
    kin_status status = kin_init_configure(context, options, &configs);
    if (status == KIN_OK) status = list_parts(context, options, &configs, &all);
    if (status == KIN_OK) status = count_bytes(context, options, &all, &bytes);
    if (status == KIN_OK) status = kin_need_disk(context, folder, bytes);
    if (status == KIN_OK) status = kin_staging_open(context, folder, &staging);
    if (status == KIN_OK) status = write_tokenizer(context, options, &configs, staging.folder);
    if (status == KIN_OK) status = write_index(context, options, &configs, staging.folder);
    for (int i = 0; status == KIN_OK && i < all.count; i++)
        status = write_part(context, options, &all.list[i], staging.folder);
    if (status == KIN_OK) status = kin_staging_commit(&staging);
    kin_staging_abandon(&staging);
    free_parts(&all);
    return status;
}
