/* Memory as a kernel sees it: what may be touched, and loads and stores. */
#include "backends/cuda/ptx/machine.h"

#include <mutex>
#include <string.h>

namespace ptx {

namespace {

std::map<uint64_t, uint64_t> ranges; /* of device memory: start, end */
std::mutex ranges_lock;
uint64_t last_start, last_end; /* the range that was found last */

bool is_device_memory(uint64_t address, unsigned size) {
    if (address >= last_start && address + size <= last_end) return true;
    auto found = ranges.upper_bound(address);
    if (found == ranges.begin()) return false;
    --found;
    if (address + size > found->second) return false;
    last_start = found->first, last_end = found->second;
    return true;
}

const char *space_name(enum space space) {
    static const char *const names[] = {"generic", "global", "shared", "local", "parameter"};
    return names[space];
}

/* Takes a generic address apart. */
void resolve(enum space &space, uint64_t &address) {
    const uint64_t window = address / WINDOW * WINDOW;
    if (window == SHARED_WINDOW) space = SHARED;
    else if (window == LOCAL_WINDOW) space = LOCAL;
    else space = window == PARAM_WINDOW ? PARAM : GLOBAL;
    if (space == SHARED || space == LOCAL) address -= window;
}

/* Everything but global memory: where an access of a block lies. */
unsigned char *own_memory(warp &w, const instruction &i, unsigned lane, enum space space,
                          uint64_t address, unsigned size) {
    block &b = *w.in;
    if (space == PARAM) {
        const uint64_t at = address - PARAM_WINDOW;
        if (at > b.of->parameter_bytes || at + size > b.of->parameter_bytes)
            wrong(w, i, lane, "%u bytes at %llu of %u bytes of parameters", size,
                  (unsigned long long)at, b.of->parameter_bytes);
        return b.parameters.data() + at;
    }
    const uint64_t bytes = b.of->local_bytes, at = address - 16;
    if (address < 16 || at > bytes || at + size > bytes)
        wrong(w, i, lane, "%u bytes at %lld of %llu bytes of local memory", size, (long long)at,
              (unsigned long long)bytes);
    return b.local.data() + thread_of(w, lane) * bytes + at;
}

void check_aligned(const warp &w, const instruction &i, unsigned lane, enum space space,
                   uint64_t address, unsigned size) {
    if (address % size != 0)
        wrong(w, i, lane, "%s address 0x%llx is no multiple of %u", space_name(space),
              (unsigned long long)address, size);
}

void check_global(const warp &w, const instruction &i, unsigned lane, uint64_t address,
                  unsigned size) {
    if (!is_device_memory(address, size))
        wrong(w, i, lane, "%u bytes at 0x%llx lie in no device memory", size,
              (unsigned long long)address);
}

} // namespace

void check_shared(const warp &w, const instruction &i, unsigned lane, uint64_t address,
                  unsigned size, unsigned align) {
    const block &b = *w.in;
    check_aligned(w, i, lane, SHARED, address, align);
    if (address < SHARED_START || address + size > b.shared_end)
        wrong(w, i, lane, "%u bytes at %lld of %u bytes of shared memory", size,
              (long long)address - SHARED_START, b.shared_end - SHARED_START);
}

unsigned char *to_read(warp &w, const instruction &i, unsigned lane, enum space space,
                       uint64_t address, unsigned size) {
    if (space == GENERIC) resolve(space, address);
    if (space == SHARED) {
        check_shared(w, i, lane, address, size, size);
        note_read(w, i, lane, (uint32_t)address, size);
        return w.in->shared.data() + (address - SHARED_START);
    }
    check_aligned(w, i, lane, space, address, size);
    if (space != GLOBAL) return own_memory(w, i, lane, space, address, size);
    check_global(w, i, lane, address, size);
    return reinterpret_cast<unsigned char *>(address);
}

unsigned char *to_write(warp &w, const instruction &i, unsigned lane, enum space space,
                        uint64_t address, unsigned size, const void *value) {
    if (space == GENERIC) resolve(space, address);
    if (space == SHARED) {
        check_shared(w, i, lane, address, size, size);
        note_write(w, i, lane, (uint32_t)address, size, value);
        return w.in->shared.data() + (address - SHARED_START);
    }
    check_aligned(w, i, lane, space, address, size);
    if (space == PARAM) wrong(w, i, lane, "parameters are read only");
    if (space != GLOBAL) return own_memory(w, i, lane, space, address, size);
    check_global(w, i, lane, address, size);
    return reinterpret_cast<unsigned char *>(address);
}

const unsigned char *global_to_read(warp &w, const instruction &i, unsigned lane, uint64_t address,
                                    unsigned size) {
    check_global(w, i, lane, address, size);
    return reinterpret_cast<const unsigned char *>(address);
}

/* ---- loads and stores ---- */

uint64_t address_of(warp &w, const instruction &i, unsigned which, unsigned argument,
                    unsigned lane) {
    const uint32_t place = w.in->of->places[i.first + argument];
    const uint64_t offset = (uint64_t)i.offset[which];
    if (i.address_size[which] == 4) return (uint32_t)(w.get<uint32_t>(place)[lane] + offset);
    return w.get<uint64_t>(place)[lane] + offset;
}

template <typename R> static void load(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    for_lanes(lane, lanes) {
        const uint64_t address = address_of(w, i, 0, i.count, lane);
        const unsigned char *from =
            to_read(w, i, lane, i.space, address, (unsigned)i.size * i.count);
        for (unsigned c = 0; c < i.count; c++) {
            R value = 0;
            memcpy(&value, from + c * i.size, i.size);
            if (i.is_signed && i.size < sizeof(R)) {
                const unsigned unused = 8 * (unsigned)(sizeof(R) - i.size);
                typedef typename std::make_signed<R>::type S;
                value = (R)((S)(R)(value << unused) >> unused);
            }
            w.get<R>(place[c])[lane] = value;
        }
    }
}

template <typename R> static void store(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    for_lanes(lane, lanes) {
        unsigned char value[32];
        for (unsigned c = 0; c < i.count; c++)
            memcpy(value + c * i.size, w.get<R>(place[c]) + lane, i.size);
        const uint64_t address = address_of(w, i, 0, i.count, lane);
        const unsigned size = (unsigned)i.size * i.count;
        memcpy(to_write(w, i, lane, i.space, address, size, value), value, size);
    }
}

plain_fn load_fn(unsigned register_size) {
    return register_size == 2   ? load<uint16_t>
           : register_size == 4 ? load<uint32_t>
                                : load<uint64_t>;
}
plain_fn store_fn(unsigned register_size) {
    return register_size == 2   ? store<uint16_t>
           : register_size == 4 ? store<uint32_t>
                                : store<uint64_t>;
}

} // namespace ptx

void kin_ptx_memory_add(const void *address, size_t size) {
    const uint64_t start = reinterpret_cast<uint64_t>(address);
    std::lock_guard<std::mutex> guard(ptx::ranges_lock);
    ptx::ranges[start] = start + size;
}

void kin_ptx_memory_remove(const void *address) {
    std::lock_guard<std::mutex> guard(ptx::ranges_lock);
    ptx::ranges.erase(reinterpret_cast<uint64_t>(address));
    ptx::last_start = ptx::last_end = 0;
}
