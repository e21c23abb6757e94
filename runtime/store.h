/* Store: named persistent tensors on one device: weights, buffers, optimizer state. Plans bind the
 * variables of their graphs to it by name, so that several plans share one set of weights.
 */
#ifndef KIN_RUNTIME_STORE_H
#define KIN_RUNTIME_STORE_H

#include "runtime/device.h"
#include "runtime/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_store kin_store;

/* One tensor of a store. The buffer belongs to the store, and other tensors may lie in it. */
typedef struct kin_store_entry {
    char *name;
    kin_variable_kind kind;
    kin_desc desc; /* dense */
    kin_buffer *buffer;
    size_t offset; /* bytes into the buffer */
    bool loaded; /* from a file, or written; false: initialised */
} kin_store_entry;

KIN_API kin_status kin_store_create(kin_device *device, kin_store **out_store);
KIN_API void kin_store_free(kin_store *store);
KIN_API kin_device *kin_store_device(kin_store *store);
KIN_API size_t kin_store_count(const kin_store *store);
KIN_API kin_store_entry *kin_store_at(kin_store *store, size_t index);
KIN_API kin_store_entry *kin_store_find(kin_store *store, const char *name);
/* Bytes of all tensors. */
KIN_API size_t kin_store_bytes(const kin_store *store);
/* Bytes asked of the device: with what lies between tensors of one buffer. */
KIN_API size_t kin_store_allocated(const kin_store *store);

/* Adds every variable of the graph that the store lacks, initialised as the graph says: from Philox
 * keyed by (seed, name), so that neither order nor device matters. A variable that is there with
 * another shape or dtype is KIN_INVALID. */
KIN_API kin_status kin_store_add_graph(kin_store *store, const kin_graph *graph, uint64_t seed);
/* The same for weights that a file is about to fill: only states are initialised, the others hold
 * anything. */
KIN_API kin_status kin_store_reserve_graph(kin_store *store, const kin_graph *graph);
/* Elements first .. first + count - 1 of what kin_store_add_graph starts a variable of this name
 * and description with. */
KIN_API void kin_init_values(const char *name, const kin_desc *desc, kin_init init, uint64_t seed,
                             int64_t first, size_t count, float *out_values);
/* Writes or reads one tensor, converting from or to `dtype`; data is dense, of the entry's shape.
 */
KIN_API kin_status kin_store_write(kin_store *store, const char *name, kin_dtype dtype,
                                   const void *data);
KIN_API kin_status kin_store_read(kin_store *store, const char *name, kin_dtype dtype, void *data);
/* Copies `source`'s content to `target` (same shape), both in this store. */
KIN_API kin_status kin_store_copy(kin_store *store, const char *source, const char *target);

#ifdef __cplusplus
}
#endif
#endif
