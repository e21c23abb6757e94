#include "models/denoiser.h"

#include <string.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/split.h"
#include "ops/views.h"
#include "runtime/json.h"

enum { VAE_FACTOR = 8, DEFAULT_TEXT = 120, PLAN_TEXT = 512 };

typedef struct published {
    kin_denoiser_kind kind;
    const char *name;
} published;

/* Each before those that have all its weights and more. */
static const published published_sizes[] = {
    {KIN_DENOISER_STDIT, "STDiT-XL/2"},
    {KIN_DENOISER_STDIT, "STDiT-L/2"},
    {KIN_DENOISER_STDIT, "STDiT-B/2"},
    {KIN_DENOISER_STDIT, "STDiT-S/2"},
    {KIN_DENOISER_STDIT2, "STDiT2-XL/2"},
    {KIN_DENOISER_STDIT2, "STDiT2-B/2"},
    {KIN_DENOISER_STDIT2, "STDiT2-S/2"},
    {KIN_DENOISER_PIXART, "PixArt-XL-2-512x512"},
    {KIN_DENOISER_PIXART, "PixArt-XL-2-256x256"},
    {KIN_DENOISER_PIXART, "PixArt-XL-2-1024-MS"},
    {KIN_DENOISER_LATTE, "Latte-1"},
    {KIN_DENOISER_OPENSORA_PLAN, "OpenSoraT2V-ROPE-L/122"},
    {KIN_DENOISER_OPENSORA_PLAN, "OpenSoraT2V-ROPE-L/122-480p"}};

const char *kin_denoiser_kind_name(kin_denoiser_kind kind) {
    static const char *const names[] = {"STDiT", "STDiT2", "Latte", "PixArt", "OpenSoraT2V"};
    return names[kind];
}

int kin_denoiser_named_count(void) {
    return (int)(sizeof published_sizes / sizeof *published_sizes);
}

bool kin_denoiser_named_at(kin_context *context, int index, const char **out_name,
                           kin_denoiser_config *out_config) {
    if (index < 0 || index >= kin_denoiser_named_count()) return false;
    const char *name = published_sizes[index].name;
    kin_denoiser_config c = {.kind = published_sizes[index].kind};
    kin_status status = KIN_OK;
    if (c.kind == KIN_DENOISER_STDIT) status = kin_stdit_config_named(context, name, &c.stdit);
    else if (c.kind == KIN_DENOISER_STDIT2)
        status = kin_stdit2_config_named(context, name, &c.stdit2);
    else if (c.kind == KIN_DENOISER_PIXART)
        status = kin_pixart_config_named(context, name, &c.pixart);
    else if (c.kind == KIN_DENOISER_OPENSORA_PLAN)
        status = kin_opensora_plan_config_named(context, name, &c.opensora_plan);
    else c.pixart = kin_latte_config_default();
    *out_name = name;
    *out_config = c;
    return status == KIN_OK;
}

static bool begins(const char *text, const char *prefix) {
    return text && strncmp(text, prefix, strlen(prefix)) == 0;
}

/* By the name of the class, in whichever key it is; else by the keys. */
static kin_denoiser_kind kind_of(const json_t *json) {
    static const char *const keys[] = {"_class_name", "model_type", "type"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *name = json_string_value(json_object_get(json, keys[i]));
        if (begins(name, "STDiT2")) return KIN_DENOISER_STDIT2;
        if (begins(name, "STDiT")) return KIN_DENOISER_STDIT;
        if (begins(name, "Latte")) return KIN_DENOISER_LATTE;
        if (begins(name, "OpenSoraT2V")) return KIN_DENOISER_OPENSORA_PLAN;
        if (begins(name, "PixArt") || begins(name, "Transformer2DModel"))
            return KIN_DENOISER_PIXART;
    }
    if (json_object_get(json, "interpolation_scale_t")) return KIN_DENOISER_OPENSORA_PLAN;
    if (json_object_get(json, "attention_head_dim"))
        return json_object_get(json, "video_length") ? KIN_DENOISER_LATTE : KIN_DENOISER_PIXART;
    return json_object_get(json, "input_sq_size") ? KIN_DENOISER_STDIT2 : KIN_DENOISER_STDIT;
}

