/* The front over the autoencoders, and the coder of whole videos: configurations there and back,
 * sizes, coding at once and in pieces, in memory that a device counts.
 *
 * What the coder gives, however it cuts, must be what the front's graph gives at once, within 1e-5
 * of the largest value (the same sums in another order). Negative controls: one other number in the
 * input, the original's lossy tiling, a limit of memory that is one byte short.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "models/vae_temporal.h"
#include "ops/elementwise.h"
#include "runtime/json.h"
#include "runtime/philox.h"
#include "runtime/weights.h"
#include "tests/wrapped_device.h"
#include "tools/generate/vae_coder.h"

static const kin_precision f32 = {KIN_F32, KIN_F32};

typedef struct world {
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    char folder[64], file[96];
} world;

static world open_world(void) {
    world w = {0};
    kin_context_options options = {.struct_size = sizeof options, .threads = 1};
    assert_int_equal(kin_context_create(&options, &w.context), KIN_OK);
    assert_int_equal(kin_backends_load(w.context, NULL, &w.backends), KIN_OK);
    assert_int_equal(kin_device_open(w.backends, "cpu", &w.device), KIN_OK);
    snprintf(w.folder, sizeof w.folder, "/tmp/kinora-vae-XXXXXX");
    assert_non_null(mkdtemp(w.folder));
    snprintf(w.file, sizeof w.file, "%s/model.safetensors", w.folder);
    return w;
}

static void close_world(world *w) {
    unlink(w->file);
    rmdir(w->folder);
    kin_device_close(w->device);
    kin_backends_free(w->backends);
    kin_context_destroy(w->context);
}

static void must(world *w, kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(w->context));
}

/* Small ones of each kind. */
static kin_vae_config small(kin_vae_kind kind) {
    kin_vae_config c = {
        .kind = kind, .sd = kin_sd_vae_config_default(), .causal = kin_causal_vae_config_default()};
    c.sd.levels = 3;
    c.sd.norm_num_groups = 4;
    for (int i = 0; i < 3; i++) c.sd.block_out_channels[i] = i == 0 ? 8 : 16;
    c.sd.layers_per_block = kind == KIN_VAE_TEMPORAL ? 2 : 1;
    c.causal.hidden_size = 32;
    for (int i = 0; i < 4; i++) c.causal.hidden_size_mult[i] = i == 3 ? 2 : 1;
    c.causal.num_res_blocks = 1;
    return c;
}

/* ---- configurations ------------------------------------------------------------------------- */

static void there_and_back(world *w, const kin_vae_config *config) {
    json_t *json = NULL, *again = NULL;
    kin_vae_config read;
    must(w, kin_vae_config_json(w->context, config, &json));
    assert_string_equal(json_string_value(json_object_get(json, "_class_name")),
                        kin_vae_kind_name(config->kind));
    must(w, kin_vae_config_parse(w->context, json, "c", KIN_UNKNOWN_KEYS_FAIL, &read));
    assert_int_equal(read.kind, config->kind);
    must(w, kin_vae_config_json(w->context, &read, &again));
    assert_true(json_equal(json, again));
    if (config->kind == KIN_VAE_CAUSAL)
        assert_memory_equal(&read.causal, &config->causal, sizeof read.causal);
    else assert_int_equal(read.sd.levels, config->sd.levels);
    /* Without the name the keys tell. */
    json_object_del(json, "_class_name");
    must(w, kin_vae_config_parse(w->context, json, "c", KIN_UNKNOWN_KEYS_FAIL, &read));
    assert_int_equal(read.kind, config->kind);
    /* Another class is refused by name. */
    json_object_set_new(json, "_class_name", json_string("VQModel"));
    assert_int_equal(kin_vae_config_parse(w->context, json, "c", KIN_UNKNOWN_KEYS_FAIL, &read),
                     KIN_UNSUPPORTED);
    assert_non_null(strstr(kin_context_error(w->context), "VQModel"));
    json_decref(json);
    json_decref(again);
}

