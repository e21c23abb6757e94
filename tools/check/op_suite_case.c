/* Making the inputs of a case, appending it to graphs, and comparing. */
#include "tools/check/op_suite_case.h"

#include "ops/views.h"
#include "ops/walk.h"
#include "runtime/check.h"
#include "runtime/philox.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PAD_BEFORE = 3, PAD_AFTER = 2 };

bool suite_fail(suite_case *sc, const char *format, ...) {
    if (sc->result->verdict == KIN_SUITE_FAILED) return false;
    va_list args;
    va_start(args, format);
    vsnprintf(sc->result->message, sizeof sc->result->message, format, args);
    va_end(args);
    sc->result->verdict = KIN_SUITE_FAILED;
    return false;
}

bool suite_ok(suite_case *sc, const char *what, kin_status status) {
    if (status == KIN_OK) return true;
    if (sc->result->verdict == KIN_SUITE_MISSING) return false;
    return suite_fail(sc, "%s: %s: %s", what, kin_status_text(status),
                      kin_context_error(sc->context));
}

static bool skip(suite_case *sc, const char *why) {
    sc->result->verdict = KIN_SUITE_SKIPPED;
    snprintf(sc->result->message, sizeof sc->result->message, "%s", why);
    return false;
}

/* Names the ops that a plan leaves to the host. */
static void name_missing(suite_case *sc, const kin_plan *plan) {
    char *text = sc->result->missing;
    size_t size = sizeof sc->result->missing;
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        size_t used = strlen(text);
        if (strcmp(node.kernel, "reference") == 0 && !strstr(text, node.op))
            snprintf(text + used, size - used, "%s%s", used ? ", " : "", node.op);
    }
}

bool suite_plan(suite_case *sc, const char *what, kin_graph *graph, kin_plan **out_plan) {
    kin_device *device = kin_guard_device(sc->suite->guard);
    kin_plan_options with_host = {.struct_size = sizeof with_host, .allow_reference = true};
    kin_status status = kin_plan_build(graph, device, NULL, out_plan);
    if (status != KIN_UNSUPPORTED) return suite_ok(sc, what, status);
    snprintf(sc->result->message, sizeof sc->result->message, "%s", kin_context_error(sc->context));
    sc->result->verdict = KIN_SUITE_MISSING;
    kin_plan *plan = NULL;
    if (kin_plan_build(graph, device, &with_host, &plan) == KIN_OK) name_missing(sc, plan);
    kin_plan_free(plan);
    return false;
}

/* ---- inputs ---- */

