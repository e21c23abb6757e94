/* Cases that kinora check compare wrote: one op with its operands. */
#include "tools/check/case_run.h"

#include "tools/check/one_op.h"

/* Compares output j with the file's. A device that lowers the op may err at every node of it, as
 * tools/check/op_suite.h says; one that rounds the operands of products has the tolerance of that. */
static void compare_output(kin_case_run *run, const kin_one_op *one, const kin_one_result *got,
                           int j) {
    char name[32];
    snprintf(name, sizeof name, "out%d", j);
    double usual = run->tolerance, largest = 0,
           tolerance = kin_one_op_tolerance(one, run->device, j);
    const kin_named_tensor *want = kin_case_output_tensor(run, name);
    int64_t count = kin_desc_count(&one->out[j]);
    for (int64_t i = 0; want && i < kin_desc_count(&want->desc); i++) {
        double value = kin_element_get(want->data, want->desc.dtype, i);
        if (value < 0) value = -value;
        if (value < 1e300 && value > largest) largest = value;
    }
    if (tolerance > run->tolerance) run->tolerance = tolerance;
    if (largest > 0) run->tolerance += got->extra[j] / largest;
    kin_case_compare(run, name, KIN_F64, got->out[j], count);
    run->tolerance = usual;
}

void kin_case_one_op(kin_case_run *run) {
    kin_one_op *one = NULL;
    kin_one_result got = {.lowered = false};
    kin_status status = kin_one_op_load(run->context, run->folder, &one);
    if (status == KIN_OK) status = kin_one_op_run(one, run->device, true, &got);
    if (kin_case_ok(run, "the op", status)) {
        if (!run->options->brief)
            fprintf(run->out, "  %s on %s: %s%s\n", one->op->name, run->device->info.name,
                    got.lowered ? "lowered to " : "", got.kernels);
        for (int j = 0; j < one->out_count; j++) compare_output(run, one, &got, j);
    }
    kin_one_result_free(run->context, &got);
    kin_one_op_free(one);
}
