/* What the tests of training and generating share: verbs run in processes of their own, a tiny data
 * set, tiny configurations, checkpoints compared bit for bit. The test itself computes nothing, so
 * that its children start without threads. */
#ifndef KIN_TESTS_TRAIN_HELPER_H
#define KIN_TESTS_TRAIN_HELPER_H

#include "tests/media_helper.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "runtime/file.h"
#include "runtime/safetensors.h"
#include "tools/verbs.h"

enum { TRAIN_ARGUMENTS = 48, TRAIN_OUTPUT = 1 << 16 };

typedef int (*train_verb)(int count, char **arguments);

/* What the last child wrote to standard error and standard output. */
static char train_told[TRAIN_OUTPUT];

static inline void train_read_told(const media *m) {
    size_t size = 0;
    char *text = (char *)media_read(media_path(m, "told.txt"), &size);
    if (size >= sizeof train_told) size = sizeof train_told - 1;
    memcpy(train_told, text, size);
    train_told[size] = 0;
    free(text);
}

static inline void train_sleep(double seconds) {
    struct timespec wait = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&wait, NULL);
}

/* Starts a verb with one thread. arguments: ended by NULL. file_limit: the largest file that it may
 * write, in bytes; 0: any. */
static inline pid_t train_start(const media *m, train_verb verb, const char *const *arguments,
                                size_t file_limit) {
    const char *told = media_path(m, "told.txt");
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return child;
    char *copies[TRAIN_ARGUMENTS];
    int count = 0;
    for (; arguments[count] && count < TRAIN_ARGUMENTS - 2; count++)
        copies[count] = strdup(arguments[count]);
    copies[count++] = strdup("-t");
    copies[count++] = strdup("1");
    int file = open(told, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDERR_FILENO);
    dup2(file, STDOUT_FILENO);
    close(file);
    if (file_limit) {
        struct rlimit limit = {file_limit, file_limit};
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    char *list[TRAIN_ARGUMENTS]; /* the verb moves the pointers about */
    memcpy(list, copies, sizeof *list * (size_t)count);
    int code = verb(count, list);
    for (int i = 0; i < count; i++) free(copies[i]);
    exit(code);
}

/* The exit status, or 1000 + the signal that ended it. */
static inline int train_wait(const media *m, pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0) assert_int_equal(errno, EINTR);
    train_read_told(m);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static inline int train_limited(const media *m, train_verb verb, const char *const *arguments,
                                size_t file_limit) {
    return train_wait(m, train_start(m, verb, arguments, file_limit));
}

static inline int train_run(const media *m, train_verb verb, const char *const *arguments) {
    return train_limited(m, verb, arguments, 0);
}

/* ARGUMENTS("config.json", "--resume") */
#define ARGUMENTS(...) ((const char *const[]){__VA_ARGS__, NULL})

#define assert_exit(expected, expression)                                                          \
    do {                                                                                           \
        int code_ = (expression);                                                                  \
        if (code_ != (expected))                                                                   \
            fail_msg("exit status %d, not %d; it told:\n%s", code_, (expected), train_told);       \
    } while (0)

#define assert_told(part)                                                                          \
    do {                                                                                           \
        if (!strstr(train_told, part)) fail_msg("'%s' is not in:\n%s", part, train_told);          \
    } while (0)

static inline int train_count_told(const char *part) {
    int count = 0;
    for (const char *at = train_told; (at = strstr(at, part)); at += strlen(part)) count++;
    return count;
}

/* The difference of two checkpoints: the first tensor that is not the same bit for bit, "" if none.
 */
static inline const char *train_difference(const media *m, const char *one, const char *two) {
    static char name[256];
    kin_safetensors *a, *b;
    name[0] = 0;
    if (kin_safetensors_open(m->context, one, &a) != KIN_OK)
        fail_msg("%s", kin_context_error(m->context));
    if (kin_safetensors_open(m->context, two, &b) != KIN_OK)
        fail_msg("%s", kin_context_error(m->context));
    assert_true(kin_safetensors_count(a) > 0);
    assert_int_equal(kin_safetensors_count(a), kin_safetensors_count(b));
    for (size_t i = 0; i < kin_safetensors_count(a) && !name[0]; i++) {
        const kin_named_tensor *x = kin_safetensors_at(a, i);
        const kin_named_tensor *y = kin_safetensors_find(b, x->name);
        assert_non_null(y);
        assert_true(kin_desc_same_shape(&x->desc, &y->desc) && x->desc.dtype == y->desc.dtype);
        if (memcmp(x->data, y->data, kin_desc_bytes(&x->desc)) != 0)
            snprintf(name, sizeof name, "%s", x->name);
    }
    kin_safetensors_close(a);
    kin_safetensors_close(b);
    return name;
}

/* Writes the file anew with element `element` of one tensor replaced. */
static inline void train_plant(const media *m, const char *path, const char *tensor, size_t element,
                               float value) {
    kin_safetensors *file;
    assert_int_equal(kin_safetensors_open(m->context, path, &file), KIN_OK);
    size_t count = kin_safetensors_count(file), extra = kin_safetensors_metadata_count(file);
    kin_named_tensor *list = calloc(count, sizeof *list);
    kin_metadata metadata[8];
    float *copy = NULL;
    assert_non_null(list);
    assert_true(extra <= 8);
    for (size_t i = 0; i < extra; i++) metadata[i] = *kin_safetensors_metadata_at(file, i);
    for (size_t i = 0; i < count; i++) {
        list[i] = *kin_safetensors_at(file, i);
        if (strcmp(list[i].name, tensor) != 0) continue;
        size_t size = kin_desc_bytes(&list[i].desc);
        assert_int_equal(list[i].desc.dtype, KIN_F32);
        assert_true(element * sizeof *copy < size);
        copy = malloc(size);
        assert_non_null(copy);
        memcpy(copy, list[i].data, size);
        copy[element] = value;
        list[i].data = copy;
    }
    if (!copy) fail_msg("%s has no tensor %s", path, tensor);
    assert_int_equal(
        kin_safetensors_write(m->context, path, list, count, metadata, extra, NULL, NULL), KIN_OK);
    kin_safetensors_close(file);
    free(copy);
    free(list);
}

static inline void train_copy(const char *source, const char *target) {
    size_t size = 0;
    unsigned char *data = media_read(source, &size);
    media_write(target, data, size);
    free(data);
}

static inline void train_write_configs(const media *m) {
    char text[4096];
    int length = snprintf(
        text, sizeof text,
        "{\"task\": \"vae\", \"output\": \"%s/vae\", \"steps\": 4, \"batch_size\": 4,"
        "\"data\": {\"csv\": \"%s/data/train.csv\", \"num_frames\": 2, \"height\": 16,"
        "\"width\": 16}, \"learning_rate\": 0.002, \"log_every\": 1, \"checkpoint_every\": 2,"
        "\"ema_decay\": 0.9, \"vae\": {\"block_out_channels\": [8, 8],"
        "\"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\"],"
        "\"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"],"
        "\"layers_per_block\": 1, \"norm_num_groups\": 4, \"sample_size\": 16,"
        "\"latent_channels\": 2}}",
        m->folder, m->folder);
    media_write(media_path(m, "vae.json"), text, (size_t)length);
    length = snprintf(
        text, sizeof text,
        "{\"task\": \"text-to-video\", \"output\": \"%s/video\", \"vae_path\": \"%s/vae/vae\","
        "\"data\": {\"csv\": \"%s/data/train.csv\", \"num_frames\": 2, \"height\": 16,"
        "\"width\": 16}, \"steps\": 6, \"batch_size\": 2, \"learning_rate\": 0.002,"
        "\"log_every\": 1, \"checkpoint_every\": 2, \"ema_decay\": 0.9,"
        "\"train_text_encoder\": true, \"tokenizer\": {\"vocab_size\": 64},"
        "\"text_encoder\": {\"vocab_size\": 64, \"d_model\": 8, \"num_heads\": 2, \"d_kv\": 4,"
        "\"d_ff\": 16, \"num_layers\": 1, \"feed_forward_proj\": \"gated-gelu\"},"
        "\"denoiser\": {\"in_channels\": 2, \"hidden_size\": 16, \"depth\": 2, \"num_heads\": 2,"
        "\"caption_channels\": 8, \"model_max_length\": 12, \"space_scale\": 0.25,"
        "\"time_scale\": 0.25, \"train_y_embedding\": true},"
        "\"validation\": {\"steps\": 2, \"cfg_scale\": 4, \"prompts\": [\"a red circle\"]}}",
        m->folder, m->folder, m->folder);
    media_write(media_path(m, "video.json"), text, (size_t)length);
}

