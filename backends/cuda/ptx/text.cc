/* The text of a module: its tokens, and where its functions and variables stand. */
#include "backends/cuda/ptx/machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace ptx {

void fail(const char *format, ...) {
    char text[600];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    throw fault(text);
}

static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '$' || c == '%' || c == '.';
}

/* The next token, cut off from the text; "" at the end. Names take their dots and double colons
 * along. *line, if given, counts the lines that were passed. */
std::string_view next_token(std::string_view &text, uint32_t *line) {
    size_t at = 0, end;
    while (at < text.size() && (unsigned char)text[at] <= ' ')
        if (text[at++] == '\n' && line != nullptr) ++*line;
    end = at;
    while (end < text.size()) {
        if (is_name(text[end])) end++;
        else if (text.compare(end, 2, "::") == 0 && end > at) end += 2;
        else break;
    }
    if (end == at && at < text.size()) {
        end = at + 1;
        if (text[at] == '"') {
            while (end < text.size() && text[end] != '"') end++;
            end = end < text.size() ? end + 1 : end;
        }
    }
    const std::string_view token = text.substr(at, end - at);
    text.remove_prefix(end);
    return token;
}

/* Of an integer without a sign; a name is a fault. */
uint64_t read_number(std::string_view token) {
    const std::string copy(token);
    char *end = nullptr;
    const uint64_t value = strtoull(copy.c_str(), &end, 0);
    if (copy.empty() || (*end != '\0' && strcmp(end, "U") != 0))
        fail("\"%s\" is no number", copy.c_str());
    return value;
}

static uint32_t type_size(std::string_view type) {
    static const std::map<std::string_view, uint32_t> sizes = {
        {".b8", 1},  {".u8", 1},  {".s8", 1},  {".b16", 2}, {".u16", 2},
        {".s16", 2}, {".f16", 2}, {".b32", 4}, {".u32", 4}, {".s32", 4},
        {".f32", 4}, {".b64", 8}, {".u64", 8}, {".s64", 8}, {".f64", 8}};
    const auto found = sizes.find(type);
    return found != sizes.end() ? found->second : 0;
}

declaration read_declaration(std::string_view text) {
    declaration d = {0, 0, 0, {}};
    std::string_view token;
    while (!(token = next_token(text, nullptr)).empty() && token[0] == '.') {
        if (token == ".align") d.align = (uint32_t)read_number(next_token(text, nullptr));
        else if (const uint32_t size = type_size(token)) d.element = size;
    }
    d.name = token;
    d.size = d.element;
    while (next_token(text, nullptr) == "[") {
        token = next_token(text, nullptr);
        d.size *= token == "]" ? 0 : (uint32_t)read_number(token);
        if (token != "]") next_token(text, nullptr);
    }
    if (d.element == 0 || d.name.empty())
        fail("a declaration of a kind that the machine does not know");
    if (d.align == 0) d.align = d.element;
    return d;
}

/* Comments become blanks, so that lines stay what they are. */
static void blank_comments(std::string &text) {
    for (size_t at = 0; (at = text.find('/', at)) != std::string::npos;) {
        size_t end = at + 1;
        if (text.compare(at, 2, "//") == 0) end = text.find('\n', at);
        else if (text.compare(at, 2, "/*") == 0) end = text.find("*/", at) + 2;
        if (end == std::string::npos || end < at) end = text.size();
        if (end > at + 1)
            for (size_t i = at; i < end; i++)
                if (text[i] != '\n') text[i] = ' ';
        at = end;
    }
}

/* Up to the closing bracket that belongs to the one in front of the text; the text goes on behind
 * it. */
static std::string_view bracketed(std::string_view &text, char open, char close, uint32_t *line) {
    size_t depth = 1, at = 0;
    for (; at < text.size() && depth > 0; at++) {
        if (text[at] == open) depth++;
        if (text[at] == close) depth--;
        if (text[at] == '\n') ++*line;
    }
    if (depth > 0) fail("line %u: \"%c\" is missing", *line, close);
    const std::string_view inside = text.substr(0, at - 1);
    text.remove_prefix(at);
    return inside;
}