kin_status kin_denoiser_config_parse(kin_context *context, const json_t *json, const char *where,
                                     kin_unknown_keys unknown, kin_denoiser_config *out_config) {
    kin_denoiser_config c = {.kind = kind_of(json)};
    kin_status status;
    if (c.kind == KIN_DENOISER_STDIT)
        status = kin_stdit_config_parse(context, json, where, unknown, &c.stdit);
    else if (c.kind == KIN_DENOISER_STDIT2)
        status = kin_stdit2_config_parse(context, json, where, unknown, &c.stdit2);
    else if (c.kind == KIN_DENOISER_LATTE)
        status = kin_latte_config_parse(context, json, where, unknown, &c.pixart);
    else if (c.kind == KIN_DENOISER_OPENSORA_PLAN)
        status = kin_opensora_plan_config_parse(context, json, where, unknown, &c.opensora_plan);
    else status = kin_pixart_config_parse(context, json, where, unknown, &c.pixart);
    if (status == KIN_OK) *out_config = c;
    return status;
}

/* Behind what wrappers of a training put in front of every name: data parallelism, compilation, a
 * module around the model. */
static const char *bare_name(const char *name) {
    static const char *const wrappers[] = {"module.", "model.", "_orig_mod."};
    enum { WRAPPERS = sizeof wrappers / sizeof *wrappers };
    for (size_t i = 0; i < WRAPPERS;) {
        bool found = begins(name, wrappers[i]);
        if (found) name += strlen(wrappers[i]);
        i = found ? 0 : i + 1;
    }
    return name;
}

bool kin_denoiser_rename(const void *config, const char *file_name, char *out_name, size_t size) {
    const kin_denoiser_config *c = config;
    file_name = bare_name(file_name);
    switch (c->kind) {
    case KIN_DENOISER_STDIT:
        return kin_stdit_rename(&c->stdit, file_name, out_name, size);
    case KIN_DENOISER_STDIT2:
        return kin_stdit2_rename(&c->stdit2, file_name, out_name, size);
    case KIN_DENOISER_LATTE:
        return kin_latte_rename(&c->pixart, file_name, out_name, size);
    case KIN_DENOISER_PIXART:
        return kin_pixart_rename(&c->pixart, file_name, out_name, size);
    case KIN_DENOISER_OPENSORA_PLAN:
        return kin_opensora_plan_rename(&c->opensora_plan, file_name, out_name, size);
    }
    return false;
}

/* What STDiT and STDiT2 have in common; NULL for the others. */
static const kin_stdit_config *stdit_of(const kin_denoiser_config *config) {
    if (config->kind == KIN_DENOISER_STDIT) return &config->stdit;
    return config->kind == KIN_DENOISER_STDIT2 ? &config->stdit2.common : NULL;
}

