#include "runtime/sentencepiece_shim.h"

#include <string.h>

/* sentencepiece_model.proto, as far as it matters here:
 *   ModelProto  1 pieces { 1 piece, 2 score, 3 type }, 2 trainer_spec { 3 model_type, 40 unk_id,
 *               42 eos_id, 43 pad_id }, 3 normalizer_spec { 2 precompiled_charsmap } */
enum { TYPE_UNKNOWN = 2, TYPE_LAST = 6, MODEL_UNIGRAM = 1, MAX_PIECES = 1 << 22 };

typedef struct cursor {
    const uint8_t *at, *end;
    bool bad;
} cursor;

typedef struct field {
    uint64_t number, value;
    int wire;
    const uint8_t *data;
    size_t size;
} field;

static uint64_t take_varint(cursor *c) {
    uint64_t value = 0;
    for (int shift = 0; shift < 70 && c->at < c->end; shift += 7) {
        uint8_t byte = *c->at++;
        if (shift < 64) value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return value;
    }
    c->bad = true;
    return 0;
}

static void skip(cursor *c, uint64_t size) {
    if (size > (uint64_t)(c->end - c->at)) c->bad = true;
    else c->at += size;
}

/* The next field; false at the end and when the message is bad. Groups are refused. */
static bool take_field(cursor *c, field *out_field) {
    if (c->bad || c->at == c->end) return false;
    uint64_t key = take_varint(c);
    *out_field = (field){.number = key >> 3, .wire = (int)(key & 7)};
    if (out_field->number == 0) c->bad = true;
    if (out_field->wire == 0) {
        out_field->value = take_varint(c);
    } else if (out_field->wire == 1 || out_field->wire == 5) {
        skip(c, out_field->wire == 1 ? 8 : 4);
    } else if (out_field->wire == 2) {
        uint64_t size = take_varint(c);
        out_field->data = c->at;
        if (!c->bad) skip(c, size);
        out_field->size = (size_t)size;
    } else {
        c->bad = true;
    }
    return !c->bad;
}

static cursor inside(const field *f) {
    return (cursor){f->data, f->data + f->size, false};
}

/* NULL, or what is wrong. */
static const char *check_piece(const field *message, bool *out_unknown) {
    cursor c = inside(message);
    field f;
    uint64_t type = 1;
    size_t length = 0;
    while (take_field(&c, &f)) {
        if (f.number == 1 && f.wire == 2) {
            length = f.size;
            if (memchr(f.data, 0, f.size)) return "a piece holds a zero byte";
        }
        if (f.number == 3 && f.wire == 0) type = f.value;
    }
    if (c.bad) return "a piece is cut or broken";
    if (length == 0 || length > 4096) return "a piece is empty or far too long";
    if (type < 1 || type > TYPE_LAST) return "a piece has an unknown type";
    *out_unknown = type == TYPE_UNKNOWN;
    return NULL;
}

static uint32_t unit_at(const uint8_t *trie, uint32_t index) {
    const uint8_t *p = trie + (size_t)index * 4;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t unit_offset(uint32_t unit) {
    return (unit >> 10) << ((unit & 512) >> 6);
}

typedef struct trie_walk {
    const uint8_t *trie;
    uint32_t units;
    const uint8_t *pool;
    size_t pool_size;
    uint32_t *todo;  /* bases to look at */
    uint8_t *queued; /* per base */
    uint32_t count;
} trie_walk;

/* A base is the place that a node's children are reached from by XOR with their byte. */
static const char *enqueue(trie_walk *walk, uint32_t base, bool has_value) {
    if ((base | 255u) >= walk->units) return "a step of the normalization rules leaves them";
    if (has_value) {
        uint32_t value = unit_at(walk->trie, base) & 0x7FFFFFFFu;
        if (value >= walk->pool_size) return "a normalization rule has no text";
    }
    if (!walk->queued[base]) {
        walk->queued[base] = 1;
        walk->todo[walk->count++] = base;
    }
    return NULL;
}

static const char *walk_trie(trie_walk *walk) {
    const char *wrong = enqueue(walk, unit_offset(unit_at(walk->trie, 0)), false);
    while (!wrong && walk->count > 0) {
        uint32_t base = walk->todo[--walk->count];
        for (uint32_t byte = 0; !wrong && byte < 256; ++byte) {
            uint32_t place = base ^ byte, unit = unit_at(walk->trie, place);
            if ((unit & 0x800000FFu) != byte) continue;
            /* A unit with its leaf bit set holds a value below its children. */
            wrong = enqueue(walk, place ^ unit_offset(unit), (unit & 256) != 0);
        }
    }
    return wrong;
}

/* *out_wrong is NULL or what is wrong with the precompiled_charsmap. */
static kin_status check_rules(kin_context *context, const uint8_t *data, size_t size,
                              const char **out_wrong) {
    *out_wrong = NULL;
    if (size == 0) return KIN_OK;
    if (size <= 4) {
        *out_wrong = "the normalization rules are cut";
        return KIN_OK;
    }
    uint32_t bytes = unit_at(data, 0);
    if (bytes == 0 || bytes % 1024 != 0 || bytes >= size - 4 || data[size - 1] != 0) {
        *out_wrong = "the normalization rules are cut or broken";
        return KIN_OK;
    }
    trie_walk walk = {data + 4, bytes / 4, data + 4 + bytes, size - 4 - bytes, NULL, NULL, 0};
    walk.todo = kin_alloc(context, walk.units * sizeof *walk.todo);
    walk.queued = kin_calloc(context, walk.units, 1);
    kin_status status = walk.todo && walk.queued ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) *out_wrong = walk_trie(&walk);
    kin_free(context, walk.todo);
    kin_free(context, walk.queued);
    return status;
}

