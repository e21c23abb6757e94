/* The pickle machine: opcodes of protocols 2 to 5 that build plain data. Python's pickletools.py
 * documents them. Nothing is called, and no opcode allocates more than a small multiple of the
 * bytes that it has read. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/pickle_internal.h"

#include <string.h>

enum { PROTOCOL_LIMIT = 5, STACK_LIMIT = 1 << 28 };

typedef struct machine {
    kin_pickle *file;
    const unsigned char *begin;
    const unsigned char *at;
    const unsigned char *end;
    bool may_have_tensors;
    pickle_node **stack;
    size_t depth;
    size_t stack_capacity;
    size_t *marks; /* depths of the stack */
    size_t mark_count;
    size_t mark_capacity;
    pickle_node **memo;
    size_t memo_capacity;
    size_t memo_count; /* for MEMOIZE: as many as were stored */
} machine;

static kin_status fail_here(const machine *m, const char *what) {
    return kin_fail(m->file->context, KIN_FORMAT, "%s: bad pickle near byte %zu: %s", m->file->path,
                    (size_t)(m->at - m->begin), what);
}

/* ---- reading ---- */

static kin_status take(machine *m, size_t size, const unsigned char **out_bytes) {
    if (size > (size_t)(m->end - m->at)) return fail_here(m, "it is truncated");
    *out_bytes = m->at;
    m->at += size;
    return KIN_OK;
}

static kin_status take_number(machine *m, size_t size, uint64_t *out_value) {
    const unsigned char *bytes = NULL;
    kin_status status = take(m, size, &bytes);
    if (status != KIN_OK) return status;
    *out_value = 0;
    for (size_t i = size; i-- > 0;) *out_value = *out_value << 8 | bytes[i];
    return KIN_OK;
}

/* Bytes that follow a length of `width` bytes. */
static kin_status take_counted(machine *m, size_t width, const unsigned char **out_bytes,
                               size_t *out_size) {
    uint64_t size = 0;
    kin_status status = take_number(m, width, &size);
    if (status != KIN_OK) return status;
    if (size > (uint64_t)(m->end - m->at)) return fail_here(m, "a length beyond the end");
    *out_size = (size_t)size;
    return take(m, (size_t)size, out_bytes);
}

static kin_status take_line(machine *m, const char **out_text, size_t *out_size) {
    size_t left = (size_t)(m->end - m->at);
    const unsigned char *newline = left > 0 ? memchr(m->at, '\n', left) : NULL;
    if (newline == NULL) return fail_here(m, "it is truncated in a name");
    *out_text = (const char *)m->at;
    *out_size = (size_t)(newline - m->at);
    m->at = newline + 1;
    return KIN_OK;
}

/* ---- stack and memo ---- */

/* Makes room for `count` elements of `size` bytes; new room is zeroed. */
static kin_status reserve(machine *m, void **array, size_t *capacity, size_t count, size_t size) {
    if (count <= *capacity) return KIN_OK;
    size_t wanted = *capacity * 2 > count ? *capacity * 2 : count;
    if (wanted < 64) wanted = 64;
    if (wanted > STACK_LIMIT) return fail_here(m, "it needs more memory than is sensible");
    void *grown = kin_realloc(m->file->context, *array, wanted * size);
    if (grown == NULL) return KIN_OUT_OF_MEMORY;
    memset((char *)grown + *capacity * size, 0, (wanted - *capacity) * size);
    *array = grown;
    *capacity = wanted;
    return KIN_OK;
}

static kin_status push(machine *m, pickle_node *node) {
    if (node == NULL) return KIN_OUT_OF_MEMORY;
    void *array = m->stack;
    kin_status status = reserve(m, &array, &m->stack_capacity, m->depth + 1, sizeof *m->stack);
    m->stack = array;
    if (status == KIN_OK) m->stack[m->depth++] = node;
    return status;
}

static size_t stack_floor(const machine *m) {
    return m->mark_count > 0 ? m->marks[m->mark_count - 1] : 0;
}

static kin_status pop(machine *m, pickle_node **out_node) {
    if (m->depth <= stack_floor(m)) return fail_here(m, "the stack is empty");
    *out_node = m->stack[--m->depth];
    return KIN_OK;
}

