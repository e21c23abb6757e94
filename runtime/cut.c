/* Dinic's algorithm (E. A. Dinic 1970): blocking flows along shortest paths, until none is left. */
#include "runtime/cut.h"

#include <string.h>

typedef struct edge {
    int32_t to, next; /* next: of the same node, -1 at the end */
    uint64_t room;    /* what can still flow; edge e ^ 1 is the same one backwards */
} edge;

struct kin_cut {
    kin_context *context;
    int32_t nodes;
    edge *edges;
    int32_t edge_count, edge_capacity;
    int32_t *first; /* edge of each node */
    int32_t *level; /* distance from the source; -1: out of reach */
    int32_t *at;    /* edge to try next */
    int32_t *queue; /* nodes of a search; edges of a path */
};

kin_status kin_cut_create(kin_context *context, int32_t nodes, kin_cut **out_cut) {
    *out_cut = NULL;
    kin_cut *cut = kin_calloc(context, 1, sizeof *cut);
    if (!cut) return KIN_OUT_OF_MEMORY;
    cut->context = context;
    cut->nodes = nodes;
    size_t count = (size_t)nodes + 1;
    cut->first = kin_alloc(context, 4 * count * sizeof *cut->first);
    if (!cut->first) {
        kin_cut_free(cut);
        return KIN_OUT_OF_MEMORY;
    }
    cut->level = cut->first + count;
    cut->at = cut->level + count;
    cut->queue = cut->at + count;
    for (int32_t n = 0; n < nodes; n++) cut->first[n] = -1;
    *out_cut = cut;
    return KIN_OK;
}

void kin_cut_free(kin_cut *cut) {
    if (!cut) return;
    kin_free(cut->context, cut->edges);
    kin_free(cut->context, cut->first);
    kin_free(cut->context, cut);
}

static void add_half(kin_cut *cut, int32_t from, int32_t to, uint64_t room) {
    cut->edges[cut->edge_count] = (edge){to, cut->first[from], room};
    cut->first[from] = cut->edge_count++;
}

kin_status kin_cut_add(kin_cut *cut, int32_t from, int32_t to, uint64_t cost) {
    if (cut->edge_count + 2 > cut->edge_capacity) {
        int32_t wanted = cut->edge_capacity ? 2 * cut->edge_capacity : 256;
        edge *larger = kin_realloc(cut->context, cut->edges, (size_t)wanted * sizeof *cut->edges);
        if (!larger) return KIN_OUT_OF_MEMORY;
        cut->edges = larger;
        cut->edge_capacity = wanted;
    }
    add_half(cut, from, to, cost);
    add_half(cut, to, from, 0);
    return KIN_OK;
}

/* Distances from the source along edges with room; true if the sink is reached. */
static bool find_levels(kin_cut *cut, int32_t source, int32_t sink) {
    for (int32_t n = 0; n < cut->nodes; n++) cut->level[n] = -1;
    int32_t head = 0, tail = 0;
    cut->level[source] = 0;
    cut->queue[tail++] = source;
    while (head < tail) {
        int32_t node = cut->queue[head++];
        for (int32_t e = cut->first[node]; e >= 0; e = cut->edges[e].next) {
            int32_t to = cut->edges[e].to;
            if (!cut->edges[e].room || cut->level[to] >= 0) continue;
            cut->level[to] = cut->level[node] + 1;
            cut->queue[tail++] = to;
        }
    }
    return cut->level[sink] >= 0;
}

/* Fills all shortest paths: walks forward where there is room, and back where there is none. */
static void fill_paths(kin_cut *cut, int32_t source, int32_t sink) {
    int32_t *path = cut->queue, length = 0, node = source;
    memcpy(cut->at, cut->first, (size_t)cut->nodes * sizeof *cut->at);
    for (;;) {
        if (node == sink) {
            uint64_t flow = UINT64_MAX;
            for (int32_t i = 0; i < length; i++)
                if (cut->edges[path[i]].room < flow) flow = cut->edges[path[i]].room;
            int32_t full = 0;
            for (int32_t i = length - 1; i >= 0; i--) {
                cut->edges[path[i]].room -= flow;
                cut->edges[path[i] ^ 1].room += flow;
                if (!cut->edges[path[i]].room) full = i;
            }
            length = full;
            node = cut->edges[path[full] ^ 1].to;
            continue;
        }
        int32_t e = cut->at[node];
        while (e >= 0 &&
               (!cut->edges[e].room || cut->level[cut->edges[e].to] != cut->level[node] + 1))
            e = cut->edges[e].next;
        cut->at[node] = e;
        if (e >= 0) {
            path[length++] = e;
            node = cut->edges[e].to;
        } else if (length > 0) {
            cut->level[node] = -1;
            node = cut->edges[path[--length] ^ 1].to;
        } else {
            return;
        }
    }
}

void kin_cut_solve(kin_cut *cut, int32_t source, int32_t sink, bool *out_after) {
    while (find_levels(cut, source, sink)) fill_paths(cut, source, sink);
    /* what can still reach the sink: backwards along edges with room */
    memset(out_after, 0, (size_t)cut->nodes * sizeof *out_after);
    int32_t head = 0, tail = 0;
    out_after[sink] = true;
    cut->queue[tail++] = sink;
    while (head < tail) {
        int32_t node = cut->queue[head++];
        for (int32_t e = cut->first[node]; e >= 0; e = cut->edges[e].next) {
            int32_t from = cut->edges[e].to;
            if (!cut->edges[e ^ 1].room || out_after[from]) continue;
            out_after[from] = true;
            cut->queue[tail++] = from;
        }
    }
}
