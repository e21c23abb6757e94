/* Losses, composed of simpler ops. */
#include "ops/loss.h"

#include "ops/elementwise.h"
#include "ops/reduce.h"

static kin_tensor squared_difference(kin_graph *graph, kin_tensor a, kin_tensor b) {
    kin_desc x = *kin_tensor_desc(graph, a), y = *kin_tensor_desc(graph, b);
    if (!kin_desc_same_shape(&x, &y)) {
        char first[128], second[128];
        return kin_graph_fail(graph, KIN_INVALID, "mse: the shapes %s and %s differ",
                              kin_desc_shape_text(&x, first, sizeof first),
                              kin_desc_shape_text(&y, second, sizeof second));
    }
    return kin_square(graph, kin_sub(graph, a, b));
}

kin_tensor kin_mse(kin_graph *graph, kin_tensor a, kin_tensor b) {
    return kin_mean_all(graph, squared_difference(graph, a, b));
}

kin_tensor kin_mse_per_sample(kin_graph *graph, kin_tensor a, kin_tensor b) {
    kin_tensor square = squared_difference(graph, a, b);
    uint32_t axes = (1u << kin_rank(graph, square)) - 1u;
    return kin_mean(graph, square, axes & ~1u, false);
}
