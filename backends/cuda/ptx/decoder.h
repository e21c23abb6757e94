/* Reading a function's text: names, registers and statements. Registers and names of braces within
 * braces hide the outer ones; a function that is called is put in place of the call, with registers
 * of its own. decode.cc begins and ends a kernel, decode_forms.cc has the forms of operands. */
#ifndef KIN_BACKENDS_CUDA_PTX_DECODER_H
#define KIN_BACKENDS_CUDA_PTX_DECODER_H

#include "backends/cuda/ptx/machine.h"

#include <stdlib.h>
#include <string.h>

namespace ptx {

struct name {
    enum { REGISTER, VARIABLE } what;
    uint32_t place;   /* of a register */
    uint8_t size;     /* 0: predicate */
    enum space space; /* of a variable */
    uint64_t address;
};

struct scope {
    std::map<std::string, name, std::less<>> names;
    /* families %r<20>: where the first lies */
    struct family {
        std::string prefix;
        uint32_t count, place;
        uint8_t size;
    };
    std::vector<family> families;
    std::map<std::string, uint32_t, std::less<>> labels;
    struct jump {
        size_t instruction;
        std::string to;
    };
    std::vector<jump> jumps;
};

struct operand {
    enum { REGISTER, NUMBER, ADDRESS, VECTOR, NOTHING } what;
    name of;
    uint64_t number;
    enum { INTEGER, F32, F64 } kind;
    int64_t offset;
    std::vector<operand> parts;
    bool has_base; /* of an address: a register, else `number` */
};

struct decoder {
    module &m;
    kernel &k;
    std::vector<scope> scopes;
    std::map<std::pair<uint64_t, uint8_t>, uint32_t> numbers;
    std::map<std::string_view, uint32_t> shared_places;
    uint32_t line = 1;
    int depth = 0;

    decoder(module &m_, kernel &k_) : m(m_), k(k_) {
    }

    [[noreturn]] void bad(const char *what, std::string_view detail) {
        fail("%s, line %u: %s: %s", m.path.c_str(), line, what, std::string(detail).c_str());
    }

    /* ---- registers ---- */

    uint32_t new_register(uint8_t size, uint32_t count = 1) {
        const uint32_t place = k.register_bytes, bytes = size == 0 ? 64 : size * LANES;
        k.register_bytes += count * bytes;
        return place;
    }
    static uint32_t stride(uint8_t size) {
        return size == 0 ? 64 : size * (uint32_t)LANES;
    }

    uint32_t number_place(uint64_t value, uint8_t size) {
        if (size == 0) value = value != 0;
        else if (size < 8) value &= (UINT64_C(1) << 8 * size) - 1;
        const auto key = std::make_pair(value, size);
        const auto found = numbers.find(key);
        if (found != numbers.end()) return found->second;
        const uint32_t place = new_register(size);
        k.constants.push_back({place, size, value});
        return numbers[key] = place;
    }

    const name *find(std::string_view text) {
        for (size_t s = scopes.size(); s-- > 0;) {
            const auto found = scopes[s].names.find(text);
            if (found != scopes[s].names.end()) return &found->second;
            for (const scope::family &f : scopes[s].families) {
                if (text.size() <= f.prefix.size() ||
                    text.compare(0, f.prefix.size(), f.prefix) != 0)
                    continue;
                uint64_t index = 0;
                bool is_index = true;
                for (char c : text.substr(f.prefix.size()))
                    is_index = is_index && c >= '0' && c <= '9',
                    index = index * 10 + (uint64_t)(c - '0');
                if (!is_index || index >= f.count) continue;
                const name n = {name::REGISTER, f.place + (uint32_t)index * stride(f.size), f.size,
                                GENERIC, 0};
                return &(scopes[s].names[std::string(text)] = n);
            }
        }
        return module_name(text);
    }

