/* The end of a training step. A scale of 0, or one that is not finite, skips the step: SCALED says
 * that there is one. */
bool skips(float scale) {
    return scale == 0 || !isfinite(scale);
}

#ifdef ADAMW
/* log_beta1 and log_beta2: logarithms, as a high and a low float, so that 1 - beta^step is exact
 * enough for the first steps. P, G, M, W: types of p, gradient, m and v. */
float correction(float step, float2 log_beta) {
    return -expm1(step * log_beta.x + step * log_beta.y);
}

__kernel void adamw(__global const TYPE(P) *p_data, ulong p_at, __global const TYPE(G) *g_data,
                    ulong g_at, __global const TYPE(M) *m_data, ulong m_at,
                    __global const TYPE(W) *v_data, ulong v_at, __global const float *lr_data,
                    ulong lr_at, __global const long *step_data, ulong step_at,
#if SCALED
                    __global const float *scale_data, ulong scale_at,
#endif
                    __global TYPE(P) *p_out, ulong p_out_at, __global TYPE(M) *m_out,
                    ulong m_out_at, __global TYPE(W) *v_out, ulong v_out_at, float beta1,
                    float rest1, float beta2, float rest2, float2 log_beta1, float2 log_beta2,
                    float eps, float weight_decay, int count) {
    int i = get_global_id(0);
    if (i >= count) return;
    float p = LOAD(P, p_data + p_at, i), m = LOAD(M, m_data + m_at, i);
    float v = LOAD(W, v_data + v_at, i), g = LOAD(G, g_data + g_at, i), scale = 1;
#if SCALED
    scale = scale_data[scale_at];
#endif
    if (!skips(scale)) {
        float lr = lr_data[lr_at], step = convert_float(step_data[step_at]);
        g *= scale;
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * g * g;
        float rate = lr / correction(step, log_beta1);
        float root = sqrt(v) / sqrt(correction(step, log_beta2)) + eps;
        p = p * (1.0f - lr * weight_decay) - rate * m / root;
    }
    STORE(P, p_out + p_out_at, i, p);
    STORE(M, m_out + m_out_at, i, m);
    STORE(W, v_out + v_out_at, i, v);
}
#endif

#ifdef BLEND
/* y = a + weight (b - a) */
__kernel void blend(__global const TYPE(A) *a_data, ulong a_at, __global const TYPE(B) *b_data,
                    ulong b_at,
#if SCALED
                    __global const float *scale_data, ulong scale_at,
#endif
                    __global TYPE(Y) *y_data, ulong y_at, float weight, int count) {
    int i = get_global_id(0);
    if (i >= count) return;
    float a = LOAD(A, a_data + a_at, i), b = LOAD(B, b_data + b_at, i), scale = 1;
#if SCALED
    scale = scale_data[scale_at];
#endif
    STORE(Y, y_data + y_at, i, skips(scale) ? a : a + weight * (b - a));
}
#endif

#ifdef CLIP
__kernel void clip_scale(__global const float *norm_data, ulong norm_at, __global float *y_data,
                         ulong y_at, float max_norm) {
    if (get_global_id(0) > 0) return;
    float norm = norm_data[norm_at], scale = max_norm / (norm + 1e-6f);
    y_data[y_at] = !isfinite(norm) ? 0.0f : scale < 1.0f ? scale : 1.0f;
}
#endif