kin_denoiser_shape kin_denoiser_shape_of(const kin_denoiser_config *config) {
    const kin_stdit_config *stdit = stdit_of(config);
    const kin_opensora_plan_config *plan = &config->opensora_plan;
    if (stdit)
        return (kin_denoiser_shape){.in_channels = stdit->in_channels,
                                    .out_channels = kin_stdit_out_channels(stdit),
                                    .patch = stdit->patch_size[1] > stdit->patch_size[2]
                                                 ? stdit->patch_size[1]
                                                 : stdit->patch_size[2],
                                    .patch_t = stdit->patch_size[0],
                                    .size_multiple = 1,
                                    .frame_multiple = 1,
                                    .caption_channels = stdit->caption_channels,
                                    .text_length = stdit->model_max_length,
                                    .null_captions = stdit->class_dropout_prob,
                                    .own_null_caption = true,
                                    .frame_masks = config->kind == KIN_DENOISER_STDIT2};
    if (config->kind == KIN_DENOISER_OPENSORA_PLAN)
        return (kin_denoiser_shape){.in_channels = plan->in_channels,
                                    .out_channels = plan->out_channels,
                                    .patch = plan->patch_size,
                                    .patch_t = plan->patch_size_t,
                                    .size_multiple = plan->patch_size,
                                    .frame_multiple = plan->patch_size_t,
                                    .caption_channels = plan->caption_channels,
                                    .text_length = PLAN_TEXT,
                                    .joint_pictures = true};
    return (kin_denoiser_shape){.in_channels = config->pixart.in_channels,
                                .out_channels = config->pixart.out_channels,
                                .patch = config->pixart.patch_size,
                                .patch_t = 1,
                                .size_multiple = 1,
                                .frame_multiple = 1,
                                .caption_channels = config->pixart.caption_channels,
                                .text_length = DEFAULT_TEXT,
                                .pictures = config->kind == KIN_DENOISER_PIXART,
                                .joint_pictures = config->kind == KIN_DENOISER_LATTE};
}

/* The video's numbers, with what is not said filled in. */
typedef struct video_numbers {
    double height, width, ratio, frames, fps;
} video_numbers;

static video_numbers numbers_of(const kin_graph *graph, const kin_denoiser_inputs *in) {
    video_numbers n = {.height = in->height,
                       .width = in->width,
                       .ratio = in->aspect_ratio,
                       .frames = (double)kin_dim(graph, in->x, 2),
                       .fps = in->fps};
    if (n.height == 0) n.height = (double)(VAE_FACTOR * kin_dim(graph, in->x, 3));
    if (n.width == 0) n.width = (double)(VAE_FACTOR * kin_dim(graph, in->x, 4));
    if (n.ratio == 0) n.ratio = n.height / n.width;
    if (n.fps == 0) n.fps = n.frames == 1 ? 120 : 24;
    return n;
}

static kin_tensor append_stdit2(kin_graph *g, const kin_denoiser_config *config,
                                const kin_precision *precision, const kin_denoiser_inputs *in) {
    int64_t batch = kin_dim(g, in->x, 0);
    video_numbers n = numbers_of(g, in);
    kin_stdit2_inputs inputs = {.x = in->x,
                                .timestep = in->timestep,
                                .y = in->y,
                                .y_lengths = in->y_lengths,
                                .drop = in->drop,
                                .frame_mask = in->frame_mask,
                                .height = kin_fill(g, KIN_F32, 1, &batch, n.height),
                                .width = kin_fill(g, KIN_F32, 1, &batch, n.width),
                                .ar = kin_fill(g, KIN_F32, 1, &batch, n.ratio),
                                .num_frames = kin_fill(g, KIN_F32, 1, &batch, n.frames),
                                .fps = in->each_fps.id ? in->each_fps
                                                       : kin_fill(g, KIN_F32, 1, &batch, n.fps),
                                .pixels = {n.height, n.width}};
    return kin_stdit2(g, &config->stdit2, precision, &inputs);
}

static kin_tensor append_pixart(kin_graph *g, const kin_denoiser_config *config,
                                const kin_precision *precision, const kin_denoiser_inputs *in) {
    int64_t dims[] = {kin_dim(g, in->x, 0), kin_dim(g, in->x, 1), kin_dim(g, in->x, 3),
                      kin_dim(g, in->x, 4)};
    int64_t one[] = {dims[0], 1};
    kin_pixart_inputs inputs = {.x = kin_reshape(g, in->x, 4, dims),
                                .timestep = in->timestep,
                                .text = in->y,
                                .text_lengths = in->y_lengths};
    if (config->pixart.use_additional_conditions) {
        video_numbers n = numbers_of(g, in);
        kin_tensor sizes[] = {kin_fill(g, KIN_F32, 2, one, n.height),
                              kin_fill(g, KIN_F32, 2, one, n.width)};
        inputs.resolution = kin_concat(g, sizes, 2, 1);
        inputs.aspect_ratio = kin_fill(g, KIN_F32, 2, one, n.ratio);
    }
    kin_tensor out = kin_pixart(g, &config->pixart, precision, &inputs);
    return kin_reshape(g, out, 5,
                       (int64_t[]){dims[0], config->pixart.out_channels, 1, dims[2], dims[3]});
}

