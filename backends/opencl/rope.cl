/* Rotary position embedding. Angles are kept in two floats, so that no double is needed: a position
 * of some thousands times a frequency must be right to 1e-7. Options: TX. */

/* Frequency i is base[axis] times the powers ratio^(2^j) of the bits j of i; each number is the sum
 * of its two floats. */
#define RATIO_BITS 10
typedef struct {
    int b0, b1, tokens, heads, size; /* of x; size is that of the head */
    int x_steps[5], y_steps[4];      /* of batch, batch, token, head, and x's element */
    int axes, interleaved, inverse, bf16_table;
    float base[3][2], ratio[RATIO_BITS][2];
} rope_shape;

/* (a + b)(c + d), of numbers in two floats. */
float2 times(float2 x, float2 y) {
    const float product = x.x * y.x;
    const float rest = fma(x.x, y.x, -product) + (x.x * y.y + x.y * y.x);
    const float sum = product + rest;
    return (float2)(sum, rest - (sum - product));
}

float rounded(float x) {
    return bf16_to_float(float_to_bf16(x));
}

/* Cosine and sine, to about one unit in the last place: pi/2 in three parts brings the angle to
 * +-pi/4, where polynomials will do. */
float2 cosine_sine(float2 angle) {
    const float turns = rint(angle.x * 0.636619772f);
    float r = fma(-turns, 1.57079637f, angle.x);
    r = fma(-turns, -4.37113883e-8f, r);
    r = fma(-turns, -1.71512489e-15f, r) + angle.y;
    const float r2 = r * r;
    float s = fma(2.7183132e-6f, r2, -1.9839336e-4f);
    s = fma(s, r2, 8.3333294e-3f);
    s = fma(s, r2, -1.6666667e-1f);
    s = fma(s * r2, r, r);
    float c = fma(2.4439121e-5f, r2, -1.3887375e-3f);
    c = fma(c, r2, 4.1666647e-2f);
    c = fma(c * r2, r2, fma(r2, -0.5f, 1.0f));
    const int quarter = (int)turns;
    const float cosine = (quarter & 1) != 0 ? s : c, sine = (quarter & 1) != 0 ? c : s;
    return (float2)(((quarter + 1) & 2) != 0 ? -cosine : cosine, (quarter & 2) != 0 ? -sine : sine);
}

/* One pair of a token, of all heads. */
__kernel void rope(__global const TYPE(TX) *x, ulong x_at, __global const float *positions,
                   ulong positions_at, __global TYPE(TX) *y, ulong y_at, rope_shape s) {
    const int id = get_global_id(0), pairs = s.size / 2, part = s.size / s.axes;
    const int pair = id % pairs, token = id / pairs % s.tokens, batch = id / pairs / s.tokens;
    if (batch >= s.b0 * s.b1) return;
    const int axis = pair / (part / 2), i = pair % (part / 2);
    const float position = positions[positions_at + axis * s.tokens + token];
    float2 frequency = (float2)(s.base[axis][0], s.base[axis][1]);
    for (int j = 0; j < RATIO_BITS; j++)
        if ((i >> j & 1) != 0) frequency = times(frequency, (float2)(s.ratio[j][0], s.ratio[j][1]));
    float2 angle = times(frequency, (float2)(position, 0.0f));
    if (s.bf16_table) angle = (float2)(rounded(angle.x), 0.0f);
    float2 turn = cosine_sine(angle);
    if (s.bf16_table) turn = (float2)(rounded(turn.x), rounded(turn.y));
    if (s.inverse) turn.y = -turn.y;

    const int first = axis * part + (s.interleaved ? 2 * i : i);
    const int second = s.interleaved ? first + 1 : first + part / 2;
    const int i0 = batch / s.b1, i1 = batch % s.b1;
    x +=
        x_at + (size_t)i0 * s.x_steps[0] + (size_t)i1 * s.x_steps[1] + (size_t)token * s.x_steps[2];
    y +=
        y_at + (size_t)i0 * s.y_steps[0] + (size_t)i1 * s.y_steps[1] + (size_t)token * s.y_steps[2];
    for (int h = 0; h < s.heads; h++) {
        const float a = LOAD(TX, x, first * s.x_steps[4]), b = LOAD(TX, x, second * s.x_steps[4]);
        STORE(TX, y, first, fma(a, turn.x, -(b * turn.y)));
        STORE(TX, y, second, fma(b, turn.x, a * turn.y));
        x += s.x_steps[3];
        y += s.y_steps[3];
    }
}
