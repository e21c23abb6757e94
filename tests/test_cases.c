#define _DEFAULT_SOURCE
/* The reference cases of the original implementations, if KINORA_SHARED names the folder that holds
 * reference/. Tolerances are those of the cases. Negative control: with one changed weight, the
 * runner must fail and name the block.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/safetensors.h"
#include "tools/check/case.h"

typedef struct setup {
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    char *reference;
} setup;

static int open_setup(void **state) {
    static setup s;
    const char *shared = getenv("KINORA_SHARED");
    *state = &s;
    if (kin_context_create(NULL, &s.context) != KIN_OK) return -1;
    if (kin_backends_load(s.context, NULL, &s.backends) != KIN_OK) return -1;
    if (kin_device_open(s.backends, "cpu", &s.device) != KIN_OK) return -1;
    s.reference = kin_path_join(s.context, shared ? shared : "", "reference");
    return s.reference ? 0 : -1;
}

static int close_setup(void **state) {
    setup *s = *state;
    kin_free(s->context, s->reference);
    kin_device_close(s->device);
    kin_backends_free(s->backends);
    kin_context_destroy(s->context);
    return 0;
}

static bool skipped(const setup *s) {
    if (getenv("KINORA_SHARED") && kin_file_is_folder(s->reference)) return false;
    print_message("skipped: KINORA_SHARED does not name a folder with reference/\n");
    return true;
}

static void run_prefix(const setup *s, const char *prefix, const kin_case_options *options,
                       int at_least) {
    kin_case_summary summary;
    kin_status status = kin_tool_check_cases(s->context, s->device, s->reference, &prefix, 1,
                                             options, stdout, &summary);
    if (status != KIN_OK) fail_msg("%s", kin_context_error(s->context));
    assert_int_equal(summary.failed, 0);
    assert_int_equal(summary.not_yet, 0);
    assert_true(summary.passed >= at_least);
}

static const kin_case_options brief = {.brief = true};

static void test_open_sora(void **state) {
    if (skipped(*state)) return;
    run_prefix(*state, "open-sora-1.0-", &brief, 5);
    run_prefix(*state, "open-sora-1.1-iddpm", &brief, 2);
    run_prefix(*state, "open-sora-1.1-stdit2", &brief, 2);
}

static void test_latte_and_pixart(void **state) {
    if (skipped(*state)) return;
    run_prefix(*state, "latte-", &brief, 6);
    run_prefix(*state, "pixart-alpha-", &brief, 2);
}

static void test_text_encoders(void **state) {
    if (skipped(*state)) return;
    run_prefix(*state, "t5-", &brief, 3);
}

static void test_vae(void **state) {
    if (skipped(*state)) return;
    run_prefix(*state, "sd-vae-", &brief, 3);
}

static void test_ops(void **state) {
    if (skipped(*state)) return;
    run_prefix(*state, "ops-", &brief, 15);
}

static void test_pickles(void **state) {
    if (skipped(*state)) return;
    run_prefix(*state, "torch-pickle", &brief, 1);
}

static void test_open_sora_plan(void **state) {
    if (skipped(*state)) return;
    run_prefix(*state, "open-sora-plan-1.2-", &brief, 14);
}

static void test_schedulers(void **state) {
    if (skipped(*state)) return;
    run_prefix(*state, "scheduler-", &brief, 17);
    run_prefix(*state, "torch-rng", &brief, 1);
}

static void test_files_and_tables(void **state) {
    if (skipped(*state)) return;
    run_prefix(*state, "safetensors-files", &brief, 1);
    run_prefix(*state, "sharded-checkpoint", &brief, 1);
    run_prefix(*state, "mt5-", &brief, 2);
    run_prefix(*state, "open-sora-caption-clean", &brief, 1);
    run_prefix(*state, "open-sora-1.1-buckets", &brief, 1);
    run_prefix(*state, "open-sora-1.1-mask-strategy", &brief, 1);
}

/* Activation checkpointing must not change a result. */
static void test_recomputed(void **state) {
    kin_case_options options = {.brief = true, .recompute = true};
    if (skipped(*state)) return;
    run_prefix(*state, "open-sora-1.0-stdit", &options, 2);
    run_prefix(*state, "open-sora-1.1-stdit2", &options, 2);
    run_prefix(*state, "latte-t2v", &options, 2);
    run_prefix(*state, "pixart-alpha-", &options, 2);
    run_prefix(*state, "sd-vae-", &options, 3);
    run_prefix(*state, "t5-v1.1", &options, 1);
    run_prefix(*state, "open-sora-plan-1.2-dit", &options, 2);
    run_prefix(*state, "open-sora-plan-1.2-vae-decode", &options, 1);
}

