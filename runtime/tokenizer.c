#include "runtime/tokenizer.h"
#include "runtime/file.h"
#include "runtime/sentencepiece_shim.h"
#include "runtime/tokenizer_words.h"

#include <string.h>

struct kin_tokenizer {
    kin_context *context;
    void *processor;
    kin_spiece_info info;
    bool bytes_as_unknown;
};

int kin_tokenizer_size(const kin_tokenizer *tokenizer) {
    return tokenizer->info.pieces;
}

int kin_tokenizer_pad(const kin_tokenizer *tokenizer) {
    return tokenizer->info.pad;
}

int kin_tokenizer_eos(const kin_tokenizer *tokenizer) {
    return tokenizer->info.eos;
}

int kin_tokenizer_unk(const kin_tokenizer *tokenizer) {
    return tokenizer->info.unk;
}

void kin_tokenizer_set_byte_fallback(kin_tokenizer *tokenizer, bool fallback) {
    tokenizer->bytes_as_unknown = !fallback;
}

#ifdef KIN_HAVE_SENTENCEPIECE

enum { MODEL_LIMIT = 256 << 20, TEXT_LIMIT = 1 << 30, MAX_TEXT = 1 << 24, MAX_SENTENCE = 4192 };

/* The status for a code of the shim. */
static kin_status from_shim(kin_context *context, int code, kin_status bad, const char *name,
                            const char *error) {
    if (code == 0) return KIN_OK;
    if (code == 2)
        return kin_fail(context, KIN_OUT_OF_MEMORY, "%s: no memory for SentencePiece", name);
    return kin_fail(context, bad, "%s: SentencePiece refuses it: %s", name, error);
}

kin_status kin_tokenizer_load_bytes(kin_context *context, const char *name, const void *data,
                                    size_t size, kin_tokenizer **out_tokenizer) {
    char error[KIN_SHIM_ERROR] = "";
    kin_spiece_info info;
    *out_tokenizer = NULL;
    kin_status status = kin_spiece_check(context, name, data, size, &info);
    if (status != KIN_OK) return status;
    kin_tokenizer *tokenizer = kin_calloc(context, 1, sizeof *tokenizer);
    if (!tokenizer) return KIN_OUT_OF_MEMORY;
    tokenizer->context = context;
    tokenizer->info = info;
    int code = kin_shim_load(data, size, &tokenizer->processor, error);
    status = from_shim(context, code, KIN_FORMAT, name, error);
    if (status != KIN_OK) {
        kin_free(context, tokenizer);
        return status;
    }
    *out_tokenizer = tokenizer;
    return KIN_OK;
}

kin_status kin_tokenizer_load(kin_context *context, const char *path,
                              kin_tokenizer **out_tokenizer) {
    char *data = NULL;
    size_t size = 0;
    *out_tokenizer = NULL;
    kin_status status = kin_file_read_all(context, path, MODEL_LIMIT, &data, &size);
    if (status != KIN_OK) return status;
    status = kin_tokenizer_load_bytes(context, path, data, size, out_tokenizer);
    kin_free(context, data);
    return status;
}

void kin_tokenizer_destroy(kin_tokenizer *tokenizer) {
    if (!tokenizer) return;
    kin_shim_free(tokenizer->processor);
    kin_free(tokenizer->context, tokenizer);
}

typedef struct id_list {
    kin_context *context;
    int32_t *ids;
    size_t count;
} id_list;

static void keep_ids(void *user, const int *ids, size_t count) {
    id_list *list = user;
    list->ids = kin_alloc(list->context, count * sizeof *list->ids);
    if (!list->ids) return;
    for (size_t i = 0; i < count; ++i) list->ids[i] = ids[i];
    list->count = count;
}

/* Each run of byte pieces becomes one unknown piece. */
static void merge_bytes(const kin_tokenizer *tokenizer, id_list *list) {
    int unk = tokenizer->info.unk;
    size_t kept = 0;
    for (size_t i = 0; i < list->count; ++i) {
        bool byte = kin_shim_is_byte(tokenizer->processor, list->ids[i]);
        if (byte && kept > 0 && list->ids[kept - 1] == unk) continue;
        list->ids[kept++] = byte ? unk : list->ids[i];
    }
    list->count = kept;
}