/* FNV-1a over both names: the same inputs on every device and in every build. */
static uint64_t seed_of(const char *op, const char *test) {
    uint64_t hash = 14695981039346656037u;
    for (const char *text = op; text; text = text == op ? test : NULL)
        for (const char *c = text; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    return hash;
}

static double fill_value(const kin_case_input *input, uint64_t seed, uint32_t stream, int64_t i,
                         int64_t count) {
    double scale = input->scale != 0 ? input->scale : 1;
    double uniform = kin_philox_element_uniform(seed, stream, 0, (uint64_t)i);
    switch (input->fill) {
    case KIN_FILL_NORMAL:
        return scale * kin_philox_element_normal(seed, stream, 1, (uint64_t)i);
    case KIN_FILL_POSITIVE:
        return scale * (0.5 + uniform);
    case KIN_FILL_INDEX:
        return input->limit > 0 ? floor(uniform * (double)input->limit) : 0;
    case KIN_FILL_LENGTH:
        if (i == count - 1) return (double)input->limit;
        return i == 0 ? 0 : floor(uniform * (double)(input->limit + 1));
    case KIN_FILL_COUNT:
        return (double)i;
    case KIN_FILL_ZERO:
        break;
    }
    return 0;
}

bool suite_is_alias(const kin_op *op, int input) {
    for (int j = 0; (op->flags & KIN_OP_UPDATE) && j < op->outputs; j++)
        if (op->aliases[j] == input + 1) return true;
    return false;
}

/* Shapes and strides of what is stored and of the view on it. */
static void lay_out(suite_input *input, const kin_case_input *spec, kin_dtype dtype) {
    input->logical = kin_desc_dense(dtype, spec->rank, spec->dims);
    input->layout = spec->layout;
    if (input->variable || dtype == KIN_Q8_0 || spec->rank == 0 ||
        (spec->layout == KIN_LAYOUT_TRANSPOSED && spec->rank < 2))
        input->layout = KIN_LAYOUT_DENSE;
    int64_t dims[KIN_MAX_RANK] = {0};
    for (int a = 0; a < spec->rank; a++) dims[a] = spec->dims[a];
    if (input->layout == KIN_LAYOUT_TRANSPOSED) {
        dims[0] = spec->dims[1];
        dims[1] = spec->dims[0];
    } else if (input->layout == KIN_LAYOUT_PADDED) {
        dims[spec->rank - 1] += PAD_BEFORE + PAD_AFTER;
    }
    input->storage = kin_desc_dense(dtype, spec->rank, dims);
    input->view = input->logical;
    for (int a = 0; a < spec->rank; a++) input->view.strides[a] = input->storage.strides[a];
    if (input->layout == KIN_LAYOUT_TRANSPOSED) {
        input->view.strides[0] = input->storage.strides[1];
        input->view.strides[1] = input->storage.strides[0];
    }
    input->offset = input->layout == KIN_LAYOUT_PADDED ? PAD_BEFORE : 0;
}

static kin_status fill_input(suite_case *sc, suite_input *input, const kin_case_input *spec,
                             uint32_t stream) {
    kin_dtype dtype = input->storage.dtype;
    int64_t count = kin_desc_count(&input->logical), stored = kin_desc_count(&input->storage);
    uint64_t seed = seed_of(sc->op->name, sc->test->name);
    input->bytes = kin_calloc(sc->context, 1, kin_desc_bytes(&input->storage));
    input->stored = kin_calloc(sc->context, (size_t)stored, sizeof(double));
    input->values = kin_calloc(sc->context, (size_t)count, sizeof(double));
    if (!input->bytes || !input->stored || !input->values) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < stored; i++)
        input->stored[i] = kin_dtype_is_float(dtype) ? NAN : (double)(1 << 20);
    kin_walk walk = kin_walk_start(&input->view, input->view.rank, input->view.dims);
    for (int64_t i = 0; i < count; i++, kin_walk_next(&walk))
        input->stored[input->offset + walk.offset] = fill_value(spec, seed, stream, i, count);
    kin_convert(input->stored, KIN_F64, input->bytes, dtype, stored);
    kin_convert(input->bytes, dtype, input->stored, KIN_F64, stored);
    walk = kin_walk_start(&input->view, input->view.rank, input->view.dims);
    for (int64_t i = 0; i < count; i++, kin_walk_next(&walk))
        input->values[i] = input->stored[input->offset + walk.offset];
    return KIN_OK;
}

/* True if the dtype under test changes anything in this case. */
static bool has_open_dtype(const kin_case *test) {
    for (int i = 0; i < test->input_count; i++)
        if (test->inputs[i].rank >= 0 && test->inputs[i].dtype == KIN_F32 && !test->inputs[i].fixed)
            return true;
    return false;
}

/* Skips the case unless the device stores the dtype. */
static bool is_stored(suite_case *sc, kin_dtype dtype) {
    if (sc->suite->device->info.dtypes >> dtype & 1) return true;
    sc->result->left_out = true;
    sc->result->verdict = KIN_SUITE_SKIPPED;
    snprintf(sc->result->message, sizeof sc->result->message, "the device does not store %s",
             kin_dtype_name(dtype));
    return false;
}