static void test_configurations(void **state) {
    (void)state;
    world w = open_world();
    for (int kind = 0; kind <= KIN_VAE_CAUSAL; kind++) {
        kin_vae_config c = small((kin_vae_kind)kind);
        if (kind == KIN_VAE_TEMPORAL) c.sd.norm_num_groups = 32; /* not in its file */
        for (int i = 0; i < 3; i++) c.sd.block_out_channels[i] = 32 << i;
        there_and_back(&w, &c);
    }
    kin_vae_config c = {.kind = KIN_VAE_CAUSAL};
    must(&w, kin_causal_vae_config_named(w.context, "causal-vae-1.2", &c.causal));
    there_and_back(&w, &c);
    close_world(&w);
}

static void test_sizes(void **state) {
    (void)state;
    kin_vae_config sd = small(KIN_VAE_SD), causal = small(KIN_VAE_CAUSAL);
    kin_vae_shape shape = kin_vae_shape_of(&sd);
    assert_true(shape.channels == 4 && shape.space_factor == 4 && shape.time_factor == 1);
    shape = kin_vae_shape_of(&causal);
    assert_true(shape.channels == 4 && shape.space_factor == 8 && shape.time_factor == 4);
    assert_int_equal(kin_vae_latent_frames(&sd, 17), 17);
    assert_int_equal(kin_vae_latent_frames(&causal, 33), 9);
    assert_int_equal(kin_vae_latent_frames(&causal, 32), 8);
    assert_int_equal(kin_vae_latent_frames(&causal, 1), 1);
    assert_int_equal(kin_vae_latent_frames(&causal, 0), 0);
    assert_int_equal(kin_vae_video_frames(&causal, 9), 33);
    assert_int_equal(kin_vae_video_frames(&causal, 8), 29);
}

/* ---- coding --------------------------------------------------------------------------------- */

static kin_host_tensor random_video(world *w, uint32_t stream, const int64_t dims[5]) {
    kin_host_tensor x;
    must(w, kin_host_tensor_create(w->context, KIN_F32, 5, dims, &x));
    kin_philox_fill_normal(5, stream, 0, 0, (size_t)kin_desc_count(&x.desc), x.data);
    return x;
}

static double largest_gap(const float *a, const float *b, int64_t count) {
    double gap = 0, largest = 0;
    for (int64_t i = 0; i < count; i++) {
        gap = fmax(gap, fabs((double)a[i] - b[i]));
        largest = fmax(largest, fabs((double)b[i]));
        assert_true(isfinite(a[i]) && isfinite(b[i]));
    }
    return gap / largest;
}

/* Random weights of both halves in w->file. */
static void write_weights(world *w, const kin_vae_config *config) {
    kin_vae_shape shape = kin_vae_shape_of(config);
    int64_t side = shape.space_factor * 2;
    kin_graph *graph;
    kin_store *store;
    must(w, kin_graph_create(w->context, &graph));
    kin_tensor video = kin_input(graph, "video", KIN_F32, 5, (int64_t[]){1, 3, 1, side, side});
    kin_tensor latent =
        kin_input(graph, "latent", KIN_F32, 5, (int64_t[]){1, shape.channels, 1, 2, 2});
    kin_vae_encode(graph, config, &f32, video);
    kin_vae_decode(graph, config, &f32, latent);
    must(w, kin_graph_status(graph));
    must(w, kin_store_create(w->device, &store));
    must(w, kin_store_add_graph(store, graph, 3));
    for (size_t i = 0; i < kin_store_count(store); i++) {
        kin_store_entry *entry = kin_store_at(store, i);
        size_t count = (size_t)kin_desc_count(&entry->desc);
        double spread =
            entry->desc.rank > 1 ? 1.2 / sqrt((double)count / (double)entry->desc.dims[0]) : 0.5;
        float *values = malloc(count * sizeof *values);
        kin_philox_fill_normal(9, (uint32_t)i, 0, 0, count, values);
        for (size_t k = 0; k < count; k++) values[k] = (float)(spread * values[k]);
        must(w, kin_store_write(store, entry->name, KIN_F32, values));
        free(values);
    }
    must(w, kin_weights_save(store, w->file, NULL, NULL, KIN_F32, NULL, 0));
    kin_store_free(store);
    kin_graph_destroy(graph);
}

