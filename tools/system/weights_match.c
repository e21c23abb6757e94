/* The tensors of a file against the variables of a model. */
#include "tools/system/weights_match.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/weights.h"

enum { MAX_NAME = 1024, MAX_NEAREST = 16 };

kin_weights_totals kin_weights_count(const kin_checkpoint *file) {
    kin_weights_totals t = {.tensors = kin_checkpoint_count(file)};
    for (size_t i = 0; i < t.tensors; i++) {
        const kin_desc *desc = &kin_checkpoint_at(file, i)->desc;
        t.dtype_tensors[desc->dtype]++;
        t.dtype_parameters[desc->dtype] += kin_desc_count(desc);
        t.parameters += kin_desc_count(desc);
        t.bytes += kin_desc_bytes(desc);
    }
    return t;
}

const char *kin_misfit_name(kin_misfit_kind kind) {
    static const char *const names[] = {"missing", "unexpected", "another shape"};
    return names[kind];
}

/* A variable of the model, in the order of the names. */
typedef struct variable {
    const char *name;
    const kin_desc *desc;
    bool seen, good;
} variable;

static int compare_variables(const void *a, const void *b) {
    const variable *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* One comparison. */
typedef struct matching {
    kin_context *context;
    kin_weights_match *match;
    variable *variables;
    size_t count, capacity;
    bool keep; /* the misfits, not only their numbers */
} matching;

static kin_status add_misfit(matching *m, kin_misfit misfit, const char *name) {
    kin_weights_match *match = m->match;
    match->missing += misfit.kind == KIN_MISSING;
    match->unexpected += misfit.kind == KIN_UNEXPECTED;
    match->other_shape += misfit.kind == KIN_OTHER_SHAPE;
    if (!m->keep) return KIN_OK;
    if (match->misfit_count == m->capacity) {
        size_t more = m->capacity ? 2 * m->capacity : 16;
        kin_misfit *list = kin_realloc(m->context, match->misfits, more * sizeof *list);
        if (!list) return KIN_OUT_OF_MEMORY;
        match->misfits = list;
        m->capacity = more;
    }
    misfit.name = kin_strdup(m->context, name);
    if (!misfit.name) return KIN_OUT_OF_MEMORY;
    match->misfits[match->misfit_count++] = misfit;
    return KIN_OK;
}

/* Marks the variables that a tensor belongs to; *out_known is false if there are none. */
static kin_status match_tensor(matching *m, const kin_named_tensor *tensor, const char *name,
                               bool *out_known) {
    kin_weights_target target;
    kin_status status = KIN_OK;
    *out_known = false;
    for (int k = 0; status == KIN_OK && kin_weights_target_at(name, k, &target); k++) {
        variable key = {.name = target.name};
        variable *found =
            m->count ? bsearch(&key, m->variables, m->count, sizeof key, compare_variables) : NULL;
        if (!found) continue;
        *out_known = true;
        bool fits = kin_weights_target_fits(&target, &tensor->desc, found->desc);
        /* T5's table may be there under two names, and other variables come in parts. */
        if (!found->seen) m->match->found += fits;
        found->seen = true;
        if (!fits)
            status = add_misfit(
                m,
                (kin_misfit){.kind = KIN_OTHER_SHAPE, .have = tensor->desc, .want = *found->desc},
                tensor->name);
    }
    return status;
}

static kin_status match_tensors(matching *m, const kin_checkpoint *file,
                                const kin_model_choice *choice) {
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < kin_checkpoint_count(file); i++) {
        const kin_named_tensor *tensor = kin_checkpoint_at(file, i);
        char name[MAX_NAME];
        bool known = false;
        if (!kin_model_rename(choice, tensor->name, name, sizeof name)) continue;
        /* These have a meaning in names that were given, not in a file's. */
        if (!strpbrk(tensor->name, "|{")) status = match_tensor(m, tensor, name, &known);
        if (status == KIN_OK && !known)
            status = add_misfit(m, (kin_misfit){.kind = KIN_UNEXPECTED}, tensor->name);
    }
    for (size_t i = 0; status == KIN_OK && i < m->count; i++)
        if (!m->variables[i].seen)
            status = add_misfit(m, (kin_misfit){.kind = KIN_MISSING, .want = *m->variables[i].desc},
                                m->variables[i].name);
    return status;
}

