/* Instructions of several lanes or warps: shuffles, votes, barriers, ldmatrix and mma, after the
 * PTX ISA. */
#include "backends/cuda/ptx/machine.h"

#include <string.h>

namespace ptx {

static const uint32_t *places_of(const warp &w, const instruction &i) {
    return &w.in->of->places[i.first];
}

/* The lanes that a mask names, which must be the same in all lanes that come and name them. */
static uint32_t mask_of(warp &w, const instruction &i, uint32_t lanes, uint32_t place) {
    const uint32_t *masks = w.get<uint32_t>(place), mask = masks[first_lane(lanes)];
    for_lanes(lane, lanes) {
        if ((masks[lane] >> lane & 1u) == 0)
            wrong(w, i, lane, "its mask 0x%08x lacks the lane itself", masks[lane]);
        if (masks[lane] != mask)
            wrong(w, i, lane, "its mask 0x%08x is not that of other lanes, 0x%08x", masks[lane],
                  mask);
    }
    return mask;
}

/* ---- shuffles and votes ---- */

enum shuffle { UP, DOWN, BUTTERFLY, INDEX };

/* d | p, a, b, c, mask: c has the last lane (low bits) and the mask of segments (bits 8 to 12). */
static uint32_t shuffle_step(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = places_of(w, i);
    lanes = gather(w, i, lanes, mask_of(w, i, lanes, place[5]));
    if (lanes == 0) return 0;
    uint32_t from[LANES], result[LANES], inside = 0;
    memcpy(from, w.get<uint32_t>(place[2]), sizeof from);
    for_lanes(lane, lanes) {
        const uint32_t b = w.get<uint32_t>(place[3])[lane] & 31,
                       c = w.get<uint32_t>(place[4])[lane];
        const uint32_t segment = c >> 8 & 31, clamp = c & 31;
        const uint32_t most = (lane & segment) | (clamp & ~segment), least = lane & segment;
        int32_t source = 0;
        bool is_inside = false;
        switch ((enum shuffle)i.variant) {
        case UP:
            source = (int32_t)lane - (int32_t)b, is_inside = source >= (int32_t)most;
            break;
        case DOWN:
            source = (int32_t)(lane + b), is_inside = source <= (int32_t)most;
            break;
        case BUTTERFLY:
            source = (int32_t)(lane ^ b), is_inside = source <= (int32_t)most;
            break;
        case INDEX:
            source = (int32_t)(least | (b & ~segment)), is_inside = source <= (int32_t)most;
            break;
        }
        if (!is_inside) source = (int32_t)lane;
        if ((lanes >> source & 1u) == 0)
            wrong(w, i, lane, "it takes a value from lane %d, which is not there", source);
        result[lane] = from[source];
        inside |= (uint32_t)is_inside << lane;
    }
    for_lanes(lane, lanes) w.get<uint32_t>(place[0])[lane] = result[lane];
    uint32_t *p = w.get<uint32_t>(place[1]);
    *p = (*p & ~lanes) | inside;
    return lanes;
}

enum vote { BALLOT, ANY, EVERY, UNIFORM };

static uint32_t vote_step(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = places_of(w, i);
    lanes = gather(w, i, lanes, mask_of(w, i, lanes, place[2]));
    if (lanes == 0) return 0;
    const uint32_t votes = *w.get<uint32_t>(place[1]) & lanes;
    if (i.variant == BALLOT) {
        for_lanes(lane, lanes) w.get<uint32_t>(place[0])[lane] = votes;
    } else {
        const bool yes = i.variant == ANY     ? votes != 0
                         : i.variant == EVERY ? votes == lanes
                                              : votes == 0 || votes == lanes;
        uint32_t *p = w.get<uint32_t>(place[0]);
        *p = yes ? *p | lanes : *p & ~lanes;
    }
    return lanes;
}

static uint32_t warp_barrier_step(warp &w, const instruction &i, uint32_t lanes) {
    lanes = gather(w, i, lanes, mask_of(w, i, lanes, places_of(w, i)[0]));
    if (lanes != 0) join_lanes(w, lanes);
    return lanes;
}

/* elect.sync d | p, mask: one lane, here the lowest one. */
static uint32_t elect_step(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = places_of(w, i);
    lanes = gather(w, i, lanes, mask_of(w, i, lanes, place[2]));
    if (lanes == 0) return 0;
    for_lanes(lane, lanes) w.get<uint32_t>(place[0])[lane] = first_lane(lanes);
    uint32_t *p = w.get<uint32_t>(place[1]);
    *p = (*p & ~lanes) | (lanes & (0 - lanes));
    return lanes;
}

/* ---- barriers of a block ---- */

static uint32_t same_in_all(warp &w, const instruction &i, uint32_t lanes, uint32_t place) {
    const uint32_t *values = w.get<uint32_t>(place), value = values[first_lane(lanes)];
    for_lanes(lane, lanes) if (values[lane] != value)
        wrong(w, i, lane, "lanes come with %u and %u", value, values[lane]);
    return value;
}

static uint32_t arrive(warp &w, const instruction &i, uint32_t lanes, bool waits) {
    block &b = *w.in;
    const uint32_t *place = places_of(w, i);
    const uint32_t id = same_in_all(w, i, lanes, place[0]);
    const uint32_t wanted = i.arguments > 1 ? same_in_all(w, i, lanes, place[1]) : b.threads;
    if (id >= NAMED_BARRIERS) wrong(w, i, first_lane(lanes), "there is no barrier %u", id);
    if (wanted == 0 || (i.arguments > 1 && wanted % LANES != 0))
        wrong(w, i, first_lane(lanes), "a barrier of %u threads", wanted);
    named_barrier &barrier = b.barriers[id];
    if (barrier.here == 0) barrier.wanted = wanted, barrier.known.clear();
    if (barrier.wanted != wanted)
        wrong(w, i, first_lane(lanes), "threads come to barrier %u with %u and with %u threads", id,
              barrier.wanted, wanted);
    barrier.here += (uint32_t)__builtin_popcount(lanes);
    if (barrier.here > wanted)
        wrong(w, i, first_lane(lanes), "more than %u threads come to barrier %u", wanted, id);
    release(w, lanes, barrier.known);
    if (barrier.here < wanted) {
        if (waits) w.at_barrier[id] |= lanes;
        return waits ? 0 : lanes;
    }
    barrier.here = 0;
    for (unsigned v = 0; v < b.warp_count; v++) {
        warp &other = b.warps[v];
        const uint32_t waiting = other.at_barrier[id];
        if (waiting == 0) continue;
        other.at_barrier[id] = 0;
        acquire(other, waiting, barrier.known);
        go_on(other, waiting);
    }
    if (waits) acquire(w, lanes, barrier.known);
    return lanes;
}

static uint32_t barrier_step(warp &w, const instruction &i, uint32_t lanes) {
    lanes = gather_warp(w, i, lanes);
    return lanes == 0 ? 0 : arrive(w, i, lanes, true);
}
static uint32_t barrier_arrive_step(warp &w, const instruction &i, uint32_t lanes) {
    lanes = gather_warp(w, i, lanes);
    return lanes == 0 ? 0 : arrive(w, i, lanes, false);
}
static uint32_t barrier_each_step(warp &w, const instruction &i, uint32_t lanes) {
    return arrive(w, i, lanes, true);
}

/* ---- matrices ---- */

/* Lane r gives the address of row r % 8 of matrix r / 8. A lane holds elements 2 (lane % 4) and the
 * next of row lane / 4, of each matrix; transposed: those of the column. */
static uint32_t ldmatrix_step(warp &w, const instruction &i, uint32_t lanes) {
    lanes = gather_warp(w, i, lanes);
    if (lanes == 0) return 0;
    const uint32_t *place = places_of(w, i);
    const unsigned count = i.written;
    const bool transposed = i.variant != 0;
    uint16_t rows[LANES][8];
    for (unsigned r = 0; r < 8 * count; r++) {
        memcpy(rows[r], to_read(w, i, r, SHARED, address_of(w, i, 0, count, r), 16), 16);
    }
    for (unsigned n = 0; n < count; n++)
        for (unsigned lane = 0; lane < LANES; lane++) {
            const unsigned row = lane / 4, column = lane % 4 * 2;
            uint32_t low = rows[8 * n + row][column], high = rows[8 * n + row][column + 1];
            if (transposed) low = rows[8 * n + column][row], high = rows[8 * n + column + 1][row];
            w.get<uint32_t>(place[n])[lane] = low | high << 16;
        }
    return lanes;
}

static float half_of(uint32_t pair, unsigned which, bool is_bf16) {
    const uint16_t bits = (uint16_t)(pair >> 16 * which);
    return is_bf16 ? bf16_value(bits) : f16_value(bits);
}

/* d, a, b, c of m16n8k16. Group g = lane / 4, place t = lane % 4: register r of A has row
 * g + 8 (r % 2), columns 2 t + 8 (r / 2) and the next; register r of B rows 2 t + 8 r and the next,
 * column g; register r of C row g + 8 (r / 2), column 2 t + r % 2. */
static uint32_t mma_step(warp &w, const instruction &i, uint32_t lanes) {
    lanes = gather_warp(w, i, lanes);
    if (lanes == 0) return 0;
    const uint32_t *place = places_of(w, i);
    const bool is_bf16 = i.variant != 0;
    static float a[16][16], b[8][16];
    for (unsigned lane = 0; lane < LANES; lane++) {
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned h = 0; h < 2; h++) {
            for (unsigned r = 0; r < 4; r++)
                a[g + 8 * (r % 2)][2 * t + 8 * (r / 2) + h] =
                    half_of(w.get<uint32_t>(place[4 + r])[lane], h, is_bf16);
            for (unsigned r = 0; r < 2; r++)
                b[g][2 * t + 8 * r + h] = half_of(w.get<uint32_t>(place[8 + r])[lane], h, is_bf16);
        }
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        float result[4];
        for (unsigned r = 0; r < 4; r++) {
            const float *row = a[lane / 4 + 8 * (r / 2)], *column = b[lane % 4 * 2 + r % 2];
            double sum = w.get<float>(place[10 + r])[lane];
            for (unsigned k = 0; k < 16; k++) sum += (double)row[k] * column[k];
            result[r] = (float)sum;
        }
        for (unsigned r = 0; r < 4; r++) w.get<float>(place[r])[lane] = result[r];
    }
    return lanes;
}

