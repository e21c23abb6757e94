/* What the files of the PTX machine share: a decoded kernel, and a block that runs it.
 *
 * The lanes of a warp that stand at one instruction run it together; those at other places wait
 * until they are the furthest behind. A lane that waits for others (a barrier, the lanes of a
 * shuffle, an mbarrier) is blocked, and the next warp runs when no lane of this one can. Nothing
 * depends on that order but what a kernel with a fault does: races are found by vector clocks
 * (order.cc), whoever came first. */
#ifndef KIN_BACKENDS_CUDA_PTX_MACHINE_H
#define KIN_BACKENDS_CUDA_PTX_MACHINE_H

#include "backends/cuda/ptx/ptx.h"

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ptx {

enum { LANES = 32, WARPS = 32, NAMED_BARRIERS = 16 };
const uint32_t ALL = 0xffffffffu;

/* Any fault: of the text, of the kernel, of the machine's knowledge. */
struct fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- a decoded kernel ---- */

enum space : uint8_t { GENERIC, GLOBAL, SHARED, LOCAL, PARAM };

/* Addresses of the other spaces as generic ones; global addresses are the host's. */
const uint64_t WINDOW = UINT64_C(1) << 56;
const uint64_t SHARED_WINDOW = 1 * WINDOW, LOCAL_WINDOW = 2 * WINDOW, PARAM_WINDOW = 3 * WINDOW;
/* Shared memory does not begin at 0, so that 0 is no address. */
enum { SHARED_START = 1024 };

struct warp;
struct instruction;
typedef void (*plain_fn)(warp &w, const instruction &i, uint32_t lanes);
/* Gives the lanes of this warp that are done with it; the others of `lanes` are blocked. */
typedef uint32_t (*step_fn)(warp &w, const instruction &i, uint32_t lanes);

enum kind : uint8_t { PLAIN, BRANCH, EXIT, STEP };
const uint32_t NONE = 0xffffffffu;

struct instruction {
    enum kind kind = PLAIN;
    enum space space = GENERIC;
    bool negated = false; /* the guard */
    bool is_signed = false;
    bool watched = false; /* touches registers of a wgmma */
    uint8_t size = 0;     /* bytes of an element in memory */
    uint8_t count = 1;    /* elements of a vector */
    uint8_t register_size = 0;
    uint32_t guard = NONE; /* place of the predicate */
    uint32_t target = 0;   /* of a branch */
    uint32_t line = 0;
    plain_fn plain = nullptr;
    step_fn step = nullptr;
    uint8_t address_size[3] = {0, 0, 0}; /* of the registers with its addresses: 4 or 8 */
    uint8_t addresses = 0;
    int64_t offset[3] = {0, 0, 0}; /* that the addresses' registers are raised by */
    uint32_t variant = 0;          /* what the name says */
    int64_t number[5] = {0};       /* operands that are numbers */
    uint8_t numbers = 0;
    uint32_t first = 0, arguments = 0; /* in kernel::places */
    uint32_t written = 0;              /* so many of them are results */
    std::string_view name;
};

/* A register that holds the same in all lanes from the start. */
struct constant {
    uint32_t place;
    uint8_t size; /* 0: a predicate */
    uint64_t value;
};
enum special : uint8_t {
    TID_X,
    TID_Y,
    TID_Z,
    NTID_X,
    NTID_Y,
    NTID_Z,
    CTAID_X,
    CTAID_Y,
    CTAID_Z,
    NCTAID_X,
    NCTAID_Y,
    NCTAID_Z,
    LANEID,
    WARPID,
    LANEMASK_LT,
    LANEMASK_LE,
    LANEMASK_GT,
    LANEMASK_GE,
    LANEMASK_EQ,
    SPECIALS
};
struct parameter {
    uint32_t offset, size;
};

struct module;

struct kernel {
    std::string name;
    std::vector<instruction> code;
    std::vector<uint32_t> places; /* of arguments, in bytes of a warp's registers */
    std::vector<constant> constants;
    uint32_t specials[SPECIALS]; /* NONE: not used */
    uint32_t register_bytes = 0;
    std::vector<parameter> parameters;
    uint32_t parameter_bytes = 0;
    uint32_t shared_bytes = 0;  /* static */
    uint32_t shared_align = 16; /* of the dynamic part */
    uint32_t local_bytes = 0;
    std::vector<uint32_t> most_threads;
    bool has_async = false;              /* wgmma or the copy engine: proxies are watched */
    std::vector<bool> is_wgmma_register; /* by place / 64 */
};

/* ---- a module's text (text.cc) ---- */

struct variable {
    enum space space;
    uint32_t offset, size, align;
    bool is_dynamic;
};
struct function {
    std::string_view parameters, results, body, directives;
    uint32_t line; /* where the body begins */
    bool is_entry;
};
struct module {
    std::string text, path;
    std::map<std::string_view, function> functions;
    std::map<std::string_view, variable> variables; /* of the module's scope */
    std::vector<uint64_t> memory;                   /* of .global and .const variables */
    std::map<std::string, std::unique_ptr<kernel>> kernels;
};

/* Finds a module's functions and variables; bodies are decoded when they are asked for. */
std::unique_ptr<module> read_module(std::string text, std::string path);
/* Reads `.align 8 .b8 name[16]` and the like, without what stands in front of the alignment. */
struct declaration {
    uint32_t align, size; /* size: of all elements; 0: name[] */
    uint32_t element;
    std::string_view name;
};
declaration read_declaration(std::string_view text);
std::string_view next_token(std::string_view &text, uint32_t *line);
uint64_t read_number(std::string_view token);

/* decode.cc */
const kernel &decode(module &m, std::string_view entry);

/* ---- the table of instructions (opcodes.cc) ---- */

/* An instruction of arithmetic: its operands by size, the result first: p predicate, h 16 bits, w
 * 32, d 64. */
struct scalar {
    const char *name, *pattern;
    plain_fn plain;
};
const scalar *find_scalar(std::string_view name);
float f16_value(uint16_t bits);
float bf16_value(uint16_t bits);

/* ---- a block that runs ---- */

/* What a thread knows of the others: the time up to which their work lies before its own. The
 * second half is the same for what has also passed a proxy fence. */
typedef std::vector<uint32_t> clocks;

struct cell {         /* of 4 bytes of shared memory, or of one (order.cc) */
    uint32_t written; /* when; before the block's first moment: never */
    uint16_t writer;
    bool in_flight;    /* by cp.async */
    bool is_split;     /* look at the bytes' own cells */
    bool is_async;     /* written through the async proxy */
    uint8_t read_warp; /* the last record of reads */
    uint16_t more;     /* records of other warps, + 1 */
    uint32_t read;     /* when */
    uint32_t read_lanes;
};
struct read_records {
    uint32_t read[WARPS], lanes[WARPS];
};

struct gathering { /* lanes that have come to a collective instruction */
    uint32_t pc, wanted, here;
};
struct copy_async {
    uint32_t to;
    uint8_t size, from_size;
    uint64_t from;
};
struct copy_queue { /* of a thread */
    std::vector<copy_async> copies;
    std::vector<uint32_t> ends; /* of the groups that are closed */
};

struct wgmma_work { /* issued, not waited for */
    const instruction *i;
    uint64_t a, b; /* descriptions */
    bool add;
    uint32_t group; /* its number; of open work, the number that the next one gets */
    clocks known;   /* by the warp when it was issued */
};

struct block;
struct warp {
    block *in;
    unsigned index;
    uint32_t live, blocked;
    uint32_t pc[LANES];
    unsigned char *registers;
    std::vector<gathering> gatherings;
    uint32_t at_barrier[NAMED_BARRIERS];
    uint32_t at_mbarrier;
    uint32_t carry;            /* of sums of several words */
    uint64_t waits_for[LANES]; /* the mbarrier */
    uint32_t clock;
    clocks known;
    std::unique_ptr<clocks> own[LANES]; /* lanes that know more than the warp */
    uint32_t has_own;
    copy_queue copies[LANES];
    std::vector<wgmma_work> wgmma;
    uint32_t wgmma_groups;            /* closed ones, ever */
    uint64_t wgmma_trace;             /* of what was issued: the same in the warps of a warpgroup */
    std::vector<uint8_t> wgmma_state; /* of registers, by place / 64 (wgmma.cc) */

    template <typename T> T *get(uint32_t place) {
        return reinterpret_cast<T *>(registers + place);
    }
};

struct named_barrier {
    uint32_t wanted, here;
    clocks known;
};
struct mbarrier {
    uint32_t address;
    uint32_t needed, pending;
    int64_t bytes;  /* that have not come */
    uint32_t phase; /* how many have ended */
    uint16_t maker;
    uint32_t made; /* when */
    bool is_published;
    unsigned number; /* of its copies, as a thread of the clocks */
    clocks coming, done;
};
struct bulk_copy {
    uint32_t barrier; /* address of the mbarrier */
    uint32_t piece;   /* bytes at each place */
    uint32_t moment;
    std::vector<uint32_t> to;
    std::vector<unsigned char> bytes; /* what arrives there */
};

struct block {
    const kernel *of;
    const kin_ptx_launch *launch;
    unsigned threads, warp_count;
    unsigned place[3], number;
    warp warps[WARPS];
    std::vector<unsigned char> registers, parameters, shared, local;
    uint32_t shared_end;  /* first address behind */
    uint32_t first_clock; /* of this block */
    uint32_t last_moment; /* of the copy engine */
    unsigned clock_count; /* threads and mbarriers */
    std::vector<cell> cells, bytes;
    std::vector<read_records> records;
    std::vector<uint16_t> free_records;
    named_barrier barriers[NAMED_BARRIERS];
    std::map<uint32_t, mbarrier> mbarriers;
    std::vector<bulk_copy> bulk;
    uint32_t random;
    const instruction *now; /* for messages */
    const warp *now_warp;
};

/* Runs all blocks; throws a fault. */
void run_grid(const kernel &k, const kin_ptx_launch &launch);
/* A fault of the kernel, with the place. */
[[noreturn]] void wrong(const warp &w, const instruction &i, unsigned lane, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

inline unsigned thread_of(const warp &w, unsigned lane) {
    return w.index * LANES + lane;
}
inline unsigned first_lane(uint32_t lanes) {
    return (unsigned)__builtin_ctz(lanes);
}
/* for_lanes(lane, mask) { ... } */
#define for_lanes(lane, mask)                                                                      \
    for (uint32_t rest_##lane = (mask), lane = 0;                                                  \
         rest_##lane != 0 && (lane = (uint32_t)__builtin_ctz(rest_##lane), true);                  \
         rest_##lane &= rest_##lane - 1)

/* ---- memory (memory.cc) ---- */

/* The host's place of `size` bytes at an address of a space, checked and noted. */
unsigned char *to_read(warp &w, const instruction &i, unsigned lane, enum space space,
                       uint64_t address, unsigned size);
unsigned char *to_write(warp &w, const instruction &i, unsigned lane, enum space space,
                        uint64_t address, unsigned size, const void *value);
/* Global memory that the copy engine reads; no alignment is asked. */
const unsigned char *global_to_read(warp &w, const instruction &i, unsigned lane, uint64_t address,
                                    unsigned size);
/* Makes sure that shared bytes lie inside, at a multiple of `align`. */
void check_shared(const warp &w, const instruction &i, unsigned lane, uint64_t address,
                  unsigned size, unsigned align);

/* Address number `which` of the instruction, whose register is argument `argument`. */
uint64_t address_of(warp &w, const instruction &i, unsigned which, unsigned argument,
                    unsigned lane);
plain_fn load_fn(unsigned register_size);
plain_fn store_fn(unsigned register_size);

/* ---- order and races (order.cc) ---- */

void begin_order(block &b);       /* of a launch */
void begin_block_order(block &b); /* of a block */
/* Accesses to shared memory, of a lane or (async) of the copy engine and wgmma for it. */
void note_read(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size);
void note_write(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size,
                const void *value);
/* A copy of the thread begins to overwrite, and has arrived. */
void note_copy_begin(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size);
void note_copy_end(warp &w, unsigned lane, uint32_t at, unsigned size);
/* The copy engine writes, as the thread `writer` of the clocks at `moment`. */
void note_bulk_write(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size,
                     unsigned writer, uint32_t moment);
/* The whole warp reads through the async proxy; `known`: what it knew when it asked for that. */
void note_async_read(warp &w, const instruction &i, uint32_t at, unsigned size,
                     const clocks &known);
/* The same of one lane, for the copy engine that writes global memory. */
void note_bulk_read(warp &w, const instruction &i, unsigned lane, uint32_t at, unsigned size);

/* What the lanes did is put into `into`; their later work is not. */
void release(warp &w, uint32_t lanes, clocks &into);
void acquire(warp &w, uint32_t lanes, const clocks &from);
void join_lanes(warp &w, uint32_t lanes); /* both, among the lanes */
void fence_proxy(warp &w, uint32_t lanes);
bool knows(const warp &w, unsigned lane, unsigned thread, uint32_t moment);

/* ---- instructions of many (collective.cc, async.cc, wgmma.cc) ---- */

/* An instruction that is not arithmetic, by its name; sets what it needs of the instruction. Gives
 * the operands' pattern, in which small letters are as in `scalar`, or nullptr if there is none. */
const char *find_collective(std::string_view name, instruction &i);
const char *find_async(std::string_view name, instruction &i);
const char *find_wgmma(std::string_view name, instruction &i);

/* Waits for all `wanted` lanes at this instruction: 0, or all of them. */
uint32_t gather(warp &w, const instruction &i, uint32_t lanes, uint32_t wanted);
/* The same for instructions of whole warps. */
uint32_t gather_warp(warp &w, const instruction &i, uint32_t lanes);
/* Lets lanes go on behind the instruction at which they are blocked. */
void go_on(warp &w, uint32_t lanes);
/* Copies of the engine that were asked for arrive, as nothing else can happen; false: there is
 * none.
 */
bool finish_bulk_copy(block &b);
/* Registers that some wgmma has are touched. */
void watch(warp &w, const instruction &i);
void begin_wgmma(warp &w); /* of a block */
void end_wgmma(const block &b);

} // namespace ptx
#endif
