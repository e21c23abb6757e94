/* Kinora from C: y = softmax(x w^T + b), planned and run on the CPU.
 * cc example.c $(pkg-config --cflags --libs kinora) */
#include "ops/matmul.h"
#include "ops/softmax.h"
#include "runtime/plan.h"

#include <stdio.h>

/* Appends the model to a graph: shapes only, nothing is computed or allocated yet. */
static void build(kin_graph *graph) {
    const float w[3][4] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 1}}, b[3] = {0, 0.5f, 0};
    kin_tensor x = kin_input(graph, "x", KIN_F32, 2, (int64_t[]){2, 4});
    kin_tensor weight = kin_constant(graph, KIN_F32, 2, (int64_t[]){3, 4}, w);
    kin_tensor bias = kin_constant(graph, KIN_F32, 1, (int64_t[]){3}, b);
    kin_output(graph, "y", kin_softmax(graph, kin_linear(graph, x, weight, bias)));
}

int main(void) {
    const float x[2][4] = {{1, 2, 3, 4}, {-1, 0, 0, 1}};
    float y[2][3];
    kin_context *context = NULL;
    kin_backends *backends = NULL;
    kin_device *device = NULL;
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    if (kin_context_create(NULL, &context) != KIN_OK) return 1;
    kin_status status = kin_backends_load(context, NULL, &backends);
    if (status == KIN_OK) status = kin_device_open(backends, "cpu", &device);
    if (status == KIN_OK) status = kin_graph_create(context, &graph);
    if (status == KIN_OK) build(graph);
    if (status == KIN_OK) status = kin_plan_build(graph, device, NULL, &plan);
    if (status == KIN_OK) status = kin_plan_prepare(plan, NULL, NULL);
    if (status == KIN_OK) status = kin_plan_write(plan, "x", KIN_F32, x);
    if (status == KIN_OK) status = kin_plan_run(plan);
    if (status == KIN_OK) status = kin_plan_read(plan, "y", KIN_F32, y);
    if (status != KIN_OK) fprintf(stderr, "example: %s\n", kin_context_error(context));
    for (int i = 0; status == KIN_OK && i < 2; i++)
        printf("%.4f %.4f %.4f\n", (double)y[i][0], (double)y[i][1], (double)y[i][2]);
    kin_plan_free(plan);
    kin_graph_destroy(graph);
    kin_device_close(device);
    kin_backends_free(backends);
    kin_context_destroy(context);
    return status == KIN_OK ? 0 : 1;
}