    const name *module_name(std::string_view text) {
        const auto found = m.variables.find(text);
        if (found == m.variables.end()) return nullptr;
        const variable &v = found->second;
        name n = {name::VARIABLE, 0, 0, v.space, 0};
        if (v.space == GLOBAL) n.address = reinterpret_cast<uint64_t>(m.memory.data()) + v.offset;
        else n.address = v.is_dynamic ? dynamic_shared(v) : place_shared(text, v);
        return &(scopes[0].names[std::string(text)] = n);
    }
    uint64_t place_shared(std::string_view text, const variable &v) {
        const auto found = shared_places.find(text);
        if (found != shared_places.end()) return found->second;
        k.shared_bytes = (k.shared_bytes + v.align - 1) / v.align * v.align;
        const uint32_t at = SHARED_START + k.shared_bytes;
        k.shared_bytes += v.size;
        return shared_places[text] = at;
    }
    /* Known when all static variables are: until then a mark, which `finish` replaces. */
    static const uint64_t DYNAMIC = UINT64_C(1) << 40;
    uint64_t dynamic_shared(const variable &v) {
        if (v.align > k.shared_align) k.shared_align = v.align;
        return DYNAMIC;
    }

    bool special_place(std::string_view text, uint32_t *out_place, uint8_t *out_size) {
        static const char *const names[SPECIALS] = {
            "%tid.x",       "%tid.y",       "%tid.z",       "%ntid.x",     "%ntid.y",
            "%ntid.z",      "%ctaid.x",     "%ctaid.y",     "%ctaid.z",    "%nctaid.x",
            "%nctaid.y",    "%nctaid.z",    "%laneid",      "%warpid",     "%lanemask_lt",
            "%lanemask_le", "%lanemask_gt", "%lanemask_ge", "%lanemask_eq"};
        for (int s = 0; s < SPECIALS; s++)
            if (text == names[s]) {
                if (k.specials[s] == NONE) k.specials[s] = new_register(4);
                *out_place = k.specials[s];
                *out_size = 4;
                return true;
            }
        return false;
    }

    /* ---- operands ---- */

    operand read_value(std::string_view token, std::string_view &text) {
        operand o = {};
        o.what = operand::NUMBER;
        bool negative = false;
        while (token == "-" || token == "!") negative = !negative, token = next_token(text, &line);
        const char c = token.empty() ? '\0' : token[0];
        if (c >= '0' && c <= '9') {
            if (token.size() > 2 && c == '0' &&
                (token[1] == 'f' || token[1] == 'F' || token[1] == 'd' || token[1] == 'D')) {
                o.kind = (token[1] | 32) == 'f' ? operand::F32 : operand::F64;
                o.number = strtoull(std::string(token.substr(2)).c_str(), nullptr, 16);
                if (negative) o.number ^= UINT64_C(1) << (o.kind == operand::F32 ? 31 : 63);
            } else {
                o.number = negative ? 0 - read_number(token) : read_number(token);
            }
            return o;
        }
        if (negative) bad("a sign in front of", token);
        if (token == "_") {
            o.what = operand::NOTHING;
            return o;
        }
        uint32_t place;
        uint8_t size;
        if (token == "WARP_SZ") {
            o.number = LANES;
        } else if (special_place(token, &place, &size)) {
            o.what = operand::REGISTER;
            o.of = {name::REGISTER, place, size, GENERIC, 0};
        } else {
            const name *n = find(token);
            if (n == nullptr) bad("unknown name", token);
            o.of = *n;
            if (n->what == name::REGISTER) o.what = operand::REGISTER;
            else o.number = n->address;
        }
        return o;
    }

    operand read_operand(std::string_view &text) {
        std::string_view token = next_token(text, &line);
        operand o = {};
        if (token == "{") {
            o.what = operand::VECTOR;
            do {
                token = next_token(text, &line);
                if (token == "}") break;
                o.parts.push_back(read_value(token, text));
                token = next_token(text, &line);
            } while (token == ",");
            if (token != "}") bad("a vector ends with", token);
            return o;
        }
        if (token != "[") {
            o = read_value(token, text);
            std::string_view after = text; /* symbol + number */
            if (o.what == operand::NUMBER && next_token(after, nullptr) == "+") {
                next_token(text, &line);
                token = next_token(text, &line);
                o.number += read_value(token, text).number;
            }
            return o;
        }
        o.what = operand::ADDRESS;
        operand base = read_value(next_token(text, &line), text);
        o.has_base = base.what == operand::REGISTER;
        o.of = base.of;
        o.number = o.has_base ? 0 : base.number;
        token = next_token(text, &line);
        if (token == "+") {
            token = next_token(text, &line);
            o.offset = (int64_t)read_value(token, text).number;
            token = next_token(text, &line);
        }
        if (token == ",") { /* coordinates of a tensor */
            o.parts.push_back(read_operand(text));
            token = next_token(text, &line);
        }
        if (token != "]") bad("an address ends with", token);
        return o;
    }

