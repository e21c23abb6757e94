#include "models/latte.h"

#include "models/pixart_parts.h"
#include "models/positions.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/views.h"

kin_pixart_config kin_latte_config_default(void) {
    kin_pixart_config config = kin_pixart_config_default();
    config.video_length = 16;
    return config;
}

kin_status kin_latte_config_parse(kin_context *context, const struct json_t *json,
                                  const char *where, kin_unknown_keys unknown,
                                  kin_pixart_config *out_config) {
    kin_pixart_config config = kin_latte_config_default();
    kin_status status = kin_pixart_read_config(context, json, where, unknown, true, &config);
    if (status == KIN_OK) *out_config = config;
    return status;
}

bool kin_latte_rename(const void *config, const char *file_name, char *out_name, size_t size) {
    return kin_pixart_rename(config, file_name, out_name, size);
}

/* The video's frames of x [B, F + I, S, C] through a block over time; the images go round it. */
static kin_tensor time_block(const pixart_call *call, const kin_latte_inputs *in, int index,
                             kin_tensor x) {
    kin_graph *g = call->graph;
    int64_t frames = kin_dim(g, x, 1) - in->images;
    if (frames < 1) return x;
    kin_tensor part[2] = {in->images ? kin_slice(g, x, 1, 0, frames) : x, KIN_NONE};
    if (index == 0 && frames > 1 && !in->no_temporal_positions)
        part[0] = kin_add(g, part[0],
                          kin_positions_frames(g, call->precision, kin_dim(g, x, 3), frames, 1));
    part[0] = kin_pixart_time_block(call, index, part[0]);
    if (!in->images) return part[0];
    part[1] = kin_slice(g, x, 1, frames, in->images);
    return kin_concat(g, part, 2, 1);
}

/* Names the tokens as the original lays them out: [B T, S, C], or, after a block over time,
 * [B S, T, C]. */
static void tap(const pixart_call *call, const kin_latte_inputs *in, int index, kin_tensor x) {
    kin_graph *g = call->graph;
    if (!in->name_hidden) return;
    if (index % 2) x = kin_transpose(g, x, 1, 2);
    kin_layer_tap(g, true, "hidden", index, kin_flatten(g, x, 0, 1));
}

kin_tensor kin_latte(kin_graph *graph, const kin_pixart_config *config,
                     const kin_precision *precision, const kin_latte_inputs *inputs) {
    kin_graph *g = graph;
    pixart_call call = {.graph = g, .config = config, .precision = precision};
    kin_tensor text = inputs->text;
    if (kin_rank(g, text) == 3) {
        int64_t dims[] = {kin_dim(g, text, 0), 1, kin_dim(g, text, 1), kin_dim(g, text, 2)};
        text = kin_reshape(g, text, 4, dims);
    }
    if (inputs->images < 0 || kin_rank(g, text) != 4 || kin_dim(g, text, 1) != 1 + inputs->images)
        return kin_graph_fail(g, KIN_INVALID,
                              "Latte: %d images need as many captions and one more, in text "
                              "[B, captions, L, C]",
                              inputs->images);
    kin_pixart_inputs common = {.timestep = inputs->timestep,
                                .text_lengths = inputs->text_lengths,
                                .text_mask = inputs->text_mask};
    kin_tensor x = kin_pixart_begin(&call, "Latte", inputs->x, text, &common);
    if (!x.id) return KIN_NONE;
    for (int i = 0; i < config->num_layers; i++) {
        x = kin_pixart_space_block(&call, i, x);
        tap(&call, inputs, 2 * i, x);
        if (inputs->no_temporal_blocks) continue;
        x = time_block(&call, inputs, i, x);
        tap(&call, inputs, 2 * i + 1, x);
    }
    return kin_pixart_end(&call, x);
}
