/* Ranks on one machine: children of the process that was started, which meet in memory that all of
 * them have. There are no locks, so a rank that is killed leaves none behind: each rank counts what
 * it has done, and waits until the others have counted as far, or one of them has ended. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#define _POSIX_C_SOURCE 200809L
#include "tools/ranks.h"

#include "tools/tool.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

enum {
    SLOT_BYTES = 1 << 20, /* of each rank, a multiple of what any transfer is aligned to */
    LEAST_PIECE = 64,
    SPINS = 200,
    GRACE_SECONDS = 30 /* that ranks have to end by themselves when one has failed */
};

/* In the shared memory, then come the ranks' slots. A line of the cache for each counter. */
typedef struct counter {
    _Alignas(64) _Atomic uint64_t value;
} counter;

typedef struct meeting {
    _Atomic int failed; /* 1 + the first rank that ended as it should not; 0: none */
    counter arrived[];
} meeting;

typedef struct local_state {
    meeting *meeting;
    char *slots; /* [count * slot] */
    size_t slot, size;
    uint64_t arrived; /* this rank's meetings */
    kin_ranks *ranks;
} local_state;

/* ---- the transport ---- */

static void pause_after(unsigned tries) {
    struct timespec moment = {0, tries < 2000 ? 50000 : 1000000};
    if (tries < SPINS) sched_yield();
    else nanosleep(&moment, NULL);
}

/* Waits until all ranks have come here as often as this one. */
static kin_status meet(local_state *l) {
    meeting *m = l->meeting;
    const kin_ranks *ranks = l->ranks;
    atomic_store(&m->arrived[ranks->rank].value, ++l->arrived);
    for (int r = 0; r < ranks->count; r++)
        for (unsigned tries = 0; atomic_load(&m->arrived[r].value) < l->arrived; tries++) {
            int failed = atomic_load(&m->failed);
            if (failed)
                return kin_fail(ranks->context, KIN_IO,
                                "rank %d has ended, so this one cannot go on", failed - 1);
            pause_after(tries);
        }
    return KIN_OK;
}

static kin_status local_exchange(void *user, const void *send, void *receive, size_t bytes) {
    local_state *l = user;
    const size_t count = (size_t)l->ranks->count, rank = (size_t)l->ranks->rank;
    const size_t most = l->slot / count / LEAST_PIECE * LEAST_PIECE;
    kin_status status = KIN_OK;
    for (size_t done = 0; status == KIN_OK && done < bytes;) {
        size_t piece = bytes - done < most ? bytes - done : most;
        for (size_t r = 0; r < count; r++)
            memcpy(l->slots + rank * l->slot + r * most, (const char *)send + r * bytes + done,
                   piece);
        status = meet(l);
        for (size_t r = 0; status == KIN_OK && r < count; r++)
            memcpy((char *)receive + r * bytes + done, l->slots + r * l->slot + rank * most, piece);
        if (status == KIN_OK) status = meet(l); /* before the slots are written again */
        done += piece;
    }
    return status;
}

static kin_status local_gather(void *user, const void *send, void *receive, size_t bytes) {
    local_state *l = user;
    kin_status status = KIN_OK;
    for (size_t done = 0; status == KIN_OK && done < bytes;) {
        size_t piece = bytes - done < l->slot ? bytes - done : l->slot;
        memcpy(l->slots + (size_t)l->ranks->rank * l->slot, (const char *)send + done, piece);
        status = meet(l);
        for (size_t r = 0; status == KIN_OK && r < (size_t)l->ranks->count; r++)
            memcpy((char *)receive + r * bytes + done, l->slots + r * l->slot, piece);
        if (status == KIN_OK) status = meet(l);
        done += piece;
    }
    return status;
}

static kin_status local_broadcast(void *user, void *data, size_t bytes) {
    local_state *l = user;
    kin_status status = KIN_OK;
    for (size_t done = 0; status == KIN_OK && done < bytes;) {
        size_t piece = bytes - done < l->slot ? bytes - done : l->slot;
        if (l->ranks->rank == 0) memcpy(l->slots, (const char *)data + done, piece);
        status = meet(l);
        if (status == KIN_OK && l->ranks->rank != 0) memcpy((char *)data + done, l->slots, piece);
        if (status == KIN_OK) status = meet(l);
        done += piece;
    }
    return status;
}

/* ---- a rank ---- */

static void local_end(kin_ranks *ranks, bool failed) {
    local_state *l = ranks->state;
    int none = 0;
    if (failed) atomic_compare_exchange_strong(&l->meeting->failed, &none, ranks->rank + 1);
    munmap(l->meeting, l->size);
    free(l);
}

