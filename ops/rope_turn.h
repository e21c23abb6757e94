/* The turn of one pair of elements, in double: what rope and self_attention mean. */
#ifndef KIN_OPS_ROPE_TURN_H
#define KIN_OPS_ROPE_TURN_H

#include <math.h>

#include "ops/rope_attrs.h"

typedef struct rope_turn {
    int64_t at[2]; /* the pair's elements within the head */
    double c, s;   /* (a, b) becomes (a c - b s, b c + a s) */
} rope_turn;

/* As stored in bf16, if asked for. */
static inline double rope_table_value(const kin_rope_attrs *attrs, double value) {
    return attrs->bf16_table ? kin_bf16_to_f32(kin_f32_to_bf16((float)value)) : value;
}

/* Pair `pair` of the size / 2 of a head of `size` elements, at `token` of positions [axes, tokens].
 */
static inline rope_turn rope_turn_of(const kin_rope_attrs *attrs, const double *positions,
                                     int64_t tokens, int64_t token, int64_t size, int64_t pair) {
    const int64_t part = size / attrs->axes, half = part / 2, axis = pair / half, i = pair % half;
    const double position = positions[axis * tokens + token] / attrs->scales[axis];
    const double angle =
        rope_table_value(attrs, position * pow(attrs->theta, -2.0 * (double)i / (double)part));
    rope_turn turn;
    turn.at[0] = axis * part + (attrs->interleaved ? 2 * i : i);
    turn.at[1] = turn.at[0] + (attrs->interleaved ? 1 : half);
    turn.c = rope_table_value(attrs, cos(angle));
    turn.s = rope_table_value(attrs, sin(angle)) * (attrs->inverse ? -1 : 1);
    return turn;
}

#endif
