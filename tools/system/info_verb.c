/* kinora info: what a path holds, and whether generate could run with it. */
#include "tools/system/info.h"

#include "tools/system/system_internal.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <string.h>

static const char verb[] = "info";

typedef struct request {
    const char *path, *model;
    kin_system_overrides overrides;
    bool list, json;
} request;

static int put_json(json_t *object) {
    bool written = object && json_dumpf(object, stdout, JSON_INDENT(1)) == 0;
    putchar('\n');
    json_decref(object);
    return written ? KIN_EXIT_OK : KIN_EXIT_FAILED;
}

static void print_tensors(const kin_checkpoint *file) {
    for (size_t i = 0; i < kin_checkpoint_count(file); i++) {
        const kin_named_tensor *tensor = kin_checkpoint_at(file, i);
        char shape[128];
        printf("%s\t%s\t%s\n", tensor->name, kin_dtype_name(tensor->desc.dtype),
               kin_desc_shape_text(&tensor->desc, shape, sizeof shape));
    }
}

/* The model that a lone file is of: the one that was named, that of the configuration beside it, or
 * the one that most of it fits. *out_known is false if there is none. */
static kin_status choose_model(kin_context *context, const request *r, const kin_checkpoint *file,
                               kin_model_choice *out, bool *out_known) {
    const char *path = kin_checkpoint_path(file);
    *out_known = true;
    if (r->model) return kin_model_choose(context, r->model, out);
    kin_part_kind part = kin_guess_part(file);
    kin_part found = {0};
    *out = (kin_model_choice){.kind = KIN_MODEL_VAE};
    if (part == KIN_PART_VAE || part == KIN_PART_TEXT_ENCODER) {
        kin_status status = kin_part_find(context, part, path, &found);
        char *config = found.config;
        found.config = NULL;
        kin_part_free(context, &found);
        if (status == KIN_OK && config) status = kin_model_choose(context, config, out);
        else if (status == KIN_OK && part == KIN_PART_VAE) {
            status = kin_guess_vae(context, file, path, &out->vae);
            snprintf(out->name, sizeof out->name, "%s", kin_vae_kind_name(out->vae.kind));
        } else if (status == KIN_OK) {
            out->kind = KIN_MODEL_T5;
            status = kin_guess_t5(context, file, path, &out->t5);
            snprintf(out->name, sizeof out->name, "T5 encoder");
        }
        kin_free(context, config);
        if (status != KIN_UNSUPPORTED) return status;
    }
    *out_known = kin_weights_match_guess(context, file, out);
    return KIN_OK;
}

/* One file of weights, or the folder of one. */
static int run_file(kin_context *context, const request *r, const char *path) {
    kin_checkpoint *file = NULL;
    kin_info_part part = {0};
    kin_model_choice model;
    bool known = false;
    int code = KIN_EXIT_FAILED;
    kin_status status = kin_checkpoint_open(context, path, r->overrides.entry, &file);
    if (status == KIN_OK && r->list && !r->json) print_tensors(file);
    if (status == KIN_OK) status = choose_model(context, r, file, &model, &known);
    if (status == KIN_OK) status = kin_info_file(context, file, known ? &model : NULL, &part);
    if (status != KIN_OK) {
        code = kin_report(context, verb, status);
    } else {
        code = kin_info_fits(&part, known && model.kind == KIN_MODEL_VAE) ? KIN_EXIT_OK
                                                                          : KIN_EXIT_FAILED;
        if (!r->json) kin_info_print_file(&part, path);
        else if (put_json(kin_info_file_json(&part, path)) != KIN_EXIT_OK) code = KIN_EXIT_FAILED;
    }
    kin_info_part_free(context, &part);
    kin_checkpoint_close(file);
    return code;
}

static int run_system(kin_context *context, const request *r, const kin_system *system) {
    kin_info_system info;
    int code = KIN_EXIT_FAILED;
    kin_status status = kin_info_gather(system, &info);
    for (int i = 0; status == KIN_OK && r->list && !r->json && i < KIN_PART_TOKENIZER; i++) {
        kin_checkpoint *file = NULL;
        const kin_part *part = &system->parts[i];
        if (!info.parts[i].has_model) continue;
        status = kin_checkpoint_open(context, part->path, part->entry, &file);
        if (status == KIN_OK) print_tensors(file);
        kin_checkpoint_close(file);
    }
    if (status != KIN_OK) {
        code = kin_report(context, verb, status);
    } else {
        code = kin_info_can_generate(&info) ? KIN_EXIT_OK : KIN_EXIT_FAILED;
        if (!r->json) kin_info_print(&info, r->path);
        else if (put_json(kin_info_json(&info, r->path)) != KIN_EXIT_OK) code = KIN_EXIT_FAILED;
        for (int i = 0; i < KIN_PART_SCHEDULER; i++)
            if (kin_system_need(system, (kin_part_kind)i) != KIN_OK)
                kin_report(context, verb, KIN_NOT_FOUND);
    }
    kin_info_free(&info);
    return code;
}

