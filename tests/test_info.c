/* kinora info: what fits and what does not, with names; exit statuses; and the hostile and broken
 * files of the reference folders, which must be refused by name while the good ones are told.
 * Nothing is computed, so there are no tolerances. */
#define _XOPEN_SOURCE 700
#include "tests/system_helper.h"

#include "tools/system/info.h"
#include "tools/verbs.h"

/* ---- what fits and what does not ------------------------------------------------------------ */

/* A tensor under another name, one of another shape, one too many. */
static void test_misfits(void **state) {
    (void)state;
    kin_model_choice stdit = denoiser_of(KIN_DENOISER_STDIT);
    listed *list = list_model(&stdit, NULL, NULL);
    for (size_t i = 0; i < list->count; i++) {
        kin_named_tensor *tensor = &list->tensors[i];
        if (strcmp(tensor->name, "blocks.1.attn.proj.bias") == 0) {
            free((void *)tensor->name);
            tensor->name = strdup("blocks.1.attn.proj.bais");
        } else if (strcmp(tensor->name, "blocks.0.mlp.fc2.bias") == 0) {
            tensor->desc = kin_desc_dense(KIN_F32, 1, (int64_t[]){WIDTH - 1});
        }
    }
    must(kin_safetensors_write(context, in("x.safetensors"), list->tensors, list->count, NULL, 0,
                               NULL, NULL));
    kin_checkpoint *file;
    kin_weights_match match;
    must(kin_checkpoint_open(context, in("x.safetensors"), NULL, &file));
    must(kin_weights_match_file(context, file, &stdit, &match));
    assert_int_equal(match.variables, list->count);
    assert_int_equal(match.found, list->count - 2);
    assert_true(match.missing == 1 && match.unexpected == 1 && match.other_shape == 1);
    for (size_t i = 0; i < match.misfit_count; i++) {
        const kin_misfit *m = &match.misfits[i];
        if (m->kind == KIN_UNEXPECTED) assert_string_equal(m->near, "blocks.1.attn.proj.bias");
        if (m->kind == KIN_MISSING) assert_string_equal(m->name, "blocks.1.attn.proj.bias");
        if (m->kind == KIN_OTHER_SHAPE) assert_int_equal(m->want.dims[0], WIDTH);
    }
    kin_weights_match_free(&match);
    kin_checkpoint_close(file);
    list_free(list);
}

/* ---- the verb ------------------------------------------------------------------------------- */

static char told[1 << 16];

