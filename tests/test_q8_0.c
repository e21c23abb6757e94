/* T5 with the weights of its linear layers in q8_0, against the same network in f32: the plan keeps
 * the blocks as they are, memory is what the blocks take, and features differ by what the rounding
 * explains.
 *
 * The largest of 32 normal numbers is 2.4 times their deviation on the average, so a step of its
 * 127th and its rounding error, a step / sqrt(12), make 0.55 % of a product's norm. A block of T5
 * has three such products in a row, beside which x goes on unrounded: one block differs by 0.6 %.
 * Random blocks do not agree with each other, so the errors of L of them add up as their squares,
 * and what comes early is amplified as everything is: the bound is 1 % for one block and 0.7 %
 * sqrt(L) for more. (Weights that were trained are not measured here: there are none.)
 * KINORA_TEST_T5=REFERENCE:Q8_0 names two folders of the same text encoder, such as
 * t5-v1_1-xxl in f16 and what kinora convert --dtype q8_0 made of it, for the same comparison. */
#define _GNU_SOURCE

#include "tests/runtime_support.h"

#include "models/t5.h"
#include "runtime/device.h"
#include "runtime/plan.h"
#include "runtime/weights.h"
#include "tools/model_choice.h"
#include "tools/system/convert.h"
#include "tools/system/init.h"
#include "tools/tool.h"

#include <math.h>

static double tolerance(int layers) {
    return layers == 1 ? 0.01 : 0.007 * sqrt((double)layers);
}

static kin_context *context;
static kin_device *device;
static kin_backends *backends;
static char *folder;

#define CHECK(status)                                                                              \
    do {                                                                                           \
        if ((status) != KIN_OK) fail_msg("%s", kin_context_error(context));                        \
    } while (0)

static int set_up(void **state) {
    (void)state;
    folder = make_folder();
    kin_context_options options = {.struct_size = sizeof options, .threads = 2};
    CHECK(kin_context_create(&options, &context));
    CHECK(kin_backends_load(context, NULL, &backends));
    CHECK(kin_device_open(backends, "cpu", &device));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    free(folder);
    kin_device_close(device);
    kin_backends_free(backends);
    kin_context_destroy(context);
    return system(command);
}

/* ---- one encoding ---- */

enum { LENGTH = 48 };

typedef struct encoding {
    kin_precision precision;
    kin_plan_summary summary;
    int unpacked;    /* nodes that make something else of q8_0 blocks than a product */
    int products;    /* linear nodes */
    int q8_0_inputs; /* variables in q8_0 */
    double seconds;  /* of the second run */
    int layers;
    float *features; /* [LENGTH, d_model] */
    int64_t count;
} encoding;

static void count_nodes(const kin_plan *plan, encoding *e) {
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        bool linear = strncmp(node.op, "linear", 6) == 0; /* plain or fused */
        e->products += linear;
        /* What would unpack a matrix: a copy, a cast in a layer, or the adapter around a kernel. */
        e->unpacked += node.is_copy ||
                       (strcmp(node.op, "cast") == 0 && node.path && strstr(node.path, "layer.")) ||
                       (linear && strncmp(node.kernel, "cpu_linear", 10) != 0);
    }
}

/* Variables in q8_0. */
static int count_q8_0(const kin_graph *graph) {
    int count = 0;
    for (int i = 0; i < kin_variable_count(graph); i++)
        count += kin_tensor_desc(graph, kin_variable_at(graph, i))->dtype == KIN_Q8_0;
    return count;
}

static void encode(const char *path, kin_precision precision, encoding *e) {
    kin_model_choice choice;
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    int64_t dims[2] = {1, LENGTH};
    int32_t ids[LENGTH], length = LENGTH - 9;
    *e = (encoding){.precision = precision};
    CHECK(kin_model_choose(context, path, &choice));
    CHECK(kin_graph_create(context, &graph));
    kin_tensor tokens = kin_input(graph, "ids", KIN_I32, 2, dims);
    kin_tensor lengths = kin_input(graph, "lengths", KIN_I32, 1, dims);
    kin_output(graph, "features",
               kin_t5_encode(graph, &choice.t5, &precision, tokens, lengths, false));
    CHECK(kin_plan_build(graph, device, NULL, &plan));
    e->summary = *kin_plan_summarize(plan);
    e->layers = choice.t5.num_layers;
    count_nodes(plan, e);
    e->q8_0_inputs = count_q8_0(graph);
    CHECK(kin_store_create(device, &store));
    CHECK(kin_store_reserve_graph(store, graph));
    CHECK(kin_weights_load(
        store, path, &(kin_weights_options){.rename = kin_t5_rename, .config = &choice.t5}, NULL));
    CHECK(kin_plan_prepare(plan, store, NULL));
    for (int i = 0; i < LENGTH; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % (choice.t5.vocab_size - 3)) + 3;
    ids[length - 1] = 1;
    CHECK(kin_plan_write(plan, "ids", KIN_I32, ids));
    CHECK(kin_plan_write(plan, "lengths", KIN_I32, &length));
    CHECK(kin_plan_run(plan));
    double start = kin_seconds();
    CHECK(kin_plan_run(plan));
    e->seconds = kin_seconds() - start;
    float *all = malloc((size_t)LENGTH * (size_t)choice.t5.d_model * sizeof *all);
    CHECK(kin_plan_read(plan, "features", KIN_F32, all));
    e->features = all;
    e->count = (int64_t)length * choice.t5.d_model; /* those that a denoiser looks at */
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
}

