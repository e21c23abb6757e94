/* Patterns over code points: a small backtracking matcher. A pattern becomes nodes that are linked
 * to what follows them, the last node of an alternative to what follows its group; matching a node
 * means matching all that follows. */
#include <string.h>

#include "tools/generate/caption_clean_internal.h"

enum { MAX_NODES = 160, MAX_RANGES = 64, MAX_ALTERNATIVES = 16, WORK_LIMIT = 200000000 };

typedef enum node_kind {
    SET,
    GROUP,
    BOUNDARY,
    BEGIN,
    END,
    NOT_AHEAD,
    OPENED,
    CLOSED,
    DONE
} node_kind;
enum {
    CLASS_WORD = 1,
    CLASS_DIGIT = 2,
    CLASS_SPACE = 4,
    CLASS_NOT_DIGIT = 8,
    CLASS_NOT_SPACE = 16,
    CLASS_NOT_WORD = 32
};

typedef struct node {
    node_kind kind;
    int next;
    size_t min, max; /* of SET; of GROUP 0 or 1 */
    bool negated;
    unsigned classes;
    int first_range, range_count;
    int alternatives[MAX_ALTERNATIVES], alternative_count;
} node;

typedef struct program {
    node nodes[MAX_NODES];
    int node_count;
    uint32_t ranges[MAX_RANGES][2];
    int range_count;
    bool captured;     /* a group has taken \1 */
    const uint32_t *p; /* the pattern, 0 at its end */
    const uint32_t *text;
    size_t count;
    size_t from, to; /* of \1 */
    size_t work;
    bool bad;
} program;

static int new_node(program *g, node_kind kind) {
    if (g->node_count == MAX_NODES) {
        g->bad = true;
        return 0;
    }
    g->nodes[g->node_count] = (node){.kind = kind, .next = -1, .min = 1, .max = 1};
    return g->node_count++;
}

static void add_range(program *g, node *n, uint32_t low, uint32_t high) {
    if (g->range_count == MAX_RANGES) {
        g->bad = true;
        return;
    }
    if (n->range_count == 0) n->first_range = g->range_count;
    g->ranges[g->range_count][0] = low;
    g->ranges[g->range_count++][1] = high;
    n->range_count++;
}

/* The class of an escape, 0 if it is a sign. */
static unsigned class_of(uint32_t c) {
    switch (c) {
    case 'w':
        return CLASS_WORD;
    case 'W':
        return CLASS_NOT_WORD;
    case 'd':
        return CLASS_DIGIT;
    case 'D':
        return CLASS_NOT_DIGIT;
    case 's':
        return CLASS_SPACE;
    case 'S':
        return CLASS_NOT_SPACE;
    default:
        return 0;
    }
}

static void parse_set(program *g, node *n) {
    g->p++;
    if (*g->p == '^') n->negated = true, g->p++;
    while (*g->p && *g->p != ']') {
        bool escaped = *g->p == '\\';
        if (escaped) g->p++;
        uint32_t low = *g->p++;
        unsigned which = escaped ? class_of(low) : 0;
        if (which) {
            n->classes |= which;
            continue;
        }
        uint32_t high = low;
        if (g->p[0] == '-' && g->p[1] && g->p[1] != ']') {
            high = g->p[1];
            g->p += 2;
        }
        add_range(g, n, low, high);
    }
    if (*g->p == ']') g->p++;
    else g->bad = true;
}

static size_t parse_number(program *g, size_t none) {
    if (!(*g->p >= '0' && *g->p <= '9')) return none;
    size_t value = 0;
    while (*g->p >= '0' && *g->p <= '9') value = 10 * value + (*g->p++ - '0');
    return value;
}

static void parse_repeat(program *g, node *n) {
    uint32_t c = *g->p;
    if (c == '?' || c == '*') n->min = 0;
    if (c == '+' || c == '*') n->max = SIZE_MAX;
    if (c == '?' || c == '+' || c == '*') g->p++;
    if (c != '{') return;
    g->p++;
    n->min = n->max = parse_number(g, 0);
    if (*g->p == ',') {
        g->p++;
        n->max = parse_number(g, SIZE_MAX);
    }
    if (*g->p == '}') g->p++;
    else g->bad = true;
}

static int parse_sequence(program *g, int after);

