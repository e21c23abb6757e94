/* hopper.cuh for the emulator. Copies spoil their target at once and arrive when somebody waits for
 * their barrier; wgmma reads shared memory through its descriptions, with the swizzle, as the PTX
 * ISA says, and is done at once. Addresses in shared memory count from the block's first byte. */
#ifndef KIN_BACKENDS_CUDA_HOPPER_EMULATED_CUH
#define KIN_BACKENDS_CUDA_HOPPER_EMULATED_CUH

#include "backends/cuda/mma.cuh"

#include <stddef.h>
#include <vector>

/* As large as the driver's. backends/cuda/ptx/async.cc reads it at these places. */
struct alignas(64) hopper_map : hopper_tensor {
    char rest[128 - sizeof(hopper_tensor)];
};
static_assert(sizeof(hopper_map) == 128 && offsetof(hopper_tensor, data) == 8 &&
                  offsetof(hopper_tensor, dims) == 16 && offsetof(hopper_tensor, strides) == 56 &&
                  offsetof(hopper_tensor, box) == 88,
              "the layout of a tensor map");

/* Refuses what the driver refuses. */
static inline bool hopper_describe(hopper_map *map, const hopper_tensor *x) {
    memset(static_cast<void *>(map), 0, sizeof *map);
    static_cast<hopper_tensor &>(*map) = *x;
    if ((uintptr_t)x->data % 16 != 0 || x->box[0] * 2 > 128) return false;
    for (int i = 0; i < 4; i++)
        if (x->strides[i] % 16 != 0) return false;
    for (int i = 0; i < 5; i++)
        if (x->dims[i] == 0 || x->box[i] == 0 || x->box[i] > 256) return false;
    return true;
}

static inline uint32_t hopper_address(const void *shared) {
    return (uint32_t)((const char *)shared - (const char *)kin_emulated_shared());
}

/* ---- barriers ---- */

/* In the barrier's 8 bytes. */
struct hopper_phase {
    uint16_t needed, pending;
    uint32_t parity : 1;
    int32_t bytes : 31; /* that have not come yet */
};

static inline void hopper_change(uint64_t *barrier, int arrivals, int bytes) {
    hopper_phase phase;
    memcpy(&phase, barrier, sizeof phase);
    phase.pending = (uint16_t)(phase.pending - arrivals);
    phase.bytes += bytes;
    if (phase.pending == 0 && phase.bytes == 0) {
        phase.pending = phase.needed;
        phase.parity ^= 1;
    }
    memcpy(barrier, &phase, sizeof phase);
}
static inline void hopper_barrier_init(uint64_t *barrier, int arrivals) {
    const hopper_phase phase = {(uint16_t)arrivals, (uint16_t)arrivals, 0, 0};
    memcpy(barrier, &phase, sizeof phase);
}
static inline void hopper_barrier_publish() {
}
static inline void hopper_publish() {
}
static inline void hopper_arrive(uint64_t *barrier) {
    hopper_change(barrier, 1, 0);
}
static inline void hopper_expect(uint64_t *barrier, int bytes) {
    hopper_change(barrier, 1, bytes);
}

/* ---- the copy engine ---- */

/* The place of a byte of a panel with rows of `row_bytes`. */
static inline char *hopper_swizzled(uint32_t at, int row_bytes) {
    const uint32_t mask = row_bytes == 128 ? 0x70 : row_bytes == 64 ? 0x30 : 0x10;
    return (char *)kin_emulated_shared() + (at ^ (at >> 3 & mask));
}

struct hopper_pending {
    uint64_t *barrier;
    uint32_t to;
    hopper_map map; /* a copy: the thread may have ended when it is needed */
    int at[5];
};
inline std::vector<hopper_pending> &hopper_pending_copies() {
    static std::vector<hopper_pending> all;
    return all;
}

static inline int hopper_box(const hopper_map &map) {
    int count = 1;
    for (int i = 0; i < 5; i++) count *= (int)map.box[i];
    return count;
}

/* Does the copy; spoil: writes NaN instead. */
static inline void hopper_do_copy(const hopper_pending &copy, bool spoil) {
    const hopper_map &map = copy.map;
    const int width = (int)map.box[0], count = hopper_box(map);
    for (int e = 0; e < count; e++) {
        int64_t from = 0;
        bool inside = true;
        for (int i = 0, rest = e; i < 5; i++) {
            const int64_t place = copy.at[i] + rest % (int)map.box[i];
            rest /= (int)map.box[i];
            inside = inside && place >= 0 && place < (int64_t)map.dims[i];
            from += place * (i == 0 ? 2 : (int64_t)map.strides[i - 1]);
        }
        uint16_t value = 0;
        if (spoil) value = 0xffff;
        else if (inside) memcpy(&value, (const char *)map.data + from, 2);
        memcpy(hopper_swizzled(copy.to + (uint32_t)e * 2, width * 2), &value, 2);
    }
}

