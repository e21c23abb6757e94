/* What a request comes to with the model's defaults. */
#include "tools/generate/generate.h"

#include "runtime/file.h"
#include "runtime/video.h"
#include "tools/generate/resolution.h"
#include "tools/train/fingerprint.h"

#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 64, MAX_SAMPLES = 1 << 20 };

static bool has_frame_masks(const kin_generate *g) {
    return kin_denoiser_shape_of(&g->pipeline.system.denoiser).frame_masks;
}

bool kin_generate_guided(const kin_generate *g) {
    return g->shape.sampling.cfg_scale != 1;
}

/* ---- how ------------------------------------------------------------------------------------- */

static kin_status choose_precision(kin_generate *g) {
    const char *name = g->request->dtype;
    kin_dtype dtype;
    if (!name) return KIN_OK;
    if (!kin_dtype_from_name(name, &dtype) ||
        (dtype != KIN_F32 && dtype != KIN_BF16 && dtype != KIN_F16))
        return kin_fail(g->context, KIN_INVALID, "--dtype must be f32, bf16 or f16, not \"%s\"",
                        name);
    g->pipeline.precision = (kin_precision){dtype, dtype};
    return KIN_OK;
}

static kin_status choose_memory(kin_generate *g) {
    static const char *const names[] = {"as-needed", "never", "published"};
    const kin_generate_request *r = g->request;
    if (r->memory && !kin_parse_bytes(r->memory, &g->pipeline.memory))
        return kin_fail(g->context, KIN_INVALID, "--memory wants a size such as 8G, not \"%s\"",
                        r->memory);
    for (int i = 0; r->cut && i < 3; i++)
        if (strcmp(r->cut, names[i]) == 0) {
            g->pipeline.cut = (kin_vae_cut)i;
            return KIN_OK;
        }
    if (!r->cut) return KIN_OK;
    return kin_fail(g->context, KIN_INVALID,
                    "--vae-cut must be as-needed, never or published, not \"%s\"", r->cut);
}

/* "torch-cuda" may name the card, whose layout decides the order: "torch-cuda:108x2048". */
static kin_status choose_noise(kin_generate *g) {
    static const char *const names[] = {"kinora", "torch-cpu", "torch-cuda"};
    kin_sampling *s = &g->shape.sampling;
    const char *name = g->request->noise;
    unsigned multiprocessors, threads;
    int end = 0;
    for (int i = 0; name && i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            s->noise = (kin_noise_source)i;
            return KIN_OK;
        }
    if (!name) return KIN_OK;
    if (sscanf(name, "torch-cuda:%5ux%5u%n", &multiprocessors, &threads, &end) == 2 &&
        name[end] == 0 && multiprocessors > 0 && threads >= 256) {
        s->noise = KIN_NOISE_TORCH_CUDA;
        s->card_multiprocessors = multiprocessors;
        s->card_threads = threads;
        return KIN_OK;
    }
    return kin_fail(g->context, KIN_INVALID,
                    "--noise must be kinora, torch-cpu, torch-cuda or torch-cuda:108x2048 (the "
                    "card's multiprocessors and the threads of each), not \"%s\"",
                    name);
}

