/* The tokenizer against the published cases (every id equal), training, and broken model files. */
#define _POSIX_C_SOURCE 200809L
#include "tests/media_helper.h"

#include "runtime/tokenizer.h"

#ifdef KIN_HAVE_SENTENCEPIECE

/* One reference case; true if all ids agree. `skew` changes the text to show that the test can
 * fail. */
static bool case_agrees(media *m, const char *folder, int max_length, bool skew) {
    char path[2 * MEDIA_PATH];
    kin_tokenizer *tokenizer = NULL;
    snprintf(path, sizeof path, "%s/spiece.model", folder);
    assert_int_equal(kin_tokenizer_load(m->context, path, &tokenizer), KIN_OK);
    assert_int_equal(kin_tokenizer_pad(tokenizer), 0);
    assert_int_equal(kin_tokenizer_eos(tokenizer), 1);
    assert_int_equal(kin_tokenizer_unk(tokenizer), 2);
    size_t size = 0, offsets_size = 0;
    char *text = media_tensor(folder, "inputs", "text", &size);
    int64_t *at = media_tensor(folder, "inputs", "text_offsets", &offsets_size);
    int64_t *raw = media_tensor(folder, "outputs", "raw_ids", &size);
    int64_t *raw_at = media_tensor(folder, "outputs", "raw_offsets", &size);
    int64_t *padded = media_tensor(folder, "outputs", "input_ids", &size);
    int64_t *mask = media_tensor(folder, "outputs", "attention_mask", &size);
    bool agrees = true;
    const size_t count = offsets_size / 8 - 1;
    assert_true(count > 10);
    assert_int_equal(size, count * (size_t)max_length * 8);
    for (size_t i = 0; i < count; ++i) {
        int32_t *ids = NULL, row[64];
        size_t id_count = 0;
        int length = 0;
        const char *string = text + at[i];
        size_t bytes = (size_t)(at[i + 1] - at[i]);
        if (skew && bytes > 3) --bytes;
        assert_int_equal(kin_tokenizer_encode(tokenizer, string, bytes, &ids, &id_count), KIN_OK);
        agrees = agrees && id_count == (size_t)(raw_at[i + 1] - raw_at[i]);
        for (size_t j = 0; agrees && j < id_count; ++j)
            agrees = ids[j] == raw[raw_at[i] + (int64_t)j];
        kin_free(m->context, ids);
        assert_int_equal(
            kin_tokenizer_encode_padded(tokenizer, string, bytes, max_length, row, &length),
            KIN_OK);
        for (int j = 0; j < max_length; ++j)
            agrees = agrees && row[j] == padded[i * (size_t)max_length + (size_t)j] &&
                     (j < length) == mask[i * (size_t)max_length + (size_t)j];
    }
    free(text), free(at), free(raw), free(raw_at), free(padded), free(mask);
    kin_tokenizer_destroy(tokenizer);
    return agrees;
}

static void published_cases(void **state) {
    char folder[MEDIA_PATH];
    if (media_reference("t5-tokenizer", folder)) {
        assert_true(case_agrees(*state, folder, 40, false));
        assert_false(case_agrees(*state, folder, 40, true));
    }
    if (media_reference("mt5-tokenizer", folder)) {
        assert_true(case_agrees(*state, folder, 64, false));
        assert_false(case_agrees(*state, folder, 64, true));
    }
}

static const char *const captions[] = {
    "a red circle moving to the left",      "a green square moving to the right",
    "the blue triangle sliding up",         "a yellow circle gliding downwards",
    "a magenta square moving upwards",      "the cyan triangle sliding to the left",
    "a red square gliding to the right",    "  ",
    "the green circle moving down",         "a blue square sliding downwards",
    "a yellow triangle moving to the left", ""};
enum { CAPTIONS = sizeof captions / sizeof captions[0] };

static const char *trained_model(media *m) {
    const char *path = media_path(m, "spiece.model");
    assert_int_equal(kin_tokenizer_train(m->context, captions, CAPTIONS, 200, path), KIN_OK);
    return path;
}

