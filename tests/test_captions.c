/* Caption cleaning beyond the reference case, and the tables of training data: buckets, conditions,
 * the order of samples. All answers are exact. The wanted captions were made with Python's re, html
 * and html.parser modules from the rules. Negative controls: rules that must not act. */
#define _POSIX_C_SOURCE 200809L
#include "tests/runtime_support.h"

#include "runtime/philox.h"
#include "tools/generate/caption_clean.h"
#include "tools/generate/mask_strategy.h"
#include "tools/train/buckets.h"
#include "tools/train/megabatch.h"

static kin_context *open_context(void) {
    kin_context *context = NULL;
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    return context;
}

static void captions(void **state) {
    (void)state;
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"\"&eacute;&copy<person> clické<@dog", "\"é copyperson clické<"},
        {"a &lt;b> c &amp;amp; d", "a c ; d"},
        {"<script>x < y</script>cat <style>p{}</style>dog", "cat dog"},
        {"tom &#39;and&#39; jerry", "tom 'and' jerry"},
        {"9Σ ΑΣ ΑΣ12", "9σ ας ας12"},
        {"İstanbul", "i̇stanbul"},
        {"<a href=\"x>y\">link</a> text", "link text"},
        {"unfinished <b tag", "unfinished <b tag"},
        {"see foo.bar and a.com/x@y", "see foo. bar and x"},
        {"free  shipping, free shipping", ""},
        {"downloads", "s"},
        {"#1234 stays", "1234 stays"},
        {"page12 page 12", "page12"},
        {"٣:٤٥ clock", "٣:٤٥ clock"},
        {"ｆｕｌｌ ｗｉｄｔｈ ﬁne", "full width fine"},
        {"\xFFzz", "\xEF\xBF\xBDzz"},
    };
    kin_context *context = open_context();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *got = NULL;
        assert_int_equal(
            kin_caption_clean(context, cases[i].text, strlen(cases[i].text), false, &got), KIN_OK);
        if (strcmp(got, cases[i].want) != 0)
            fail_msg("\"%s\" gives \"%s\", not \"%s\"", cases[i].text, got, cases[i].want);
        kin_free(context, got);
    }
    char *long_text = calloc(1, 70000), *got = NULL;
    memset(long_text, 'x', 69999);
    assert_int_equal(kin_caption_clean(context, long_text, 69999, false, &got), KIN_INVALID);
    assert_null(got);
    free(long_text);
    kin_context_destroy(context);
}

/* Any bytes are cleaned, and cleaning ends. */
static void captions_of_any_bytes(void **state) {
    (void)state;
    static const char signs[] = "&<>#;%\"'@/.-x1 \xC3\xA9\xE4\xB8\x80\xFF";
    kin_context *context = open_context();
    for (uint64_t i = 0; i < 3000; i++) {
        char text[48], *got = NULL;
        size_t size = kin_philox_element(1, 0, i, 0) % sizeof text;
        for (size_t k = 0; k < size; k++) {
            uint32_t word = kin_philox_element(1, 1, i, k);
            text[k] = word & 256 ? signs[word % (sizeof signs - 1)] : (char)word;
        }
        assert_int_equal(kin_caption_clean(context, text, size, i & 1, &got), KIN_OK);
        kin_free(context, got);
    }
    kin_context_destroy(context);
}

/* ---- buckets -------------------------------------------------------------------------------- */

static double draw(void *user, size_t entry) {
    (void)entry;
    return *(const double *)user;
}

static kin_buckets *parse_buckets(kin_context *context, const char *text, kin_status want) {
    json_t *json = json_loads(text, 0, NULL);
    kin_buckets *buckets = NULL;
    assert_non_null(json);
    assert_int_equal(kin_buckets_parse(context, json, "buckets", &buckets), want);
    json_decref(json);
    return buckets;
}

