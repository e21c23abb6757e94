#version 450
#pragma use_vulkan_memory_model
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_NV_cooperative_matrix : require
// Products of f16 with f32 sums by VK_NV_cooperative_matrix: each subgroup makes PARTS x PARTS matrices
// of SIZE_M x SIZE_N; the subgroups of a work group lie side by side along n. m, n and k are multiples of
// the sizes.
// optional variant: matmul_nv -DC_TYPE=float16_t -DC_IS_F16
// optional variant: matmul_nv_f32 -DC_TYPE=float
layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint SIZE_M = 16;
layout(constant_id = 2) const uint SIZE_N = 16;
layout(constant_id = 3) const uint SIZE_K = 16;
layout(constant_id = 4) const uint SUBGROUPS = 4;
layout(constant_id = 5) const uint A_ALONG_K = 1; // rows of a are neighbours along k, else along m
layout(constant_id = 6) const uint B_ALONG_K = 0;
layout(constant_id = 7) const uint BIAS = 0; // 0: there is none; 1: f16; 2: f32

const uint PARTS = 2;

// As in matmul_tiles.comp; a_step and b_step are the strides of the axes that are not dense.
layout(push_constant) uniform push_block {
    uint m, n, k;
    uint tiles_m, tiles_n, batches;
    uint a, a_step, b, b_step, c, bias, bias_step;
    uint dims[2];
    uint a_steps[3], b_steps[3];
};

layout(set = 0, binding = 0) readonly buffer a_block { float16_t a_values[]; };
layout(set = 0, binding = 1) readonly buffer b_block { float16_t b_values[]; };
layout(set = 0, binding = 2) readonly buffer bias_block { float16_t bias_values[]; };
layout(set = 0, binding = 2) readonly buffer bias_block_f32 { float bias_values_f32[]; };
layout(set = 0, binding = 3) buffer c_block { C_TYPE c_values[]; };

shared float start[SUBGROUPS * SIZE_M * SIZE_N]; // rows of the bias

void main() {
    uint group = gl_WorkGroupID.x +
                 gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
    uint batch = group / (tiles_m * tiles_n);
    if (batch >= batches) return;
    uint i2 = batch % dims[1], i1 = batch / dims[1] % dims[0], i0 = batch / dims[1] / dims[0];
    uint a_begin = a + i0 * a_steps[0] + i1 * a_steps[1] + i2 * a_steps[2];
    uint b_begin = b + i0 * b_steps[0] + i1 * b_steps[1] + i2 * b_steps[2];
    uint row0 = group / tiles_n % tiles_m * PARTS * SIZE_M;
    uint column0 = (group % tiles_n * SUBGROUPS + gl_SubgroupID) * PARTS * SIZE_N;
    fcoopmatNV<32, gl_ScopeSubgroup, SIZE_M, SIZE_N> sums[PARTS * PARTS];
    [[unroll]] for (uint q = 0; q < PARTS; q++) {
        uint own = gl_SubgroupID * SIZE_M * SIZE_N;
        if (BIAS != 0) {
            for (uint e = gl_SubgroupInvocationID; e < SIZE_M * SIZE_N; e += gl_SubgroupSize) {
                uint at = bias + min(column0 + q * SIZE_N + e % SIZE_N, n - 1u) * bias_step;
                float value;
                if (BIAS == 1) value = float(bias_values[at]);
                else value = bias_values_f32[at];
                start[own + e] = value;
            }
            barrier();
        }
        [[unroll]] for (uint p = 0; p < PARTS; p++) {
            if (BIAS != 0) coopMatLoadNV(sums[p * PARTS + q], start, own, SIZE_N, false);
            else sums[p * PARTS + q] = fcoopmatNV<32, gl_ScopeSubgroup, SIZE_M, SIZE_N>(0.0);
        }
        if (BIAS != 0) barrier();
    }
    for (uint l = 0; l < k; l += SIZE_K) {
        fcoopmatNV<16, gl_ScopeSubgroup, SIZE_M, SIZE_K> left[PARTS];
        fcoopmatNV<16, gl_ScopeSubgroup, SIZE_K, SIZE_N> right[PARTS];
        // Parts outside of the result repeat its last rows and columns, and are not stored.
        [[unroll]] for (uint p = 0; p < PARTS; p++) {
            uint row = min(row0 + p * SIZE_M, m - SIZE_M);
            uint at = a_begin + (A_ALONG_K == 1 ? row * a_step + l : l * a_step + row);
            coopMatLoadNV(left[p], a_values, at, a_step, A_ALONG_K == 0);
        }
        [[unroll]] for (uint q = 0; q < PARTS; q++) {
            uint column = min(column0 + q * SIZE_N, n - SIZE_N);
            uint at = b_begin + (B_ALONG_K == 1 ? column * b_step + l : l * b_step + column);
            coopMatLoadNV(right[q], b_values, at, b_step, B_ALONG_K == 1);
        }
        [[unroll]] for (uint p = 0; p < PARTS; p++)
            [[unroll]] for (uint q = 0; q < PARTS; q++)
                sums[p * PARTS + q] = coopMatMulAddNV(left[p], right[q], sums[p * PARTS + q]);
    }
    [[unroll]] for (uint p = 0; p < PARTS; p++)
        [[unroll]] for (uint q = 0; q < PARTS; q++) {
            uint row = row0 + p * SIZE_M, column = column0 + q * SIZE_N;
            uint at = c + (batch * m + row) * n + column;
            if (row < m && column < n) {
#ifdef C_IS_F16
                fcoopmatNV<16, gl_ScopeSubgroup, SIZE_M, SIZE_N> rounded =
                    fcoopmatNV<16, gl_ScopeSubgroup, SIZE_M, SIZE_N>(sums[p * PARTS + q]);
                coopMatStoreNV(rounded, c_values, at, n, false);
#else
                coopMatStoreNV(sums[p * PARTS + q], c_values, at, n, false);
#endif
            }
        }
}