static void training(void **state) {
    media *m = *state;
    size_t size = 0, again = 0;
    unsigned char *first = media_read(trained_model(m), &size);
    unsigned char *second = media_read(trained_model(m), &again);
    assert_int_equal(size, again);
    assert_memory_equal(first, second, size);
    free(first), free(second);
    kin_tokenizer *tokenizer = NULL;
    const char *path = media_path(m, "spiece.model");
    assert_int_equal(kin_tokenizer_load(m->context, path, &tokenizer), KIN_OK);
    assert_int_equal(kin_tokenizer_pad(tokenizer), 0);
    assert_int_equal(kin_tokenizer_eos(tokenizer), 1);
    assert_int_equal(kin_tokenizer_unk(tokenizer), 2);
    assert_in_range(kin_tokenizer_size(tokenizer), 20, 200);
    int32_t row[24], other[24];
    int length = 0, other_length = 0;
    assert_int_equal(
        kin_tokenizer_encode_padded(tokenizer, captions[0], strlen(captions[0]), 24, row, &length),
        KIN_OK);
    assert_int_equal(row[length - 1], 1);
    for (int i = 0; i < length; ++i) assert_int_not_equal(row[i], 2); /* all characters are known */
    for (int i = length; i < 24; ++i) assert_int_equal(row[i], 0);
    assert_int_equal(kin_tokenizer_encode_padded(tokenizer, captions[1], strlen(captions[1]), 24,
                                                 other, &other_length),
                     KIN_OK);
    assert_memory_not_equal(row, other, sizeof row);
    /* A cut text ends in the end mark; length 1 is the end mark alone. */
    assert_int_equal(kin_tokenizer_encode_padded(tokenizer, captions[0], strlen(captions[0]), 3,
                                                 other, &other_length),
                     KIN_OK);
    assert_int_equal(other_length, 3);
    assert_memory_equal(other, row, 2 * sizeof row[0]);
    assert_int_equal(other[2], 1);
    assert_int_equal(kin_tokenizer_encode_padded(tokenizer, "", 0, 1, other, &other_length),
                     KIN_OK);
    assert_true(other_length == 1 && other[0] == 1);
    assert_int_equal(kin_tokenizer_encode_padded(tokenizer, "", 0, 0, other, &other_length),
                     KIN_INVALID);
    kin_tokenizer_destroy(tokenizer);
}

static void training_from_file(void **state) {
    media *m = *state;
    const char *text = media_path(m, "lines.txt"), *path = media_path(m, "lines.model");
    FILE *file = fopen(text, "w");
    assert_non_null(file);
    for (int i = 0; i < CAPTIONS; ++i) fprintf(file, "%s\r\n", captions[i]);
    fclose(file);
    assert_int_equal(kin_tokenizer_train_file(m->context, text, 120, path), KIN_OK);
    assert_int_equal(access(path, R_OK), 0);
}

static void training_refuses(void **state) {
    media *m = *state;
    static const char *const blank[] = {"", "   ", "\t"};
    static const char *const odd[] = {"\xE2\x96\x85", "\xFF\xFE",         "\x01", "a", "ab", "a a",
                                      "\xEC\x95\x84", "a\x01\xE2\x80\x8B"};
    const char *path = media_path(m, "never.model");
    assert_int_equal(kin_tokenizer_train(m->context, blank, 3, 100, path), KIN_INVALID);
    assert_int_equal(kin_tokenizer_train(m->context, captions, 0, 100, path), KIN_INVALID);
    assert_int_equal(kin_tokenizer_train(m->context, captions, CAPTIONS, 2, path), KIN_INVALID);
    assert_int_equal(kin_tokenizer_train(m->context, captions, CAPTIONS, 8, path), KIN_INVALID);
    assert_int_not_equal(access(path, F_OK), 0);
    /* Strange sentences one by one: an answer or an error, but no end of the process. */
    for (int i = 0; i < 8; ++i) {
        kin_status status = kin_tokenizer_train(m->context, odd + i, 1, 100, path);
        assert_true(i < 3 ? status == KIN_INVALID : status == KIN_OK || status == KIN_INVALID);
    }
    assert_int_equal(kin_tokenizer_train(m->context, captions, CAPTIONS, 100,
                                         media_path(m, "no/such/folder.model")),
                     KIN_NOT_FOUND);
}

