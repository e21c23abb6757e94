#include "models/positions.h"

#include <math.h>

/* Writes [sin(position w_k)], [cos(position w_k)], w_k = 10000^(-k / count), k < count. */
static void sinusoid(float *out, double position, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        double angle = position * pow(10000.0, -(double)k / (double)count);
        out[k] = (float)sin(angle);
        out[count + k] = (float)cos(angle);
    }
}

static float *table_of(kin_graph *graph, int64_t places, int64_t width) {
    float *table = kin_alloc(kin_graph_context(graph), (size_t)(places * width) * sizeof *table);
    if (!table) kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for positions");
    return table;
}

kin_tensor kin_positions_grid(kin_graph *graph, const kin_precision *precision, int64_t width,
                              int64_t rows, int64_t columns, double row_step, double column_step) {
    float *table = table_of(graph, rows * columns, width);
    if (!table) return KIN_NONE;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++) {
            float *entry = table + (row * columns + column) * width;
            sinusoid(entry, (double)column * column_step, width / 4);
            sinusoid(entry + width / 2, (double)row * row_step, width / 4);
        }
    int64_t dims[] = {1, 1, rows * columns, width};
    kin_tensor result = kin_layer_table(graph, precision, 4, dims, table);
    kin_free(kin_graph_context(graph), table);
    return result;
}

kin_tensor kin_positions_frames(kin_graph *graph, const kin_precision *precision, int64_t width,
                                int64_t frames, double step) {
    float *table = table_of(graph, frames, width);
    if (!table) return KIN_NONE;
    for (int64_t t = 0; t < frames; t++) sinusoid(table + t * width, (double)t * step, width / 2);
    kin_tensor result =
        kin_layer_table(graph, precision, 4, (int64_t[]){1, frames, 1, width}, table);
    kin_free(kin_graph_context(graph), table);
    return result;
}

kin_tensor kin_positions_index(kin_graph *graph, int64_t frames) {
    float *index = table_of(graph, frames, 1);
    if (!index) return KIN_NONE;
    for (int64_t t = 0; t < frames; t++) index[t] = (float)t;
    kin_tensor result = kin_constant(graph, KIN_F32, 1, &frames, index);
    kin_free(kin_graph_context(graph), index);
    return result;
}