static void test_others_are_not_yet(void **state) {
    const setup *s = *state;
    char folder[] = "/tmp/kinora-case-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/case.json", folder);
    FILE *info = fopen(path, "w");
    assert_non_null(info);
    fputs("{\"system\": \"no-such-system\", \"part\": \"denoiser\"}", info);
    assert_int_equal(fclose(info), 0);
    kin_case_report report;
    FILE *out = tmpfile();
    assert_int_equal(kin_tool_check_case(s->context, s->device, folder, NULL, out, &report),
                     KIN_OK);
    assert_int_equal(report.verdict, KIN_CASE_NOT_YET);
    char line[128] = "", wanted[64];
    rewind(out);
    assert_non_null(fgets(line, sizeof line, out));
    snprintf(wanted, sizeof wanted, "not yet: %s\n", strrchr(folder, '/') + 1);
    assert_string_equal(line, wanted);
    fclose(out);
    unlink(path);
    rmdir(folder);
}

/* Copies the weights of a case with one element changed. */
static void copy_changed(const setup *s, const char *from, const char *to, const char *changed) {
    kin_safetensors *file;
    assert_int_equal(kin_safetensors_open(s->context, from, &file), KIN_OK);
    size_t count = kin_safetensors_count(file);
    kin_named_tensor *list = calloc(count, sizeof *list);
    float *values = NULL;
    for (size_t i = 0; i < count; i++) {
        list[i] = *kin_safetensors_at(file, i);
        if (strcmp(list[i].name, changed) != 0) continue;
        size_t size = kin_desc_bytes(&list[i].desc);
        values = malloc(size);
        memcpy(values, list[i].data, size);
        values[3] += 0.5f;
        list[i].data = values;
    }
    assert_non_null(values);
    assert_int_equal(kin_safetensors_write(s->context, to, list, count, NULL, 0, NULL, NULL),
                     KIN_OK);
    free(list);
    free(values);
    kin_safetensors_close(file);
}

static void test_changed_weight_fails(void **state) {
    const setup *s = *state;
    static const char *const files[] = {"case.json", "config.json", "inputs.safetensors",
                                        "outputs.safetensors"};
    if (skipped(s)) return;
    char folder[] = "/tmp/kinora-case-XXXXXX", from[1024], to[1024];
    assert_non_null(mkdtemp(folder));
    const char *name = "open-sora-1.0-stdit-hd72";
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(from, sizeof from, "%s/%s/%s", s->reference, name, files[i]);
        snprintf(to, sizeof to, "%s/%s", folder, files[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    snprintf(from, sizeof from, "%s/%s/weights.safetensors", s->reference, name);
    snprintf(to, sizeof to, "%s/weights.safetensors", folder);
    copy_changed(s, from, to, "blocks.1.mlp.fc2.bias");

    kin_case_report report;
    FILE *out = tmpfile();
    assert_int_equal(kin_tool_check_case(s->context, s->device, folder, &brief, out, &report),
                     KIN_OK);
    fclose(out);
    assert_int_equal(report.verdict, KIN_CASE_FAILED);
    assert_string_equal(report.first_off, "hidden.1");

    unlink(to);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(to, sizeof to, "%s/%s", folder, files[i]);
        unlink(to);
    }
    rmdir(folder);
}

static void test_no_case_is_an_error(void **state) {
    const setup *s = *state;
    kin_case_report report;
    kin_case_summary summary;
    assert_int_equal(
        kin_tool_check_case(s->context, s->device, "/nonexistent", NULL, stdout, &report),
        KIN_NOT_FOUND);
    assert_int_equal(kin_tool_check_cases(s->context, s->device, "/proc/self/fd", NULL, 0, NULL,
                                          stdout, &summary),
                     KIN_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_sora),
        cmocka_unit_test(test_latte_and_pixart),
        cmocka_unit_test(test_text_encoders),
        cmocka_unit_test(test_vae),
        cmocka_unit_test(test_ops),
        cmocka_unit_test(test_pickles),
        cmocka_unit_test(test_open_sora_plan),
        cmocka_unit_test(test_schedulers),
        cmocka_unit_test(test_files_and_tables),
        cmocka_unit_test(test_recomputed),
        cmocka_unit_test(test_others_are_not_yet),
        cmocka_unit_test(test_changed_weight_fails),
        cmocka_unit_test(test_no_case_is_an_error),
    };
    return cmocka_run_group_tests(tests, open_setup, close_setup);
}
