/* The autoencoders as lists of nodes: the same layers under the same names as in sd_vae.c,
 * vae_temporal.c and causal_vae.c. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/generate/vae_cut.h"

static const double space_eps = 1e-6, time_eps = 1e-5;
enum { CAUSAL_GROUPS = 32 };

/* Appends nodes; after a failure -1 is every node. */
typedef struct builder {
    kin_context *context;
    cut_nodes *nodes;
    kin_status status;
    int groups; /* of norms */
} builder;

/* `name` is formatted. The shape is that of the first input. */
static int append(builder *b, cut_kind kind, const int *in, int in_count, const char *name, ...)
    KIN_PRINTF(5, 6);

static int append(builder *b, cut_kind kind, const int *in, int in_count, const char *name, ...) {
    cut_nodes *nodes = b->nodes;
    if (b->status != KIN_OK) return -1;
    if (nodes->count == nodes->capacity) {
        int capacity = nodes->capacity ? 2 * nodes->capacity : 64;
        cut_node *grown = kin_realloc(b->context, nodes->at, (size_t)capacity * sizeof *nodes->at);
        if (!grown) {
            b->status = KIN_OUT_OF_MEMORY;
            return -1;
        }
        nodes->at = grown;
        nodes->capacity = capacity;
    }
    cut_node node = {.kind = kind, .in_count = in_count};
    if (in_count > 0) {
        const cut_node *x = &nodes->at[in[0]];
        node.channels = x->channels;
        node.frames = x->frames;
        node.rows = x->rows;
        node.columns = x->columns;
        memcpy(node.in, in, (size_t)in_count * sizeof *in);
    }
    va_list list;
    va_start(list, name);
    vsnprintf(node.name, sizeof node.name, name, list);
    va_end(list);
    nodes->at[nodes->count] = node;
    return nodes->count++;
}

/* The node that was appended last, to fill in; after a failure one that is never read. */
static cut_node *last(builder *b, cut_node *nowhere) {
    return b->status == KIN_OK ? &b->nodes->at[b->nodes->count - 1] : nowhere;
}

static int64_t channels_of(const builder *b, int x) {
    return b->status == KIN_OK ? b->nodes->at[x].channels : 0;
}

/* A path or part of one. */
static void put(char out_text[CUT_NAME], const char *format, ...) KIN_PRINTF(2, 3);

static void put(char out_text[CUT_NAME], const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(out_text, CUT_NAME, format, list);
    va_end(list);
}

/* ---- layers --------------------------------------------------------------------------------- */

typedef struct conv {
    int64_t out;
    int kernel[2], stride[2]; /* time, space */
    int before, after;        /* of rows and columns */
    cut_time time;
    int weight_rank;
} conv;

static int64_t shrink(int64_t size, int64_t padding, int kernel, int stride) {
    return (size + padding - kernel) / stride + 1;
}

static int convolve(builder *b, const char *path, const char *name, int x, const conv *c) {
    int y = append(b, CUT_CONV, &x, 1, "%s%s", path, name);
    cut_node nowhere, *n = last(b, &nowhere);
    if (n == &nowhere) return y;
    int around = c->time == CUT_TIME_COPIES ? c->kernel[0] - 1 : 2 * (c->kernel[0] / 2);
    n->channels = c->out;
    memcpy(n->kernel, c->kernel, sizeof n->kernel);
    memcpy(n->stride, c->stride, sizeof n->stride);
    n->before = c->before;
    n->after = c->after;
    n->time = c->time;
    n->weight_rank = c->weight_rank;
    n->frames = shrink(n->frames, around, c->kernel[0], c->stride[0]);
    n->rows = shrink(n->rows, c->before + c->after, c->kernel[1], c->stride[1]);
    n->columns = shrink(n->columns, c->before + c->after, c->kernel[1], c->stride[1]);
    return y;
}

/* Of each frame, of stride 1, keeping its size. */
static int conv2d(builder *b, const char *path, const char *name, int x, int64_t out, int size) {
    conv c = {out, {1, size}, {1, 1}, size / 2, size / 2, CUT_TIME_ZEROS, 4};
    return convolve(b, path, name, x, &c);
}