static bool make_inputs(suite_case *sc) {
    for (int i = 0; i < sc->input_count; i++) {
        const kin_case_input *spec = &sc->test->inputs[i];
        suite_input *input = &sc->inputs[i];
        snprintf(input->name, sizeof input->name, "in%d", i);
        input->absent = spec->rank < 0;
        if (input->absent) continue;
        kin_dtype dtype = spec->dtype == KIN_F32 && !spec->fixed ? sc->dtype : spec->dtype;
        if (!is_stored(sc, dtype)) return false;
        input->variable = suite_is_alias(sc->op, i);
        lay_out(input, spec, dtype);
        input->wants_gradient =
            kin_dtype_is_float(dtype) && dtype != KIN_Q8_0 && !spec->constant && !input->variable;
        if (!suite_ok(sc, "inputs", fill_input(sc, input, spec, (uint32_t)i))) return false;
    }
    return true;
}

/* ---- graphs ---- */

void suite_append(suite_case *sc, kin_graph *graph, bool step_mode, kin_tensor *out_in,
                  kin_tensor *out_tensors) {
    kin_tensor in[KIN_MAX_CASE_INPUTS] = {{0}}, out[KIN_MAX_OUTPUTS] = {{0}};
    for (int i = 0; i < sc->input_count; i++) {
        const suite_input *input = &sc->inputs[i];
        if (out_in) out_in[i] = KIN_NONE;
        if (input->absent) continue;
        const kin_desc *s = &input->storage;
        in[i] = input->variable ? kin_variable(graph, input->name, KIN_VARIABLE_STATE, s->dtype,
                                               s->rank, s->dims, (kin_init){KIN_INIT_ZERO, 0})
                                : kin_input(graph, input->name, s->dtype, s->rank, s->dims);
        if (out_in) out_in[i] = in[i];
        if (step_mode) kin_graph_write(graph, in[i], input->bytes);
        if (input->layout == KIN_LAYOUT_TRANSPOSED) in[i] = kin_transpose(graph, in[i], 0, 1);
        else if (input->layout == KIN_LAYOUT_PADDED)
            in[i] =
                kin_slice(graph, in[i], s->rank - 1, PAD_BEFORE, input->logical.dims[s->rank - 1]);
    }
    kin_append(graph, sc->op, sc->test->attrs, in, sc->input_count, out);
    for (int j = 0; out_tensors && j < KIN_MAX_OUTPUTS; j++) out_tensors[j] = out[j];
}

int suite_given(const suite_case *sc, kin_evaluate_value *given) {
    int count = 0;
    for (int i = 0; i < sc->input_count; i++)
        if (!sc->inputs[i].absent)
            given[count++] = (kin_evaluate_value){sc->inputs[i].name, sc->inputs[i].stored};
    return count;
}

void suite_reference(const suite_case *sc, const double *const *in, double *const *out) {
    kin_desc descs[KIN_MAX_CASE_INPUTS];
    for (int i = 0; i < sc->input_count; i++) {
        descs[i] = sc->inputs[i].logical;
        if (sc->inputs[i].absent) descs[i].rank = -1;
    }
    kin_reference call = {sc->op, sc->test->attrs, sc->input_count, descs,
                          in,     sc->out_count,   sc->out_desc,    out};
    sc->op->reference(&call);
}

/* Shapes of the results, by a graph of dense inputs. */
static bool infer_results(suite_case *sc) {
    kin_graph *graph = NULL;
    if (!suite_ok(sc, "graph", kin_graph_create(sc->context, &graph))) return false;
    kin_tensor out[KIN_MAX_OUTPUTS];
    suite_append(sc, graph, false, NULL, out);
    bool good = suite_ok(sc, "infer", kin_graph_status(graph));
    for (int j = 0; good && j < KIN_MAX_OUTPUTS && out[j].id; j++) {
        const kin_desc *desc = kin_tensor_desc(graph, out[j]);
        sc->out_desc[sc->out_count++] = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
        good = is_stored(sc, desc->dtype);
    }
    kin_graph_destroy(graph);
    return good;
}

