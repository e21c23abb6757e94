/* The simulated NPU: what it is made of, its instructions, and the parts of its compiler.
 *
 * The device. Tensors lie in device memory, which the host reaches by upload and download alone and
 * the units not at all: a DMA engine carries blocks between it and a scratchpad of 1 MiB, and a
 * matrix unit and a vector unit work on what lies there. Programs are compiled for static shapes
 * from whole ranges of calls, and each unit takes its instructions in order.
 *
 * The cost model, in cycles of 1 GHz. An instruction starts when its unit is free and the tiles
 * that it reads or writes are ready, so that transfers and arithmetic overlap where tiles
 * alternate; a call starts when the one before has ended. DMA     64 + for each contiguous run of n
 * bytes: ceil(n / 64) matrix  16 + 16 for each product of 16x16 tiles vector   8 + for 64 elements:
 * 1, or NPU_SPECIAL if exp, log, sin, division and the like occur
 */
#ifndef NPU_H
#define NPU_H

#include "runtime/backend.h"

enum {
    NPU_SCRATCHPAD = 1 << 20, /* bytes */
    NPU_ALIGNMENT = 64,       /* of offsets in memory and of tiles in the scratchpad */
    NPU_BURST = 64,           /* bytes that the DMA engine moves in one cycle */
    NPU_DMA_START = 64,
    NPU_LEVELS = 4, /* loops of one transfer around its contiguous runs */
    NPU_TILE = 16,  /* rows, columns and depth of the matrix unit */
    NPU_LANES = 64, /* of the vector unit */
    NPU_VECTOR_START = 8,
    NPU_SPECIAL = 8,
    NPU_IN = 5, /* operands of a vector instruction */
    NPU_OUT = 3,
    NPU_SLOTS = 24 /* tiles at one time */
};

#define NPU_HERTZ 1e9
#define NPU_MEMORY (UINT64_C(4) << 30)
#define NPU_MAX_ALLOCATION (UINT64_C(256) << 20)

/* ---- instructions ---- */

typedef enum npu_opcode { NPU_LOAD, NPU_STORE, NPU_GATHER, NPU_MATRIX, NPU_VECTOR } npu_opcode;

typedef struct npu_level {
    int64_t count;
    int64_t memory, scratch; /* steps in bytes; memory may be 0, which repeats */
} npu_level;

/* NPU_LOAD: memory to scratchpad; NPU_STORE: back. */
typedef struct npu_dma {
    kin_buffer *buffer;
    uint64_t offset;
    uint32_t scratch, run; /* run: contiguous bytes */
    npu_level level[NPU_LEVELS];
} npu_dma;

/* Rows of a table by ids in the scratchpad, i32 or i64; NaN for an id that is no row. */
typedef struct npu_gather {
    kin_buffer *buffer;
    uint64_t offset;
    int64_t rows, row_step; /* of the table; bytes from row to row */
    uint32_t scratch, run;  /* bytes of a row that are wanted */
    uint32_t ids;
    int32_t count;
    kin_dtype id_dtype, dtype;
} npu_gather;

/* c [m, n] f32 (+)= a [m, k] b [k, n], both bf16. All sizes are multiples of 16 and tiles are
 * dense; a may lie as [k, m], b as [n, k]. */
typedef struct npu_matrix {
    uint32_t a, b, c;
    int32_t m, n, k;
    bool a_turned, b_turned, add;
} npu_matrix;

/* What the vector unit computes in f32. Element-wise functions have the ops' names. */
#define KX_ENUM_UNARY(name, value, slope) NPU_FN_##name, NPU_FN_##name##_grad,
#define KX_ENUM(name, ...) NPU_FN_##name,
#include "ops/elementwise_expr.h"
typedef enum npu_function {
    KX_UNARY(KX_ENUM_UNARY) KX_AFFINE(KX_ENUM) KX_BINARY(KX_ENUM) NPU_FN_where,
    NPU_FN_convert,    /* between any two dtypes that are stored */
    NPU_FN_fill,       /* p */
    NPU_FN_sum,        /* in [x, y, z], out [x, z]; with q = 1 added to what is there */
    NPU_FN_max,        /* the same */
    NPU_FN_cosine,     /* cos(2 pi x (p + q)): p + q in twice the precision */
    NPU_FN_sine,       /* sin of the same */
    NPU_FN_uniform,    /* in: seed and counter, i64; x: stream, y: the first element */
    NPU_FN_normal,     /* the same */
    NPU_FN_scatter,    /* out [x, y] += rows of in 0 at ids of in 1, less z */
    NPU_FN_adamw_rate, /* lr, step, scale -> the five numbers that adamw takes */
    NPU_FN_adamw,      /* p, gradient, m, v, numbers -> p, m, v */
    NPU_FN_ema,        /* average, p, scale; p: decay */
    NPU_FN_COUNT
} npu_function;

