#version 450
#extension GL_GOOGLE_include_directive : require
// The end of a training step, in place: AdamW (arXiv:1711.05101, as in PyTorch), a moving average, and
// the factor that clips gradients.
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/math.glsl"

layout(constant_id = 1) const uint STAGE = 0;
layout(constant_id = 2) const uint P_TYPE = 0;
layout(constant_id = 3) const uint G_TYPE = 0;
layout(constant_id = 4) const uint M_TYPE = 0;
layout(constant_id = 5) const uint V_TYPE = 0;
layout(constant_id = 6) const uint HAS_SCALE = 0;

const uint ADAMW = 0u, EMA = 1u, CLIP = 2u;

layout(push_constant) uniform push_block {
    uint count;
    uint p_first, m_first, v_first, g_first, lr_first, step_first, scale_first;
    float take1, take2;         // 1 - beta
    float log_beta1, log_beta2; // natural
    float keep1, keep2, eps, weight_decay;
    float blend;    // EMA: what p counts
    float max_norm; // CLIP
};

KIN_WRITES(0, p) // EMA: the average; CLIP: the result
KIN_WRITES(1, m)
KIN_WRITES(2, v)
KIN_READS(3, g) // EMA: p; CLIP: the norm
KIN_READS(4, lr)
KIN_READS(5, step)
KIN_READS(6, scale)

// 1 - e^x for x <= 0, with all digits near 0.
float one_less_exp(float x) {
    if (x < -0.4) return 1.0 - kin_exp(x);
    float y = 1.0 / 40320.0;
    y = fma(y, x, 1.0 / 5040.0);
    y = fma(y, x, 1.0 / 720.0);
    y = fma(y, x, 1.0 / 120.0);
    y = fma(y, x, 1.0 / 24.0);
    y = fma(y, x, 1.0 / 6.0);
    y = fma(y, x, 0.5);
    y = fma(y, x, 1.0);
    return -x * y;
}

bool is_finite(float x) {
    return (floatBitsToUint(x) & 0x7F800000u) != 0x7F800000u;
}

float gradient_scale() {
    return HAS_SCALE == 1u ? scale_real(KIN_F32, scale_first) : 1.0;
}

void adamw(uint i, bool both) {
    float factor = gradient_scale(), rate = lr_real(KIN_F32, lr_first);
    if (factor == 0.0 || !is_finite(factor)) return;
    float number = float(step_words[2u * step_first]) +
                   float(step_words[2u * step_first + 1u]) * 4294967296.0;
    float decay = 1.0 - rate * weight_decay;
    float root_scale = 1.0 / sqrt(one_less_exp(number * log_beta2));
    rate /= one_less_exp(number * log_beta1);
    float a[2], b[2], c[2];
    for (uint e = 0u; e < 2u; e++) {
        uint k = e == 1u && both ? i + 1u : i;
        float gradient = g_real(G_TYPE, g_first + k) * factor;
        b[e] = keep1 * m_real(M_TYPE, m_first + k) + take1 * gradient;
        c[e] = keep2 * v_real(V_TYPE, v_first + k) + take2 * gradient * gradient;
        a[e] = p_real(P_TYPE, p_first + k) * decay - rate * b[e] / (sqrt(c[e]) * root_scale + eps);
    }
    p_store2(P_TYPE, p_first + i, a[0], a[1], both);
    m_store2(M_TYPE, m_first + i, b[0], b[1], both);
    v_store2(V_TYPE, v_first + i, c[0], c[1], both);
}

void ema(uint i, bool both) {
    float factor = gradient_scale(), a[2];
    if (factor == 0.0 || !is_finite(factor)) return;
    for (uint e = 0u; e < 2u; e++) {
        uint k = e == 1u && both ? i + 1u : i;
        float average = p_real(P_TYPE, p_first + k);
        a[e] = average + blend * (g_real(G_TYPE, g_first + k) - average);
    }
    p_store2(P_TYPE, p_first + i, a[0], a[1], both);
}

void main() {
    uint i = 2u * kin_thread();
    if (i >= count) return;
    bool both = i + 1u < count;
    if (STAGE == ADAMW) {
        adamw(i, both);
    } else if (STAGE == EMA) {
        ema(i, both);
    } else {
        float norm = g_real(KIN_F32, g_first), factor = max_norm / (norm + 1e-6);
        float result = !is_finite(norm) ? 0.0 : min(factor, 1.0);
        p_words[p_first] = floatBitsToUint(result);
    }
}
