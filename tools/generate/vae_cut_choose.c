/* Into how many pieces each node is cut. */
#include "tools/generate/vae_cut.h"

#include "runtime/arena.h"

/* No larger parts of nodes are gathered for a piece even if there is memory: a piece's tensors then
 * stay near the processor. */
enum { PIECE_BYTES = 16 << 20, FEW_PIECES = 8, ALIGNMENT = 64 };

/* ---- pieces --------------------------------------------------------------------------------- */

/* Rows begin at multiples of four where there are enough, as convolutions like it. */
static int64_t boundary(int64_t size, int64_t pieces, int64_t index, bool rows) {
    int64_t step = rows && size % 4 == 0 && size / pieces >= 8 ? 4 : 1;
    return index * (size / step) / pieces * step;
}

kin_status kin_cut_make_piece(const kin_vae_cutter *cutter, int node, const int64_t pieces[2],
                              const int64_t index[2], cut_piece *out_piece) {
    const cut_node *n = &cutter->nodes.at[node];
    const int64_t size[2] = {n->frames, n->rows};
    cut_region region;
    for (int a = 0; a < 2; a++) {
        region.axis[a].from = boundary(size[a], pieces[a], index[a], a == 1);
        region.axis[a].to = boundary(size[a], pieces[a], index[a] + 1, a == 1);
    }
    if (kin_cut_piece_make(&cutter->nodes, node, region, out_piece)) return KIN_OK;
    return kin_fail(cutter->context, KIN_UNSUPPORTED,
                    "autoencoder: too many layers between two norms to code it in pieces");
}

/* Bytes of a region of a node as it lies in host memory. */
static uint64_t region_bytes(const cut_nodes *nodes, int node, const cut_region *region) {
    const cut_node *n = &nodes->at[node];
    uint64_t count = (uint64_t)(n->channels * n->columns);
    for (int a = 0; a < 2; a++) count *= (uint64_t)(region->axis[a].to - region->axis[a].from);
    return count * kin_dtype_size(kin_cut_dtype(nodes, node));
}

static uint64_t node_bytes(const cut_nodes *nodes, int node) {
    const cut_node *n = &nodes->at[node];
    return region_bytes(nodes, node, &(cut_region){{{0, n->frames}, {0, n->rows}}});
}

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Host memory in which parts of nodes are gathered for a piece. */
static uint64_t staging_bytes(const kin_vae_cutter *cutter, const cut_piece *piece) {
    const cut_step *end = &piece->steps[piece->step_count - 1];
    uint64_t most = region_bytes(&cutter->nodes, end->node, &end->region);
    for (int i = 0; i < piece->source_count; i++) {
        const cut_source *s = &piece->sources[i];
        most = larger(most, region_bytes(&cutter->nodes, s->node, &s->region));
    }
    return most;
}

kin_status kin_cut_plan_piece(const kin_vae_cutter *cutter, const cut_piece *piece,
                              kin_plan **out_plan) {
    kin_graph *graph = NULL;
    *out_plan = NULL;
    kin_status status = kin_graph_create(cutter->context, &graph);
    if (status != KIN_OK) return status;
    kin_cut_piece_graph(graph, &cutter->nodes, piece);
    status = kin_plan_build(graph, cutter->device, NULL, out_plan);
    kin_graph_destroy(graph);
    return status;
}

/* Raises *needs to those of a piece. */
static kin_status add_needs(const kin_vae_cutter *cutter, const cut_piece *piece,
                            cut_needs *needs) {
    kin_plan *plan;
    kin_status status = kin_cut_plan_piece(cutter, piece, &plan);
    if (status != KIN_OK) return status;
    const kin_plan_summary *s = kin_plan_summarize(plan);
    needs->inputs = larger(needs->inputs, s->inputs + s->constants);
    needs->arena = larger(needs->arena, larger(s->arena, ALIGNMENT));
    needs->staging = larger(needs->staging, staging_bytes(cutter, piece));
    kin_plan_free(plan);
    return KIN_OK;
}

/* What counts of it. */
static uint64_t sum_of(const kin_vae_cutter *cutter, const cut_needs *needs) {
    return needs->inputs + needs->arena + (cutter->host_counts ? needs->staging : 0);
}