static void broken_models(void **state) {
    media *m = *state;
    kin_tokenizer *tokenizer = NULL;
    size_t size = 0;
    unsigned char *model = media_read(trained_model(m), &size);
    assert_int_equal(kin_tokenizer_load(m->context, media_path(m, "missing.model"), &tokenizer),
                     KIN_NOT_FOUND);
    assert_int_equal(kin_tokenizer_load_bytes(m->context, "x", "", 0, &tokenizer), KIN_FORMAT);
    assert_int_equal(kin_tokenizer_load_bytes(m->context, "x", "hello", 5, &tokenizer), KIN_FORMAT);
    int refused = 0, cuts = 0;
    for (size_t cut = 1; cut < size; cut += 1 + size / 53, ++cuts) {
        kin_status status =
            kin_tokenizer_load_bytes(m->context, "cut.model", model, size - cut, &tokenizer);
        refused += status == KIN_FORMAT;
        if (status == KIN_OK) kin_tokenizer_destroy(tokenizer);
    }
    assert_true(refused >= cuts - 3); /* a cut between two messages leaves a smaller model */
    assert_non_null(strstr(kin_context_error(m->context), "cut.model"));
    /* The trie of the rules: the first unit is the root; its offset is sent far away. */
    const unsigned char *name = NULL;
    for (size_t i = 0; i + 8 < size && !name; ++i)
        if (memcmp(model + i, "nmt_nfkc", 8) == 0) name = model + i;
    assert_non_null(name);
    size_t rules = (size_t)(name - model) + 8 + 1; /* after the key of field 2 */
    while (model[rules] >= 128) ++rules;
    ++rules;
    unsigned char saved = model[rules + 7];
    model[rules + 7] ^= 0x7F;
    assert_int_equal(kin_tokenizer_load_bytes(m->context, "bad.model", model, size, &tokenizer),
                     KIN_FORMAT);
    assert_non_null(strstr(kin_context_error(m->context), "normalization"));
    model[rules + 7] = saved;
    assert_int_equal(kin_tokenizer_load_bytes(m->context, "good.model", model, size, &tokenizer),
                     KIN_OK);
    kin_tokenizer_destroy(tokenizer);
    free(model);
}

static kin_status train_and_encode(kin_context *context, const media *m) {
    const char *path = media_path(m, "memory.model");
    int32_t ids[8];
    int length = 0;
    kin_tokenizer *tokenizer = NULL;
    kin_status status = kin_tokenizer_train(context, captions, CAPTIONS, 60, path);
    if (status == KIN_OK) status = kin_tokenizer_load(context, path, &tokenizer);
    if (status == KIN_OK)
        status = kin_tokenizer_encode_padded(tokenizer, "a red", 5, 8, ids, &length);
    kin_tokenizer_destroy(tokenizer);
    return status;
}

static void out_of_memory(void **state) {
    assert_true(media_starve(train_and_encode, *state) > 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_cases),    cmocka_unit_test(training),
        cmocka_unit_test(training_from_file), cmocka_unit_test(training_refuses),
        cmocka_unit_test(broken_models),      cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}

#else

static void says_unsupported(void **state) {
    media *m = *state;
    kin_tokenizer *tokenizer = NULL;
    assert_int_equal(kin_tokenizer_load(m->context, "x.model", &tokenizer), KIN_UNSUPPORTED);
    assert_non_null(strstr(kin_context_error(m->context), "libsentencepiece-dev"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(says_unsupported)};
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}

#endif