kin_status kin_tokenizer_encode(const kin_tokenizer *tokenizer, const char *text, size_t size,
                                int32_t **out_ids, size_t *out_count) {
    char error[KIN_SHIM_ERROR] = "";
    id_list list = {tokenizer->context, NULL, 0};
    *out_ids = NULL;
    *out_count = 0;
    if (size > MAX_TEXT)
        return kin_fail(tokenizer->context, KIN_INVALID, "a text of %zu bytes (at most %d)", size,
                        MAX_TEXT);
    int code = kin_shim_encode(tokenizer->processor, text, size, keep_ids, &list, error);
    kin_status status = from_shim(tokenizer->context, code, KIN_INVALID, "the text", error);
    if (status != KIN_OK) return status;
    if (!list.ids) return KIN_OUT_OF_MEMORY;
    if (tokenizer->bytes_as_unknown) merge_bytes(tokenizer, &list);
    *out_ids = list.ids;
    *out_count = list.count;
    return KIN_OK;
}

kin_status kin_tokenizer_encode_padded(const kin_tokenizer *tokenizer, const char *text,
                                       size_t size, int max_length, int32_t *out_ids,
                                       int *out_length) {
    if (max_length < 1)
        return kin_fail(tokenizer->context, KIN_INVALID, "a text length of %d", max_length);
    int32_t *ids = NULL;
    size_t count = 0;
    kin_status status = kin_tokenizer_encode(tokenizer, text, size, &ids, &count);
    if (status != KIN_OK) return status;
    const kin_spiece_info *info = &tokenizer->info;
    int length = count < (size_t)max_length ? (int)count : max_length - 1;
    memcpy(out_ids, ids, (size_t)length * sizeof *ids);
    out_ids[length++] = info->eos >= 0 ? info->eos : 1;
    *out_length = length;
    for (int i = length; i < max_length; ++i) out_ids[i] = info->pad >= 0 ? info->pad : 0;
    kin_free(tokenizer->context, ids);
    return KIN_OK;
}

/* ---- training ---- */

typedef struct train_job {
    kin_context *context;
    const char *path;
    const char *const *sentences;
    size_t count, vocabulary;
    kin_status status;
} train_job;

typedef struct model_bytes {
    const unsigned char *data;
    size_t size;
} model_bytes;

/* Looks for the bytes of a piece's text with its tag and length in front and the score's tag
 * behind.
 */
static bool model_has_piece(void *user, const char *piece) {
    const model_bytes *model = user;
    size_t size = strlen(piece);
    for (size_t at = 0; at + size + 3 <= model->size; at++)
        if (model->data[at] == 0x0A && model->data[at + 1] == size &&
            model->data[at + 2 + size] == 0x15 && memcmp(model->data + at + 2, piece, size) == 0)
            return true;
    return false;
}

/* Writes what the library made, with whole words added. */
static void keep_model(void *user, const void *data, size_t size) {
    train_job *job = user;
    model_bytes model = {data, size};
    kin_spiece_info info;
    unsigned char *words = NULL, *whole = NULL;
    size_t words_size = 0;
    job->status = kin_spiece_check(job->context, job->path, data, size, &info);
    size_t pieces = job->status == KIN_OK ? (size_t)info.pieces : 0;
    size_t room = job->vocabulary > pieces ? job->vocabulary - pieces : 0;
    if (job->status == KIN_OK)
        job->status = kin_tokenizer_word_pieces(job->context, job->sentences, job->count, room,
                                                model_has_piece, &model, &words, &words_size);
    if (job->status == KIN_OK) {
        whole = kin_alloc(job->context, size + words_size);
        if (!whole) job->status = KIN_OUT_OF_MEMORY;
    }
    if (job->status == KIN_OK) {
        memcpy(whole, data, size);
        memcpy(whole + size, words, words_size);
        job->status = kin_file_write_atomic(job->context, job->path, whole, size + words_size);
    }
    kin_free(job->context, words);
    kin_free(job->context, whole);
}

/* The library ends the process when no sentence survives its own clean-up, so what it would drop or
 * could normalize to nothing is dropped here: long, not UTF-8, with its reserved U+2585, or without
 * one plain character. */
static bool is_usable(const char *text) {
    static const uint32_t plain[][2] = {{0x21, 0x7E},     {0xC0, 0x24F},    {0x391, 0x3FF},
                                        {0x410, 0x44F},   {0x5D0, 0x5EA},   {0x620, 0x64A},
                                        {0x904, 0x939},   {0x3041, 0x3096}, {0x30A1, 0x30FA},
                                        {0x4E00, 0x9FA5}, {0xAC00, 0xD7A3}};
    const size_t size = strlen(text);
    if (size > MAX_SENTENCE || !kin_utf8_is_valid(text, size) || strstr(text, "\xE2\x96\x85"))
        return false;
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        uint32_t code = *p < 0x80 ? *p : *p < 0xE0 ? *p & 31u : *p < 0xF0 ? *p & 15u : *p & 7u;
        for (++p; (*p & 0xC0) == 0x80; ++p) code = code << 6 | (*p & 63u);
        for (size_t i = 0; i < sizeof plain / sizeof plain[0]; ++i)
            if (code >= plain[i][0] && code <= plain[i][1]) return true;
    }
    return false;
}

