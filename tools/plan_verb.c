/* kinora plan: what a model needs, without weights and without a device. */
#include "models/training.h"
#include "runtime/plan.h"
#include "tools/model_choice.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <jansson.h>
#include <string.h>

static const char verb[] = "plan";

typedef struct request {
    const char *model, *size, *memory, *compute, *weights, *part;
    int64_t batch, text_length, frames, height, width;
    uint64_t budget;
    bool train, json;
    kin_precision precision;
    kin_model_choice choice;
} request;

/* "16x256x256" (frames, rows, columns) or "256x256" (one frame). */
static bool parse_size(const char *text, request *r) {
    long long t = 1, y = 0, x = 0;
    int used = 0;
    bool good = sscanf(text, "%lldx%lldx%lld%n", &t, &y, &x, &used) == 3 && !text[used];
    if (!good) {
        t = 1;
        good = sscanf(text, "%lldx%lld%n", &y, &x, &used) == 2 && !text[used];
    }
    r->frames = t;
    r->height = y;
    r->width = x;
    return good && t >= 1 && y >= 1 && x >= 1 && t <= 1 << 20 && y <= 1 << 20 && x <= 1 << 20;
}

static bool parse_dtype(const char *text, kin_dtype *out) {
    return kin_dtype_from_name(text, out) &&
           (*out == KIN_F32 || *out == KIN_F16 || *out == KIN_BF16);
}

/* The optimizer of Open-Sora's training, as kinora train uses it. */
static const kin_optimizer_options optimizer = {
    .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1, .ema_decay = 0.9999};

enum { VAE_FACTOR = 8 }; /* of the published autoencoder, in front of every published denoiser */

static int64_t text_length(const request *r) {
    if (r->text_length > 0) return r->text_length;
    return r->choice.kind == KIN_MODEL_STDIT ? r->choice.stdit.model_max_length : 120;
}

static kin_status append_stdit(kin_graph *graph, const request *r) {
    const kin_stdit_config *c = &r->choice.stdit;
    int64_t length = text_length(r);
    int64_t rows = r->height / VAE_FACTOR, columns = r->width / VAE_FACTOR;
    if (rows < 1 || columns < 1 || r->height % VAE_FACTOR || r->width % VAE_FACTOR)
        return kin_fail(kin_graph_context(graph), KIN_INVALID,
                        "--size %s: rows and columns must be multiples of %d, the autoencoder's "
                        "factor",
                        r->size, VAE_FACTOR);
    if (r->train) {
        kin_schedule *schedule = NULL;
        kin_status status = kin_schedule_create(kin_graph_context(graph), 1000, NULL, &schedule);
        if (status != KIN_OK) return status;
        kin_video_training training = {.denoiser = c,
                                       .schedule = schedule,
                                       .scaling_factor = 0.18215,
                                       .caption_dropout = c->class_dropout_prob,
                                       .precision = r->precision,
                                       .batch = r->batch,
                                       .frames = r->frames,
                                       .latent_height = rows,
                                       .latent_width = columns,
                                       .text_length = length};
        kin_training_update(graph, kin_video_training_loss(graph, &training), &optimizer);
        kin_schedule_free(schedule);
        return kin_graph_status(graph);
    }
    int64_t x[5] = {r->batch, c->in_channels, r->frames, rows, columns};
    int64_t y[3] = {r->batch, length, c->caption_channels};
    kin_stdit_inputs inputs = {.x = kin_input(graph, "x", KIN_F32, 5, x),
                               .timestep = kin_input(graph, "timestep", KIN_F32, 1, &r->batch),
                               .y = kin_input(graph, "y", KIN_F32, 3, y),
                               .y_lengths = kin_input(graph, "y_lengths", KIN_I32, 1, &r->batch)};
    kin_output(graph, "out", kin_stdit(graph, c, &r->precision, &inputs));
    return kin_graph_status(graph);
}

static kin_status append_vae(kin_graph *graph, const request *r) {
    const kin_sd_vae_config *c = &r->choice.vae;
    int64_t factor = kin_sd_vae_factor(c), images = r->batch * r->frames;
    if (r->height % factor || r->width % factor)
        return kin_fail(kin_graph_context(graph), KIN_INVALID,
                        "--size %s: rows and columns must be multiples of %lld, the autoencoder's "
                        "factor",
                        r->size, (long long)factor);
    if (r->train) {
        kin_vae_training training = {.vae = c,
                                     .loss = {.l1 = 1, .kl = 1e-6},
                                     .precision = r->precision,
                                     .batch = images,
                                     .height = r->height,
                                     .width = r->width};
        kin_training_update(graph, kin_vae_training_loss(graph, &training), &optimizer);
    } else if (r->part && strcmp(r->part, "encoder") == 0) {
        int64_t dims[4] = {images, c->in_channels, r->height, r->width};
        kin_tensor x = kin_input(graph, "images", KIN_F32, 4, dims);
        kin_output(graph, "moments", kin_sd_vae_encode(graph, c, &r->precision, x, false));
    } else {
        int64_t dims[4] = {images, c->latent_channels, r->height / factor, r->width / factor};
        kin_tensor x = kin_input(graph, "latents", KIN_F32, 4, dims);
        kin_output(graph, "images", kin_sd_vae_decode(graph, c, &r->precision, x, false));
    }
    return kin_graph_status(graph);
}

