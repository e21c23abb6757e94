/* Cases of tokenizers: ids, padding, and the pieces' scores. */
#include "tools/check/case_run.h"

#include <string.h>

#include "runtime/tokenizer.h"

/* The texts of a tokenizer case, its answers, and where the next answer goes. */
typedef struct token_lists {
    int64_t *ids, *mask, *raw, *offsets;
    int64_t raw_room, raw_count;
} token_lists;

static kin_status tokenize(kin_case_run *run, const kin_tokenizer *tokenizer, int64_t index,
                           const char *text, size_t size, int max_length, token_lists *lists) {
    int32_t *raw = NULL, *padded = kin_calloc(run->context, (size_t)max_length, sizeof *padded);
    size_t count = 0;
    int length = 0;
    kin_status status = padded ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_tokenizer_encode(tokenizer, text, size, &raw, &count);
    if (status == KIN_OK)
        status = kin_tokenizer_encode_padded(tokenizer, text, size, max_length, padded, &length);
    if (status == KIN_OK && lists->raw_count + (int64_t)count > lists->raw_room)
        status =
            kin_fail(run->context, KIN_INVALID, "text %d has more ids than the case", (int)index);
    for (size_t i = 0; status == KIN_OK && i < count; i++) lists->raw[lists->raw_count++] = raw[i];
    for (int i = 0; status == KIN_OK && i < max_length; i++) {
        lists->ids[index * max_length + i] = padded[i];
        lists->mask[index * max_length + i] = i < length;
    }
    if (status == KIN_OK) lists->offsets[index + 1] = lists->raw_count;
    kin_free(run->context, raw);
    kin_free(run->context, padded);
    return status;
}

static kin_status tokenize_all(kin_case_run *run, const kin_tokenizer *tokenizer, int max_length,
                               token_lists *lists, int64_t count) {
    const kin_named_tensor *text = kin_case_input_tensor(run, "text");
    const kin_named_tensor *offsets = kin_case_input_tensor(run, "text_offsets");
    const int64_t *at = offsets->data;
    kin_status status = KIN_OK;
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        if (at[i] < 0 || at[i + 1] < at[i] || at[i + 1] > kin_desc_count(&text->desc))
            return kin_fail(run->context, KIN_FORMAT, "text_offsets lead outside text");
        status = tokenize(run, tokenizer, i, (const char *)text->data + at[i],
                          (size_t)(at[i + 1] - at[i]), max_length, lists);
    }
    return status;
}

/* Reads a protobuf varint; false at the end of the bytes. */
static bool read_varint(const unsigned char **at, const unsigned char *end, uint64_t *out_value) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && *at < end; shift += 7) {
        unsigned char byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) {
            *out_value = value;
            return true;
        }
    }
    return false;
}

/* Reads one field's key and finds its bytes: of a length-delimited field the content, of a fixed or
 * variable number the number itself. */
static bool read_field(const unsigned char **at, const unsigned char *end, uint64_t *out_key,
                       const unsigned char **out_data, size_t *out_size) {
    uint64_t size = 0;
    if (!read_varint(at, end, out_key)) return false;
    const unsigned char *start = *at;
    switch (*out_key & 7) {
    case 0:
        if (!read_varint(at, end, &size)) return false;
        size = (uint64_t)(*at - start);
        *at = start;
        break;
    case 1:
        size = 8;
        break;
    case 2:
        if (!read_varint(at, end, &size)) return false;
        break;
    case 5:
        size = 4;
        break;
    default:
        return false;
    }
    if (size > (uint64_t)(end - *at)) return false;
    *out_data = *at;
    *out_size = (size_t)size;
    *at += size;
    return true;
}

enum { FIELD_PIECE = 1 << 3 | 2, FIELD_SCORE = 2 << 3 | 5 };

/* The scores of the model's pieces (field 1, each with its score in field 2), in their order. */
static int64_t read_scores(const kin_mapping *file, float *scores, int64_t room) {
    const unsigned char *at = file->data, *end = at + file->size, *piece, *value;
    int64_t count = 0;
    uint64_t key;
    size_t size, value_size;
    while (at < end && read_field(&at, end, &key, &piece, &size)) {
        if (key != FIELD_PIECE) continue;
        if (count == room) return room + 1;
        const unsigned char *inner = piece, *inner_end = piece + size;
        scores[count] = 0;
        while (inner < inner_end && read_field(&inner, inner_end, &key, &value, &value_size))
            if (key == FIELD_SCORE) memcpy(&scores[count], value, sizeof *scores);
        count++;
    }
    return count;
}