/* What --karras, --sde and --eta ask of the sampler, and what it is called. */
static kin_status tune_sampler(kin_generate *g) {
    const kin_generate_request *r = g->request;
    kin_sampling *s = &g->shape.sampling;
    kin_scheduler_kind kind = s->scheduler.kind;
    bool own = s->iddpm || s->ddim;
    bool sigmas = !own && (kind == KIN_SCHEDULER_EULER || kind == KIN_SCHEDULER_DPM_MULTISTEP ||
                           kind == KIN_SCHEDULER_UNIPC);
    bool ddim = s->ddim || (!own && kind == KIN_SCHEDULER_DDIM);
    char name[64];
    kin_sampling_name(s, name, sizeof name);
    if (r->karras && !sigmas)
        return kin_fail(g->context, KIN_INVALID,
                        "--karras goes with the samplers euler, dpm++ and unipc, not with %s",
                        name);
    if (r->sde && (own || kind != KIN_SCHEDULER_DPM_MULTISTEP))
        return kin_fail(g->context, KIN_INVALID, "--sde goes with the sampler dpm++, not with %s",
                        name);
    if (r->eta > 0 && !ddim)
        return kin_fail(g->context, KIN_INVALID, "--eta goes with the sampler ddim, not with %s",
                        name);
    if (r->karras) s->scheduler.karras_sigmas = true;
    if (r->sde) s->scheduler.algorithm = KIN_DPM_SDE_PLUS_PLUS;
    if (r->eta > 0) s->eta = r->eta;
    kin_sampling_name(s, name, sizeof name);
    g->sampler = kin_strdup(g->context, name);
    return g->sampler ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status choose_sampling(kin_generate *g) {
    const kin_generate_request *r = g->request;
    kin_sampling *s = &g->shape.sampling;
    *s = kin_pipeline_sampling(&g->pipeline);
    kin_status status = KIN_OK;
    if (r->sampler) status = kin_pipeline_sampler(&g->pipeline, r->sampler, s);
    if (r->steps > 0) s->steps = r->steps;
    if (r->cfg_scale >= 0) s->cfg_scale = r->cfg_scale;
    if (r->cfg_channels >= 0) s->cfg_channels = r->cfg_channels;
    if (status == KIN_OK) status = tune_sampler(g);
    if (status == KIN_OK) status = choose_noise(g);
    return status;
}

/* ---- how large ------------------------------------------------------------------------------- */

/* What rows and columns must be multiples of; Open-Sora 1.1 cuts off what is over. */
static int64_t side_multiple(const kin_generate *g) {
    const kin_system *system = &g->pipeline.system;
    if (system->kind == KIN_SYSTEM_OPEN_SORA_1_1) return 1;
    return g->vae.space_factor * kin_denoiser_shape_of(&system->denoiser).size_multiple;
}

/* PixArt knows 40 sizes: the nearest is made, and scaled and cropped to what was asked for. */
static void choose_bin(kin_generate *g) {
    int64_t height, width;
    g->file_height = g->file_width = 0;
    if (!kin_pipeline_bin(&g->pipeline, g->shape.height, g->shape.width, &height, &width) ||
        (height == g->shape.height && width == g->shape.width) || g->shape.height < 1 ||
        g->shape.width < 1)
        return;
    g->file_height = g->shape.height;
    g->file_width = g->shape.width;
    g->shape.height = height;
    g->shape.width = width;
}

static kin_status choose_size(kin_generate *g) {
    const kin_generate_request *r = g->request;
    const kin_system_defaults *d = &g->pipeline.system.defaults;
    kin_status status = KIN_OK;
    g->shape.height = d->height;
    g->shape.width = d->width;
    if (r->resolution)
        status = kin_resolution_size(g->context, r->resolution, r->aspect_ratio, side_multiple(g),
                                     &g->shape.height, &g->shape.width);
    else if (r->aspect_ratio)
        status =
            kin_fail(g->context, KIN_INVALID, "--aspect-ratio wants --resolution, such as 480p");
    if (r->height > 0) g->shape.height = r->height;
    if (r->width > 0) g->shape.width = r->width;
    bool picture = r->output && kin_path_ends_with(r->output, ".png") && !strchr(r->output, '%');
    g->shape.frames = r->frames > 0 ? r->frames : picture ? 1 : d->frames;
    /* a picture has the frame rate that denoisers take it to have */
    g->shape.fps = r->model_fps > 0 ? r->model_fps : g->shape.frames == 1 ? 0 : d->fps;
    g->fps = r->fps > 0 ? r->fps : d->fps / (double)(d->frame_interval > 0 ? d->frame_interval : 1);
    g->shape.count = r->batch_size;
    g->shape.keep_given = r->keep_given;
    choose_bin(g);
    if (status == KIN_OK && (r->batch_size < 1 || r->batch_size > MAX_BATCH))
        status = kin_fail(g->context, KIN_INVALID, "--batch-size must be 1 to %d", MAX_BATCH);
    if (status == KIN_OK) status = kin_pipeline_check(&g->pipeline, &g->shape);
    return status;
}

static kin_status choose_passes(kin_generate *g) {
    const kin_generate_request *r = g->request;
    const kin_condition_task *t = &r->task;
    bool asked = r->passes > 1 || r->overlap > 0 || r->reference_count || r->strategy_count ||
                 t->image || t->video || t->interpolate || t->loop_video || t->extend ||
                 t->edit >= 0;
    g->passes = (kin_passes){(int)r->passes, g->shape.frames, r->overlap, false, false};
    if (r->join && !t->extend)
        return kin_fail(g->context, KIN_INVALID, "--join goes with --extend");
    if (asked && !has_frame_masks(g))
        return kin_fail(g->context, KIN_INVALID,
                        "%s cannot take frames from images, videos or an earlier pass: Open-Sora "
                        "1.1's STDiT2 can",
                        kin_system_name(g->pipeline.system.kind));
    kin_status status = kin_condition_task_resolve(g->context, t, r->interval, &g->passes,
                                                   &g->task_path, &g->task_strategy);
    if (status != KIN_OK) return status;
    if (g->task_strategy)
        kin_log(g->context, KIN_LOG_INFO, "reference_path \"%s\", mask_strategy \"%s\"",
                g->task_path, g->task_strategy);
    const kin_vae_config *vae = &g->pipeline.system.vae;
    int64_t latents[5], frames[5];
    g->latent_frames = kin_vae_latent_frames(vae, g->shape.frames);
    g->passes.frames = kin_vae_video_frames(vae, g->latent_frames);
    if (g->passes.count > 1 && g->vae.time_factor > 1) /* whole latent frames overlap */
        g->passes.overlap =
            kin_vae_video_frames(vae, kin_vae_latent_frames(vae, g->passes.overlap));
    kin_pipeline_sizes(&g->pipeline, &g->shape, latents, frames);
    g->out_height = frames[3];
    g->out_width = frames[4];
    if (g->file_height == 0) {
        g->file_height = g->out_height;
        g->file_width = g->out_width;
    }
    g->out_frames = kin_passes_frames(&g->passes);
    return KIN_OK;
}

/* ---- what ------------------------------------------------------------------------------------ */

static kin_status read_prompts(kin_generate *g) {
    const kin_generate_request *r = g->request;
    kin_prompt_form form = has_frame_masks(g) ? KIN_PROMPT_JSON : KIN_PROMPT_PLAIN;
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < r->prompt_count; i++)
        status = kin_prompts_add(g->context, &g->prompts, r->prompts[i], form, "--prompt");
    if (status == KIN_OK && r->prompt_file)
        status = kin_prompts_read(g->context, &g->prompts, r->prompt_file, form);
    const struct {
        const char *flag;
        int count;
    } lists[] = {{"--reference-path", r->reference_count}, {"--mask-strategy", r->strategy_count}};
    for (int i = 0; status == KIN_OK && i < 2; i++)
        if (lists[i].count > 1 && (size_t)lists[i].count != g->prompts.count)
            status =
                kin_fail(g->context, KIN_INVALID,
                         "%s was given %d times for %zu prompts: give it once for all, or once "
                         "for each",
                         lists[i].flag, lists[i].count, g->prompts.count);
    return status;
}

