/* What a system's files hold, without reading the weights. */
#include "tools/system/info.h"

#include "runtime/tokenizer.h"
#include "tools/tool.h"

#include <stdio.h>
#include <string.h>

/* The model of a part, as weights_match wants it. */
static kin_model_choice model_of(const kin_system *system, kin_part_kind kind) {
    kin_model_choice choice = {.kind = KIN_MODEL_DENOISER, .denoiser = system->denoiser};
    const char *name = kin_denoiser_kind_name(system->denoiser.kind);
    if (kind == KIN_PART_VAE) {
        choice.kind = KIN_MODEL_VAE;
        choice.vae = system->vae;
        name = kin_vae_kind_name(system->vae.kind);
    } else if (kind == KIN_PART_TEXT_ENCODER) {
        choice.kind = KIN_MODEL_T5;
        choice.t5 = system->text_encoder;
        name = "T5 encoder";
    }
    snprintf(choice.name, sizeof choice.name, "%s", name);
    return choice;
}

kin_status kin_info_file(kin_context *context, const kin_checkpoint *file,
                         const kin_model_choice *model, kin_info_part *out_part) {
    const char *entry = kin_checkpoint_entry(file);
    *out_part = (kin_info_part){.there = true, .totals = kin_weights_count(file)};
    snprintf(out_part->entry, sizeof out_part->entry, "%s", entry ? entry : "");
    if (!model) return KIN_OK;
    out_part->has_model = true;
    out_part->model = *model;
    return kin_weights_match_file(context, file, model, &out_part->match);
}

