/* Several processes of one job: what they agree on. */
#define _POSIX_C_SOURCE 200809L
#include "tools/ranks.h"

#include "tools/tool.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MOST_RANKS = 4096, MOST_VALUES = 64 };

int kin_ranks_start(const char *verb, const char *how, kin_ranks **out_ranks) {
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    bool mpi = how ? strcmp(how, "mpi") == 0 : size && atoi(size) > 1;
    char *end = NULL;
    long count = how && !mpi ? strtol(how, &end, 10) : 1;
    *out_ranks = NULL;
    if (end && (end == how || *end || count < 1 || count > MOST_RANKS))
        return kin_usage_error(verb, "--ranks wants a number of processes, 1 to %d, or mpi",
                               MOST_RANKS);
    if (!mpi && count == 1) return -1;
    kin_ranks *ranks = calloc(1, sizeof *ranks);
    if (!ranks) {
        fprintf(stderr, "kinora %s: no memory\n", verb);
        return KIN_EXIT_FAILED;
    }
    int code =
        mpi ? kin_ranks_start_mpi(verb, ranks) : kin_ranks_start_local(verb, (int)count, ranks);
    if (code >= 0) {
        free(ranks);
        return code;
    }
    *out_ranks = ranks;
    return -1;
}

void kin_ranks_end(kin_ranks *ranks, bool failed) {
    if (!ranks) return;
    ranks->end(ranks, failed);
    free(ranks);
}

/* What a rank tells the others. */
typedef struct report {
    int32_t status, interrupted;
    char message[504];
} report;

kin_status kin_ranks_agree_stop(kin_ranks *ranks, kin_status status, bool *out_stop) {
    report mine = {(int32_t)status, kin_interrupted(), ""};
    *out_stop = kin_interrupted();
    if (!ranks) return status;
    if (status != KIN_OK)
        snprintf(mine.message, sizeof mine.message, "%s", kin_context_error(ranks->context));
    report *all = kin_calloc(ranks->context, (size_t)ranks->count, sizeof *all);
    if (!all) return KIN_OUT_OF_MEMORY;
    const kin_transport *t = &ranks->transport;
    kin_status sent = t->gather(t->user, &mine, all, sizeof mine);
    kin_status result = status != KIN_OK ? status : sent;
    for (int r = 0; sent == KIN_OK && r < ranks->count; r++) {
        if (all[r].interrupted) *out_stop = ranks->agreed = true;
        if (all[r].status == KIN_OK) continue;
        ranks->agreed = true;
        if (result != KIN_OK) continue;
        result = (kin_status)all[r].status;
        all[r].message[sizeof all[r].message - 1] = '\0';
        kin_fail(ranks->context, result, "rank %d: %s", r, all[r].message);
    }
    if (status != KIN_OK && sent != KIN_OK) /* this rank's own message, not the transport's */
        kin_fail(ranks->context, status, "%s", mine.message);
    kin_free(ranks->context, all);
    return result;
}

kin_status kin_ranks_agree(kin_ranks *ranks, kin_status status) {
    bool stop;
    return kin_ranks_agree_stop(ranks, status, &stop);
}

kin_status kin_ranks_mean(kin_ranks *ranks, double *values, size_t count) {
    if (!ranks || count == 0) return KIN_OK;
    if (count > MOST_VALUES)
        return kin_fail(ranks->context, KIN_INVALID, "%zu values to share", count);
    double *all = kin_calloc(ranks->context, (size_t)ranks->count * count, sizeof *all);
    if (!all) return KIN_OUT_OF_MEMORY;
    const kin_transport *t = &ranks->transport;
    kin_status status = t->gather(t->user, values, all, count * sizeof *values);
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        values[i] = 0;
        for (int r = 0; r < ranks->count; r++) values[i] += all[(size_t)r * count + i];
        values[i] /= ranks->count;
    }
    kin_free(ranks->context, all);
    return status;
}

kin_status kin_ranks_same(kin_ranks *ranks, uint64_t number, bool *out_same) {
    *out_same = true;
    if (!ranks) return KIN_OK;
    uint64_t *all = kin_calloc(ranks->context, (size_t)ranks->count, sizeof *all);
    if (!all) return KIN_OUT_OF_MEMORY;
    const kin_transport *t = &ranks->transport;
    kin_status status = t->gather(t->user, &number, all, sizeof number);
    for (int r = 1; status == KIN_OK && r < ranks->count; r++)
        if (all[r] != all[0]) *out_same = false;
    kin_free(ranks->context, all);
    return status;
}

kin_status kin_ranks_broadcast(kin_ranks *ranks, void *data, size_t bytes) {
    if (!ranks) return KIN_OK;
    return ranks->transport.broadcast(ranks->transport.user, data, bytes);
}

/* ---- devices ---- */

/* Devices of the backend of that name; 0 if there is none. */
static int devices_of(kin_context *context, const kin_backends *backends, const char *name) {
    const char *why = NULL;
    for (size_t i = 0; i < kin_backends_count(backends); i++) {
        const kin_backend *backend = kin_backends_at(backends, i);
        if (strcasecmp(backend->name, name) == 0) return backend->count(context, &why);
    }
    return 0;
}

kin_status kin_ranks_device(kin_context *context, const kin_backends *backends, const char *device,
                            int local_rank, int local_count, char *name, size_t size,
                            const char **out_name) {
    *out_name = device;
    size_t length = strlen(device);
    if (strchr(device, ',')) {
        const char *entry = device;
        int named = 1;
        for (const char *c = device; *c; c++) named += *c == ',';
        if (named != (local_count > 0 ? local_count : 1))
            return kin_fail(context, KIN_INVALID,
                            "--device %s names %d devices, but %d ranks run on this machine",
                            device, named, local_count > 0 ? local_count : 1);
        for (int i = 0; i < local_rank; i++) entry = strchr(entry, ',') + 1;
        snprintf(name, size, "%.*s", (int)strcspn(entry, ","), entry);
        *out_name = name;
        return KIN_OK;
    }
    if (local_count <= 1 || length == 0 || isdigit((unsigned char)device[length - 1]))
        return KIN_OK;
    int there = devices_of(context, backends, device);
    if (there <= 1) return KIN_OK; /* which they share */
    snprintf(name, size, "%s%d", device, local_rank % there);
    *out_name = name;
    return KIN_OK;
}