static int become(kin_ranks *ranks, local_state *state, int rank, int count) {
    *ranks = (kin_ranks){.rank = rank,
                         .count = count,
                         .local_rank = rank,
                         .local_count = count,
                         .transport = {.user = state,
                                       .rank = rank,
                                       .count = count,
                                       .exchange = local_exchange,
                                       .gather = local_gather,
                                       .broadcast = local_broadcast},
                         .state = state,
                         .end = local_end};
    state->ranks = ranks;
    return -1;
}

/* ---- the process that watches ---- */

static volatile sig_atomic_t told; /* the signal that is to be handed on */

static void on_signal(int number) {
    told = number;
}

static void hand_on(const pid_t *ranks, int count, int number) {
    for (int r = 0; r < count; r++)
        if (ranks[r] > 0) kill(ranks[r], number);
}

/* Notes that a rank has ended. Returns its exit status, 128 + N after signal N. */
static int note_end(const char *verb, meeting *m, int rank, int how) {
    int none = 0, code = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
    if (code != 0) atomic_compare_exchange_strong(&m->failed, &none, rank + 1);
    if (WIFSIGNALED(how))
        fprintf(stderr, "kinora %s: rank %d was ended by signal %d\n", verb, rank, WTERMSIG(how));
    return code;
}

/* Waits for all ranks; hands signals on to them. When one has failed, the others have some time to
 * end by themselves: they learn it where they wait for it next, unless they wait in a library. */
static int watch(const char *verb, meeting *m, pid_t *ranks, int count) {
    int code = 0;
    double failed_at = 0;
    for (int left = count; left > 0;) {
        struct timespec moment = {0, 20000000};
        int how, number = told;
        if (number) {
            told = 0;
            hand_on(ranks, count, number);
        }
        pid_t ended = waitpid(-1, &how, WNOHANG);
        for (int r = 0; ended > 0 && r < count; r++) {
            if (ranks[r] != ended) continue;
            int of_rank = note_end(verb, m, r, how);
            if (code == 0) code = of_rank;
            ranks[r] = 0;
            left--;
        }
        if (ended > 0) continue;
        if (ended < 0 && errno == ECHILD) break;
        if (atomic_load(&m->failed) && failed_at == 0) failed_at = kin_seconds();
        if (failed_at > 0 && kin_seconds() - failed_at > GRACE_SECONDS) {
            hand_on(ranks, count, SIGKILL);
            failed_at = kin_seconds();
        }
        nanosleep(&moment, NULL);
    }
    return code;
}

static void catch_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

/* In the child: signals of the terminal reach it by way of the watching process alone, and it ends
 * when that one does. */
static void settle_child(pid_t parent) {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGTTOU, SIG_IGN); /* what it writes to the terminal does not stop it */
    setpgid(0, 0);
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
    if (getppid() != parent) _exit(KIN_EXIT_FAILED);
}

int kin_ranks_start_local(const char *verb, int count, kin_ranks *ranks) {
    size_t head = sizeof(meeting) + (size_t)count * sizeof(counter), slot = SLOT_BYTES;
    if (slot < (size_t)count * LEAST_PIECE) slot = (size_t)count * LEAST_PIECE;
    head = (head + 4095) / 4096 * 4096;
    size_t size = head + (size_t)count * slot;
    local_state *state = calloc(1, sizeof *state);
    pid_t *children = calloc((size_t)count, sizeof *children), parent = getpid();
    void *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int code = KIN_EXIT_FAILED;
    if (!state || !children || shared == MAP_FAILED) {
        fprintf(stderr, "kinora %s: no memory for %d ranks\n", verb, count);
    } else {
        *state = (local_state){shared, (char *)shared + head, slot, size, 0, NULL};
        fflush(NULL);
        catch_signals();
        bool all = true;
        for (int r = 0; all && r < count; r++) {
            children[r] = fork();
            if (children[r] == 0) {
                settle_child(parent);
                free(children);
                return become(ranks, state, r, count);
            }
            if (children[r] > 0) continue;
            fprintf(stderr, "kinora %s: rank %d cannot be started: %s\n", verb, r, strerror(errno));
            hand_on(children, r, SIGKILL);
            count = r;
            all = false;
        }
        int of_ranks = watch(verb, shared, children, count);
        code = all ? of_ranks : KIN_EXIT_FAILED;
    }
    if (shared != MAP_FAILED) munmap(shared, size);
    free(children);
    free(state);
    return code;
}