/* CausalConv3d with a cube as kernel. */
static int causal(builder *b, const char *path, const char *name, int x, int64_t out, int size) {
    char full[CUT_NAME];
    conv c = {out, {size, size}, {1, 1}, size / 2, size / 2, CUT_TIME_COPIES, 5};
    put(full, "%s.conv", name);
    return convolve(b, path, full, x, &c);
}

static int norm(builder *b, const char *path, const char *name, int x, double eps, bool silu,
                bool over_time) {
    int y = append(b, CUT_NORM, &x, 1, "%s%s", path, name);
    cut_node nowhere, *n = last(b, &nowhere);
    n->groups = b->groups;
    n->eps = eps;
    n->silu = silu;
    n->over_time = over_time;
    return y;
}

static int two(builder *b, cut_kind kind, const char *path, const char *name, int x, int y) {
    return append(b, kind, (int[]){x, y}, 2, "%s%s", path, name);
}

static int nearest(builder *b, int x) {
    int y = append(b, CUT_NEAREST, &x, 1, "upsample");
    cut_node nowhere, *n = last(b, &nowhere);
    n->rows *= 2;
    n->columns *= 2;
    return y;
}

static int enlarge(builder *b, int x, int space) {
    int y = append(b, CUT_ENLARGE, &x, 1, "enlarge");
    cut_node nowhere, *n = last(b, &nowhere);
    n->space = space;
    n->frames = 2 * n->frames - 1;
    n->rows *= space;
    n->columns *= space;
    return y;
}

/* Marks what an upsampling block ends with: the largest tensors of a decoder, made of ones a
 * quarter or an eighth as large by one convolution. */
static int mark_costly(builder *b, int x) {
    cut_node nowhere;
    last(b, &nowhere)->costly = true;
    return x;
}

/* ---- the image autoencoder, and its decoder over time --------------------------------------- */

static int sd_resnet(builder *b, const char *path, int x, int64_t out) {
    int h = norm(b, path, "norm1", x, space_eps, true, false);
    h = conv2d(b, path, "conv1", h, out, 3);
    h = norm(b, path, "norm2", h, space_eps, true, false);
    h = conv2d(b, path, "conv2", h, out, 3);
    if (channels_of(b, x) != out) x = conv2d(b, path, "conv_shortcut", x, out, 1);
    return two(b, CUT_ADD, path, "add", x, h);
}

static int sd_attention(builder *b, const char *path, int x) {
    static const char *const names[] = {"to_q", "to_k", "to_v"};
    conv linear = {channels_of(b, x), {1, 1}, {1, 1}, 0, 0, CUT_TIME_ZEROS, 2};
    int h = norm(b, path, "group_norm", x, space_eps, false, false), parts[3];
    for (int i = 0; i < 3; i++) parts[i] = convolve(b, path, names[i], h, &linear);
    h = append(b, CUT_ATTEND, parts, 3, "%sattend", path);
    return two(b, CUT_ADD, path, "add", x, convolve(b, path, "to_out.0", h, &linear));
}

/* (kernel, 1, 1) over the frames, with zeros around them. */
static int time_conv(builder *b, const char *path, const char *name, int x) {
    conv c = {channels_of(b, x), {3, 1}, {1, 1}, 0, 0, CUT_TIME_ZEROS, 5};
    return convolve(b, path, name, x, &c);
}

static int temporal_resnet(builder *b, const char *path, int x, int64_t out) {
    char inner[CUT_NAME];
    put(inner, "%sspatial_res_block.", path);
    x = sd_resnet(b, inner, x, out);
    put(inner, "%stemporal_res_block.", path);
    int h = norm(b, inner, "norm1", x, time_eps, true, true);
    h = time_conv(b, inner, "conv1", h);
    h = norm(b, inner, "norm2", h, time_eps, true, true);
    h = time_conv(b, inner, "conv2", h);
    return two(b, CUT_ADD_MIXED, path, "time_mixer.mix_factor", x, h);
}

/* Residual block `index` under `path`, of the decoder over time if `temporal`. */
static int image_block(builder *b, const char *path, int index, int x, int64_t out, bool temporal) {
    char inner[CUT_NAME];
    put(inner, "%sresnets.%d.", path, index);
    return temporal ? temporal_resnet(b, inner, x, out) : sd_resnet(b, inner, x, out);
}

