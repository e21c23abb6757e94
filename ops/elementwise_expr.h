/* Every element-wise function, once, as an expression: C, the CPU's vectors, CUDA, OpenCL C and
 * GLSL all include this file. It has no include guard and uses no token pasting.
 *
 * Whoever includes it defines, for its own element type:
 *     KX_C(c)                 the constant c, written with a decimal point
 *     KX_EXP(v) KX_LOG(v) KX_SQRT(v) KX_SIN(v) KX_COS(v) KX_TANH(v) KX_ERF(v)
 *     KX_SELECT(cond, v, w)   v where cond, else w; cond is a comparison of two elements
 * and expands the lists with a macro of its own. The free names are x, p, q in unary functions
 * (p and q: kin_elementwise_attrs), and a, b, c in the others. NaN operands give NaN.
 */

#define KX_SIGMOID(v) (KX_C(1.0) / (KX_C(1.0) + KX_EXP(-(v))))

/* gelu(x) = x Phi(x), Phi being the normal distribution; arXiv:1606.08415. */
#define KX_NORMAL_CDF(v) (KX_C(0.5) + KX_C(0.5) * KX_ERF((v)*KX_C(0.70710678118654752)))
#define KX_NORMAL_PDF(v) (KX_C(0.39894228040143268) * KX_EXP(KX_C(-0.5) * (v) * (v)))

/* gelu_tanh(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), section 2 of the same paper. */
#define KX_GELU_T(v)                                                                               \
    KX_TANH(KX_C(0.79788456080286536) * (v) * (KX_C(1.0) + KX_C(0.044715) * (v) * (v)))
#define KX_GELU_TANH(v) (KX_C(0.5) * (v) * (KX_C(1.0) + KX_GELU_T(v)))
#define KX_GELU_TANH_SLOPE(v)                                                                      \
    (KX_C(0.5) * (KX_C(1.0) + KX_GELU_T(v)) +                                                      \
     KX_C(0.5) * (v) * (KX_C(1.0) - KX_GELU_T(v) * KX_GELU_T(v)) * KX_C(0.79788456080286536) *     \
         (KX_C(1.0) + KX_C(0.134145) * (v) * (v)))

/* X(name, value, derivative): functions whose gradient is an op name_grad(x, dy) of its own,
 * dy * derivative. */
#define KX_UNARY(X)                                                                                \
    X(exp, KX_EXP(x), KX_EXP(x))                                                                   \
    X(log, KX_LOG(x), KX_C(1.0) / x)                                                               \
    X(sqrt, KX_SQRT(x), KX_C(0.5) / KX_SQRT(x))                                                    \
    X(rsqrt, KX_C(1.0) / KX_SQRT(x), KX_C(-0.5) / (x * KX_SQRT(x)))                                \
    X(square, (x * x), KX_C(2.0) * x)                                                              \
    X(abs, KX_SELECT(x < KX_C(0.0), -x, x),                                                        \
      KX_SELECT(x < KX_C(0.0), KX_C(-1.0), KX_SELECT(x > KX_C(0.0), KX_C(1.0), x)))                \
    X(sin, KX_SIN(x), KX_COS(x))                                                                   \
    X(cos, KX_COS(x), -KX_SIN(x))                                                                  \
    X(tanh, KX_TANH(x), KX_C(1.0) - KX_TANH(x) * KX_TANH(x))                                       \
    X(sigmoid, KX_SIGMOID(x), KX_SIGMOID(x) * (KX_C(1.0) - KX_SIGMOID(x)))                         \
    X(relu, KX_SELECT(x < KX_C(0.0), KX_C(0.0), x),                                                \
      KX_SELECT(x > KX_C(0.0), KX_C(1.0), KX_C(0.0)))                                              \
    X(silu, (x * KX_SIGMOID(x)), KX_SIGMOID(x) * (KX_C(1.0) + x * (KX_C(1.0) - KX_SIGMOID(x))))    \
    X(gelu, (x * KX_NORMAL_CDF(x)), KX_NORMAL_CDF(x) + x * KX_NORMAL_PDF(x))                       \
    X(gelu_tanh, KX_GELU_TANH(x), KX_GELU_TANH_SLOPE(x))                                           \
    X(clamp, KX_SELECT(x < p, p, KX_SELECT(x > q, q, x)),                                          \
      KX_SELECT(x < p, KX_C(0.0), KX_SELECT(x > q, KX_C(0.0), KX_C(1.0))))

/* X(name, value): unary functions whose gradient is the same function of dy (scale: with q = 0). */
#define KX_AFFINE(X)                                                                               \
    X(neg, -x)                                                                                     \
    X(scale, (p * x + q))

/* X(name, value): functions of two operands. less and greater give 1 or 0. */
#define KX_BINARY(X)                                                                               \
    X(add, a + b)                                                                                  \
    X(sub, a - b)                                                                                  \
    X(mul, (a * b))                                                                                \
    X(div, a / b)                                                                                  \
    X(maximum, KX_SELECT(a != a, a, KX_SELECT(a > b, a, b)))                                       \
    X(minimum, KX_SELECT(a != a, a, KX_SELECT(a < b, a, b)))                                       \
    X(less, KX_SELECT(a < b, KX_C(1.0), KX_C(0.0)))                                                \
    X(greater, KX_SELECT(a > b, KX_C(1.0), KX_C(0.0)))                                             \
    X(gated_gelu, KX_GELU_TANH(a) * b)

/* X(name, value): functions of three operands. where: condition, a, b. modulate: x, shift, scale.
 * gated_add: x, gate, y. */
#define KX_TERNARY(X)                                                                              \
    X(where, KX_SELECT(a != KX_C(0.0), b, c))                                                      \
    X(modulate, (a * (KX_C(1.0) + c) + b))                                                         \
    X(gated_add, a + b * c)

/* X(name, first, second): functions of three operands with two results. gated_gelu_grad: a, b and
 * c = dy give the gradients of a and b. */
#define KX_TERNARY_PAIR(X)                                                                         \
    X(gated_gelu_grad, (c * b * KX_GELU_TANH_SLOPE(a)), (c * KX_GELU_TANH(a)))
