/* What the tests of the runtime's files share: a failing allocator, temporary files, references. */
#ifndef KIN_TESTS_RUNTIME_SUPPORT_H
#define KIN_TESTS_RUNTIME_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/file.h"
#include "runtime/json.h"

/* Fails the allocation number `fail_at` (from 1) and all after it; 0: none. */
typedef struct failing {
    long count;
    long fail_at;
    long live; /* pieces that are not freed yet */
} failing;

static inline void *failing_resize(void *user, void *ptr, size_t size) {
    failing *state = user;
    if (size == 0) {
        if (ptr != NULL) state->live--;
        free(ptr);
        return NULL;
    }
    state->count++;
    if (state->fail_at > 0 && state->count >= state->fail_at) return NULL;
    void *result = realloc(ptr, size);
    if (result != NULL && ptr == NULL) state->live++;
    return result;
}

static inline kin_context *failing_context(failing *state) {
    kin_context_options options = {
        .struct_size = sizeof options, .allocator = {failing_resize, state}, .threads = 1};
    kin_context *context = NULL;
    long fail_at = state->fail_at;
    state->fail_at = 0;
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    state->fail_at = fail_at;
    state->count = 0;
    return context;
}

/* Runs `work` with the i-th allocation failing, for every i until it succeeds. Each failure must
 * be KIN_OUT_OF_MEMORY with a message, and nothing may stay allocated. */
static inline void sweep_allocations(kin_status (*work)(kin_context *context, void *user),
                                     void *user) {
    for (long i = 1;; i++) {
        failing state = {.fail_at = i};
        kin_context *context = failing_context(&state);
        kin_status status = work(context, user);
        if (status != KIN_OK) {
            assert_int_equal(status, KIN_OUT_OF_MEMORY);
            assert_true(kin_context_error(context)[0] != '\0');
        }
        assert_int_equal(state.live, 1);
        kin_context_destroy(context);
        assert_int_equal(state.live, 0);
        if (status == KIN_OK) {
            assert_true(i > 1); /* else nothing was tried */
            return;
        }
        assert_true(i < 100000);
    }
}

static inline char *make_folder(void) {
    char *folder = strdup("/tmp/kinora-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return folder;
}

/* A path in the folder, valid until the next but seven call. */
static inline const char *path_in(const char *folder, const char *name) {
    static char paths[8][2048];
    static int next;
    char *path = paths[next++ % 8];
    int length = snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    assert_true(length > 0 && (size_t)length < sizeof paths[0]);
    return path;
}

static inline void write_bytes(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    if (size > 0) assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* $KINORA_SHARED/reference/<name>, or NULL with a note if there is no such folder. */
static inline const char *reference_folder(const char *name) {
    static char path[1024];
    const char *shared = getenv("KINORA_SHARED");
    snprintf(path, sizeof path, "%s/reference/%s", shared != NULL ? shared : "", name);
    if (shared != NULL && kin_file_is_folder(path)) return path;
    print_message("skipped: KINORA_SHARED does not name a folder with reference/%s\n", name);
    return NULL;
}

static inline void assert_message(kin_context *context, const char *part) {
    if (strstr(kin_context_error(context), part) == NULL)
        fail_msg("'%s' is not in the message '%s'", part, kin_context_error(context));
}

#endif
