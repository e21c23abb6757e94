/* Products: the device's kind of kernel (tuning.h), tiles in local memory, and CLBlast. */
#include "backends/opencl/product.h"

#include "backends/opencl/panels.h"

#include <stdio.h>
#include <string.h>

#ifdef KIN_HAVE_CLBLAST
#include <clblast_c.h>
#endif

static int64_t batch_of(const kin_opencl_product *product) {
    int64_t batch = 1;
    for (int a = 0; a < product->rank; a++) batch *= product->dims[a];
    return batch;
}

/* ---- places ---- */

kin_opencl_place kin_opencl_place_of(const kin_operand *operand, int64_t skip) {
    size_t size = kin_dtype_size(operand->desc.dtype);
    size_t bytes = size > 0 ? (size_t)skip * size : (size_t)skip / 32 * 34;
    return (kin_opencl_place){operand->buffer, operand->offset + bytes, operand->desc.dtype};
}

kin_opencl_place kin_opencl_scratch_place(const kin_call *call, size_t skip, kin_dtype dtype) {
    return (kin_opencl_place){call->scratch, call->scratch_offset + skip, dtype};
}

void kin_opencl_set_place(kin_opencl_launch *launch, const kin_opencl_place *place) {
    size_t size = kin_dtype_size(place->dtype);
    kin_opencl_set_memory(launch, place->buffer, place->offset, size > 0 ? size : 1);
}

/* ---- tiles ---- */

kin_status kin_opencl_tiles(kin_device *device, kin_commands *commands, kin_opencl_place a,
                            kin_opencl_place b, kin_opencl_place c, const kin_operand *bias,
                            const kin_opencl_place *table, int count,
                            const kin_opencl_tiles_shape *shape) {
    const kin_opencl_tuning tuning = kin_opencl_tuning_of(device);
    const size_t side = (size_t)tuning.side, tile = side * (size_t)tuning.each;
    char defines[160];
    snprintf(defines, sizeof defines,
             "-DTA=%s -DTB=%s -DTC=%s -DTBIAS=%s -DSIDE=%d -DEACH=%d -DDEPTH=%d -DTABLES=%d",
             kin_dtype_name(a.dtype), kin_dtype_name(b.dtype), kin_dtype_name(c.dtype),
             bias != NULL ? kin_opencl_type(bias) : "f32", tuning.side, tuning.each, tuning.depth,
             table != NULL);
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "tiles", defines, "tiles_multiply");
    kin_opencl_set_place(&launch, &a);
    kin_opencl_set_place(&launch, &b);
    kin_opencl_set_place(&launch, &c);
    if (bias != NULL) kin_opencl_set_operand(&launch, bias);
    else kin_opencl_set_memory(&launch, NULL, 0, 1);
    if (table != NULL) kin_opencl_set_place(&launch, table);
    kin_opencl_set_bytes(&launch, shape, sizeof *shape);
    const size_t global[3] = {((size_t)shape->columns + tile - 1) / tile * side,
                              ((size_t)shape->rows + tile - 1) / tile * side, (size_t)count};
    const size_t local[3] = {side, side, 1};
    return kin_opencl_finish(&launch, 3, global, local);
}

static kin_status launch_tiles(kin_device *device, kin_commands *commands,
                               const kin_opencl_product *product) {
    kin_opencl_tiles_shape shape = {.rows = product->rows,
                                    .columns = product->columns,
                                    .depth = product->depth,
                                    .a_row = product->a.row_step,
                                    .a_depth = product->a.column_step,
                                    .b_depth = product->b.row_step,
                                    .b_column = product->b.column_step,
                                    .c_row = product->columns,
                                    .c_column = 1,
                                    .bias = product->bias != NULL ? 2 : 0,
                                    .rank = product->rank,
                                    .c_step = product->rows * product->columns};
    for (int a = 0; a < product->rank; a++) {
        shape.dims[a] = product->dims[a];
        shape.a_steps[a] = product->a.steps[a];
        shape.b_steps[a] = product->b.steps[a];
    }
    return kin_opencl_tiles(device, commands, kin_opencl_place_of(product->a.operand, 0),
                            kin_opencl_place_of(product->b.operand, 0),
                            kin_opencl_place_of(product->c, 0), product->bias, NULL,
                            (int)batch_of(product), &shape);
}

/* ---- CLBlast ---- */

#ifdef KIN_HAVE_CLBLAST

/* What is queued when the list is submitted. Offsets and strides in elements. */
typedef struct blast_step {
    size_t m, n, k, batch;
    bool a_across, b_across; /* transposed */
    cl_mem a, b, c;
    size_t a_at, b_at, c_at, a_row, b_row, a_step, b_step, c_step;
    float beta;
} blast_step;

/* f32, dense along one axis and without overlap along the other. */
static bool blast_matrix(const kin_opencl_matrix *matrix, int rows, int columns, bool *out_across,
                         size_t *out_row) {
    if (matrix->operand->desc.dtype != KIN_F32) return false;
    *out_across = !(matrix->column_step == 1 && matrix->row_step >= columns);
    *out_row = (size_t)(*out_across ? matrix->column_step : matrix->row_step);
    if (!*out_across) return true;
    return matrix->row_step == 1 && matrix->column_step >= rows;
}