kin_status kin_cut_list_kinds(const kin_vae_cutter *cutter, int node, const int64_t pieces[2],
                              cut_piece **out_kinds, int *out_count) {
    cut_piece *kinds = NULL, piece;
    int count = 0, capacity = 0;
    kin_status status = KIN_OK;
    for (int64_t i = 0; status == KIN_OK && i < pieces[0] * pieces[1]; i++) {
        int64_t index[2] = {i / pieces[1], i % pieces[1]};
        int k = 0;
        status = kin_cut_make_piece(cutter, node, pieces, index, &piece);
        if (status != KIN_OK) break;
        while (k < count && !kin_cut_piece_same(&kinds[k], &piece)) k++;
        if (k < count) continue;
        if (count == capacity) {
            capacity += 16;
            cut_piece *grown =
                kin_realloc(cutter->context, kinds, (size_t)capacity * sizeof *kinds);
            if (!grown) status = KIN_OUT_OF_MEMORY;
            else kinds = grown;
        }
        if (status == KIN_OK) kinds[count++] = piece;
    }
    if (status != KIN_OK) {
        kin_free(cutter->context, kinds);
        kinds = NULL;
    }
    *out_kinds = kinds;
    *out_count = count;
    return status;
}

/* Raises *needs to those of all pieces. */
static kin_status add_all_needs(const kin_vae_cutter *cutter, const cut_pass *pass,
                                cut_needs *needs) {
    cut_piece *kinds;
    int count;
    kin_status status = kin_cut_list_kinds(cutter, pass->node, pass->pieces, &kinds, &count);
    for (int k = 0; status == KIN_OK && k < count; k++)
        status = add_needs(cutter, &kinds[k], needs);
    kin_free(cutter->context, kinds);
    return status;
}

/* ---- how many ------------------------------------------------------------------------------- */

/* True if a frame of the node needs more than one frame of what is stored. */
static kin_status sees_frames(const kin_vae_cutter *cutter, int node, bool *out_sees) {
    const cut_node *n = &cutter->nodes.at[node];
    cut_piece piece;
    *out_sees = false;
    kin_status status = kin_cut_make_piece(cutter, node, (int64_t[]){n->frames, 1},
                                           (int64_t[]){n->frames / 2, 0}, &piece);
    for (int i = 0; status == KIN_OK && i < piece.source_count; i++)
        if (piece.sources[i].region.axis[0].to - piece.sources[i].region.axis[0].from > 1)
            *out_sees = true;
    return status;
}

/* At least `count` pieces, if there can be so many: first along the axis that costs no halo, then
 * bands of rows (of eight at the least), then stretches of time. */
static void split(const cut_node *n, int64_t count, bool sees, int64_t out_pieces[2]) {
    int64_t frames = n->frames, rows = n->rows, bands = rows / 8 > 1 ? rows / 8 : 1;
    int64_t y = count < bands ? count : bands, t;
    if (!sees) y = (count + frames - 1) / frames;
    if (y > rows) y = rows;
    t = (count + y - 1) / y;
    if (t > frames) t = frames;
    if (t * y < count) y = (count + t - 1) / t;
    out_pieces[0] = t;
    out_pieces[1] = y < rows ? y : rows;
}

/* The fewest pieces that do with `available` bytes, and that are small enough. *out_needs is what
 * they take, which is more than `available` if there are no smaller ones. */
static kin_status choose_pieces(const kin_vae_cutter *cutter, cut_pass *pass, uint64_t available,
                                cut_needs *out_needs) {
    const cut_node *n = &cutter->nodes.at[pass->node];
    int64_t count, most = n->frames * n->rows, *p = pass->pieces;
    cut_piece piece;
    bool sees;
    kin_status status = sees_frames(cutter, pass->node, &sees);
    if (status == KIN_OK)
        status =
            kin_cut_make_piece(cutter, pass->node, (int64_t[]){1, 1}, (int64_t[]){0, 0}, &piece);
    if (status != KIN_OK) return status;
    count = 1 + (int64_t)((staging_bytes(cutter, &piece) - 1) / PIECE_BYTES);
    for (;;) {
        *out_needs = (cut_needs){0};
        split(n, count, sees, p);
        status = kin_cut_make_piece(cutter, pass->node, p, (int64_t[]){p[0] / 2, p[1] / 2}, &piece);
        if (status == KIN_OK) status = add_needs(cutter, &piece, out_needs);
        if (status == KIN_OK && sum_of(cutter, out_needs) <= available)
            status = add_all_needs(cutter, pass, out_needs);
        uint64_t bytes = sum_of(cutter, out_needs);
        if (status != KIN_OK || bytes <= available || p[0] * p[1] == most) return status;
        double wanted = (double)count * (double)bytes / ((double)available + 1);
        count = p[0] * p[1] + 1;
        if (wanted > (double)count) count = wanted < (double)most ? (int64_t)wanted : most;
    }
}