static kin_status append_t5(kin_graph *graph, const request *r) {
    int64_t dims[2] = {r->batch, text_length(r)};
    if (r->train)
        return kin_fail(kin_graph_context(graph), KIN_INVALID,
                        "a text encoder is not trained alone: plan the denoiser with --train");
    kin_tensor ids = kin_input(graph, "ids", KIN_I32, 2, dims);
    kin_tensor lengths = kin_input(graph, "lengths", KIN_I32, 1, dims);
    kin_output(graph, "features",
               kin_t5_encode(graph, &r->choice.t5, &r->precision, ids, lengths, false));
    return kin_graph_status(graph);
}

static kin_status append_model(kin_graph *graph, const request *r) {
    switch (r->choice.kind) {
    case KIN_MODEL_STDIT:
        return append_stdit(graph, r);
    case KIN_MODEL_SD_VAE:
        return append_vae(graph, r);
    case KIN_MODEL_T5:
        return append_t5(graph, r);
    }
    return KIN_INVALID;
}

static int64_t count_parameters(const kin_graph *graph) {
    int64_t count = 0;
    for (int i = 0; i < kin_variable_count(graph); i++) {
        kin_tensor variable = kin_variable_at(graph, i);
        if (kin_variable_kind_of(graph, variable) == KIN_VARIABLE_WEIGHT)
            count += kin_desc_count(kin_tensor_desc(graph, variable));
    }
    return count;
}

static void print_bytes(const char *name, uint64_t bytes) {
    char text[32];
    printf("%-18s %15llu  %s\n", name, (unsigned long long)bytes,
           kin_bytes_text(bytes, text, sizeof text));
}

static void print_plan(const request *r, const kin_plan *plan, int64_t parameters, double seconds) {
    const kin_plan_summary *s = kin_plan_summarize(plan);
    char size[96];
    if (r->choice.kind == KIN_MODEL_T5)
        snprintf(size, sizeof size, "%lld x %lld tokens", (long long)r->batch,
                 (long long)text_length(r));
    else
        snprintf(size, sizeof size, "%lld x %lldx%lldx%lld", (long long)r->batch,
                 (long long)r->frames, (long long)r->height, (long long)r->width);
    printf("%s, %s, %s, on %s: %lld parameters\n", r->choice.name,
           r->train ? "one training step" : "one forward pass", size,
           kin_plan_device(plan)->info.name, (long long)parameters);
    print_bytes("weights", s->weights);
    print_bytes("activations", s->activations);
    print_bytes("gradients", s->gradients);
    print_bytes("optimizer state", s->states);
    print_bytes("inputs", s->inputs);
    print_bytes("constants", s->constants);
    print_bytes("arena", s->arena);
    print_bytes("lower bound", s->lower_bound);
    print_bytes("peak", s->peak);
    printf("\nlargest at the peak\n");
    for (int i = 0; i < s->largest_count; i++) {
        char shape[128], bytes[32];
        printf("  %10s  %-5s %-26s %s\n", kin_bytes_text(s->largest[i].bytes, bytes, sizeof bytes),
               kin_dtype_name(s->largest[i].desc.dtype),
               kin_desc_shape_text(&s->largest[i].desc, shape, sizeof shape), s->largest[i].name);
    }
    printf(
        "\n%d nodes, %d lowered, %d copies, %d of %d segments recomputed, %.4g TFLOP, planned in "
        "%.0f ms\n",
        s->nodes, s->kernels_missing, s->copies, s->segments_recomputed, s->segments,
        s->flops * 1e-12, 1e3 * seconds);
}

