/* The CUDA backend's attention and convolutions in every variant: head sizes,
 * tiles and lengths that the ops' own small cases do not reach. Each case goes
 * through the op suite, which holds it against the double reference.
 *
 * Arguments: the device, settings, a part of ops' names, a part of cases' names.
 * The device is the first argument ("cuda0" where there is a GPU);
 * cuda-emulated0 if there is none. */
#include "ops/attention_attrs.h"
#include "ops/conv_attrs.h"
#include "ops/self_attention_attrs.h"
#include "tests/plugin_cuda_suite.h"

/* ---- cases ---- */

static const kin_attention_attrs scaled = {.scale = 0.15};
static const kin_attention_attrs with_bias = {.scale = 0.15, .bias_gradient = 1};

/* clang-format off */
#define REAL(rank_, ...) {.dtype = KIN_F32, .rank = (rank_), .dims = {__VA_ARGS__}}
#define VIEW(kind, ...) {.dtype = KIN_F32, .rank = 5, .dims = {__VA_ARGS__}, .layout = (kind)}
#define ABSENT {.rank = -1}
#define LSE(...) {.dtype = KIN_F32, .rank = 4, .dims = {__VA_ARGS__}, .fixed = true, \
     .fill = KIN_FILL_POSITIVE, .scale = 6}
#define LENGTHS(samples, most) {.dtype = KIN_I32, .rank = 1, .dims = {samples}, \
     .fill = KIN_FILL_LENGTH, .limit = (most), .fixed = true, .constant = true}
#define QKV(b0, b1, n, m, h, d) REAL(5, b0, b1, n, h, d), REAL(5, b0, b1, m, h, d), REAL(5, b0, b1, m, h, d)
#define GRAD(b0, b1, n, m, h, d) QKV(b0, b1, n, m, h, d), REAL(5, b0, b1, n, h, d), LSE(b0, b1, h, n), \
    REAL(5, b0, b1, n, h, d)

static const kin_case attention_cases[] = {
    /* at least 16 tiles of 128 queries: the large tiles, on the emulator's 8 multiprocessors */
    {"128 queries at once, head 64", &scaled, 3, {QKV(1, 1, 130, 100, 8, 64)}, false},
    {"128 queries at once, head 72", &scaled, 3, {QKV(1, 1, 130, 150, 8, 72)}, false},
    {"128 queries at once, head 96", &scaled, 3, {QKV(1, 1, 130, 100, 8, 96)}, false},
    {"128 queries at once, head 128", &scaled, 3, {QKV(1, 1, 130, 70, 8, 128)}, false},
    {"128 queries at once, lengths", &scaled, 4, {QKV(4, 1, 129, 130, 2, 72), LENGTHS(4, 130)}, false},
    {"128 queries at once, bias", &scaled, 5,
     {QKV(2, 1, 131, 66, 4, 40), ABSENT, REAL(5, 1, 1, 4, 131, 66)}, false},
    {"64 queries at once, head 64", &scaled, 3, {QKV(1, 1, 65, 200, 1, 64)}, false},
    {"64 queries at once, head 72", &scaled, 3, {QKV(1, 1, 64, 64, 2, 72)}, false},
    {"64 queries at once, head 96", &scaled, 3, {QKV(1, 1, 70, 65, 1, 96)}, false},
    {"64 queries at once, head 120", &scaled, 3, {QKV(1, 1, 33, 129, 1, 120)}, false},
    {"text, lengths", &scaled, 4, {QKV(3, 1, 20, 120, 2, 72), LENGTHS(3, 120)}, false},
    {"frames, head 64", &scaled, 3, {QKV(2, 5, 16, 16, 3, 64)}, false},
    {"frames, head 72", &scaled, 3, {QKV(2, 5, 16, 16, 3, 72)}, false},
    {"frames, head 96", &scaled, 3, {QKV(1, 3, 9, 9, 2, 96)}, false},
    {"frames, head 128", &scaled, 3, {QKV(1, 3, 13, 11, 2, 128)}, false},
    {"frames where they lie", &scaled, 3,
     {VIEW(KIN_LAYOUT_TRANSPOSED, 3, 4, 16, 2, 72), VIEW(KIN_LAYOUT_TRANSPOSED, 3, 4, 16, 2, 72),
      VIEW(KIN_LAYOUT_TRANSPOSED, 3, 4, 16, 2, 72)}, false},
    {"frames, bias and lengths", &scaled, 5,
     {QKV(3, 2, 7, 12, 2, 8), LENGTHS(3, 12), REAL(5, 1, 1, 2, 7, 12)}, false},
    {"rows at odd places", &scaled, 3,
     {VIEW(KIN_LAYOUT_PADDED, 1, 2, 20, 2, 24), VIEW(KIN_LAYOUT_PADDED, 1, 2, 30, 2, 24),
      VIEW(KIN_LAYOUT_PADDED, 1, 2, 30, 2, 24)}, false},
    {"negative scale", &(const kin_attention_attrs){.scale = -0.2}, 3, {QKV(1, 1, 18, 20, 1, 16)}, false},
    {"head of 136", &scaled, 3, {QKV(1, 1, 33, 40, 1, 136)}, false},
    {"head of 512", &scaled, 3, {QKV(1, 1, 34, 35, 1, 512)}, false},
};