/* Where a vector instruction reads or writes. repeat: each element is used that many times (0:
 * once), or, with NPU_ALL, the first one for all. */
typedef struct npu_port {
    uint32_t at;
    kin_dtype dtype;
    bool used;
    int64_t repeat;
} npu_port;
#define NPU_ALL INT64_MAX

typedef struct npu_vector {
    npu_function function;
    npu_port in[NPU_IN], out[NPU_OUT];
    int64_t count; /* elements of out 0; of in 0 for sums and scatter */
    int64_t x, y, z;
    double p, q;
    const void *attrs;
} npu_vector;

typedef struct npu_instruction {
    npu_opcode opcode;
    union {
        npu_dma dma;
        npu_gather gather;
        npu_matrix matrix;
        npu_vector vector;
    };
} npu_instruction;

/* ---- the device ---- */

typedef struct npu_state {
    uint64_t used; /* bytes of device memory */
    unsigned char *scratchpad;
    float *work; /* of the interpreter: tiles of a product as f32 */
} npu_state;

struct kin_commands {
    npu_instruction *list;
    size_t count, capacity;
    kin_call_counters *calls;
    size_t call_count;
};

/* memory.c: the only file that looks into device memory. */
kin_status npu_allocate(kin_device *device, size_t size, kin_buffer **out_buffer);
void npu_release(kin_device *device, kin_buffer *buffer);
kin_status npu_upload(kin_device *device, const void *source, kin_buffer *buffer, size_t offset,
                      size_t size);
kin_status npu_download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                        size_t size);
kin_status npu_copy(kin_device *device, kin_buffer *source, size_t source_offset,
                    kin_buffer *target, size_t target_offset, size_t size);
kin_status npu_fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                    uint8_t byte);
/* True if the bytes lie within the buffer. */
bool npu_holds(const kin_buffer *buffer, uint64_t offset, uint64_t size);
void npu_run_dma(unsigned char *scratchpad, const npu_dma *dma, bool store);
void npu_run_gather(unsigned char *scratchpad, const npu_gather *gather);

/* interpret.c, vector.c */
void npu_interpret(npu_state *state, const kin_commands *commands);
void npu_run_vector(unsigned char *scratchpad, const npu_vector *vector);
enum { NPU_BLOCK_M = 128, NPU_BLOCK_N = 128, NPU_BLOCK_K = 256 };

/* ---- the compiler ---- */

typedef enum npu_unit { NPU_UNIT_DMA, NPU_UNIT_MATRIX, NPU_UNIT_VECTOR, NPU_UNITS } npu_unit;

/* A tile of the scratchpad. */
typedef struct npu_slot {
    uint32_t at, size;    /* size 0: free */
    double written, read; /* cycles at which the last writer and reader are done */
} npu_slot;

/* Makes the instructions of one range. The first error stays, and later calls do nothing. */
typedef struct npu_compiler {
    kin_device *device;
    kin_commands *commands;
    kin_status status;
    npu_slot slots[NPU_SLOTS];
    double free_at[NPU_UNITS];
    kin_call_counters *report; /* of the call at hand */
} npu_compiler;

/* A place in a tile: `slot` is what npu_take returned. */
typedef struct npu_ref {
    int slot;
    uint32_t offset; /* bytes */
    kin_dtype dtype;
    int64_t repeat; /* as in npu_port */
} npu_ref;

/* A tensor in device memory, steps in elements. */
typedef struct npu_tensor {
    kin_buffer *buffer;
    uint64_t offset; /* bytes */
    kin_dtype dtype;
    int64_t steps[KIN_MAX_RANK];
} npu_tensor;

