/* Samplers by name, with the betas of a system. */
#include <stdio.h>
#include <string.h>

#include "runtime/file.h"
#include "runtime/json.h"
#include "tools/generate/pipeline_internal.h"

/* How a name differs from its class. */
typedef enum variant { AS_IT_IS, RESPACED, PLMS, DPM_PLUS_PLUS, DPM_SDE, DPM_PLAIN } variant;

typedef struct sampler_name {
    const char *name;
    kin_scheduler_kind kind;
    variant variant;
    bool sigmas; /* may have Karras' */
} sampler_name;

/* A class' own name stands before its variants. */
static const sampler_name names[] = {
    {"iddpm", KIN_SCHEDULER_DDPM, RESPACED, false},
    {"ddim", KIN_SCHEDULER_DDIM, AS_IT_IS, false},
    {"ddpm", KIN_SCHEDULER_DDPM, AS_IT_IS, false},
    {"pndm", KIN_SCHEDULER_PNDM, AS_IT_IS, false},
    {"plms", KIN_SCHEDULER_PNDM, PLMS, false},
    {"euler", KIN_SCHEDULER_EULER, AS_IT_IS, true},
    {"euler-a", KIN_SCHEDULER_EULER_ANCESTRAL, AS_IT_IS, false},
    {"dpm++", KIN_SCHEDULER_DPM_MULTISTEP, DPM_PLUS_PLUS, true},
    {"dpm++-sde", KIN_SCHEDULER_DPM_MULTISTEP, DPM_SDE, true},
    {"dpm", KIN_SCHEDULER_DPM_MULTISTEP, DPM_PLAIN, true},
    {"unipc", KIN_SCHEDULER_UNIPC, AS_IT_IS, true},
    {"euler-karras", KIN_SCHEDULER_EULER, AS_IT_IS, true},
    {"dpm++-karras", KIN_SCHEDULER_DPM_MULTISTEP, DPM_PLUS_PLUS, true},
    {"dpm++-sde-karras", KIN_SCHEDULER_DPM_MULTISTEP, DPM_SDE, true},
    {"dpm-karras", KIN_SCHEDULER_DPM_MULTISTEP, DPM_PLAIN, true},
    {"unipc-karras", KIN_SCHEDULER_UNIPC, AS_IT_IS, true},
    {"flow", KIN_SCHEDULER_FLOW_EULER, AS_IT_IS, false},
    {"rflow", KIN_SCHEDULER_RECTIFIED_FLOW, AS_IT_IS, false},
    {"dpm-solver", KIN_SCHEDULER_DPM_MULTISTEP, DPM_PLUS_PLUS, true}, /* Open-Sora's word */
};

enum { NAMES = sizeof names / sizeof *names, ALIASES = 1 };

static const char karras[] = "-karras";

static bool is_karras(const char *name) {
    size_t length = strlen(name), end = sizeof karras - 1;
    return length > end && strcmp(name + length - end, karras) == 0;
}

static bool is_flow(kin_scheduler_kind kind) {
    return kind == KIN_SCHEDULER_FLOW_EULER || kind == KIN_SCHEDULER_RECTIFIED_FLOW;
}

/* "DDIM" or "DDIMScheduler". */
static bool is_class(const char *name, kin_scheduler_kind kind) {
    const char *full = kin_scheduler_name(kind);
    const char *end = strstr(full, "Scheduler");
    size_t length = end ? (size_t)(end - full) : strlen(full);
    return strcmp(name, full) == 0 || (strncmp(name, full, length) == 0 && !name[length]);
}

const char *kin_sampler_name_at(int index) {
    return index >= 0 && index < NAMES - ALIASES ? names[index].name : NULL;
}