static void buckets(void **state) {
    (void)state;
    kin_context *context = open_context();
    kin_buckets *b = parse_buckets(
        context, "{\"256\": {\"16\": [0.5, 8], \"1\": [1.0, 64]}, \"144p\": {\"16\": [1.0, 4]}}",
        KIN_OK);
    assert_int_equal(kin_buckets_count(b), 2 * 40 + 17);
    double low = 0.4, high = 0.6;
    kin_bucket found;
    assert_true(kin_buckets_find(b, 100, 300, 300, 3, draw, &low, &found));
    assert_int_equal(found.height, 256);
    assert_int_equal(found.batch_size, 8);
    /* The draw turns it down: the next smaller resolution. */
    assert_true(kin_buckets_find(b, 100, 300, 300, 3, draw, &high, &found));
    assert_int_equal(found.batch_size, 4);
    assert_int_equal(found.height, 192);
    /* 48 frames are not more than 16 * 3. */
    assert_false(kin_buckets_find(b, 48, 300, 300, 3, draw, &low, &found));
    assert_true(kin_buckets_find(b, 1, 300, 300, 3, draw, &high, &found));
    assert_int_equal(found.frames, 1);
    kin_buckets_free(b);
    assert_null(parse_buckets(context, "{\"114p\": {\"16\": [1.0, 4]}}", KIN_INVALID));
    assert_non_null(strstr(kin_context_error(context), "144p"));
    assert_null(parse_buckets(context, "{\"144p\": {\"16\": [1.5, 4]}}", KIN_INVALID));
    assert_null(parse_buckets(context, "{\"144p\": {\"x\": [1, 4]}}", KIN_INVALID));
    assert_null(parse_buckets(context, "{}", KIN_INVALID));
    kin_context_destroy(context);
}

/* numpy 1.24 gave these. */
static void draws_are_numpys(void **state) {
    (void)state;
    static const struct {
        uint64_t seed;
        double want;
    } cases[] = {{0ull, 0.6369616873214543},
                 {1ull, 0.5118216247002567},
                 {42ull, 0.7739560485559633},
                 {1234567ull, 0.9936520796513219},
                 {4294967295ull, 0.2519435680449965},
                 {4294967301ull, 0.7742041803738812},
                 {9223372036854775819ull, 0.16991639149909477}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_true(kin_numpy_first_uniform(cases[i].seed) == cases[i].want);
    kin_bucket_draws draws = {.seed = 40, .epoch = 2, .sample = 0, .buckets = 7};
    assert_true(kin_bucket_draw_numpy(&draws, 0) == kin_numpy_first_uniform(42));
    draws.sample = 1;
    assert_true(kin_bucket_draw_numpy(&draws, 0) != kin_numpy_first_uniform(42));
}

/* ---- conditions ------------------------------------------------------------------------------ */

static void bad_strategies(void **state) {
    (void)state;
    static const char *const texts[] = {"",    ";",    "0,", "a", "0;;1", "0,0,0,0,1,0,0",
                                        "0.5", "0,0,x"};
    kin_context *context = open_context();
    kin_mask_tuple *tuples = NULL;
    size_t count = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(kin_mask_strategy_parse(context, texts[i], &tuples, &count), KIN_INVALID);
        assert_null(tuples);
    }
    assert_int_equal(kin_mask_strategy_parse(context, NULL, &tuples, &count), KIN_OK);
    assert_int_equal(count, 0);
    /* A reference that is not there, and lengths that do not fit. */
    float latents[8] = {0}, mask[8], given[3] = {1, 2, 3};
    kin_mask_reference reference = {given, 3};
    kin_mask_sample sample = {latents, mask, 1, 8, 1, &reference, 1};
    static const char *const unfit[] = {"0,1", "0,0,0,0,5"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kin_mask_strategy_parse(context, unfit[i], &tuples, &count), KIN_OK);
        assert_int_equal(kin_mask_strategy_apply(context, tuples, count, 0, &sample), KIN_INVALID);
        kin_free(context, tuples);
    }
    assert_int_equal(kin_mask_strategy_parse(context, "0,0,-3,-3,3", &tuples, &count), KIN_OK);
    assert_int_equal(kin_mask_strategy_apply(context, tuples, count, 0, &sample), KIN_OK);
    assert_true(latents[4] == 0 && latents[5] == 1 && latents[7] == 3 && mask[4] == 1 &&
                mask[5] == 0);
    kin_free(context, tuples);
    kin_context_destroy(context);
}

