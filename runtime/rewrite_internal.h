/* The rewriter: passes over a graph for rewrite.c, recompute.c and fuse.c. A pass walks the live
 * nodes of a source graph in order and appends what it wants instead to a fresh target graph, so
 * that rules about appended nodes hold for what a pass appends, too. Errors stick to the target. */
#ifndef KIN_RUNTIME_REWRITE_INTERNAL_H
#define KIN_RUNTIME_REWRITE_INTERNAL_H

#include "runtime/backend.h"
#include "runtime/device.h"
#include "runtime/graph_internal.h"

typedef struct kin_rewriter {
    kin_graph *source, *target;
    const kin_device *device;
    bool allow_reference;
    int32_t *map; /* source value -> target value, 0: not made */
    bool *live;   /* source nodes that are wanted */
    int lowered;  /* nodes lowered in this pass */
    bool add_copies;
    kin_rewrite_counts *counts;
} kin_rewriter;

/* One pass: `visit` is called for each live node in order; marks of gradients, segments and outputs
 * are carried over afterwards. Set device and counts before, and what else the visitor wants; the
 * rest is filled in. *out_graph belongs to the caller; NULL after an error. */
kin_status kin_rewriter_run(kin_rewriter *rw, kin_graph *source,
                            void (*visit)(kin_rewriter *rw, int32_t node), kin_graph **out_graph);

/* A source value in the target, made now if it is an input, a variable or a constant. */
kin_tensor kin_rewriter_map(kin_rewriter *rw, int32_t value);

/* Appends `node` to the target with the inputs `in` (target values), its path, segment and side
 * (forward or backward), and fills out[0..node->out_count). Does not touch rw->map. */
void kin_rewriter_emit(kin_rewriter *rw, const kin_node *node, const kin_tensor *in,
                       kin_tensor *out);

/* The same for a node that stays as it is: inputs are mapped, and its outputs are entered. */
void kin_rewriter_keep(kin_rewriter *rw, int32_t node);

/* The device's kernel for `node` with the inputs `in` (target values); outputs are described by the
 * source values node->out. It may want dense copies of its inputs. Without one NULL; *out_why (may
 * be NULL) then says why, in the target's memory. */
const kin_kernel *kin_rewriter_kernel(kin_rewriter *rw, const kin_node *node, const kin_tensor *in,
                                      const char **out_why);

/* recompute.c: segments are computed again in front of the first backward node that reads a value
 * from inside. What the `products` dearest of the products inside give, by operations for each byte,
 * is kept. */
kin_status kin_graph_recompute(kin_graph *source, const kin_device *device, int products,
                               kin_rewrite_counts *counts, kin_graph **out_graph);

/* recompute_cheap.c: what comes cheaply from other values that are kept is computed again in front
 * of the first backward node that reads it. */
kin_status kin_graph_recompute_cheap(kin_graph *source, const kin_device *device,
                                     kin_rewrite_counts *counts, kin_graph **out_graph);

/* fuse.c: the graph with nodes and their only readers made one where an op knows how and the device
 * has a kernel; `source` itself if there are none. The setting plan.fuse=off leaves it alone. */
kin_status kin_graph_fuse(kin_graph *source, const kin_device *device, kin_rewrite_counts *counts,
                          kin_graph **out_graph);

#endif