static const kin_case attention_grad_cases[] = {
    {"head 64", &scaled, 6, {GRAD(1, 1, 130, 70, 2, 64)}, false},
    {"head 72", &scaled, 6, {GRAD(1, 1, 70, 130, 2, 72)}, false},
    {"head 96", &scaled, 6, {GRAD(1, 1, 66, 65, 1, 96)}, false},
    {"head 128", &scaled, 6, {GRAD(1, 1, 40, 70, 1, 128)}, false},
    {"text, lengths", &scaled, 8, {GRAD(3, 1, 20, 120, 2, 72), ABSENT, LENGTHS(3, 120)}, false},
    {"bias and lse", &with_bias, 9,
     {GRAD(2, 1, 34, 70, 2, 24), LSE(2, 1, 2, 34), LENGTHS(2, 70), REAL(5, 1, 1, 2, 34, 70)}, false},
    {"frames, head 64", &scaled, 6, {GRAD(2, 5, 16, 16, 3, 64)}, false},
    {"frames, head 72", &scaled, 6, {GRAD(2, 5, 16, 16, 3, 72)}, false},
    {"frames, head 96", &scaled, 6, {GRAD(1, 3, 9, 9, 2, 96)}, false},
    {"frames, head 128", &scaled, 6, {GRAD(1, 3, 13, 11, 2, 128)}, false},
    {"frames, everything", &with_bias, 9,
     {GRAD(3, 2, 7, 12, 2, 8), LSE(3, 2, 2, 7), LENGTHS(3, 12), REAL(5, 1, 1, 2, 7, 12)}, false},
    {"head of 136", &scaled, 6, {GRAD(1, 1, 33, 40, 1, 136)}, false},
    {"head of 512", &scaled, 6, {GRAD(1, 1, 34, 35, 1, 512)}, false},
};

/* For Hopper's kernels, which serve these alone if cuda.hopper=on: tiles of 192 and of 128 queries,
 * tails, more tiles than multiprocessors, lengths, rows that the copy engine takes and others. */
static const kin_case hopper_attention_cases[] = {
    {"192 queries at once, head 64", &scaled, 3, {QKV(1, 1, 190, 130, 8, 64)}, false},
    {"192 queries at once, head 72", &scaled, 3, {QKV(2, 3, 192, 250, 2, 72)}, false},
    {"192 queries at once, head 96", &scaled, 3, {QKV(2, 2, 380, 200, 1, 96)}, false},
    {"520 keys, head 64", &scaled, 3, {QKV(1, 1, 130, 520, 2, 64)}, false},
    {"640 keys, head 72", &scaled, 3, {QKV(2, 1, 64, 640, 1, 72)}, false},
    {"600 keys, head 96", &scaled, 3, {QKV(1, 2, 129, 600, 1, 96)}, false},
    {"513 keys, head 128", &scaled, 3, {QKV(1, 1, 70, 513, 1, 128)}, false},
    {"text of one tile, lengths", &scaled, 4, {QKV(3, 2, 192, 120, 2, 96), LENGTHS(3, 120)}, false},
    {"text, several tiles, lengths", &scaled, 4, {QKV(5, 1, 129, 300, 2, 72), LENGTHS(5, 300)}, false},
    {"512 keys where they lie", &scaled, 3,
     {VIEW(KIN_LAYOUT_TRANSPOSED, 2, 3, 70, 1, 72), VIEW(KIN_LAYOUT_TRANSPOSED, 2, 3, 512, 1, 72),
      VIEW(KIN_LAYOUT_TRANSPOSED, 2, 3, 512, 1, 72)}, false},
    {"rows at odd places", &scaled, 3,
     {VIEW(KIN_LAYOUT_PADDED, 1, 1, 64, 2, 64), VIEW(KIN_LAYOUT_PADDED, 1, 1, 130, 2, 64),
      VIEW(KIN_LAYOUT_PADDED, 1, 1, 130, 2, 64)}, false},
};

