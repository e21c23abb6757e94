/* kinora info: what a checkpoint holds, and what is missing of the model it seems to be. */
#include "runtime/checkpoint.h"
#include "runtime/weights.h"
#include "tools/model_choice.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <stdlib.h>
#include <string.h>

static const char verb[] = "info";

enum { MAX_NAME = 1024 };

/* A model's variables and which of them the file has. */
typedef struct match {
    kin_graph *graph;
    int variables, found, other_shape, unexpected;
    bool *has;
} match;

static int find_variable(const kin_graph *graph, const char *name) {
    for (int i = 0; i < kin_variable_count(graph); i++)
        if (strcmp(kin_variable_name(graph, kin_variable_at(graph, i)), name) == 0) return i;
    return -1;
}

/* Counts the variables that a tensor, by the name that the model gave it, belongs to; false if
 * none.
 */
static bool match_name(match *m, const kin_named_tensor *tensor, const char *name, FILE *out) {
    kin_weights_target target;
    bool known = false;
    for (int k = 0; kin_weights_target_at(name, k, &target); k++) {
        int index = find_variable(m->graph, target.name);
        if (index < 0) continue;
        const kin_desc *desc = kin_tensor_desc(m->graph, kin_variable_at(m->graph, index));
        bool fit = kin_weights_target_fits(&target, &tensor->desc, desc);
        /* T5's table may be there under two names, and other variables in parts. */
        if (!m->has[index]) {
            m->found += fit;
            m->other_shape += !fit;
        }
        m->has[index] = known = true;
        char have[128], want[128];
        if (out && !fit)
            fprintf(out, "another shape\t%s\t%s, the model has %s\n", tensor->name,
                    kin_desc_shape_text(&tensor->desc, have, sizeof have),
                    kin_desc_shape_text(desc, want, sizeof want));
    }
    return known;
}

/* Counts what of the file belongs to the model. With `out` it is told, too. */
static kin_status compare(kin_context *context, const kin_checkpoint *file,
                          const kin_model_choice *choice, match *m, FILE *out) {
    *m = (match){.graph = NULL};
    kin_status status = kin_graph_create(context, &m->graph);
    if (status != KIN_OK) return status;
    kin_model_append_any(m->graph, choice);
    status = kin_graph_status(m->graph);
    m->variables = kin_variable_count(m->graph);
    m->has = kin_calloc(context, (size_t)m->variables + 1, sizeof *m->has);
    if (status == KIN_OK && !m->has) status = KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < kin_checkpoint_count(file); i++) {
        const kin_named_tensor *tensor = kin_checkpoint_at(file, i);
        char name[MAX_NAME];
        if (!kin_model_rename(choice, tensor->name, name, sizeof name)) continue;
        if (strpbrk(tensor->name, "|{") || !match_name(m, tensor, name, out)) {
            m->unexpected++;
            if (out) fprintf(out, "unexpected\t%s\n", tensor->name);
        }
    }
    for (int i = 0; status == KIN_OK && out && i < m->variables; i++)
        if (!m->has[i])
            fprintf(out, "missing\t%s\n",
                    kin_variable_name(m->graph, kin_variable_at(m->graph, i)));
    return status;
}

static void free_match(kin_context *context, match *m) {
    kin_free(context, m->has);
    kin_graph_destroy(m->graph);
}

/* Of two models that explain as much of a file the one that misses less: PixArt's names are a part
 * of STDiT's and of Latte's. */
static bool better(const match *a, const match *b, size_t tensors) {
    int a_known = (int)tensors - a->unexpected - a->other_shape;
    int b_known = (int)tensors - b->unexpected - b->other_shape;
    if (a_known != b_known) return a_known > b_known;
    return a->variables - a->found < b->variables - b->found;
}

/* The configuration beside the file, else the named model that most of the file fits; false if none
 * does. */
