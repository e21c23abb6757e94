/* Training in several processes of this machine against training in one: the same clips, noise and
 * steps, so the same curve up to the rounding of sums in another order; the same bits on repetition
 * and after a stop; and ends that leave nobody waiting. Tolerances: losses of six steps agree to
 * 2e-6 of their size, weights to 2e-5 of each tensor's largest element. That is with an epsilon of
 * Adam of 1e-3: with a small one, gradients that are zero but for rounding make steps of full size.
 * Negative control: another seed differs by far more. */
#define _XOPEN_SOURCE 700
#include "tests/train_helper.h"

#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_SENTENCEPIECE

static const double loss_tolerance = 2e-6, weight_tolerance = 2e-5;

/* The largest difference of two checkpoints' weights, relative to the tensor's largest element. */
static double distance(const media *m, const char *one, const char *two) {
    kin_safetensors *a, *b;
    double worst = 0;
    assert_int_equal(kin_safetensors_open(m->context, media_path(m, one), &a), KIN_OK);
    assert_int_equal(kin_safetensors_open(m->context, media_path(m, two), &b), KIN_OK);
    assert_true(kin_safetensors_count(a) > 0);
    for (size_t i = 0; i < kin_safetensors_count(a); i++) {
        const kin_named_tensor *x = kin_safetensors_at(a, i);
        const kin_named_tensor *y = kin_safetensors_find(b, x->name);
        if (strncmp(x->name, "optimizer.", 10) == 0 || strncmp(x->name, "gradient.", 9) == 0)
            continue;
        assert_non_null(y);
        double largest = 1e-3, most = 0;
        for (int64_t k = 0; k < kin_desc_count(&x->desc); k++) {
            double p = kin_element_get(x->data, x->desc.dtype, k);
            double q = kin_element_get(y->data, y->desc.dtype, k);
            if (fabs(p) > largest) largest = fabs(p);
            if (!(fabs(p - q) <= most)) most = fabs(p - q);
        }
        if (!(most / largest <= worst)) worst = most / largest;
    }
    kin_safetensors_close(a);
    kin_safetensors_close(b);
    return worst;
}

/* The losses that a run logged; their number. */
static int read_losses(const media *m, const char *run, double *out_losses, int most) {
    char name[128];
    size_t size;
    snprintf(name, sizeof name, "%s/metrics.jsonl", run);
    char *text = (char *)media_read(media_path(m, name), &size);
    int count = 0;
    for (const char *at = text; count < most && (at = strstr(at, "\"loss\": ")); at += 8)
        out_losses[count++] = strtod(at + 8, NULL);
    free(text);
    return count;
}

static double loss_distance(const media *m, const char *one, const char *two) {
    double a[16], b[16], worst = 0;
    int count = read_losses(m, one, a, 16);
    assert_true(count > 0);
    assert_int_equal(read_losses(m, two, b, 16), count);
    for (int i = 0; i < count; i++)
        if (!(fabs(a[i] - b[i]) / fabs(a[i]) <= worst)) worst = fabs(a[i] - b[i]) / fabs(a[i]);
    return worst;
}

/* Trains m->folder/`config` into `name`, with the given flags. */
static void train(const media *m, const char *config, const char *name, const char *ranks,
                  const char *batch, const char *more) {
    char batch_set[64];
    snprintf(batch_set, sizeof batch_set, "batch_size=%s", batch);
    assert_exit(0, train_run(m, kin_verb_train,
                             ARGUMENTS(media_path(m, config), "-q", "--set",
                                       train_set_path(m, "output", name), "--set", batch_set,
                                       "--set", "steps=6", "--set", "adam_epsilon=1e-3", "--set",
                                       more, "--ranks", ranks)));
}

