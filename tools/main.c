/* The program kinora: finds the verb and runs it. */
#define _POSIX_C_SOURCE 200809L
#include "tools/tool.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* GNU OpenMP reads its settings before main. As it comes, a thread that waits for others spins for
 * milliseconds; where other work shares the processors, each barrier then costs a time slice. A
 * short spin, then sleep, is as fast on a quiet machine. So the program starts itself anew with
 * that setting, unless the user has chosen one. */
static void wait_politely(char **arguments) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    if (setenv("GOMP_SPINCOUNT", "4000", 1) == 0) execv("/proc/self/exe", arguments);
}

static void print_usage(FILE *out) {
    fprintf(out, "usage: kinora VERB [flags]\n\n");
    for (const kin_verb *row = kin_verbs; row->name; row++)
        fprintf(out, "  %-18s %s\n", row->name, row->summary);
    fprintf(out, "\nkinora VERB --help tells a verb's flags. Exit status: 0 ok, 1 failed, 2 wrong "
                 "usage.\n");
}

/* The verb in front of the arguments, two words before one; *out_words receives how many. */
static const kin_verb *find_verb(int count, char **arguments, int *out_words) {
    for (int words = 2; words >= 1; words--) {
        char name[64];
        if (count < words) continue;
        int length = words == 2 ? snprintf(name, sizeof name, "%s %s", arguments[0], arguments[1])
                                : snprintf(name, sizeof name, "%s", arguments[0]);
        if (length < 0 || (size_t)length >= sizeof name) continue;
        for (const kin_verb *row = kin_verbs; row->name; row++) {
            if (strcmp(row->name, name) != 0) continue;
            *out_words = words;
            return row;
        }
    }
    return NULL;
}

/* "check" alone lists what there is to check. */
static bool print_group(const char *word) {
    size_t length = strlen(word);
    bool any = false;
    for (const kin_verb *row = kin_verbs; row->name; row++) {
        if (strncmp(row->name, word, length) != 0 || row->name[length] != ' ') continue;
        if (!any) fprintf(stderr, "kinora: %s what?\n", word);
        fprintf(stderr, "  %-18s %s\n", row->name, row->summary);
        any = true;
    }
    return any;
}

static int unknown_verb(int count, char **arguments) {
    const char *names[64], *near = NULL;
    char typed[128];
    size_t known = 0;
    for (; kin_verbs[known].name && known < 64; known++) names[known] = kin_verbs[known].name;
    if (count > 1) {
        snprintf(typed, sizeof typed, "%.60s %.60s", arguments[0], arguments[1]);
        near = kin_nearest_name(typed, names, known);
    }
    if (!near && print_group(arguments[0])) return KIN_EXIT_USAGE;
    if (!near) near = kin_nearest_name(arguments[0], names, known);
    fprintf(stderr, "kinora: unknown verb \"%s\"", arguments[0]);
    if (near) fprintf(stderr, "; did you mean \"%s\"?\n", near);
    else fprintf(stderr, "; see kinora --help\n");
    return KIN_EXIT_USAGE;
}

static int run(int count, char **arguments) {
    int words = 0;
    if (count < 1) {
        print_usage(stderr);
        return KIN_EXIT_USAGE;
    }
    if (strcmp(arguments[0], "--help") == 0 || strcmp(arguments[0], "-h") == 0 ||
        strcmp(arguments[0], "help") == 0) {
        print_usage(stdout);
        return KIN_EXIT_OK;
    }
    if (strcmp(arguments[0], "--version") == 0) {
        printf("kinora %s\n", kin_version());
        return KIN_EXIT_OK;
    }
    const kin_verb *verb = find_verb(count, arguments, &words);
    if (!verb) return unknown_verb(count, arguments);
    return verb->run(count - words, arguments + words);
}

/* A full disk under standard output is told, too. */
int main(int count, char **arguments) {
    wait_politely(arguments);
    int status = run(count - 1, arguments + 1);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "kinora: standard output cannot be written\n");
        if (status == KIN_EXIT_OK) status = KIN_EXIT_FAILED;
    }
    return status;
}
