/* The operands of instructions, by the forms that they have. */
#include "backends/cuda/ptx/decoder.h"

namespace ptx {

/* The lanes' address: a register, or a number that is one; the offset lies in the instruction. */
void decoder::take_address(const operand &o, instruction &i) {
    if (o.what != operand::ADDRESS) bad("no address for", i.name);
    const unsigned which = i.addresses++;
    i.offset[which] = o.offset;
    i.address_size[which] = o.has_base ? o.of.size : 8;
    if (i.address_size[which] < 4) bad("an address of a wrong size for", i.name);
    if (o.has_base) return give(i, o.of.place);
    operand number = o;
    number.what = operand::NUMBER;
    number.kind = operand::INTEGER;
    give(i, place_of(number, 8));
}

void decoder::decode_memory(std::string_view opcode, const std::vector<operand> &list,
                            instruction &i) {
    const bool is_load = opcode[0] == 'l';
    const operand &value = list.at(is_load ? 0 : 1), &address = list.at(is_load ? 1 : 0);
    bool has_type = false;
    for (size_t at = 2; at < opcode.size();) {
        const size_t end = std::min(opcode.find('.', at + 1), opcode.size());
        const std::string_view part = opcode.substr(at, end - at);
        at = end;
        if (part == ".global" || part == ".const") i.space = GLOBAL;
        else if (part == ".shared" || part == ".shared::cta") i.space = SHARED;
        else if (part == ".local") i.space = LOCAL;
        else if (part == ".param") i.space = PARAM;
        else if (part == ".v2" || part == ".v4") i.count = (uint8_t)(part[2] - '0');
        else if (part.size() >= 3 && strchr("busf", part[1]) != nullptr && part[2] >= '1' &&
                 part[2] <= '9') {
            i.size = (uint8_t)(read_number(part.substr(2)) / 8);
            i.is_signed = part[1] == 's';
            has_type = true;
        } else if (part != ".nc" && part != ".volatile" && part != ".relaxed" && part != ".cta" &&
                   part != ".gpu" && part != ".weak" && part != ".cg" && part != ".ca" &&
                   part != ".cs" && part != ".L1::no_allocate" && part != ".L1" &&
                   part != ".acquire" && part != ".release")
            bad("an instruction that the machine does not know", opcode);
    }
    if (!has_type) bad("an access without a type", opcode);
    const std::vector<operand> alone = {value};
    const std::vector<operand> &values = value.what == operand::VECTOR ? value.parts : alone;
    if (values.size() != i.count) bad("a wrong number of values of", opcode);
    i.register_size = i.size;
    for (const operand &o : values)
        if (o.what == operand::REGISTER) i.register_size = o.of.size;
    if (i.register_size < i.size || (i.register_size == 1 && is_load))
        bad("too small a register", opcode);
    if (i.register_size == 1) i.register_size = 2;
    for (const operand &o : values) give(i, place_of(o, i.register_size));
    if (i.space == PARAM && address.of.what == name::VARIABLE) i.space = address.of.space;
    if (i.space == PARAM && address.has_base) i.space = GENERIC;
    if (address.of.what == name::VARIABLE && i.space == GENERIC && !address.has_base)
        i.space = address.of.space;
    take_address(address, i);
    i.written = is_load ? i.count : 0;
    i.plain = is_load ? load_fn(i.register_size) : store_fn(i.register_size);
}

/* mov.b32 {a, b}, c and mov.b32 c, {a, b} */
void decoder::decode_pack(const std::vector<operand> &list, instruction &i) {
    const bool unpacks = list[0].what == operand::VECTOR;
    const std::vector<operand> &parts = unpacks ? list[0].parts : list[1].parts;
    const operand &whole = unpacks ? list[1] : list[0];
    const uint8_t size = i.name == "mov.b64" ? 8 : 4;
    const char *name = nullptr;
    if (size == 4 && parts.size() == 2) name = unpacks ? "unpack.h" : "pack.h";
    if (size == 8 && parts.size() == 2) name = unpacks ? "unpack.w" : "pack.w";
    if (name == nullptr) bad("a form that the machine does not know of", i.name);
    const uint8_t half = (uint8_t)(size / 2);
    i.plain = find_scalar(name)->plain;
    std::vector<uint32_t> places;
    if (!unpacks) places.push_back(place_of(whole, size));
    for (const operand &o : parts) places.push_back(place_of(o, half));
    if (unpacks) places.push_back(place_of(whole, size));
    for (uint32_t place : places) give(i, place);
    i.written = unpacks ? 2 : 1;
}

/* Addresses of one space as generic ones, and back. Of the global space both are the same. */
void decoder::decode_window(std::string_view opcode, const std::vector<operand> &list,
                            instruction &i) {
    const uint64_t window = opcode.find(".shared") != std::string_view::npos  ? SHARED_WINDOW
                            : opcode.find(".local") != std::string_view::npos ? LOCAL_WINDOW
                            : opcode.find(".param") != std::string_view::npos ? PARAM_WINDOW
                                                                              : 0;
    const bool is_back = opcode.find(".to.") != std::string_view::npos;
    const scalar *s = find_scalar("add.u64");
    operand number = {};
    number.what = operand::NUMBER;
    number.number = is_back ? 0 - window : window;
    if (window == PARAM_WINDOW) number.number = 0; /* its addresses are generic already */
    i.plain = s->plain;
    if (list.size() != 2) bad("a wrong number of operands of", opcode);
    const uint32_t to = place_of(list[0], 8), from = place_of(list[1], 8), by = place_of(number, 8);
    give(i, to);
    give(i, from);
    give(i, by);
    i.written = 1;
}

/* After a pattern: small letters are results and values by their size; A an address, V a vector of
 * registers of 32 bits, C the coordinates in an address (with A in front), N a number that goes
 * into offset, | a second result that may be left out, ? what may be left out from there on;
 * results come first, up to a '='. */
void decoder::decode_listed(const char *pattern, const std::vector<operand> &list, instruction &i) {
    std::vector<uint32_t> places;
    size_t at = 0;
    bool optional = false;
    for (const char *p = pattern; *p != '\0'; p++) {
        if (*p == '=') {
            i.written = i.arguments;
            continue;
        }
        if (*p == '?') {
            optional = true;
            continue;
        }
        if (*p == '|') { /* a second result, which is a predicate */
            if (list.size() + 1 < strlen(pattern)) give(i, new_register(0));
            else give(i, place_of(list[at++], 0));
            continue;
        }
        if (*p == 'C') {
            if (list[at - 1].parts.size() != 1) bad("no coordinates for", i.name);
            for (const operand &o : list[at - 1].parts[0].parts) give(i, place_of(o, 4));
            continue;
        }
        if (at >= list.size()) {
            if (optional) break;
            bad("too few operands of", i.name);
        }
        const operand &o = list[at++];
        if (*p == 'A') {
            take_address(o, i);
        } else if (*p == 'X' && o.what != operand::VECTOR) {
            give(i, place_of(o, 8));
        } else if (*p == 'V' || *p == 'X') {
            const std::vector<operand> alone = {o};
            for (const operand &part : o.what == operand::VECTOR ? o.parts : alone)
                give(i, place_of(part, 4));
        } else if (*p == 'N') {
            if (o.what != operand::NUMBER) bad("no number for", i.name);
            i.number[i.numbers++] = (int64_t)o.number;
        } else {
            give(i, place_of(o, pattern_size(*p)));
        }
    }
    if (at != list.size()) bad("too many operands of", i.name);
}

} // namespace ptx
