// What the convolution shaders share: sizes, and where taps read. Axes are time, rows, columns.
layout(constant_id = 8) const uint KERNEL_T = 1;
layout(constant_id = 9) const uint KERNEL_Y = 1;
layout(constant_id = 10) const uint KERNEL_X = 1;
layout(constant_id = 11) const uint STRIDE_T = 1;
layout(constant_id = 12) const uint STRIDE_Y = 1;
layout(constant_id = 13) const uint STRIDE_X = 1;
layout(constant_id = 14) const uint BEFORE_T = 0; // padding in front
layout(constant_id = 15) const uint BEFORE_Y = 0;
layout(constant_id = 16) const uint BEFORE_X = 0;
layout(constant_id = 17) const uint CAUSAL = 0; // the padding in front of time repeats the first frame
layout(constant_id = 18) const uint A_DTYPE = 0;
layout(constant_id = 19) const uint B_DTYPE = 0;
layout(constant_id = 20) const uint C_DTYPE = 0;
layout(constant_id = 21) const uint BIAS_DTYPE = 0xFFu; // 0xFF: there is none

const uint TAPS = KERNEL_T * KERNEL_Y * KERNEL_X;

layout(push_constant) uniform push_block {
    uint batch, cin, cout;
    uint in_t, in_y, in_x, out_t, out_y, out_x; // sizes of x and of y
    uint a, b, c, bias;                         // element 0
    uint tiles_m, tiles_n;
};

uvec3 split(uint index, uint rows, uint columns) {
    return uvec3(index / (rows * columns), index / columns % rows, index % columns);
}

uvec3 tap_at(uint tap) {
    return split(tap, KERNEL_Y, KERNEL_X);
}

// The element of a plane of x that output `position` reads at `tap`; -1: padding.
int conv_source(uint position, uint tap) {
    uvec3 at = split(position, out_y, out_x), k = tap_at(tap);
    int t = int(at.x * STRIDE_T + k.x) - int(BEFORE_T);
    int y = int(at.y * STRIDE_Y + k.y) - int(BEFORE_Y);
    int x = int(at.z * STRIDE_X + k.z) - int(BEFORE_X);
    if (CAUSAL == 1) t = max(t, 0);
    bool inside = t >= 0 && y >= 0 && x >= 0 && t < int(in_t) && y < int(in_y) && x < int(in_x);
    return inside ? (t * int(in_y) + y) * int(in_x) + x : -1;
}

// The output along one axis that reads input `at` at tap `k`; -1: none.
int conv_reader(uint at, uint k, uint before, uint stride, uint size) {
    int place = int(at + before) - int(k);
    if (place < 0 || place % int(stride) != 0) return -1;
    return place / int(stride) < int(size) ? place / int(stride) : -1;
}

// The outputs that read input `position` at `tap`: the first in time, their number (more than one only
// where the first frame is repeated), and their place in a frame; a number of 0: none.
ivec3 conv_readers(uint position, uint tap) {
    uvec3 at = split(position, in_y, in_x), k = tap_at(tap);
    int y = conv_reader(at.y, k.y, BEFORE_Y, STRIDE_Y, out_y);
    int x = conv_reader(at.z, k.z, BEFORE_X, STRIDE_X, out_x);
    int t = conv_reader(at.x, k.x, BEFORE_T, STRIDE_T, out_t);
    int count = t >= 0 ? 1 : 0;
    if (CAUSAL == 1 && at.x == 0u) {
        t = 0;
        count = k.x > BEFORE_T ? 0 : int(min((BEFORE_T - k.x) / STRIDE_T + 1u, out_t));
    }
    return ivec3(t, y >= 0 && x >= 0 ? count : 0, y * int(out_x) + x);
}
