/* Finding the PTX of a host's function. The host's compiler and nvcc mangle what is of one file
 * alone in different ways, and a tensor map has another type on the host, so names are compared as
 * they read, without parameters as long as that is enough. */
#include "backends/cuda/ptx/machine.h"

#include <cxxabi.h>
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <fstream>
#include <iterator>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace ptx {

namespace {

struct symbol {
    std::string name, file; /* file: of the source, "" if the symbol is not of one file alone */
};

std::string read_file(const std::string &path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) fail("cannot read %s", path.c_str());
    return std::string(std::istreambuf_iterator<char>(stream), {});
}

/* The symbols of the library that holds the function: dladdr knows exported ones only. */
symbol find_symbol(const void *function) {
    Dl_info info;
    if (dladdr(function, &info) == 0 || info.dli_fname == nullptr)
        fail("no library holds the kernel");
    const std::string file = read_file(info.dli_fname);
    const uint64_t wanted =
        reinterpret_cast<uint64_t>(function) - reinterpret_cast<uint64_t>(info.dli_fbase);
    Elf64_Ehdr header;
    if (file.size() < sizeof header) fail("%s is no library", info.dli_fname);
    memcpy(&header, file.data(), sizeof header);
    for (unsigned s = 0; s < header.e_shnum; s++) {
        Elf64_Shdr section, names;
        const uint64_t at = header.e_shoff + s * sizeof section;
        if (at + sizeof section > file.size()) break;
        memcpy(&section, file.data() + at, sizeof section);
        if (section.sh_type != SHT_SYMTAB) continue;
        memcpy(&names, file.data() + header.e_shoff + section.sh_link * sizeof names, sizeof names);
        const char *text = file.data() + names.sh_offset, *source = "";
        for (uint64_t e = 0; e < section.sh_size / sizeof(Elf64_Sym); e++) {
            Elf64_Sym one;
            memcpy(&one, file.data() + section.sh_offset + e * sizeof one, sizeof one);
            const unsigned type = ELF64_ST_TYPE(one.st_info);
            if (type == STT_FILE) source = text + one.st_name;
            if (type != STT_FUNC || one.st_value != wanted) continue;
            const bool is_local = ELF64_ST_BIND(one.st_info) == STB_LOCAL;
            return {text + one.st_name, is_local ? source : ""};
        }
    }
    fail("%s has no symbols (it was stripped), so kernels have no names", info.dli_fname);
}

void erase_all(std::string &text, const char *what) {
    for (size_t at; (at = text.find(what)) != std::string::npos;) text.erase(at, strlen(what));
}

/* As it reads, without what differs between the compilers. */
std::string readable(const std::string &mangled, bool with_parameters) {
    int status = 0;
    char *plain = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
    std::string text = status == 0 && plain != nullptr ? plain : mangled;
    free(plain);
    erase_all(text, "(anonymous namespace)::");
    for (const char *start : {"_GLOBAL__N__", "_INTERNAL_"})
        for (size_t at; (at = text.find(start)) != std::string::npos;) {
            const size_t end = text.find("::", at);
            if (end == std::string::npos) break;
            text.erase(at, end + 2 - at);
        }
    if (!with_parameters && !text.empty() && text.back() == ')') {
        size_t depth = 0, at = text.size();
        do {
            at--;
            depth += text[at] == ')' ? 1 : text[at] == '(' ? (size_t)-1 : 0;
        } while (depth > 0 && at > 0);
        text.resize(at);
    }
    if (text.compare(0, 5, "void ") == 0) text.erase(0, 5);
    return text;
}

struct library { /* of modules */
    std::mutex lock;
    std::map<std::string, std::unique_ptr<module>> modules;
    std::map<std::pair<std::string, const void *>, std::pair<module *, std::string>> found;
};

library &modules() {
    static library all;
    return all;
}

module &open_module(const std::string &path) {
    std::unique_ptr<module> &m = modules().modules[path];
    if (m) return *m;
    m = read_module(read_file(path), path);
    if (!m->memory.empty()) kin_ptx_memory_add(m->memory.data(), m->memory.size() * 8);
    return *m;
}

std::vector<std::string> module_paths(const std::string &folder, const std::string &source) {
    std::vector<std::string> paths;
    if (!source.empty()) return {folder + "/" + source.substr(0, source.rfind('.')) + ".ptx"};
    DIR *open = opendir(folder.c_str());
    if (open == nullptr) fail("cannot read the folder %s", folder.c_str());
    while (const dirent *entry = readdir(open)) {
        const std::string name = entry->d_name;
        if (name.size() > 4 && name.compare(name.size() - 4, 4, ".ptx") == 0)
            paths.push_back(folder + "/" + name);
    }
    closedir(open);
    return paths;
}

/* The entry that reads like the symbol; with its parameters where several do. */
const kernel &find_entry(const std::string &folder, const void *function) {
    auto &kept = modules().found[{folder, function}];
    if (kept.first != nullptr) return decode(*kept.first, kept.second);
    const symbol s = find_symbol(function);
    for (const bool with_parameters : {false, true}) {
        const std::string wanted = readable(s.name, with_parameters);
        unsigned count = 0;
        for (const std::string &path : module_paths(folder, s.file)) {
            module &m = open_module(path);
            for (const auto &f : m.functions) {
                if (!f.second.is_entry) continue;
                const std::string name(f.first);
                if (readable(name, with_parameters) != wanted) continue;
                kept = {&m, name};
                count++;
            }
        }
        if (count == 1) return decode(*kept.first, kept.second);
        kept = {};
        if (count == 0 || with_parameters)
            fail("%u entries of %s/%s.ptx are called %s", count, folder.c_str(),
                 s.file.empty() ? "*" : s.file.substr(0, s.file.rfind('.')).c_str(),
                 wanted.c_str());
    }
    fail("unreachable");
}

bool report(const std::string &name, const char *what, char *out_error, size_t error_size) {
    snprintf(out_error, error_size, "%s%s%s", name.c_str(), name.empty() ? "" : ": ", what);
    return false;
}

} // namespace

} // namespace ptx

bool kin_ptx_run(const char *folder, const void *kernel, const kin_ptx_launch *launch,
                 char *out_error, size_t error_size) {
    std::string name;
    std::lock_guard<std::mutex> guard(ptx::modules().lock);
    try {
        const ptx::kernel &k = ptx::find_entry(folder, kernel);
        name = ptx::readable(k.name, false);
        ptx::run_grid(k, *launch);
        return true;
    } catch (const std::exception &error) {
        return ptx::report(name, error.what(), out_error, error_size);
    }
}

bool kin_ptx_run_text(const char *text, const char *entry, const kin_ptx_launch *launch,
                      char *out_error, size_t error_size) {
    std::unique_ptr<ptx::module> m;
    bool fine = false;
    std::lock_guard<std::mutex> guard(ptx::modules().lock);
    try {
        m = ptx::read_module(text, "text");
        if (!m->memory.empty()) kin_ptx_memory_add(m->memory.data(), m->memory.size() * 8);
        ptx::run_grid(ptx::decode(*m, entry), *launch);
        fine = true;
    } catch (const std::exception &error) {
        fine = ptx::report(entry, error.what(), out_error, error_size);
    }
    if (m && !m->memory.empty()) kin_ptx_memory_remove(m->memory.data());
    return fine;
}
