/* What instructions of arithmetic do for one lane. Approximate functions are the host's library's.
 * For scalar.cc alone. */
#ifndef KIN_BACKENDS_CUDA_PTX_LANE_H
#define KIN_BACKENDS_CUDA_PTX_LANE_H

#include "backends/cuda/ptx/machine.h"

#include <fenv.h>
#include <limits>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

namespace ptx {

namespace {

template <typename T, typename F> inline T bits_as(F value) {
    T result;
    static_assert(sizeof result == sizeof value, "bits of one size");
    memcpy(&result, &value, sizeof result);
    return result;
}

/* ---- numbers ---- */

template <typename T> T same(T a) {
    return a;
}
template <typename T> T add(T a, T b) {
    return (T)(a + b);
}
template <typename T> T sub(T a, T b) {
    return (T)(a - b);
}
template <typename T> T mul(T a, T b) {
    return (T)(a * b);
}
inline uint16_t mul16(uint16_t a, uint16_t b) {
    return (uint16_t)((uint32_t)a * b);
}
template <typename T> T mad(T a, T b, T c) {
    return (T)(a * b + c);
}
template <typename T> T bit_and(T a, T b) {
    return (T)(a & b);
}
template <typename T> T bit_or(T a, T b) {
    return (T)(a | b);
}
template <typename T> T bit_xor(T a, T b) {
    return (T)(a ^ b);
}
template <typename T> T bit_not(T a) {
    return (T)~a;
}
uint32_t first_of(uint32_t a, uint32_t) {
    return a;
}
uint32_t not_first(uint32_t a, uint32_t) {
    return ~a;
}
template <typename T> T negative(T a) {
    return (T)(0 - a);
}
template <typename T> T int_min(T a, T b) {
    return a < b ? a : b;
}
template <typename T> T int_max(T a, T b) {
    return a > b ? a : b;
}
template <typename T> T int_abs(T a) {
    return a < 0 ? (T)(0 - (typename std::make_unsigned<T>::type)a) : a;
}
/* By zero, as the hardware does as a rule: all ones; the rest is the dividend. */
template <typename T> T quotient(T a, T b) {
    if (b == 0) return (T) ~(T)0;
    if (b == (T)-1 && (T)-1 < 0) return (T)(0 - (uint64_t)a);
    return (T)(a / b);
}
template <typename T> T remainder_of(T a, T b) {
    if (b == 0) return a;
    if (b == (T)-1 && (T)-1 < 0) return 0;
    return (T)(a % b);
}
template <typename W, typename T> W wide(T a, T b) {
    return (W)((W)a * (W)b);
}
template <typename W, typename T> W wide_mad(T a, T b, W c) {
    return (W)((uint64_t)((W)a * (W)b) + (uint64_t)c);
}
uint32_t high32(uint32_t a, uint32_t b) {
    return (uint32_t)((uint64_t)a * b >> 32);
}
int32_t high32s(int32_t a, int32_t b) {
    return (int32_t)((int64_t)a * b >> 32);
}
uint64_t high64(uint64_t a, uint64_t b) {
    return (uint64_t)((unsigned __int128)a * b >> 64);
}
int64_t high64s(int64_t a, int64_t b) {
    return (int64_t)((__int128)a * b >> 64);
}
template <typename T> T left(T a, uint32_t by) {
    return by >= 8 * sizeof(T) ? (T)0 : (T)(a << by);
}
template <typename T> T right(T a, uint32_t by) {
    return (T)(a >> (by >= 8 * sizeof(T) ? 8 * sizeof(T) - 1 : by));
}
template <typename T> T right_unsigned(T a, uint32_t by) {
    return by >= 8 * sizeof(T) ? (T)0 : (T)(a >> by);
}
uint32_t reversed(uint32_t a) {
    uint32_t result = 0;
    for (int b = 0; b < 32; b++) result |= (a >> b & 1u) << (31 - b);
    return result;
}
uint32_t leading(uint32_t a) {
    return a == 0 ? 32 : (uint32_t)__builtin_clz(a);
}
uint32_t leading64(uint64_t a) {
    return a == 0 ? 64 : (uint32_t)__builtin_clzll(a);
}
uint32_t ones(uint32_t a) {
    return (uint32_t)__builtin_popcount(a);
}
uint32_t ones64(uint64_t a) {
    return (uint32_t)__builtin_popcountll(a);
}
uint32_t find_bit(uint32_t a) {
    return a == 0 ? ALL : 31 - leading(a);
}
uint32_t find_shift(uint32_t a) {
    return a == 0 ? ALL : leading(a);
}
uint32_t permute(uint32_t a, uint32_t b, uint32_t how) {
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t result = 0;
    for (int n = 0; n < 4; n++) {
        const uint32_t one = how >> 4 * n & 15;
        uint32_t byte = (uint32_t)(both >> 8 * (one & 7)) & 255;
        if ((one & 8) != 0) byte = (byte & 128) != 0 ? 255 : 0;
        result |= byte << 8 * n;
    }
    return result;
}
uint32_t funnel_left_wrap(uint32_t a, uint32_t b, uint32_t c) {
    return (uint32_t)(((uint64_t)b << 32 | a) << (c & 31) >> 32);
}
uint32_t funnel_right_wrap(uint32_t a, uint32_t b, uint32_t c) {
    return (uint32_t)(((uint64_t)b << 32 | a) >> (c & 31));
}
template <typename T> T extract(T a, uint32_t position, uint32_t length) {
    const uint32_t most = 8 * sizeof(T), p = position & 255, n = length & 255;
    if (p >= most || n == 0) return 0;
    const T moved = (T)(a >> p);
    return n >= most ? moved : (T)(moved & (T)(((T)1 << n) - 1));
}

template <typename T> bool eq(T a, T b) {
    return a == b;
}
template <typename T> bool ne(T a, T b) {
    return a != b;
}
template <typename T> bool lt(T a, T b) {
    return a < b;
}
template <typename T> bool le(T a, T b) {
    return a <= b;
}
template <typename T> bool gt(T a, T b) {
    return a > b;
}
template <typename T> bool ge(T a, T b) {
    return a >= b;
}
template <typename T> bool unordered(T a, T b) {
    return a != a || b != b;
}
template <typename T> bool ordered(T a, T b) {
    return a == a && b == b;
}
template <typename T> bool ordered_ne(T a, T b) {
    return ordered(a, b) && a != b;
}
template <typename T> bool equ(T a, T b) {
    return unordered(a, b) || a == b;
}
template <typename T> bool ltu(T a, T b) {
    return !(a >= b);
}
template <typename T> bool leu(T a, T b) {
    return !(a > b);
}
template <typename T> bool gtu(T a, T b) {
    return !(a <= b);
}
template <typename T> bool geu(T a, T b) {
    return !(a < b);
}

inline float flush(float a) {
    return fabsf(a) < 0x1p-126f ? copysignf(0.0f, a) : a;
}
float fused(float a, float b, float c) {
    return fmaf(a, b, c);
}
double fused64(double a, double b, double c) {
    return fma(a, b, c);
}
template <int MODE> float fused_towards(float a, float b, float c) {
    const int kept = fegetround();
    volatile float x = a, y = b, z = c, result;
    fesetround(MODE);
    result = fmaf(x, y, z);
    fesetround(kept);
    return result;
}
template <typename T> T divide(T a, T b) {
    return a / b;
}
template <typename T> T absolute(T a) {
    return a < 0 || (a == 0 && std::signbit(a)) ? -a : a;
}
template <typename T> T minus(T a) {
    return -a;
}
/* Of a number and a NaN the number; +0 is above -0. */
template <typename T> T larger(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a == b ? (std::signbit(a) ? b : a) : a > b ? a : b;
}
template <typename T> T smaller(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}
float sign_of(float a, float b) {
    return copysignf(b, a);
}
float one_over(float a) {
    return 1.0f / a;
}
float one_over_flushed(float a) {
    return flush(1.0f / flush(a));
}
double one_over64(double a) {
    return 1.0 / a;
}
float root(float a) {
    return sqrtf(a);
}
double root64(double a) {
    return sqrt(a);
}
float one_over_root(float a) {
    return (float)(1.0 / sqrt((double)a));
}
double one_over_root64(double a) {
    return 1.0 / sqrt(a);
}
float power2(float a) {
    return exp2f(a);
}
float power2_flushed(float a) {
    return flush(exp2f(flush(a)));
}
float log2_of(float a) {
    return log2f(a);
}
float log2_flushed(float a) {
    return log2f(flush(a));
}
float sine(float a) {
    return sinf(a);
}
float cosine(float a) {
    return cosf(a);
}
float tanh_of(float a) {
    return tanhf(a);
}
float add_flushed(float a, float b) {
    return flush(flush(a) + flush(b));
}
float mul_flushed(float a, float b) {
    return flush(flush(a) * flush(b));
}
float div_flushed(float a, float b) {
    return flush(flush(a) / flush(b));
}

/* ---- conversions ---- */

template <typename D, typename A> D cut(A a) {
    return (D)a;
}
template <typename D> D from8(uint16_t a) {
    return (D)(uint8_t)a;
}
template <typename D> D from8s(uint16_t a) {
    return (D)(int8_t)a;
}
/* Towards an integer: beyond the type the nearest it has, NaN is 0. */
template <typename D, typename A, A (*ROUND)(A)> D to_integer(A a) {
    const A rounded = ROUND(a);
    if (a != a) return 0;
    if (rounded <= (A)std::numeric_limits<D>::min()) return std::numeric_limits<D>::min();
    if (rounded >= (A)std::numeric_limits<D>::max()) return std::numeric_limits<D>::max();
    return (D)rounded;
}
float near32(float a) {
    return rintf(a);
}
float zero32(float a) {
    return truncf(a);
}
float down32(float a) {
    return floorf(a);
}
float up32(float a) {
    return ceilf(a);
}
double near64(double a) {
    return rint(a);
}
double zero64(double a) {
    return trunc(a);
}
double down64(double a) {
    return floor(a);
}
double up64(double a) {
    return ceil(a);
}
float saturated(float a) {
    return a > 0 ? (a < 1 ? a : 1.0f) : 0.0f;
}

float from_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, rest = h & 1023;
    if (exponent == 31) return bits_as<float>(sign | 0x7f800000u | rest << 13);
    if (exponent != 0) return bits_as<float>(sign | (exponent + 112) << 23 | rest << 13);
    return copysignf((float)rest * 0x1p-24f, bits_as<float>(sign));
}
/* To the nearest, ties to even; beyond 65504 infinity. */
uint16_t to_f16(float a) {
    const uint32_t bits = bits_as<uint32_t>(a);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const float size = fabsf(a);
    if (a != a) return 0x7fff;
    if (size >= 65520.0f) return (uint16_t)(sign | 0x7c00);
    if (size < 0x1p-14f) return (uint16_t)(sign | (uint16_t)rintf(size * 0x1p24f));
    const uint32_t rounded = (bits & 0x7fffffffu) + 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (uint16_t)((rounded >> 13) - (112u << 10)));
}
float from_bf16(uint16_t h) {
    return bits_as<float>((uint32_t)h << 16);
}
uint16_t to_bf16(float a) {
    const uint32_t bits = bits_as<uint32_t>(a);
    if (a != a) return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
uint32_t to_f16_pair(float high, float low) {
    return (uint32_t)to_f16(high) << 16 | to_f16(low);
}
uint32_t to_bf16_pair(float high, float low) {
    return (uint32_t)to_bf16(high) << 16 | to_bf16(low);
}

} // namespace

} // namespace ptx
#endif
