/* One job in several processes (ranks), which talk through memory that they share on one machine,
 * or through MPI. */
#ifndef KIN_TOOLS_RANKS_H
#define KIN_TOOLS_RANKS_H

#include "runtime/collective.h"
#include "runtime/device.h"

typedef struct kin_ranks kin_ranks;

struct kin_ranks {
    int rank, count;             /* of all */
    int local_rank, local_count; /* of those on this machine */
    kin_transport transport;
    kin_context *context; /* for messages of the transport: set it when there is one */
    bool agreed;          /* a failure that every rank knows of */
    /* of the way that was chosen */
    void *state;
    void (*end)(kin_ranks *ranks, bool failed);
};

/* Starts the ranks before anything else is opened. how: "N", so many processes on this machine;
 * "mpi"; NULL, MPI if mpirun started this process, else none. *out_ranks is NULL for a process that
 * is alone. Returns -1 to go on. In the process that was started for "N" the call does not return
 * before all ranks have ended, and then an exit status: it watches over them. A mistake is told on
 * standard error. */
int kin_ranks_start(const char *verb, const char *how, kin_ranks **out_ranks);
/* failed: this rank ends without the others, who are told or ended. NULL is fine. */
void kin_ranks_end(kin_ranks *ranks, bool failed);

/* What follows is called by all ranks alike; for NULL, a process that is alone, all is well. */

/* KIN_OK if it is that for all ranks. Else this rank's own status, or that of the first rank which
 * has one, with its message. */
kin_status kin_ranks_agree(kin_ranks *ranks, kin_status status);
/* The same, and *out_stop: whether one of them was interrupted (kin_interrupted). */
kin_status kin_ranks_agree_stop(kin_ranks *ranks, kin_status status, bool *out_stop);
/* Each value becomes its mean over the ranks; at most 64. */
kin_status kin_ranks_mean(kin_ranks *ranks, double *values, size_t count);
/* True where all ranks have the same number. */
kin_status kin_ranks_same(kin_ranks *ranks, uint64_t number, bool *out_same);
/* Rank 0's bytes to all. */
kin_status kin_ranks_broadcast(kin_ranks *ranks, void *data, size_t bytes);

/* The device of a rank, from what --device says: "cuda0,cuda1" are those of the ranks of a machine,
 * in order; a name without a number, where there are several ranks on the machine and several such
 * devices, means one for each. The text is in `name`, or `device` itself. */
kin_status kin_ranks_device(kin_context *context, const kin_backends *backends, const char *device,
                            int local_rank, int local_count, char *name, size_t size,
                            const char **out_name);

/* The ways: fill in a kin_ranks, as kin_ranks_start. ranks_mpi.c, ranks_local.c. */
int kin_ranks_start_mpi(const char *verb, kin_ranks *ranks);
int kin_ranks_start_local(const char *verb, int count, kin_ranks *ranks);

#endif