/* lengths i32 [B, 1 + I] -> f32 [B, 1 + I, L]: 1 for the first tokens of each caption. */
static kin_tensor mask_of_lengths(kin_graph *g, kin_tensor lengths, int64_t tokens) {
    kin_context *context = kin_graph_context(g);
    float *index = kin_alloc(context, (size_t)tokens * sizeof *index);
    if (!index) return kin_graph_fail(g, KIN_OUT_OF_MEMORY, "no host memory for a text mask");
    for (int64_t i = 0; i < tokens; i++) index[i] = (float)i;
    kin_tensor places = kin_constant(g, KIN_F32, 3, (int64_t[]){1, 1, tokens}, index);
    kin_free(context, index);
    int64_t dims[] = {kin_dim(g, lengths, 0), kin_dim(g, lengths, 1), 1};
    return kin_less(g, places, kin_reshape(g, kin_cast(g, lengths, KIN_F32), 3, dims));
}

static kin_tensor append_opensora_plan(kin_graph *g, const kin_denoiser_config *config,
                                       const kin_precision *precision,
                                       const kin_denoiser_inputs *in) {
    kin_opensora_plan_inputs inputs = {
        .x = in->x, .timestep = in->timestep, .text = in->y, .mask = in->real};
    kin_tensor lengths = in->y_lengths;
    if (kin_rank(g, in->y) == 3) {
        int64_t dims[] = {kin_dim(g, in->y, 0), 1, kin_dim(g, in->y, 1), kin_dim(g, in->y, 2)};
        inputs.text = kin_reshape(g, in->y, 4, dims);
        if (lengths.id) lengths = kin_reshape(g, lengths, 2, (int64_t[]){dims[0], 1});
    }
    if (kin_graph_status(g) != KIN_OK) return KIN_NONE;
    if (kin_rank(g, inputs.text) != 4 || kin_dim(g, inputs.text, 1) != 1 + in->images)
        return kin_graph_fail(g, KIN_INVALID,
                              "OpenSoraT2V: %d images need as many captions and one more, in y "
                              "[B, captions, L, C]",
                              in->images);
    if (lengths.id) inputs.text_mask = mask_of_lengths(g, lengths, kin_dim(g, inputs.text, 2));
    return kin_opensora_plan(g, &config->opensora_plan, precision, &inputs);
}

/* False, with an error in the graph, if something is asked of a kind that does not know it. */
static bool fits(kin_graph *g, const kin_denoiser_config *config, const kin_denoiser_inputs *in) {
    kin_denoiser_shape shape = kin_denoiser_shape_of(config);
    const char *what = NULL;
    if (kin_graph_status(g) != KIN_OK) return false;
    if (kin_rank(g, in->x) != 5) what = "latents that are not [B, C, T, Y, X]";
    else if (in->drop.id && !shape.own_null_caption) what = "a null caption";
    else if (in->frame_mask.id && !shape.frame_masks) what = "given frames";
    else if (in->images && !shape.joint_pictures) what = "pictures beside a video";
    else if (in->real.id && config->kind != KIN_DENOISER_OPENSORA_PLAN) what = "padded latents";
    else if (shape.pictures && kin_dim(g, in->x, 2) != 1) what = "more than one frame";
    if (what)
        kin_graph_fail(g, KIN_INVALID, "%s does not know %s", kin_denoiser_kind_name(config->kind),
                       what);
    return !what;
}

