/* Fibers for the threads of a block. Threads are started one after the other on one fiber, which
 * goes on to the next when a thread ends; so kernels without barriers cost no switch at all. A
 * thread that waits keeps its fiber, and the next thread gets another one. */
#include "backends/cuda/emulator.h"

#include "backends/cuda/emulation.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define OWN_SWITCH 1
#else
#define OWN_SWITCH 0
#include <ucontext.h>
#endif

kin_emulated_place kin_emulated_now;

namespace {

enum { MAX_THREADS = 1024, WARPS = MAX_THREADS / 32, BARRIERS = 16, GROUPS = 8, STACK = 256 << 10 };
enum state : unsigned char { FRESH, READY, AT_BARRIER, AT_EXCHANGE, ENDED };

struct fiber {
    char *stack;
#if OWN_SWITCH
    void *pointer;
#else
    ucontext_t context;
#endif
};

/* The lanes of a warp that exchange with one mask. What the exchange before brought stays until the
 * next but one, since a lane may read it only after others have gone on. */
struct exchange {
    unsigned mask, arrived;
    unsigned turn;
    char brought[2][32][64];
};

struct barrier {
    int arrived, votes, needed;
    int result[2];
    unsigned turn;
};

struct machine {
    const kin_cuda_launch_record *launch;
    unsigned threads, next, ended;
    unsigned order[MAX_THREADS];
    state states[MAX_THREADS];
    uint3 places[MAX_THREADS];
    fiber *of[MAX_THREADS]; /* where the thread waits */
    fiber fibers[MAX_THREADS + 1];
    unsigned fiber_count, idle_count;
    fiber *idle[MAX_THREADS + 1];
    fiber *current, scheduler;
    barrier barriers[BARRIERS];
    exchange exchanges[WARPS][GROUPS];
    bool is_wrong;
    const char *wrong;
    void *shared;
    size_t shared_size;
};

machine *m;
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#if OWN_SWITCH
extern "C" void kin_emulator_switch(void **save, void *next);
asm(".text\n"
    ".local kin_emulator_switch\n"
    ".type kin_emulator_switch, @function\n"
    "kin_emulator_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n"
    "    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n"
    "    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size kin_emulator_switch, .-kin_emulator_switch\n");
#endif

void switch_to(fiber *next) {
    fiber *from = m->current;
    m->current = next;
#if OWN_SWITCH
    kin_emulator_switch(&from->pointer, next->pointer);
#else
#if defined(__SANITIZE_ADDRESS__)
    void *fake;
    __sanitizer_start_switch_fiber(&fake, next->context.uc_stack.ss_sp,
                                   next->context.uc_stack.ss_size);
#endif
    swapcontext(&from->context, &next->context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
#endif
}

void be_thread(unsigned thread) {
    kin_emulated_now.thread = m->places[thread];
    kin_emulated_now.number = thread;
}

/* Runs threads that were not started yet, for ever: a fiber without one is idle. */
void fiber_body() {
#if defined(__SANITIZE_ADDRESS__)
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &size);
    m->scheduler.context.uc_stack.ss_sp = const_cast<void *>(bottom);
    m->scheduler.context.uc_stack.ss_size = size;
#endif
    for (;;) {
        while (m->next < m->threads && !m->is_wrong) {
            unsigned thread = m->order[m->next++];
            be_thread(thread);
            m->launch->emulated(m->launch->kernel, m->launch->arguments);
            m->states[kin_emulated_now.number] = ENDED;
            m->ended++;
        }
        m->idle[m->idle_count++] = m->current;
        switch_to(&m->scheduler);
    }
}

void prepare(fiber *f) {
#if OWN_SWITCH
    void **top = reinterpret_cast<void **>(f->stack + STACK) - 2;
    *top = reinterpret_cast<void *>(fiber_body);
    f->pointer = top - 6;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_body, 0);
#endif
}

fiber *new_fiber() {
    fiber *f = &m->fibers[m->fiber_count];
    void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) return NULL;
    f->stack = static_cast<char *>(stack);
    prepare(f);
    m->fiber_count++;
    return f;
}

/* The running thread stops here until it is made ready. After an error nothing goes on: the fiber
 * is given up as it is. */
void wait_as(state why) {
    unsigned thread = kin_emulated_now.number;
    m->states[thread] = why;
    m->of[thread] = m->current;
    switch_to(&m->scheduler);
    be_thread(thread);
}

void say(const char *text) {
    if (!m->is_wrong) m->wrong = text;
    m->is_wrong = true;
}

void set_order(kin_emulator_order order, unsigned block) {
    for (unsigned i = 0; i < m->threads; i++)
        m->order[i] = order == KIN_EMULATOR_REVERSE ? m->threads - 1 - i : i;
    if (order != KIN_EMULATOR_SHUFFLED) return;
    uint32_t random = 2463534242u + block;
    for (unsigned i = m->threads; i > 1; i--) {
        random ^= random << 13, random ^= random >> 17, random ^= random << 5;
        unsigned j = random % i, kept = m->order[i - 1];
        m->order[i - 1] = m->order[j];
        m->order[j] = kept;
    }
}

void run_block(kin_emulator_order order, unsigned number) {
    m->next = m->ended = 0;
    set_order(order, number);
    memset(m->states, FRESH, sizeof m->states);
    for (barrier &b : m->barriers) b = barrier();
    for (unsigned w = 0; w < (m->threads + 31) / 32; w++)
        for (exchange &e : m->exchanges[w]) e.mask = e.arrived = e.turn = 0;
    memset(m->shared, 0xFF, m->shared_size);
    while (!m->is_wrong && m->ended < m->threads) {
        bool progress = false;
        while (m->next < m->threads && !m->is_wrong) {
            progress = true;
            fiber *f = m->idle_count > 0 ? m->idle[--m->idle_count] : new_fiber();
            if (f == NULL) return say("there is no memory for the threads of a block");
            switch_to(f);
        }
        for (unsigned i = 0; i < m->threads && !m->is_wrong; i++) {
            unsigned thread = m->order[i];
            if (m->states[thread] != READY) continue;
            progress = true;
            switch_to(m->of[thread]);
        }
        if (!progress) say("threads wait at a barrier, or for lanes, that others never come to");
    }
}