    /* Where an operand of a size lies (0: a predicate). */
    uint32_t place_of(const operand &o, uint8_t size) {
        if (o.what == operand::NOTHING) return new_register(size);
        if (o.what == operand::REGISTER) {
            if (o.of.size != size) bad("a register of another size than", k.code.back().name);
            return o.of.place;
        }
        if (o.what != operand::NUMBER) bad("an operand of a wrong kind for", k.code.back().name);
        if (o.of.what == name::VARIABLE && o.of.space == SHARED && (o.number & DYNAMIC) != 0)
            return dynamic_place(o.number, size);
        if (o.kind == operand::F64 && size == 4) bad("a number of 64 bits for", k.code.back().name);
        return number_place(o.number, size);
    }
    std::vector<size_t> dynamic_numbers; /* constants with the mark */
    uint32_t dynamic_place(uint64_t number, uint8_t size) {
        const uint32_t place = new_register(size);
        dynamic_numbers.push_back(k.constants.size());
        k.constants.push_back({place, size, number});
        return place;
    }

    static uint8_t pattern_size(char c) {
        return c == 'p' ? 0 : c == 'h' ? 2 : c == 'w' ? 4 : 8;
    }

    /* ---- statements ---- */

    instruction &add(std::string_view opcode, uint32_t guard, bool negated) {
        instruction i;
        i.name = opcode;
        i.line = line;
        i.guard = guard;
        i.negated = negated;
        i.first = (uint32_t)k.places.size();
        k.code.push_back(i);
        return k.code.back();
    }

    void give(instruction &i, uint32_t place) {
        k.places.push_back(place);
        i.arguments++;
    }

    void read_registers(std::string_view &text) {
        const std::string_view type = next_token(text, &line);
        const declaration of_type =
            type == ".pred" ? declaration{0, 0, 0, {}} : read_declaration(std::string(type) + " x");
        const uint8_t size = (uint8_t)of_type.element;
        for (;;) {
            const std::string_view prefix = next_token(text, &line);
            std::string_view token = next_token(text, &line);
            if (token == "<") {
                const uint32_t count = (uint32_t)read_number(next_token(text, &line));
                next_token(text, &line);
                scopes.back().families.push_back(
                    {std::string(prefix), count, new_register(size, count), size});
                token = next_token(text, &line);
            } else {
                scopes.back().names[std::string(prefix)] = {name::REGISTER, new_register(size),
                                                            size, GENERIC, 0};
            }
            if (token == ";") return;
            if (token != ",") bad("registers", token);
        }
    }

    name new_local(const declaration &d) {
        k.local_bytes = (k.local_bytes + d.align - 1) / d.align * d.align;
        const name n = {name::VARIABLE, 0, 0, LOCAL, k.local_bytes + 16};
        k.local_bytes += d.size;
        return n;
    }

    void read_body_variable(std::string_view &text, enum space space) {
        const size_t end = text.find(';');
        const declaration d = read_declaration(text.substr(0, end));
        text.remove_prefix(end + 1);
        if (space == SHARED) {
            const variable v = {SHARED, 0, d.size, d.align, false};
            scopes.back().names[std::string(d.name)] = {name::VARIABLE, 0, 0, SHARED,
                                                        place_shared(d.name, v)};
        } else {
            scopes.back().names[std::string(d.name)] = new_local(d);
        }
    }

    /* The lists of parameters of a call: names of variables, or registers. */
    std::vector<operand> read_list(std::string_view &text) {
        std::vector<operand> list;
        std::string_view token = next_token(text, &line);
        while (token != ")") {
            list.push_back(read_value(token, text));
            token = next_token(text, &line);
            if (token == ",") token = next_token(text, &line);
        }
        return list;
    }