static void compare_scores(kin_case_run *run, const char *path) {
    const kin_named_tensor *want = kin_case_output_tensor(run, "piece_scores");
    if (!want) return;
    int64_t room = kin_desc_count(&want->desc);
    float *scores = kin_calloc(run->context, (size_t)room, sizeof *scores);
    kin_mapping file;
    if (!scores) kin_case_ok(run, "piece_scores", KIN_OUT_OF_MEMORY);
    else if (kin_case_ok(run, path, kin_file_map(run->context, path, &file))) {
        int64_t count = read_scores(&file, scores, room);
        kin_case_compare(run, "piece_scores", KIN_F32, scores, count);
        kin_file_unmap(&file);
    }
    kin_free(run->context, scores);
}

/* The ids without byte fallback, where the case has them. */
static void compare_unknown(kin_case_run *run, kin_tokenizer *tokenizer, token_lists *lists,
                            int max_length, int64_t count) {
    if (!kin_case_output_tensor(run, "raw_ids_unk")) return;
    kin_tokenizer_set_byte_fallback(tokenizer, false);
    lists->raw_count = 0;
    if (!kin_case_ok(run, "raw_ids_unk", tokenize_all(run, tokenizer, max_length, lists, count)))
        return;
    kin_case_compare(run, "raw_ids_unk", KIN_I64, lists->raw, lists->raw_count);
    kin_case_compare(run, "raw_offsets_unk", KIN_I64, lists->offsets, count + 1);
}

void kin_case_tokenizer(kin_case_run *run) {
    kin_context *context = run->context;
    const kin_named_tensor *text = kin_case_input_tensor(run, "text");
    const kin_named_tensor *offsets = kin_case_input_tensor(run, "text_offsets");
    const kin_named_tensor *raw = kin_case_output_tensor(run, "raw_ids");
    int max_length = (int)kin_case_number(json_object_get(run->info, "call"), "max_length", 0);
    bool complete = text && offsets && raw && max_length > 0 && text->desc.dtype == KIN_U8 &&
                    offsets->desc.dtype == KIN_I64 && offsets->desc.rank == 1;
    kin_case_expect(run, "inputs", complete, "");
    if (!complete) return;
    int64_t count = offsets->desc.dims[0] - 1, cells = count * max_length;
    token_lists lists = {.raw_room = kin_desc_count(&raw->desc)};
    lists.ids = kin_calloc(context, (size_t)cells, sizeof *lists.ids);
    lists.mask = kin_calloc(context, (size_t)cells, sizeof *lists.mask);
    lists.raw = kin_calloc(context, (size_t)lists.raw_room, sizeof *lists.raw);
    lists.offsets = kin_calloc(context, (size_t)count + 1, sizeof *lists.offsets);
    char *path = kin_path_join(context, run->folder, "spiece.model");
    kin_tokenizer *tokenizer = NULL;
    bool memory = lists.ids && lists.mask && lists.raw && lists.offsets && path;
    kin_status status = memory ? kin_tokenizer_load(context, path, &tokenizer) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = tokenize_all(run, tokenizer, max_length, &lists, count);
    if (kin_case_ok(run, "spiece.model", status)) {
        kin_case_compare(run, "input_ids", KIN_I64, lists.ids, cells);
        kin_case_compare(run, "attention_mask", KIN_I64, lists.mask, cells);
        kin_case_compare(run, "raw_ids", KIN_I64, lists.raw, lists.raw_count);
        kin_case_compare(run, "raw_offsets", KIN_I64, lists.offsets, count + 1);
        compare_scores(run, path);
        compare_unknown(run, tokenizer, &lists, max_length, count);
    }
    kin_tokenizer_destroy(tokenizer);
    kin_free(context, path);
    kin_free(context, lists.ids);
    kin_free(context, lists.mask);
    kin_free(context, lists.raw);
    kin_free(context, lists.offsets);
}
