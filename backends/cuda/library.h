/* Libraries that are loaded when a device is opened or joins a group. */
#ifndef KIN_BACKENDS_CUDA_LIBRARY_H
#define KIN_BACKENDS_CUDA_LIBRARY_H

#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

/* Loads `file`; if that is NULL, the first of `usual` (ended by NULL) that is there. NULL if there
 * is none. What was loaded stays to the end of the program, also when the handle is given back:
 * threads of its own may run, and it has left things with the runtime. */
static inline void *kin_library_open(const char *file, const char *const *usual) {
    const char *const given[] = {file, NULL};
    void *library = NULL;
    for (const char *const *name = file != NULL ? given : usual; *name != NULL && library == NULL;
         name++)
        library = dlopen(*name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    return library;
}

/* Sets *place, which is a pointer to a function; false if the library lacks it. */
static inline bool kin_library_find(void *library, const char *name, void *place) {
    void *symbol = dlsym(library, name);
    memcpy(place, &symbol, sizeof symbol);
    return symbol != NULL;
}

#endif
