#version 450
#extension GL_GOOGLE_include_directive : require
// Copies of an image or video for the convolutions by texels, one for each sample and tap of a row, of
// channels, frames, rows and columns in fours, in f32. Copy k is what tap k reads for each column, so that four neighbouring
// columns are one texel for every tap, stride and padding. One texel of zeros lies behind them all.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint DTYPE = 0;
layout(constant_id = 2) const uint BACKWARD = 0; // column q is read by outputs (q + before - k) / stride

layout(push_constant) uniform push_block {
    uint samples, copies, channels, frames, rows, fours; // of the result
    uint x, y;                                           // element 0; the result's first word
    uint in_frames, in_rows, in_columns;
    uint first_row; // of the source
    uint columns;   // of the result, without what fills up the last four
    uint stride, before;
    uint sample_step;
    uint channel_step, row_step, four_step, volume; // of the result, texels; volume: of a copy
};

KIN_READS(0, from)
KIN_WRITES(1, to)

// Divisions are slow where invocations are lanes of a vector: an invocation makes a whole row.
void main() {
    uint index = kin_thread(), total = samples * copies * channels * frames * rows;
    if (index > total) return;
    if (index == total) {
        for (uint i = 0; i < 4u; i++) to_words[y + 4u * samples * copies * volume + i] = 0u;
        return;
    }
    uint at = index / rows, row = first_row + index % rows;
    uint frame = at % frames;
    at /= frames;
    uint channel = at % channels;
    at /= channels;
    int copy = int(at % copies);
    uint size = in_rows * in_columns;
    uint line = x + at / copies * sample_step + channel * in_frames * size + row * in_columns;
    // Frames behind the last are the sums of the first, 1, 2, 3 of them and so on.
    uint sums = frame < in_frames ? 1u : frame - in_frames + 1u;
    if (frame < in_frames) line += frame * size;
    uint target = (index / (channels * frames * rows) * volume +
                   channel * channel_step + (frame * rows + index % rows) * row_step) *
                  4u;
    for (uint column = 0; column < 4u * fours; column++) {
        int place = int(column) + int(before) - copy;
        int source = int(column * stride) + copy - int(before);
        if (BACKWARD == 1) {
            source = place;
            if (stride != 1u) source = place % int(stride) == 0 ? place / int(stride) : -1;
            if (place < 0) source = -1;
        }
        bool there = column < columns && source >= 0 && source < int(in_columns);
        uint from_at = line + uint(clamp(source, 0, int(in_columns) - 1));
        float value = from_real(DTYPE, from_at);
        for (uint i = 1; i < sums; i++) value += from_real(DTYPE, from_at + i * size);
        to_words[y + target + column / 4u * four_step * 4u + column % 4u] = there ? floatBitsToUint(value) : 0u;
    }
}