    void bind(scope &s, std::string_view formal, const std::vector<operand> &actual) {
        size_t index = 0;
        while (!formal.empty()) {
            const size_t end = formal.find(',');
            std::string_view one = formal.substr(0, end);
            formal.remove_prefix(end == std::string_view::npos ? formal.size() : end + 1);
            std::string_view rest = one;
            if (next_token(rest, nullptr) != ".param") continue;
            if (index == actual.size()) bad("a call with too few operands", one);
            const operand &o = actual[index++];
            if (o.of.what != name::VARIABLE) bad("a call with something else than variables", one);
            s.names[std::string(read_declaration(rest).name)] = o.of;
        }
    }

    void read_call(std::string_view &text, uint32_t guard) {
        std::vector<operand> results, values;
        std::string_view token = next_token(text, &line);
        if (token == "(") {
            results = read_list(text);
            next_token(text, &line);
            token = next_token(text, &line);
        }
        const auto found = m.functions.find(token);
        if (found == m.functions.end() || guard != NONE || ++depth > 8)
            bad("a call that the machine cannot make, of", token);
        token = next_token(text, &line);
        if (token == ",") {
            next_token(text, &line);
            values = read_list(text);
        }
        const function &f = found->second;
        scope inner;
        bind(inner, f.results, results);
        bind(inner, f.parameters, values);
        /* Module names stay behind scope 0; the caller's are hidden by being set aside. */
        std::vector<scope> kept;
        kept.swap(scopes);
        scopes.emplace_back();
        scopes.push_back(std::move(inner));
        const uint32_t kept_line = line;
        line = f.line;
        read_statements(f.body, true);
        line = kept_line;
        scopes.swap(kept);
        depth--;
        while ((token = next_token(text, &line)) != ";" && !token.empty()) {}
    }

    void read_branch(std::string_view &text, instruction &i) {
        i.kind = BRANCH;
        scopes.back().jumps.push_back({k.code.size() - 1, std::string(next_token(text, &line))});
    }

    /* The jumps of the innermost scope to labels of it; others are the outer scope's. */
    void end_scope(bool is_function) {
        scope ended = std::move(scopes.back());
        scopes.pop_back();
        for (const scope::jump &j : ended.jumps) {
            const auto found = ended.labels.find(j.to);
            if (found != ended.labels.end()) k.code[j.instruction].target = found->second;
            else if (is_function || scopes.empty()) bad("a jump to nowhere", j.to);
            else scopes.back().jumps.push_back(j);
        }
    }

    /* One scope's statements; a called function's `ret` leads behind them. */
    void read_statements(std::string_view text, bool is_called) {
        const size_t base = scopes.size();
        for (;;) {
            std::string_view token = next_token(text, &line);
            if (token.empty()) break;
            if (token == ";") continue;
            if (token == "{") scopes.emplace_back();
            else if (token == "}") end_scope(false);
            else if (token[0] == '.') read_directive(token, text);
            else read_statement(token, text, is_called);
        }
        if (scopes.size() != base) bad("braces", "they do not match");
        scopes.back().labels["return "] = (uint32_t)k.code.size();
        if (is_called) end_scope(true);
    }

    void read_directive(std::string_view token, std::string_view &text) {
        if (token == ".reg") return read_registers(text);
        if (token == ".local" || token == ".param") return read_body_variable(text, LOCAL);
        if (token == ".shared") return read_body_variable(text, SHARED);
        if (token != ".pragma" && token != ".loc")
            bad("a directive that the machine does not know", token);
        while ((token = next_token(text, &line)) != ";" && !token.empty()) {}
    }

    void read_statement(std::string_view token, std::string_view &text, bool is_called) {
        std::string_view after = text;
        if (next_token(after, nullptr) == ":") {
            next_token(text, &line);
            scopes.back().labels[std::string(token)] = (uint32_t)k.code.size();
            return;
        }
        uint32_t guard = NONE;
        bool negated = false;
        if (token == "@") {
            token = next_token(text, &line);
            negated = token == "!";
            if (negated) token = next_token(text, &line);
            const name *n = find(token);
            if (n == nullptr || n->what != name::REGISTER || n->size != 0)
                bad("a guard that is no predicate", token);
            guard = n->place;
            token = next_token(text, &line);
        }
        if (token == "call" || token == "call.uni") return read_call(text, guard);
        instruction &i = add(token, guard, negated);
        if (token == "bra" || token == "bra.uni") {
            read_branch(text, i);
        } else if (token == "ret" && is_called) {
            i.kind = BRANCH;
            size_t s = scopes.size() - 1;
            scopes[s].jumps.push_back({k.code.size() - 1, "return "});
        } else if (token == "ret" || token == "exit") {
            i.kind = EXIT;
        } else {
            read_operands(token, text, i);
            return;
        }
        if (next_token(text, &line) != ";") bad("what stands behind", token);
    }