typedef struct model_scan {
    kin_spiece_info info;
    uint64_t model_type;
    int unknowns;
    field rules; /* the last one counts, as in protobuf */
} model_scan;

static const char *scan_trainer(const field *message, model_scan *scan) {
    cursor c = inside(message);
    field f;
    while (take_field(&c, &f)) {
        if (f.wire != 0) continue;
        if (f.number == 3) scan->model_type = f.value;
        if (f.number == 42) scan->info.eos = (int)(int32_t)f.value;
        if (f.number == 43) scan->info.pad = (int)(int32_t)f.value;
    }
    return c.bad ? "the trainer's settings are cut or broken" : NULL;
}

static const char *scan_normalizer(const field *message, field *out_rules) {
    cursor c = inside(message);
    field f;
    while (take_field(&c, &f))
        if (f.number == 2 && f.wire == 2) *out_rules = f;
    return c.bad ? "the normalizer's settings are cut or broken" : NULL;
}

static const char *scan_piece(const field *f, model_scan *scan) {
    bool unknown = false;
    const char *wrong = check_piece(f, &unknown);
    if (wrong) return wrong;
    if (unknown) {
        scan->info.unk = scan->info.pieces;
        ++scan->unknowns;
    }
    return ++scan->info.pieces > MAX_PIECES ? "there are too many pieces" : NULL;
}

static const char *scan_model(const uint8_t *data, size_t size, model_scan *scan) {
    cursor c = {data, data + size, false};
    field f, unused = {0};
    const char *wrong = NULL;
    while (!wrong && take_field(&c, &f)) {
        if (f.wire != 2) continue;
        if (f.number == 1) wrong = scan_piece(&f, scan);
        if (f.number == 2) wrong = scan_trainer(&f, scan);
        if (f.number == 3) wrong = scan_normalizer(&f, &scan->rules);
        /* Tests of the model itself and rules for the way back are not used here. */
        if (f.number == 4) wrong = "a model with tests of itself is not read";
        if (f.number == 5) wrong = scan_normalizer(&f, &unused);
    }
    if (!wrong && c.bad) wrong = "the file is cut or is no SentencePiece model";
    if (!wrong && unused.size > 0) wrong = "a model with denormalization rules is not read";
    if (!wrong && scan->unknowns != 1) wrong = "there must be one piece for the unknown";
    return wrong;
}

kin_status kin_spiece_check(kin_context *context, const char *name, const void *data, size_t size,
                            kin_spiece_info *out_info) {
    model_scan scan = {.info = {0, -1, 2, -1}, .model_type = MODEL_UNIGRAM};
    const char *wrong = scan_model(data, size, &scan);
    if (!wrong && scan.model_type != MODEL_UNIGRAM)
        return kin_fail(context, KIN_UNSUPPORTED,
                        "%s: model type %llu; only unigram models (type 1) are read", name,
                        (unsigned long long)scan.model_type);
    if (!wrong) {
        kin_status status = check_rules(context, scan.rules.data, scan.rules.size, &wrong);
        if (status != KIN_OK) return status;
    }
    if (wrong) return kin_fail(context, KIN_FORMAT, "%s: %s", name, wrong);
    if (scan.info.eos >= scan.info.pieces || scan.info.pad >= scan.info.pieces)
        return kin_fail(context, KIN_FORMAT, "%s: the end or padding id is beyond the %d pieces",
                        name, scan.info.pieces);
    *out_info = scan.info;
    return KIN_OK;
}
