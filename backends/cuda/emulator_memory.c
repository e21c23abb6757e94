/* Device and pinned memory of the emulated driver: what is there, what was freed, whose it is. */
#define _POSIX_C_SOURCE 200809L
#include "backends/cuda/emulator.h"
#include "backends/cuda/ptx/ptx.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256, KEPT_FREED = 1024 };

typedef struct block {
    char *start;
    size_t size, whole; /* asked for; with what fills up the alignment */
    int device;
    bool pinned, freed;
} block;

/* Blocks in use, and the last of those that were freed, so that their use is noticed. */
static struct {
    block *blocks;
    size_t count, capacity, freed;
    pthread_mutex_t lock;
} memory = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool is_in(const block *b, const char *address) {
    return address >= b->start && address < b->start + b->size;
}

static void drop(size_t index) {
    memory.freed -= memory.blocks[index].freed;
    memory.count--;
    memmove(&memory.blocks[index], &memory.blocks[index + 1],
            (memory.count - index) * sizeof(block));
}

/* The host gave memory again that had been freed here. */
static void forget_freed(const char *start, size_t whole) {
    for (size_t i = memory.count; i-- > 0;) {
        const block *b = &memory.blocks[i];
        if (b->freed && b->start < start + whole && start < b->start + b->whole) drop(i);
    }
}

bool kin_emulator_give(void **out_address, size_t size, bool pinned, int device) {
    size_t whole = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    *out_address = NULL;
    if (whole < size) return false;
    pthread_mutex_lock(&memory.lock);
    if (memory.count == memory.capacity) {
        size_t wanted = memory.capacity > 0 ? 2 * memory.capacity : 64;
        block *larger = realloc(memory.blocks, wanted * sizeof *larger);
        if (larger != NULL) memory.blocks = larger, memory.capacity = wanted;
    }
    char *start = memory.count < memory.capacity
                      ? aligned_alloc(ALIGNMENT, whole > 0 ? whole : ALIGNMENT)
                      : NULL;
    if (start != NULL) {
        forget_freed(start, whole);
        memory.blocks[memory.count++] = (block){start, size, whole, device, pinned, false};
        kin_ptx_memory_add(start, size);
    }
    pthread_mutex_unlock(&memory.lock);
    *out_address = start;
    return start != NULL;
}

bool kin_emulator_take_back(void *address, bool pinned, size_t *out_size) {
    bool found = false;
    *out_size = 0;
    pthread_mutex_lock(&memory.lock);
    for (size_t i = 0; i < memory.count && !found; i++) {
        block *b = &memory.blocks[i];
        if (b->start != address || b->freed || b->pinned != pinned) continue;
        *out_size = b->size;
        b->freed = found = true;
        memory.freed++;
        kin_ptx_memory_remove(b->start);
        memset(b->start, 0xFF, b->size < 1 << 20 ? b->size : 1 << 20);
        free(b->start);
        for (size_t k = 0; memory.freed > KEPT_FREED && k < memory.count;)
            if (memory.blocks[k].freed) drop(k);
            else k++;
    }
    pthread_mutex_unlock(&memory.lock);
    return found;
}

const char *kin_emulator_range_fault(const void *address, size_t size, int device) {
    const char *start = address, *fault = "memory that was not allocated";
    pthread_mutex_lock(&memory.lock);
    for (size_t i = 0; i < memory.count; i++) {
        const block *b = &memory.blocks[i];
        if (!is_in(b, start)) continue;
        if (b->freed) fault = "memory that was freed";
        else if (size > b->size - (size_t)(start - b->start)) fault = "memory beyond an allocation";
        else if (!b->pinned && b->device != device) fault = "memory of another device";
        else fault = NULL;
        if (!b->freed) break;
    }
    pthread_mutex_unlock(&memory.lock);
    return fault;
}

const char *kin_emulator_words_fault(const void *words, size_t bytes, int device) {
    const char *fault = NULL;
    pthread_mutex_lock(&memory.lock);
    for (size_t at = 0; at + sizeof(char *) <= bytes && fault == NULL; at += sizeof(char *)) {
        const char *word;
        memcpy(&word, (const char *)words + at, sizeof word);
        for (size_t i = 0; i < memory.count && fault == NULL; i++) {
            const block *b = &memory.blocks[i];
            if (!is_in(b, word)) continue;
            if (b->freed) fault = "a launch with memory that was freed";
            else if (!b->pinned && b->device != device)
                fault = "a launch with memory of another device";
        }
    }
    pthread_mutex_unlock(&memory.lock);
    return fault;
}

__attribute__((destructor)) static void forget_all(void) {
    free(memory.blocks);
}