    void read_operands(std::string_view opcode, std::string_view &text, instruction &i) {
        std::vector<operand> list;
        std::string_view token;
        std::string_view ahead = text;
        if (next_token(ahead, nullptr) == ";") next_token(text, &line);
        else do {
                list.push_back(read_operand(text));
                token = next_token(text, &line);
            } while (token == "," || token == "|");
        if (!list.empty() && token != ";") bad("what stands behind", opcode);
        if (opcode.compare(0, 3, "ld.") == 0 || opcode.compare(0, 3, "st.") == 0)
            return decode_memory(opcode, list, i);
        if (opcode.compare(0, 4, "mov.") == 0 && list.size() == 2 &&
            (list[0].what == operand::VECTOR || list[1].what == operand::VECTOR))
            return decode_pack(list, i);
        if (opcode.compare(0, 4, "cvta") == 0) return decode_window(opcode, list, i);
        if (const scalar *s = find_scalar(opcode)) return decode_scalar(*s, list, i);
        const char *pattern = find_collective(opcode, i);
        if (pattern == nullptr) pattern = find_async(opcode, i);
        if (pattern == nullptr) pattern = find_wgmma(opcode, i);
        if (pattern == nullptr) bad("an instruction that the machine does not know", opcode);
        for (const char *start : {"mbarrier.", "cp.async.bulk.", "wgmma.", "fence.proxy."})
            if (opcode.compare(0, strlen(start), start) == 0) k.has_async = true;
        decode_listed(pattern, list, i);
    }

    void decode_scalar(const scalar &s, const std::vector<operand> &list, instruction &i) {
        const size_t count = strlen(s.pattern);
        if (list.size() != count) bad("a wrong number of operands of", s.name);
        i.plain = s.plain;
        std::vector<uint32_t> places;
        for (size_t o = 0; o < count; o++) {
            const uint8_t size = pattern_size(s.pattern[o]);
            /* cvt takes a wider register's low part */
            if (o == 1 && list[o].what == operand::REGISTER && list[o].of.size > size &&
                size != 0 && i.name.compare(0, 4, "cvt.") == 0)
                places.push_back(narrowed(list[o].of, size));
            else places.push_back(place_of(list[o], size));
        }
        instruction &now = k.code.back();
        for (uint32_t place : places) give(now, place);
        now.written = 1;
    }

    /* A copy of a register's low part, made in front of the instruction that comes last. */
    uint32_t narrowed(const name &of, uint8_t size) {
        const uint32_t place = new_register(size);
        instruction kept = k.code.back();
        k.code.pop_back();
        instruction &i = add(kept.name, kept.guard, kept.negated);
        const std::string opcode =
            size == 2 ? (of.size == 4 ? "cvt.u16.u32" : "cvt.u16.u64") : "cvt.u32.u64";
        const scalar *s = find_scalar(opcode);
        if (s == nullptr) bad("a register that is too wide", kept.name);
        i.plain = s->plain;
        give(i, place);
        give(i, of.place);
        i.written = 1;
        kept.first = (uint32_t)k.places.size();
        k.code.push_back(kept);
        return place;
    }

    void decode_pack(const std::vector<operand> &list, instruction &i);
    void decode_window(std::string_view opcode, const std::vector<operand> &list, instruction &i);
    void decode_memory(std::string_view opcode, const std::vector<operand> &list, instruction &i);
    void decode_listed(const char *pattern, const std::vector<operand> &list, instruction &i);
    void take_address(const operand &o, instruction &i);
    void read_parameters(const function &f);
    void finish();
};

} // namespace ptx
#endif