/* ---- by name ---- */

const char *find_collective(std::string_view name, instruction &i) {
    struct row {
        const char *name, *pattern;
        step_fn step;
        uint32_t variant;
    };
    static const row rows[] = {
        {"shfl.sync.up.b32", "w|=wwww", shuffle_step, UP},
        {"shfl.sync.down.b32", "w|=wwww", shuffle_step, DOWN},
        {"shfl.sync.bfly.b32", "w|=wwww", shuffle_step, BUTTERFLY},
        {"shfl.sync.idx.b32", "w|=wwww", shuffle_step, INDEX},
        {"vote.sync.ballot.b32", "w=pw", vote_step, BALLOT},
        {"vote.sync.any.pred", "p=pw", vote_step, ANY},
        {"vote.sync.all.pred", "p=pw", vote_step, EVERY},
        {"vote.sync.uni.pred", "p=pw", vote_step, UNIFORM},
        {"elect.sync", "w|=w", elect_step, 0},
        {"bar.warp.sync", "=w", warp_barrier_step, 0},
        {"bar.sync", "=w?w", barrier_step, 0},
        {"barrier.sync.aligned", "=w?w", barrier_step, 0},
        {"barrier.cta.sync.aligned", "=w?w", barrier_step, 0},
        {"barrier.sync", "=w?w", barrier_each_step, 0},
        {"bar.arrive", "=ww", barrier_arrive_step, 0},
        {"ldmatrix.sync.aligned.m8n8.x1.shared.b16", "V=A", ldmatrix_step, 0},
        {"ldmatrix.sync.aligned.m8n8.x2.shared.b16", "V=A", ldmatrix_step, 0},
        {"ldmatrix.sync.aligned.m8n8.x4.shared.b16", "V=A", ldmatrix_step, 0},
        {"ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16", "V=A", ldmatrix_step, 1},
        {"ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16", "V=A", ldmatrix_step, 1},
        {"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", "V=A", ldmatrix_step, 1},
        {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "V=VVV", mma_step, 1},
        {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "V=VVV", mma_step, 0},
    };
    for (const row &r : rows)
        if (name == r.name) {
            i.kind = STEP;
            i.step = r.step;
            i.variant = r.variant;
            return r.pattern;
        }
    return nullptr;
}

} // namespace ptx
