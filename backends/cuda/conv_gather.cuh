/* What the convolutions of 16 bits by mma share: products of tiles in shared memory, and how the
 * right operand is gathered. Each thread takes some elements of a step into registers while the
 * step before is computed, and puts them into shared memory afterwards.
 *
 * Words: where the stride along columns is 1 or 2 and rows have a multiple of 8 columns, eight
 * neighbouring positions read eight neighbouring elements (every second one of 16), or those
 * `shift` further: 16 or 32 bytes at a place that is a multiple of 16, and one word beside them.
 * Otherwise elements come one by one. */
#ifndef KIN_BACKENDS_CUDA_CONV_GATHER_CUH
#define KIN_BACKENDS_CUDA_CONV_GATHER_CUH

#include "backends/cuda/conv.cuh"
#include "backends/cuda/mma.cuh"

enum { CONV_MOST_SHIFT = 2 };

/* ---- words ---- */

template <int STRIDE> struct conv_words {
    uint4 own[STRIDE];
    uint32_t beside; /* in front of them if the shift is negative, else behind */
};

/* Where the words of position `at` (a multiple of 8) lie at a tap. */
struct conv_words_place {
    int first, shift;
    int own; /* how many elements there are; fewer: padding */
    bool beside;
};

template <bool INPUT, int STRIDE>
static __device__ __forceinline__ conv_words_place conv_words_of(const conv_args &a,
                                                                 const int (&at)[3], int tap) {
    int taps[3];
    conv_split(tap, a.kernel, taps);
    const conv_frames frames =
        INPUT
            ? conv_frames_to(at[0], taps[0], a.before[0], a.stride[0], a.from[0], false)
            : conv_frames_from(at[0], taps[0], a.before[0], a.stride[0], a.from[0], a.causal != 0);
    const int sign = INPUT ? -1 : 1, column = at[2] * STRIDE;
    const int line = at[1] * (INPUT ? 1 : a.stride[1]) + sign * (taps[1] - a.before[1]);
    const bool there = frames.count > 0 && line >= 0 && line < a.from[1];
    conv_words_place place;
    place.shift = sign * (taps[2] - a.before[2]);
    place.first = (frames.first * a.from[1] + line) * a.from[2] + column;
    place.own = there ? a.from[2] - column : 0;
    const int beside = column + (place.shift < 0 ? -2 : 8 * STRIDE);
    place.beside = there && place.shift != 0 && beside >= 0 && beside < a.from[2];
    return place;
}

template <int STRIDE>
static __device__ __forceinline__ void conv_fetch(conv_words<STRIDE> &words,
                                                  const uint16_t *channel,
                                                  const conv_words_place &place, bool there) {
    const uint16_t *from = channel + place.first;
    words.beside = 0;
#pragma unroll
    for (int i = 0; i < STRIDE; i++) {
        words.own[i] = make_uint4(0, 0, 0, 0);
        if (there && place.own > 8 * i)
            words.own[i] = *reinterpret_cast<const uint4 *>(from + 8 * i);
    }
    if (there && place.beside)
        words.beside =
            *reinterpret_cast<const uint32_t *>(from + (place.shift < 0 ? -2 : 8 * STRIDE));
}

/* The second half of `first` and the first one of `second`; the first halves; the second ones. */
static __device__ __forceinline__ uint32_t conv_halves(uint32_t first, uint32_t second) {
    return first >> 16 | second << 16;
}
static __device__ __forceinline__ uint32_t conv_even(uint32_t first, uint32_t second) {
    return (first & 0xffffu) | second << 16;
}
static __device__ __forceinline__ uint32_t conv_odd(uint32_t first, uint32_t second) {
    return first >> 16 | (second & 0xffff0000u);
}

/* The eight elements that were wanted; the shift is the same for all threads. */
static __device__ __forceinline__ uint4 conv_shifted(const conv_words<1> &words, int shift) {
    const uint4 w = words.own[0];
    const uint32_t beside = words.beside;
    switch (shift) {
    case -2:
        return make_uint4(beside, w.x, w.y, w.z);
    case -1:
        return make_uint4(conv_halves(beside, w.x), conv_halves(w.x, w.y), conv_halves(w.y, w.z),
                          conv_halves(w.z, w.w));
    case 1:
        return make_uint4(conv_halves(w.x, w.y), conv_halves(w.y, w.z), conv_halves(w.z, w.w),
                          conv_halves(w.w, beside));
    case 2:
        return make_uint4(w.y, w.z, w.w, beside);
    default:
        return w;
    }
}
static __device__ __forceinline__ uint4 conv_shifted(const conv_words<2> &words, int shift) {
    const uint4 v = words.own[0], w = words.own[1];
    const uint32_t beside = words.beside;
    switch (shift) {
    case -2:
        return make_uint4(conv_even(beside, v.x), conv_even(v.y, v.z), conv_even(v.w, w.x),
                          conv_even(w.y, w.z));
    case -1:
        return make_uint4(conv_odd(beside, v.x), conv_odd(v.y, v.z), conv_odd(v.w, w.x),
                          conv_odd(w.y, w.z));
    case 1:
        return make_uint4(conv_odd(v.x, v.y), conv_odd(v.z, v.w), conv_odd(w.x, w.y),
                          conv_odd(w.z, w.w));
    case 2:
        return make_uint4(conv_even(v.y, v.z), conv_even(v.w, w.x), conv_even(w.y, w.z),
                          conv_even(w.w, beside));
    default:
        return make_uint4(conv_even(v.x, v.y), conv_even(v.z, v.w), conv_even(w.x, w.y),
                          conv_even(w.z, w.w));
    }
}

