/* Products for devices whose work-groups share local memory (GPUs).
 *
 * c[i, j] = sum over l of a[i, l] b[l, j] + bias. A group of SIDE x SIDE work-items computes a tile
 * of SIDE * EACH rows and columns; each work-item has EACH x EACH sums in registers, and the group
 * brings DEPTH steps of both operands to local memory at a time, with the work-items side by side
 * along whichever axis is dense. Options: TA, TB, TC, TBIAS, SIDE, EACH, DEPTH, TABLES.
 *
 * TABLES: a[i, l] is a[table[i] + table[2 rows + l]], row i of c begins at table[rows + i], and
 * b[l, j] is b[table[2 rows + depth + l] + j * b_column].
 */
#if TABLES
#define A_AT(i, l) (table[i] + along[l])
#define B_AT(l, j) (along[shape.depth + (l)] + (j)*shape.b_column)
#define C_ROW(i) ((size_t)table[shape.rows + (i)])
#else
#define A_AT(i, l) ((i)*shape.a_row + (l)*shape.a_depth)
#define B_AT(l, j) ((l)*shape.b_depth + (j)*shape.b_column)
#define C_ROW(i) ((size_t)(i)*shape.c_row)
#endif

#define TILE (SIDE * EACH)
#define ITEMS (SIDE * SIDE)

typedef struct {
    int rows, columns, depth;
    int a_row, a_depth, b_depth, b_column, c_row, c_column;
    int bias; /* 0: none, 1: one per row, 2: one per column */
    int accumulate;
    int rank, dims[6], a_steps[6], b_steps[6];
    int c_step;
} tiles_shape;

#define LOAD_q8_0(p, i)                                                                            \
    (vload_half(0, (__global const half *)((p) + (size_t)(i) / 32 * 34)) *                         \
     (float)as_char((p)[(size_t)(i) / 32 * 34 + 2 + (size_t)(i) % 32]))

int tiles_offset(int index, int rank, const int *dims, const int *steps) {
    int offset = 0;
    for (int a = 0; a < rank; a++) {
        offset += index % dims[a] * steps[a];
        index /= dims[a];
    }
    return offset;
}

__kernel __attribute__((reqd_work_group_size(SIDE, SIDE, 1))) void
tiles_multiply(__global const TYPE(TA) *restrict a, ulong a_at, __global const TYPE(TB) *restrict b,
               ulong b_at, __global TYPE(TC) *restrict c, ulong c_at,
               __global const TYPE(TBIAS) *restrict bias, ulong bias_at,
#if TABLES
               __global const int *restrict table, ulong table_at,
#endif
               tiles_shape shape) {
    __local float left[DEPTH][TILE + 1], right[DEPTH][TILE + 1];
    const int x = get_local_id(0), y = get_local_id(1), item = y * SIDE + x;
    const int i0 = get_group_id(1) * TILE, j0 = get_group_id(0) * TILE, index = get_group_id(2);
    const bool a_down = shape.a_row == 1, b_down = shape.b_depth == 1;
    a += a_at;
    b += b_at;
#if TABLES
    table += table_at;
    __global const int *along = table + 2 * shape.rows;
#endif
    const int a_from = tiles_offset(index, shape.rank, shape.dims, shape.a_steps);
    const int b_from = tiles_offset(index, shape.rank, shape.dims, shape.b_steps);
    float sum[EACH][EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) sum[i][j] = 0.0f;

    for (int l0 = 0; l0 < shape.depth; l0 += DEPTH) {
        for (int at = item; at < TILE * DEPTH; at += ITEMS) {
            const int i = a_down ? at % TILE : at / DEPTH, l = a_down ? at / TILE : at % DEPTH;
            left[l][i] = i0 + i < shape.rows && l0 + l < shape.depth
                             ? LOAD(TA, a, a_from + A_AT(i0 + i, l0 + l))
                             : 0.0f;
        }
        for (int at = item; at < TILE * DEPTH; at += ITEMS) {
            const int j = b_down ? at / DEPTH : at % TILE, l = b_down ? at % DEPTH : at / TILE;
            right[l][j] = j0 + j < shape.columns && l0 + l < shape.depth
                              ? LOAD(TB, b, b_from + B_AT(l0 + l, j0 + j))
                              : 0.0f;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int l = 0; l < DEPTH; l++) {
            float u[EACH], v[EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++) u[i] = left[l][y + i * SIDE];
#pragma unroll
            for (int j = 0; j < EACH; j++) v[j] = right[l][x + j * SIDE];
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++) sum[i][j] = fma(u[i], v[j], sum[i][j]);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    c += c_at + (size_t)index * shape.c_step;
    bias += bias_at;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int row = i0 + y + i * SIDE;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int column = j0 + x + j * SIDE;
            if (row >= shape.rows || column >= shape.columns) continue;
            float value = sum[i][j];
            if (shape.bias != 0) value += LOAD(TBIAS, bias, shape.bias == 1 ? row : column);
            const size_t at = C_ROW(row) + (size_t)column * shape.c_column;
            if (shape.accumulate) value += LOAD(TC, c, at);
            STORE(TC, c, at, value);
        }
    }
}