/* |a - b| / |b| */
static double difference(const encoding *a, const encoding *b) {
    double off = 0, norm = 0;
    assert_int_equal(a->count, b->count);
    for (int64_t i = 0; i < a->count; i++) {
        double x = (double)a->features[i], y = (double)b->features[i];
        assert_true(isfinite(x) && isfinite(y));
        off += (x - y) * (x - y);
        norm += y * y;
    }
    assert_true(norm > 0);
    return sqrt(off / norm);
}

static const kin_precision wide = {KIN_F32, KIN_F32}, half = {KIN_F16, KIN_F32},
                           blocks = {KIN_Q8_0, KIN_F32}, brain = {KIN_BF16, KIN_BF16};

/* ---- narrower than any published T5 ---- */

/* Makes FOLDER/NAME and FOLDER/NAME-q8_0. */
static void make(const char *name, const char *layers, uint64_t seed) {
    static const char *const part = "text_encoder";
    const char *const sets[] = {
        "text_encoder.d_model=256", "text_encoder.num_heads=4",         "text_encoder.d_kv=64",
        "text_encoder.d_ff=640",    "transformer.caption_channels=256", layers};
    kin_init_options options = {.system = KIN_SYSTEM_PIXART,
                                .size = KIN_INIT_SIZE_TINY,
                                .sets = sets,
                                .set_count = 6,
                                .parts = &part,
                                .part_count = 1,
                                .seed = seed,
                                .quiet = true};
    kin_convert_options convert = {.dtype = "q8_0", .quiet = true};
    char source[2048], packed[128];
    CHECK(kin_init_folder(context, &options, path_in(folder, name)));
    snprintf(source, sizeof source, "%s/%s/text_encoder", folder, name);
    snprintf(packed, sizeof packed, "%s-q8_0", name);
    CHECK(kin_convert_weights(context, source, path_in(folder, packed), &convert));
}

static void free_encoding(encoding *e) {
    free(e->features);
    e->features = NULL;
}

/* kinora init trains a tokenizer for its folders. */
static void need_tokenizer(void) {
#ifndef KIN_HAVE_SENTENCEPIECE
    skip();
#endif
}

static void test_one_block(void **state) {
    (void)state;
    need_tokenizer();
    encoding reference, packed;
    make("one", "text_encoder.num_layers=1", 3);
    encode(path_in(folder, "one/text_encoder"), wide, &reference);
    encode(path_in(folder, "one-q8_0"), blocks, &packed);
    double off = difference(&packed, &reference);
    print_message("one block of 256: q8_0 differs by %.3f %%\n", 100 * off);
    assert_true(off < tolerance(1));
    assert_true(off > tolerance(1) / 10); /* the blocks were used */
    free_encoding(&reference), free_encoding(&packed);
}

static void test_24_blocks(void **state) {
    (void)state;
    need_tokenizer();
    encoding reference, packed, other, mixed, rounded;
    make("a", "text_encoder.num_layers=24", 1);
    make("b", "text_encoder.num_layers=24", 2);
    encode(path_in(folder, "a/text_encoder"), wide, &reference);
    encode(path_in(folder, "a/text_encoder"), brain, &rounded);
    encode(path_in(folder, "a-q8_0"), blocks, &packed);
    encode(path_in(folder, "a-q8_0"), wide, &mixed); /* unpacked while loading */
    encode(path_in(folder, "b-q8_0"), blocks, &other);
    double off = difference(&packed, &reference);
    print_message("24 blocks of 256: q8_0 differs by %.3f %%, bf16 by %.3f %%\n", 100 * off,
                  100 * difference(&rounded, &reference));
    assert_true(off < tolerance(24));
    assert_true(off > tolerance(24) / 10);
    assert_true(difference(&other, &reference) > 10 * tolerance(24)); /* the comparison can fail */
    /* The same numbers; only the order of sums differs. */
    assert_true(difference(&mixed, &packed) < 1e-4);
    assert_int_equal(packed.products, 24 * 7);
    assert_int_equal(packed.unpacked, 0);
    assert_true(packed.q8_0_inputs == 24 * 7 && reference.q8_0_inputs == 0);
    /* 34 bytes for 32 weights; the table is f16, and norms are f32. */
    assert_true((double)packed.summary.weights < 0.29 * (double)reference.summary.weights);
    assert_true(packed.summary.arena <= reference.summary.arena + (1 << 16));
    free_encoding(&reference), free_encoding(&packed), free_encoding(&other);
    free_encoding(&mixed), free_encoding(&rounded);
}

/* ---- whatever is there ---- */

static void test_given(void **state) {
    (void)state;
    const char *given = getenv("KINORA_TEST_T5");
    if (!given) skip();
    char reference_path[1024], packed_path[1024];
    assert_int_equal(sscanf(given, "%1023[^:]:%1023s", reference_path, packed_path), 2);
    encoding reference, packed;
    encode(packed_path, blocks, &packed);
    encode(reference_path, half, &reference);
    double off = difference(&packed, &reference);
    print_message("q8_0 differs by %.3f %%; %.2f GB against %.2f GB; %.1f s against %.1f s\n",
                  100 * off, (double)packed.summary.peak * 1e-9,
                  (double)reference.summary.peak * 1e-9, packed.seconds, reference.seconds);
    assert_true(off < tolerance(reference.layers));
    free_encoding(&reference), free_encoding(&packed);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_block),
                                       cmocka_unit_test(test_24_blocks),
                                       cmocka_unit_test(test_given)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
