/* What happens before what. Each warp has a clock, which goes on whenever a lane of it hands on
 * what it did; each thread knows up to which time the others' work lies before its own. An access
 * to shared memory that meets another one of the same byte, one of them a write, of which the
 * thread does not know, is a race. (Vector clocks; Flanagan and Freund 2009, "FastTrack".) Lanes of
 * a warp that know the same share one list.
 *
 * Reads of a byte are kept for each warp: when, and by which lanes. */
#include "backends/cuda/ptx/machine.h"

#include <string.h>

namespace ptx {

static const clocks &known_by(const warp &w, unsigned lane) {
    return (w.has_own >> lane & 1u) != 0 ? *w.own[lane] : w.known;
}

bool knows(const warp &w, unsigned lane, unsigned thread, uint32_t moment) {
    return known_by(w, lane)[thread] >= moment;
}

static void raise_to(clocks &to, const clocks &from) {
    uint32_t *t = to.data();
    const uint32_t *f = from.data();
    const size_t count = to.size();
    for (size_t i = 0; i < count; i++) t[i] = t[i] < f[i] ? f[i] : t[i];
}

static clocks &own_clocks(warp &w, unsigned lane) {
    if (!w.own[lane]) w.own[lane] = std::make_unique<clocks>();
    if ((w.has_own >> lane & 1u) == 0) *w.own[lane] = w.known;
    w.has_own |= 1u << lane;
    return *w.own[lane];
}

void release(warp &w, uint32_t lanes, clocks &into) {
    if (into.size() != w.known.size()) into.assign(w.known.size(), 0);
    if ((lanes & ~w.has_own) != 0) raise_to(into, w.known);
    for_lanes(lane, lanes & w.has_own) raise_to(into, *w.own[lane]);
    for_lanes(lane, lanes) into[thread_of(w, lane)] = w.clock;
    w.clock++;
}

void acquire(warp &w, uint32_t lanes, const clocks &from) {
    if (from.empty()) return;
    if (lanes == w.live) {
        raise_to(w.known, from);
        for_lanes(lane, w.has_own & w.live) raise_to(*w.own[lane], from);
    } else {
        for_lanes(lane, lanes) raise_to(own_clocks(w, lane), from);
    }
}

void join_lanes(warp &w, uint32_t lanes) {
    if (lanes == w.live) {
        for_lanes(lane, w.has_own & lanes) raise_to(w.known, *w.own[lane]);
        w.has_own = 0;
        for_lanes(lane, lanes) w.known[thread_of(w, lane)] = w.clock;
        w.clock++;
        return;
    }
    clocks all;
    release(w, lanes, all);
    for_lanes(lane, lanes) raise_to(own_clocks(w, lane), all);
}

void fence_proxy(warp &w, uint32_t lanes) {
    const unsigned half = w.in->clock_count;
    if (!w.in->of->has_async) return;
    const auto pass = [&](clocks &known) {
        for (unsigned i = 0; i < half; i++)
            if (known[half + i] < known[i]) known[half + i] = known[i];
    };
    if (lanes == w.live) {
        pass(w.known);
        for_lanes(lane, lanes & w.has_own) pass(*w.own[lane]);
        for_lanes(lane, lanes) {
            w.known[half + thread_of(w, lane)] = w.clock;
            if ((w.has_own >> lane & 1u) != 0) (*w.own[lane])[half + thread_of(w, lane)] = w.clock;
        }
    } else {
        for_lanes(lane, lanes) {
            clocks &own = own_clocks(w, lane);
            pass(own);
            own[half + thread_of(w, lane)] = w.clock;
        }
    }
    w.clock++;
}

void begin_order(block &b) {
    const size_t bytes = b.shared_end - SHARED_START;
    b.cells.assign(bytes / 4 + 1, cell{});
    b.bytes.clear();
    b.clock_count = b.threads + (b.of->has_async ? 64 : 0);
    b.first_clock = 1;
}

void begin_block_order(block &b) {
    if (b.number > 0 && b.last_moment >= b.first_clock) b.first_clock = b.last_moment + 1;
    for (unsigned i = 0; i < b.warp_count; i++)
        if (b.number > 0 && b.warps[i].clock >= b.first_clock) b.first_clock = b.warps[i].clock + 1;
    for (unsigned i = 0; i < b.warp_count; i++) {
        warp &w = b.warps[i];
        w.clock = b.first_clock;
        w.known.assign(b.clock_count * (b.of->has_async ? 2 : 1), 0);
        w.has_own = 0;
    }
    b.records.clear();
    b.free_records.clear();
}

/* ---- accesses ---- */

namespace {

struct access {
    warp &w;
    const instruction &i;
    unsigned lane;
    uint32_t at;
};

/* A thread of the clocks by its place in the block, or the engine. */
[[noreturn]] void race(const access &a, const char *mine, const char *theirs, unsigned thread) {
    const block &b = *a.w.in;
    if (thread >= b.threads)
        wrong(a.w, a.i, a.lane,
              "a race: %s byte %u of shared memory, which the copy engine %s "
              "without a wait for its mbarrier",
              mine, a.at - SHARED_START, theirs);
    wrong(a.w, a.i, a.lane,
          "a race: %s byte %u of shared memory, which thread %u %s without a barrier between", mine,
          a.at - SHARED_START, thread, theirs);
}

void check_writer(const access &a, const cell &c, const char *mine) {
    if (c.in_flight)
        wrong(a.w, a.i, a.lane,
              "%s byte %u of shared memory, whose copy (cp.async by thread %u) was "
              "not waited for",
              mine, a.at - SHARED_START, c.writer);
    const unsigned me = thread_of(a.w, a.lane);
    if (c.writer == me && !c.is_async) return;
    if (!knows(a.w, a.lane, c.writer, c.written)) race(a, mine, "wrote", c.writer);
}

void check_readers(const access &a, unsigned warp_index, uint32_t when, uint32_t lanes) {
    const block &b = *a.w.in;
    if (when < b.first_clock) return;
    if (warp_index == a.w.index) lanes &= ~(1u << a.lane);
    for_lanes(l, lanes) if (!knows(a.w, a.lane, warp_index * LANES + l, when))
        race(a, "writes", "read", warp_index * LANES + l);
}

/* One warp's reads of a byte: those before are forgotten if they lie before the new one. */
void add_reader(const access &a, uint32_t &when, uint32_t &lanes) {
    const block &b = *a.w.in;
    if (when < b.first_clock) {
        lanes = 0;
    } else if (when != a.w.clock) {
        bool are_known = true;
        for_lanes(l, lanes & ~(1u << a.lane)) are_known =
            are_known && knows(a.w, a.lane, a.w.index * LANES + l, when);
        if (are_known) lanes = 0;
    }
    when = a.w.clock;
    lanes |= 1u << a.lane;
}

void drop_records(block &b, cell &c) {
    if (c.more != 0 && c.read >= b.first_clock) b.free_records.push_back(c.more);
    c.more = 0;
    c.read = 0;
    c.read_lanes = 0;
}

void read_cell(const access &a, cell &c) {
    block &b = *a.w.in;
    if (c.written < b.first_clock)
        wrong(a.w, a.i, a.lane, "reads byte %u of shared memory, which nothing wrote in this block",
              a.at - SHARED_START);
    check_writer(a, c, "reads");
    if (c.read < b.first_clock) c.more = 0, c.read = 0, c.read_warp = (uint8_t)a.w.index;
    if (c.read_warp != a.w.index) {
        if (c.more == 0) {
            if (b.free_records.empty()) {
                if (b.records.size() >= 65535) return; /* such a block reads too widely to note */
                b.records.emplace_back();
                b.free_records.push_back((uint16_t)b.records.size());
            }
            c.more = b.free_records.back();
            b.free_records.pop_back();
            b.records[c.more - 1u] = {};
        }
        read_records &r = b.records[c.more - 1u];
        r.read[c.read_warp] = c.read, r.lanes[c.read_warp] = c.read_lanes;
        c.read_warp = (uint8_t)a.w.index;
        c.read = r.read[a.w.index], c.read_lanes = r.lanes[a.w.index];
    }
    add_reader(a, c.read, c.read_lanes);
}

void check_write(const access &a, const cell &c) {
    const block &b = *a.w.in;
    if (c.read >= b.first_clock) {
        check_readers(a, c.read_warp, c.read, c.read_lanes);
        for (unsigned v = 0; c.more != 0 && v < b.warp_count; v++)
            if (v != c.read_warp)
                check_readers(a, v, b.records[c.more - 1u].read[v],
                              b.records[c.more - 1u].lanes[v]);
    }
    if (c.written >= b.first_clock) check_writer(a, c, "writes");
}

/* The cells of a range: whole words while nobody asked for less. */
template <typename F> void for_cells(block &b, uint32_t at, unsigned size, F &&body) {
    for (uint32_t end = at + size; at < end;) {
        const uint32_t index = (at - SHARED_START) / 4;
        cell &c = b.cells[index];
        const bool is_whole = at % 4 == 0 && end - at >= 4;
        if (is_whole && !c.is_split) {
            body(c, at);
            at += 4;
            continue;
        }
        if (b.bytes.empty()) b.bytes.resize(4 * b.cells.size());
        if (!c.is_split) {
            for (unsigned n = 0; n < 4; n++) {
                b.bytes[4 * index + n] = c;
                if (n > 0 && c.more != 0 && c.read >= b.first_clock) {
                    const read_records copy = b.records[c.more - 1u];
                    b.records.push_back(copy);
                    b.bytes[4 * index + n].more = (uint16_t)b.records.size();
                }
            }
            c.is_split = true;
        }
        do body(b.bytes[at - SHARED_START], at), at++;
        while (at < end && at % 4 != 0);
    }
}

} // namespace

void note_read(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size) {
    for_cells(*w.in, at, size, [&](cell &c, uint32_t byte) { read_cell({w, i, lane, byte}, c); });
}

static void set_writer(block &b, cell &c, unsigned writer, uint32_t moment, bool is_async,
                       bool in_flight) {
    drop_records(b, c);
    c.writer = (uint16_t)writer;
    c.written = moment;
    c.is_async = is_async;
    c.in_flight = in_flight;
}

/* Lanes of one instruction that write the same value to one place are no fault. */
void note_write(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size,
                const void *value) {
    block &b = *w.in;
    const unsigned char *now = b.shared.data() + (at - SHARED_START);
    for_cells(b, at, size, [&](cell &c, uint32_t byte) {
        const access a = {w, i, lane, byte};
        const bool is_again = c.written == w.clock && c.writer / LANES == w.index && !c.is_async &&
                              !c.in_flight && c.read < b.first_clock &&
                              memcmp(now, value, size) == 0;
        if (!is_again) check_write(a, c);
        set_writer(b, c, thread_of(w, lane), w.clock, false, false);
    });
}

void note_copy_begin(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size) {
    for_cells(*w.in, at, size, [&](cell &c, uint32_t byte) {
        check_write({w, i, lane, byte}, c);
        set_writer(*w.in, c, thread_of(w, lane), w.clock, false, true);
    });
}

void note_copy_end(warp &w, unsigned lane, uint32_t at, unsigned size) {
    for_cells(*w.in, at, size, [&](cell &c, uint32_t) {
        set_writer(*w.in, c, thread_of(w, lane), w.clock, false, false);
    });
}

void note_bulk_write(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size,
                     unsigned writer, uint32_t moment) {
    for_cells(*w.in, at, size, [&](cell &c, uint32_t byte) {
        check_write({w, i, lane, byte}, c);
        set_writer(*w.in, c, writer, moment, true, false);
    });
}

/* What threads wrote must have passed a fence of proxies on its way. */
static void check_fenced(const access &a, const cell &c, const clocks &known) {
    const block &b = *a.w.in;
    if (c.written < b.first_clock)
        wrong(a.w, a.i, a.lane, "reads byte %u of shared memory, which nothing wrote in this block",
              a.at - SHARED_START);
    if (c.in_flight) check_writer(a, c, "reads");
    const bool is_own = !c.is_async && c.writer / LANES == a.w.index;
    if (!is_own && known[c.writer] < c.written) race(a, "reads", "wrote", c.writer);
    if (!c.is_async && known[b.clock_count + c.writer] < c.written)
        wrong(a.w, a.i, a.lane,
              "reads byte %u of shared memory, which thread %u wrote, through the "
              "async proxy without fence.proxy.async between",
              a.at - SHARED_START, c.writer);
}

void note_async_read(warp &w, const instruction &i, uint32_t at, unsigned size,
                     const clocks &known) {
    for_cells(*w.in, at, size, [&](cell &c, uint32_t byte) {
        const access a = {w, i, 0, byte};
        check_fenced(a, c, known);
        if (c.read_warp != w.index || c.read != w.clock) read_cell(a, c);
        c.read_lanes = ALL;
    });
}

void note_bulk_read(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size) {
    for_cells(*w.in, at, size, [&](cell &c, uint32_t byte) {
        const access a = {w, i, lane, byte};
        check_fenced(a, c, known_by(w, lane));
        read_cell(a, c);
    });
}

} // namespace ptx