static void many_ranks_train_as_one(void **state) {
    const media *m = *state;
    const struct {
        const char *config, *more;
    } cases[] = {{"vae.json", "data.frames_per_clip=2"},
                 {"video.json", "timesteps.stratified=true"},
                 {"video.json", "accumulate_steps=2"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char one[64], two[64], four[64];
        snprintf(one, sizeof one, "one%zu", i);
        snprintf(two, sizeof two, "two%zu", i);
        snprintf(four, sizeof four, "four%zu", i);
        train(m, cases[i].config, one, "1", "4", cases[i].more);
        train(m, cases[i].config, two, "2", "2", cases[i].more);
        train(m, cases[i].config, four, "4", "1", cases[i].more);
        assert_true(loss_distance(m, one, two) <= loss_tolerance);
        assert_true(loss_distance(m, one, four) <= loss_tolerance);
        char a[128], b[128];
        snprintf(a, sizeof a, "%s/checkpoint-00000006.safetensors", one);
        snprintf(b, sizeof b, "%s/checkpoint-00000006.safetensors", two);
        double far = distance(m, a, b);
        if (!(far <= weight_tolerance)) fail_msg("weights of 2 ranks differ by %g", far);
        snprintf(b, sizeof b, "%s/checkpoint-00000006.safetensors", four);
        far = distance(m, a, b);
        if (!(far <= weight_tolerance)) fail_msg("weights of 4 ranks differ by %g", far);
    }
}

/* Clips that several ranks encode, in rounds that do not come out even, are the same. */
static void encoding_is_shared(void **state) {
    const media *m = *state;
    const char *const names[] = {"encoded1", "encoded3"}, *const ranks[] = {"1", "3"};
    for (int i = 0; i < 2; i++)
        assert_exit(0, train_run(m, kin_verb_train,
                                 ARGUMENTS(media_path(m, "video.json"), "-q", "--set",
                                           train_set_path(m, "output", names[i]), "--set",
                                           "steps=1", "--ranks", ranks[i])));
    char one[3 * MEDIA_PATH];
    snprintf(one, sizeof one, "%s", media_path(m, "encoded1/latents.safetensors"));
    const char *differs = train_difference(m, one, media_path(m, "encoded3/latents.safetensors"));
    if (differs[0]) fail_msg("clip %s is another one", differs);
    /* a file that cannot be written ends all of them, within the rounds and at their end */
    char tokenizer[3 * MEDIA_PATH];
    snprintf(tokenizer, sizeof tokenizer, "%s",
             train_set_path(m, "tokenizer.path", "video/spiece.model"));
    for (size_t limit = 8192; limit <= 16384; limit += 8192) {
        const char *output = train_set_path(m, "output", limit < 16384 ? "full1" : "full2");
        assert_exit(1, train_limited(m, kin_verb_train,
                                     ARGUMENTS(media_path(m, "video.json"), "-q", "--set", output,
                                               "--ranks", "3", "--set", tokenizer),
                                     limit));
        assert_told("latents.safetensors");
        assert_int_equal(train_count_told("kinora train"), 1);
    }
}

static void another_seed_is_told_apart(void **state) {
    const media *m = *state;
    train(m, "vae.json", "own", "2", "2", "ema_decay=0");
    train(m, "vae.json", "other", "2", "2", "seed=43");
    assert_true(loss_distance(m, "own", "other") > 100 * loss_tolerance);
    assert_true(distance(m, "own/checkpoint-00000006.safetensors",
                         "other/checkpoint-00000006.safetensors") > 10 * weight_tolerance);
}

static void assert_same_bits(const media *m, const char *one, const char *two) {
    char a[128], b[128], first[3 * MEDIA_PATH];
    snprintf(a, sizeof a, "%s/checkpoint-00000006.safetensors", one);
    snprintf(b, sizeof b, "%s/checkpoint-00000006.safetensors", two);
    snprintf(first, sizeof first, "%s", media_path(m, a));
    const char *differs = train_difference(m, first, media_path(m, b));
    if (differs[0]) fail_msg("%s and %s differ in %s", one, two, differs);
}

/* The run of 6 steps, which is stopped after 2 as a killed process would be: its later checkpoints
 * are removed. */
static void cut_to_two(const media *m, const char *name) {
    char path[128];
    for (int step = 4; step <= 6; step += 2) {
        snprintf(path, sizeof path, "%s/checkpoint-%08d.safetensors", name, step);
        unlink(media_path(m, path));
    }
}

static void repeating_and_resuming_give_the_same_bits(void **state) {
    const media *m = *state;
    const char *keep = "keep_checkpoints=9";
    train(m, "video.json", "first", "2", "1", keep);
    train(m, "video.json", "again", "2", "1", keep);
    assert_same_bits(m, "first", "again");
    cut_to_two(m, "again");
    const char *output = train_set_path(m, "output", "again");
    assert_exit(
        0, train_run(m, kin_verb_train,
                     ARGUMENTS(media_path(m, "video.json"), "--set", output, "--set",
                               "batch_size=1", "--set", "steps=6", "--set", "adam_epsilon=1e-3",
                               "--set", keep, "--ranks", "2", "--resume")));
    assert_told("resuming from");
    assert_same_bits(m, "first", "again");
}

/* The same clips by another number of processes, or a refusal that says what would go on with them.
 */
static void resuming_with_other_ranks(void **state) {
    const media *m = *state;
    train(m, "vae.json", "changed", "2", "2", "keep_checkpoints=9");
    cut_to_two(m, "changed");
    const char *output = train_set_path(m, "output", "changed");
    assert_exit(2, train_run(m, kin_verb_train,
                             ARGUMENTS(media_path(m, "vae.json"), "-q", "--set", output, "--set",
                                       "batch_size=2", "--set", "steps=6", "--set",
                                       "adam_epsilon=1e-3", "--resume")));
    assert_told("2 ranks with 2 samples each, 4 in all");
    assert_exit(
        0, train_run(m, kin_verb_train,
                     ARGUMENTS(media_path(m, "vae.json"), "--set", output, "--set", "batch_size=4",
                               "--set", "steps=6", "--set", "adam_epsilon=1e-3", "--resume")));
    assert_told("goes on with 1: the clips are the same");
    train(m, "vae.json", "unchanged", "2", "2", "keep_checkpoints=9");
    double far = distance(m, "changed/checkpoint-00000006.safetensors",
                          "unchanged/checkpoint-00000006.safetensors");
    if (!(far <= weight_tolerance)) fail_msg("weights differ by %g", far);
}

/* ---- ends ---- */

/* Waits until a run has logged so many steps. */
static void wait_for(const media *m, const char *name, int steps) {
    char path[128];
    snprintf(path, sizeof path, "%s/metrics.jsonl", name);
    for (int i = 0; i < 3000; i++) {
        double losses[16];
        if (access(media_path(m, path), R_OK) == 0 && read_losses(m, name, losses, 16) >= steps)
            return;
        train_sleep(0.01);
    }
    fail_msg("%s does not get to step %d", name, steps);
}

static pid_t start_long(const media *m, const char *name) {
    const char *output = train_set_path(m, "output", name);
    return train_start(m, kin_verb_train,
                       ARGUMENTS(media_path(m, "vae.json"), "--set", output, "--set",
                                 "steps=100000", "--set", "checkpoint_every=100000", "--set",
                                 "batch_size=1", "--ranks", "3"),
                       0);
}

/* The child of `parent` that was started last. */
static pid_t last_child(pid_t parent) {
    char path[64];
    long last = 0, next;
    snprintf(path, sizeof path, "/proc/%ld/task/%ld/children", (long)parent, (long)parent);
    FILE *file = fopen(path, "r");
    while (file && fscanf(file, "%ld", &next) == 1)
        if (next > last) last = next;
    if (file) fclose(file);
    return (pid_t)last;
}

static void a_killed_rank_ends_the_others(void **state) {
    const media *m = *state;
    pid_t run = start_long(m, "killed");
    wait_for(m, "killed", 3);
    pid_t rank = last_child(run);
    if (rank <= 0) { /* a kernel without the list of children */
        kill(run, SIGTERM);
        train_wait(m, run);
        skip();
    }
    kill(rank, SIGKILL);
    int code = train_wait(m, run);
    assert_true(code > 0 && code < 1000);
    assert_told("was ended by signal 9");
    assert_told("has ended, so this one cannot go on");
}

static void a_signal_stops_all_and_saves(void **state) {
    const media *m = *state;
    pid_t run = start_long(m, "stopped");
    wait_for(m, "stopped", 3);
    kill(run, SIGTERM);
    assert_exit(1, train_wait(m, run));
    assert_told("interrupted at step");
    assert_int_equal(train_count_told("kinora train: interrupted"), 1); /* not once for each rank */
    const char *output = train_set_path(m, "output", "stopped");
    assert_exit(0,
                train_run(m, kin_verb_train,
                          ARGUMENTS(media_path(m, "vae.json"), "--set", output, "--set", "steps=1",
                                    "--set", "batch_size=1", "--ranks", "3", "--resume")));
    assert_told("resuming from");
}

static void errors_end_all_ranks(void **state) {
    const media *m = *state;
    const char *output = train_set_path(m, "output", "wrong");
    char config[2 * MEDIA_PATH];
    snprintf(config, sizeof config, "%s", media_path(m, "vae.json"));
    /* of one rank alone */
    assert_exit(
        1, train_run(m, kin_verb_train,
                     ARGUMENTS(config, "--set", output, "--ranks", "2", "--device", "cpu,nosuch")));
    assert_told("there is no device \"nosuch\"");
    assert_told("rank 1 has ended");
    /* of all */
    assert_exit(
        2, train_run(m, kin_verb_train,
                     ARGUMENTS(config, "--set", output, "--ranks", "2", "--set", "no_such_key=1")));
    assert_int_equal(train_count_told("no_such_key"), 1);
    assert_exit(
        2, train_run(m, kin_verb_train,
                     ARGUMENTS(config, "--set", output, "--ranks", "3", "--device", "cpu,cpu")));
    assert_told("names 2 devices, but 3 ranks");
    assert_exit(2, train_run(m, kin_verb_train, ARGUMENTS(config, "--ranks", "none")));
    assert_told("--ranks wants a number");
}

/* Checkpoints that cannot be written are told, and the run goes on to its end, where that is an
 * error. */
static void checkpoints_that_do_not_fit(void **state) {
    const media *m = *state;
    const char *output = train_set_path(m, "output", "large");
    assert_exit(1, train_limited(m, kin_verb_train,
                                 ARGUMENTS(media_path(m, "vae.json"), "--set", output, "--ranks",
                                           "2", "--set", "batch_size=1", "--set", "steps=5"),
                                 32768));
    assert_told("step 2 is not saved");
    assert_told("step 4 is not saved");
    assert_int_equal(train_count_told("kinora train"), 1);
}

static void not_finite_on_all_ranks_is_told_once(void **state) {
    const media *m = *state;
    train(m, "vae.json", "nan", "2", "2", "keep_checkpoints=9");
    cut_to_two(m, "nan");
    train_plant(m, media_path(m, "nan/checkpoint-00000002.safetensors"),
                "vae.encoder.conv_in.weight", 0, NAN);
    const char *output = train_set_path(m, "output", "nan");
    assert_exit(
        1, train_run(m, kin_verb_train,
                     ARGUMENTS(media_path(m, "vae.json"), "--set", output, "--set", "batch_size=2",
                               "--set", "steps=9", "--ranks", "2", "--resume")));
    assert_told("3 steps in a row are not finite");
    assert_told("vae.encoder.conv_in");
    assert_int_equal(train_count_told("in a row are not finite"), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_ranks_train_as_one),
        cmocka_unit_test(encoding_is_shared),
        cmocka_unit_test(another_seed_is_told_apart),
        cmocka_unit_test(repeating_and_resuming_give_the_same_bits),
        cmocka_unit_test(resuming_with_other_ranks),
        cmocka_unit_test(a_killed_rank_ends_the_others),
        cmocka_unit_test(a_signal_stops_all_and_saves),
        cmocka_unit_test(errors_end_all_ranks),
        cmocka_unit_test(checkpoints_that_do_not_fit),
        cmocka_unit_test(not_finite_on_all_ranks_is_told_once),
    };
    return cmocka_run_group_tests(tests, train_setup, media_teardown);
}

#else

int main(void) {
    printf("skipped: training needs FFmpeg and sentencepiece\n");
    return 0;
}

#endif