kin_status kin_tokenizer_train(kin_context *context, const char *const *sentences, size_t count,
                               int vocab_size, const char *path) {
    char error[KIN_SHIM_ERROR] = "";
    train_job job = {.context = context, .path = path, .status = KIN_OK};
    if (vocab_size < 4 || vocab_size > 1 << 20)
        return kin_fail(context, KIN_INVALID, "%s: a vocabulary of %d pieces (4 to %d)", path,
                        vocab_size, 1 << 20);
    const char **kept = kin_alloc(context, count * sizeof *kept);
    if (!kept) return KIN_OUT_OF_MEMORY;
    size_t used = 0;
    for (size_t i = 0; i < count; ++i)
        if (is_usable(sentences[i])) kept[used++] = sentences[i];
    kin_status status = KIN_OK;
    if (used == 0) {
        status = kin_fail(context, KIN_INVALID,
                          "%s: there are no sentences with letters or digits to learn from", path);
    } else {
        job.sentences = kept;
        job.count = used;
        job.vocabulary = (size_t)vocab_size;
        int code = kin_shim_train(kept, used, vocab_size, keep_model, &job, error);
        status = from_shim(context, code, KIN_INVALID, path, error);
    }
    kin_free(context, kept);
    return status != KIN_OK ? status : job.status;
}

kin_status kin_tokenizer_train_file(kin_context *context, const char *text_path, int vocab_size,
                                    const char *path) {
    char *text = NULL;
    size_t size = 0;
    kin_status status = kin_file_read_all(context, text_path, TEXT_LIMIT, &text, &size);
    if (status != KIN_OK) return status;
    size_t lines = 1;
    for (size_t i = 0; i < size; ++i) lines += text[i] == '\n';
    const char **sentences = kin_alloc(context, lines * sizeof *sentences);
    if (sentences) {
        size_t count = 0;
        sentences[count++] = text;
        for (size_t i = 0; i < size; ++i) {
            if (text[i] != '\n') continue;
            text[i] = 0;
            sentences[count++] = text + i + 1;
        }
        status = kin_tokenizer_train(context, sentences, count, vocab_size, path);
    } else {
        status = KIN_OUT_OF_MEMORY;
    }
    kin_free(context, sentences);
    kin_free(context, text);
    return status;
}

#else

static kin_status missing(kin_context *context, const char *name) {
    return kin_fail(context, KIN_UNSUPPORTED,
                    "%s: this build has no tokenizer; install libsentencepiece-dev and build again",
                    name);
}

kin_status kin_tokenizer_load(kin_context *context, const char *path,
                              kin_tokenizer **out_tokenizer) {
    *out_tokenizer = NULL;
    return missing(context, path);
}

kin_status kin_tokenizer_load_bytes(kin_context *context, const char *name, const void *data,
                                    size_t size, kin_tokenizer **out_tokenizer) {
    (void)data, (void)size;
    *out_tokenizer = NULL;
    return missing(context, name);
}

void kin_tokenizer_destroy(kin_tokenizer *tokenizer) {
    (void)tokenizer;
}

kin_status kin_tokenizer_encode(const kin_tokenizer *tokenizer, const char *text, size_t size,
                                int32_t **out_ids, size_t *out_count) {
    (void)text, (void)size, (void)out_ids, (void)out_count;
    return missing(tokenizer->context, "the text");
}

kin_status kin_tokenizer_encode_padded(const kin_tokenizer *tokenizer, const char *text,
                                       size_t size, int max_length, int32_t *out_ids,
                                       int *out_length) {
    (void)text, (void)size, (void)max_length, (void)out_ids, (void)out_length;
    return missing(tokenizer->context, "the text");
}

kin_status kin_tokenizer_train(kin_context *context, const char *const *sentences, size_t count,
                               int vocab_size, const char *path) {
    (void)sentences, (void)count, (void)vocab_size;
    return missing(context, path);
}

kin_status kin_tokenizer_train_file(kin_context *context, const char *text_path, int vocab_size,
                                    const char *path) {
    (void)text_path, (void)vocab_size;
    return missing(context, path);
}

#endif
