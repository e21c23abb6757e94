/* Philox4x32-10 and the draws made from it: the numbers of runtime/philox.h. */
void philox(uint c[4], uint k0, uint k1) {
    for (int round = 0; round < 10; round++) {
        uint high0 = mul_hi(c[0], 0xD2511F53u), low0 = c[0] * 0xD2511F53u;
        uint high1 = mul_hi(c[2], 0xCD9E8D57u), low1 = c[2] * 0xCD9E8D57u;
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

#if NORMAL
void normal_pair(uint x, uint y, float *first, float *second) {
    const float two_pi = 6.2831853071795864769f;
    float u = convert_float(x) * 0x1p-32f + 0x1p-33f;
    float v = convert_float(y) * (two_pi * 0x1p-32f) + two_pi * 0x1p-33f;
    float s = sqrt(-2.0f * log(u));
    *first = s * sin(v);
    *second = s * cos(v);
}
#else
float uniform_of(uint word) {
    float value = convert_float(word) * 0x1p-32f + 0x1p-33f;
    return value < 1.0f ? value : 0.0f;
}
#endif

/* A work-item makes the four numbers of one block. */
__kernel void draw(__global const long *seed_data, ulong seed_at, __global float *y_data,
                   ulong y_at, uint stream, int count) {
    int block = get_global_id(0);
    if (block * 4 >= count) return;
    ulong seed = (ulong)seed_data[seed_at], step = (ulong)seed_data[seed_at + 1];
    uint c[4] = {(uint)block, (uint)step, stream, ((uint)(step >> 32) & 0xFFFFu) << 16};
    float values[4];
    philox(c, (uint)seed, (uint)(seed >> 32));
#if NORMAL
    normal_pair(c[0], c[1], &values[0], &values[1]);
    normal_pair(c[2], c[3], &values[2], &values[3]);
#else
    for (int i = 0; i < 4; i++) values[i] = uniform_of(c[i]);
#endif
    __global float *y = y_data + y_at + block * 4;
    for (int i = 0; i < 4 && block * 4 + i < count; i++) y[i] = values[i];
}
