/* Instructions of one thread: arithmetic, comparisons, conversions. Each name has one function that
 * does it for the lanes of a warp; approximate functions are those of the host's library. */
#include "backends/cuda/ptx/lane.h"

namespace ptx {

namespace {

/* ---- for all lanes ---- */

/* A loop over lanes; all of them is what happens most often. */
#define EACH_LANE(body)                                                                            \
    if (lanes == ALL) {                                                                            \
        _Pragma("GCC ivdep") for (unsigned l = 0; l < LANES; l++) body;                            \
    } else {                                                                                       \
        for_lanes(l, lanes) body;                                                                  \
    }

template <typename D, typename A, D (*F)(A)>
void unary(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    D *d = w.get<D>(place[0]);
    const A *a = w.get<A>(place[1]);
    EACH_LANE(d[l] = F(a[l]))
}
template <typename D, typename A, typename B, D (*F)(A, B)>
void binary(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    D *d = w.get<D>(place[0]);
    const A *a = w.get<A>(place[1]);
    const B *b = w.get<B>(place[2]);
    EACH_LANE(d[l] = F(a[l], b[l]))
}
template <typename D, typename A, typename C, D (*F)(A, A, C)>
void ternary(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    D *d = w.get<D>(place[0]);
    const A *a = w.get<A>(place[1]), *b = w.get<A>(place[2]);
    const C *c = w.get<C>(place[3]);
    EACH_LANE(d[l] = F(a[l], b[l], c[l]))
}
template <typename A, bool (*F)(A, A)> void compare(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    const A *a = w.get<A>(place[1]), *b = w.get<A>(place[2]);
    uint32_t result = 0;
    for (unsigned l = 0; l < LANES; l++) result |= (uint32_t)F(a[l], b[l]) << l;
    uint32_t *d = w.get<uint32_t>(place[0]);
    *d = (*d & ~lanes) | (result & lanes);
}
template <typename T> void choose(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    T *d = w.get<T>(place[0]);
    const T *a = w.get<T>(place[1]), *b = w.get<T>(place[2]);
    const uint32_t which = *w.get<uint32_t>(place[3]);
    EACH_LANE(d[l] = (which >> l & 1u) != 0 ? a[l] : b[l])
}
/* Predicates are masks of a warp. */
template <uint32_t (*F)(uint32_t, uint32_t)>
void logic(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    uint32_t *d = w.get<uint32_t>(place[0]);
    const uint32_t result = F(*w.get<uint32_t>(place[1]), *w.get<uint32_t>(place[i.arguments - 1]));
    *d = (*d & ~lanes) | (result & lanes);
}
template <typename W, typename H> void unpack(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    H *low = w.get<H>(place[0]), *high = w.get<H>(place[1]);
    const W *from = w.get<W>(place[2]);
    for_lanes(l, lanes) {
        const W value = from[l];
        low[l] = (H)value;
        high[l] = (H)(value >> 8 * sizeof(H));
    }
}
template <typename W, typename H> void pack(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    W *to = w.get<W>(place[0]);
    const H *low = w.get<H>(place[1]), *high = w.get<H>(place[2]);
    for_lanes(l, lanes) to[l] = (W)((W)low[l] | (W)((W)high[l] << 8 * sizeof(H)));
}
/* d, a, b, c, d of one size but the last two, which are numbers of bits. */
template <typename T> void insert_bits(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    T *d = w.get<T>(place[0]);
    const T *a = w.get<T>(place[1]), *b = w.get<T>(place[2]);
    const uint32_t *position = w.get<uint32_t>(place[3]), *length = w.get<uint32_t>(place[4]);
    const uint32_t most = 8 * sizeof(T);
    for_lanes(l, lanes) {
        const uint32_t p = position[l] & 255, n = length[l] & 255;
        const T ones = n >= most ? ~(T)0 : (T)(((T)1 << n) - 1);
        const T mask = p >= most ? 0 : (T)(ones << p);
        d[l] = (T)((b[l] & ~mask) | (p >= most ? 0 : (T)(a[l] << p) & mask));
    }
}
void lop3(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    uint32_t *d = w.get<uint32_t>(place[0]);
    const uint32_t *a = w.get<uint32_t>(place[1]), *b = w.get<uint32_t>(place[2]),
                   *c = w.get<uint32_t>(place[3]), *table = w.get<uint32_t>(place[4]);
    for_lanes(l, lanes) {
        uint32_t result = 0;
        for (unsigned t = 0; t < 8; t++)
            if ((table[l] >> t & 1u) != 0)
                result |= ((t & 4) != 0 ? a[l] : ~a[l]) & ((t & 2) != 0 ? b[l] : ~b[l]) &
                          ((t & 1) != 0 ? c[l] : ~c[l]);
        d[l] = result;
    }
}

/* Sums of several words: the carry of each lane is a flag of the warp. */
enum long_sum { SUM, DIFFERENCE, LOW_PRODUCT, HIGH_PRODUCT };
template <long_sum WHAT, bool TAKES, bool GIVES>
void carried(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    uint32_t *d = w.get<uint32_t>(place[0]);
    for_lanes(l, lanes) {
        const uint64_t carry = TAKES ? w.carry >> l & 1u : 0;
        uint64_t a = w.get<uint32_t>(place[1])[l], b = w.get<uint32_t>(place[2])[l];
        if (WHAT == LOW_PRODUCT || WHAT == HIGH_PRODUCT) {
            a = WHAT == LOW_PRODUCT ? (uint32_t)(a * b) : a * b >> 32;
            b = w.get<uint32_t>(place[3])[l];
        }
        const uint64_t result = WHAT == DIFFERENCE ? a - b - carry : a + b + carry;
        d[l] = (uint32_t)result;
        if (GIVES) w.carry = (w.carry & ~(1u << l)) | (uint32_t)(result >> 32 & 1u) << l;
    }
}

void extract32(warp &w, const instruction &i, uint32_t lanes) {
    const uint32_t *place = &w.in->of->places[i.first];
    uint32_t *d = w.get<uint32_t>(place[0]);
    for_lanes(l, lanes) d[l] = extract(w.get<uint32_t>(place[1])[l], w.get<uint32_t>(place[2])[l],
                                       w.get<uint32_t>(place[3])[l]);
}

/* ---- the table ---- */

typedef std::unordered_map<std::string, scalar> table;

struct maker {
    table &t;
    void put(const std::string &name, const char *pattern, plain_fn plain) {
        t[name] = {nullptr, pattern, plain};
    }
    template <typename D, typename A, D (*F)(A)> void one(const std::string &name) {
        static const char pattern[] = {letter<D>(), letter<A>(), '\0'};
        put(name, pattern, unary<D, A, F>);
    }
    template <typename D, typename A, typename B, D (*F)(A, B)> void two(const std::string &name) {
        static const char pattern[] = {letter<D>(), letter<A>(), letter<B>(), '\0'};
        put(name, pattern, binary<D, A, B, F>);
    }
    template <typename D, typename A, typename C, D (*F)(A, A, C)>
    void three(const std::string &name) {
        static const char pattern[] = {letter<D>(), letter<A>(), letter<A>(), letter<C>(), '\0'};
        put(name, pattern, ternary<D, A, C, F>);
    }
    template <typename T> static constexpr char letter() {
        return sizeof(T) == 2 ? 'h' : sizeof(T) == 4 ? 'w' : 'd';
    }
    template <typename A, bool (*F)(A, A)> void test(const std::string &name) {
        static const char pattern[] = {'p', letter<A>(), letter<A>(), '\0'};
        put(name, pattern, compare<A, F>);
    }