static kin_status top(const machine *m, pickle_node **out_node) {
    if (m->depth <= stack_floor(m)) return fail_here(m, "the stack is empty");
    *out_node = m->stack[m->depth - 1];
    return KIN_OK;
}

static kin_status push_mark(machine *m) {
    void *array = m->marks;
    kin_status status = reserve(m, &array, &m->mark_capacity, m->mark_count + 1, sizeof *m->marks);
    m->marks = array;
    if (status == KIN_OK) m->marks[m->mark_count++] = m->depth;
    return status;
}

/* Takes the topmost mark away; the items above it are stack[*out_first] to stack[depth - 1]. */
static kin_status pop_mark(machine *m, size_t *out_first) {
    if (m->mark_count == 0) return fail_here(m, "there is no mark");
    *out_first = m->marks[--m->mark_count];
    return KIN_OK;
}

static kin_status memo_put(machine *m, uint64_t index) {
    pickle_node *node = NULL;
    kin_status status = top(m, &node);
    if (status != KIN_OK) return status;
    /* Picklers count from 0: an index beyond the bytes of the pickle is no honest one. */
    if (index > (uint64_t)(m->end - m->begin))
        return fail_here(m, "a memo index that is too large");
    void *array = m->memo;
    status = reserve(m, &array, &m->memo_capacity, (size_t)index + 1, sizeof *m->memo);
    m->memo = array;
    if (status != KIN_OK) return status;
    if (m->memo[index] == NULL) m->memo_count++;
    m->memo[index] = node;
    return KIN_OK;
}

static kin_status memo_get(machine *m, uint64_t index) {
    if (index >= m->memo_capacity || m->memo[index] == NULL)
        return fail_here(m, "a memo entry that was never stored");
    return push(m, m->memo[index]);
}

/* ---- values ---- */

static kin_status push_int(machine *m, int64_t value) {
    pickle_node *node = kin_pickle_node(m->file, KIN_PICKLE_INT);
    if (node != NULL) node->value.as.integer = value;
    return push(m, node);
}

static kin_status push_bool(machine *m, bool value) {
    pickle_node *node = kin_pickle_node(m->file, KIN_PICKLE_BOOL);
    if (node != NULL) node->value.as.boolean = value;
    return push(m, node);
}

static kin_status push_text(machine *m, kin_pickle_kind kind, const void *data, size_t size) {
    pickle_node *node = kin_pickle_node(m->file, kind);
    if (node == NULL) return KIN_OUT_OF_MEMORY;
    node->value.as.text.data = kin_pickle_text(m->file, data, size);
    node->value.as.text.size = size;
    return node->value.as.text.data == NULL ? KIN_OUT_OF_MEMORY : push(m, node);
}

static kin_status push_counted(machine *m, kin_pickle_kind kind, size_t width) {
    const unsigned char *bytes = NULL;
    size_t size = 0;
    kin_status status = take_counted(m, width, &bytes, &size);
    if (status != KIN_OK) return status;
    if (kind == KIN_PICKLE_STRING && !kin_utf8_is_valid((const char *)bytes, size))
        return fail_here(m, "a string that is not UTF-8");
    return push_text(m, kind, bytes, size);
}

/* Python 2's str: text if it is UTF-8, else bytes. */
static kin_status push_old_string(machine *m, size_t width) {
    const unsigned char *bytes = NULL;
    size_t size = 0;
    kin_status status = take_counted(m, width, &bytes, &size);
    if (status != KIN_OK) return status;
    bool is_text = kin_utf8_is_valid((const char *)bytes, size);
    return push_text(m, is_text ? KIN_PICKLE_STRING : KIN_PICKLE_BYTES, bytes, size);
}

static kin_status push_float(machine *m) {
    const unsigned char *bytes = NULL;
    kin_status status = take(m, 8, &bytes);
    if (status != KIN_OK) return status;
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits = bits << 8 | bytes[i]; /* big-endian, unlike the rest */
    pickle_node *node = kin_pickle_node(m->file, KIN_PICKLE_FLOAT);
    if (node != NULL) memcpy(&node->value.as.number, &bits, sizeof bits);
    return push(m, node);
}