static bool guess(kin_context *context, const char *path, const kin_checkpoint *file,
                  kin_model_choice *out) {
    char *folder =
        kin_file_is_folder(path) ? kin_strdup(context, path) : kin_path_folder(context, path);
    bool known = folder && kin_model_choose(context, folder, out) == KIN_OK;
    kin_free(context, folder);
    if (known) return true;
    size_t tensors = kin_checkpoint_count(file);
    kin_model_choice candidate;
    match best = {.unexpected = (int)tensors};
    for (int i = 0; kin_model_named_at(context, i, &candidate); i++) {
        match m;
        kin_status status = compare(context, file, &candidate, &m, NULL);
        if (status == KIN_OK && m.found > 0 && better(&m, &best, tensors)) {
            best = m;
            *out = candidate;
        }
        free_match(context, &m);
    }
    return (size_t)best.found > tensors / 2;
}

static void print_totals(const kin_checkpoint *file, const char *path) {
    int64_t tensors[KIN_DTYPE_COUNT] = {0}, elements[KIN_DTYPE_COUNT] = {0}, all = 0;
    uint64_t bytes = 0;
    char text[32];
    for (size_t i = 0; i < kin_checkpoint_count(file); i++) {
        const kin_desc *desc = &kin_checkpoint_at(file, i)->desc;
        tensors[desc->dtype]++;
        elements[desc->dtype] += kin_desc_count(desc);
        all += kin_desc_count(desc);
        bytes += kin_desc_bytes(desc);
    }
    printf("%s: %zu tensors, %lld parameters, %s\n", path, kin_checkpoint_count(file),
           (long long)all, kin_bytes_text(bytes, text, sizeof text));
    for (int d = 0; d < KIN_DTYPE_COUNT; d++)
        if (tensors[d])
            printf("%s\t%lld tensors\t%lld parameters\n", kin_dtype_name((kin_dtype)d),
                   (long long)tensors[d], (long long)elements[d]);
}

static kin_status print_model(kin_context *context, const char *path, const kin_checkpoint *file,
                              const char *model) {
    kin_model_choice choice;
    if (model) {
        kin_status status = kin_model_choose(context, model, &choice);
        if (status != KIN_OK) return status;
    } else if (!guess(context, path, file, &choice)) {
        printf("model\tnone that is known\n");
        return KIN_OK;
    }
    match m;
    kin_status status = compare(context, file, &choice, &m, stdout);
    if (status == KIN_OK)
        printf("model\t%s: %d of %d tensors, %d of another shape, %d unexpected\n", choice.name,
               m.found, m.variables, m.other_shape, m.unexpected);
    free_match(context, &m);
    return status;
}

int kin_verb_info(int count, char **arguments) {
    kin_common common = {0};
    const char *entry = NULL, *model = NULL;
    bool list = false;
    int left = 0;
    const kin_flag flags[] = {
        {.name = "list",
         .letter = 'l',
         .on = &list,
         .help = "name, dtype and shape of every tensor"},
        {.name = "model",
         .argument = "MODEL",
         .text = &model,
         .help = "hold it against this model (see kinora plan); default: what it looks like"},
        {.name = "entry",
         .argument = "KEY",
         .text = &entry,
         .help = "of a .pth file: the key of the state dict, such as ema"},
        {.name = "quiet", .letter = 'q', .on = &common.quiet, .help = "errors only"},
        {.name = "verbose", .letter = 'v', .on = &common.verbose, .help = "more of what happens"},
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 1, &left);
    if (code < 0) code = kin_common_open(&common, false);
    if (code >= 0) return code;
    kin_checkpoint *file = NULL;
    kin_status status = kin_checkpoint_open(common.context, arguments[0], entry, &file);
    if (status == KIN_OK) {
        print_totals(file, arguments[0]);
        for (size_t i = 0; list && i < kin_checkpoint_count(file); i++) {
            const kin_named_tensor *tensor = kin_checkpoint_at(file, i);
            char shape[128];
            printf("%s\t%s\t%s\n", tensor->name, kin_dtype_name(tensor->desc.dtype),
                   kin_desc_shape_text(&tensor->desc, shape, sizeof shape));
        }
        status = print_model(common.context, arguments[0], file, model);
    }
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    kin_checkpoint_close(file);
    kin_common_close(&common);
    return code;
}