/* Runs kinora info with standard output in `told`; returns the exit status. */
static int info(const char *const *arguments) {
    char *list[16] = {0};
    int count = 0;
    while (arguments[count]) {
        list[count] = (char *)arguments[count];
        count++;
    }
    fflush(NULL);
    int out = dup(STDOUT_FILENO), error = dup(STDERR_FILENO);
    FILE *file = fopen(in("told"), "w+");
    assert_non_null(file);
    dup2(fileno(file), STDOUT_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    int code = kin_verb_info(count, list);
    fflush(NULL);
    dup2(out, STDOUT_FILENO);
    dup2(error, STDERR_FILENO);
    close(out);
    close(error);
    rewind(file);
    told[fread(told, 1, sizeof told - 1, file)] = '\0';
    fclose(file);
    return code;
}

#define INFO(...) info((const char *const[]){__VA_ARGS__, NULL})

static void says(const char *text) {
    if (!strstr(told, text)) fail_msg("\"%s\" is not in:\n%s", text, told);
}

static void test_info_verb(void **state) {
    (void)state;
    kin_model_choice stdit = denoiser_of(KIN_DENOISER_STDIT);
    write_part(&stdit, in("m/transformer"), "diffusion_pytorch_model.safetensors");
    assert_int_equal(INFO(in("m")), 1);
    says("open-sora-1.0");
    says("vae\tnone");
    says("name one with --vae PATH");
    says("generate\tcannot run");
    write_others(in("m"), KIN_VAE_SD);
#ifdef KIN_HAVE_SENTENCEPIECE
    assert_int_equal(INFO(in("m")), 0);
    says("generate\tcan run");
    says(" pieces");
    assert_int_equal(INFO(in("m"), "--json"), 0);
    json_t *json = json_loads(told, 0, NULL);
    assert_non_null(json);
    assert_true(json_is_true(json_object_get(json, "generate")));
    assert_string_equal(json_string_value(json_object_get(json, "system")), "open-sora-1.0");
    json_t *part = json_object_get(json_object_get(json, "parts"), "transformer");
    assert_int_equal(json_integer_value(json_object_get(part, "found")),
                     json_integer_value(json_object_get(part, "model_tensors")));
    json_decref(json);
#endif
    assert_int_equal(INFO(in("m/vae")), 0);
    says("AutoencoderKL: ");
    says("0 unexpected");
    assert_int_equal(INFO(in("m/text_encoder/model.safetensors"), "--list"), 0);
    says("encoder.final_layer_norm.weight\tf32");
    says("T5 encoder: ");
    assert_int_equal(INFO(in("m/vae"), "--model", "STDiT-XL/2"), 1);
    says("missing\tblocks.0.attn.proj.bias");
    says("unexpected\tdecoder.conv_in.bias");
    assert_int_equal(INFO(in("m/vae"), "--json"), 0);
    says("\"model\": \"AutoencoderKL\"");
    assert_int_equal(INFO(in("m"), "--vae", in("m/text_encoder")), 1);
    says("no autoencoder that is known");
    assert_int_equal(INFO(in("m/transformer/config.json"), "--model", "STDiT-XL/3"), 1);
    says("did you mean STDiT-XL/2");
    assert_int_equal(INFO(in("m/text_encoder/config.json")), 0);
    says("T5 encoder: ");
    INFO(in("m/model_index.json")); /* stands for its folder, if it is there */
    says("there is no such file");
    /* A tokenizer that is none. */
    write_text(in("m/tokenizer/spiece.model"), "no pieces");
    assert_int_equal(INFO(in("m")), 1);
    says("wrong\ttokenizer\t");
    write_text(in("m/vae/diffusion_pytorch_model.safetensors"), "half");
    assert_int_equal(INFO(in("m")), 1);
    says("wrong\tvae\t");
    says("generate\tcannot run");
    /* Half of the denoiser's own file. */
    write_text(in("m/transformer/diffusion_pytorch_model.safetensors"), "half");
    assert_int_equal(INFO(in("m")), 1);
    says("diffusion_pytorch_model.safetensors");
}

/* Files that must be refused are refused by info, with their names in the message; no code runs. */
static void test_hostile_files(void **state) {
    (void)state;
    static const char *const folders[] = {"torch-pickle", "safetensors-files"};
    static const char executed[] = "/tmp/torch-pickle-was-executed";
    int refused = 0;
    for (size_t i = 0; i < 2; i++) {
        const char *reference = reference_folder(folders[i]);
        if (!reference) return;
        json_t *config;
        char path[1200];
        snprintf(path, sizeof path, "%s/config.json", reference);
        config = json_load_file(path, JSON_DECODE_INT_AS_REAL, NULL); /* it has large numbers */
        assert_non_null(config);
        json_t *files = json_object_get(config, "files"), *entry;
        size_t index;
        json_array_foreach(files, index, entry) {
            const char *file = json_string_value(json_object_get(entry, "file"));
            const char *expect = json_string_value(json_object_get(entry, "expect"));
            snprintf(path, sizeof path, "%s/%s", reference, file);
            if (strcmp(expect, "load") == 0) { /* the control: not all are refused */
                assert_int_equal(INFO(path), 0);
                says(" tensors");
            } else if (strcmp(expect, "refuse") == 0) {
                assert_int_equal(INFO(path), 1);
                says(strrchr(file, '/') + 1);
                refused++;
            }
        }
        json_decref(config);
    }
    assert_true(refused > 10);
    assert_int_not_equal(access(executed, F_OK), 0);
    static const char *const bad[] = {"bad-absolute", "bad-missing-key", "bad-missing-shard",
                                      "bad-path"};
    const char *shards = reference_folder("sharded-checkpoint");
    char root[1024];
    snprintf(root, sizeof root, "%s", shards);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(INFO(inside_of(root, bad[i])), 1);
        says(bad[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_misfits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_info_verb, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_files, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
