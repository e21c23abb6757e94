/* A smallest cut of a directed graph, for the planner's choice of what to keep. */
#ifndef KIN_RUNTIME_CUT_H
#define KIN_RUNTIME_CUT_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An edge that is never cut. */
#define KIN_CUT_NEVER (UINT64_MAX / 4)

typedef struct kin_cut kin_cut;

/* `nodes` nodes, numbered from 0, and no edges. The caller owns it. */
KIN_API kin_status kin_cut_create(kin_context *context, int32_t nodes, kin_cut **out_cut);
KIN_API void kin_cut_free(kin_cut *cut);
/* An edge whose cutting costs `cost`. KIN_OUT_OF_MEMORY if there is no memory for it. */
KIN_API kin_status kin_cut_add(kin_cut *cut, int32_t from, int32_t to, uint64_t cost);
/* The cheapest set of edges without which no path leads from `source` to `sink`; where several cost
 * the same, the one nearest to the sink. out_after[n]: node n is on the sink's side, so the edges
 * cut are those from a node that is not to one that is. Some path must be possible to cut: there
 * must be no path of edges that all cost KIN_CUT_NEVER. Once only. Dinic's algorithm. */
KIN_API void kin_cut_solve(kin_cut *cut, int32_t source, int32_t sink, bool *out_after);

#ifdef __cplusplus
}
#endif
#endif