/* "KEY=FOLDER/NAME" for --set; lives until the 32nd call after this one. */
static inline const char *train_set_path(const media *m, const char *key, const char *name) {
    static char texts[32][3 * MEDIA_PATH];
    static int next;
    char *text = texts[next++ % 32];
    snprintf(text, sizeof texts[0], "%s=%s/%s", key, m->folder, name);
    return text;
}

/* A group setup: a folder with data/ (8 clips of 2 frames of 16 x 16), an autoencoder in vae/vae,
 * and a model of a few steps in video/model. */
static inline int train_setup(void **state) {
    /* in memory, if that can be: a busy disk takes its time to flush hundreds of checkpoints */
    if (access("/dev/shm", W_OK | X_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
    if (media_setup(state) != 0) return -1;
    media *m = *state;
    train_write_configs(m);
    if (train_run(m, kin_verb_data_synth,
                  ARGUMENTS(media_path(m, "data"), "--clips", "8", "--heldout-clips", "0",
                            "--video-frames", "2", "--size", "16", "-q")) != 0 ||
        train_run(m, kin_verb_train, ARGUMENTS(media_path(m, "vae.json"), "-q")) != 0 ||
        train_run(m, kin_verb_train, ARGUMENTS(media_path(m, "video.json"), "-q")) != 0) {
        fprintf(stderr, "%s", train_told);
        return -1;
    }
    return 0;
}

#endif