static inline void hopper_copy(void *to, const hopper_map *map, uint64_t *barrier, int c0, int c1,
                               int c2, int c3, int c4) {
    const hopper_pending copy = {barrier, hopper_address(to), *map, {c0, c1, c2, c3, c4}};
    hopper_do_copy(copy, true);
    hopper_pending_copies().push_back(copy);
}

static inline void hopper_wait(uint64_t *barrier, int parity) {
    std::vector<hopper_pending> &all = hopper_pending_copies();
    for (unsigned turns = 0;; turns++) {
        hopper_phase phase;
        memcpy(&phase, barrier, sizeof phase);
        if (phase.parity != (uint32_t)parity) return;
        for (size_t i = 0; i < all.size();) {
            if (all[i].barrier != barrier) {
                i++;
                continue;
            }
            const hopper_pending copy = all[i];
            all.erase(all.begin() + (ptrdiff_t)i);
            hopper_do_copy(copy, false);
            hopper_change(barrier, 0, -2 * hopper_box(copy.map));
        }
        kin_emulated_pause(turns);
    }
}

template <int N> static inline void hopper_fewer_registers() {
}
template <int N> static inline void hopper_more_registers() {
}

/* ---- wgmma ---- */

static inline void hopper_begin() {
}
static inline void hopper_close() {
}
template <int LEFT> static inline void hopper_join() {
}
template <typename R> static inline void hopper_pin(R &) {
}

/* An operand's element: `far` counts rows of a panel, `near` elements along them. */
template <typename T> static inline float hopper_element(uint64_t panel, int far, int near) {
    const uint32_t start = (uint32_t)(panel & 0x3fff) << 4;
    const uint32_t leading = (uint32_t)(panel >> 16 & 0x3fff) << 4;
    const uint32_t stride = (uint32_t)(panel >> 32 & 0x3fff) << 4;
    const int row_bytes = 256 >> (panel >> 62), width = row_bytes / 2;
    const uint32_t at = start + (uint32_t)(near / width) * leading +
                        (uint32_t)(near % width * 2 + far % 8 * row_bytes) +
                        (uint32_t)(far / 8) * stride;
    T value;
    memcpy(&value, hopper_swizzled(at, row_bytes), 2);
    return kin_value(value);
}

template <typename T, int N>
static inline void hopper_scores(float (&c)[N][4], uint64_t left, uint64_t right, int add) {
    const int thread = (int)kin_emulated_now.number % 128;
    const int warp = thread / 32, g = thread % 32 / 4, t = thread % 4;
    float rows[2][16], columns[2][16];
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 16; k++)
            rows[half][k] = hopper_element<T>(left, warp * 16 + half * 8 + g, k);
    for (int n = 0; n < N; n++) {
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < 16; k++)
                columns[half][k] = hopper_element<T>(right, n * 8 + 2 * t + half, k);
        for (int i = 0; i < 4; i++) {
            float sum = add ? c[n][i] : 0.0f;
            for (int k = 0; k < 16; k++) sum += rows[i / 2][k] * columns[i % 2][k];
            c[n][i] = sum;
        }
    }
}

template <typename T, int N>
static inline void hopper_add(float (&c)[N][4], const uint32_t (&a)[4], uint64_t right) {
    const int lane = (int)kin_emulated_lane(), g = lane / 4, t = lane % 4;
    uint32_t all[32][4];
    float rows[2][16], columns[2][16];
    kin_emulated_exchange(0xffffffffu, a, sizeof a, all);
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 16; k++) {
            const uint32_t pair = all[g * 4 + k % 8 / 2][half + k / 8 * 2];
            rows[half][k] = kin_value(T{(uint16_t)(pair >> k % 2 * 16)});
        }
    for (int n = 0; n < N; n++) {
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < 16; k++)
                columns[half][k] = hopper_element<T>(right, k, n * 8 + 2 * t + half);
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 16; k++) c[n][i] += rows[i / 2][k] * columns[i % 2][k];
    }
}

#endif