/* Two's complement, little-endian. */
static kin_status push_long(machine *m, size_t width) {
    const unsigned char *bytes = NULL;
    size_t size = 0;
    kin_status status = take_counted(m, width, &bytes, &size);
    if (status != KIN_OK) return status;
    if (size > 8) return push_text(m, KIN_PICKLE_BIG_INT, bytes, size);
    uint64_t value = size > 0 && (bytes[size - 1] & 0x80) != 0 ? UINT64_MAX : 0;
    for (size_t i = size; i-- > 0;) value = value << 8 | bytes[i];
    return push_int(m, (int64_t)value);
}

static kin_status push_list(machine *m, kin_pickle_kind kind, size_t count) {
    pickle_node *node = kin_pickle_node(m->file, kind);
    if (node == NULL) return KIN_OUT_OF_MEMORY;
    if (count > m->depth - stack_floor(m)) return fail_here(m, "the stack is empty");
    for (size_t i = 0; i < count; i++) {
        kin_status status = kin_pickle_append(m->file, node, m->stack[m->depth - count + i]);
        if (status != KIN_OK) return status;
    }
    m->depth -= count;
    return push(m, node);
}

static kin_status push_marked(machine *m, kin_pickle_kind kind) {
    size_t first = 0;
    kin_status status = pop_mark(m, &first);
    if (status == KIN_OK && kind == KIN_PICKLE_DICT && (m->depth - first) % 2 != 0)
        status = fail_here(m, "a dict with a key that has no value");
    return status == KIN_OK ? push_list(m, kind, m->depth - first) : status;
}

/* An object that is not built takes what is put into it and forgets it. */
static bool is_opaque_object(const pickle_node *node) {
    return node->value.kind == KIN_PICKLE_OPAQUE && node->action == 0 && node->storage == NULL;
}

/* Moves stack[first] to the end of the stack into the container below them. */
static kin_status extend(machine *m, kin_pickle_kind kind, size_t first) {
    if (first <= stack_floor(m)) return fail_here(m, "the stack is empty");
    pickle_node *container = m->stack[first - 1];
    if (container->value.kind != kind && !is_opaque_object(container))
        return fail_here(m, kind == KIN_PICKLE_DICT ? "an entry for something that is no dict"
                                                    : "an item for something that is no list");
    if (kind == KIN_PICKLE_DICT && (m->depth - first) % 2 != 0)
        return fail_here(m, "a dict with a key that has no value");
    for (size_t i = first; i < m->depth && container->value.kind == kind; i++) {
        kin_status status = kin_pickle_append(m->file, container, m->stack[i]);
        if (status != KIN_OK) return status;
    }
    m->depth = first;
    return KIN_OK;
}

static kin_status extend_marked(machine *m, kin_pickle_kind kind) {
    size_t first = 0;
    kin_status status = pop_mark(m, &first);
    return status == KIN_OK ? extend(m, kind, first) : status;
}

static kin_status extend_by(machine *m, kin_pickle_kind kind, size_t count) {
    if (m->depth - stack_floor(m) < count + 1) return fail_here(m, "the stack is empty");
    return extend(m, kind, m->depth - count);
}

/* ---- names and calls ---- */

static kin_status push_global(machine *m) {
    const char *module = NULL;
    const char *name = NULL;
    size_t module_size = 0;
    size_t name_size = 0;
    pickle_node *node = NULL;
    kin_status status = take_line(m, &module, &module_size);
    if (status == KIN_OK) status = take_line(m, &name, &name_size);
    if (status == KIN_OK)
        status = kin_pickle_global(m->file, module, module_size, name, name_size, &node);
    return status == KIN_OK ? push(m, node) : status;
}

static kin_status push_stack_global(machine *m) {
    pickle_node *module = NULL;
    pickle_node *name = NULL;
    pickle_node *node = NULL;
    kin_status status = pop(m, &name);
    if (status == KIN_OK) status = pop(m, &module);
    if (status != KIN_OK) return status;
    if (module->value.kind != KIN_PICKLE_STRING || name->value.kind != KIN_PICKLE_STRING)
        return fail_here(m, "a class whose name is no string");
    status = kin_pickle_global(m->file, module->value.as.text.data, module->value.as.text.size,
                               name->value.as.text.data, name->value.as.text.size, &node);
    return status == KIN_OK ? push(m, node) : status;
}