/* The file of weights that a path is or holds. */
static kin_status find_file(kin_context *context, const char *path, char **out_file) {
    char *place = NULL;
    *out_file = NULL;
    kin_status status = kin_place_of_part(context, path, &place);
    if (status != KIN_OK || !kin_file_is_folder(place)) {
        *out_file = place;
        return status;
    }
    status = kin_place_weights(context, place, out_file);
    if (status == KIN_OK && !*out_file)
        status = kin_fail(context, KIN_NOT_FOUND, "%s: no file of weights in it", place);
    kin_free(context, place);
    return status;
}

/* The same if it is no denoiser but opens; NULL otherwise. */
static char *lone_weights(kin_context *context, const char *path) {
    kin_checkpoint *file = NULL;
    char *weights = NULL;
    bool alone = find_file(context, path, &weights) == KIN_OK &&
                 kin_checkpoint_open(context, weights, NULL, &file) == KIN_OK &&
                 kin_guess_part(file) != KIN_PART_DENOISER;
    kin_checkpoint_close(file);
    if (alone) return weights;
    kin_free(context, weights);
    return NULL;
}

/* One file against the model that was named. */
static int run_named(kin_context *context, const request *r) {
    kin_model_choice model;
    char *file = NULL;
    kin_status status = kin_model_choose(context, r->model, &model);
    if (status == KIN_OK) status = find_file(context, r->path, &file);
    int code = status == KIN_OK ? run_file(context, r, file) : kin_report(context, verb, status);
    kin_free(context, file);
    return code;
}

/* What a file holds can be listed though nothing more can be told of it. */
static void list_file(kin_context *context, const request *r) {
    kin_checkpoint *file = NULL;
    char *path = NULL;
    if (find_file(context, r->path, &path) == KIN_OK &&
        kin_checkpoint_open(context, path, r->overrides.entry, &file) == KIN_OK)
        print_tensors(file);
    kin_checkpoint_close(file);
    kin_free(context, path);
}

static int run(kin_context *context, const request *r) {
    const kin_system_overrides *o = &r->overrides;
    bool forced = o->denoiser || o->vae || o->text_encoder || o->tokenizer || o->scheduler;
    kin_system system;
    if (r->model && !forced) return run_named(context, r);
    kin_status status = kin_system_open(context, r->path, o, &system);
    if (status == KIN_OK) {
        int code = run_system(context, r, &system);
        kin_system_close(&system);
        return code;
    }
    /* A lone autoencoder or text encoder is told as such; of all else the message stands. */
    char *message = kin_strdup(context, kin_context_error(context));
    char *alone = forced ? NULL : lone_weights(context, r->path);
    int code;
    if (!alone && !forced && r->list && !r->json) list_file(context, r);
    if (alone) {
        code = run_file(context, r, alone);
    } else {
        if (message) kin_fail(context, status, "%s", message);
        code = kin_report(context, verb, status);
    }
    kin_free(context, message);
    kin_free(context, alone);
    return code;
}

int kin_verb_info(int count, char **arguments) {
    kin_common common = {0};
    request r = {0};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "list",
         .letter = 'l',
         .on = &r.list,
         .help = "name, dtype and shape of every tensor"},
        {.name = "json", .on = &r.json, .help = "one JSON object on standard output"},
        {.name = "model",
         .argument = "MODEL",
         .text = &r.model,
         .help = "hold a file against this model (see kinora plan)"},
        {.name = "denoiser",
         .argument = "PATH",
         .text = &r.overrides.denoiser,
         .help = "in place of the path's own; also the following"},
        {.name = "vae", .argument = "PATH", .text = &r.overrides.vae, .help = "autoencoder"},
        {.name = "text-encoder",
         .argument = "PATH",
         .text = &r.overrides.text_encoder,
         .help = "T5 or mT5"},
        {.name = "tokenizer",
         .argument = "PATH",
         .text = &r.overrides.tokenizer,
         .help = "a SentencePiece model (spiece.model)"},
        {.name = "scheduler",
         .argument = "PATH",
         .text = &r.overrides.scheduler,
         .help = "scheduler_config.json"},
        {.name = "system",
         .argument = "NAME",
         .text = &r.overrides.system,
         .help = "open-sora-1.0, open-sora-1.1, latte, pixart-alpha or open-sora-plan-1.2"},
        {.name = "entry",
         .argument = "KEY",
         .text = &r.overrides.entry,
         .help = "of pickled weights: the key of the state dict, such as ema"},
        {.name = "quiet", .letter = 'q', .on = &common.quiet, .help = "errors only"},
        {.name = "verbose", .letter = 'v', .on = &common.verbose, .help = "more of what happens"},
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 1, &left);
    if (code < 0) code = kin_common_open(&common, false);
    if (code >= 0) return code;
    r.path = arguments[0];
    code = run(common.context, &r);
    kin_common_close(&common);
    return code;
}
