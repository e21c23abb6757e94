/* Running a stream of instructions. */
#include "npu.h"

#include <string.h>

/* A tile of bf16 as f32, turned where it lies turned. */
static void read_tile(const unsigned char *from, int64_t rows, int64_t columns, bool turned,
                      float *to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            uint16_t bits;
            memcpy(&bits, from + 2 * (turned ? j * rows + i : i * columns + j), sizeof bits);
            to[i * columns + j] = kin_bf16_to_f32(bits);
        }
}

/* Products of 16x16x16 are summed in f32 in the order of k. */
static void run_matrix(npu_state *state, const npu_matrix *m) {
    float *a = state->work, *b = a + NPU_BLOCK_M * NPU_BLOCK_K;
    float *c = (float *)(void *)(state->scratchpad + m->c);
    read_tile(state->scratchpad + m->a, m->m, m->k, m->a_turned, a);
    read_tile(state->scratchpad + m->b, m->k, m->n, m->b_turned, b);
    if (!m->add) memset(c, 0, (size_t)m->m * (size_t)m->n * sizeof *c);
    for (int64_t i = 0; i < m->m; i++) {
        float *restrict row = c + i * m->n;
        for (int64_t k = 0; k < m->k; k++) {
            const float factor = a[i * m->k + k];
            const float *restrict other = b + k * m->n;
            for (int64_t j = 0; j < m->n; j++) row[j] += factor * other[j];
        }
    }
}

void npu_interpret(npu_state *state, const kin_commands *commands) {
    for (size_t i = 0; i < commands->count; i++) {
        const npu_instruction *made = &commands->list[i];
        switch (made->opcode) {
        case NPU_LOAD:
            npu_run_dma(state->scratchpad, &made->dma, false);
            break;
        case NPU_STORE:
            npu_run_dma(state->scratchpad, &made->dma, true);
            break;
        case NPU_GATHER:
            npu_run_gather(state->scratchpad, &made->gather);
            break;
        case NPU_MATRIX:
            run_matrix(state, &made->matrix);
            break;
        case NPU_VECTOR:
            npu_run_vector(state->scratchpad, &made->vector);
            break;
        }
    }
}
