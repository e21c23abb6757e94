/* Names of the autoencoder's tensors in the files that exist. */
#include "models/sd_vae.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* If *text begins with `prefix`, moves past it. */
static bool skip(const char **text, const char *prefix) {
    size_t length = strlen(prefix);
    if (strncmp(*text, prefix, length) != 0) return false;
    *text += length;
    return true;
}

/* Reads "12." */
static bool read_index(const char **text, int *out_index) {
    char *end;
    if (**text < '0' || **text > '9') return false;
    long value = strtol(*text, &end, 10);
    if (*end != '.' || value > 9999) return false;
    *out_index = (int)value;
    *text = end + 1;
    return true;
}

/* The rest of a resnet's name: CompVis calls the 1x1 convolution nin_shortcut. */
static void put_resnet(char *out, size_t size, const char *side, const char *block, int level,
                       int index, const char *rest) {
    const char *shortcut = skip(&rest, "nin_shortcut.") ? "conv_shortcut." : "";
    if (level >= 0)
        snprintf(out, size, "%s.%s.%d.resnets.%d.%s%s", side, block, level, index, shortcut, rest);
    else snprintf(out, size, "%s.%s.resnets.%d.%s%s", side, block, index, shortcut, rest);
}

static bool put_attention(char *out, size_t size, const char *side, const char *rest) {
    static const char *const pairs[][2] = {
        {"norm.", "group_norm."},   {"q.", "to_q."},     {"k.", "to_k."},   {"v.", "to_v."},
        {"proj_out.", "to_out.0."}, {"query.", "to_q."}, {"key.", "to_k."}, {"value.", "to_v."},
        {"proj_attn.", "to_out.0."}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const char *end = rest;
        if (!skip(&end, pairs[i][0])) continue;
        snprintf(out, size, "%s.mid_block.attentions.0.%s%s", side, pairs[i][1], end);
        return true;
    }
    return false;
}

/* `rest` follows "encoder." or "decoder.". False if it is no name of CompVis. */
static bool rename_compvis(const kin_sd_vae_config *config, const char *side, const char *rest,
                           char *out, size_t size) {
    bool down = skip(&rest, "down."), up = !down && skip(&rest, "up.");
    if (down || up) {
        int level, index;
        if (!read_index(&rest, &level)) return false;
        /* CompVis counts the levels of the decoder from the shallow end. */
        if (up) level = config->levels - 1 - level;
        const char *block = down ? "down_blocks" : "up_blocks";
        if (skip(&rest, "block.") && read_index(&rest, &index))
            put_resnet(out, size, side, block, level, index, rest);
        else if (skip(&rest, down ? "downsample." : "upsample."))
            snprintf(out, size, "%s.%s.%d.%s.0.%s", side, block, level,
                     down ? "downsamplers" : "upsamplers", rest);
        else return false;
        return level >= 0;
    }
    if (skip(&rest, "mid.block_1.")) put_resnet(out, size, side, "mid_block", -1, 0, rest);
    else if (skip(&rest, "mid.block_2.")) put_resnet(out, size, side, "mid_block", -1, 1, rest);
    else if (skip(&rest, "mid.attn_1.") || skip(&rest, "mid_block.attentions.0."))
        return put_attention(out, size, side, rest);
    else if (skip(&rest, "norm_out.")) snprintf(out, size, "%s.conv_norm_out.%s", side, rest);
    else return false;
    return true;
}

bool kin_sd_vae_rename(const void *config, const char *file_name, char *out_name, size_t size) {
    static const char *const others[] = {"loss.", "model.diffusion_model.", "cond_stage_model.",
                                         "model_ema."};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strncmp(file_name, others[i], strlen(others[i])) == 0) return false;
    const char *name = file_name;
    skip(&name, "first_stage_model.");
    const char *rest = name;
    bool renamed = false;
    if (skip(&rest, "encoder.")) renamed = rename_compvis(config, "encoder", rest, out_name, size);
    else if (skip(&rest, "decoder."))
        renamed = rename_compvis(config, "decoder", rest, out_name, size);
    if (!renamed) snprintf(out_name, size, "%s", name);
    return true;
}