/* The front's graph over the whole batch, in fresh memory. */
static kin_host_tensor run_front(world *w, const kin_vae_config *config, bool encode,
                                 const kin_host_tensor *x) {
    kin_weights_options load = {
        .rename = kin_vae_rename, .config = config, .allow_unexpected = true};
    kin_graph *graph;
    kin_store *store;
    kin_plan *plan;
    kin_host_tensor y;
    must(w, kin_graph_create(w->context, &graph));
    kin_tensor in = kin_input(graph, "x", KIN_F32, 5, x->desc.dims);
    kin_output(graph, "y",
               encode ? kin_vae_encode(graph, config, &f32, in)
                      : kin_vae_decode(graph, config, &f32, in));
    must(w, kin_plan_build(graph, w->device, NULL, &plan));
    must(w, kin_store_create(w->device, &store));
    must(w, kin_store_add_graph(store, graph, 0));
    must(w, kin_weights_load(store, w->file, &load, NULL));
    must(w, kin_plan_prepare(plan, store, NULL));
    must(w, kin_plan_write(plan, "x", KIN_F32, x->data));
    must(w, kin_plan_run(plan));
    must(w,
         kin_host_tensor_create(w->context, KIN_F32, 5, kin_plan_output_desc(plan, "y")->dims, &y));
    must(w, kin_plan_read(plan, "y", KIN_F32, y.data));
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
    return y;
}

/* Bytes of the weights of one half. */
static uint64_t half_bytes(world *w, const kin_vae_config *config, bool encode) {
    kin_vae_shape shape = kin_vae_shape_of(config);
    int64_t side = shape.space_factor * 2;
    kin_graph *graph;
    kin_plan *plan;
    must(w, kin_graph_create(w->context, &graph));
    if (encode) {
        int64_t dims[5] = {1, 3, 1, side, side};
        kin_output(graph, "y",
                   kin_vae_encode(graph, config, &f32, kin_input(graph, "x", KIN_F32, 5, dims)));
    } else {
        int64_t dims[5] = {1, shape.channels, 1, 2, 2};
        kin_output(graph, "y",
                   kin_vae_decode(graph, config, &f32, kin_input(graph, "x", KIN_F32, 5, dims)));
    }
    must(w, kin_plan_build(graph, w->device, NULL, &plan));
    uint64_t bytes = kin_plan_summarize(plan)->weights;
    kin_plan_free(plan);
    kin_graph_destroy(graph);
    return bytes;
}

static kin_host_tensor run_coder(world *w, kin_vae_coder *coder, bool encode,
                                 const kin_host_tensor *x) {
    kin_host_tensor y;
    must(w, encode ? kin_vae_coder_encode(coder, x, &y) : kin_vae_coder_decode(coder, x, &y));
    return y;
}

static const double allowed = 1e-5;

/* Two videos of each kind, both ways; 17 frames are two chunks of the temporal decoder. */
static void coder_is_front(kin_vae_kind kind) {
    world w = open_world();
    kin_vae_config config = small(kind);
    kin_vae_shape shape = kin_vae_shape_of(&config);
    kin_vae_coder_options options = {.precision = f32};
    kin_vae_coder *coder;
    write_weights(&w, &config);
    must(&w, kin_vae_coder_open(w.device, &config, w.file, &options, &coder));
    int64_t frames = kind == KIN_VAE_TEMPORAL ? 17 : 5;
    int64_t latents = kin_vae_latent_frames(&config, frames), f = shape.space_factor;
    for (int encode = 0; encode < 2; encode++) {
        int64_t video[5] = {2, 3, frames, 2 * f, 3 * f};
        int64_t latent[5] = {2, shape.channels, latents, 2, 3};
        kin_host_tensor x = random_video(&w, 1, encode ? video : latent);
        kin_host_tensor want = run_front(&w, &config, encode, &x);
        kin_host_tensor got = run_coder(&w, coder, encode, &x);
        assert_true(kin_desc_same_shape(&want.desc, &got.desc));
        int64_t count = kin_desc_count(&want.desc);
        assert_true(largest_gap(got.data, want.data, count) < allowed);
        ((float *)x.data)[7] += 1;
        kin_host_tensor other = run_coder(&w, coder, encode, &x);
        assert_true(largest_gap(other.data, want.data, count) > 100 * allowed);
        kin_host_tensor_free(w.context, &x);
        kin_host_tensor_free(w.context, &want);
        kin_host_tensor_free(w.context, &got);
        kin_host_tensor_free(w.context, &other);
    }
    kin_vae_coder_close(coder);
    close_world(&w);
}

