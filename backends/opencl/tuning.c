/* The tuning table. */
#include "backends/opencl/tuning.h"

#include <string.h>

/* The first row that fits counts. PoCL: measured, see "OpenCL on PoCL" in docs/benchmarks.md. The
 * last two rows are the defaults: no other device was measured. */
static const kin_opencl_tuning table[] = {
    {"pthread", true, KIN_OPENCL_PANELS, {6, 6, 8}, 16, 4, 16, 0},
    {"", true, KIN_OPENCL_PANELS, {6, 6, 8}, 16, 4, 16, 0},
    {"", false, KIN_OPENCL_CLBLAST, {6, 6, 8}, 16, 4, 16, 64.0 * 64 * 64},
};

static const char *const product_names[] = {
    [KIN_OPENCL_PANELS] = "panels", [KIN_OPENCL_TILES] = "tiles", [KIN_OPENCL_CLBLAST] = "clblast"};

enum { PRODUCTS = sizeof product_names / sizeof *product_names };

/* The product that the setting names: PRODUCTS if none has that name. */
static int named_product(const char *name) {
    int product = 0;
    while (product < PRODUCTS && strcmp(product_names[product], name) != 0) product++;
    return product;
}

kin_status kin_opencl_check_tuning(kin_device *device) {
    const char *name = kin_context_setting(device->context, "opencl.product");
    if (name == NULL || named_product(name) < PRODUCTS) return KIN_OK;
    return kin_fail(device->context, KIN_INVALID,
                    "the setting opencl.product=%s is neither panels, tiles nor clblast", name);
}

/* Local memory of tiles.cl: two operands, rows padded by one element. */
static size_t local_bytes(const kin_opencl_tuning *tuning) {
    return sizeof(float) * 2 * (size_t)tuning->depth * (size_t)(tuning->side * tuning->each + 1);
}

static void shrink(const kin_opencl_device *state, kin_opencl_tuning *tuning) {
    while (tuning->side > 1 && ((size_t)(tuning->side * tuning->side) > state->group_limit ||
                                (size_t)tuning->side > state->group_limits[0] ||
                                (size_t)tuning->side > state->group_limits[1]))
        tuning->side /= 2;
    while (tuning->depth > 1 && local_bytes(tuning) > state->local_memory) tuning->depth /= 2;
    while (tuning->side > 1 && local_bytes(tuning) > state->local_memory) tuning->side /= 2;
    while (tuning->each > 1 && local_bytes(tuning) > state->local_memory) tuning->each /= 2;
}

kin_opencl_tuning kin_opencl_tuning_of(const kin_device *device) {
    const kin_opencl_device *state = kin_opencl_of(device);
    cl_device_type type = 0;
    char name[128] = "";
    size_t row = 0;
    clGetDeviceInfo(state->id, CL_DEVICE_TYPE, sizeof type, &type, NULL);
    clGetDeviceInfo(state->id, CL_DEVICE_NAME, sizeof name - 1, name, NULL);
    const bool cpu = (type & CL_DEVICE_TYPE_CPU) != 0;
    while (table[row].cpu != cpu || strstr(name, table[row].device) == NULL) row++;
    kin_opencl_tuning tuning = table[row];
    const char *setting = kin_context_setting(device->context, "opencl.product");
    if (setting != NULL) {
        tuning.product = (kin_opencl_product_kind)named_product(setting);
        tuning.clblast_operations = 0;
    }
    shrink(state, &tuning);
    return tuning;
}

int kin_opencl_panel_rows(const kin_device *device) {
    const kin_opencl_tuning tuning = kin_opencl_tuning_of(device);
    const int vector = kin_opencl_of(device)->vector;
    return tuning.panel_rows[vector == 16 ? 2 : vector == 8 ? 1 : 0];
}