static void read_function(module &m, std::string_view &text, bool is_entry, uint32_t *line) {
    function f = {};
    f.is_entry = is_entry;
    std::string_view name = next_token(text, line);
    if (name == "(") {
        f.results = bracketed(text, '(', ')', line);
        name = next_token(text, line);
    }
    std::string_view before = text, token = next_token(text, line);
    if (token == "(") {
        f.parameters = bracketed(text, '(', ')', line);
        before = text, token = next_token(text, line);
    }
    const char *directives = before.data();
    while (token != "{" && token != ";" && !token.empty()) token = next_token(text, line);
    if (token == ";") return; /* a declaration */
    f.directives = std::string_view(directives, (size_t)(token.data() - directives));
    f.line = *line;
    f.body = bracketed(text, '{', '}', line);
    m.functions[name] = f;
}

/* Memory for a variable of the module; it is the kernels' from then on. */
static uint32_t place_global(module &m, const declaration &d, std::string_view values) {
    const size_t start = (m.memory.size() * 8 + d.align - 1) / d.align * d.align;
    m.memory.resize((start + d.size + 7) / 8);
    unsigned char *to = reinterpret_cast<unsigned char *>(m.memory.data()) + start;
    for (uint32_t i = 0; !values.empty(); i++) {
        std::string_view token = next_token(values, nullptr);
        const bool negative = token == "-";
        if (negative) token = next_token(values, nullptr);
        if (token.empty()) break;
        const uint64_t number = read_number(token), value = negative ? 0 - number : number;
        if ((i + 1) * d.element > d.size)
            fail("too many values for %s", std::string(d.name).c_str());
        memcpy(to + i * d.element, &value, d.element);
        next_token(values, nullptr);
    }
    return (uint32_t)start;
}

static void read_variable(module &m, std::string_view &text, enum space space, bool is_extern,
                          uint32_t *line) {
    const size_t end = text.find_first_of("=;");
    if (end == std::string_view::npos) fail("line %u: \";\" is missing", *line);
    const declaration d = read_declaration(text.substr(0, end));
    const bool has_values = text[end] == '=';
    for (size_t i = 0; i < end; i++) *line += text[i] == '\n';
    text.remove_prefix(end + 1);
    std::string_view values;
    if (has_values) {
        if (next_token(text, line) != "{") fail("line %u: values that are no list", *line);
        values = bracketed(text, '{', '}', line);
        next_token(text, line);
    }
    variable v = {space, 0, d.size, d.align, is_extern};
    if (space == GLOBAL) v.offset = place_global(m, d, values);
    m.variables[d.name] = v;
}

std::unique_ptr<module> read_module(std::string source, std::string path) {
    auto m = std::make_unique<module>();
    m->text = std::move(source);
    m->path = std::move(path);
    blank_comments(m->text);
    std::string_view text = m->text, token;
    uint32_t line = 1;
    bool is_extern = false;
    while (!(token = next_token(text, &line)).empty()) {
        if (token == ".version" || token == ".target" || token == ".address_size") {
            const size_t end = text.find('\n');
            text.remove_prefix(end != std::string_view::npos ? end : text.size());
        } else if (token == ".extern") {
            is_extern = true;
            continue;
        } else if (token == ".entry" || token == ".func") {
            read_function(*m, text, token == ".entry", &line);
        } else if (token == ".global" || token == ".const") {
            read_variable(*m, text, GLOBAL, is_extern, &line);
        } else if (token == ".shared") {
            read_variable(*m, text, SHARED, is_extern, &line);
        } else if (token != ".visible" && token != ".weak" && token != ";") {
            if (token == ".pragma") next_token(text, &line);
            else fail("line %u: \"%s\" at a module's level", line, std::string(token).c_str());
        }
        is_extern = false;
    }
    return m;
}

} // namespace ptx
