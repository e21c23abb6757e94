/* The report of a plan: what ran where, and why. */
#include "tools/plan_report.h"

#include <string.h>

kin_placement kin_plan_placement(const kin_plan_node *node) {
    if (strcmp(node->kernel, "reference") == 0) return KIN_PLACED_HOST;
    if (node->is_copy) return KIN_PLACED_COPY;
    return node->origin ? KIN_PLACED_LOWERED : KIN_PLACED_AS_BUILT;
}

const char *kin_placement_text(kin_placement placement) {
    static const char *const texts[] = {"kernel", "lowered", "copy", "host"};
    return texts[placement];
}

/* The nodes that have one op, placement and reason in common. */
typedef struct group {
    kin_placement placement;
    const char *op; /* as the model has it; for copies the op that they are for; NULL: an output */
    const char *why;
    int nodes;
    double flops;
    char made[200]; /* lowered: the ops that it became */
} group;

static bool same_text(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* Adds an op's name to a list "a, b, c", once. */
static void add_name(char *list, size_t size, const char *name) {
    size_t length = strlen(name), used = strlen(list);
    for (const char *at = list; (at = strstr(at, name)); at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == 0 || at[length] == ',')) return;
    snprintf(list + used, size - used, "%s%s", used ? ", " : "", name);
}

/* In order of the first node of each; returns how many, or -1 without memory. The caller frees
 * *out_groups. */
static int find_groups(const kin_plan *plan, group **out_groups) {
    size_t nodes = (size_t)kin_plan_node_count(plan);
    group *groups = kin_calloc(kin_plan_device(plan)->context, nodes + 1, sizeof *groups);
    int count = 0;
    *out_groups = groups;
    if (!groups) return -1;
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        kin_placement placement = kin_plan_placement(&node);
        if (placement == KIN_PLACED_AS_BUILT) continue;
        const char *op = placement == KIN_PLACED_HOST ? node.op : node.origin;
        int g = 0;
        while (g < count && !(groups[g].placement == placement && same_text(groups[g].op, op) &&
                              same_text(groups[g].why, node.why)))
            g++;
        if (g == count)
            groups[count++] = (group){.placement = placement, .op = op, .why = node.why};
        groups[g].nodes++;
        groups[g].flops += node.flops;
        if (placement == KIN_PLACED_LOWERED)
            add_name(groups[g].made, sizeof groups[g].made, node.op);
    }
    return count;
}

void kin_plan_report_placement(const kin_plan *plan, FILE *out) {
    group *groups;
    int count = find_groups(plan, &groups);
    if (count > 0) fprintf(out, "\nnot as the model has it\n");
    for (int g = 0; g < count; g++) {
        const group *at = &groups[g];
        if (at->placement == KIN_PLACED_LOWERED)
            fprintf(out, "  %s: lowered to %d node%s (%s)", at->op, at->nodes,
                    at->nodes == 1 ? "" : "s", at->made);
        else if (at->placement == KIN_PLACED_COPY)
            fprintf(out, "  %s: %d dense cop%s", at->op ? at->op : "outputs", at->nodes,
                    at->nodes == 1 ? "y" : "ies");
        else
            fprintf(out, "  %s: %d node%s run on the host, by the reference", at->op, at->nodes,
                    at->nodes == 1 ? "" : "s");
        fprintf(out, ": %s\n", at->why ? at->why : "");
    }
    if (count < 0) fprintf(out, "\nno memory for the report\n");
    kin_free(kin_plan_device(plan)->context, groups);
}

void kin_plan_report_nodes(const kin_plan *plan, FILE *out) {
    fprintf(out, "\n%6s  %-18s %-30s %-40s %s\n", "node", "op", "kernel", "path", "why");
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        kin_placement placement = kin_plan_placement(&node);
        fprintf(out, "%6d  %-18s %-30s %-40s", i, node.op, node.kernel, node.path);
        if (placement == KIN_PLACED_LOWERED) fprintf(out, " for %s: ", node.origin);
        else if (placement == KIN_PLACED_COPY)
            fprintf(out, " copy for %s: ", node.origin ? node.origin : "an output");
        else if (placement == KIN_PLACED_HOST) fprintf(out, " on the host: ");
        if (node.fused) fprintf(out, " with %s", node.fused);
        fprintf(out, "%s%s\n", placement != KIN_PLACED_AS_BUILT && node.why ? node.why : "",
                node.again ? " again" : "");
    }
}

static json_t *group_json(const group *at) {
    return json_pack("{s:s, s:s?, s:s?, s:i, s:f, s:s}", "placement",
                     kin_placement_text(at->placement), "op", at->op, "why", at->why, "nodes",
                     at->nodes, "flops", at->flops, "made", at->made);
}

static json_t *node_json(const kin_plan_node *node) {
    return json_pack("{s:s, s:s, s:s, s:s, s:s?, s:s?, s:s?, s:b, s:b, s:f, s:f}", "op", node->op,
                     "kernel", node->kernel, "path", node->path, "placement",
                     kin_placement_text(kin_plan_placement(node)), "origin", node->origin, "why",
                     node->why, "fused", node->fused, "backward", node->backward, "again",
                     node->again, "flops", node->flops, "bytes", node->bytes);
}

json_t *kin_plan_report_json(const kin_plan *plan, bool nodes) {
    group *groups;
    int count = find_groups(plan, &groups);
    json_t *list = json_array(), *all = nodes ? json_array() : NULL;
    bool good = count >= 0 && list && (all || !nodes);
    for (int g = 0; good && g < count; g++)
        good = json_array_append_new(list, group_json(&groups[g])) == 0;
    for (int i = 0; good && nodes && i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        good = json_array_append_new(all, node_json(&node)) == 0;
    }
    json_t *root = good ? json_pack("{s:O}", "placement", list) : NULL;
    if (root && nodes && json_object_set(root, "plan", all) != 0) {
        json_decref(root);
        root = NULL;
    }
    json_decref(list);
    json_decref(all);
    kin_free(kin_plan_device(plan)->context, groups);
    return root;
}
