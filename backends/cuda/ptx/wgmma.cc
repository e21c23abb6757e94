/* wgmma, after the PTX ISA ("Asynchronous warpgroup level matrix instructions"). Work that is
 * issued reads its operands and gives its result when it is waited for; until then nobody may touch
 * its registers. Each warp makes the 16 rows of the result that are its own. */
#include "backends/cuda/ptx/machine.h"

#include <string.h>

namespace ptx {

/* Of a register: it is part of work under way; it was written, or touched at all, since the last
 * wgmma.fence. */
enum : uint8_t { UNDER_WAY = 1, WRITTEN = 2, TOUCHED = 4 };

struct shape {
    unsigned n, result, left; /* registers of the result, of A (0: in shared memory) */
    bool is_bf16, transposes_a, transposes_b;
};

static shape shape_of(const instruction &i) {
    shape s = {};
    s.n = i.variant & 0xffff;
    s.result = i.written;
    s.left = i.arguments - i.written == 6 ? 4 : 0;
    s.is_bf16 = i.variant >> 16 != 0;
    s.transposes_a = s.left == 0 && i.number[2] != 0;
    s.transposes_b = i.number[i.numbers - 1] != 0;
    return s;
}

/* ---- registers ---- */

void begin_wgmma(warp &w) {
    w.wgmma.clear();
    w.wgmma_groups = 0;
    w.wgmma_trace = 0;
    w.wgmma_state.assign(w.in->of->is_wgmma_register.size(), WRITTEN | TOUCHED);
}

void watch(warp &w, const instruction &i) {
    for (uint32_t a = 0; a < i.arguments; a++) {
        const uint32_t place = w.in->of->places[i.first + a] / 64;
        if (!w.in->of->is_wgmma_register[place]) continue;
        if ((w.wgmma_state[place] & UNDER_WAY) != 0)
            wrong(w, i, first_lane(w.live),
                  "it touches a register of a wgmma that was not waited for");
        w.wgmma_state[place] |= a < i.written ? WRITTEN | TOUCHED : TOUCHED;
    }
}

static void mark_registers(warp &w, const instruction &i) {
    const shape s = shape_of(i);
    for (unsigned a = 0; a < s.result + s.left; a++)
        w.wgmma_state[w.in->of->places[i.first + a] / 64] |= UNDER_WAY;
}

static void check_registers(warp &w, const instruction &i) {
    const shape s = shape_of(i);
    for (unsigned a = 0; a < s.result + s.left; a++) {
        const uint8_t state = w.wgmma_state[w.in->of->places[i.first + a] / 64];
        if ((state & (a < s.result ? TOUCHED : WRITTEN)) != 0)
            wrong(w, i, first_lane(w.live),
                  "a register of its %s was touched without a "
                  "wgmma.fence behind that",
                  a < s.result ? "result" : "operand A");
    }
}

static uint32_t fence_step(warp &w, const instruction &i, uint32_t lanes) {
    lanes = gather_warp(w, i, lanes);
    if (lanes == 0) return 0;
    for (uint8_t &state : w.wgmma_state) state &= UNDER_WAY;
    return lanes;
}

/* ---- operands in shared memory ---- */

struct panel { /* a description, taken apart */
    uint32_t start, leading, stride, row_bytes;
};

static panel panel_of(const warp &w, const instruction &i, uint64_t description) {
    static const uint32_t rows[] = {16, 128, 64, 32}; /* 16: not swizzled */
    if ((description >> 49 & 7) != 0)
        wrong(w, i, first_lane(w.live), "a description with a base offset");
    return {(uint32_t)(description & 0x3fff) << 4, (uint32_t)(description >> 16 & 0x3fff) << 4,
            (uint32_t)(description >> 32 & 0x3fff) << 4, rows[description >> 62]};
}

/* Where 8 elements (16 bytes) of an operand lie. Along k: element (mn, k) of 8 values of k; along
 * mn: of 8 values of mn. In the first case rows of `row_bytes` hold a k, 8 rows make a group and
 * `stride` leads to the next; without swizzle `leading` leads to the next 8 values of k. In the
 * second, rows hold `row_bytes` of mn, `leading` leads to the mn behind them, 8 rows of k make a
 * group and `stride` leads to the next; without swizzle `stride` leads along mn and `leading`
 * along k. */
static uint32_t piece_at(const panel &p, bool along_mn, unsigned mn, unsigned k) {
    uint32_t at;
    if (!along_mn && p.row_bytes > 16) at = mn % 8 * p.row_bytes + mn / 8 * p.stride + k * 2;
    else if (!along_mn) at = mn % 8 * 16 + mn / 8 * p.stride + k / 8 * p.leading;
    else if (p.row_bytes > 16)
        at = mn * 2 % p.row_bytes + mn * 2 / p.row_bytes * p.leading + k % 8 * p.row_bytes +
             k / 8 * p.stride;
    else at = mn / 8 * p.stride + k % 8 * 16 + k / 8 * p.leading;
    at += p.start;
    return at ^ ((at >> 7 & (p.row_bytes / 16 - 1)) << 4);
}

/* Calls body(address, mn, k) for the pieces of rows first .. first + count of an operand. */
template <typename F>
static void for_pieces(const panel &p, bool along_mn, unsigned first, unsigned count, F &&body) {
    const unsigned mn_step = along_mn ? 8 : 1, k_step = along_mn ? 1 : 8;
    for (unsigned mn = first; mn < first + count; mn += mn_step)
        for (unsigned k = 0; k < 16; k += k_step) body(piece_at(p, along_mn, mn, k), mn - first, k);
}

static void note_operand(warp &w, const instruction &i, uint64_t description, bool along_mn,
                         unsigned first, unsigned count, const clocks &known) {
    for_pieces(panel_of(w, i, description), along_mn, first, count,
               [&](uint32_t at, unsigned, unsigned) {
                   check_shared(w, i, first_lane(w.live), at, 16, 16);
                   note_async_read(w, i, at, 16, known);
               });
}

/* Into values[mn][k]. */
static void read_operand(const warp &w, const instruction &i, uint64_t description, bool along_mn,
                         unsigned first, unsigned count, bool is_bf16, float (*values)[16]) {
    for_pieces(panel_of(w, i, description), along_mn, first, count,
               [&](uint32_t at, unsigned mn, unsigned k) {
                   uint16_t piece[8];
                   memcpy(piece, w.in->shared.data() + (at - SHARED_START), sizeof piece);
                   for (unsigned e = 0; e < 8; e++) {
                       const float value = is_bf16 ? bf16_value(piece[e]) : f16_value(piece[e]);
                       values[mn + (along_mn ? e : 0)][k + (along_mn ? 0 : e)] = value;
                   }
               });
}

/* ---- the work ---- */

static void note_work(warp &w, const wgmma_work &work) {
    const shape s = shape_of(*work.i);
    if (s.left == 0)
        note_operand(w, *work.i, work.a, s.transposes_a, w.index % 4 * 16, 16, work.known);
    note_operand(w, *work.i, work.b, s.transposes_b, 0, s.n, work.known);
}

/* As m16n8k16 holds A, of this warp's 16 rows. */
static void read_fragment(warp &w, const instruction &i, bool is_bf16, float (*values)[16]) {
    const uint32_t *place = &w.in->of->places[i.first + i.written];
    for (unsigned lane = 0; lane < LANES; lane++)
        for (unsigned r = 0; r < 4; r++)
            for (unsigned h = 0; h < 2; h++) {
                const uint16_t bits = (uint16_t)(w.get<uint32_t>(place[r])[lane] >> 16 * h);
                values[lane / 4 + 8 * (r % 2)][lane % 4 * 2 + 8 * (r / 2) + h] =
                    is_bf16 ? bf16_value(bits) : f16_value(bits);
            }
}

/* Register r of the result has row lane / 4 + 8 (r / 2 % 2) of the warp's 16, column
 * 8 (r / 4) + 2 (lane % 4) + r % 2. */
static void finish(warp &w, const wgmma_work &work) {
    static float a[16][16], b[256][16];
    const instruction &i = *work.i;
    const shape s = shape_of(i);
    note_work(w, work);
    if (s.left > 0) read_fragment(w, i, s.is_bf16, a);
    else read_operand(w, i, work.a, s.transposes_a, w.index % 4 * 16, 16, s.is_bf16, a);
    read_operand(w, i, work.b, s.transposes_b, 0, s.n, s.is_bf16, b);
    for (unsigned r = 0; r < s.result; r++) {
        float *to = w.get<float>(w.in->of->places[i.first + r]);
        for (unsigned lane = 0; lane < LANES; lane++) {
            const float *row = a[lane / 4 + 8 * (r / 2 % 2)];
            const float *column = b[8 * (r / 4) + lane % 4 * 2 + r % 2];
            double sum = 0;
            for (unsigned k = 0; k < 16; k++) sum += (double)row[k] * column[k];
            to[lane] = (float)(sum + (work.add ? to[lane] : 0.0f));
        }
    }
}

static uint32_t mma_step(warp &w, const instruction &i, uint32_t lanes) {
    lanes = gather_warp(w, i, lanes);
    if (lanes == 0) return 0;
    const shape s = shape_of(i);
    const uint32_t *place = &w.in->of->places[i.first + s.result];
    if (i.number[0] != 1 || i.number[1] != 1)
        wrong(w, i, 0, "operands with a sign, which the machine does not know");
    if (w.in->threads % 128 != 0) wrong(w, i, 0, "%u threads are no warpgroups", w.in->threads);
    check_registers(w, i);
    wgmma_work work = {&i, 0, 0, false, w.wgmma_groups, {}};
    const uint64_t *a = w.get<uint64_t>(place[0]);
    const uint64_t *b = w.get<uint64_t>(place[s.left > 0 ? 4 : 1]);
    const uint32_t add = *w.get<uint32_t>(place[s.left > 0 ? 5 : 2]);
    work.a = s.left > 0 ? 0 : a[0];
    work.b = b[0];
    work.add = add == ALL;
    if (add != 0 && add != ALL) wrong(w, i, 0, "lanes disagree about adding");
    for (unsigned lane = 0; lane < LANES; lane++)
        if (b[lane] != work.b || (s.left == 0 && a[lane] != work.a))
            wrong(w, i, lane, "lanes give different descriptions");
    w.wgmma_trace = (w.wgmma_trace ^ work.a * 3 ^ work.b ^ i.line) * UINT64_C(0x9E3779B97F4A7C15);
    release(w, lanes, work.known);
    note_work(w, work);
    mark_registers(w, i);
    w.wgmma.push_back(std::move(work));
    return lanes;
}

static uint32_t close_step(warp &w, const instruction &i, uint32_t lanes) {
    lanes = gather_warp(w, i, lanes);
    if (lanes == 0) return 0;
    w.wgmma_groups++;
    return lanes;
}

static uint32_t wait_step(warp &w, const instruction &i, uint32_t lanes) {
    lanes = gather_warp(w, i, lanes);
    if (lanes == 0) return 0;
    size_t done = 0;
    while (done < w.wgmma.size() && w.wgmma[done].group + (uint64_t)i.number[0] < w.wgmma_groups)
        finish(w, w.wgmma[done++]);
    w.wgmma.erase(w.wgmma.begin(), w.wgmma.begin() + (ptrdiff_t)done);
    for (uint8_t &state : w.wgmma_state) state &= (uint8_t)~UNDER_WAY;
    for (const wgmma_work &work : w.wgmma) mark_registers(w, *work.i);
    return lanes;
}

/* What the four warps of a warpgroup issued must be the same, and waited for. */
void end_wgmma(const block &b) {
    for (unsigned v = 0; v < b.warp_count; v++) {
        const warp &w = b.warps[v];
        if (!w.wgmma.empty()) wrong(w, *w.wgmma[0].i, 0, "the block ends without a wait for it");
        if (w.wgmma_trace != b.warps[v / 4 * 4].wgmma_trace)
            fail("block (%u, %u, %u): warps %u and %u of a warpgroup issued different wgmma",
                 b.place[0], b.place[1], b.place[2], v / 4 * 4, v);
    }
}

/* ---- by name ---- */

const char *find_wgmma(std::string_view name, instruction &i) {
    i.kind = STEP;
    if (name == "wgmma.fence.sync.aligned") return i.step = fence_step, "";
    if (name == "wgmma.commit_group.sync.aligned") return i.step = close_step, "";
    if (name == "wgmma.wait_group.sync.aligned") return i.step = wait_step, "N";
    const std::string_view start = "wgmma.mma_async.sync.aligned.m64n", bf16 = "k16.f32.bf16.bf16",
                           f16 = "k16.f32.f16.f16";
    if (name.compare(0, start.size(), start) != 0) return nullptr;
    name.remove_prefix(start.size());
    const size_t end = name.find('k');
    if (end == std::string_view::npos) return nullptr;
    const std::string_view rest = name.substr(end);
    const uint64_t n = read_number(name.substr(0, end));
    if ((rest != bf16 && rest != f16) || n == 0 || n > 256 || n % 8 != 0) return nullptr;
    i.step = mma_step;
    i.variant = (uint32_t)n | (rest == bf16 ? 1u << 16 : 0);
    return "V=XdpNN?NN";
}

} // namespace ptx