/* A part of a shape. */
typedef struct npu_box {
    bool started;
    int rank;
    int64_t start[KIN_MAX_RANK], size[KIN_MAX_RANK];
} npu_box;

/* emit.c. A tile of at least `bytes`, first fit; -1, with the status set, if there is no room. */
int npu_take(npu_compiler *compiler, uint64_t bytes);
void npu_give(npu_compiler *compiler, int slot);
/* Ends a call: all tiles are free, and the units wait for each other. */
void npu_end_call(npu_compiler *compiler);
kin_status npu_refuse(npu_compiler *compiler, kin_status status, const char *text);
/* Moves a box of a tensor from or to a tile where it lies with the steps given (in elements), or
 * densely if tile_steps is NULL. At most NPU_LEVELS axes of the box may be longer than 1. */
void npu_load(npu_compiler *compiler, const npu_tensor *from, const npu_box *box, int slot,
              uint32_t slot_offset, const int64_t *tile_steps);
void npu_store(npu_compiler *compiler, const npu_tensor *to, const npu_box *box, int slot,
               uint32_t slot_offset, const int64_t *tile_steps);
void npu_emit_gather(npu_compiler *compiler, const npu_tensor *table, int64_t rows, int64_t column,
                     int64_t width, npu_ref ids, int64_t count, int target);
void npu_emit_matrix(npu_compiler *compiler, const npu_matrix *matrix, int a, int b, int c);
/* A vector instruction; in and out end with slot -1 or are full. Elements, x, y, z, p and q are
 * those of `vector`. */
void npu_emit_vector(npu_compiler *compiler, npu_vector vector, const npu_ref *in, int in_count,
                     const npu_ref *out, int out_count);
/* The ones that all need. */
void npu_emit_fill(npu_compiler *compiler, npu_ref tile, int64_t count, double value);
void npu_emit_convert(npu_compiler *compiler, npu_ref from, npu_ref to, int64_t count);

/* tile.c. A shape and the tensors that lie along it: axes of size 1 are dropped, and neighbours
 * that every tensor walks as one are joined. */
enum { NPU_MAX_TENSORS = 8 };
typedef struct npu_space {
    int rank;
    int64_t dims[KIN_MAX_RANK];
    int count; /* tensors */
    npu_tensor tensors[NPU_MAX_TENSORS];
} npu_space;

npu_tensor npu_tensor_of(const kin_operand *operand);
npu_space npu_space_start(int rank, const int64_t *dims);
/* Adds an operand, which is repeated along axes that it lacks or where its size is 1. */
void npu_space_add(npu_space *space, const kin_operand *operand);
void npu_space_join(npu_space *space);
int64_t npu_count(int rank, const int64_t *dims);
/* Sizes of boxes of at most `limit` elements and NPU_LEVELS axes, whole from the last axis on. */
void npu_box_sizes(int rank, const int64_t *dims, int64_t limit, int64_t *out_sizes);
/* Walks the boxes of a shape: start with a zeroed box; false past the last. */
bool npu_box_next(int rank, const int64_t *dims, const int64_t *sizes, npu_box *box);
int64_t npu_box_count(const npu_box *box);
/* Moves a tensor into another of the same shape by way of the scratchpad; tensors 0 and 1 of the
 * space. */
void npu_move(npu_compiler *compiler, npu_space *space);

typedef void npu_build(npu_compiler *compiler, const kin_call *call);

/* A row of the kernel list with what compiles it. */
typedef struct npu_row {
    kin_kernel kernel; /* first: a kernel of ours is a row */
    npu_build *build;
    npu_function function;
} npu_row;

npu_build npu_build_map, npu_build_cast, npu_build_copy, npu_build_fill, npu_build_one;
npu_build npu_build_concat, npu_build_slice_grad, npu_build_assign;
npu_build npu_build_matmul, npu_build_sum, npu_build_max;
npu_build npu_build_patches, npu_build_patches_grad;
npu_build npu_build_embedding, npu_build_embedding_grad, npu_build_timestep, npu_build_random;
npu_build npu_build_adamw, npu_build_ema;

/* kernels.c */
const npu_row *npu_row_at(size_t index);
/* The vector function of an element-wise op. */
npu_function npu_function_of(const char *op);

#endif
