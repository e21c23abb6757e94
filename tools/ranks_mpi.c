/* Ranks that mpirun started, on one machine or several. Only this file knows MPI. Waiting gives the
 * processor away: a rank may wait for hours until rank 0 has encoded the clips. */
#define _POSIX_C_SOURCE 200809L
#include "tools/ranks.h"

#include "tools/tool.h"

#include <stdio.h>

#ifndef KIN_HAVE_MPI

int kin_ranks_start_mpi(const char *verb, kin_ranks *ranks) {
    (void)ranks;
    fprintf(
        stderr,
        "kinora %s: this program was built without MPI (Debian: libopenmpi-dev); --ranks N runs "
        "on one machine without it\n",
        verb);
    return KIN_EXIT_FAILED;
}

#else

#include <mpi.h>
#include <sched.h>
#include <time.h>

enum { SPINS = 200, MOST_BYTES = 1 << 28 };

/* KIN_OK when the request is done. */
static kin_status finish(kin_ranks *ranks, int code, MPI_Request *request) {
    for (unsigned tries = 0; code == MPI_SUCCESS; tries++) {
        struct timespec moment = {0, tries < 2000 ? 50000 : 1000000};
        int done = 0;
        code = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done) break;
        if (tries < SPINS) sched_yield();
        else nanosleep(&moment, NULL);
    }
    if (code == MPI_SUCCESS) return KIN_OK;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    return kin_fail(ranks->context, KIN_IO, "MPI: %.*s", length, text);
}

static kin_status too_large(kin_ranks *ranks, size_t bytes) {
    return kin_fail(ranks->context, KIN_INVALID, "%zu bytes in one transfer between ranks", bytes);
}

static kin_status mpi_exchange(void *user, const void *send, void *receive, size_t bytes) {
    MPI_Request request;
    if (bytes > MOST_BYTES) return too_large(user, bytes);
    int code = MPI_Ialltoall(send, (int)bytes, MPI_BYTE, receive, (int)bytes, MPI_BYTE,
                             MPI_COMM_WORLD, &request);
    return finish(user, code, &request);
}

static kin_status mpi_gather(void *user, const void *send, void *receive, size_t bytes) {
    MPI_Request request;
    if (bytes > MOST_BYTES) return too_large(user, bytes);
    int code = MPI_Iallgather(send, (int)bytes, MPI_BYTE, receive, (int)bytes, MPI_BYTE,
                              MPI_COMM_WORLD, &request);
    return finish(user, code, &request);
}

static kin_status mpi_broadcast(void *user, void *data, size_t bytes) {
    kin_status status = KIN_OK;
    for (size_t done = 0; status == KIN_OK && done < bytes;) {
        MPI_Request request;
        size_t piece = bytes - done < MOST_BYTES ? bytes - done : MOST_BYTES;
        int code =
            MPI_Ibcast((char *)data + done, (int)piece, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
        status = finish(user, code, &request);
        done += piece;
    }
    return status;
}

static void mpi_end(kin_ranks *ranks, bool failed) {
    (void)ranks;
    if (failed) MPI_Abort(MPI_COMM_WORLD, KIN_EXIT_FAILED); /* mpirun ends the others */
    MPI_Finalize();
}

int kin_ranks_start_mpi(const char *verb, kin_ranks *ranks) {
    MPI_Comm here;
    int given = 0;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given) != MPI_SUCCESS) {
        fprintf(stderr, "kinora %s: MPI cannot be initialised\n", verb);
        return KIN_EXIT_FAILED;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &ranks->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks->count);
    ranks->local_count = 1;
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here) ==
        MPI_SUCCESS) {
        MPI_Comm_rank(here, &ranks->local_rank);
        MPI_Comm_size(here, &ranks->local_count);
        MPI_Comm_free(&here);
    }
    ranks->transport = (kin_transport){.user = ranks,
                                       .rank = ranks->rank,
                                       .count = ranks->count,
                                       .exchange = mpi_exchange,
                                       .gather = mpi_gather,
                                       .broadcast = mpi_broadcast};
    ranks->end = mpi_end;
    return -1;
}

#endif
