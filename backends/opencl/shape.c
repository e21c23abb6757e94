#include "backends/opencl/shape.h"

#include <stdio.h>
#include <string.h>

static bool joins(const opencl_shape *s, int axis, const int64_t *strides) {
    for (int j = 0; j < s->count; j++)
        if (s->strides[j][axis] != strides[j]) return false;
    return true;
}

opencl_shape opencl_shape_of(int rank, const int64_t *dims, int count, const kin_desc *const *in) {
    opencl_shape s = {.count = count};
    for (int axis = 0; axis < rank; axis++) {
        int64_t strides[OPENCL_SHAPE_OPERANDS] = {0}, outer[OPENCL_SHAPE_OPERANDS] = {0};
        if (dims[axis] == 1) continue;
        for (int j = 0; j < count; j++) {
            int own = axis - (rank - in[j]->rank);
            strides[j] = own < 0 || in[j]->dims[own] == 1 ? 0 : in[j]->strides[own];
            outer[j] = strides[j] * dims[axis];
        }
        int last = s.rank - 1;
        bool join = last >= 0 && joins(&s, last, outer);
        if (!join) last = s.rank++;
        s.dims[last] = join ? s.dims[last] * dims[axis] : dims[axis];
        for (int j = 0; j < count; j++) s.strides[j][last] = strides[j];
    }
    return s;
}

bool opencl_shape_is_dense(const opencl_shape *s) {
    if (s->rank == 0) return true;
    for (int j = 0; j < s->count; j++)
        if (s->strides[j][0] != 1) return false;
    return s->rank == 1;
}

void opencl_set_shape(kin_opencl_launch *launch, const opencl_shape *s) {
    opencl_map_shape map = {.count = 1};
    for (int axis = 0; axis < KIN_MAX_RANK; axis++) {
        bool used = axis < s->rank;
        map.dims[axis] = used ? (cl_int)s->dims[axis] : 1;
        map.count *= map.dims[axis];
        for (int j = 0; used && j < s->count; j++)
            map.strides[j][axis] = (cl_int)s->strides[j][axis];
    }
    kin_opencl_set_bytes(launch, &map, sizeof map);
}

/* Rows shorter than this are not worth a dimension of their own. */
enum { SHORT_ROW = 16, GROUP_ITEMS = 256 };

static bool has_rows(const opencl_shape *s) {
    return s->rank > 0 && !opencl_shape_is_dense(s) && s->dims[s->rank - 1] >= SHORT_ROW;
}

void opencl_map_defines(const opencl_shape *s, char text[OPENCL_MAP_DEFINES]) {
    int kinds[OPENCL_SHAPE_OPERANDS] = {0};
    for (int j = 0; s->rank > 0 && j < s->count; j++) {
        int64_t step = s->strides[j][s->rank - 1];
        kinds[j] = step == 0 || step == 1 ? (int)step : 2;
    }
    snprintf(text, OPENCL_MAP_DEFINES,
             " -DRANK=%d -DLAST=%d -DBEFORE=%d -DREST=%d -DROWS=%d -DINNER_0=%d -DINNER_1=%d "
             "-DINNER_2=%d",
             opencl_shape_is_dense(s) ? 0 : s->rank, s->rank > 0 ? s->rank - 1 : 0,
             s->rank > 1 ? s->rank - 2 : 0, s->rank > 2 ? s->rank - 2 : 0, has_rows(s), kinds[0],
             kinds[1], kinds[2]);
}

/* The largest power of two up to `most` that leaves less than an eighth of the work-items of an
 * axis without work; `least` if there is none. */
static size_t local_size(size_t axis, size_t most, size_t least) {
    size_t size = most;
    while (size > least && ((axis + size - 1) / size * size - axis) * 8 > axis) size /= 2;
    return size;
}

kin_status opencl_finish_map(kin_opencl_launch *launch, const opencl_shape *s) {
    size_t count = 1;
    for (int axis = 0; axis < s->rank; axis++) count *= (size_t)s->dims[axis];
    if (!has_rows(s) || count == 0) return kin_opencl_finish_items(launch, (int64_t)count);
    size_t columns = (size_t)s->dims[s->rank - 1];
    size_t rows = s->rank > 1 ? (size_t)s->dims[s->rank - 2] : 1;
    const size_t global[3] = {columns, rows, count / columns / rows};
    size_t most = kin_opencl_group(launch, GROUP_ITEMS, 0), local[3] = {1, 1, 1};
    local[0] = local_size(columns, most, most < SHORT_ROW ? most : SHORT_ROW);
    local[1] = local_size(rows, most / local[0], 1);
    const size_t limit = kin_opencl_of(launch->device)->group_limits[1];
    if (local[1] > limit) local[1] = 1;
    return kin_opencl_finish(launch, 3, global, local);
}

bool opencl_rows_are_dense(const kin_desc *desc) {
    return opencl_row_width(desc) == 1 || desc->strides[desc->rank - 1] == 1;
}

int64_t opencl_row_count(const kin_desc *desc) {
    int64_t count = 1;
    for (int axis = 0; axis < desc->rank - 1; axis++) count *= desc->dims[axis];
    return count;
}

void opencl_set_rows(kin_opencl_launch *launch, const kin_desc *desc) {
    opencl_row_shape rows = {.rank = 0};
    for (int axis = 0; axis < desc->rank - 1; axis++) {
        int64_t dim = desc->dims[axis], stride = desc->strides[axis];
        int last = rows.rank - 1;
        if (dim == 1) continue;
        if (last >= 0 && rows.strides[last] == dim * stride) {
            rows.dims[last] *= (cl_int)dim;
            rows.strides[last] = (cl_int)stride;
        } else {
            rows.dims[rows.rank] = (cl_int)dim;
            rows.strides[rows.rank++] = (cl_int)stride;
        }
    }
    kin_opencl_set_bytes(launch, &rows, sizeof rows);
}

kin_opencl_launch opencl_start_rows(kin_device *device, kin_commands *commands, const char *parts,
                                    const char *defines, const char *kernel, int64_t width,
                                    int floats, size_t *out_group) {
    const kin_opencl_device *state = kin_opencl_of(device);
    size_t group = 1, local_each = (size_t)floats * sizeof(float);
    size_t wanted = state->is_cpu ? 1 : 128;
    while (2 * group <= wanted && (int64_t)group * state->vector < width) group *= 2;
    for (;;) {
        char options[512];
        snprintf(options, sizeof options, "%s -DGROUP=%zu", defines, group);
        kin_opencl_launch launch = kin_opencl_start(device, commands, parts, options, kernel);
        size_t most = kin_opencl_group(&launch, group, local_each);
        *out_group = group;
        if (launch.status != KIN_OK || most >= group) return launch;
        clReleaseKernel(launch.kernel);
        group = most;
    }
}

kin_status opencl_finish_rows(kin_opencl_launch *launch, int64_t rows, size_t group) {
    size_t global = (size_t)rows * group;
    return kin_opencl_finish(launch, 1, &global, &group);
}