static bool want_results(suite_case *sc) {
    const double *in[KIN_MAX_CASE_INPUTS] = {0};
    kin_desc descs[KIN_MAX_CASE_INPUTS];
    for (int i = 0; i < sc->input_count; i++) {
        in[i] = sc->inputs[i].values;
        descs[i] = sc->inputs[i].logical;
        if (sc->inputs[i].absent) descs[i].rank = -1;
    }
    uint64_t seed = seed_of(sc->op->name, sc->test->name);
    for (int j = 0; j < sc->out_count; j++) {
        size_t count = (size_t)kin_desc_count(&sc->out_desc[j]);
        sc->want[j] = kin_calloc(sc->context, count, sizeof(double));
        sc->cotangent[j] = kin_calloc(sc->context, count, sizeof(double));
        if (!sc->want[j] || !sc->cotangent[j]) return suite_ok(sc, "results", KIN_OUT_OF_MEMORY);
    }
    suite_reference(sc, in, sc->want);
    for (int j = 0; j < sc->out_count; j++) {
        kin_dtype dtype = sc->out_desc[j].dtype;
        int64_t count = kin_desc_count(&sc->out_desc[j]);
        for (int64_t i = 0; i < count; i++) {
            unsigned char bytes[8];
            if (!kin_dtype_is_float(dtype)) {
                kin_element_set(bytes, dtype, 0, sc->want[j][i]);
                sc->want[j][i] = kin_element_get(bytes, dtype, 0);
            } else if (isfinite(sc->want[j][i])) {
                /* as the device's dtype stores it, so that its gradient starts from the same */
                double c = kin_philox_element_normal(seed, 100 + (uint32_t)j, 0, (uint64_t)i);
                kin_element_set(bytes, dtype, 0, c);
                sc->cotangent[j][i] = kin_element_get(bytes, dtype, 0);
            }
        }
    }
    kin_cost cost =
        kin_op_cost(sc->op, sc->test->attrs, sc->input_count, descs, sc->out_count, sc->out_desc);
    sc->reduction = cost.reduction;
    sc->flops = cost.flops + cost.bytes;
    return true;
}

bool suite_case_open(suite_case *sc, kin_suite *suite, const kin_op *op, const kin_case *test,
                     kin_dtype dtype, kin_suite_result *result) {
    *sc = (suite_case){.suite = suite,
                       .context = suite->context,
                       .op = op,
                       .test = test,
                       .dtype = dtype,
                       .result = result,
                       .input_count = test->input_count};
    *result = (kin_suite_result){.verdict = KIN_SUITE_PASSED};
    if (test->bench) return skip(sc, "for benchmarks");
    if (dtype != KIN_F32 && !has_open_dtype(test)) return skip(sc, "no input of an open dtype");
    if (!op->reference) return suite_fail(sc, "the op has no reference");
    return make_inputs(sc) && infer_results(sc) && want_results(sc);
}

void suite_case_close(suite_case *sc) {
    for (int i = 0; i < sc->input_count; i++) {
        kin_free(sc->context, sc->inputs[i].bytes);
        kin_free(sc->context, sc->inputs[i].stored);
        kin_free(sc->context, sc->inputs[i].values);
    }
    for (int j = 0; j < sc->out_count; j++) {
        kin_free(sc->context, sc->want[j]);
        kin_free(sc->context, sc->cotangent[j]);
    }
}

/* ---- comparing ---- */

/* What is as large as this is infinite in f16. */
static const double f16_overflow = 65520;

/* Of lowerings in double, whose constants are f32. */
static const double lowering_tolerance = 1e-6;

typedef struct difference {
    double error, largest; /* error: infinite where only one side is NaN or infinite */
    int64_t element;
} difference;