static bool blast_takes(const kin_device *device, const kin_opencl_product *product,
                        blast_step *out) {
    const double operations =
        (double)product->rows * (double)product->columns * (double)product->depth;
    if (operations == 0 || operations < kin_opencl_tuning_of(device).clblast_operations ||
        product->rank > 1 || product->c->desc.dtype != KIN_F32)
        return false;
    *out = (blast_step){.m = (size_t)product->rows,
                        .n = (size_t)product->columns,
                        .k = (size_t)product->depth,
                        .batch = (size_t)batch_of(product)};
    return blast_matrix(&product->a, product->rows, product->depth, &out->a_across, &out->a_row) &&
           blast_matrix(&product->b, product->depth, product->columns, &out->b_across, &out->b_row);
}

static kin_status run_blast(kin_device *device, void *data, cl_event *out_event) {
    const blast_step *s = data;
    kin_opencl_device *state = kin_opencl_of(device);
    const CLBlastTranspose a = s->a_across ? CLBlastTransposeYes : CLBlastTransposeNo;
    const CLBlastTranspose b = s->b_across ? CLBlastTransposeYes : CLBlastTransposeNo;
    CLBlastStatusCode code;
    if (s->batch == 1)
        code = CLBlastSgemm(CLBlastLayoutRowMajor, a, b, s->m, s->n, s->k, 1.0f, s->a, s->a_at,
                            s->a_row, s->b, s->b_at, s->b_row, s->beta, s->c, s->c_at, s->n,
                            &state->queue, out_event);
    else
        code = CLBlastSgemmStridedBatched(CLBlastLayoutRowMajor, a, b, s->m, s->n, s->k, 1.0f, s->a,
                                          s->a_at, s->a_row, s->a_step, s->b, s->b_at, s->b_row,
                                          s->b_step, s->beta, s->c, s->c_at, s->n, s->c_step,
                                          s->batch, &state->queue, out_event);
    if (code == CLBlastSuccess) return KIN_OK;
    return kin_fail(device->context, KIN_DEVICE, "opencl: CLBlast's product failed (%d)",
                    (int)code);
}

/* c = bias in every row. */
static kin_status fill_bias(kin_device *device, kin_commands *commands,
                            const kin_opencl_product *product) {
    char defines[32];
    snprintf(defines, sizeof defines, "-DTBIAS=%s", kin_opencl_type(product->bias));
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "bias_rows", defines, "bias_rows");
    kin_opencl_set_operand(&launch, product->bias);
    kin_opencl_set_operand(&launch, product->c);
    kin_opencl_set_int(&launch, product->columns);
    kin_opencl_set_int(&launch, kin_desc_count(&product->c->desc));
    return kin_opencl_finish_items(&launch, kin_desc_count(&product->c->desc));
}

static kin_status launch_blast(kin_device *device, kin_commands *commands,
                               const kin_opencl_product *product, const blast_step *taken) {
    blast_step *step = kin_alloc(device->context, sizeof *step);
    if (step == NULL) return KIN_OUT_OF_MEMORY;
    *step = *taken;
    step->a = product->a.operand->buffer->memory;
    step->b = product->b.operand->buffer->memory;
    step->c = product->c->buffer->memory;
    step->a_at = product->a.operand->offset / sizeof(float);
    step->b_at = product->b.operand->offset / sizeof(float);
    step->c_at = product->c->offset / sizeof(float);
    if (product->rank == 1) {
        step->a_step = (size_t)product->a.steps[0];
        step->b_step = (size_t)product->b.steps[0];
        step->c_step = step->m * step->n;
    }
    step->beta = product->bias != NULL ? 1.0f : 0.0f;
    kin_status status = product->bias != NULL ? fill_bias(device, commands, product) : KIN_OK;
    if (status == KIN_OK) return kin_opencl_step(device, commands, run_blast, step);
    kin_free(device->context, step);
    return status;
}

#else

typedef struct blast_step {
    int unused;
} blast_step;

static bool blast_takes(const kin_device *device, const kin_opencl_product *product,
                        blast_step *out) {
    (void)device, (void)product, (void)out;
    return false;
}

static kin_status launch_blast(kin_device *device, kin_commands *commands,
                               const kin_opencl_product *product, const blast_step *taken) {
    (void)commands, (void)product, (void)taken;
    return kin_fail(device->context, KIN_UNSUPPORTED, "opencl: built without CLBlast");
}

#endif

/* ---- the choice ---- */

size_t kin_opencl_product_scratch(const kin_device *device, const kin_opencl_product *product) {
    if (kin_opencl_tuning_of(device).product != KIN_OPENCL_PANELS) return 0;
    return kin_opencl_panels_scratch(device, product);
}

kin_status kin_opencl_product_launch(kin_device *device, kin_commands *commands,
                                     const kin_call *call, const kin_opencl_product *product) {
    const kin_opencl_product_kind kind = kin_opencl_tuning_of(device).product;
    blast_step taken;
    if (product->rows == 0 || product->columns == 0 || batch_of(product) == 0) return KIN_OK;
    if (kind == KIN_OPENCL_PANELS) return kin_opencl_panels_launch(device, commands, call, product);
    if (kind == KIN_OPENCL_CLBLAST && blast_takes(device, product, &taken))
        return launch_blast(device, commands, product, &taken);
    return launch_tiles(device, commands, product);
}
