/* Work that goes on beside the threads: cp.async, mbarriers and the copy engine, after the PTX ISA.
 * All of it happens as late as is allowed: a copy of a thread when that thread waits for it, a copy
 * of the engine when nothing else can go on. */
#include "backends/cuda/ptx/machine.h"

#include <string.h>

namespace ptx {

/* ---- cp.async ---- */

/* [to], [from], size{, size of the source}: the rest becomes 0. */
static void copy_plain(warp &w, const instruction &i, uint32_t lanes) {
    const unsigned size = (unsigned)i.number[0];
    for_lanes(lane, lanes) {
        const uint64_t to = address_of(w, i, 0, 0, lane), from = address_of(w, i, 1, 1, lane);
        uint32_t from_size = size;
        if (i.arguments > 2) from_size = w.get<uint32_t>(w.in->of->places[i.first + 2])[lane];
        if (from_size > size) wrong(w, i, lane, "%u bytes of a copy of %u", from_size, size);
        check_shared(w, i, lane, to, size, size);
        if (from % size != 0)
            wrong(w, i, lane, "global address 0x%llx is no multiple of %u",
                  (unsigned long long)from, size);
        if (from_size > 0) global_to_read(w, i, lane, from, from_size);
        note_copy_begin(w, i, lane, (uint32_t)to, size);
        w.copies[lane].copies.push_back({(uint32_t)to, (uint8_t)size, (uint8_t)from_size, from});
    }
}

static void copy_close(warp &w, const instruction &, uint32_t lanes) {
    for_lanes(lane, lanes) w.copies[lane].ends.push_back((uint32_t)w.copies[lane].copies.size());
}

static void finish_copies(warp &w, unsigned lane, size_t groups, bool all) {
    copy_queue &q = w.copies[lane];
    const size_t count = all ? q.copies.size() : groups > 0 ? q.ends[groups - 1] : 0;
    for (size_t c = 0; c < count; c++) {
        const copy_async &copy = q.copies[c];
        unsigned char *to = w.in->shared.data() + (copy.to - SHARED_START);
        memcpy(to, reinterpret_cast<const void *>(copy.from), copy.from_size);
        memset(to + copy.from_size, 0, (size_t)(copy.size - copy.from_size));
        note_copy_end(w, lane, copy.to, copy.size);
    }
    q.copies.erase(q.copies.begin(), q.copies.begin() + (ptrdiff_t)count);
    q.ends.erase(q.ends.begin(), q.ends.begin() + (ptrdiff_t)groups);
    for (uint32_t &end : q.ends) end -= (uint32_t)count;
}

static void copy_wait(warp &w, const instruction &i, uint32_t lanes) {
    for_lanes(lane, lanes) {
        const size_t closed = w.copies[lane].ends.size(), left = (size_t)i.number[0];
        if (closed > left) finish_copies(w, lane, closed - left, false);
    }
}
static void copy_wait_all(warp &w, const instruction &, uint32_t lanes) {
    for_lanes(lane, lanes) finish_copies(w, lane, w.copies[lane].ends.size(), true);
}

/* ---- mbarriers ---- */

static mbarrier &mbarrier_at(warp &w, const instruction &i, unsigned lane, uint64_t address) {
    const auto found = w.in->mbarriers.find((uint32_t)address);
    if (found == w.in->mbarriers.end() || address >> 32 != 0)
        wrong(w, i, lane, "there is no mbarrier at byte %lld of shared memory",
              (long long)address - SHARED_START);
    mbarrier &m = found->second;
    if (m.maker != thread_of(w, lane) && !knows(w, lane, m.maker, m.made))
        wrong(w, i, lane, "the mbarrier was made by thread %u without a barrier between", m.maker);
    return m;
}

static void init_plain(warp &w, const instruction &i, uint32_t lanes) {
    block &b = *w.in;
    for_lanes(lane, lanes) {
        const uint64_t address = address_of(w, i, 0, 0, lane), zero = 0;
        const uint32_t count = w.get<uint32_t>(w.in->of->places[i.first + 1])[lane];
        memcpy(to_write(w, i, lane, SHARED, address, 8, &zero), &zero, 8);
        if (count == 0 || count >= 1u << 20) wrong(w, i, lane, "an mbarrier of %u arrivals", count);
        if (b.mbarriers.count((uint32_t)address) == 0 && b.mbarriers.size() >= 64)
            wrong(w, i, lane, "more mbarriers than the machine has");
        const unsigned number = (unsigned)b.mbarriers.size();
        mbarrier &m = b.mbarriers[(uint32_t)address];
        if (m.needed == 0) m.number = number;
        m.address = (uint32_t)address;
        m.needed = m.pending = count;
        m.bytes = 0;
        m.phase = 0;
        m.maker = (uint16_t)thread_of(w, lane);
        m.made = w.clock;
        m.is_published = false;
        m.coming.clear(), m.done.clear();
    }
}

/* Ends the phase if nothing is missing; who waited looks again. */
static void end_phase(block &b, mbarrier &m) {
    if (m.pending != 0 || m.bytes != 0) return;
    m.phase++;
    m.pending = m.needed;
    m.done.swap(m.coming);
    m.coming.clear();
    for (unsigned v = 0; v < b.warp_count; v++) {
        warp &w = b.warps[v];
        for_lanes(lane, w.at_mbarrier) if (w.waits_for[lane] == m.address) {
            w.at_mbarrier &= ~(1u << lane);
            w.blocked &= ~(1u << lane);
        }
    }
}

enum arrival { ARRIVE, ARRIVE_EXPECT, EXPECT };

/* The lanes of one barrier at once; `value`: arrivals, or bytes that are to come. */
static void arrive_plain(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    const unsigned first = i.variant == EXPECT ? 0 : 1;
    const bool has_value = i.arguments > first + 1;
    for (uint32_t rest = lanes; rest != 0;) {
        const unsigned lane = first_lane(rest);
        const uint64_t address = address_of(w, i, 0, first, lane);
        mbarrier &m = mbarrier_at(w, i, lane, address);
        uint32_t same = 0;
        for_lanes(other, rest) if (address_of(w, i, 0, first, other) == address) same |= 1u
                                                                                         << other;
        rest &= ~same;
        if (i.variant != EXPECT) release(w, same, m.coming);
        for_lanes(other, same) {
            const uint32_t value = has_value ? w.get<uint32_t>(place[first + 1])[other] : 1;
            const uint32_t arrivals = i.variant == ARRIVE ? value : i.variant == EXPECT ? 0 : 1;
            if (i.variant != ARRIVE) m.bytes += value;
            if (arrivals > m.pending)
                wrong(w, i, other, "more arrivals at the mbarrier than the %u of a phase",
                      m.needed);
            m.pending -= arrivals;
            end_phase(*w.in, m);
        }
    }
}

/* p, [barrier], parity: true if the phase of that parity is over. A lane that would be told no
 * waits instead: nobody can tell that from asking again. */
static uint32_t wait_step(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    uint32_t done = 0;
    for_lanes(lane, lanes) {
        const mbarrier &m = mbarrier_at(w, i, lane, address_of(w, i, 0, 1, lane));
        if ((m.phase & 1u) != (w.get<uint32_t>(place[2])[lane] & 1u)) {
            done |= 1u << lane;
        } else {
            w.at_mbarrier |= 1u << lane;
            w.waits_for[lane] = m.address;
        }
    }
    for (uint32_t rest = done; rest != 0;) {
        const uint64_t address = address_of(w, i, 0, 1, first_lane(rest));
        uint32_t same = 0;
        for_lanes(lane, rest) if (address_of(w, i, 0, 1, lane) == address) same |= 1u << lane;
        rest &= ~same;
        acquire(w, same, mbarrier_at(w, i, first_lane(same), address).done);
    }
    *w.get<uint32_t>(place[0]) |= done;
    return done;
}

enum fence { FENCE, FENCE_INIT, FENCE_PROXY };

static void fence_plain(warp &w, const instruction &i, uint32_t lanes) {
    if (i.variant == FENCE) return;
    for (auto &one : w.in->mbarriers)
        if (one.second.maker / LANES == w.index && (lanes >> one.second.maker % LANES & 1u) != 0)
            one.second.is_published = true;
    if (i.variant == FENCE_PROXY) fence_proxy(w, lanes);
}

/* ---- the copy engine ---- */

/* A tensor map, as hopper_describe of hopper_emulated.cuh makes it; there it is checked that both
 * agree. */
struct tensor_map {
    int32_t dtype;
    uint64_t data, dims[5], strides[4];
    uint32_t box[5];
};

static tensor_map read_map(warp &w, const instruction &i, unsigned lane, uint64_t address) {
    tensor_map map;
    if (address % 64 != 0) wrong(w, i, lane, "a tensor map at 0x%llx", (unsigned long long)address);
    /* 128 bytes in pieces that are aligned by themselves */
    unsigned char bytes[128];
    for (unsigned n = 0; n < 8; n++)
        memcpy(bytes + 16 * n, to_read(w, i, lane, GENERIC, address + 16 * n, 16), 16);
    memcpy(&map, bytes, sizeof map);
    const unsigned row = map.box[0] * 2;
    if (map.data % 16 != 0 || (row != 32 && row != 64 && row != 128))
        wrong(w, i, lane, "a tensor map that describes no tensor");
    return map;
}

/* A row of a box, 8 elements at once; what lies outside is 0. */
static void read_row(warp &w, const instruction &i, unsigned lane, const tensor_map &map,
                     const int32_t (&at)[5], bulk_copy &copy) {
    bool is_inside = true;
    uint64_t row = map.data;
    for (int a = 1; a < 5; a++) {
        is_inside = is_inside && at[a] >= 0 && (uint64_t)at[a] < map.dims[a];
        row += (uint64_t)((int64_t)at[a] * (int64_t)map.strides[a - 1]);
    }
    for (uint32_t e = 0; e < map.box[0]; e++) {
        const int64_t column = (int64_t)at[0] + e;
        unsigned char value[2] = {0, 0};
        if (is_inside && column >= 0 && (uint64_t)column < map.dims[0])
            memcpy(value, global_to_read(w, i, lane, row + (uint64_t)column * 2, 2), 2);
        copy.bytes.insert(copy.bytes.end(), value, value + 2);
    }
}

/* [to], [map, {coordinates}], [barrier] */
static void tensor_plain(warp &w, const instruction &i, uint32_t lanes) {
    block &b = *w.in;
    for_lanes(lane, lanes) {
        const uint64_t to = address_of(w, i, 0, 0, lane);
        const tensor_map map = read_map(w, i, lane, address_of(w, i, 1, 1, lane));
        mbarrier &m = mbarrier_at(w, i, lane, address_of(w, i, 2, 7, lane));
        if (!m.is_published)
            wrong(w, i, lane, "its mbarrier was made without a fence.mbarrier_init");
        int32_t start[5], at[5];
        for (unsigned a = 0; a < 5; a++)
            start[a] = (int32_t)w.get<uint32_t>(b.of->places[i.first + 2 + a])[lane];
        uint32_t rows = 1;
        for (int a = 1; a < 5; a++) rows *= map.box[a];
        const uint32_t row_bytes = map.box[0] * 2, mask = row_bytes / 16 - 1;
        check_shared(w, i, lane, to, rows * row_bytes, 128);
        bulk_copy copy = {m.address, 16, b.first_clock + m.phase, {}, {}};
        for (uint32_t r = 0; r < rows; r++) {
            at[0] = start[0];
            for (uint32_t a = 1, rest = r; a < 5; a++) {
                at[a] = start[a] + (int32_t)(rest % map.box[a]);
                rest /= map.box[a];
            }
            read_row(w, i, lane, map, at, copy);
            for (uint32_t c = 0; c < row_bytes; c += 16) {
                const uint32_t place = (uint32_t)to + r * row_bytes + c;
                copy.to.push_back(place ^ (place >> 7 & mask) << 4);
            }
        }
        if (copy.moment > b.last_moment) b.last_moment = copy.moment;
        for (uint32_t place : copy.to)
            note_bulk_write(w, i, lane, place, 16, b.threads + m.number, copy.moment);
        b.bulk.push_back(std::move(copy));
    }
}

bool finish_bulk_copy(block &b) {
    if (b.bulk.empty()) return false;
    const size_t which = b.launch->order == 1 ? b.bulk.size() - 1 : 0;
    const bulk_copy copy = std::move(b.bulk[which]);
    b.bulk.erase(b.bulk.begin() + (ptrdiff_t)which);
    for (size_t p = 0; p < copy.to.size(); p++)
        memcpy(b.shared.data() + (copy.to[p] - SHARED_START), copy.bytes.data() + p * copy.piece,
               copy.piece);
    mbarrier &m = b.mbarriers[copy.barrier];
    if (m.coming.empty()) m.coming.assign(b.clock_count * 2, 0);
    m.coming[b.threads + m.number] = copy.moment;
    m.bytes -= (int64_t)copy.bytes.size();
    end_phase(b, m);
    return true;
}

/* ---- registers ---- */

static uint32_t registers_step(warp &w, const instruction &i, uint32_t lanes) {
    if (i.number[0] % 8 != 0 || i.number[0] < 24 || i.number[0] > 256)
        wrong(w, i, first_lane(lanes), "%lld registers", (long long)i.number[0]);
    return gather_warp(w, i, lanes);
}

/* ---- by name ---- */

/* Without the order and the scope that a name may say: all are as strong here. */
static std::string plain_name(std::string_view name) {
    std::string text(name);
    if (text.compare(0, 8, "mbarrier") != 0) return text;
    for (const char *part : {".release", ".acquire", ".relaxed", ".cluster"})
        if (const size_t at = text.find(part); at != std::string::npos)
            text.erase(at, strlen(part));
    size_t at = text.find(".cta.");
    if (at != std::string::npos) text.erase(at, 4);
    at = text.find("shared::cta");
    if (at != std::string::npos) text.erase(at + 6, 5);
    return text;
}

const char *find_async(std::string_view name, instruction &i) {
    struct row {
        const char *name, *pattern;
        plain_fn plain;
        step_fn step;
        uint32_t variant;
    };
    static const row rows[] = {
        {"cp.async.cg.shared.global", "=AAN?w", copy_plain, nullptr, 0},
        {"cp.async.ca.shared.global", "=AAN?w", copy_plain, nullptr, 0},
        {"cp.async.commit_group", "", copy_close, nullptr, 0},
        {"cp.async.wait_group", "N", copy_wait, nullptr, 0},
        {"cp.async.wait_all", "", copy_wait_all, nullptr, 0},
        {"mbarrier.init.shared.b64", "=Aw", init_plain, nullptr, 0},
        {"mbarrier.arrive.shared.b64", "d=A?w", arrive_plain, nullptr, ARRIVE},
        {"mbarrier.arrive.expect_tx.shared.b64", "d=Aw", arrive_plain, nullptr, ARRIVE_EXPECT},
        {"mbarrier.expect_tx.shared.b64", "=Aw", arrive_plain, nullptr, EXPECT},
        {"mbarrier.try_wait.parity.shared.b64", "p=Aw?w", nullptr, wait_step, 0},
        {"mbarrier.test_wait.parity.shared.b64", "p=Aw", nullptr, wait_step, 0},
        {"fence.mbarrier_init.release.cluster", "", fence_plain, nullptr, FENCE_INIT},
        {"fence.proxy.async.shared::cta", "", fence_plain, nullptr, FENCE_PROXY},
        {"fence.proxy.async", "", fence_plain, nullptr, FENCE_PROXY},
        {"fence.acq_rel.cta", "", fence_plain, nullptr, FENCE},
        {"fence.acq_rel.gpu", "", fence_plain, nullptr, FENCE},
        {"fence.sc.gpu", "", fence_plain, nullptr, FENCE},
        {"membar.cta", "", fence_plain, nullptr, FENCE},
        {"membar.gl", "", fence_plain, nullptr, FENCE},
        {"cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes", "=AACA",
         tensor_plain, nullptr, 0},
        {"setmaxnreg.dec.sync.aligned.u32", "N", nullptr, registers_step, 0},
        {"setmaxnreg.inc.sync.aligned.u32", "N", nullptr, registers_step, 0},
    };
    const std::string text = plain_name(name);
    for (const row &r : rows)
        if (text == r.name) {
            i.kind = r.step != nullptr ? STEP : PLAIN;
            i.plain = r.plain;
            i.step = r.step;
            i.variant = r.variant;
            return r.pattern;
        }
    return nullptr;
}

} // namespace ptx
