/* The fixture of tests that write files: a context, and a folder that is removed in the end. */
#ifndef KIN_TESTS_FOLDER_FIXTURE_H
#define KIN_TESTS_FOLDER_FIXTURE_H

#include "tests/runtime_support.h"

static kin_context *context;
static char *folder;

/* options as for kin_context_create. */
static inline int open_fixture(const kin_context_options *options) {
    folder = make_folder();
    return kin_context_create(options, &context);
}

static inline int set_up(void **state) {
    (void)state;
    return open_fixture(NULL);
}

static inline int tear_down(void **state) {
    (void)state;
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    free(folder);
    kin_context_destroy(context);
    return system(command);
}

#endif
