/* The models and layers that `kinora bench model` times. bench/torch_step.py has most under the
 * same names, so that the two can be run in turn. */
#ifndef KIN_BENCH_GRAPHS_H
#define KIN_BENCH_GRAPHS_H

#include "runtime/graph.h"

typedef struct kin_bench_graph {
    const char *name;
    const char *summary;
    bool trains; /* can be built with `train` */
    /* Appends the model, computing in `dtype`. train: with its gradients, which are outputs, or, if
     * it is a model that is trained as a whole, with its update; the weights of models are f32
     * then. KIN_OK, or the graph's first error. */
    kin_status (*append)(kin_graph *graph, const int64_t *sizes, kin_dtype dtype, bool train);
    int64_t sizes[8];
} kin_bench_graph;

/* Ended by an empty row. */
extern const kin_bench_graph kin_bench_graphs[];

/* Elements of the integer inputs: "ids" below KIN_BENCH_VOCABULARY, "lengths" all that there is. */
enum { KIN_BENCH_VOCABULARY = 64 };

#endif
