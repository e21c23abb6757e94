/* Running a block: which lanes run next, what waits, and what is said where nothing goes on. */
#include "backends/cuda/ptx/machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

namespace ptx {

void wrong(const warp &w, const instruction &i, unsigned lane, const char *format, ...) {
    char what[400];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    const block &b = *w.in;
    const unsigned *size = b.launch->block, thread = thread_of(w, lane);
    fail("line %u, %s, thread (%u, %u, %u) of block (%u, %u, %u): %s", i.line,
         std::string(i.name).c_str(), thread % size[0], thread / size[0] % size[1],
         thread / size[0] / size[1], b.place[0], b.place[1], b.place[2], what);
}

/* ---- collective instructions ---- */

void go_on(warp &w, uint32_t lanes) {
    for_lanes(lane, lanes) w.pc[lane]++;
    w.blocked &= ~lanes;
}

uint32_t gather(warp &w, const instruction &i, uint32_t lanes, uint32_t wanted) {
    wanted &= w.live;
    if (wanted == lanes) return lanes;
    const uint32_t pc = (uint32_t)(&i - w.in->of->code.data());
    for (size_t g = 0; g < w.gatherings.size(); g++) {
        gathering &one = w.gatherings[g];
        if (one.pc != pc || one.wanted != wanted) continue;
        one.here |= lanes;
        if (one.here != wanted) return 0;
        w.gatherings.erase(w.gatherings.begin() + (ptrdiff_t)g);
        return wanted;
    }
    w.gatherings.push_back({pc, wanted, lanes});
    return 0;
}

static uint32_t lanes_of(const warp &w) {
    const unsigned count = w.in->threads - w.index * LANES;
    return count >= LANES ? ALL : (1u << count) - 1;
}

uint32_t gather_warp(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t all = lanes_of(w);
    if (w.live != all)
        wrong(w, i, first_lane(lanes),
              "an instruction of the whole warp, of which lanes 0x%08x "
              "have ended",
              all & ~w.live);
    return gather(w, i, lanes, all);
}

/* Lanes that waited for one that has ended look again. */
static void end_lanes(warp &w, uint32_t lanes) {
    for (uint32_t lane = 0; lane < LANES; lane++)
        if ((lanes >> lane & 1u) != 0 && w.copies[lane].copies.size() > 0)
            w.copies[lane] = copy_queue();
    w.live &= ~lanes;
    for (size_t g = 0; g < w.gatherings.size();) {
        if ((w.gatherings[g].wanted & lanes) != 0) {
            w.blocked &= ~w.gatherings[g].here;
            w.gatherings.erase(w.gatherings.begin() + (ptrdiff_t)g);
        } else {
            g++;
        }
    }
}

/* ---- a warp ---- */

/* The lanes that stand furthest back, and where the next ones stand. */
static uint32_t furthest_back(const warp &w, uint32_t ready, uint32_t *out_pc, uint32_t *out_next) {
    uint32_t lanes = 0, pc = NONE, next = NONE;
    for_lanes(lane, ready) {
        const uint32_t at = w.pc[lane];
        if (at < pc) next = pc, pc = at, lanes = 0;
        else if (at > pc && at < next) next = at;
        if (at == pc) lanes |= 1u << lane;
    }
    *out_pc = pc, *out_next = next;
    return lanes;
}

static void stand(warp &w, uint32_t lanes, uint32_t pc) {
    for_lanes(lane, lanes) w.pc[lane] = pc;
}

/* Runs lanes that stand together until they part, wait, end, or meet others. */
static void run_lanes(warp &w, uint32_t lanes, uint32_t pc, uint32_t next) {
    const instruction *code = w.in->of->code.data();
    while (pc < next) {
        const instruction &i = code[pc];
        uint32_t active = lanes;
        if (i.guard != NONE) {
            const uint32_t guard = *w.get<uint32_t>(i.guard);
            active &= i.negated ? ~guard : guard;
        }
        if (active == 0) {
            pc++;
            continue;
        }
        switch (i.kind) {
        case PLAIN:
            if (i.watched) watch(w, i);
            i.plain(w, i, active);
            pc++;
            break;
        case BRANCH:
            if (active != lanes) {
                stand(w, lanes & ~active, pc + 1);
                stand(w, active, i.target);
                return;
            }
            pc = i.target;
            break;
        case EXIT:
            stand(w, lanes, pc + 1);
            end_lanes(w, active);
            return;
        case STEP: {
            if (i.watched) watch(w, i);
            stand(w, lanes & ~active, pc + 1);
            stand(w, active, pc);
            const uint32_t done = i.step(w, i, active);
            w.blocked = (w.blocked | active) & ~done;
            stand(w, done, pc + 1);
            if (done != lanes) return;
            pc++;
            break;
        }
        }
    }
    stand(w, lanes, pc);
}

/* True if a lane could run. */
static bool run_warp(warp &w) {
    bool did = false;
    for (uint32_t ready; (ready = w.live & ~w.blocked) != 0; did = true) {
        uint32_t pc, next;
        const uint32_t lanes = furthest_back(w, ready, &pc, &next);
        run_lanes(w, lanes, pc, next);
    }
    return did;
}

/* ---- a block ---- */

[[noreturn]] static void say_stuck(const block &b) {
    std::string text = "threads wait for others that never come:";
    int told = 0;
    for (unsigned v = 0; v < b.warp_count; v++) {
        const warp &w = b.warps[v];
        for (uint32_t rest = w.live; rest != 0 && told < 6; told++) {
            const uint32_t pc = w.pc[first_lane(rest)];
            uint32_t here = 0;
            for_lanes(lane, rest) if (w.pc[lane] == pc) here |= 1u << lane;
            const instruction &i = b.of->code[pc];
            char part[160];
            snprintf(part, sizeof part, "%s warp %u, lanes 0x%08x at line %u (%s)",
                     told > 0 ? ";" : "", v, here, i.line, std::string(i.name).c_str());
            text += part;
            rest &= ~here;
        }
        if (w.live != lanes_of(w) && w.live != 0) {
            char part[64];
            snprintf(part, sizeof part, " (lanes 0x%08x have ended)", lanes_of(w) & ~w.live);
            text += part;
        }
    }
    fail("block (%u, %u, %u): %s", b.place[0], b.place[1], b.place[2], text.c_str());
}

static void set_order(const block &b, unsigned (&order)[WARPS]) {
    const unsigned count = b.warp_count;
    for (unsigned v = 0; v < count; v++) order[v] = b.launch->order == 1 ? count - 1 - v : v;
    uint32_t random = 2463534242u + b.number;
    for (unsigned v = count; b.launch->order == 2 && v > 1; v--) {
        random ^= random << 13, random ^= random >> 17, random ^= random << 5;
        std::swap(order[v - 1], order[random % v]);
    }
}

static void set_special(warp &w, const kernel &k, enum special s, unsigned lane, uint32_t value) {
    if (k.specials[s] != NONE) w.get<uint32_t>(k.specials[s])[lane] = value;
}

/* What differs from block to block. */
static void set_place(block &b) {
    for (unsigned v = 0; v < b.warp_count; v++)
        for (unsigned lane = 0; lane < LANES; lane++)
            for (int a = 0; a < 3; a++)
                set_special(b.warps[v], *b.of, (enum special)(CTAID_X + a), lane, b.place[a]);
}

static void set_registers(block &b) {
    const kernel &k = *b.of;
    const unsigned *size = b.launch->block, *grid = b.launch->grid;
    for (unsigned v = 0; v < b.warp_count; v++) {
        warp &w = b.warps[v];
        w.registers = b.registers.data() + (size_t)v * k.register_bytes;
        for (const constant &c : k.constants)
            for (unsigned lane = 0; lane < LANES; lane++) {
                if (c.size == 0) *w.get<uint32_t>(c.place) = c.value != 0 ? ALL : 0;
                else memcpy(w.registers + c.place + lane * c.size, &c.value, c.size);
            }
        for (unsigned lane = 0; lane < LANES; lane++) {
            const unsigned t = v * LANES + lane;
            const uint32_t bit = 1u << lane;
            const uint32_t values[] = {
                t % size[0], t / size[0] % size[1], t / size[0] / size[1], size[0], size[1],
                size[2]};
            for (int s = 0; s < 6; s++)
                set_special(w, k, (enum special)(TID_X + s), lane, values[s]);
            for (int a = 0; a < 3; a++)
                set_special(w, k, (enum special)(NCTAID_X + a), lane, grid[a]);
            set_special(w, k, LANEID, lane, lane);
            set_special(w, k, WARPID, lane, v);
            set_special(w, k, LANEMASK_EQ, lane, bit);
            set_special(w, k, LANEMASK_LT, lane, bit - 1);
            set_special(w, k, LANEMASK_LE, lane, bit | (bit - 1));
            set_special(w, k, LANEMASK_GT, lane, ~(bit | (bit - 1)));
            set_special(w, k, LANEMASK_GE, lane, ~(bit - 1));
        }
    }
}

static void begin_block(block &b) {
    begin_block_order(b);
    for (named_barrier &one : b.barriers) one.here = one.wanted = 0;
    b.mbarriers.clear();
    b.bulk.clear();
    for (unsigned v = 0; v < b.warp_count; v++) {
        warp &w = b.warps[v];
        w.live = lanes_of(w);
        w.blocked = w.at_mbarrier = 0;
        memset(w.pc, 0, sizeof w.pc);
        memset(w.at_barrier, 0, sizeof w.at_barrier);
        w.gatherings.clear();
        begin_wgmma(w);
    }
    set_place(b);
}

/* Copies of the engine arrive only when nothing else can happen: as late as may be. */
static void run_block(block &b) {
    unsigned order[WARPS];
    set_order(b, order);
    begin_block(b);
    for (;;) {
        bool did = false, lives = false;
        for (unsigned v = 0; v < b.warp_count; v++) did |= run_warp(b.warps[order[v]]);
        for (unsigned v = 0; v < b.warp_count; v++) lives |= b.warps[v].live != 0;
        if (!lives) break;
        if (!did && !finish_bulk_copy(b)) say_stuck(b);
    }
    end_wgmma(b);
    if (!b.bulk.empty())
        fail("block (%u, %u, %u): it ends while the copy engine still writes to its shared memory",
             b.place[0], b.place[1], b.place[2]);
}

static void check_launch(const kernel &k, const kin_ptx_launch &launch) {
    const unsigned *size = launch.block;
    const unsigned threads = size[0] * size[1] * size[2];
    if (threads == 0 || threads > 1024) fail("%u threads in a block", threads);
    unsigned most = k.most_threads.empty() ? 1024 : 1;
    for (uint32_t along : k.most_threads) most *= along;
    if (threads > most) fail("%u threads in a block of a kernel for %u", threads, most);
    if (launch.argument_count != k.parameters.size())
        fail("%u arguments for %zu parameters", launch.argument_count, k.parameters.size());
}

void run_grid(const kernel &k, const kin_ptx_launch &launch) {
    check_launch(k, launch);
    auto b = std::make_unique<block>();
    b->of = &k;
    b->launch = &launch;
    b->threads = launch.block[0] * launch.block[1] * launch.block[2];
    b->warp_count = (b->threads + LANES - 1) / LANES;
    b->registers.resize((size_t)b->warp_count * k.register_bytes);
    b->parameters.resize(k.parameter_bytes + 16);
    for (size_t p = 0; p < k.parameters.size(); p++)
        memcpy(b->parameters.data() + k.parameters[p].offset, launch.arguments[p],
               k.parameters[p].size);
    b->shared_end = SHARED_START + k.shared_bytes + (uint32_t)launch.shared;
    b->shared.resize(b->shared_end - SHARED_START + 16);
    b->local.resize((size_t)b->threads * k.local_bytes);
    for (unsigned v = 0; v < b->warp_count; v++) b->warps[v].in = b.get(), b->warps[v].index = v;
    set_registers(*b);
    begin_order(*b);
    for (unsigned z = 0; z < launch.grid[2]; z++)
        for (unsigned y = 0; y < launch.grid[1]; y++)
            for (unsigned x = 0; x < launch.grid[0]; x++) {
                b->place[0] = x, b->place[1] = y, b->place[2] = z;
                run_block(*b);
                b->number++;
            }
}

} // namespace ptx