static void test_sd(void **state) {
    (void)state;
    coder_is_front(KIN_VAE_SD);
}

static void test_temporal(void **state) {
    (void)state;
    coder_is_front(KIN_VAE_TEMPORAL);
}

static void test_causal(void **state) {
    (void)state;
    coder_is_front(KIN_VAE_CAUSAL);
}

/* ---- cutting -------------------------------------------------------------------------------- */

/* Buffers of a device that counts its memory. */
typedef struct counting_device {
    wrapped_device wrapped; /* first */
    size_t sizes[4096];
    kin_buffer *buffers[4096];
    size_t used, most;
} counting_device;

static kin_status count_allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    counting_device *c = (counting_device *)(void *)device;
    kin_status status = kin_backend_cpu.allocate(device, size, out_buffer);
    int i = 0;
    while (c->buffers[i]) i++;
    assert_true(i < 4096);
    c->buffers[i] = *out_buffer;
    c->sizes[i] = size;
    c->used += size;
    if (c->used > c->most) c->most = c->used;
    return status;
}

static void count_release(kin_device *device, kin_buffer *buffer) {
    counting_device *c = (counting_device *)(void *)device;
    int i = 0;
    while (i < 4096 && c->buffers[i] != buffer) i++;
    assert_true(i < 4096);
    c->buffers[i] = NULL;
    c->used -= c->sizes[i];
    kin_backend_cpu.release(device, buffer);
}

static counting_device *open_counting(world *w, bool own_memory) {
    counting_device *c = calloc(1, sizeof *c);
    wrap_device(&c->wrapped, w->device);
    c->wrapped.table.allocate = count_allocate;
    c->wrapped.table.release = count_release;
    if (own_memory) c->wrapped.table.address = NULL;
    return c;
}

typedef struct cut_case {
    const char *name;
    kin_vae_kind kind;
    const char *version; /* of the causal one; NULL: what small() says */
    bool encode, own_memory;
    int64_t frames, rows, columns; /* frames of the video, rows and columns of the latents */
    int64_t extra;                 /* rows of the video that are lost in encoding */
    double share;                  /* of the memory that all at once takes beside the weights */
} cut_case;

static const cut_case cut_cases[] = {
    {"image decoder", KIN_VAE_SD, NULL, false, true, 1, 40, 24, 0, 0.25},
    {"image decoder, odd rows", KIN_VAE_SD, NULL, false, true, 2, 37, 24, 0, 0.3},
    {"image encoder", KIN_VAE_SD, NULL, true, true, 1, 40, 24, 3, 0.3},
    {"image decoder in host memory", KIN_VAE_SD, NULL, false, false, 1, 40, 24, 0, 0.8},
    {"temporal decoder", KIN_VAE_TEMPORAL, NULL, false, true, 17, 9, 10, 0, 0.2},
    {"causal decoder", KIN_VAE_CAUSAL, NULL, false, true, 9, 8, 6, 0, 0.15},
    {"causal encoder", KIN_VAE_CAUSAL, NULL, true, true, 9, 8, 6, 3, 0.15},
    {"causal decoder 1.2", KIN_VAE_CAUSAL, "causal-vae-1.2", false, true, 9, 8, 6, 0, 0.15},
    {"causal encoder 1.2", KIN_VAE_CAUSAL, "causal-vae-1.2", true, true, 9, 7, 6, 3, 0.15},
    {"causal decoder 1.1", KIN_VAE_CAUSAL, "causal-vae-1.1", false, true, 9, 8, 6, 0, 0.15},
    {"causal encoder 1.1", KIN_VAE_CAUSAL, "causal-vae-1.1", true, true, 9, 8, 6, 3, 0.15},
    {"causal decoder in host memory", KIN_VAE_CAUSAL, "causal-vae-1.2", false, false, 9, 8, 6, 0,
     0.65},
    {"causal decoder, one frame", KIN_VAE_CAUSAL, "causal-vae-1.2", false, true, 1, 24, 8, 0, 0.2}};