kin_tensor kin_denoiser(kin_graph *graph, const kin_denoiser_config *config,
                        const kin_precision *precision, const kin_denoiser_inputs *inputs) {
    const kin_denoiser_inputs *in = inputs;
    if (!fits(graph, config, in)) return KIN_NONE;
    if (config->kind == KIN_DENOISER_STDIT2) return append_stdit2(graph, config, precision, in);
    if (config->kind == KIN_DENOISER_PIXART) return append_pixart(graph, config, precision, in);
    if (config->kind == KIN_DENOISER_OPENSORA_PLAN)
        return append_opensora_plan(graph, config, precision, in);
    if (config->kind == KIN_DENOISER_LATTE) {
        kin_latte_inputs latte = {.x = in->x,
                                  .timestep = in->timestep,
                                  .text = in->y,
                                  .text_lengths = in->y_lengths,
                                  .images = in->images};
        return kin_latte(graph, &config->pixart, precision, &latte);
    }
    kin_stdit_inputs stdit = {.x = in->x,
                              .timestep = in->timestep,
                              .y = in->y,
                              .y_lengths = in->y_lengths,
                              .drop = in->drop};
    return kin_stdit(graph, &config->stdit, precision, &stdit);
}

/* Captions and null captions, in the order of the sampler's samples. */
static void guided_text(kin_graph *g, const kin_denoiser_sampling *s, kin_denoiser_inputs *in) {
    const kin_stdit_config *stdit = stdit_of(s->config);
    kin_tensor half[2] = {s->y, s->null_y}, length[2] = {s->y_lengths, s->null_lengths};
    if (stdit && !s->null_y.id) {
        kin_tensor both, lengths;
        kin_stdit_guided_text(g, stdit, s->precision, s->y, s->y_lengths, &both, &lengths);
        kin_split(g, both, 0, 2, half);
        length[1] = KIN_NONE; /* cut to the caption's, as the original does it */
    }
    if (!half[1].id) {
        kin_graph_fail(g, KIN_INVALID, "%s has no null caption: guidance needs a negative prompt",
                       kin_denoiser_kind_name(s->config->kind));
        return;
    }
    if (!length[1].id) length[1] = length[0];
    if (length[0].id)
        in->y_lengths =
            kin_concat(g, (kin_tensor[]){length[s->null_first], length[!s->null_first]}, 2, 0);
    else if (length[1].id)
        kin_graph_fail(g, KIN_INVALID, "lengths of the negative prompts but none of the captions");
    in->y = kin_concat(g, (kin_tensor[]){half[s->null_first], half[!s->null_first]}, 2, 0);
}

kin_tensor kin_denoiser_sample_masked(void *user, kin_graph *graph, kin_tensor x,
                                      kin_tensor timestep, kin_tensor frame_mask) {
    const kin_denoiser_sampling *s = user;
    kin_denoiser_inputs in = {.x = x,
                              .timestep = timestep,
                              .y = s->y,
                              .y_lengths = s->y_lengths,
                              .frame_mask = frame_mask,
                              .height = s->height,
                              .width = s->width,
                              .aspect_ratio = s->aspect_ratio,
                              .fps = s->fps};
    if (s->scope) kin_scope_push(graph, "%s", s->scope);
    if (s->guided) guided_text(graph, s, &in);
    kin_tensor out = kin_denoiser(graph, s->config, s->precision, &in);
    if (s->scope) kin_scope_pop(graph);
    return out;
}

kin_tensor kin_denoiser_sample(void *user, kin_graph *graph, kin_tensor x, kin_tensor timestep) {
    return kin_denoiser_sample_masked(user, graph, x, timestep, KIN_NONE);
}

void kin_denoiser_keep_null_caption(kin_graph *graph, const kin_denoiser_config *config,
                                    const kin_precision *precision, kin_tensor y) {
    const kin_stdit_config *stdit = stdit_of(config);
    kin_tensor both, lengths;
    if (stdit) kin_stdit_guided_text(graph, stdit, precision, y, KIN_NONE, &both, &lengths);
}