/* A group: its alternatives lead on to `after`. */
static int parse_group(program *g, int after, bool captures) {
    int group = new_node(g, GROUP), end = after, begin = -1;
    g->nodes[group].next = after;
    if (captures) {
        end = new_node(g, CLOSED);
        g->nodes[end].next = after;
    }
    do {
        g->p++;
        int first = parse_sequence(g, end);
        if (captures) {
            begin = new_node(g, OPENED);
            g->nodes[begin].next = first;
            first = begin;
        }
        node *n = &g->nodes[group];
        if (n->alternative_count == MAX_ALTERNATIVES) g->bad = true;
        else n->alternatives[n->alternative_count++] = first;
    } while (*g->p == '|');
    if (*g->p == ')') g->p++;
    else g->bad = true;
    return group;
}

/* End of the piece at `p`, so that what follows can be parsed first: nodes need their successor. */
static const uint32_t *skip_piece(const uint32_t *p) {
    if (*p == '\\' && p[1]) p += 2;
    else if (*p == '[') {
        for (p++; *p && *p != ']'; p++)
            if (*p == '\\' && p[1]) p++;
        if (*p) p++;
    } else if (*p == '(') {
        int depth = 0;
        do {
            if (*p == '\\' && p[1]) p++;
            else if (*p == '[') p = skip_piece(p) - 1;
            else if (*p == '(') depth++;
            else if (*p == ')') depth--;
            p++;
        } while (*p && depth > 0);
    } else {
        p++;
    }
    if (*p == '?' || *p == '*' || *p == '+') return p + 1;
    if (*p != '{') return p;
    while (*p && *p != '}') p++;
    return *p ? p + 1 : p;
}

static int parse_piece(program *g, int after) {
    uint32_t c = *g->p;
    if (c == '(') {
        if (g->p[1] == '?' && g->p[2] == '!') {
            int n = new_node(g, NOT_AHEAD);
            add_range(g, &g->nodes[n], g->p[3], g->p[3]);
            g->nodes[n].next = after;
            g->p += 5;
            return n;
        }
        bool captures = !g->captured;
        g->captured = true;
        int group = parse_group(g, after, captures);
        if (*g->p == '?') g->nodes[group].min = 0, g->p++;
        return group;
    }
    if (c == '^' || c == '$' || (c == '\\' && g->p[1] == 'b')) {
        int n = new_node(g, c == '^' ? BEGIN : c == '$' ? END : BOUNDARY);
        g->nodes[n].next = after;
        g->p += c == '\\' ? 2 : 1;
        return n;
    }
    int n = new_node(g, SET);
    node *set = &g->nodes[n];
    set->next = after;
    if (c == '[') parse_set(g, set);
    else {
        if (c == '\\') g->p++;
        unsigned which = c == '\\' ? class_of(*g->p) : 0;
        set->classes = which;
        if (!which) add_range(g, set, *g->p, *g->p);
        g->p++;
    }
    parse_repeat(g, set);
    return n;
}

/* A sequence up to '|', ')' or the end; returns its first node. */
static int parse_sequence(program *g, int after) {
    if (g->bad || *g->p == 0 || *g->p == '|' || *g->p == ')') return after;
    const uint32_t *start = g->p;
    bool captures = *start == '(' && start[1] != '?' && !g->captured;
    if (captures) g->captured = true; /* the first group, though what follows is parsed before */
    g->p = skip_piece(start);
    int rest = parse_sequence(g, after);
    const uint32_t *end = g->p;
    g->p = start;
    if (captures) g->captured = false;
    int first = parse_piece(g, rest);
    g->p = end;
    return first;
}

/* ---- matching ------------------------------------------------------------------------------- */

static bool in_set(const program *g, const node *n, uint32_t c) {
    bool in = ((n->classes & CLASS_WORD) && kin_point_is_word(c)) ||
              ((n->classes & CLASS_NOT_WORD) && !kin_point_is_word(c)) ||
              ((n->classes & CLASS_DIGIT) && kin_point_is_digit(c)) ||
              ((n->classes & CLASS_NOT_DIGIT) && !kin_point_is_digit(c)) ||
              ((n->classes & CLASS_SPACE) && kin_point_is_space(c)) ||
              ((n->classes & CLASS_NOT_SPACE) && !kin_point_is_space(c));
    for (int i = 0; !in && i < n->range_count; i++) {
        const uint32_t *range = g->ranges[n->first_range + i];
        in = c >= range[0] && c <= range[1];
    }
    return in != n->negated;
}