static kin_vae_config case_config(world *w, const cut_case *k) {
    kin_vae_config c = small(k->kind);
    if (!k->version) return c;
    must(w, kin_causal_vae_config_named(w->context, k->version, &c.causal));
    c.causal.hidden_size = 32;
    for (int i = 0; i < 4; i++) c.causal.hidden_size_mult[i] = i == 3 ? 2 : 1;
    c.causal.num_res_blocks = 1;
    return c;
}

/* In a limit of memory the result is the same, and the device never holds more than the limit, nor
 * more than was said. */
static void cut_is_whole(const cut_case *k) {
    world w = open_world();
    kin_vae_config config = case_config(&w, k);
    kin_vae_shape shape = kin_vae_shape_of(&config);
    kin_vae_coder_options options = {.precision = f32};
    kin_vae_coder *coder;
    int64_t f = shape.space_factor, rows = k->rows * f + k->extra, columns = k->columns * f;
    int64_t latents = kin_vae_latent_frames(&config, k->frames), runs = 0, whole_runs = 0;
    uint64_t whole = 0, bytes = 0, weights = half_bytes(&w, &config, k->encode);
    counting_device *counting = open_counting(&w, k->own_memory);
    write_weights(&w, &config);
    must(&w, kin_vae_coder_open(w.device, &config, w.file, &options, &coder));
    int64_t video[5] = {1, 3, k->frames, rows, columns};
    int64_t latent[5] = {1, shape.channels, latents, k->rows, k->columns};
    kin_host_tensor x = random_video(&w, 1, k->encode ? video : latent);
    kin_host_tensor want = run_coder(&w, coder, k->encode, &x);
    must(&w,
         kin_vae_coder_memory(coder, k->encode, 1, k->frames, rows, columns, &whole, &whole_runs));
    kin_vae_coder_close(coder);

    options.memory = weights + (uint64_t)((double)(whole - weights) * k->share);
    must(&w, kin_vae_coder_open(&counting->wrapped.device, &config, w.file, &options, &coder));
    must(&w, kin_vae_coder_memory(coder, k->encode, 1, k->frames, rows, columns, &bytes, &runs));
    assert_int_equal(counting->most, 0); /* planning takes nothing */
    kin_host_tensor got = run_coder(&w, coder, k->encode, &x);
    double gap = largest_gap(got.data, want.data, kin_desc_count(&want.desc));
    if (bytes > options.memory || counting->most > bytes || runs <= 2 * whole_runs ||
        !(gap < allowed))
        fail_msg("%s: %llu bytes at once, %llu allowed, %llu said, %llu taken; %lld runs; gap %g",
                 k->name, (unsigned long long)whole, (unsigned long long)options.memory,
                 (unsigned long long)bytes, (unsigned long long)counting->most, (long long)runs,
                 gap);
    kin_vae_coder_close(coder);
    assert_int_equal(counting->used, 0);
    kin_host_tensor_free(w.context, &x);
    kin_host_tensor_free(w.context, &want);
    kin_host_tensor_free(w.context, &got);
    free(counting);
    close_world(&w);
}

static void test_cut(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cut_cases / sizeof *cut_cases; i++) cut_is_whole(&cut_cases[i]);
}

