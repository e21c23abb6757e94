/* Groups: devices in several processes (ranks) that run the same plans on different data and sum
 * tensors between them. A group is made over a transport, which the caller brings: how bytes of
 * host memory go between the processes. Where the device's backend has collectives of its own, the
 * transport serves only to make the group; otherwise the sums go by way of the host, each element
 * in the order of the ranks, so that the same number of ranks gives the same bits. */
#ifndef KIN_RUNTIME_COLLECTIVE_H
#define KIN_RUNTIME_COLLECTIVE_H

#include "runtime/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every function is called by all ranks alike, with the same sizes, and returns when this rank's
 * part is done. A failure sets the context's message; the group cannot be used any more then. */
typedef struct kin_transport {
    void *user;
    int rank, count; /* 0 <= rank < count */
    /* Part i of `send` goes to rank i, and part i of `receive` comes from it; each has `bytes`. */
    kin_status (*exchange)(void *user, const void *send, void *receive, size_t bytes);
    /* `receive` gets every rank's `bytes`, one after the other. */
    kin_status (*gather)(void *user, const void *send, void *receive, size_t bytes);
    /* Rank 0's bytes to all. */
    kin_status (*broadcast)(void *user, void *data, size_t bytes);
} kin_transport;

typedef struct kin_group kin_group;

/* Makes the device a member of a group, which plans built from then on use for their collective
 * nodes. All ranks call it. The transport is copied; what it points to outlives the group. A device
 * is in one group at most. */
KIN_API kin_status kin_group_join(kin_device *device, const kin_transport *transport,
                                  kin_group **out_group);
/* Leaves the group, once the plans made with it are gone and before the device is closed. */
KIN_API void kin_group_leave(kin_group *group);
KIN_API int kin_group_rank(const kin_group *group);
KIN_API int kin_group_count(const kin_group *group);
/* True if the device's backend does the sums itself. */
KIN_API bool kin_group_is_on_device(const kin_group *group);
/* Memory that sums between the ranks take beside a plan's own: the device's or, if they go by way
 * of the host, the host's. */
KIN_API uint64_t kin_group_bytes(const kin_group *group);
/* Rank 0's range of a buffer to all ranks. */
KIN_API kin_status kin_group_broadcast(kin_group *group, kin_buffer *buffer, size_t offset,
                                       size_t size);

#ifdef __cplusplus
}
#endif
#endif