    /* What all integer types have. */
    template <typename T> void integers(const std::string &type) {
        typedef typename std::make_unsigned<T>::type U;
        two<U, U, U, add<U>>("add." + type);
        two<U, U, U, sub<U>>("sub." + type);
        one<U, U, negative<U>>("neg." + type);
        two<T, T, T, quotient<T>>("div." + type);
        two<T, T, T, remainder_of<T>>("rem." + type);
        two<T, T, T, int_min<T>>("min." + type);
        two<T, T, T, int_max<T>>("max." + type);
        tests<T>(type);
        test<T, lt<T>>("setp.lt." + type);
        test<T, le<T>>("setp.le." + type);
        test<T, gt<T>>("setp.gt." + type);
        test<T, ge<T>>("setp.ge." + type);
    }
    template <typename T> void tests(const std::string &type) {
        test<T, eq<T>>("setp.eq." + type);
        test<T, ne<T>>("setp.ne." + type);
    }
    /* Of bits: these are also what a type that only holds them has. */
    template <typename U> void bits(const std::string &size) {
        two<U, U, U, bit_and<U>>("and.b" + size);
        two<U, U, U, bit_or<U>>("or.b" + size);
        two<U, U, U, bit_xor<U>>("xor.b" + size);
        one<U, U, bit_not<U>>("not.b" + size);
        two<U, U, uint32_t, left<U>>("shl.b" + size);
        two<U, U, uint32_t, right_unsigned<U>>("shr.u" + size);
        two<U, U, uint32_t, right_unsigned<U>>("shr.b" + size);
        typedef typename std::make_signed<U>::type S;
        two<S, S, uint32_t, right<S>>("shr.s" + size);
        tests<U>("b" + size);
        static const char select[] = {letter<U>(), letter<U>(), letter<U>(), 'p', '\0'};
        for (const char *kind : {"b", "u", "s", "f"}) {
            one<U, U, same<U>>(std::string("mov.") + kind + size);
            put(std::string("selp.") + kind + size, select, choose<U>);
        }
    }
    template <typename T> void floats(const std::string &type) {
        for (const char *how : {"", "rn."}) {
            two<T, T, T, add<T>>(std::string("add.") + how + type);
            two<T, T, T, sub<T>>(std::string("sub.") + how + type);
            two<T, T, T, mul<T>>(std::string("mul.") + how + type);
        }
        two<T, T, T, divide<T>>("div.rn." + type);
        two<T, T, T, larger<T>>("max." + type);
        two<T, T, T, smaller<T>>("min." + type);
        one<T, T, minus<T>>("neg." + type);
        one<T, T, absolute<T>>("abs." + type);
        tests<T>(type);
        test<T, ordered_ne<T>>("setp.ne." + type);
        test<T, lt<T>>("setp.lt." + type);
        test<T, le<T>>("setp.le." + type);
        test<T, gt<T>>("setp.gt." + type);
        test<T, ge<T>>("setp.ge." + type);
        test<T, equ<T>>("setp.equ." + type);
        test<T, ne<T>>("setp.neu." + type);
        test<T, ltu<T>>("setp.ltu." + type);
        test<T, leu<T>>("setp.leu." + type);
        test<T, gtu<T>>("setp.gtu." + type);
        test<T, geu<T>>("setp.geu." + type);
        test<T, ordered<T>>("setp.num." + type);
        test<T, unordered<T>>("setp.nan." + type);
    }
    template <typename A> void conversions(const std::string &from) {
        one<uint16_t, A, cut<uint16_t, A>>("cvt.u16." + from);
        one<int16_t, A, cut<int16_t, A>>("cvt.s16." + from);
        one<uint32_t, A, cut<uint32_t, A>>("cvt.u32." + from);
        one<int32_t, A, cut<int32_t, A>>("cvt.s32." + from);
        one<uint64_t, A, cut<uint64_t, A>>("cvt.u64." + from);
        one<int64_t, A, cut<int64_t, A>>("cvt.s64." + from);
        one<float, A, cut<float, A>>("cvt.rn.f32." + from);
        one<double, A, cut<double, A>>("cvt.rn.f64." + from);
    }
    template <typename A, A (*ROUND)(A)>
    void roundings(const std::string &how, const std::string &from) {
        one<int32_t, A, to_integer<int32_t, A, ROUND>>("cvt." + how + ".s32." + from);
        one<uint32_t, A, to_integer<uint32_t, A, ROUND>>("cvt." + how + ".u32." + from);
        one<int64_t, A, to_integer<int64_t, A, ROUND>>("cvt." + how + ".s64." + from);
        one<uint64_t, A, to_integer<uint64_t, A, ROUND>>("cvt." + how + ".u64." + from);
        one<A, A, ROUND>("cvt." + how + "." + from + "." + from);
    }
};

void put_integers(maker &m) {
    m.integers<int16_t>("s16"), m.integers<uint16_t>("u16");
    m.integers<int32_t>("s32"), m.integers<uint32_t>("u32");
    m.integers<int64_t>("s64"), m.integers<uint64_t>("u64");
    m.bits<uint16_t>("16"), m.bits<uint32_t>("32"), m.bits<uint64_t>("64");
    for (const char *sign : {"s", "u"}) {
        const std::string s = sign;
        m.two<uint16_t, uint16_t, uint16_t, mul16>("mul.lo." + s + "16");
        m.two<uint32_t, uint32_t, uint32_t, mul<uint32_t>>("mul.lo." + s + "32");
        m.two<uint64_t, uint64_t, uint64_t, mul<uint64_t>>("mul.lo." + s + "64");
        m.three<uint32_t, uint32_t, uint32_t, mad<uint32_t>>("mad.lo." + s + "32");
        m.three<uint64_t, uint64_t, uint64_t, mad<uint64_t>>("mad.lo." + s + "64");
    }
    m.two<uint32_t, uint16_t, uint16_t, wide<uint32_t, uint16_t>>("mul.wide.u16");
    m.two<int32_t, int16_t, int16_t, wide<int32_t, int16_t>>("mul.wide.s16");
    m.two<uint64_t, uint32_t, uint32_t, wide<uint64_t, uint32_t>>("mul.wide.u32");
    m.two<int64_t, int32_t, int32_t, wide<int64_t, int32_t>>("mul.wide.s32");
    m.three<uint64_t, uint32_t, uint64_t, wide_mad<uint64_t, uint32_t>>("mad.wide.u32");
    m.three<int64_t, int32_t, int64_t, wide_mad<int64_t, int32_t>>("mad.wide.s32");
    m.two<uint32_t, uint32_t, uint32_t, high32>("mul.hi.u32");
    m.two<int32_t, int32_t, int32_t, high32s>("mul.hi.s32");
    m.two<uint64_t, uint64_t, uint64_t, high64>("mul.hi.u64");
    m.two<int64_t, int64_t, int64_t, high64s>("mul.hi.s64");
    m.one<int32_t, int32_t, int_abs<int32_t>>("abs.s32");
    m.one<int64_t, int64_t, int_abs<int64_t>>("abs.s64");
    m.one<uint32_t, uint32_t, reversed>("brev.b32");
    m.one<uint32_t, uint32_t, leading>("clz.b32");
    m.one<uint32_t, uint64_t, leading64>("clz.b64");
    m.one<uint32_t, uint32_t, ones>("popc.b32");
    m.one<uint32_t, uint64_t, ones64>("popc.b64");
    m.one<uint32_t, uint32_t, find_bit>("bfind.u32");
    m.one<uint32_t, uint32_t, find_shift>("bfind.shiftamt.u32");
    m.three<uint32_t, uint32_t, uint32_t, permute>("prmt.b32");
    m.three<uint32_t, uint32_t, uint32_t, funnel_left_wrap>("shf.l.wrap.b32");
    m.three<uint32_t, uint32_t, uint32_t, funnel_right_wrap>("shf.r.wrap.b32");
    m.put("add.cc.u32", "www", carried<SUM, false, true>);
    m.put("addc.cc.u32", "www", carried<SUM, true, true>);
    m.put("addc.u32", "www", carried<SUM, true, false>);
    m.put("sub.cc.u32", "www", carried<DIFFERENCE, false, true>);
    m.put("subc.cc.u32", "www", carried<DIFFERENCE, true, true>);
    m.put("subc.u32", "www", carried<DIFFERENCE, true, false>);
    m.put("mad.lo.cc.u32", "wwww", carried<LOW_PRODUCT, false, true>);
    m.put("madc.lo.cc.u32", "wwww", carried<LOW_PRODUCT, true, true>);
    m.put("madc.lo.u32", "wwww", carried<LOW_PRODUCT, true, false>);
    m.put("mad.hi.cc.u32", "wwww", carried<HIGH_PRODUCT, false, true>);
    m.put("madc.hi.cc.u32", "wwww", carried<HIGH_PRODUCT, true, true>);
    m.put("madc.hi.u32", "wwww", carried<HIGH_PRODUCT, true, false>);
    m.put("bfi.b32", "wwwww", insert_bits<uint32_t>);
    m.put("bfi.b64", "dddww", insert_bits<uint64_t>);
    m.put("bfe.u32", "wwww", extract32);
    m.put("lop3.b32", "wwwww", lop3);
    m.put("and.pred", "ppp", logic<bit_and<uint32_t>>);
    m.put("or.pred", "ppp", logic<bit_or<uint32_t>>);
    m.put("xor.pred", "ppp", logic<bit_xor<uint32_t>>);
    m.put("not.pred", "pp", logic<not_first>);
    m.put("mov.pred", "pp", logic<first_of>);
    m.put("unpack.h", "hhw", unpack<uint32_t, uint16_t>);
    m.put("unpack.w", "wwd", unpack<uint64_t, uint32_t>);
    m.put("pack.h", "whh", pack<uint32_t, uint16_t>);
    m.put("pack.w", "dww", pack<uint64_t, uint32_t>);
}

void put_floats(maker &m) {
    m.floats<float>("f32"), m.floats<double>("f64");
    m.three<float, float, float, fused>("fma.rn.f32");
    m.three<float, float, float, fused_towards<FE_DOWNWARD>>("fma.rm.f32");
    m.three<float, float, float, fused_towards<FE_UPWARD>>("fma.rp.f32");
    m.three<float, float, float, fused_towards<FE_TOWARDZERO>>("fma.rz.f32");
    m.three<double, double, double, fused64>("fma.rn.f64");
    m.two<float, float, float, sign_of>("copysign.f32");
    for (const char *how : {"div.approx.f32", "div.full.f32"})
        m.two<float, float, float, divide<float>>(how);
    m.two<float, float, float, div_flushed>("div.approx.ftz.f32");
    m.two<float, float, float, add_flushed>("add.ftz.f32");
    m.two<float, float, float, mul_flushed>("mul.ftz.f32");
    for (const char *how : {"rcp.rn.f32", "rcp.approx.f32"}) m.one<float, float, one_over>(how);
    m.one<float, float, one_over_flushed>("rcp.approx.ftz.f32");
    m.one<double, double, one_over64>("rcp.rn.f64");
    for (const char *how : {"sqrt.rn.f32", "sqrt.approx.f32"}) m.one<float, float, root>(how);
    m.one<double, double, root64>("sqrt.rn.f64");
    m.one<float, float, one_over_root>("rsqrt.approx.f32");
    m.one<float, float, one_over_root>("rsqrt.approx.ftz.f32");
    m.one<double, double, one_over_root64>("rsqrt.approx.f64");
    m.one<float, float, power2>("ex2.approx.f32");
    m.one<float, float, power2_flushed>("ex2.approx.ftz.f32");
    m.one<float, float, log2_of>("lg2.approx.f32");
    m.one<float, float, log2_flushed>("lg2.approx.ftz.f32");
    m.one<float, float, sine>("sin.approx.f32");
    m.one<float, float, cosine>("cos.approx.f32");
    m.one<float, float, tanh_of>("tanh.approx.f32");
}

void put_conversions(maker &m) {
    m.conversions<uint16_t>("u16"), m.conversions<int16_t>("s16");
    m.conversions<uint32_t>("u32"), m.conversions<int32_t>("s32");
    m.conversions<uint64_t>("u64"), m.conversions<int64_t>("s64");
    m.one<uint16_t, uint16_t, from8<uint16_t>>("cvt.u16.u8");
    m.one<int16_t, uint16_t, from8s<int16_t>>("cvt.s16.s8");
    m.one<uint32_t, uint16_t, from8<uint32_t>>("cvt.u32.u8");
    m.one<int32_t, uint16_t, from8s<int32_t>>("cvt.s32.s8");
    m.one<float, uint16_t, from8<float>>("cvt.rn.f32.u8");
    m.one<float, uint16_t, from8s<float>>("cvt.rn.f32.s8");
    m.roundings<float, near32>("rni", "f32"), m.roundings<double, near64>("rni", "f64");
    m.roundings<float, zero32>("rzi", "f32"), m.roundings<double, zero64>("rzi", "f64");
    m.roundings<float, down32>("rmi", "f32"), m.roundings<double, down64>("rmi", "f64");
    m.roundings<float, up32>("rpi", "f32"), m.roundings<double, up64>("rpi", "f64");
    m.one<double, float, cut<double, float>>("cvt.f64.f32");
    m.one<float, double, cut<float, double>>("cvt.rn.f32.f64");
    m.one<float, float, saturated>("cvt.sat.f32.f32");
    m.one<float, uint16_t, from_f16>("cvt.f32.f16");
    m.one<float, uint16_t, from_bf16>("cvt.f32.bf16");
    m.one<uint16_t, float, to_f16>("cvt.rn.f16.f32");
    m.one<uint16_t, float, to_bf16>("cvt.rn.bf16.f32");
    m.two<uint32_t, float, float, to_f16_pair>("cvt.rn.f16x2.f32");
    m.two<uint32_t, float, float, to_bf16_pair>("cvt.rn.bf16x2.f32");
}

const table &scalars() {
    static const table all = [] {
        table t;
        maker m = {t};
        put_integers(m);
        put_floats(m);
        put_conversions(m);
        for (auto &entry : t) entry.second.name = entry.first.c_str();
        return t;
    }();
    return all;
}

} // namespace

float f16_value(uint16_t bits) {
    return from_f16(bits);
}
float bf16_value(uint16_t bits) {
    return from_bf16(bits);
}

const scalar *find_scalar(std::string_view name) {
    const auto found = scalars().find(std::string(name));
    return found != scalars().end() ? &found->second : nullptr;
}

} // namespace ptx