/* bf16 between the layers: in pieces it is no farther from f32 than twice what it is at once. */
static void test_half_precision(void **state) {
    (void)state;
    world w = open_world();
    kin_vae_config config = small(KIN_VAE_CAUSAL);
    kin_vae_coder_options options = {.precision = f32};
    int64_t runs, latent[5] = {1, 4, 3, 8, 6};
    uint64_t whole, weights = half_bytes(&w, &config, false);
    kin_host_tensor x = random_video(&w, 1, latent), y[3];
    kin_vae_coder *coder;
    write_weights(&w, &config);
    for (int i = 0; i < 3; i++) {
        if (i > 0) options.precision.compute = KIN_BF16;
        if (i == 2) options.memory = weights + (whole - weights) * 6 / 10;
        must(&w, kin_vae_coder_open(w.device, &config, w.file, &options, &coder));
        y[i] = run_coder(&w, coder, false, &x);
        must(&w, kin_vae_coder_memory(coder, false, 1, 9, 64, 48, &whole, &runs));
        assert_true((runs > 1) == (i == 2));
        kin_vae_coder_close(coder);
    }
    int64_t count = kin_desc_count(&y[0].desc);
    double at_once = largest_gap(y[1].data, y[0].data, count);
    double in_pieces = largest_gap(y[2].data, y[0].data, count);
    assert_true(at_once > 100 * allowed && in_pieces < 2 * at_once);
    kin_host_tensor_free(w.context, &x);
    for (int i = 0; i < 3; i++) kin_host_tensor_free(w.context, &y[i]);
    close_world(&w);
}

/* The original's tiling is another thing: its result is not the whole one's. */
static void test_published(void **state) {
    (void)state;
    world w = open_world();
    kin_vae_config config = small(KIN_VAE_CAUSAL), sd = small(KIN_VAE_SD);
    kin_vae_coder_options options = {
        .precision = f32, .cut = KIN_VAE_CUT_PUBLISHED, .tiling = {32, 4, 5, 2, 0.25}};
    kin_vae_coder *coder;
    assert_int_equal(kin_vae_coder_open(w.device, &sd, w.file, &options, &coder), KIN_INVALID);
    write_weights(&w, &config);
    int64_t latent[5] = {1, 4, 3, 6, 6};
    kin_host_tensor x = random_video(&w, 1, latent);
    kin_host_tensor whole = run_front(&w, &config, false, &x);
    must(&w, kin_vae_coder_open(w.device, &config, w.file, &options, &coder));
    kin_host_tensor tiled = run_coder(&w, coder, false, &x);
    assert_true(kin_desc_same_shape(&whole.desc, &tiled.desc));
    assert_true(largest_gap(tiled.data, whole.data, kin_desc_count(&whole.desc)) > 100 * allowed);
    kin_vae_coder_close(coder);
    kin_host_tensor_free(w.context, &x);
    kin_host_tensor_free(w.context, &whole);
    kin_host_tensor_free(w.context, &tiled);
    close_world(&w);
}

static bool stop_at_third(void *user, int64_t done, int64_t all) {
    int64_t *last = user;
    assert_true(done == *last + 1 && done <= all && all > 20);
    *last = done;
    return done < 3;
}

static void test_refusals(void **state) {
    (void)state;
    world w = open_world();
    kin_vae_config config = small(KIN_VAE_SD);
    int64_t last = 0, runs, latent[5] = {1, 4, 1, 40, 24}, tiny[5] = {1, 3, 1, 9, 3};
    uint64_t bytes, weights = half_bytes(&w, &config, false);
    kin_vae_coder_options options = {.precision = f32, .cut = KIN_VAE_CUT_NEVER};
    kin_vae_coder *coder;
    kin_host_tensor y, x = random_video(&w, 1, latent), video = random_video(&w, 1, tiny);
    counting_device *counting = open_counting(&w, true);
    kin_device *device = &counting->wrapped.device;
    write_weights(&w, &config);
    /* one byte short */
    must(&w, kin_vae_coder_open(device, &config, w.file, &options, &coder));
    must(&w, kin_vae_coder_memory(coder, false, 1, 1, 160, 96, &bytes, &runs));
    assert_int_equal(kin_vae_coder_encode(coder, &video, &y), KIN_INVALID);
    assert_int_equal(kin_vae_coder_decode(coder, &video, &y), KIN_INVALID);
    kin_vae_coder_close(coder);
    options.memory = bytes - 1;
    must(&w, kin_vae_coder_open(device, &config, w.file, &options, &coder));
    assert_int_equal(kin_vae_coder_decode(coder, &x, &y), KIN_OUT_OF_MEMORY);
    assert_null(y.data);
    kin_vae_coder_close(coder);
    /* less than the smallest pieces take */
    options.cut = KIN_VAE_CUT_AS_NEEDED;
    options.memory = weights + 1000;
    must(&w, kin_vae_coder_open(device, &config, w.file, &options, &coder));
    assert_int_equal(kin_vae_coder_decode(coder, &x, &y), KIN_OUT_OF_MEMORY);
    assert_non_null(strstr(kin_context_error(w.context), "smallest pieces"));
    kin_vae_coder_close(coder);
    /* stopped */
    options.memory = bytes - 1;
    options.progress = stop_at_third;
    options.progress_user = &last;
    must(&w, kin_vae_coder_open(device, &config, w.file, &options, &coder));
    assert_int_equal(kin_vae_coder_decode(coder, &x, &y), KIN_CANCELLED);
    assert_int_equal(last, 3);
    kin_vae_coder_close(coder);
    assert_int_equal(counting->used, 0);
    kin_host_tensor_free(w.context, &x);
    kin_host_tensor_free(w.context, &video);
    free(counting);
    close_world(&w);
}