static const kin_case hopper_attention_grad_cases[] = {
    {"130 keys, head 64", &scaled, 6, {GRAD(1, 2, 70, 130, 2, 64)}, false},
    {"200 queries, head 72", &scaled, 7, {GRAD(2, 2, 200, 129, 3, 72), LSE(2, 2, 3, 200)}, false},
    {"200 keys, head 96", &scaled, 6, {GRAD(1, 1, 140, 200, 1, 96)}, false},
    {"140 keys, head 128", &scaled, 6, {GRAD(3, 1, 130, 140, 2, 128)}, false},
    {"text, several tiles, lengths", &scaled, 8,
     {GRAD(3, 1, 129, 300, 1, 96), ABSENT, LENGTHS(3, 300)}, false},
    {"where they lie", &scaled, 6,
     {VIEW(KIN_LAYOUT_TRANSPOSED, 1, 3, 70, 2, 72), VIEW(KIN_LAYOUT_TRANSPOSED, 1, 3, 140, 2, 72),
      VIEW(KIN_LAYOUT_TRANSPOSED, 1, 3, 140, 2, 72), VIEW(KIN_LAYOUT_TRANSPOSED, 1, 3, 70, 2, 72),
      LSE(1, 3, 2, 70), VIEW(KIN_LAYOUT_TRANSPOSED, 1, 3, 70, 2, 72)}, false},
    {"rows at odd places", &scaled, 6,
     {VIEW(KIN_LAYOUT_PADDED, 1, 1, 64, 2, 64), VIEW(KIN_LAYOUT_PADDED, 1, 1, 130, 2, 64),
      VIEW(KIN_LAYOUT_PADDED, 1, 1, 130, 2, 64), VIEW(KIN_LAYOUT_PADDED, 1, 1, 64, 2, 64),
      LSE(1, 1, 2, 64), VIEW(KIN_LAYOUT_PADDED, 1, 1, 64, 2, 64)}, false},
};

/* self_attention: packed q, k, v of [b, t, s], gains, positions; the gradient's o, lse, do */
#define SELF(b, t, s, h, d) REAL(6, b, t, s, 3, h, d), ABSENT, ABSENT
#define GAIN(d) {.dtype = KIN_F32, .rank = 1, .dims = {d}, .fill = KIN_FILL_POSITIVE}
#define GAINS(d) GAIN(d), GAIN(d)
#define NO_GAINS ABSENT, ABSENT
#define POSITIONS(n) {.dtype = KIN_F32, .rank = 1, .dims = {n}, .fill = KIN_FILL_COUNT, .fixed = true, \
     .constant = true}
#define SELF_GRAD(b, t, s, h, d, ...) SELF(b, t, s, h, d), __VA_ARGS__, REAL(5, b, t, s, h, d), \
    LSE(b, s, h, t), REAL(5, b, t, s, h, d)
#define PAIRS {.theta = 10000, .scales = {1, 1, 1}, .axes = 1, .interleaved = 1}
static const kin_self_attention_attrs frames = {.scale = 0.1, .eps = 1e-6, .rope = PAIRS, .axis = 1};
static const kin_self_attention_attrs sites = {.scale = 0.1, .eps = 1e-6, .rope = PAIRS, .axis = 2};
static const kin_self_attention_attrs halves = {
    .scale = 0.1, .eps = 1e-6, .rope = {.theta = 10000, .scales = {1, 1, 1}, .axes = 1}, .axis = 1};