static int print_json(const request *r, const kin_plan *plan, int64_t parameters, double seconds) {
    const kin_plan_summary *s = kin_plan_summarize(plan);
    json_t *largest = json_array(), *size = json_pack("[I,I,I]", (json_int_t)r->frames,
                                                      (json_int_t)r->height, (json_int_t)r->width);
    for (int i = 0; i < s->largest_count; i++) {
        json_t *dims = json_array();
        for (int a = 0; a < s->largest[i].desc.rank; a++)
            json_array_append_new(dims, json_integer((json_int_t)s->largest[i].desc.dims[a]));
        json_array_append_new(largest,
                              json_pack("{s:s, s:I, s:s, s:o}", "name", s->largest[i].name, "bytes",
                                        (json_int_t)s->largest[i].bytes, "dtype",
                                        kin_dtype_name(s->largest[i].desc.dtype), "shape", dims));
    }
    json_t *root = json_pack(
        "{s:s, s:s, s:b, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "model",
        r->choice.name, "device", kin_plan_device(plan)->info.name, "train", r->train, "batch",
        (json_int_t)r->batch, "size", size, "parameters", (json_int_t)parameters, "weights",
        (json_int_t)s->weights, "activations", (json_int_t)s->activations, "gradients",
        (json_int_t)s->gradients, "optimizer_state", (json_int_t)s->states, "inputs",
        (json_int_t)s->inputs, "constants", (json_int_t)s->constants, "arena", (json_int_t)s->arena,
        "lower_bound", (json_int_t)s->lower_bound, "peak", (json_int_t)s->peak);
    json_t *more = json_pack("{s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:o}", "nodes", s->nodes,
                             "lowered", s->kernels_missing, "copies", s->copies, "segments",
                             s->segments, "segments_recomputed", s->segments_recomputed, "flops",
                             s->flops, "planning_seconds", seconds, "largest", largest);
    int failed = !root || !more || json_object_update(root, more) != 0 ||
                 json_dumpf(root, stdout, JSON_INDENT(1)) != 0;
    putchar('\n');
    json_decref(root);
    json_decref(more);
    return failed ? KIN_EXIT_FAILED : KIN_EXIT_OK;
}

static int run(kin_common *common, const request *r) {
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    kin_plan_options options = {.struct_size = sizeof options, .memory_budget = r->budget};
    kin_status status = kin_graph_create(common->context, &graph);
    double start = kin_seconds();
    if (status == KIN_OK) status = append_model(graph, r);
    if (status == KIN_OK) status = kin_plan_build(graph, common->handle, &options, &plan);
    double seconds = kin_seconds() - start;
    int code = KIN_EXIT_OK;
    if (status != KIN_OK) code = kin_report(common->context, verb, status);
    else if (r->json) code = print_json(r, plan, count_parameters(graph), seconds);
    else print_plan(r, plan, count_parameters(graph), seconds);
    kin_plan_free(plan);
    kin_graph_destroy(graph);
    return code;
}

static int check_request(request *r) {
    if (r->size && !parse_size(r->size, r))
        return kin_usage_error(verb, "--size wants FRAMESxROWSxCOLUMNS, not \"%s\"", r->size);
    if (r->memory && !kin_parse_bytes(r->memory, &r->budget))
        return kin_usage_error(verb, "--memory wants bytes such as 8G, not \"%s\"", r->memory);
    if (!parse_dtype(r->compute, &r->precision.compute) ||
        !parse_dtype(r->weights, &r->precision.weights))
        return kin_usage_error(verb, "--compute and --weights want f32, bf16 or f16");
    if (r->part && strcmp(r->part, "encoder") != 0 && strcmp(r->part, "decoder") != 0)
        return kin_usage_error(verb, "--part wants encoder or decoder, not \"%s\"", r->part);
    if (r->batch < 1 || r->batch > 1 << 20)
        return kin_usage_error(verb, "--batch must be at least 1");
    return -1;
}

int kin_verb_plan(int count, char **arguments) {
    kin_common common = {.device = "null"};
    request r = {
        .compute = "f32", .weights = "f32", .batch = 1, .frames = 16, .height = 256, .width = 256};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "size",
         .argument = "TxHxW",
         .text = &r.size,
         .help = "frames, rows and columns of the video; default 16x256x256"},
        {.name = "batch", .letter = 'b', .argument = "N", .integer = &r.batch, .help = "clips"},
        {.name = "train", .on = &r.train, .help = "a whole training step, AdamW and EMA included"},
        {.name = "memory",
         .argument = "BYTES",
         .text = &r.memory,
         .help = "budget for everything, such as 8G: segments are recomputed to keep it"},
        {.name = "compute",
         .argument = "DTYPE",
         .text = &r.compute,
         .help = "f32 (default), bf16 or f16, between the layers"},
        {.name = "weights",
         .argument = "DTYPE",
         .text = &r.weights,
         .help = "f32 (default), bf16 or f16, of the weights"},
        {.name = "text-length",
         .argument = "N",
         .integer = &r.text_length,
         .help = "tokens of a caption; default: the model's"},
        {.name = "part",
         .argument = "NAME",
         .text = &r.part,
         .help = "of a VAE without --train: encoder or decoder (default)"},
        {.name = "json", .on = &r.json, .help = "one JSON object on standard output"},
        KIN_COMMON_FLAGS(&common),
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 1, &left);
    if (status < 0) status = check_request(&r);
    if (status < 0) status = kin_common_open(&common, true);
    if (status >= 0) return status;
    r.model = arguments[0];
    kin_status chosen = kin_model_choose(common.context, r.model, &r.choice);
    status = chosen == KIN_OK ? run(&common, &r) : kin_report(common.context, verb, chosen);
    kin_common_close(&common);
    return status;
}