/* REDUCE and NEWOBJ: a function or class, and its arguments. */
static kin_status reduce(machine *m) {
    pickle_node *function = NULL;
    pickle_node *arguments = NULL;
    pickle_node *result = NULL;
    kin_status status = pop(m, &arguments);
    if (status == KIN_OK) status = pop(m, &function);
    if (status != KIN_OK) return status;
    if (arguments->value.kind != KIN_PICKLE_TUPLE)
        return fail_here(m, "a call whose arguments are no tuple");
    if (function->action == 0) return fail_here(m, "a call of something that is no function");
    status = kin_pickle_reduce(m->file, function, arguments, &result);
    return status == KIN_OK ? push(m, result) : status;
}

/* The state of an OrderedDict is its attributes (torch's _metadata): not wanted. */
static kin_status build(machine *m) {
    pickle_node *state = NULL;
    pickle_node *object = NULL;
    kin_status status = pop(m, &state);
    if (status == KIN_OK) status = top(m, &object);
    if (status != KIN_OK) return status;
    if (object->value.kind != KIN_PICKLE_DICT && !is_opaque_object(object))
        return fail_here(m, "a state for something that takes none");
    return KIN_OK;
}

static kin_status push_persistent(machine *m) {
    pickle_node *id = NULL;
    pickle_node *node = NULL;
    if (!m->may_have_tensors) return fail_here(m, "a tensor where none may be");
    kin_status status = pop(m, &id);
    if (status == KIN_OK) status = kin_pickle_persistent(m->file, id, &node);
    return status == KIN_OK ? push(m, node) : status;
}

/* ---- opcodes ---- */

static kin_status fail_opcode(const machine *m, int opcode) {
    const char *what = "is not known";
    if (opcode == 'i' || opcode == 'o' || opcode == 0x92)
        what = "builds an object of a class, which could run code: refused";
    else if (opcode == 0x82 || opcode == 0x83 || opcode == 0x84)
        what = "names a registered extension: refused";
    else if (strchr("0123456789FILNSVdgp", opcode) != NULL && opcode != 0)
        what = "belongs to protocol 0 or 1, which torch.save does not write";
    else if (opcode == 'P') what = "is a persistent id as text, which torch.save does not write";
    return kin_fail(m->file->context, KIN_FORMAT, "%s: bad pickle near byte %zu: opcode 0x%02x %s",
                    m->file->path, (size_t)(m->at - m->begin), (unsigned)opcode, what);
}

static kin_status step_protocol(machine *m) {
    uint64_t protocol = 0;
    kin_status status = take_number(m, 1, &protocol);
    if (status == KIN_OK && protocol > PROTOCOL_LIMIT) return fail_here(m, "an unknown protocol");
    return status;
}

static kin_status step_frame(machine *m) {
    uint64_t size = 0;
    kin_status status = take_number(m, 8, &size);
    if (status == KIN_OK && size > (uint64_t)(m->end - m->at))
        return fail_here(m, "a frame beyond the end");
    return status;
}

static kin_status step_pop(machine *m) {
    /* Python lets POP take a mark away as well. */
    if (m->mark_count > 0 && m->depth == stack_floor(m)) {
        m->mark_count--;
        return KIN_OK;
    }
    pickle_node *ignored = NULL;
    return pop(m, &ignored);
}

static kin_status step_pop_mark(machine *m) {
    size_t first = 0;
    kin_status status = pop_mark(m, &first);
    if (status == KIN_OK) m->depth = first;
    return status;
}

static kin_status step_dup(machine *m) {
    pickle_node *node = NULL;
    kin_status status = top(m, &node);
    return status == KIN_OK ? push(m, node) : status;
}

static kin_status step_memo(machine *m, size_t width, bool is_put) {
    uint64_t index = 0;
    kin_status status = take_number(m, width, &index);
    if (status != KIN_OK) return status;
    return is_put ? memo_put(m, index) : memo_get(m, index);
}

static kin_status step_int(machine *m, size_t width) {
    uint64_t value = 0;
    kin_status status = take_number(m, width, &value);
    if (status != KIN_OK) return status;
    return push_int(m, width == 4 ? (int64_t)(int32_t)(uint32_t)value : (int64_t)value);
}

static kin_status step_signed_long4(machine *m) {
    if (m->end - m->at >= 4 && (m->at[3] & 0x80) != 0) return fail_here(m, "a negative length");
    return push_long(m, 4);
}