static const kin_case self_attention_cases[] = {
    {"1 token", &frames, 6, {SELF(2, 1, 3, 3, 72), GAINS(72), POSITIONS(1)}, false},
    {"16 tokens, head 64", &frames, 6, {SELF(1, 16, 3, 3, 64), GAINS(64), POSITIONS(16)}, false},
    {"9 tokens, head 96, norms", &frames, 5, {SELF(1, 9, 3, 2, 96), GAINS(96)}, false},
    {"13 tokens, head 128, rope", &frames, 6, {SELF(1, 13, 2, 3, 128), NO_GAINS, POSITIONS(13)}, false},
    {"17 tokens, neither", &frames, 1, {SELF(1, 17, 3, 3, 72)}, false},
    {"33 tokens, head 40", &frames, 6, {SELF(1, 33, 2, 2, 40), GAINS(40), POSITIONS(33)}, false},
    {"64 tokens of a frame", &sites, 6, {SELF(2, 2, 64, 2, 72), GAINS(72), POSITIONS(64)}, false},
    {"100 tokens, three views", &frames, 6,
     {VIEW(KIN_LAYOUT_TRANSPOSED, 2, 100, 1, 2, 72), VIEW(KIN_LAYOUT_TRANSPOSED, 2, 100, 1, 2, 72),
      VIEW(KIN_LAYOUT_TRANSPOSED, 2, 100, 1, 2, 72), GAINS(72), POSITIONS(100)}, false},
    {"128 tokens, head 128", &frames, 6, {SELF(1, 128, 1, 1, 128), GAINS(128), POSITIONS(128)}, false},
    {"130 tokens: prepared in memory", &frames, 6, {SELF(1, 130, 1, 2, 72), GAINS(72), POSITIONS(130)}, false},
    {"130 tokens of a frame, norms", &sites, 5, {SELF(1, 2, 130, 1, 72), GAINS(72)}, false},
    {"halves: element by element", &halves, 6, {SELF(1, 20, 2, 2, 48), GAINS(48), POSITIONS(20)}, false},
    {"head of 136", &frames, 6, {SELF(1, 20, 1, 2, 136), GAINS(136), POSITIONS(20)}, false},
};

static const kin_case self_attention_grad_cases[] = {
    {"1 token", &frames, 9, {SELF_GRAD(2, 1, 3, 3, 72, GAINS(72), POSITIONS(1))}, false},
    {"16 tokens, head 64", &frames, 9, {SELF_GRAD(1, 16, 3, 3, 64, GAINS(64), POSITIONS(16))}, false},
    {"9 tokens, head 96, norms", &frames, 9, {SELF_GRAD(1, 9, 3, 2, 96, GAINS(96), ABSENT)}, false},
    {"13 tokens, head 128, rope", &frames, 9, {SELF_GRAD(1, 13, 2, 3, 128, NO_GAINS, POSITIONS(13))}, false},
    {"17 tokens, neither", &frames, 9, {SELF_GRAD(1, 17, 3, 3, 72, NO_GAINS, ABSENT)}, false},
    {"33 tokens, head 40", &frames, 9, {SELF_GRAD(1, 33, 2, 2, 40, GAINS(40), POSITIONS(33))}, false},
    {"64 tokens, many blocks", &frames, 9, {SELF_GRAD(2, 64, 2, 2, 72, GAINS(72), POSITIONS(64))}, false},
    {"100 tokens, gradient of lse", &frames, 10,
     {SELF_GRAD(1, 100, 1, 2, 72, GAINS(72), POSITIONS(100)), LSE(1, 1, 2, 100)}, false},
    {"128 tokens, head 80", &frames, 9, {SELF_GRAD(1, 128, 1, 1, 80, GAINS(80), POSITIONS(128))}, false},
    {"130 tokens: prepared in memory", &frames, 9, {SELF_GRAD(1, 130, 1, 2, 72, GAINS(72), POSITIONS(130))}, false},
    {"halves: element by element", &halves, 9, {SELF_GRAD(1, 20, 2, 2, 48, GAINS(48), POSITIONS(20))}, false},
    {"head of 136", &frames, 9, {SELF_GRAD(1, 20, 1, 2, 136, GAINS(136), POSITIONS(20))}, false},
};

/* Long ones go to attention's rows, by way of nested calls with views of what is packed. */
static const kin_case hopper_self_attention_cases[] = {
    {"130 tokens", &frames, 6, {SELF(1, 130, 1, 2, 72), GAINS(72), POSITIONS(130)}, false},
    {"130 tokens of a frame", &sites, 1, {SELF(1, 2, 130, 2, 64)}, false},
};

static const kin_case hopper_self_attention_grad_cases[] = {
    {"130 tokens", &frames, 9, {SELF_GRAD(1, 130, 1, 2, 72, GAINS(72), POSITIONS(130))}, false},
};