static kin_status find_name(kin_context *context, const char *name, const sampler_name **out_row) {
    const char *known[NAMES];
    for (int i = 0; i < NAMES; i++) {
        known[i] = names[i].name;
        if (strcmp(name, names[i].name) != 0 &&
            (names[i].variant == RESPACED || !is_class(name, names[i].kind)))
            continue;
        *out_row = &names[i];
        return KIN_OK;
    }
    const char *near = kin_nearest_name(name, known, NAMES);
    return kin_fail(context, KIN_NOT_FOUND,
                    "no sampler \"%s\"%s%s%s: there are iddpm, ddim, ddpm, pndm, plms, euler, "
                    "euler-a, dpm++, dpm++-sde, dpm, unipc, flow and rflow, and -karras behind "
                    "euler, dpm++, dpm++-sde, dpm and unipc",
                    name, near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
}

/* The system's file read as that of another class, as diffusers does it: what the classes share
 * holds, the rest is the class' own. */
static kin_status read_as(const kin_pipeline *p, const char *path, kin_scheduler_kind kind,
                          kin_scheduler_config *out_config) {
    json_t *root = NULL;
    kin_status status = KIN_OK;
    char *file = kin_file_is_folder(path) ? kin_path_join(p->context, path, "scheduler_config.json")
                                          : kin_strdup(p->context, path);
    if (!file) return KIN_OUT_OF_MEMORY;
    status = kin_json_load(p->context, file, &root);
    if (status == KIN_OK &&
        json_object_set_new(root, "_class_name", json_string(kin_scheduler_name(kind))) != 0)
        status = KIN_OUT_OF_MEMORY;
    /* Latents are not bounded by 1, so no script clips by a class' default. */
    if (status == KIN_OK && !json_object_get(root, "clip_sample"))
        json_object_set_new(root, "clip_sample", json_false());
    if (status == KIN_OK) status = kin_scheduler_config_parse(p->context, root, file, out_config);
    json_decref(root);
    kin_free(p->context, file);
    return status;
}

static kin_status config_of(const kin_pipeline *p, kin_scheduler_kind kind,
                            kin_scheduler_config *out_config) {
    const kin_system_defaults *d = &p->system.defaults;
    const kin_part *part = &p->system.parts[KIN_PART_SCHEDULER];
    kin_denoiser_shape shape = kin_denoiser_shape_of(&p->system.denoiser);
    kin_scheduler_config c = kin_scheduler_config_default(kind);
    c.clip_sample = false;
    if (!d->iddpm) {
        c.train_steps = d->scheduler.train_steps;
        c.beta_schedule = d->scheduler.beta_schedule;
        c.beta_start = d->scheduler.beta_start;
        c.beta_end = d->scheduler.beta_end;
        c.zero_snr = d->scheduler.zero_snr;
        c.prediction = d->scheduler.prediction;
        if (d->scheduler.kind == kind) {
            c = d->scheduler;
        } else if (part->path) {
            kin_status status = read_as(p, part->path, kind, &c);
            if (status != KIN_OK) return status;
        }
    }
    if (p->system.kind == KIN_SYSTEM_LATTE && kind == KIN_SCHEDULER_DDPM &&
        shape.out_channels == 2 * shape.in_channels)
        c.variance = KIN_VARIANCE_LEARNED_RANGE; /* as its sampling script has it */
    if (p->system.kind == KIN_SYSTEM_LATTE) c.clip_sample = false;
    *out_config = c;
    return KIN_OK;
}

kin_sampling kin_pipeline_sampling(const kin_pipeline *pipeline) {
    const kin_system_defaults *d = &pipeline->system.defaults;
    int channels = kin_denoiser_shape_of(&pipeline->system.denoiser).in_channels;
    return (kin_sampling){.iddpm = d->iddpm,
                          .ddim = d->ddim,
                          .scheduler = d->scheduler,
                          .steps = d->steps,
                          .cfg_scale = d->cfg_scale,
                          .cfg_channels = d->cfg_channels < channels ? d->cfg_channels : 0};
}

kin_status kin_pipeline_sampler(const kin_pipeline *pipeline, const char *name,
                                kin_sampling *sampling) {
    const kin_system_defaults *d = &pipeline->system.defaults;
    const sampler_name *row = NULL;
    kin_scheduler_config c;
    kin_status status = find_name(pipeline->context, name, &row);
    if (status != KIN_OK) return status;
    bool flows = !d->iddpm && is_flow(d->scheduler.kind);
    if (is_flow(row->kind) ? d->iddpm || d->scheduler.kind != row->kind : flows)
        return kin_fail(pipeline->context, KIN_INVALID, "%s does not go with %s, whose model %s",
                        name, kin_system_name(pipeline->system.kind),
                        flows ? "is a flow: take that of its scheduler's file"
                              : "predicts noise and is no such flow");
    /* Open-Sora's DDIM is that of its respaced schedule. */
    if (row->variant == RESPACED || (d->iddpm && row->kind == KIN_SCHEDULER_DDIM)) {
        sampling->iddpm = true;
        sampling->ddim = row->variant != RESPACED;
        return KIN_OK;
    }
    status = config_of(pipeline, row->kind, &c);
    if (status != KIN_OK) return status;
    if (row->variant == PLMS) c.skip_prk_steps = true;
    if (row->variant == DPM_PLUS_PLUS) c.algorithm = KIN_DPM_PLUS_PLUS;
    if (row->variant == DPM_SDE) c.algorithm = KIN_DPM_SDE_PLUS_PLUS;
    if (row->variant == DPM_PLAIN) {
        c.algorithm = KIN_DPM_PLAIN;
        c.final_sigma_min = true; /* it cannot end at sigma 0 */
    }
    if (is_karras(row->name)) c.karras_sigmas = true;
    sampling->iddpm = sampling->ddim = false;
    sampling->scheduler = c;
    return KIN_OK;
}

static bool is_variant(const kin_scheduler_config *c, variant v) {
    switch (v) {
    case AS_IT_IS:
        return true;
    case RESPACED:
        return false;
    case PLMS:
        return c->skip_prk_steps;
    case DPM_PLUS_PLUS:
        return c->algorithm == KIN_DPM_PLUS_PLUS;
    case DPM_SDE:
        return c->algorithm == KIN_DPM_SDE_PLUS_PLUS || c->algorithm == KIN_DPM_SDE;
    case DPM_PLAIN:
        return c->algorithm == KIN_DPM_PLAIN;
    }
    return false;
}

const char *kin_sampling_name(const kin_sampling *sampling, char *text, size_t size) {
    const kin_scheduler_config *c = &sampling->scheduler;
    const char *found = sampling->ddim ? "ddim" : "iddpm";
    for (int i = 0; !sampling->iddpm && i < NAMES - ALIASES; i++)
        if (names[i].kind == c->kind && is_variant(c, names[i].variant) &&
            is_karras(names[i].name) == (names[i].sigmas && c->karras_sigmas))
            found = names[i].name; /* the last that fits is the nearest: plms, not pndm */
    snprintf(text, size, "%s", found);
    return text;
}
