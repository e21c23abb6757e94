/* Names of PixArt's and Latte's tensors in the files that exist. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/pixart_parts.h"

/* Beginnings of names in the original's files, and diffusers' for them. */
static const char *const outside[][2] = {
    {"x_embedder.proj.", "pos_embed.proj."},
    {"y_embedder.y_proj.fc1.", "caption_projection.linear_1."},
    {"y_embedder.y_proj.fc2.", "caption_projection.linear_2."},
    {"t_embedder.mlp.0.", "adaln_single.emb.timestep_embedder.linear_1."},
    {"t_embedder.mlp.2.", "adaln_single.emb.timestep_embedder.linear_2."},
    {"csize_embedder.mlp.0.", "adaln_single.emb.resolution_embedder.linear_1."},
    {"csize_embedder.mlp.2.", "adaln_single.emb.resolution_embedder.linear_2."},
    {"ar_embedder.mlp.0.", "adaln_single.emb.aspect_ratio_embedder.linear_1."},
    {"ar_embedder.mlp.2.", "adaln_single.emb.aspect_ratio_embedder.linear_2."},
    {"t_block.1.", "adaln_single.linear."},
    {"final_layer.linear.", "proj_out."},
    {"final_layer.scale_shift_table", "scale_shift_table"}};

/* The same within "blocks.N."; up to three names share a fused tensor. */
static const char *const inside[][4] = {{"attn.qkv.", "attn1.to_q.", "attn1.to_k.", "attn1.to_v."},
                                        {"attn.proj.", "attn1.to_out.0."},
                                        {"cross_attn.q_linear.", "attn2.to_q."},
                                        {"cross_attn.kv_linear.", "attn2.to_k.", "attn2.to_v."},
                                        {"cross_attn.proj.", "attn2.to_out.0."},
                                        {"mlp.fc1.", "ff.net.0.proj."},
                                        {"mlp.fc2.", "ff.net.2."},
                                        {"scale_shift_table", "scale_shift_table"}};

static const char *behind(const char *text, const char *prefix) {
    size_t length = strlen(prefix);
    return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

/* `rest` follows "blocks.N."; false if it is no name of the original. */
static bool rename_inside(long index, const char *rest, char *out, size_t size) {
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
        const char *end = behind(rest, inside[i][0]);
        if (!end) continue;
        size_t used = 0;
        for (size_t part = 1; part < 4 && inside[i][part] && used < size; part++)
            used += (size_t)snprintf(out + used, size - used, "%stransformer_blocks.%ld.%s%s",
                                     part > 1 ? "|" : "", index, inside[i][part], end);
        return true;
    }
    return false;
}

/* The reverse of `inside`; `rest` follows "transformer_blocks.N.". */
static bool original_inside(long index, const char *rest, char *out, size_t size) {
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
        int parts = 1;
        while (parts < 3 && inside[i][parts + 1]) parts++;
        for (int part = 0; part < parts; part++) {
            const char *end = behind(rest, inside[i][part + 1]);
            if (!end) continue;
            int used = snprintf(out, size, "blocks.%ld.%s%s", index, inside[i][0], end);
            if (parts > 1 && used > 0 && (size_t)used < size)
                snprintf(out + used, size - (size_t)used, "{%d/%d}", part, parts);
            return true;
        }
    }
    return false;
}

bool kin_pixart_original_name(const char *file_name, char *out_name, size_t size) {
    const char *rest = behind(file_name, "transformer_blocks.");
    if (rest && *rest >= '0' && *rest <= '9') {
        char *end;
        long index = strtol(rest, &end, 10);
        return *end == '.' && original_inside(index, end + 1, out_name, size);
    }
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        rest = behind(file_name, outside[i][1]);
        if (!rest) continue;
        snprintf(out_name, size, "%s%s", outside[i][0], rest);
        return true;
    }
    return false;
}

bool kin_pixart_rename(const void *config, const char *file_name, char *out_name, size_t size) {
    static const char *const dropped[] = {"pos_embed", "pos_embed.pos_embed",
                                          "y_embedder.y_embedding",
                                          "caption_projection.y_embedding"};
    (void)config;
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++)
        if (strcmp(file_name, dropped[i]) == 0) return false;
    const char *rest = behind(file_name, "blocks.");
    if (rest && *rest >= '0' && *rest <= '9') {
        char *end;
        long index = strtol(rest, &end, 10);
        if (*end == '.' && rename_inside(index, end + 1, out_name, size)) return true;
    }
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        rest = behind(file_name, outside[i][0]);
        if (!rest) continue;
        snprintf(out_name, size, "%s%s", outside[i][1], rest);
        return true;
    }
    snprintf(out_name, size, "%s", file_name);
    return true;
}