#define SAME {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 0}
#define SAME3D {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 0}
#define CAUSAL {{1, 1, 1}, {2, 1, 1}, {0, 1, 1}, 1}
#define CAUSAL_HALF {{2, 2, 2}, {4, 0, 0}, {0, 1, 1}, 1}
#define HALF {{1, 2, 2}, {0, 0, 0}, {0, 1, 1}, 0}
static const kin_conv_attrs same = SAME, same3d = SAME3D, causal = CAUSAL;
static const kin_conv_attrs causal_half = CAUSAL_HALF, half = HALF;
static const kin_case conv_cases[] = {
    {"3 rows", &same, 3, {REAL(4, 1, 70, 16, 16), REAL(4, 3, 70, 3, 3), REAL(1, 3)}, false},
    {"64 rows", &same, 3, {REAL(4, 3, 33, 9, 8), REAL(4, 64, 33, 3, 3), REAL(1, 64)}, false},
    {"130 rows", &same, 3, {REAL(4, 1, 64, 12, 12), REAL(4, 130, 64, 3, 3), REAL(1, 130)}, false},
    {"stride 2", &half, 2, {REAL(4, 2, 40, 16, 16), REAL(4, 72, 40, 3, 3)}, false},
    {"video", &same3d, 3, {REAL(5, 1, 36, 3, 6, 7), REAL(5, 70, 36, 3, 3, 3), REAL(1, 70)}, false},
    {"causal", &causal, 3, {REAL(5, 2, 8, 4, 5, 8), REAL(5, 40, 8, 3, 3, 3), REAL(1, 40)}, false},
    {"causal, stride 2, 5 taps in time", &causal_half, 2,
     {REAL(5, 1, 8, 5, 8, 8), REAL(5, 40, 8, 5, 3, 3)}, false},
};

typedef kin_conv_size_attrs sized;
static const kin_case conv_grad_input_cases[] = {
    {"3 channels", &(const sized){SAME, {1, 16, 16}}, 2, {REAL(4, 1, 70, 16, 16), REAL(4, 70, 3, 3, 3)}, false},
    {"64 channels", &(const sized){SAME, {1, 9, 8}}, 2, {REAL(4, 3, 33, 9, 8), REAL(4, 33, 64, 3, 3)}, false},
    {"130 channels", &(const sized){SAME, {1, 12, 12}}, 2, {REAL(4, 1, 40, 12, 12), REAL(4, 40, 130, 3, 3)}, false},
    {"stride 2", &(const sized){HALF, {1, 16, 16}}, 2, {REAL(4, 2, 40, 8, 8), REAL(4, 40, 72, 3, 3)}, false},
    {"video", &(const sized){SAME3D, {3, 6, 7}}, 2, {REAL(5, 1, 36, 3, 6, 7), REAL(5, 36, 70, 3, 3, 3)}, false},
    {"causal", &(const sized){CAUSAL, {4, 5, 8}}, 2, {REAL(5, 2, 40, 4, 5, 8), REAL(5, 40, 8, 3, 3, 3)}, false},
    {"causal, stride 2, 5 taps in time", &(const sized){CAUSAL_HALF, {5, 8, 8}}, 2,
     {REAL(5, 1, 40, 3, 4, 4), REAL(5, 40, 8, 5, 3, 3)}, false},
};

static const kin_case conv_grad_weight_cases[] = {
    {"parts of a sum", &(const sized){SAME, {1, 3, 3}}, 2, {REAL(4, 5, 20, 16, 16), REAL(4, 5, 30, 16, 16)}, false},
    {"130 by 140", &(const sized){SAME, {1, 1, 3}}, 2, {REAL(4, 2, 140, 8, 8), REAL(4, 2, 130, 10, 8)}, false},
    {"positions that are no multiple of 8", &(const sized){SAME, {1, 3, 3}}, 2,
     {REAL(4, 3, 70, 7, 9), REAL(4, 3, 66, 7, 9)}, false},
    {"stride 2", &(const sized){HALF, {1, 3, 3}}, 2, {REAL(4, 2, 40, 16, 16), REAL(4, 2, 72, 8, 8)}, false},
    {"causal, stride 2, 5 taps in time", &(const sized){CAUSAL_HALF, {5, 3, 3}}, 2,
     {REAL(5, 1, 8, 5, 8, 8), REAL(5, 1, 40, 3, 4, 4)}, false},
};
/* clang-format on */

/* Whether they are run with cuda.hopper=on. */
enum { BOTH, WITHOUT, WITH };