/* Which pass reads a stored node last. */
static kin_status find_readers(kin_vae_cutter *cutter) {
    kin_status status = KIN_OK;
    for (int i = 0; i < cutter->nodes.count; i++) cutter->contents[i].last_reader = -1;
    for (int p = 0; status == KIN_OK && p < cutter->pass_count; p++) {
        cut_piece piece;
        status = kin_cut_make_piece(cutter, cutter->passes[p].node, (int64_t[]){1, 1},
                                    (int64_t[]){0, 0}, &piece);
        for (int i = 0; status == KIN_OK && i < piece.source_count; i++)
            cutter->contents[piece.sources[i].node].last_reader = p;
    }
    return status;
}

/* The residual that a pass adds its result to, if nothing else needs it any more; or -1. */
static int replaced_by(const kin_vae_cutter *cutter, int p) {
    int node = cutter->passes[p].node, x = cutter->nodes.at[node].in[0];
    const cut_node *n = &cutter->nodes.at[node];
    cut_piece piece;
    if ((n->kind != CUT_ADD && n->kind != CUT_ADD_MIXED) || !cutter->nodes.at[x].stored || x == 0 ||
        node == cutter->nodes.count - 1 || cutter->contents[x].last_reader != p)
        return -1;
    cut_region all = {{{0, n->frames}, {0, n->rows}}};
    if (!kin_cut_piece_make(&cutter->nodes, node, all, &piece)) return -1;
    for (int i = 0; i < piece.source_count; i++)
        if (piece.sources[i].node == x && piece.sources[i].readers > 1) return -1;
    return x;
}

/* Places the stored nodes in host memory; input and result are the caller's. */
static kin_status place_nodes(kin_vae_cutter *cutter) {
    int count = 0, end = cutter->nodes.count - 1;
    uint64_t lower_bound;
    int32_t peak_pass;
    kin_storage *storages =
        kin_calloc(cutter->context, (size_t)cutter->pass_count, sizeof *storages);
    int *storage_of = kin_calloc(cutter->context, (size_t)end + 1, sizeof *storage_of);
    kin_status status = storages && storage_of ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (int p = 0; status == KIN_OK && p < cutter->pass_count; p++) {
        int node = cutter->passes[p].node, old = replaced_by(cutter, p);
        int last = cutter->contents[node].last_reader;
        if (!cutter->nodes.at[node].stored || node == end) continue;
        if (old < 0) {
            storages[count] = (kin_storage){.size = node_bytes(&cutter->nodes, node), .first = p};
            storage_of[node] = count++;
        } else {
            storage_of[node] = storage_of[old];
        }
        storages[storage_of[node]].last = last < p ? p : last;
    }
    if (status == KIN_OK)
        status = kin_arena_place(cutter->context, storages, count, cutter->pass_count, ALIGNMENT, 0,
                                 &cutter->kept, &lower_bound, &peak_pass);
    for (int p = 0; status == KIN_OK && p < cutter->pass_count; p++) {
        int node = cutter->passes[p].node;
        if (cutter->nodes.at[node].stored && node != end)
            cutter->contents[node].offset = storages[storage_of[node]].offset;
    }
    kin_free(cutter->context, storages);
    kin_free(cutter->context, storage_of);
    return status;
}

/* Passes for the nodes that are marked as stored and counted. *out_fits: whether the memory
 * suffices; if not, the last pass that was looked at is the one that needs more. */
