/* From an entry's text to a kernel. */
#include "backends/cuda/ptx/decoder.h"

namespace ptx {

void decoder::read_parameters(const function &f) {
    std::string_view text = f.parameters;
    while (!text.empty()) {
        const size_t end = text.find(',');
        std::string_view one = text.substr(0, end);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        if (next_token(one, nullptr) != ".param") continue;
        const declaration d = read_declaration(one);
        k.parameter_bytes = (k.parameter_bytes + d.align - 1) / d.align * d.align;
        k.parameters.push_back({k.parameter_bytes, d.size});
        scopes.back().names[std::string(d.name)] = {name::VARIABLE, 0, 0, PARAM,
                                                    PARAM_WINDOW + k.parameter_bytes};
        k.parameter_bytes += d.size;
    }
    std::string_view directives = f.directives;
    for (std::string_view token; !(token = next_token(directives, nullptr)).empty();)
        if (token == ".maxntid" || token == ".reqntid") do
                k.most_threads.push_back((uint32_t)read_number(next_token(directives, nullptr)));
            while (token = directives,
                   next_token(token, nullptr) == "," && (next_token(directives, nullptr), true));
}

/* Dynamic shared memory lies behind the static one. Registers of wgmma are marked, and what touches
 * them. */
void decoder::finish() {
    const uint32_t align = k.shared_align;
    k.shared_bytes = (SHARED_START + k.shared_bytes + align - 1) / align * align - SHARED_START;
    for (size_t c : dynamic_numbers)
        k.constants[c].value += SHARED_START + k.shared_bytes - DYNAMIC;
    if (!k.has_async) return;
    k.is_wgmma_register.assign(k.register_bytes / 64 + 1, false);
    for (const instruction &i : k.code)
        if (i.name.compare(0, 15, "wgmma.mma_async") == 0)
            for (uint32_t a = 0; a < i.arguments - (i.arguments - i.written == 6 ? 2 : 3); a++)
                k.is_wgmma_register[k.places[i.first + a] / 64] = true;
    for (instruction &i : k.code)
        for (uint32_t a = 0; a < i.arguments && i.name.compare(0, 5, "wgmma") != 0; a++)
            if (k.is_wgmma_register[k.places[i.first + a] / 64]) i.watched = true;
}

const kernel &decode(module &m, std::string_view entry) {
    const auto kept = m.kernels.find(std::string(entry));
    if (kept != m.kernels.end()) return *kept->second;
    const auto found = m.functions.find(entry);
    if (found == m.functions.end() || !found->second.is_entry)
        fail("%s has no entry %s", m.path.c_str(), std::string(entry).c_str());
    auto k = std::make_unique<kernel>();
    k->name = entry;
    for (uint32_t &place : k->specials) place = NONE;
    decoder d(m, *k);
    d.scopes.emplace_back();
    d.scopes.emplace_back();
    d.read_parameters(found->second);
    d.line = found->second.line;
    d.read_statements(found->second.body, false);
    instruction &end = d.add("exit", NONE, false);
    end.kind = EXIT;
    d.end_scope(true);
    d.finish();
    return *(m.kernels[std::string(entry)] = std::move(k));
}

} // namespace ptx