static const struct {
    const char *op;
    const kin_case *cases;
    size_t count;
    int hopper;
} groups[] = {
#define GROUP(cases, op, hopper)                                                                   \
    { #op, cases##_cases, sizeof cases##_cases / sizeof *cases##_cases, hopper }
    GROUP(attention, attention, WITHOUT),
    GROUP(attention_grad, attention_grad, WITHOUT),
    GROUP(hopper_attention, attention, WITH),
    GROUP(hopper_attention_grad, attention_grad, WITH),
    GROUP(self_attention, self_attention, WITHOUT),
    GROUP(self_attention_grad, self_attention_grad, WITHOUT),
    GROUP(hopper_self_attention, self_attention, WITH),
    GROUP(hopper_self_attention_grad, self_attention_grad, WITH),
    GROUP(conv, conv, BOTH),
    GROUP(conv_grad_input, conv_grad_input, BOTH),
    GROUP(conv_grad_weight, conv_grad_weight, BOTH),
};

/* ---- the walk ---- */

static const char *only_op, *only_case = "";
static fixture shared;

static int setup(void **state) {
    *state = &shared;
    return open_fixture(&shared);
}

static int teardown(void **state) {
    return close_fixture(*state);
}

static bool is_wanted(size_t group) {
    const int other = asks_for_hopper(&shared) ? WITHOUT : WITH;
    return groups[group].hopper != other &&
           (only_op == NULL || strstr(groups[group].op, only_op) != NULL);
}

/* f32 goes to other kernels than f16 and bf16, which share theirs: the ops' own
 * cases have both. Hopper's first case is run in f16, too. */
static void every_variant_is_right(void **state) {
    static const kin_dtype dtypes[] = {KIN_F32, KIN_BF16}, hopper[] = {KIN_F16, KIN_BF16};
    fixture *made = *state;
    int failed = 0, passed = 0;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (size_t i = 0; i < groups[g].count && is_wanted(g); i++)
            for (size_t d = groups[g].hopper == WITH && i > 0; d < 2; d++) {
                const kin_dtype dtype = groups[g].hopper == WITH ? hopper[d] : dtypes[d];
                if (strstr(groups[g].cases[i].name, only_case) == NULL) continue;
                const bool right = is_right(made, groups[g].op, &groups[g].cases[i], dtype);
                passed += right;
                failed += !right;
            }
    print_message("%d cases passed, %d failed\n", passed, failed);
    assert_int_equal(failed, 0);
}

static void wrong_results_are_refused(void **state) {
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        if (is_wanted(g)) refuse_wrong(*state, groups[g].op, &groups[g].cases[groups[g].count - 1]);
}

/* The name of the row that serves attention (or its gradient) of bf16 rows [1, 1, tokens, 1, 96].
 */
static const char *row_of(kin_device *device, const char *op, int64_t tokens) {
    const kin_attention_attrs attrs = {.scale = 0.1};
    const kin_operand rows = {.desc =
                                  kin_desc_dense(KIN_BF16, 5, (int64_t[]){1, 1, tokens, 1, 96})};
    const kin_operand sums = {.desc = kin_desc_dense(KIN_F32, 4, (int64_t[]){1, 1, 1, tokens})};
    const bool grad = strcmp(op, "attention_grad") == 0;
    const kin_operand in[] = {rows, rows, rows, rows, sums, rows}, out[] = {rows, sums};
    const kin_operand slopes[] = {rows, rows, rows};
    const kin_call call = {.op = op,
                           .attrs = &attrs,
                           .in_count = grad ? 6 : 3,
                           .out_count = grad ? 3 : 2,
                           .in = in,
                           .out = grad ? slopes : out};
    return row_for(device, &call);
}

/* Hopper's kernels serve where they are asked for and the device has their instructions, and only
 * there. */
static void hopper_serves_if_asked_for(void **state) {
    kin_device *device = ((fixture *)*state)->device;
    const bool asked =
        asks_for_hopper(&shared) && strstr(device->info.description, "capability 9.0") != NULL;
    assert_string_equal(row_of(device, "attention", 256),
                        asked ? "cuda_attention_hopper" : "cuda_attention");
    assert_string_equal(row_of(device, "attention", 128), "cuda_attention");
    assert_string_equal(row_of(device, "attention_grad", 129),
                        asked ? "cuda_attention_grad_hopper" : "cuda_attention_grad");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_variant_is_right),
                                       cmocka_unit_test(wrong_results_are_refused),
                                       cmocka_unit_test(hopper_serves_if_asked_for)};
    take_arguments(&shared, argc, argv);
    if (argc > 3) only_op = argv[3];
    if (argc > 4) only_case = argv[4];
    return cmocka_run_group_tests(tests, setup, teardown);
}