/* The stride along columns, 1 or 2, if all taps come in words: x at `data`, gathered for conv (or
 * conv_grad_input); else 0. */
static inline int conv_has_words(const conv_args *a, bool input) {
    const bool has =
        a->from[2] % 8 == 0 && a->size[2] % 8 == 0 && a->before[2] <= CONV_MOST_SHIFT &&
        a->kernel[2] - 1 - a->before[2] <= CONV_MOST_SHIFT && (uintptr_t)a->x % 16 == 0;
    if (!has || (input && (a->causal || a->stride[1] != 1 || a->stride[2] != 1))) return 0;
    return a->stride[2] <= 2 ? a->stride[2] : 0;
}

/* ---- tiles of channels by positions, for conv and conv_grad_input ---- */

/* Elements of one position: their sum, where several frames go there. */
template <typename T>
static __device__ __forceinline__ uint32_t conv_element(const uint16_t *channel,
                                                        const conv_source &source) {
    if (source.count == 0) return 0;
    if (source.count == 1) return channel[source.first];
    float sum = 0.0f;
    for (int i = 0; i < source.count; i++)
        sum += kin_value(T{channel[source.first + (int64_t)i * source.jump]});
    return kin_rounded<T>(sum).bits;
}

/* CHANNELS x POSITIONS by THREADS; rows of the tile have PITCH elements. Each thread has 8
 * positions of some channels. */
template <int STRIDE, bool INPUT, int CHANNELS, int POSITIONS, int THREADS, int PITCH>
struct conv_gather_words {
    enum { APART = THREADS / (POSITIONS / 8), OWN = CHANNELS / APART };
    const uint16_t *sample;
    int at[3];
    conv_words_place place;
    conv_words<STRIDE> words[OWN];

    __device__ __forceinline__ void begin(const conv_args &a, int64_t column) {
        const int64_t columns = (int64_t)a.batch * a.positions;
        const int64_t mine = min(column + (int)threadIdx.x % (POSITIONS / 8) * 8, columns - 8);
        conv_split((int)(mine % a.positions), a.size, at);
        sample = static_cast<const uint16_t *>(a.x) +
                 mine / a.positions * ((int64_t)a.channels * a.plane);
    }
    __device__ __forceinline__ void turn_to(const conv_args &a, int tap) {
        place = conv_words_of<INPUT, STRIDE>(a, at, tap);
    }
    __device__ __forceinline__ void fetch(const conv_args &a, int channel) {
        const int first = channel + (int)threadIdx.x / (POSITIONS / 8);
#pragma unroll
        for (int i = 0; i < OWN; i++)
            conv_fetch(words[i], sample + (int64_t)(first + i * APART) * a.plane, place,
                       first + i * APART < a.channels);
    }
    __device__ __forceinline__ void put(uint16_t *tile) const {
        const int row = (int)threadIdx.x / (POSITIONS / 8);
        const int column = (int)threadIdx.x % (POSITIONS / 8) * 8;
#pragma unroll
        for (int i = 0; i < OWN; i++)
            *reinterpret_cast<uint4 *>(tile + (row + i * APART) * PITCH + column) =
                conv_shifted(words[i], place.shift);
    }
};

/* The same by single elements: each thread has 2 positions. */
template <typename T, bool INPUT, int CHANNELS, int POSITIONS, int THREADS, int PITCH>
struct conv_gather_elements {
    enum { APART = THREADS / (POSITIONS / 2), OWN = CHANNELS / APART };
    const uint16_t *sample[2];
    int at[2][3];
    conv_source source[2];
    uint32_t pairs[OWN]; /* the first position's in the lower half */

    __device__ __forceinline__ void begin(const conv_args &a, int64_t column) {
        const int64_t columns = (int64_t)a.batch * a.positions;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int64_t mine =
                min(column + (int)threadIdx.x % (POSITIONS / 2) * 2 + i, columns - 1);
            conv_split((int)(mine % a.positions), a.size, at[i]);
            sample[i] = static_cast<const uint16_t *>(a.x) +
                        mine / a.positions * ((int64_t)a.channels * a.plane);
        }
    }
    __device__ __forceinline__ void turn_to(const conv_args &a, int tap) {
        source[0] = conv_place_of<INPUT>(a, at[0], tap);
        source[1] = conv_place_of<INPUT>(a, at[1], tap);
    }
    __device__ __forceinline__ void fetch(const conv_args &a, int channel) {
        const int first = channel + (int)threadIdx.x / (POSITIONS / 2);
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            pairs[i] = 0;
            if (first + i * APART < a.channels) {
                const int64_t skip = (int64_t)(first + i * APART) * a.plane;
                pairs[i] = conv_element<T>(sample[0] + skip, source[0]) |
                           conv_element<T>(sample[1] + skip, source[1]) << 16;
            }
        }
    }
    __device__ __forceinline__ void put(uint16_t *tile) const {
        const int row = (int)threadIdx.x / (POSITIONS / 2);
        const int column = (int)threadIdx.x % (POSITIONS / 2) * 2;
#pragma unroll
        for (int i = 0; i < OWN; i++)
            *reinterpret_cast<uint32_t *>(tile + (row + i * APART) * PITCH + column) = pairs[i];
    }
};