/* A part that cannot be read is told beside the others. */
static kin_status keep_problem(kin_context *context, kin_status status, kin_info_part *part) {
    if (status == KIN_OUT_OF_MEMORY) return status;
    part->there = true;
    part->problem = kin_strdup(context, kin_context_error(context));
    return part->problem ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status gather_weights(const kin_system *system, kin_part_kind kind,
                                 kin_info_part *part) {
    const kin_part *found = &system->parts[kind];
    kin_checkpoint *file = NULL;
    kin_model_choice model = model_of(system, kind);
    kin_status status = kin_checkpoint_open(system->context, found->path, found->entry, &file);
    if (status == KIN_OK) status = kin_info_file(system->context, file, &model, part);
    kin_checkpoint_close(file);
    return status == KIN_OK ? KIN_OK : keep_problem(system->context, status, part);
}

/* Pieces are read, for their number must fit the text encoder's table. */
static kin_status gather_tokenizer(const kin_system *system, kin_info_part *part) {
    kin_context *context = system->context;
    kin_tokenizer *tokenizer = NULL;
    const char *path = system->parts[KIN_PART_TOKENIZER].path;
    bool text = system->parts[KIN_PART_TEXT_ENCODER].path != NULL;
    part->there = true;
    kin_status status = kin_tokenizer_load(context, path, &tokenizer);
    if (status != KIN_OK) return keep_problem(context, status, part);
    part->pieces = kin_tokenizer_size(tokenizer);
    kin_tokenizer_destroy(tokenizer);
    if (!text || part->pieces <= system->text_encoder.vocab_size) return KIN_OK;
    part->problem = kin_format(context, "%s has %d pieces, but the text encoder knows %d", path,
                               part->pieces, system->text_encoder.vocab_size);
    return part->problem ? KIN_OK : KIN_OUT_OF_MEMORY;
}

kin_status kin_info_gather(const kin_system *system, kin_info_system *out_info) {
    kin_status status = KIN_OK;
    *out_info = (kin_info_system){.system = system};
    for (int i = 0; status == KIN_OK && i < KIN_PART_KINDS; i++) {
        if (!system->parts[i].path) continue;
        if (i < KIN_PART_TOKENIZER)
            status = gather_weights(system, (kin_part_kind)i, &out_info->parts[i]);
        else if (i == KIN_PART_TOKENIZER) status = gather_tokenizer(system, &out_info->parts[i]);
        else out_info->parts[i].there = true;
    }
    return status;
}

void kin_info_part_free(kin_context *context, kin_info_part *part) {
    kin_weights_match_free(&part->match);
    kin_free(context, part->problem);
    part->problem = NULL;
}

void kin_info_free(kin_info_system *info) {
    for (int i = 0; info->system && i < KIN_PART_KINDS; i++)
        kin_info_part_free(info->system->context, &info->parts[i]);
}

bool kin_info_fits(const kin_info_part *part, bool extra) {
    if (!part->has_model) return true;
    const kin_weights_match *m = &part->match;
    return !m->missing && !m->other_shape && (extra || !m->unexpected);
}

bool kin_info_can_generate(const kin_info_system *info) {
    for (int i = 0; i < KIN_PART_SCHEDULER; i++)
        if (!info->parts[i].there || info->parts[i].problem ||
            !kin_info_fits(&info->parts[i], i == KIN_PART_VAE))
            return false;
    return true;
}

/* ---- as text -------------------------------------------------------------------------------- */

static void print_totals(const kin_weights_totals *t) {
    char text[32];
    printf("\t%zu tensors\t%lld parameters\t%s", t->tensors, (long long)t->parameters,
           kin_bytes_text(t->bytes, text, sizeof text));
    for (int d = 0; d < KIN_DTYPE_COUNT; d++)
        if (t->dtype_tensors[d])
            printf("\t%s %lld", kin_dtype_name((kin_dtype)d), (long long)t->dtype_parameters[d]);
}

/* The first of each kind; --json has all. */
static void print_misfits(const char *part, const kin_weights_match *m) {
    enum { MOST = 20 };
    int shown[KIN_OTHER_SHAPE + 1] = {0};
    for (size_t i = 0; i < m->misfit_count; i++) {
        if (++shown[m->misfits[i].kind] > MOST) continue;
        const kin_misfit *misfit = &m->misfits[i];
        char have[128], want[128];
        printf("%s\t%s%s%s", kin_misfit_name(misfit->kind), part, part[0] ? "\t" : "",
               misfit->name);
        if (misfit->kind == KIN_OTHER_SHAPE)
            printf("\t%s, the model has %s", kin_desc_shape_text(&misfit->have, have, sizeof have),
                   kin_desc_shape_text(&misfit->want, want, sizeof want));
        if (misfit->near) printf("\tdid you mean %s?", misfit->near);
        putchar('\n');
    }
    for (int kind = 0; kind <= KIN_OTHER_SHAPE; kind++)
        if (shown[kind] > MOST)
            printf("%s\t%s%s%d more\n", kin_misfit_name((kin_misfit_kind)kind), part,
                   part[0] ? "\t" : "", shown[kind] - MOST);
}

static void print_match(const kin_info_part *part) {
    const kin_weights_match *m = &part->match;
    printf("model\t%s: %d of %d tensors, %d of another shape, %d unexpected\n", part->model.name,
           m->found, m->variables, m->other_shape, m->unexpected);
}

/* How samples are made where nobody says otherwise. */
static void print_defaults(const kin_system_defaults *d) {
    printf("samples\t%lldx%lldx%lld\t%g fps", (long long)d->frames, (long long)d->height,
           (long long)d->width, d->fps);
    if (d->frame_interval > 1) printf(", one of %lld frames", (long long)d->frame_interval);
    printf("\t%lld steps\t%s\tguidance %g", (long long)d->steps,
           d->ddim    ? "ddim"
           : d->iddpm ? "iddpm"
                      : kin_scheduler_name(d->scheduler.kind),
           d->cfg_scale);
    if (d->cfg_channels) printf(" on %lld channels", (long long)d->cfg_channels);
    putchar('\n');
}

static void print_part(const kin_info_system *info, kin_part_kind kind) {
    const kin_info_part *part = &info->parts[kind];
    const kin_part *found = &info->system->parts[kind];
    printf("%s\t%s", kin_part_name(kind), part->there ? found->path : "none");
    if (part->entry[0]) printf("\tentry %s", part->entry);
    if (part->has_model) {
        printf("\t%s%s", part->model.name, found->config ? "" : ", told from the tensors");
        print_totals(&part->totals);
    }
    if (part->pieces) printf("\t%d pieces", part->pieces);
    putchar('\n');
}

void kin_info_print(const kin_info_system *info, const char *path) {
    const kin_system *system = info->system;
    printf("%s\t%s\n", path, kin_system_name(system->kind));
    for (int i = 0; i < KIN_PART_KINDS; i++) print_part(info, (kin_part_kind)i);
    print_defaults(&system->defaults);
    for (int i = 0; i < KIN_PART_KINDS; i++) {
        print_misfits(kin_part_name((kin_part_kind)i), &info->parts[i].match);
        if (info->parts[i].problem)
            printf("wrong\t%s\t%s\n", kin_part_name((kin_part_kind)i), info->parts[i].problem);
    }
    printf("generate\t%s\n", kin_info_can_generate(info) ? "can run" : "cannot run");
}

void kin_info_print_file(const kin_info_part *part, const char *path) {
    printf("%s", path);
    if (part->entry[0]) printf("\tentry %s", part->entry);
    print_totals(&part->totals);
    putchar('\n');
    print_misfits("", &part->match);
    if (part->has_model) print_match(part);
    else printf("model\tnone that is known\n");
}

/* ---- as JSON -------------------------------------------------------------------------------- */

static json_t *shape_json(const kin_desc *desc) {
    json_t *dims = json_array();
    for (int i = 0; i < desc->rank; i++)
        json_array_append_new(dims, json_integer((json_int_t)desc->dims[i]));
    return dims;
}

static json_t *misfits_json(const kin_weights_match *m) {
    json_t *list = json_array();
    for (size_t i = 0; i < m->misfit_count; i++) {
        const kin_misfit *misfit = &m->misfits[i];
        json_t *one =
            json_pack("{s:s, s:s}", "what", kin_misfit_name(misfit->kind), "name", misfit->name);
        if (misfit->near) json_object_set_new(one, "near", json_string(misfit->near));
        if (misfit->kind == KIN_OTHER_SHAPE)
            json_object_set_new(one, "shape", shape_json(&misfit->have));
        if (misfit->kind != KIN_UNEXPECTED)
            json_object_set_new(one, "wanted", shape_json(&misfit->want));
        json_array_append_new(list, one);
    }
    return list;
}

/* What a file's tensors are; added to `object`. */
static void add_weights(json_t *object, const kin_info_part *part) {
    const kin_weights_totals *t = &part->totals;
    json_t *dtypes = json_object();
    for (int d = 0; d < KIN_DTYPE_COUNT; d++)
        if (t->dtype_tensors[d])
            json_object_set_new(dtypes, kin_dtype_name((kin_dtype)d),
                                json_integer((json_int_t)t->dtype_parameters[d]));
    json_object_set_new(object, "tensors", json_integer((json_int_t)t->tensors));
    json_object_set_new(object, "parameters", json_integer((json_int_t)t->parameters));
    json_object_set_new(object, "bytes", json_integer((json_int_t)t->bytes));
    json_object_set_new(object, "dtypes", dtypes);
    if (part->entry[0]) json_object_set_new(object, "entry", json_string(part->entry));
    if (!part->has_model) return;
    json_object_set_new(object, "model", json_string(part->model.name));
    json_object_set_new(object, "model_tensors", json_integer(part->match.variables));
    json_object_set_new(object, "found", json_integer(part->match.found));
    json_object_set_new(object, "misfits", misfits_json(&part->match));
}

static json_t *part_json(const kin_info_system *info, kin_part_kind kind) {
    const kin_info_part *part = &info->parts[kind];
    const kin_part *found = &info->system->parts[kind];
    if (!part->there) return json_null();
    json_t *object = json_pack("{s:s}", "path", found->path);
    if (found->config) json_object_set_new(object, "config", json_string(found->config));
    if (kind < KIN_PART_TOKENIZER) add_weights(object, part);
    if (part->pieces) json_object_set_new(object, "pieces", json_integer(part->pieces));
    if (part->problem) json_object_set_new(object, "problem", json_string(part->problem));
    return object;
}

json_t *kin_info_json(const kin_info_system *info, const char *path) {
    const kin_system_defaults *d = &info->system->defaults;
    json_t *parts = json_object();
    for (int i = 0; i < KIN_PART_KINDS; i++)
        json_object_set_new(parts, kin_part_name((kin_part_kind)i),
                            part_json(info, (kin_part_kind)i));
    json_t *samples = json_pack(
        "{s:I, s:I, s:I, s:I, s:f, s:I, s:f, s:I, s:s}", "frames", (json_int_t)d->frames, "height",
        (json_int_t)d->height, "width", (json_int_t)d->width, "steps", (json_int_t)d->steps, "fps",
        d->fps, "frame_interval", (json_int_t)d->frame_interval, "cfg_scale", d->cfg_scale,
        "cfg_channels", (json_int_t)d->cfg_channels, "sampler",
        d->ddim    ? "ddim"
        : d->iddpm ? "iddpm"
                   : kin_scheduler_name(d->scheduler.kind));
    return json_pack("{s:s, s:s, s:o, s:o, s:b}", "path", path, "system",
                     kin_system_name(info->system->kind), "parts", parts, "samples", samples,
                     "generate", (int)kin_info_can_generate(info));
}

json_t *kin_info_file_json(const kin_info_part *part, const char *path) {
    json_t *object = json_pack("{s:s}", "path", path);
    if (object) add_weights(object, part);
    return object;
}
