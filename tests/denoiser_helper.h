/* What the tests of the denoisers share: a graph on its way to a result, and tiny models. */
#ifndef KIN_TESTS_DENOISER_HELPER_H
#define KIN_TESTS_DENOISER_HELPER_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/denoiser.h"
#include "runtime/plan.h"

static const kin_precision f32 = {KIN_F32, KIN_F32};

enum { WIDTH = 24, HEADS = 2, LAYERS = 2, CAPTION = 12, WORDS = 5, SIDE = 8, FRAMES = 3, OUT = 8 };

/* A context with an open device, and one graph on its way to a result. */
typedef struct bench {
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    kin_graph *graph;
    kin_store *store;
    kin_plan *plan;
} bench;

static inline bench bench_open(const char *device) {
    bench b = {0};
    assert_int_equal(kin_context_create(NULL, &b.context), KIN_OK);
    assert_int_equal(kin_backends_load(b.context, NULL, &b.backends), KIN_OK);
    assert_int_equal(kin_device_open(b.backends, device, &b.device), KIN_OK);
    assert_int_equal(kin_graph_create(b.context, &b.graph), KIN_OK);
    return b;
}

static inline void bench_close(bench *b) {
    kin_plan_free(b->plan);
    kin_store_free(b->store);
    kin_graph_destroy(b->graph);
    kin_device_close(b->device);
    kin_backends_free(b->backends);
    kin_context_destroy(b->context);
}

static inline void must(const bench *b, kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(b->context));
}

static inline void bench_plan(bench *b) {
    must(b, kin_plan_build(b->graph, b->device, NULL, &b->plan));
}

static inline void bench_prepare(bench *b) {
    bench_plan(b);
    must(b, kin_store_create(b->device, &b->store));
    must(b, kin_store_add_graph(b->store, b->graph, 7));
    must(b, kin_plan_prepare(b->plan, b->store, NULL));
}

/* Of every kind, with the same sizes. */
static inline kin_denoiser_config tiny(kin_denoiser_kind kind) {
    kin_denoiser_config c = {.kind = kind,
                             .stdit = kin_stdit_config_default(),
                             .stdit2 = kin_stdit2_config_default(),
                             .pixart = kin_latte_config_default(),
                             .opensora_plan = kin_opensora_plan_config_default()};
    kin_stdit_config *both[] = {&c.stdit, &c.stdit2.common};
    for (int i = 0; i < 2; i++) {
        both[i]->hidden_size = WIDTH;
        both[i]->depth = LAYERS;
        both[i]->num_heads = HEADS;
        both[i]->caption_channels = CAPTION;
        both[i]->model_max_length = WORDS + 2;
    }
    /* Positions 0, 1, 2 .. in all of them. */
    c.stdit2.input_sq_size = 8 * SIDE;
    c.stdit2.qk_norm = false;
    c.pixart.num_attention_heads = HEADS;
    c.pixart.attention_head_dim = WIDTH / HEADS;
    c.pixart.num_layers = LAYERS;
    c.pixart.caption_channels = CAPTION;
    c.pixart.sample_size = SIDE;
    c.opensora_plan.num_attention_heads = HEADS;
    c.opensora_plan.attention_head_dim = WIDTH / HEADS;
    c.opensora_plan.num_layers = LAYERS;
    c.opensora_plan.caption_channels = CAPTION;
    return c;
}

#endif