static difference find_difference(kin_dtype dtype, const double *got, const double *want,
                                  int64_t count) {
    difference d = {.error = 0};
    for (int64_t i = 0; i < count; i++) {
        double w = want[i];
        if (dtype == KIN_F16 && fabs(w) >= f16_overflow) w = copysign(INFINITY, w);
        bool same = got[i] == w || (isnan(got[i]) && isnan(w));
        double error = same ? 0 : fabs(got[i] - w);
        if (isnan(error)) error = INFINITY;
        if (isfinite(w) && fabs(w) > d.largest) d.largest = fabs(w);
        if (error > d.error) {
            d.error = error;
            d.element = i;
        }
    }
    return d;
}

/* An element off by ten times what is allowed must be found. */
static bool control(kin_dtype dtype, const double *got, const double *want, int64_t count,
                    double allowed, double *scratch) {
    int64_t at = count / 2;
    memcpy(scratch, got, (size_t)count * sizeof(double));
    scratch[at] = isfinite(want[at]) ? want[at] + (allowed > 0 ? 10 * allowed : 1) : 0;
    difference d = find_difference(dtype, scratch, want, count);
    return d.error > allowed;
}

bool suite_compare(suite_case *sc, const char *what, const kin_desc *desc, const double *got,
                   const double *want, double reduction, double extra) {
    int64_t count = kin_desc_count(desc);
    difference d = find_difference(desc->dtype, got, want, count);
    const kin_device_info *info = &sc->suite->device->info;
    double tolerance = kin_device_tolerance(info, sc->op, sc->dtype, desc->dtype, reduction);
    double allowed = tolerance * d.largest + extra;
    double fraction = d.error == 0 ? 0 : allowed > 0 ? d.error / allowed : INFINITY;
    if (fraction > sc->result->worst) sc->result->worst = fraction;
    if (d.error > allowed) {
        char shape[128];
        return suite_fail(sc, "%s %s, element %lld: got %.9g, want %.9g; allowed is %.3g", what,
                          kin_desc_shape_text(desc, shape, sizeof shape), (long long)d.element,
                          got[d.element], want[d.element], allowed);
    }
    double *scratch = kin_alloc(sc->context, (size_t)count * sizeof(double));
    if (!scratch) return suite_ok(sc, what, KIN_OUT_OF_MEMORY);
    bool caught = control(desc->dtype, got, want, count, allowed, scratch);
    kin_free(sc->context, scratch);
    if (!caught) return suite_fail(sc, "%s: a wrong element would not be seen", what);
    sc->result->controls++;
    return true;
}

kin_evaluate_rounding suite_exact(const suite_case *sc) {
    return sc->dtype == KIN_F32 ? KIN_ROUND_NARROWING : KIN_ROUND_NOTHING;
}

static double units_of(kin_dtype dtype, double reduction) {
    double unit = dtype == KIN_BF16  ? ldexp(1, -8)
                  : dtype == KIN_F16 ? ldexp(1, -11)
                                     : ldexp(1, -24);
    return kin_tolerance(dtype, reduction) / unit;
}

double suite_units(const suite_case *sc, double reduction) {
    return units_of(sc->dtype, reduction);
}

double suite_product_units(const suite_case *sc, double reduction) {
    kin_dtype dtype = sc->suite->device->info.product_dtype;
    return dtype == KIN_F32 ? 0 : units_of(dtype, reduction);
}

double suite_largest_change(const kin_desc *desc, const double *a, const double *b) {
    int64_t count = kin_desc_count(desc);
    double largest = 0;
    for (int64_t i = 0; kin_dtype_is_float(desc->dtype) && i < count; i++) {
        double change = fabs(a[i] - b[i]);
        if (isfinite(change) && change > largest) largest = change;
    }
    return largest;
}

bool suite_same_in_double(suite_case *sc, const kin_desc *desc, const double *got,
                          const double *want) {
    difference d = find_difference(KIN_F64, got, want, kin_desc_count(desc));
    if (d.error <= lowering_tolerance * d.largest) return true;
    return suite_fail(sc, "the lowering, in double: element %lld is %.12g, by the reference %.12g",
                      (long long)d.element, got[d.element], want[d.element]);
}