static kin_status choose(kin_vae_cutter *cutter, bool *out_fits) {
    cutter->pass_count = 0;
    for (int i = 1; i < cutter->nodes.count; i++)
        if (cutter->nodes.at[i].stored || cutter->nodes.at[i].counted)
            cutter->passes[cutter->pass_count++] = (cut_pass){.node = i};
    kin_status status = find_readers(cutter);
    if (status == KIN_OK) status = place_nodes(cutter);
    uint64_t fixed = cutter->weights + (cutter->host_counts ? cutter->kept : 0), most = 0;
    uint64_t available = cutter->memory > fixed ? cutter->memory - fixed : 0;
    cutter->runs = 0;
    cutter->needs = (cut_needs){0};
    for (int p = 0; status == KIN_OK && most <= available && p < cutter->pass_count; p++) {
        cut_pass *pass = &cutter->passes[p];
        cut_needs needs, *all = &cutter->needs;
        status = choose_pieces(cutter, pass, available, &needs);
        all->inputs = larger(all->inputs, needs.inputs);
        all->arena = larger(all->arena, needs.arena);
        all->staging = larger(all->staging, needs.staging);
        most = larger(most, sum_of(cutter, &needs));
        pass->staging = needs.staging;
        cutter->runs += pass->pieces[0] * pass->pieces[1];
    }
    *out_fits = most <= available;
    /* The largest arena and the largest inputs may be those of different passes. */
    cutter->tight = sum_of(cutter, &cutter->needs) > available;
    cutter->peak = fixed + (cutter->tight ? most : sum_of(cutter, &cutter->needs));
    return status;
}

/* Large nodes that one convolution makes of small ones are stored, or made again where they are
 * wanted. False if there are none. */
static bool store_costly(kin_vae_cutter *cutter, bool stored) {
    bool any = false;
    for (int i = 0; i + 1 < cutter->nodes.count; i++) {
        cut_node *n = &cutter->nodes.at[i];
        if (!n->costly || !n->counted) continue;
        n->stored = stored;
        any = true;
    }
    return any;
}

/* What is kept on the host leaves less for pieces, if it takes of the same memory: storing less is
 * better than pieces that are a quarter as large. */
static kin_status choose_best(kin_vae_cutter *cutter, bool *out_fits) {
    kin_status status = choose(cutter, out_fits);
    int64_t runs = cutter->runs;
    bool whole = *out_fits && runs <= FEW_PIECES * cutter->pass_count;
    if (status != KIN_OK || whole || !cutter->host_counts || !store_costly(cutter, false))
        return status;
    bool fitted = *out_fits;
    status = choose(cutter, out_fits);
    if (status != KIN_OK || !fitted || (*out_fits && 4 * cutter->runs < runs)) return status;
    store_costly(cutter, true);
    return choose(cutter, out_fits);
}

static kin_status refuse(const kin_vae_cutter *cutter, bool encode) {
    const double mib = 1048576;
    const cut_node *input = &cutter->nodes.at[0];
    return kin_fail(
        cutter->context, KIN_OUT_OF_MEMORY,
        "%s %lld frames of %lldx%lld%s takes %.1f MiB even in the smallest pieces (%.1f "
        "of them weights), but %.1f MiB are allowed",
        encode ? "encoding" : "decoding", (long long)input->frames, (long long)input->rows,
        (long long)input->columns, encode ? "" : " (of latents)", (double)cutter->peak / mib,
        (double)cutter->weights / mib, (double)cutter->memory / mib);
}

kin_status kin_vae_cutter_make(kin_device *device, const kin_vae_config *config,
                               const kin_precision *precision, bool encode, int64_t frames,
                               int64_t rows, int64_t columns, uint64_t memory, uint64_t weights,
                               kin_vae_cutter **out_cutter) {
    kin_context *context = device->context;
    bool fits = false;
    *out_cutter = NULL;
    kin_vae_cutter *cutter = kin_calloc(context, 1, sizeof *cutter);
    if (!cutter) return KIN_OUT_OF_MEMORY;
    cutter->context = context;
    cutter->device = device;
    cutter->memory = memory;
    cutter->weights = weights;
    cutter->host_counts = device->backend->address != NULL;
    kin_status status = kin_cut_nodes_make(context, config, precision, encode, frames, rows,
                                           columns, &cutter->nodes);
    if (status == KIN_OK) {
        size_t count = (size_t)cutter->nodes.count;
        cutter->contents = kin_calloc(context, count, sizeof *cutter->contents);
        cutter->passes = kin_calloc(context, count, sizeof *cutter->passes);
        if (!cutter->contents || !cutter->passes) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK) status = choose_best(cutter, &fits);
    if (status == KIN_OK && !fits) status = refuse(cutter, encode);
    if (status == KIN_OK) *out_cutter = cutter;
    else kin_vae_cutter_free(cutter);
    return status;
}

void kin_vae_cutter_free(kin_vae_cutter *cutter) {
    if (!cutter) return;
    kin_vae_cutter_rest(cutter);
    kin_free(cutter->context, cutter->contents);
    kin_free(cutter->context, cutter->passes);
    kin_free(cutter->context, cutter->nodes.at);
    kin_free(cutter->context, cutter);
}
