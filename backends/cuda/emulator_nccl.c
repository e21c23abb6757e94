/* NCCL for cuda-emulated: sums over memory that the processes of one machine share, in the order of
 * the ranks. What the library would refuse, and what it would hang on, counts as a misuse. The id
 * is the name of a file under /dev/shm, or where temporary files are. */
#define _POSIX_C_SOURCE 200809L
#include "backends/cuda/emulator.h"
#include "backends/cuda/nccl.h"

#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    SLOT_BYTES = 1 << 16,
    MOST_RANKS = 64,
    WAIT_SECONDS = 60,
    SYSTEM_ERROR = 2,
    INTERNAL_ERROR = 3
};

typedef struct request {
    uint64_t count;
    int32_t type, op;
} request;

typedef struct shared {
    _Atomic uint64_t arrived[MOST_RANKS];
    request requests[MOST_RANKS]; /* what each rank calls now */
    _Alignas(64) unsigned char slots[];
} shared;

typedef struct comm {
    shared *memory;
    size_t size;
    int rank, count;
    uint64_t arrived;
} comm;

typedef struct job {
    comm *comm;
    const void *send;
    void *receive;
    request request;
    bool broadcast;
} job;

static _Thread_local int group_depth;

/* True if this call is the one that a test lets fail. */
static bool fails(void) {
    kin_emulator_control *control = kin_emulator_control_get();
    control->calls++;
    return control->fail_at != 0 && control->calls == control->fail_at;
}

static int version(int *out_version) {
    *out_version = 22203;
    return 0;
}

static const char *error_string(int code) {
    return code == SYSTEM_ERROR     ? "unhandled system error"
           : code == INTERNAL_ERROR ? "internal error"
                                    : "invalid argument";
}

static int unique_id(kin_nccl_id *out_id) {
    struct timespec now;
    memset(out_id, 0, sizeof *out_id);
    if (fails() || clock_gettime(CLOCK_REALTIME, &now) != 0) return SYSTEM_ERROR;
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(out_id->internal, sizeof out_id->internal, "%s/kinora-nccl-%ld-%lld-%ld", folder,
             (long)getpid(), (long long)now.tv_sec, now.tv_nsec);
    return 0;
}

/* Waits until all ranks have come as far. False if one does not in a minute. */
static bool meet(comm *c) {
    time_t begun = time(NULL);
    atomic_store(&c->memory->arrived[c->rank], ++c->arrived);
    for (int r = 0; r < c->count; r++)
        while (atomic_load(&c->memory->arrived[r]) < c->arrived) {
            struct timespec moment = {0, 20000};
            nanosleep(&moment, NULL);
            if (time(NULL) - begun > WAIT_SECONDS) return false;
        }
    return true;
}

static int init_rank(void **out_comm, int count, kin_nccl_id id, int rank) {
    *out_comm = NULL;
    if (count < 1 || count > MOST_RANKS || rank < 0 || rank >= count)
        return kin_emulator_misuse("a rank that is none of the group");
    if (fails()) return SYSTEM_ERROR;
    comm *c = calloc(1, sizeof *c);
    if (c == NULL) return SYSTEM_ERROR;
    c->size = sizeof(shared) + (size_t)count * SLOT_BYTES;
    c->rank = rank;
    c->count = count;
    id.internal[sizeof id.internal - 1] = '\0';
    int file = open(id.internal, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    bool sized = file >= 0 && ftruncate(file, (off_t)c->size) == 0;
    void *memory =
        sized ? mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
    if (file >= 0) (void)close(file);
    if (memory != MAP_FAILED) {
        c->memory = memory;
        bool all = meet(c);
        if (rank == 0) (void)unlink(id.internal);
        if (all) {
            *out_comm = c;
            return 0;
        }
        (void)munmap(memory, c->size);
    }
    free(c);
    return SYSTEM_ERROR;
}

static int destroy(void *of) {
    comm *c = of;
    if (group_depth != 0) return kin_emulator_misuse("a communicator is destroyed within a group");
    (void)munmap(c->memory, c->size);
    free(c);
    return 0;
}

/* ---- work ---- */

static size_t size_of(int type) {
    return type == KIN_NCCL_FLOAT32 ? 4 : type == KIN_NCCL_UINT8 ? 1 : 2;
}

static kin_dtype dtype_of(int type) {
    return type == KIN_NCCL_FLOAT16 ? KIN_F16 : type == KIN_NCCL_BFLOAT16 ? KIN_BF16 : KIN_F32;
}

static bool same(const request *a, const request *b) {
    return a->count == b->count && a->type == b->type && a->op == b->op;
}

static void sum(const comm *c, const job *j, size_t done, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double total = 0;
        for (int r = 0; r < c->count; r++)
            total += kin_element_get(c->memory->slots + (size_t)r * SLOT_BYTES,
                                     dtype_of(j->request.type), (int64_t)i);
        if (j->request.op == KIN_NCCL_AVG) total /= c->count;
        kin_element_set(j->receive, dtype_of(j->request.type), (int64_t)(done + i), total);
    }
}

