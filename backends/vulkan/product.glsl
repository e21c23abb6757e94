// The tiled product: c[i, j] = sum over k of a[i, k] b[k, j], for shaders that say where the elements
// are. Each work group makes a tile of TILE_M x TILE_N; slices of TILE_K columns of a and rows of b
// pass through shared memory, and each invocation keeps PART_M x PART_N sums in registers.
//
// The including shader defines
//     float product_a(uint i, uint k);    for i < rows, k < end
//     float product_b(uint k, uint j);    for k < end, j < columns
// and calls product_sums(); then product_row(row0, p) and product_column(column0, q) are the row and the
// column of sums[p * PART_N + q]. Its own specialisation constants begin at 8.
#extension GL_EXT_control_flow_attributes : require

layout(constant_id = 1) const uint TILE_M = 64;
layout(constant_id = 2) const uint TILE_N = 64;
layout(constant_id = 3) const uint TILE_K = 16;
layout(constant_id = 4) const uint PART_M = 4;
layout(constant_id = 5) const uint PART_N = 4;
layout(constant_id = 6) const uint A_ALONG_K = 1; // neighbouring invocations read along k
layout(constant_id = 7) const uint B_ALONG_K = 0;

shared float a_tile[TILE_K * TILE_M];
shared float b_tile[TILE_K * TILE_N];

float sums[PART_M * PART_N];

uint product_row(uint row0, uint p) {
    return row0 + gl_LocalInvocationID.x / (TILE_N / PART_N) * PART_M + p;
}

uint product_column(uint column0, uint q) {
    return column0 + gl_LocalInvocationID.x % (TILE_N / PART_N) * PART_N + q;
}

float product_a(uint i, uint k);
float product_b(uint k, uint j);

void product_load(uint row0, uint column0, uint k0, uint rows, uint columns, uint end) {
    for (uint e = gl_LocalInvocationID.x; e < TILE_M * TILE_K; e += gl_WorkGroupSize.x) {
        uint i = A_ALONG_K == 1 ? e / TILE_K : e % TILE_M;
        uint k = A_ALONG_K == 1 ? e % TILE_K : e / TILE_M;
        bool inside = row0 + i < rows && k0 + k < end;
        float value = 0.0;
        if (inside) value = product_a(row0 + i, k0 + k);
        a_tile[k * TILE_M + i] = value;
    }
    for (uint e = gl_LocalInvocationID.x; e < TILE_N * TILE_K; e += gl_WorkGroupSize.x) {
        uint j = B_ALONG_K == 1 ? e / TILE_K : e % TILE_N;
        uint k = B_ALONG_K == 1 ? e % TILE_K : e / TILE_N;
        bool inside = column0 + j < columns && k0 + k < end;
        float value = 0.0;
        if (inside) value = product_b(k0 + k, column0 + j);
        b_tile[k * TILE_N + j] = value;
    }
}

// Sums over k in [begin, end) for the tile that begins at (row0, column0).
void product_sums(uint row0, uint column0, uint rows, uint columns, uint begin, uint end) {
    uint i0 = product_row(0, 0), j0 = product_column(0, 0);
    [[unroll]] for (uint p = 0; p < PART_M * PART_N; p++) sums[p] = 0.0;
    for (uint k0 = begin; k0 < end; k0 += TILE_K) {
        product_load(row0, column0, k0, rows, columns, end);
        barrier();
        for (uint k = 0; k < TILE_K; k++) {
            float a[PART_M], b[PART_N];
            [[unroll]] for (uint p = 0; p < PART_M; p++) a[p] = a_tile[k * TILE_M + i0 + p];
            [[unroll]] for (uint q = 0; q < PART_N; q++) b[q] = b_tile[k * TILE_N + j0 + q];
            [[unroll]] for (uint p = 0; p < PART_M; p++)
                [[unroll]] for (uint q = 0; q < PART_N; q++)
                    sums[p * PART_N + q] = fma(a[p], b[q], sums[p * PART_N + q]);
        }
        barrier();
    }
}
