// Functions whose precision Vulkan leaves open, to about two units in the last place. The polynomials
// are those of backends/cpu/simd.h.

#ifndef KIN_MATH_GLSL
#define KIN_MATH_GLSL

bool kin_is_nan(float x) {
    return (floatBitsToUint(x) & 0x7FFFFFFFu) > 0x7F800000u;
}

float kin_inf() {
    return uintBitsToFloat(0x7F800000u);
}

float kin_nan() {
    return uintBitsToFloat(0x7FC00000u);
}

// e^x: x = n ln 2 + r, a polynomial in r; 2^n in two steps, so that n = 128 does not overflow.
float kin_exp(float x) {
    precise float n = roundEven(clamp(x, -104.0, 89.0) * 1.44269504);
    precise float r = x - n * 0.693359375;
    r = r + n * 2.12194440e-4;
    float y = 1.9875691500e-4;
    y = fma(y, r, 1.3981999507e-3);
    y = fma(y, r, 8.3334519073e-3);
    y = fma(y, r, 4.1665795894e-2);
    y = fma(y, r, 1.6666665459e-1);
    y = fma(y, r, 5.0000001201e-1);
    y = fma(y * r, r, r) + 1.0;
    int whole = int(n), half_of = whole >> 1;
    y = y * uintBitsToFloat(uint(half_of + 127) << 23) *
        uintBitsToFloat(uint(whole - half_of + 127) << 23);
    if (x < -103.97208) y = 0.0;
    if (x > 88.7228394) y = kin_inf();
    return kin_is_nan(x) ? x : y;
}

// ln x: x = 2^n (1 + f) with f from sqrt(1/2) - 1 to sqrt(2) - 1.
float kin_log(float x) {
    bool tiny = x < 1.17549435e-38;
    uint bits = floatBitsToUint(tiny ? x * 8388608.0 : x) - 0x3F3504F3u;
    float f = uintBitsToFloat((bits & 0x007FFFFFu) + 0x3F3504F3u) - 1.0;
    float n = float(int(bits) >> 23) - (tiny ? 23.0 : 0.0);
    float y = -7.661911264e-02;
    y = fma(y, f, 1.278629495e-01);
    y = fma(y, f, -1.316112245e-01);
    y = fma(y, f, 1.419784454e-01);
    y = fma(y, f, -1.662280569e-01);
    y = fma(y, f, 2.000141633e-01);
    y = fma(y, f, -2.500084451e-01);
    y = fma(y, f, 3.333332893e-01);
    float ff = f * f;
    precise float rest = y * f * ff + (n * -2.12194440e-4 + ff * -0.5);
    precise float result = n * 0.693359375 + (f + rest);
    if (x == 0.0) result = -kin_inf();
    if (x < 0.0 || kin_is_nan(x)) result = kin_nan();
    return x == kin_inf() ? x : result;
}

float kin_sqrt(float x) {
    return sqrt(x);
}

float kin_tanh(float x) {
    float a = abs(x), t = x * x;
    float y = 2.144479687e-3;
    y = fma(y, t, -8.178865800e-3);
    y = fma(y, t, 2.170119258e-2);
    y = fma(y, t, -5.394682481e-2);
    y = fma(y, t, 1.333320615e-1);
    y = fma(y, t, -3.333333079e-1);
    float far = 1.0 - 2.0 / (kin_exp(a + a) + 1.0);
    return a < 0.625 ? fma(y * t, x, x) : x < 0.0 ? -far : far;
}

float kin_erf(float x) {
    float a = abs(x), t = x * x;
    float y = 7.882497109e-5;
    y = fma(y, t, -8.018854993e-4);
    y = fma(y, t, 5.189311943e-3);
    y = fma(y, t, -2.685432880e-2);
    y = fma(y, t, 1.128359746e-1);
    y = fma(y, t, -3.761262690e-1);
    y = fma(y, t, 1.128379166);
    float u = a > 4.0 ? 4.0 : a;
    float z = 9.424591145e-7;
    z = fma(z, u, -3.489870103e-5);
    z = fma(z, u, 5.207602935e-4);
    z = fma(z, u, -4.472094909e-3);
    z = fma(z, u, 2.576078922e-2);
    z = fma(z, u, -1.091354099e-1);
    z = fma(z, u, -6.326490629e-1);
    z = fma(z, u, -1.129833681);
    z = fma(z, u, 2.371458136e-4);
    float far = 1.0 - kin_exp(z);
    return a < 1.0 ? y * x : x < 0.0 ? -far : kin_is_nan(x) ? x : far;
}