static int image_middle(builder *b, const char *side, int x, int64_t channels, bool attention,
                        bool temporal) {
    char path[CUT_NAME], inner[CUT_NAME];
    put(path, "%s.mid_block.", side);
    x = image_block(b, path, 0, x, channels, temporal);
    if (!attention) return x;
    put(inner, "%sattentions.0.", path);
    x = sd_attention(b, inner, x);
    return image_block(b, path, 1, x, channels, temporal);
}

static void sd_encoder(builder *b, const kin_sd_vae_config *c, int x) {
    char path[CUT_NAME];
    int moments = 2 * c->latent_channels;
    x = conv2d(b, "encoder.", "conv_in", x, c->block_out_channels[0], 3);
    for (int i = 0; i < c->levels; i++) {
        int width = c->block_out_channels[i];
        put(path, "encoder.down_blocks.%d.", i);
        for (int j = 0; j < c->layers_per_block; j++) x = image_block(b, path, j, x, width, false);
        conv down = {width, {1, 3}, {1, 2}, 0, 1, CUT_TIME_ZEROS, 4};
        if (i + 1 < c->levels) x = convolve(b, path, "downsamplers.0.conv", x, &down);
    }
    x = image_middle(b, "encoder", x, c->block_out_channels[c->levels - 1], true, false);
    x = norm(b, "encoder.", "conv_norm_out", x, space_eps, true, false);
    x = conv2d(b, "encoder.", "conv_out", x, moments, 3);
    conv2d(b, "", "quant_conv", x, moments, 1);
}

static void sd_decoder(builder *b, const kin_sd_vae_config *c, int x, bool temporal) {
    char path[CUT_NAME];
    int deepest = c->block_out_channels[c->levels - 1];
    if (!temporal) x = conv2d(b, "", "post_quant_conv", x, c->latent_channels, 1);
    x = conv2d(b, "decoder.", "conv_in", x, deepest, 3);
    x = image_middle(b, "decoder", x, deepest, !temporal || c->layers_per_block > 1, temporal);
    for (int i = 0; i < c->levels; i++) {
        int width = c->block_out_channels[c->levels - 1 - i];
        put(path, "decoder.up_blocks.%d.", i);
        for (int j = 0; j <= c->layers_per_block; j++)
            x = image_block(b, path, j, x, width, temporal);
        if (i + 1 < c->levels)
            x = mark_costly(b, conv2d(b, path, "upsamplers.0.conv", nearest(b, x), width, 3));
    }
    x = norm(b, "decoder.", "conv_norm_out", x, space_eps, true, false);
    x = conv2d(b, "decoder.", "conv_out", x, c->out_channels, 3);
    if (temporal) time_conv(b, "decoder.", "time_conv_out", x);
}

/* ---- the causal autoencoder ----------------------------------------------------------------- */

static int conv_of_kind(builder *b, kin_causal_block_kind kind, const char *path, const char *name,
                        int x, int64_t out, int size) {
    if (kind == KIN_CAUSAL_CONV_3D) return causal(b, path, name, x, out, size);
    return conv2d(b, path, name, x, out, size);
}

static int causal_resnet(builder *b, const char *path, kin_causal_block_kind kind, int x,
                         int64_t out) {
    bool flat = kind == KIN_CAUSAL_RESNET_2D;
    kin_causal_block_kind conv_kind = flat ? KIN_CAUSAL_CONV_2D : KIN_CAUSAL_CONV_3D;
    int h = norm(b, path, "norm1", x, space_eps, true, !flat);
    h = conv_of_kind(b, conv_kind, path, "conv1", h, out, 3);
    h = norm(b, path, "norm2", h, space_eps, true, !flat);
    h = conv_of_kind(b, conv_kind, path, "conv2", h, out, 3);
    if (channels_of(b, x) != out) x = conv_of_kind(b, conv_kind, path, "nin_shortcut", x, out, 1);
    return two(b, CUT_ADD, path, "add", x, h);
}

static int causal_attention(builder *b, const char *path, bool mixed, int x) {
    static const char *const names[] = {"q", "k", "v"};
    int64_t channels = channels_of(b, x);
    int h = norm(b, path, "norm", x, space_eps, false, true), parts[3];
    for (int i = 0; i < 3; i++) parts[i] = causal(b, path, names[i], h, channels, 1);
    h = append(b, CUT_ATTEND, parts, 3, "%sattend", path);
    cut_node nowhere;
    last(b, &nowhere)->mixed = mixed;
    return two(b, CUT_ADD, path, "add", x, causal(b, path, "proj_out", h, channels, 1));
}