static kin_status make_job(kin_generate *g) {
    const kin_generate_request *r = g->request;
    if (r->samples < 1 || r->samples > MAX_SAMPLES)
        return kin_fail(g->context, KIN_INVALID, "--samples must be 1 to %d", MAX_SAMPLES);
    g->seed = (uint64_t)r->seed;
    if (r->seed < 0) {
        g->seed = (uint64_t)(kin_wall_time() * 1e3) % 2147483647;
        kin_log(g->context, KIN_LOG_INFO, "seed %llu", (unsigned long long)g->seed);
    }
    kin_job_names names = {r->output, g->out_frames == 1, g->prompts.count, r->samples};
    return kin_job_make(g->context, &g->prompts, &names, g->seed, &g->job);
}

static uint64_t mix_part(const kin_generate *g, uint64_t hash, kin_part_kind part) {
    const kin_part *p = &g->pipeline.system.parts[part];
    if (p->path) hash = kin_fingerprint_path(hash, p->path);
    if (p->entry) hash = kin_fingerprint_bytes(hash, p->entry, strlen(p->entry));
    return p->config ? kin_fingerprint_path(hash, p->config) : hash;
}

static char *fingerprint(const kin_generate *g, const kin_part_kind *parts, size_t count) {
    char text[KIN_FINGERPRINT_TEXT];
    uint64_t hash = KIN_FINGERPRINT_START;
    for (size_t i = 0; i < count; i++) hash = mix_part(g, hash, parts[i]);
    kin_fingerprint_text(hash, text);
    return kin_strdup(g->context, text);
}