// |x| = quarter turns + r, for any finite x beyond 8192, by the bits of 2 / pi that matter
// (Payne and Hanek 1983): 24 bits of x times 96 bits of 2 / pi, of which whole turns are left out.
uint kin_reduce_large(float x, out float r) {
    const uint two_over_pi[8] = uint[8](0u, 0xA2F9836Eu, 0x4E441529u, 0xFC2757D1u, 0xF534DDC0u,
                                        0xDB629599u, 0x3C439041u, 0xFE5163ABu);
    uint bits = floatBitsToUint(x), mantissa = (bits & 0x7FFFFFu) | 0x800000u;
    // x = mantissa 2^(exponent - 150). Bits of 2 / pi worth 4 or more after the product are left out.
    uint shift = ((bits >> 23) & 255u) - 150u + 32u + 30u;
    uint word = shift >> 5, by = shift & 31u;
    uint part[3];
    for (uint i = 0u; i < 3u; i++) {
        uint at = word + i - 1u;
        uint high = at < 8u ? two_over_pi[at] : 0u, low = at + 1u < 8u ? two_over_pi[at + 1u] : 0u;
        part[i] = by == 0u ? high : (high << by) | (low >> (32u - by));
    }
    uint high2, low2, high1, low1, carry;
    umulExtended(mantissa, part[2], high2, low2);
    umulExtended(mantissa, part[1], high1, low1);
    uint middle = uaddCarry(low1, high2, carry);
    uint top = mantissa * part[0] + high1 + carry;
    // top : middle is the product with 30 fraction bits in top.
    uint quarter = top >> 30;
    uint fraction = (top << 2) | (middle >> 30), below = middle << 2;
    bool up = (fraction & 0x80000000u) != 0u;
    if (up) {
        quarter++;
        below = ~below + 1u;
        fraction = ~fraction + (below == 0u ? 1u : 0u);
    }
    r = (float(fraction) * 2.3283064365386963e-10 + float(below) * 5.421010862427522e-20) *
        1.57079637;
    if (up) r = -r;
    return quarter & 3u;
}

// Sine or cosine of r + quarter turns, r within pi / 4.
float kin_sin_near(float r, uint quarter) {
    float t = r * r;
    float s = 2.718008334e-6;
    s = fma(s, t, -1.983930068e-4);
    s = fma(s, t, 8.333329268e-3);
    s = fma(s, t, -1.666666664e-1);
    s = fma(s * t, r, r);
    float c = 2.443399882e-5;
    c = fma(c, t, -1.388732573e-3);
    c = fma(c, t, 4.166664592e-2);
    c = fma(c, t * t, fma(t, -0.5, 1.0));
    float result = (quarter & 1u) != 0u ? c : s;
    return (quarter & 2u) != 0u ? -result : result;
}

// sin(x + turned pi / 2).
float kin_sin_turned(float x, uint turned) {
    float a = abs(x), r;
    uint quarter;
    if (!(a < kin_inf())) return kin_nan();
    if (a > 8192.0) {
        quarter = kin_reduce_large(a, r);
    } else {
        precise float n = roundEven(a * 0.636619772);
        precise float near = a - n * 1.5703125;
        near = near - n * 4.837512969970703125e-4;
        near = near - n * 7.549789948768648e-8;
        r = near;
        quarter = uint(n);
    }
    if (x < 0.0) {
        r = -r;
        quarter = 0u - quarter;
    }
    return kin_sin_near(r, quarter + turned);
}

float kin_sin(float x) {
    return kin_sin_turned(x, 0u);
}

float kin_cos(float x) {
    return kin_sin_turned(x, 1u);
}

#endif