static kin_status step(machine *m, int opcode) {
    switch (opcode) {
    case 0x80:
        return step_protocol(m);
    case 0x95:
        return step_frame(m);
    case '(':
        return push_mark(m);
    case '0':
        return step_pop(m);
    case '1':
        return step_pop_mark(m);
    case '2':
        return step_dup(m);
    case 'N':
        return push(m, kin_pickle_node(m->file, KIN_PICKLE_NONE));
    case 0x88:
        return push_bool(m, true);
    case 0x89:
        return push_bool(m, false);
    case 'J':
        return step_int(m, 4);
    case 'K':
        return step_int(m, 1);
    case 'M':
        return step_int(m, 2);
    case 0x8A:
        return push_long(m, 1);
    case 0x8B:
        return step_signed_long4(m);
    case 'G':
        return push_float(m);
    case 'X':
        return push_counted(m, KIN_PICKLE_STRING, 4);
    case 0x8C:
        return push_counted(m, KIN_PICKLE_STRING, 1);
    case 0x8D:
        return push_counted(m, KIN_PICKLE_STRING, 8);
    case 'T':
        return push_old_string(m, 4);
    case 'U':
        return push_old_string(m, 1);
    case 'B':
        return push_counted(m, KIN_PICKLE_BYTES, 4);
    case 'C':
        return push_counted(m, KIN_PICKLE_BYTES, 1);
    case 0x8E:
        return push_counted(m, KIN_PICKLE_BYTES, 8);
    case ']':
        return push(m, kin_pickle_node(m->file, KIN_PICKLE_LIST));
    case '}':
        return push(m, kin_pickle_node(m->file, KIN_PICKLE_DICT));
    case ')':
        return push(m, kin_pickle_node(m->file, KIN_PICKLE_TUPLE));
    case 't':
        return push_marked(m, KIN_PICKLE_TUPLE);
    case 'l':
        return push_marked(m, KIN_PICKLE_LIST);
    case 'd':
        return push_marked(m, KIN_PICKLE_DICT);
    case 0x85:
        return push_list(m, KIN_PICKLE_TUPLE, 1);
    case 0x86:
        return push_list(m, KIN_PICKLE_TUPLE, 2);
    case 0x87:
        return push_list(m, KIN_PICKLE_TUPLE, 3);
    case 'a':
        return extend_by(m, KIN_PICKLE_LIST, 1);
    case 'e':
        return extend_marked(m, KIN_PICKLE_LIST);
    case 's':
        return extend_by(m, KIN_PICKLE_DICT, 2);
    case 'u':
        return extend_marked(m, KIN_PICKLE_DICT);
    case 'q':
        return step_memo(m, 1, true);
    case 'r':
        return step_memo(m, 4, true);
    case 'h':
        return step_memo(m, 1, false);
    case 'j':
        return step_memo(m, 4, false);
    case 0x94:
        return memo_put(m, m->memo_count);
    case 'c':
        return push_global(m);
    case 0x93:
        return push_stack_global(m);
    case 'R':
    case 0x81:
        return reduce(m);
    case 'b':
        return build(m);
    case 'Q':
        return push_persistent(m);
    default:
        return fail_opcode(m, opcode);
    }
}

static kin_status run(machine *m, pickle_node **out_node) {
    for (;;) {
        const unsigned char *opcode = NULL;
        kin_status status = take(m, 1, &opcode);
        if (status != KIN_OK) return status;
        if (*opcode == '.') return pop(m, out_node);
        status = step(m, *opcode);
        if (status != KIN_OK) return status;
    }
}

kin_status kin_pickle_run(kin_pickle *file, const unsigned char **at, const unsigned char *end,
                          bool may_have_tensors, pickle_node **out_node) {
    machine m = {.file = file, .begin = *at, .at = *at, .end = end};
    m.may_have_tensors = may_have_tensors;
    *out_node = NULL;
    kin_status status = run(&m, out_node);
    if (status == KIN_OUT_OF_MEMORY) (void)kin_fail_in(file->context, status, "%s", file->path);
    *at = m.at;
    kin_free(file->context, m.stack);
    kin_free(file->context, m.marks);
    kin_free(file->context, m.memo);
    return status;
}