/* The machine stays for the next launch, unless threads of it hang. */
__attribute__((destructor)) void free_machine() {
    if (m == NULL) return;
    for (unsigned i = 0; i < m->fiber_count; i++) munmap(m->fibers[i].stack, STACK);
    free(m->shared);
    free(m);
    m = NULL;
}

/* Dynamic shared memory is never empty, so that a pointer to it is one, and aligned like on the
 * device. */
bool make_machine(size_t shared) {
    size_t size = (shared + 2047) / 1024 * 1024;
    if (m == NULL) m = static_cast<machine *>(calloc(1, sizeof *m));
    if (m == NULL) return false;
    if (m->shared_size < size) {
        free(m->shared);
        m->shared = aligned_alloc(1024, size);
        m->shared_size = m->shared != NULL ? size : 0;
    }
    m->current = &m->scheduler;
    return m->shared != NULL;
}

bool run_grid(const kin_cuda_launch_record *launch, kin_emulator_order order) {
    const unsigned *grid = launch->grid, *block = launch->block;
    unsigned number = 0;
    kin_emulated_now.grid_dim = dim3(grid[0], grid[1], grid[2]);
    kin_emulated_now.block_dim = dim3(block[0], block[1], block[2]);
    m->launch = launch;
    m->threads = block[0] * block[1] * block[2];
    for (unsigned t = 0; t < m->threads; t++)
        m->places[t] = uint3{t % block[0], t / block[0] % block[1], t / block[0] / block[1]};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0] && !m->is_wrong; x++) {
                kin_emulated_now.block = uint3{x, y, z};
                run_block(order, number++);
            }
    return !m->is_wrong;
}

} // namespace

int kin_emulated_barrier(int id, int count, bool vote) {
    barrier *b = &m->barriers[id & (BARRIERS - 1)];
    int needed = count > 0 ? count : (int)m->threads;
    unsigned turn = b->turn;
    if (b->arrived == 0) b->needed = needed, b->votes = 0;
    if (b->needed != needed) say("threads come to one barrier with different numbers of threads");
    b->votes += vote;
    b->arrived++;
    if (b->arrived < needed || m->is_wrong) {
        do wait_as(AT_BARRIER);
        while (b->turn == turn);
        return b->result[turn & 1];
    }
    b->result[turn & 1] = b->votes;
    b->arrived = 0;
    b->turn++;
    for (unsigned t = 0; t < m->threads; t++)
        if (m->states[t] == AT_BARRIER) m->states[t] = READY;
    return b->result[turn & 1];
}

void kin_emulated_exchange(unsigned mask, const void *mine, size_t size, void *out) {
    unsigned number = kin_emulated_now.number, warp = number / 32, lane = number % 32;
    unsigned in_block = m->threads - warp * 32;
    if (in_block < 32) mask &= (1u << in_block) - 1; /* lanes that the block has not got */
    exchange *e = NULL;
    for (int i = 0; i < GROUPS && e == NULL; i++) {
        exchange *one = &m->exchanges[warp][i];
        if (one->mask == mask || one->mask == 0) e = one;
    }
    if (e == NULL || (mask >> lane & 1u) == 0 || size > sizeof e->brought[0][0]) {
        say("lanes exchange with more masks, or more bytes, than the emulator has, or with a mask "
            "that lacks the lane itself");
        for (;;) wait_as(AT_EXCHANGE);
    }
    e->mask = mask;
    unsigned turn = e->turn;
    memcpy(e->brought[turn & 1][lane], mine, size);
    e->arrived |= 1u << lane;
    if (e->arrived != mask) {
        do wait_as(AT_EXCHANGE);
        while (e->turn == turn);
    } else {
        e->arrived = 0;
        e->turn++;
        for (unsigned i = 0; i < 32; i++)
            if ((mask >> i & 1u) != 0 && m->states[warp * 32 + i] == AT_EXCHANGE)
                m->states[warp * 32 + i] = READY;
    }
    for (unsigned i = 0; i < 32; i++)
        if ((mask >> i & 1u) != 0)
            memcpy(static_cast<char *>(out) + i * size, e->brought[turn & 1][i], size);
}

void kin_emulated_pause(unsigned turns) {
    if (turns > 1000000) say("a thread waits for memory to change, and nothing changes it");
    wait_as(m->is_wrong ? AT_BARRIER : READY);
}

void *kin_emulated_shared() {
    return m->shared;
}

bool kin_emulated_is_aligned(const void *address, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(address) % alignment == 0) return true;
    say("several elements are read or written at once at an address that is not aligned for it");
    return false;
}

bool kin_emulator_run(const kin_cuda_launch_record *launch, kin_emulator_order order,
                      char *out_error, size_t error_size) {
    bool fine = false;
    pthread_mutex_lock(&lock);
    if (!make_machine(launch->shared)) {
        snprintf(out_error, error_size, "no memory to run %s", launch->name);
    } else {
        fine = run_grid(launch, order);
        if (!fine) snprintf(out_error, error_size, "%s: %s", launch->name, m->wrong);
    }
    if (!fine) free_machine();
    pthread_mutex_unlock(&lock);
    return fine;
}