/* A block of the causal autoencoder; `path` ends in a dot. */
static int causal_block(builder *b, const char *path, kin_causal_block_kind kind, int x,
                        int64_t out) {
    conv down = {out, {1, 3}, {1, 2}, 0, 1, CUT_TIME_COPIES, 5};
    conv mixed = {out, {3, 3}, {2, 1}, 1, 1, CUT_TIME_COPIES, 5};
    conv flat = {out, {1, 3}, {1, 1}, 1, 1, CUT_TIME_COPIES, 5};
    int y;
    switch (kind) {
    case KIN_CAUSAL_RESNET_2D:
    case KIN_CAUSAL_RESNET_3D:
        return causal_resnet(b, path, kind, x, out);
    case KIN_CAUSAL_ATTENTION:
    case KIN_CAUSAL_ATTENTION_MIXED:
        return causal_attention(b, path, kind == KIN_CAUSAL_ATTENTION_MIXED, x);
    case KIN_CAUSAL_DOWN_2D:
        down.weight_rank = 4;
        return convolve(b, path, "conv", x, &down);
    case KIN_CAUSAL_DOWN_SPACE:
        return convolve(b, path, "conv.conv", x, &down);
    case KIN_CAUSAL_DOWN_BOTH:
        down.kernel[0] = 3;
        down.stride[0] = 2;
        return convolve(b, path, "conv.conv", x, &down);
    case KIN_CAUSAL_DOWN_TIME:
    case KIN_CAUSAL_DOWN_TIME_MIXED: {
        cut_node nowhere;
        y = append(b, CUT_MEAN_TIME, &x, 1, "%smean", path);
        cut_node *n = last(b, &nowhere);
        n->frames = shrink(n->frames, 2, 3, 2);
        if (kind == KIN_CAUSAL_DOWN_TIME) return y;
        return two(b, CUT_MIX, path, "mix_factor", y, convolve(b, path, "conv", x, &mixed));
    }
    case KIN_CAUSAL_UP_SPACE:
        return mark_costly(b, convolve(b, path, "conv.conv", nearest(b, x), &flat));
    case KIN_CAUSAL_UP_BOTH:
        return mark_costly(b, causal(b, path, "conv", enlarge(b, x, 2), out, 3));
    case KIN_CAUSAL_UP_TIME:
        return mark_costly(b, enlarge(b, x, 1));
    case KIN_CAUSAL_UP_TIME_MIXED:
        y = enlarge(b, x, 1);
        return mark_costly(
            b, two(b, CUT_MIX, path, "mix_factor", y, causal(b, path, "conv", y, out, 3)));
    default:
        return x;
    }
}

static int causal_middle(builder *b, const char *side, kin_causal_block_kind resnet,
                         kin_causal_block_kind attention, int x) {
    char path[CUT_NAME];
    int64_t channels = channels_of(b, x);
    put(path, "%s.mid.block_1.", side);
    x = causal_block(b, path, resnet, x, channels);
    put(path, "%s.mid.attn_1.", side);
    x = causal_block(b, path, attention, x, channels);
    put(path, "%s.mid.block_2.", side);
    return causal_block(b, path, resnet, x, channels);
}

static void causal_encoder(builder *b, const kin_causal_vae_config *c, int x) {
    char path[CUT_NAME];
    x = conv_of_kind(b, c->encoder_conv_in, "encoder.", "conv_in", x, c->hidden_size, 3);
    for (int i = 0; i < c->levels; i++) {
        int64_t width = (int64_t)c->hidden_size * c->hidden_size_mult[i];
        for (int j = 0; j < c->num_res_blocks; j++) {
            put(path, "encoder.down.%d.block.%d.", i, j);
            x = causal_block(b, path, c->encoder_resnet_blocks[i], x, width);
        }
        if (i + 1 == c->levels) break;
        put(path, "encoder.down.%d.downsample.", i);
        x = causal_block(b, path, c->encoder_spatial_downsample[i], x, width);
        put(path, "encoder.down.%d.time_downsample.", i);
        x = causal_block(b, path, c->encoder_temporal_downsample[i], x, width);
    }
    x = causal_middle(b, "encoder", c->encoder_mid_resnet, c->encoder_attention, x);
    x = norm(b, "encoder.", "norm_out", x, space_eps, true, true);
    x = conv_of_kind(b, c->encoder_conv_out, "encoder.", "conv_out", x, 2 * c->z_channels, 3);
    if (c->use_quant_layer) conv_of_kind(b, c->q_conv, "", "quant_conv", x, 2 * c->embed_dim, 1);
}

