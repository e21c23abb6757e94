/* Rows: groups of GROUP work-items (1 on CPUs) that share a row and load V elements at once. */

/* All axes of a view but the dense last one: opencl_row_shape of shape.h. */
typedef struct row_shape {
    int rank;
    int dims[8];
    int strides[8];
} row_shape;

int row_place(const row_shape *rows, int row) {
    int place = 0;
    for (int axis = rows->rank - 1; axis >= 0; axis--) {
        int next = axis > 0 ? row / rows->dims[axis] : 0;
        place += (row - next * rows->dims[axis]) * rows->strides[axis];
        row = next;
    }
    return place;
}

#if GROUP > 1
#define ROW_LOCAL __local float shared_floats[GROUP]
#define ROW_MEMORY , __local float *shared_floats
#define ROW_PASS , shared_floats
#define ROW_ITEM ((int)get_local_id(0))
#define ROW_REDUCE(name, joined)                                                                   \
    float name(float value, __local float *shared_floats) {                                        \
        int item = get_local_id(0);                                                                \
        shared_floats[item] = value;                                                               \
        barrier(CLK_LOCAL_MEM_FENCE);                                                              \
        for (int step = GROUP / 2; step > 0; step /= 2) {                                          \
            float a = shared_floats[item], b = shared_floats[item + (item < step ? step : 0)];     \
            barrier(CLK_LOCAL_MEM_FENCE);                                                          \
            if (item < step) shared_floats[item] = joined;                                         \
            barrier(CLK_LOCAL_MEM_FENCE);                                                          \
        }                                                                                          \
        float result = shared_floats[0];                                                           \
        barrier(CLK_LOCAL_MEM_FENCE);                                                              \
        return result;                                                                             \
    }
#else
#define ROW_LOCAL
#define ROW_MEMORY
#define ROW_PASS
#define ROW_ITEM 0
#define ROW_REDUCE(name, joined)                                                                   \
    float name(float value) {                                                                      \
        return value;                                                                              \
    }
#endif

/* Over the work-items of a group; all of them get the result. */
ROW_REDUCE(group_sum, a + b)
ROW_REDUCE(group_max, fmax(a, b))
#define GROUP_SUM(value) group_sum(value ROW_PASS)
#define GROUP_MAX(value) group_max(value ROW_PASS)

/* Runs `wide` with i = each start of V elements of `width` that is this work-item's, and `one` with
 * i = each element that is left over. */
#define FOR_ROW(width, wide, one)                                                                  \
    do {                                                                                           \
        int full_ = (width) / V * V;                                                               \
        for (int i = ROW_ITEM * V; i < full_; i += GROUP * V) {                                    \
            wide;                                                                                  \
        }                                                                                          \
        for (int i = full_ + ROW_ITEM; i < (width); i += GROUP) {                                  \
            one;                                                                                   \
        }                                                                                          \
    } while (0)

/* Mean and spread of a row, taken in two passes so that a large mean does no harm: the mean is
 * `mean + rest`, of which rest is what rounding left of the first pass; scale is
 * 1 / sqrt(variance + eps). */
typedef struct row_statistics {
    float mean, rest, scale;
} row_statistics;
