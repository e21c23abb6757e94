/* One op with its operands as a folder, in the form of a reference case. */
#include "runtime/check.h"
#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/safetensors.h"
#include "tools/check/one_op.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INPUTS = 64, MAX_ATTRS = 4096 };

/* ---- writing ---- */

static json_t *ints_json(const int64_t *values, int count) {
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_integer((json_int_t)values[i]));
    return list;
}

static json_t *operand_json(const kin_one_operand *in) {
    if (in->absent) return json_null();
    return json_pack("{s:s, s:o, s:o, s:I, s:b}", "dtype", kin_dtype_name(in->view.dtype), "dims",
                     ints_json(in->view.dims, in->view.rank), "strides",
                     ints_json(in->view.strides, in->view.rank), "offset", (json_int_t)in->offset,
                     "variable", in->variable);
}

static json_t *config_json(const kin_one_op *one) {
    char hex[2 * MAX_ATTRS + 1] = "";
    const unsigned char *bytes = one->attrs;
    for (size_t i = 0; i < one->op->attrs_size && i < MAX_ATTRS; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    json_t *inputs = json_array();
    for (int i = 0; i < one->in_count; i++)
        json_array_append_new(inputs, operand_json(&one->in[i]));
    return json_pack("{s:s, s:s, s:s, s:o}", "op", one->op->name, "path", one->path, "attributes",
                     hex, "inputs", inputs);
}

static json_t *case_json(const kin_one_op *one, const char *notes) {
    double tolerance = 0;
    char source[64];
    snprintf(source, sizeof source, "kinora %s, the double reference", kin_version());
    for (int j = 0; j < one->out_count; j++) {
        double own = kin_tolerance(one->out[j].dtype, one->cost.reduction);
        if (own > tolerance) tolerance = own;
    }
    return json_pack("{s:s, s:s, s:s, s:{}, s:{s:f}, s:b, s:s}", "system", "kinora", "part", "op",
                     "source", source, "call", "tolerance", "rel", tolerance, "gradients", false,
                     "notes", notes);
}

static kin_status write_json(kin_context *context, const char *folder, const char *name,
                             json_t *json) {
    char *path = kin_path_join(context, folder, name);
    char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
    kin_status status = path && text
                            ? kin_file_write_atomic(context, path, text, strlen(text))
                            : kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", name);
    free(text);
    json_decref(json);
    kin_free(context, path);
    return status;
}

static kin_status write_tensors(const kin_one_op *one, const char *folder, const char *file,
                                const kin_named_tensor *tensors, size_t count) {
    char *path = kin_path_join(one->context, folder, file);
    if (!path) return KIN_OUT_OF_MEMORY;
    kin_status status =
        kin_safetensors_write(one->context, path, tensors, count, NULL, 0, NULL, NULL);
    kin_free(one->context, path);
    return status;
}

static kin_status write_inputs(const kin_one_op *one, const char *folder) {
    kin_named_tensor tensors[MAX_INPUTS];
    char names[MAX_INPUTS][16];
    size_t count = 0;
    for (int i = 0; i < one->in_count; i++) {
        if (one->in[i].absent) continue;
        snprintf(names[count], sizeof names[count], "in%d", i);
        tensors[count] = (kin_named_tensor){names[count], one->in[i].storage, one->in[i].data};
        count++;
    }
    return write_tensors(one, folder, "inputs.safetensors", tensors, count);
}

static kin_status write_outputs(const kin_one_op *one, const char *folder,
                                const kin_one_result *wanted) {
    kin_named_tensor tensors[KIN_MAX_OUTPUTS];
    char names[KIN_MAX_OUTPUTS][16];
    for (int j = 0; j < one->out_count; j++) {
        snprintf(names[j], sizeof names[j], "out%d", j);
        kin_desc desc = kin_desc_dense(KIN_F64, one->out[j].rank, one->out[j].dims);
        tensors[j] = (kin_named_tensor){names[j], desc, wanted->out[j]};
    }
    return write_tensors(one, folder, "outputs.safetensors", tensors, (size_t)one->out_count);
}

kin_status kin_one_op_save(const kin_one_op *one, const char *folder, const char *notes) {
    kin_one_result wanted;
    if (one->in_count > MAX_INPUTS || one->op->attrs_size > MAX_ATTRS)
        return kin_fail(one->context, KIN_UNSUPPORTED,
                        "%s has more inputs or attributes than a case can hold", one->op->name);
    kin_status status = kin_one_op_reference(one, &wanted);
    if (status != KIN_OK) return status;
    status = kin_make_folders(one->context, folder);
    if (status == KIN_OK) status = write_inputs(one, folder);
    if (status == KIN_OK) status = write_outputs(one, folder, &wanted);
    if (status == KIN_OK)
        status = write_json(one->context, folder, "config.json", config_json(one));
    if (status == KIN_OK)
        status = write_json(one->context, folder, "case.json", case_json(one, notes));
    kin_one_result_free(one->context, &wanted);
    return status;
}

/* ---- reading ---- */

typedef struct reader {
    kin_context *context;
    const char *folder;
    json_t *config;
    kin_safetensors *inputs;
} reader;

static kin_status bad(const reader *r, const char *what) {
    return kin_fail(r->context, KIN_FORMAT, "%s/config.json: %s", r->folder, what);
}

static kin_status read_attrs(const reader *r, const kin_op *op, unsigned char *attrs) {
    const char *hex = json_string_value(json_object_get(r->config, "attributes"));
    if (!hex || strlen(hex) != 2 * op->attrs_size)
        return bad(r, "the attributes have another size than this version's: write the case anew");
    for (size_t i = 0; i < op->attrs_size; i++) {
        char digits[3] = {hex[2 * i], hex[2 * i + 1], 0}, *end;
        attrs[i] = (unsigned char)strtoul(digits, &end, 16);
        if (*end || digits[0] == '-' || digits[0] == '+' || digits[0] == ' ')
            return bad(r, "attributes must be hexadecimal");
    }
    return KIN_OK;
}

static kin_status read_ints(const reader *r, const json_t *list, int rank, int64_t *values) {
    for (int a = 0; a < rank; a++) {
        const json_t *value = json_array_get(list, (size_t)a);
        if (!json_is_integer(value)) return bad(r, "dims and strides are lists of whole numbers");
        values[a] = json_integer_value(value);
        if (values[a] < 0 || values[a] > INT64_C(1) << 40)
            return bad(r, "a dimension or a stride is out of range");
    }
    return KIN_OK;
}

/* The view must lie within what the file has. */
static kin_status check_reach(const reader *r, const kin_desc *view, int64_t offset,
                              const kin_desc *storage) {
    int64_t have = kin_desc_count(storage), end = offset;
    for (int a = 0; a < view->rank; a++) {
        int64_t step = view->dims[a] - 1;
        if (view->dims[a] < 1) return bad(r, "a dimension is 0");
        if (step && view->strides[a] > have / step) return bad(r, "a view is larger than its data");
        end += step * view->strides[a];
        if (end >= have) return bad(r, "a view is larger than its data");
    }
    return end < have ? KIN_OK : bad(r, "a view is larger than its data");
}

static kin_status read_operand(const reader *r, kin_one_op *one, int i, const json_t *json) {
    const kin_named_tensor *tensor;
    char name[16];
    if (json_is_null(json)) return KIN_OK;
    const char *dtype = json_string_value(json_object_get(json, "dtype"));
    const json_t *dims = json_object_get(json, "dims"), *strides = json_object_get(json, "strides");
    const json_t *offset = json_object_get(json, "offset");
    size_t rank = json_array_size(dims);
    kin_desc view = {.rank = (int)rank};
    if (!dtype || !kin_dtype_from_name(dtype, &view.dtype) || !json_is_array(dims) ||
        rank > KIN_MAX_RANK || json_array_size(strides) != rank || !json_is_integer(offset) ||
        json_integer_value(offset) < 0)
        return bad(r, "an input needs dtype, dims, strides and offset");
    snprintf(name, sizeof name, "in%d", i);
    kin_status status = read_ints(r, dims, view.rank, view.dims);
    if (status == KIN_OK) status = read_ints(r, strides, view.rank, view.strides);
    if (status == KIN_OK) status = kin_safetensors_get(r->inputs, name, &tensor);
    if (status == KIN_OK && tensor->desc.dtype != view.dtype)
        status = bad(r, "an input has another dtype than inputs.safetensors says");
    if (status == KIN_OK) status = check_reach(r, &view, json_integer_value(offset), &tensor->desc);
    if (status == KIN_OK)
        status =
            kin_one_op_set(one, i, &tensor->desc, tensor->data, &view, json_integer_value(offset));
    return status;
}

static kin_status read_all(reader *r, kin_one_op **out_one) {
    const char *name = json_string_value(json_object_get(r->config, "op"));
    const char *path = json_string_value(json_object_get(r->config, "path"));
    const json_t *inputs = json_object_get(r->config, "inputs");
    const kin_op *op = name ? kin_op_find(name) : NULL;
    unsigned char attrs[MAX_ATTRS];
    if (!op) return bad(r, "\"op\" is no op of this version");
    if (!json_is_array(inputs) || json_array_size(inputs) > MAX_INPUTS)
        return bad(r, "\"inputs\" is no list of inputs");
    if (op->attrs_size > MAX_ATTRS) return bad(r, "the op has too many attributes");
    kin_status status = read_attrs(r, op, attrs);
    if (status == KIN_OK)
        status = kin_one_op_create(r->context, op, attrs, (int)json_array_size(inputs),
                                   path ? path : "", out_one);
    for (size_t i = 0; status == KIN_OK && i < json_array_size(inputs); i++)
        status = read_operand(r, *out_one, (int)i, json_array_get(inputs, i));
    return status == KIN_OK ? kin_one_op_finish(*out_one) : status;
}

kin_status kin_one_op_load(kin_context *context, const char *folder, kin_one_op **out_one) {
    reader r = {.context = context, .folder = folder};
    char *config = kin_path_join(context, folder, "config.json");
    char *inputs = kin_path_join(context, folder, "inputs.safetensors");
    *out_one = NULL;
    kin_status status = config && inputs ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_json_load(context, config, &r.config);
    if (status == KIN_OK) status = kin_safetensors_open(context, inputs, &r.inputs);
    if (status == KIN_OK) status = read_all(&r, out_one);
    if (status != KIN_OK) {
        kin_one_op_free(*out_one);
        *out_one = NULL;
    }
    if (r.inputs) kin_safetensors_close(r.inputs);
    json_decref(r.config);
    kin_free(context, config);
    kin_free(context, inputs);
    return status;
}