static void bad_prompts(void **state) {
    (void)state;
    kin_context *context = open_context();
    char *text = NULL;
    json_t *json = NULL;
    assert_int_equal(kin_prompt_split(context, "cat {\"a\":", &text, &json), KIN_FORMAT);
    assert_null(text);
    assert_int_equal(kin_prompt_of_loop(context, "|0|a|b|c", 0, &text), KIN_INVALID);
    assert_int_equal(kin_prompt_of_loop(context, "|0|a|3|", 3, &text), KIN_OK);
    assert_string_equal(text, "");
    kin_free(context, text);
    kin_context_destroy(context);
}

/* ---- the order of samples ---------------------------------------------------------------------
 */

static size_t first_of(void *user, size_t count) {
    (void)count;
    ++*(int *)user;
    return 0;
}

static void megabatches(void **state) {
    (void)state;
    enum { SAMPLES = 37 };
    kin_context *context = open_context();
    int64_t lengths[SAMPLES], *order = NULL;
    size_t count = 0;
    int choices = 0;
    for (int i = 0; i < SAMPLES; i++) lengths[i] = 29 + 16 * (i % 5);
    kin_megabatch_options options = {3, 4, true, 42};
    assert_int_equal(kin_megabatch_order(context, lengths, SAMPLES, &options, first_of, &choices,
                                         &order, &count),
                     KIN_OK);
    assert_int_equal(count, 48);
    assert_true(choices > 0);
    for (size_t i = 0; i < count; i += 3) /* one length in each batch */
        assert_true(lengths[order[i]] == lengths[order[i + 1]] &&
                    lengths[order[i]] == lengths[order[i + 2]]);
    kin_free(context, order);
    options.group_frame = false; /* negative control: then lengths differ within a batch */
    assert_int_equal(kin_megabatch_order(context, lengths, SAMPLES, &options, first_of, &choices,
                                         &order, &count),
                     KIN_OK);
    bool mixed = false;
    for (size_t i = 0; i < count; i += 3)
        mixed = mixed || lengths[order[i]] != lengths[order[i + 1]];
    assert_true(mixed);
    kin_free(context, order);
    options.batch_size = 0;
    assert_int_equal(kin_megabatch_order(context, lengths, SAMPLES, &options, first_of, &choices,
                                         &order, &count),
                     KIN_INVALID);
    kin_context_destroy(context);
}

/* ---- memory --------------------------------------------------------------------------------- */

static kin_status work_through(kin_context *context, void *user) {
    static const int64_t lengths[] = {29, 45, 29, 61, 29};
    const kin_megabatch_options options = {2, 2, true, 42};
    static const char caption[] = "A &eacute; cat-dog, 1920x1080 <b>";
    char *text = NULL;
    kin_mask_tuple *tuples = NULL;
    kin_buckets *sizes = NULL;
    int64_t *order = NULL;
    size_t count = 0;
    int choices = 0;
    kin_status status = kin_caption_clean(context, caption, strlen(caption), true, &text);
    if (status == KIN_OK) status = kin_mask_strategy_parse(context, "0;1,2", &tuples, &count);
    if (status == KIN_OK) status = kin_buckets_parse(context, user, "buckets", &sizes);
    if (status == KIN_OK)
        status =
            kin_megabatch_order(context, lengths, 5, &options, first_of, &choices, &order, &count);
    kin_free(context, text);
    kin_free(context, tuples);
    kin_free(context, order);
    kin_buckets_free(sizes);
    return status;
}

static void memory_may_run_out(void **state) {
    (void)state;
    json_t *json = json_loads("{\"144p\": {\"1\": [1.0, 4], \"16\": [0.5, null]}}", 0, NULL);
    sweep_allocations(work_through, json);
    json_decref(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(captions),       cmocka_unit_test(captions_of_any_bytes),
        cmocka_unit_test(buckets),        cmocka_unit_test(draws_are_numpys),
        cmocka_unit_test(bad_strategies), cmocka_unit_test(bad_prompts),
        cmocka_unit_test(megabatches),    cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