static int run(const void *data) {
    const job *j = data;
    comm *c = j->comm;
    const size_t size = size_of(j->request.type), most = SLOT_BYTES / size;
    unsigned char *mine = c->memory->slots + (size_t)c->rank * SLOT_BYTES;
    c->memory->requests[c->rank] = j->request;
    if (!meet(c)) return kin_emulator_misuse("a rank does not come: the library would hang");
    for (int r = 0; r < c->count; r++)
        if (!same(&c->memory->requests[r], &j->request))
            return kin_emulator_misuse("ranks that ask for different sums: the library would hang");
    for (size_t done = 0; done < j->request.count; done += most) {
        size_t count = j->request.count - done < most ? j->request.count - done : most;
        if (!j->broadcast || c->rank == 0)
            memcpy(mine, (const char *)j->send + done * size, count * size);
        if (!meet(c)) return kin_emulator_misuse("a rank does not come: the library would hang");
        if (!j->broadcast) sum(c, j, done, count);
        else memcpy((char *)j->receive + done * size, c->memory->slots, count * size);
        if (!meet(c)) return kin_emulator_misuse("a rank does not come: the library would hang");
    }
    return meet(c) ? 0 : kin_emulator_misuse("a rank does not come: the library would hang");
}

/* Part of the other, but not the same. */
static bool overlaps(const void *a, const void *b, size_t bytes) {
    return a != b && (const char *)a < (const char *)b + bytes &&
           (const char *)b < (const char *)a + bytes;
}

static bool is_on_device(const void *address, size_t bytes) {
    for (int device = 0; device < kin_emulator_control_get()->devices; device++)
        if (kin_emulator_range_fault(address, bytes, device) == NULL) return true;
    return false;
}

static int queue(job *j, void *stream) {
    if (j->comm == NULL || j->send == NULL || j->receive == NULL || j->request.count == 0)
        return kin_emulator_misuse("a sum without memory");
    if (overlaps(j->send, j->receive, j->request.count * size_of(j->request.type)))
        return kin_emulator_misuse("a sum whose input and output overlap");
    if (!is_on_device(j->send, j->request.count * size_of(j->request.type)) ||
        !is_on_device(j->receive, j->request.count * size_of(j->request.type)))
        return kin_emulator_misuse("a sum of what is no device memory");
    if ((uintptr_t)j->send % size_of(j->request.type) != 0 ||
        (uintptr_t)j->receive % size_of(j->request.type) != 0)
        return kin_emulator_misuse("a sum of elements that are not aligned");
    return kin_emulator_queue(stream, run, j, sizeof *j);
}

static int all_reduce(const void *send, void *receive, size_t count, int type, int op, void *of,
                      void *stream) {
    job j = {of, send, receive, {count, type, op}, false};
    if (type != KIN_NCCL_FLOAT32 && type != KIN_NCCL_FLOAT16 && type != KIN_NCCL_BFLOAT16)
        return kin_emulator_misuse("a sum of a type that is not used here");
    if (op != KIN_NCCL_SUM && op != KIN_NCCL_AVG)
        return kin_emulator_misuse("an operation that is not used here");
    return queue(&j, stream);
}

static int broadcast(const void *send, void *receive, size_t count, int type, int root, void *of,
                     void *stream) {
    job j = {of, send, receive, {count, type, -1}, true};
    if (type != KIN_NCCL_UINT8 || root != 0)
        return kin_emulator_misuse("a broadcast of a kind that is not used here");
    return queue(&j, stream);
}

static int group_start(void) {
    group_depth++;
    return 0;
}

static int group_end(void) {
    if (group_depth == 0) return kin_emulator_misuse("the end of a group that was not begun");
    group_depth--;
    return 0;
}

bool kin_nccl_load(const char *file, kin_nccl_functions *out, void **out_library,
                   const char **out_why) {
    *out_library = NULL;
    *out_why = "the file is not there";
    if (file != NULL) return false;
    *out = (kin_nccl_functions){.version = version,
                                .unique_id = unique_id,
                                .init_rank = init_rank,
                                .destroy = destroy,
                                .all_reduce = all_reduce,
                                .broadcast = broadcast,
                                .group_start = group_start,
                                .group_end = group_end,
                                .error_string = error_string};
    return true;
}

void kin_nccl_unload(void *library) {
    (void)library;
}