static kin_status find_files(kin_generate *g) {
    static const kin_part_kind parts[] = {KIN_PART_TOKENIZER, KIN_PART_TEXT_ENCODER,
                                          KIN_PART_SCHEDULER, KIN_PART_DENOISER, KIN_PART_VAE};
    g->text_files = fingerprint(g, parts, 2);
    g->latent_files = fingerprint(g, parts, 4);
    g->frame_files = fingerprint(g, parts, 5);
    return g->text_files && g->latent_files && g->frame_files ? KIN_OK : KIN_OUT_OF_MEMORY;
}

kin_status kin_generate_open(kin_common *common, const kin_generate_request *request,
                             kin_generate *out_generate) {
    kin_generate *g = out_generate;
    memset(g, 0, sizeof *g);
    g->request = request;
    g->context = common->context;
    g->quiet = g->shape.quiet = common->quiet;
    kin_status status = kin_pipeline_open(g->context, common->handle, request->model,
                                          &request->overrides, &g->pipeline);
    if (status != KIN_OK) {
        g->pipeline.context = NULL;
        return status;
    }
    g->pipeline.clean_text = g->pipeline.clean_text && !request->no_clean;
    g->vae = kin_vae_shape_of(&g->pipeline.system.vae);
    const kin_denoiser_config *denoiser = &g->pipeline.system.denoiser;
    bool own_null = kin_denoiser_shape_of(denoiser).own_null_caption;
    g->negative = request->negative ? request->negative : g->pipeline.system.defaults.negative;
    if (!g->negative && !own_null) g->negative = "";
    status = choose_precision(g);
    if (status == KIN_OK) status = choose_memory(g);
    if (status == KIN_OK) status = find_files(g);
    if (status == KIN_OK) status = choose_sampling(g);
    if (status == KIN_OK) status = choose_size(g);
    if (status == KIN_OK) status = choose_passes(g);
    if (status == KIN_OK) status = read_prompts(g);
    if (status == KIN_OK) status = make_job(g);
    if (status != KIN_OK) kin_generate_close(g);
    return status;
}

void kin_generate_close(kin_generate *g) {
    if (!g->pipeline.context) return;
    kin_job_free(g->context, &g->job);
    kin_prompts_free(g->context, &g->prompts);
    kin_free(g->context, g->sampler);
    kin_free(g->context, g->task_path);
    kin_free(g->context, g->task_strategy);
    kin_free(g->context, g->text_files);
    kin_free(g->context, g->latent_files);
    kin_free(g->context, g->frame_files);
    kin_pipeline_close(&g->pipeline);
    g->pipeline.context = NULL;
}
