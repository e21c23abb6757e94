/* Copies a matrix x[depth, columns] of any storage and strides into panels of WIDTH columns, depth
 * x WIDTH floats each; columns past the end are 0. Options: TX, WIDTH, TABLES. */
typedef struct {
    int columns, depth;
    int column_step, depth_step;
    int inner,
        outer_step; /* TABLES 0: step l lies at l / inner * outer_step + l % inner * depth_step */
    int batch, rank, dims[6], steps[6];
    int to_step; /* floats from product to product of the batch */
} pack_shape;

#define DEPTH_BLOCK 64

int pack_offset(int index, int rank, const int *dims, const int *steps) {
    int offset = 0;
    for (int a = 0; a < rank; a++) {
        offset += index % dims[a] * steps[a];
        index /= dims[a];
    }
    return offset;
}

/* Elements of q8_0 are counted from the start of a row of whole blocks. */
#define LOAD_q8_0(p, i)                                                                            \
    (vload_half(0, (__global const half *)((p) + (size_t)(i) / 32 * 34)) *                         \
     (float)as_char((p)[(size_t)(i) / 32 * 34 + 2 + (size_t)(i) % 32]))
#define LOAD_V_q8_0(p, i)                                                                          \
    (vload_half(0, (__global const half *)((p) + (size_t)(i) / 32 * 34)) *                         \
     CAT(convert_, FV)(                                                                            \
         VLOAD(0, (__global const char *)((p) + (size_t)(i) / 32 * 34 + 2 + (size_t)(i) % 32))))

#if TABLES
#define DEPTH_AT(l) table[l]
#else
#define DEPTH_AT(l) ((l) / shape.inner * shape.outer_step + (l) % shape.inner * shape.depth_step)
#endif

/* Panels that a work-item fills: where columns are dense, it then reads whole lines of the cache.
 */
#define PANELS (128 / WIDTH)

#if WIDTH % V == 0
#define COPY_COLUMNS(to, at)                                                                       \
    for (int j = 0; j < WIDTH; j += V) VSTORE(LOAD_V(TX, x, (at) + j), 0, (to) + j)
#else
#define COPY_COLUMNS(to, at)                                                                       \
    for (int j = 0; j < WIDTH; j++) (to)[j] = LOAD(TX, x, (at) + j)
#endif

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
panels_pack(__global const TYPE(TX) *restrict x, ulong x_at, __global float *restrict to,
            ulong to_at,
#if TABLES
            __global const int *restrict table, ulong table_at,
#endif
            pack_shape shape) {
    const int index = get_global_id(2), panel = get_global_id(1) * PANELS;
    const int first = get_global_id(0) * DEPTH_BLOCK, end = min(first + DEPTH_BLOCK, shape.depth);
    const int from = pack_offset(shape.batch + index, shape.rank, shape.dims, shape.steps);
    const size_t panel_step = (size_t)shape.depth * WIDTH;
    int whole = clamp(shape.columns / WIDTH - panel, 0, PANELS);
    x += x_at;
    to += to_at + (size_t)index * shape.to_step + panel * panel_step;
#if TABLES
    table += table_at;
#else
    const bool runs = shape.inner == shape.depth || shape.inner % DEPTH_BLOCK == 0;
#endif
    if (shape.column_step == 1) {
        for (int l = first; l < end; l++) {
            const int at = from + DEPTH_AT(l) + panel * WIDTH;
            for (int p = 0; p < whole; p++)
                COPY_COLUMNS(to + p * panel_step + (size_t)l * WIDTH, at + p * WIDTH);
        }
    } else {
        for (int p = 0; p < whole; p++) {
            const int column = from + (panel + p) * WIDTH * shape.column_step;
            int l = first;
#if !TABLES
            for (; shape.depth_step == 1 && runs && l + V <= end; l += V) {
                float part[WIDTH][V];
                const int at = column + DEPTH_AT(l);
                for (int j = 0; j < WIDTH; j++)
                    VSTORE(LOAD_V(TX, x, at + j * shape.column_step), 0, part[j]);
                for (int k = 0; k < V; k++)
                    for (int j = 0; j < WIDTH; j++)
                        to[p * panel_step + (size_t)(l + k) * WIDTH + j] = part[j][k];
            }
#endif
            for (; l < end; l++) {
                const int at = column + DEPTH_AT(l);
                for (int j = 0; j < WIDTH; j++)
                    to[p * panel_step + (size_t)l * WIDTH + j] =
                        LOAD(TX, x, at + j * shape.column_step);
            }
        }
    }
    /* The last panel, if columns are missing. */
    const int columns = shape.columns - (panel + whole) * WIDTH;
    if (whole == PANELS || columns <= 0) return;
    for (int l = first; l < end; l++) {
        const int at = from + DEPTH_AT(l) + (panel + whole) * WIDTH * shape.column_step;
        for (int j = 0; j < WIDTH; j++)
            to[whole * panel_step + (size_t)l * WIDTH + j] =
                j < columns ? LOAD(TX, x, at + j * shape.column_step) : 0.0f;
    }
}