static bool word_at(const program *g, size_t i) {
    return i < g->count && kin_point_is_word(g->text[i]);
}

static bool match(program *g, int index, size_t at, size_t *out_end);

static bool match_set(program *g, const node *n, size_t at, size_t *out_end) {
    size_t taken = 0;
    while (taken < n->max && at + taken < g->count && in_set(g, n, g->text[at + taken])) taken++;
    g->work += taken;
    for (;; taken--) {
        if (taken < n->min) return false;
        if (match(g, n->next, at + taken, out_end)) return true;
        if (taken == 0) return false;
    }
}

/* Matches the node and all that follows it. Recursion is as deep as the pattern is long. */
static bool match(program *g, int index, size_t at, size_t *out_end) {
    const node *n = &g->nodes[index];
    if (++g->work > WORK_LIMIT) return false;
    switch (n->kind) {
    case SET:
        return match_set(g, n, at, out_end);
    case GROUP:
        for (int i = 0; i < n->alternative_count; i++)
            if (match(g, n->alternatives[i], at, out_end)) return true;
        return n->min == 0 && match(g, n->next, at, out_end);
    case BOUNDARY:
        if (word_at(g, at) == (at > 0 && word_at(g, at - 1))) return false;
        break;
    case BEGIN:
        if (at != 0) return false;
        break;
    case END:
        if (at != g->count && !(at + 1 == g->count && g->text[at] == '\n')) return false;
        break;
    case NOT_AHEAD:
        if (at < g->count && in_set(g, n, g->text[at])) return false;
        break;
    case OPENED:
        g->from = at;
        break;
    case CLOSED:
        g->to = at;
        break;
    case DONE:
        *out_end = at;
        return true;
    }
    return match(g, n->next, at, out_end);
}

/* ---- replacing ------------------------------------------------------------------------------ */

/* Calls nothing and adds nothing for `out` NULL; returns the number of matches. */
static size_t run(kin_points *text, const char *pattern, const char *replacement, kin_points *out) {
    if (text->status != KIN_OK || text->count == 0) return 0;
    kin_points source = {.context = text->context};
    kin_points_decode(&source, pattern, strlen(pattern));
    kin_points_add(&source, 0);
    program *g = source.status == KIN_OK ? kin_calloc(text->context, 1, sizeof *g) : NULL;
    size_t found = 0, done = 0;
    if (!g) text->status = KIN_OUT_OF_MEMORY;
    else {
        g->p = source.at;
        g->text = text->at;
        g->count = text->count;
        int first = parse_sequence(g, new_node(g, DONE));
        for (size_t at = 0; !g->bad && at < text->count && g->work <= WORK_LIMIT;) {
            size_t end = at;
            if (!match(g, first, at, &end) || end == at) {
                at++;
                continue;
            }
            found++;
            if (out) {
                kin_points_add_range(out, text->at + done, at - done);
                for (const char *r = replacement; *r; r++) {
                    bool copy = r[0] == '\\' && r[1] == '1';
                    if (copy) kin_points_add_range(out, text->at + g->from, g->to - g->from), r++;
                    else kin_points_add(out, (unsigned char)*r);
                }
            }
            done = at = end;
        }
        if (out) kin_points_add_range(out, text->at + done, text->count - done);
        if (g->bad || g->work > WORK_LIMIT)
            text->status =
                kin_fail(text->context, KIN_INVALID, "a caption cannot be cleaned: pattern %s %s",
                         pattern, g->bad ? "is malformed" : "takes too long");
    }
    kin_free(text->context, g);
    kin_points_free(&source);
    return found;
}

void kin_points_replace(kin_points *text, const char *pattern, const char *replacement) {
    kin_points out = {.context = text->context};
    if (run(text, pattern, replacement, &out) > 0 && text->status == KIN_OK)
        kin_points_take(text, &out);
    kin_points_free(&out);
}

size_t kin_points_matches(kin_points *text, const char *pattern) {
    return run(text, pattern, "", NULL);
}