/* Whichever allocation fails, coding in pieces ends with that error and leaves nothing behind. */
typedef struct failing {
    long calls, fail_at, live;
} failing;

static void *failing_resize(void *user, void *ptr, size_t size) {
    failing *f = user;
    if (size == 0) {
        f->live -= ptr != NULL;
        free(ptr);
        return NULL;
    }
    if (++f->calls == f->fail_at) return NULL;
    void *made = realloc(ptr, size);
    if (made && !ptr) f->live++;
    return made;
}

static kin_status decode_failing(const world *files, failing *f, const kin_vae_config *config,
                                 uint64_t memory) {
    kin_context_options options = {
        .struct_size = sizeof options, .threads = 1, .allocator = {failing_resize, f}};
    kin_vae_coder_options coding = {.precision = f32, .memory = memory};
    int64_t dims[5] = {1, 4, 1, 40, 24};
    kin_context *context = NULL;
    kin_backends *backends = NULL;
    kin_device *device = NULL;
    kin_vae_coder *coder = NULL;
    kin_host_tensor x = {.data = NULL}, y = {.data = NULL};
    kin_status status = kin_context_create(&options, &context);
    if (status == KIN_OK) status = kin_backends_load(context, NULL, &backends);
    if (status == KIN_OK) status = kin_device_open(backends, "cpu", &device);
    if (status == KIN_OK) status = kin_vae_coder_open(device, config, files->file, &coding, &coder);
    if (status == KIN_OK) status = kin_host_tensor_create(context, KIN_F32, 5, dims, &x);
    if (status == KIN_OK) memset(x.data, 0, kin_desc_bytes(&x.desc));
    if (status == KIN_OK) status = kin_vae_coder_decode(coder, &x, &y);
    if (context) kin_host_tensor_free(context, &x);
    if (context) kin_host_tensor_free(context, &y);
    kin_vae_coder_close(coder);
    if (device) kin_device_close(device);
    if (backends) kin_backends_free(backends);
    kin_context_destroy(context);
    return status;
}

static void test_failing_allocations(void **state) {
    (void)state;
    world w = open_world();
    kin_vae_config config = small(KIN_VAE_SD);
    uint64_t weights = half_bytes(&w, &config, false), memory = weights + (9 << 18);
    failing all = {0};
    write_weights(&w, &config);
    assert_int_equal(decode_failing(&w, &all, &config, memory), KIN_OK);
    assert_int_equal(all.live, 0);
    for (long at = 1; at < all.calls; at += 1 + all.calls / 50) {
        failing f = {.fail_at = at};
        assert_int_equal(decode_failing(&w, &f, &config, memory), KIN_OUT_OF_MEMORY);
        assert_int_equal(f.live, 0);
    }
    close_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_configurations),
                                       cmocka_unit_test(test_sizes),
                                       cmocka_unit_test(test_sd),
                                       cmocka_unit_test(test_temporal),
                                       cmocka_unit_test(test_causal),
                                       cmocka_unit_test(test_cut),
                                       cmocka_unit_test(test_half_precision),
                                       cmocka_unit_test(test_published),
                                       cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_failing_allocations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