/* Beside the first unexpected names the missing ones that are like them. */
static kin_status find_nearest(matching *m) {
    kin_weights_match *match = m->match;
    const char **names = kin_calloc(m->context, (size_t)match->missing + 1, sizeof *names);
    size_t count = 0;
    if (!names) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    for (size_t i = 0; i < match->misfit_count; i++)
        if (match->misfits[i].kind == KIN_MISSING) names[count++] = match->misfits[i].name;
    int done = 0;
    for (size_t i = 0; status == KIN_OK && i < match->misfit_count && done < MAX_NEAREST; i++) {
        kin_misfit *misfit = &match->misfits[i];
        if (misfit->kind != KIN_UNEXPECTED || strlen(misfit->name) >= MAX_NAME) continue;
        const char *near = count ? kin_nearest_name(misfit->name, names, count) : NULL;
        done++;
        if (near && !(misfit->near = kin_strdup(m->context, near))) status = KIN_OUT_OF_MEMORY;
    }
    kin_free(m->context, names);
    return status;
}

static kin_status compare(kin_context *context, const kin_checkpoint *file,
                          const kin_model_choice *choice, bool keep, kin_weights_match *match) {
    kin_graph *graph = NULL;
    *match = (kin_weights_match){.context = context};
    matching m = {.context = context, .match = match, .keep = keep};
    kin_status status = kin_graph_create(context, &graph);
    if (status != KIN_OK) return status;
    kin_model_append_any(graph, choice);
    status = kin_graph_status(graph);
    m.count = status == KIN_OK ? (size_t)kin_variable_count(graph) : 0;
    match->variables = (int)m.count;
    m.variables = kin_calloc(context, m.count + 1, sizeof *m.variables);
    if (status == KIN_OK && !m.variables) status = KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < m.count; i++) {
        kin_tensor tensor = kin_variable_at(graph, (int)i);
        m.variables[i] = (variable){.name = kin_variable_name(graph, tensor),
                                    .desc = kin_tensor_desc(graph, tensor)};
    }
    if (status == KIN_OK && m.count)
        qsort(m.variables, m.count, sizeof *m.variables, compare_variables);
    if (status == KIN_OK) status = match_tensors(&m, file, choice);
    if (status == KIN_OK && keep) status = find_nearest(&m);
    kin_free(context, m.variables);
    kin_graph_destroy(graph);
    return status;
}

kin_status kin_weights_match_file(kin_context *context, const kin_checkpoint *file,
                                  const kin_model_choice *choice, kin_weights_match *out_match) {
    return compare(context, file, choice, true, out_match);
}

void kin_weights_match_free(kin_weights_match *match) {
    for (size_t i = 0; i < match->misfit_count; i++) {
        kin_free(match->context, match->misfits[i].name);
        kin_free(match->context, match->misfits[i].near);
    }
    if (match->context) kin_free(match->context, match->misfits);
    *match = (kin_weights_match){.context = NULL};
}

/* Of two models that explain as much of a file the one that misses less: PixArt's names are a part
 * of STDiT's and of Latte's. */
static bool better(const kin_weights_match *a, const kin_weights_match *b, size_t tensors) {
    int a_known = (int)tensors - a->unexpected - a->other_shape;
    int b_known = (int)tensors - b->unexpected - b->other_shape;
    if (a_known != b_known) return a_known > b_known;
    return a->variables - a->found < b->variables - b->found;
}

bool kin_weights_match_guess(kin_context *context, const kin_checkpoint *file,
                             kin_model_choice *out_choice) {
    size_t tensors = kin_checkpoint_count(file);
    kin_model_choice candidate;
    kin_weights_match best = {.unexpected = (int)tensors};
    for (int i = 0; kin_model_named_at(context, i, &candidate); i++) {
        kin_weights_match match;
        kin_status status = compare(context, file, &candidate, false, &match);
        if (status == KIN_OK && match.found > 0 && better(&match, &best, tensors)) {
            best = match;
            *out_choice = candidate;
        }
    }
    return (size_t)best.found > tensors / 2;
}
