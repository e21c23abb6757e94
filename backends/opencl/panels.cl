/* Products for devices that run a work-item as a thread with vector registers (CPUs).
 *
 * c[i, j] = sum over l of s[i, l] v[l, j]. A work-item computes a tile of ROWS rows and P columns
 * in registers. v lies in panels of P columns, depth x P floats each, so that the innermost loop
 * reads it once, in order. s is read element by element: where it lies, if it is f32, or from
 * panels of ROWS rows. Options: TC, TBIAS (storage of c and of the bias), ROWS, TABLES.
 */
#define P (2 * V)

typedef struct {
    int rows, columns, depth;
    int first;                   /* step of the sum from which on `depth` steps are taken */
    int s_tile, s_row, s_depth;  /* steps from tile to tile, within it, and along the sum */
    int c_row, c_column;         /* steps of the result */
    int row_tiles, column_tiles; /* of this launch */
    int bias;                    /* 0: none, 1: one per row, 2: one per column */
    int accumulate;              /* 1: adds to c */
    int batch, rank, dims[6], s_steps[6]; /* first product of the batch, and where its s lies */
    int v_tile;                           /* floats from panel to panel */
    int v_step, c_step;                   /* steps from product to product */
} panels_shape;

/* Tiles of rows that are worked through before the next panel: they stay in the cache. */
#define TILE_GROUP 16

int batch_offset(int index, int rank, const int *dims, const int *steps) {
    int offset = 0;
    for (int a = 0; a < rank; a++) {
        offset += index % dims[a] * steps[a];
        index /= dims[a];
    }
    return offset;
}

/* TABLES: s[i, l] is s[table[i] + table[2 rows + l]], and row i of c begins at table[rows + i]. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
panels_multiply(__global const float *restrict s, ulong s_at, __global const float *restrict v,
                ulong v_at, __global TYPE(TC) *restrict c, ulong c_at,
                __global const TYPE(TBIAS) *restrict bias, ulong bias_at,
#if TABLES
                __global const int *restrict table, ulong table_at,
#endif
                panels_shape shape) {
    const int id = get_global_id(0), index = get_global_id(1);
    const int group = id / (TILE_GROUP * shape.column_tiles);
    const int rest = id - group * TILE_GROUP * shape.column_tiles;
    const int tiles = min(TILE_GROUP, shape.row_tiles - group * TILE_GROUP);
    const int row_tile = group * TILE_GROUP + rest % tiles, column_tile = rest / tiles;
    if (id >= shape.row_tiles * shape.column_tiles) return;
    const int i0 = row_tile * ROWS, j0 = column_tile * P;
    const int last = min(ROWS, shape.rows - i0) - 1;

    s += s_at + batch_offset(shape.batch + index, shape.rank, shape.dims, shape.s_steps);
    v += v_at + (size_t)index * shape.v_step + (size_t)column_tile * shape.v_tile +
         (size_t)shape.first * P;
    c += c_at + (size_t)(shape.batch + index) * shape.c_step;
    bias += bias_at;
    int row[ROWS];
#if TABLES
    table += table_at;
    __global const int *along = table + 2 * shape.rows + shape.first;
#pragma unroll
    for (int i = 0; i < ROWS; i++) row[i] = table[i0 + min(i, last)];
#else
    s += (size_t)row_tile * shape.s_tile + (size_t)shape.first * shape.s_depth;
#pragma unroll
    for (int i = 0; i < ROWS; i++) row[i] = min(i, last) * shape.s_row;
#endif

    FV sum[ROWS][2];
#pragma unroll
    for (int i = 0; i < ROWS; i++) sum[i][0] = sum[i][1] = (FV)(0.0f);
    for (int l = 0; l < shape.depth; l++) {
#if TABLES
        __global const float *from = s + along[l];
#else
        __global const float *from = s;
        s += shape.s_depth;
#endif
        const FV v0 = VLOAD(0, v), v1 = VLOAD(1, v);
        v += P;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const FV x = (FV)(from[row[i]]);
            sum[i][0] = fma(x, v0, sum[i][0]);
            sum[i][1] = fma(x, v1, sum[i][1]);
        }
    }

#if TABLES
#define C_ROW(i) ((size_t)table[shape.rows + i0 + (i)])
#else
#define C_ROW(i) ((size_t)(i0 + (i)) * shape.c_row)
#endif
    c += (size_t)j0 * shape.c_column;
    const int columns = min(P, shape.columns - j0);
    if (shape.bias == 1) {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const FV b = (FV)(LOAD(TBIAS, bias, i0 + min(i, last)));
            sum[i][0] += b;
            sum[i][1] += b;
        }
    } else if (shape.bias == 2 && columns == P) {
        const FV b0 = LOAD_V(TBIAS, bias, j0), b1 = LOAD_V(TBIAS, bias, j0 + V);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            sum[i][0] += b0;
            sum[i][1] += b1;
        }
    }
    if (columns == P && last == ROWS - 1 && shape.c_column == 1 && !shape.accumulate) {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            STORE_V(TC, c, C_ROW(i), sum[i][0]);
            STORE_V(TC, c, C_ROW(i) + V, sum[i][1]);
        }
        return;
    }
    float tile[ROWS][P];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        VSTORE(sum[i][0], 0, tile[i]);
        VSTORE(sum[i][1], 1, tile[i]);
    }
    if (shape.bias == 2 && columns < P)
        for (int j = 0; j < columns; j++) {
            const float b = LOAD(TBIAS, bias, j0 + j);
            for (int i = 0; i <= last; i++) tile[i][j] += b;
        }
    if (shape.accumulate)
        for (int i = 0; i <= last; i++)
            for (int j = 0; j < columns; j++)
                tile[i][j] += LOAD(TC, c, C_ROW(i) + (size_t)j * shape.c_column);
    for (int j = 0; j < columns; j++)
        for (int i = 0; i <= last; i++)
            STORE(TC, c, C_ROW(i) + (size_t)j * shape.c_column, tile[i][j]);
}
