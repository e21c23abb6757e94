/* Instructions of a warp for matrices (sm_80 and later), behind small functions, each with a second
 * body for the emulator that follows the PTX ISA's tables of who holds what. So the same kernel
 * runs there, and a wrong index or fragment gives a wrong result.
 *
 * Fragments of m16n8k16, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for
 * mma.m16n8k16"); two elements of 16 bits share a register, the lower one first:
 *
 *   a0  A[g][2t, 2t+1]   a1  A[g+8][2t, 2t+1]   a2  A[g][2t+8, 2t+9]   a3  A[g+8][2t+8, 2t+9]
 *   b0  B[2t, 2t+1][g]   b1  B[2t+8, 2t+9][g]
 *   c0, c1  C[g][2t, 2t+1]   c2, c3  C[g+8][2t, 2t+1]
 *
 * so that two neighbouring tiles of C, rounded and packed, are one A: the second product of
 * attention takes the first one's result without a trip through memory. */
#ifndef KIN_BACKENDS_CUDA_MMA_CUH
#define KIN_BACKENDS_CUDA_MMA_CUH

#include "backends/cuda/device.cuh"

#include <type_traits>
#ifdef KIN_CUDA_EMULATED
#include <vector>
#endif

template <typename T> constexpr bool kin_is_bf16 = std::is_same<T, kin_bf16>::value;

/* Two floats rounded to T, a kin_f16 or kin_bf16; `low` comes first in memory. */
template <typename T> __device__ __forceinline__ uint32_t kin_pair(float low, float high) {
#ifdef KIN_CUDA_EMULATED
    return kin_rounded<T>(low).bits | (uint32_t)kin_rounded<T>(high).bits << 16;
#else
    uint32_t pair;
    if (kin_is_bf16<T>) asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    else asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

/* 2^x to about 2 units of the last place; results below 2^-126 are 0. */
__device__ __forceinline__ float kin_exp2(float x) {
#ifdef KIN_CUDA_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* c += a b, where a is 16 x 16, b 16 x 8 and c 16 x 8; products and sums in f32. */
template <typename T>
__device__ __forceinline__ void kin_mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
#ifdef KIN_CUDA_EMULATED
    struct {
        float a[8], b[4];
    } mine, all[32];
    const uint32_t b[2] = {b0, b1};
    for (int i = 0; i < 8; i++) mine.a[i] = kin_value(T{(uint16_t)(a[i / 2] >> i % 2 * 16)});
    for (int i = 0; i < 4; i++) mine.b[i] = kin_value(T{(uint16_t)(b[i / 2] >> i % 2 * 16)});
    kin_emulated_exchange(0xffffffffu, &mine, sizeof mine, all);
    const int lane = (int)kin_emulated_lane(), g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            const float left = all[g * 4 + k % 8 / 2].a[(i / 2 + k / 8 * 2) * 2 + k % 2];
            sum += left * all[(2 * t + i % 2) * 4 + k % 8 / 2].b[k / 8 * 2 + k % 2];
        }
        c[i] += sum;
    }
#else
    if (kin_is_bf16<T>)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/* Four matrices of 8 rows of 16 bytes from shared memory: lane i names row i % 8 of matrix i / 8.
 * out[m] holds elements [g][2t, 2t+1] of matrix m; TRANSPOSED: [2t, 2t+1][g]. */
template <bool TRANSPOSED>
__device__ __forceinline__ void kin_ldmatrix(uint32_t out[4], const uint16_t *row) {
#ifdef KIN_CUDA_EMULATED
    uint16_t mine[8], all[32][8];
    memcpy(mine, row, sizeof mine);
    kin_emulated_exchange(0xffffffffu, mine, sizeof mine, all);
    const int lane = (int)kin_emulated_lane(), g = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; m++) {
        const uint32_t low = TRANSPOSED ? all[m * 8 + 2 * t][g] : all[m * 8 + g][2 * t];
        const uint32_t high = TRANSPOSED ? all[m * 8 + 2 * t + 1][g] : all[m * 8 + g][2 * t + 1];
        out[m] = low | high << 16;
    }
#else
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(address)
                     : "memory");
#endif
}

/* ---- copies to shared memory that go on beside the computing ---- */

#ifdef KIN_CUDA_EMULATED
/* A copy spoils its target at once and arrives when it is waited for: a kernel that reads too
 * early, or has something overwritten that others still read, gives NaN. */
struct kin_emulated_copies {
    struct copy {
        void *to;
        const void *from; /* NULL: zeros */
    };
    std::vector<std::vector<copy>> groups; /* closed ones, oldest first */
    std::vector<copy> open;
};
inline kin_emulated_copies &kin_emulated_copies_mine() {
    static kin_emulated_copies all[1024];
    return all[kin_emulated_now.number];
}
#endif

/* 16 bytes, both addresses multiples of 16; zeros instead where not `inside` (`from` is not
 * read). */
__device__ __forceinline__ void kin_copy16(void *to, const void *from, bool inside) {
#ifdef KIN_CUDA_EMULATED
    if (!kin_emulated_is_aligned(to, 16) || !kin_emulated_is_aligned(from, 16)) return;
    memset(to, 0xff, 16);
    kin_emulated_copies_mine().open.push_back({to, inside ? from : nullptr});
#else
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(inside ? 16 : 0)
                 : "memory");
#endif
}

/* Closes a group of copies. */
__device__ __forceinline__ void kin_copy_close() {
#ifdef KIN_CUDA_EMULATED
    kin_emulated_copies &mine = kin_emulated_copies_mine();
    mine.groups.push_back(mine.open);
    mine.open.clear();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most the LEFT groups closed last are still under way; for this thread's own
 * copies, so that a barrier must follow. */
template <int LEFT> __device__ __forceinline__ void kin_copy_wait() {
#ifdef KIN_CUDA_EMULATED
    kin_emulated_copies &mine = kin_emulated_copies_mine();
    while ((int)mine.groups.size() > LEFT) {
        for (const kin_emulated_copies::copy &copy : mine.groups.front()) {
            if (copy.from != nullptr) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
        mine.groups.erase(mine.groups.begin());
    }
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

/* ---- fragments from tiles in shared memory, rows of PITCH elements ---- */

/* Rows 0 .. 15 and columns 0 .. 15 at `tile` as an A. PITCH is a multiple of 8, and an odd one so
 * that the eight rows of a matrix lie in different banks. */
template <int PITCH>
__device__ __forceinline__ void kin_load_a(uint32_t out[4], const uint16_t *tile, int lane) {
    kin_ldmatrix<false>(out, tile + (lane % 16) * PITCH + lane / 16 * 8);
}

/* Two tiles of B next to one another, 16 x 16, from rows that are B's columns (k goes along a row):
 * out[0], out[1] are the first tile's. */
template <int PITCH>
__device__ __forceinline__ void kin_load_b(uint32_t out[4], const uint16_t *tile, int lane) {
    kin_ldmatrix<false>(out, tile + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8);
}

/* The same from rows that are B's rows (k goes down). */
template <int PITCH>
__device__ __forceinline__ void kin_load_b_rows(uint32_t out[4], const uint16_t *tile, int lane) {
    kin_ldmatrix<true>(out, tile + (lane % 16) * PITCH + lane / 16 * 8);
}

/* Sums of MT x N matrices begin at 0. */
template <int MT, int N> __device__ __forceinline__ void kin_mma_clear(float (&x)[MT][N][4]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[m][n][i] = 0.0f;
}

#endif