static void causal_decoder(builder *b, const kin_causal_vae_config *c, int x) {
    char path[CUT_NAME];
    int64_t deepest = (int64_t)c->hidden_size * c->hidden_size_mult[c->levels - 1];
    if (c->use_quant_layer)
        x = conv_of_kind(b, c->q_conv, "", "post_quant_conv", x, c->z_channels, 1);
    x = conv_of_kind(b, c->decoder_conv_in, "decoder.", "conv_in", x, deepest, 3);
    x = causal_middle(b, "decoder", c->decoder_mid_resnet, c->decoder_attention, x);
    for (int i = c->levels - 1; i >= 0; i--) {
        int64_t width = (int64_t)c->hidden_size * c->hidden_size_mult[i];
        for (int j = 0; j <= c->num_res_blocks; j++) {
            put(path, "decoder.up.%d.block.%d.", i, j);
            x = causal_block(b, path, c->decoder_resnet_blocks[i], x, width);
        }
        put(path, "decoder.up.%d.upsample.", i);
        x = causal_block(b, path, c->decoder_spatial_upsample[i], x, width);
        put(path, "decoder.up.%d.time_upsample.", i);
        x = causal_block(b, path, c->decoder_temporal_upsample[i], x, width);
    }
    x = norm(b, "decoder.", "norm_out", x, space_eps, true, true);
    conv_of_kind(b, c->decoder_conv_out, "decoder.", "conv_out", x, 3, 3);
}

/* ---- all ------------------------------------------------------------------------------------ */

/* Norms need all of their input before they can begin, attention all of a frame. Results of blocks
 * are stored, too: what follows would compute them again in its halos. */
static void choose_stored(cut_nodes *nodes) {
    nodes->at[0].stored = nodes->at[nodes->count - 1].stored = true;
    for (int i = 0; i < nodes->count; i++) {
        cut_node *n = &nodes->at[i];
        if (n->kind == CUT_ATTEND || n->kind == CUT_ADD || n->kind == CUT_ADD_MIXED)
            n->stored = true;
        for (int k = 0; k < n->in_count; k++) {
            cut_node *x = &nodes->at[n->in[k]];
            if (n->kind == CUT_ATTEND) x->stored = true;
            if (n->kind != CUT_NORM) continue;
            x->stored = x->counted = true;
            x->groups = n->groups;
        }
    }
}

kin_status kin_cut_nodes_make(kin_context *context, const kin_vae_config *config,
                              const kin_precision *precision, bool encode, int64_t frames,
                              int64_t rows, int64_t columns, cut_nodes *out_nodes) {
    *out_nodes = (cut_nodes){.precision = *precision};
    builder b = {context, out_nodes, KIN_OK, CAUSAL_GROUPS};
    kin_vae_shape shape = kin_vae_shape_of(config);
    int x = append(&b, CUT_INPUT, NULL, 0, "input");
    cut_node nowhere, *n = last(&b, &nowhere);
    n->channels = encode ? 3 : shape.channels;
    if (encode && config->kind != KIN_VAE_CAUSAL) n->channels = config->sd.in_channels;
    n->frames = frames;
    n->rows = rows;
    n->columns = columns;
    if (!encode) x = append(&b, CUT_SCALE, &x, 1, "scale");
    last(&b, &nowhere)->scale = 1 / shape.scale;
    if (config->kind != KIN_VAE_CAUSAL) {
        b.groups = config->sd.norm_num_groups;
        if (encode) sd_encoder(&b, &config->sd, x);
        else sd_decoder(&b, &config->sd, x, config->kind == KIN_VAE_TEMPORAL);
    } else if (encode) {
        causal_encoder(&b, &config->causal, x);
    } else {
        causal_decoder(&b, &config->causal, x);
    }
    if (b.status == KIN_OK) {
        choose_stored(out_nodes);
        return KIN_OK;
    }
    kin_free(context, out_nodes->at);
    *out_nodes = (cut_nodes){0};
    return b.status;
}