/* ---- tiles of channels by positions of one tap, for conv_grad_weight: [channel][position] ---- */

/* CHANNELS x POSITIONS by THREADS. Each thread has 8 positions of some channels. */
template <int STRIDE, int CHANNELS, int POSITIONS, int THREADS, int PITCH>
struct conv_gather_rows_of_words {
    enum { ACROSS = POSITIONS / 8, APART = THREADS / ACROSS, OWN = CHANNELS / APART };
    int shift;
    conv_words<STRIDE> words[OWN];

    __device__ __forceinline__ void fetch(const conv_args &a, int tap, int channel, int sample,
                                          int position) {
        const int mine = position + (int)threadIdx.x % ACROSS * 8;
        const int first = channel + (int)threadIdx.x / ACROSS;
        const uint16_t *x =
            static_cast<const uint16_t *>(a.x) + (int64_t)sample * a.channels * a.plane;
        int at[3];
        conv_split(min(mine, a.positions - 8), a.size, at);
        const conv_words_place place = conv_words_of<false, STRIDE>(a, at, tap);
        shift = place.shift;
#pragma unroll
        for (int i = 0; i < OWN; i++)
            conv_fetch(words[i], x + (int64_t)(first + i * APART) * a.plane, place,
                       mine < a.positions && first + i * APART < a.channels);
    }
    __device__ __forceinline__ void put(uint16_t *tile) const {
        const int row = (int)threadIdx.x / ACROSS, column = (int)threadIdx.x % ACROSS * 8;
#pragma unroll
        for (int i = 0; i < OWN; i++)
            *reinterpret_cast<uint4 *>(tile + (row + i * APART) * PITCH + column) =
                conv_shifted(words[i], shift);
    }
};

/* The same by single elements: each lane has one position, each warp some channels. */
template <int CHANNELS, int POSITIONS, int THREADS, int PITCH> struct conv_gather_rows_of_elements {
    static_assert(POSITIONS == 32, "a position for each lane");
    enum { APART = THREADS / 32, OWN = CHANNELS / APART };
    uint16_t elements[OWN];

    __device__ __forceinline__ void fetch(const conv_args &a, int tap, int channel, int sample,
                                          int position) {
        const int mine = position + (int)threadIdx.x % 32;
        const int first = channel + (int)threadIdx.x / 32;
        int at[3];
        conv_split(min(mine, a.positions - 1), a.size, at);
        const conv_source source = conv_place_of<false>(a, at, tap);
        const bool there = source.count > 0 && mine < a.positions;
        const uint16_t *x = static_cast<const uint16_t *>(a.x) +
                            ((int64_t)sample * a.channels + first) * a.plane + source.first;
#pragma unroll
        for (int i = 0; i < OWN; i++)
            elements[i] = there && first + i * APART < a.channels
                              ? x[(int64_t)(i * APART) * a.plane]
                              : (uint16_t)0;
    }
    __device__ __forceinline__ void put(uint16_t *tile) const {
        const int row = (int)threadIdx.x / 32, column = (int)threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < OWN; i++) tile[(row + i * APART) * PITCH + column] = elements[i];
    }
};

/* ---- products ---- */

/* acc += left right^T of one step of BK; the warp's rows of the left tile begin at `left`, its
 * columns of the right one at `right`. BY_ROW: the right tile is [k][column], else [column][k]. */
template <typename T, int MT, int NT, int BK, int LEFT_PITCH, int RIGHT_PITCH, bool BY_ROW>
static __device__ __forceinline__ void conv_multiply(float (&acc)[MT][NT][4], const uint16_t *left,
                                                     const uint16_t *right, int lane) {
#pragma unroll
    for (int k = 0; k < BK; k += 16) {
        uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            kin_load_a<LEFT_PITCH>(a[m], left + m * 16 * LEFT_PITCH + k, lane);
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint32_t b[4];
            if (BY_ROW) kin_load_b_rows<RIGHT_PITCH>(b, right + k * RIGHT_PITCH + n * 8, lane);
            else kin_load_b<RIGHT_PITCH>(b, right + n * 8 * RIGHT_PITCH + k, lane);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                kin_mma<T>(acc[m][n], a[m], b[0], b[1]);
                kin_mma<T>(acc[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

#endif
