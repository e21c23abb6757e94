/* c[i, j] = bias[j], for products that add to c. */
__kernel void bias_rows(__global const TYPE(TBIAS) *bias, ulong bias_at, __global float *c,
                        ulong c_at, int columns, int count) {
    const int i = get_global_id(0);
    if (i < count) c[c_at + i] = LOAD(TBIAS, bias, bias_at + i % columns);
}
