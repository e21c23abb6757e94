/* Products: blocks of both operands go to the scratchpad as bf16, and their product is added up in
 * f32 along k. Operands of f32 are rounded to bf16: the matrix unit takes nothing else. */
#include "npu.h"

/* One operand: its axes beside the batch are rows and columns. */
typedef struct side {
    npu_tensor tensor;
    int64_t row_step, column_step;
    bool turned;            /* its columns lie together, not its rows */
    int wide[2], narrow[2]; /* tiles as they come, if that is not bf16, and as bf16 */
} side;

static int64_t whole_tiles(int64_t size) {
    return (size + NPU_TILE - 1) / NPU_TILE * NPU_TILE;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void take_tiles(npu_compiler *compiler, side *s, int64_t rows, int64_t columns) {
    uint64_t elements = (uint64_t)(whole_tiles(rows) * whole_tiles(columns));
    for (int i = 0; i < 2; i++) {
        s->narrow[i] = npu_take(compiler, 2 * elements);
        s->wide[i] = -1;
        if (s->tensor.dtype != KIN_BF16)
            s->wide[i] = npu_take(compiler, elements * kin_dtype_size(s->tensor.dtype));
    }
}

/* Brings rows x columns from (row, column) to a tile of whole 16s; what is behind them is zero, so
 * that it adds nothing. */
static void load_side(npu_compiler *compiler, const side *s, uint64_t batch_offset, int64_t row,
                      int64_t column, int64_t rows, int64_t columns, int turn) {
    const int64_t tall = whole_tiles(rows), broad = whole_tiles(columns);
    const bool is_narrow = s->wide[turn] < 0;
    npu_tensor from = s->tensor;
    npu_ref narrow = {s->narrow[turn], 0, KIN_BF16, 0};
    npu_ref first = {is_narrow ? s->narrow[turn] : s->wide[turn], 0, from.dtype, 0};
    npu_box box = {.rank = 2};
    int64_t steps[2];
    from.offset += batch_offset;
    from.steps[s->turned] = s->row_step;
    from.steps[!s->turned] = s->column_step;
    box.start[s->turned] = row;
    box.start[!s->turned] = column;
    box.size[s->turned] = rows;
    box.size[!s->turned] = columns;
    steps[0] = s->turned ? tall : broad;
    steps[1] = 1;
    if (tall != rows || broad != columns) npu_emit_fill(compiler, first, tall * broad, 0);
    npu_load(compiler, &from, &box, first.slot, 0, steps);
    if (!is_narrow) npu_emit_convert(compiler, first, narrow, tall * broad);
}

typedef struct product {
    side a, b;
    npu_tensor out;
    int64_t m, n, k;
    int sums[2], results[2]; /* tiles of f32, and of the result's dtype if that is another */
    int turn, sum_turn;
} product;

static void take_product(npu_compiler *compiler, product *p) {
    int64_t m = smaller(p->m, NPU_BLOCK_M), n = smaller(p->n, NPU_BLOCK_N);
    int64_t k = smaller(p->k, NPU_BLOCK_K);
    uint64_t elements = (uint64_t)(whole_tiles(m) * whole_tiles(n));
    take_tiles(compiler, &p->a, m, k);
    take_tiles(compiler, &p->b, k, n);
    for (int i = 0; i < 2; i++) {
        p->sums[i] = npu_take(compiler, elements * sizeof(float));
        p->results[i] = -1;
        if (p->out.dtype != KIN_F32)
            p->results[i] = npu_take(compiler, elements * kin_dtype_size(p->out.dtype));
    }
}

/* One block of the result. offsets: bytes of this batch in a, b and out. */
static void build_block(npu_compiler *compiler, product *p, const uint64_t *offsets, int64_t row,
                        int64_t column) {
    const int64_t m = smaller(p->m - row, NPU_BLOCK_M), n = smaller(p->n - column, NPU_BLOCK_N);
    const int64_t tall = whole_tiles(m), broad = whole_tiles(n);
    const int set = p->sum_turn;
    npu_ref sum = {p->sums[set], 0, KIN_F32, 0};
    if (p->k == 0) npu_emit_fill(compiler, sum, tall * broad, 0);
    for (int64_t at = 0; at < p->k; at += NPU_BLOCK_K, p->turn = !p->turn) {
        int64_t k = smaller(p->k - at, NPU_BLOCK_K);
        load_side(compiler, &p->a, offsets[0], row, at, m, k, p->turn);
        load_side(compiler, &p->b, offsets[1], at, column, k, n, p->turn);
        npu_matrix matrix = {.m = (int32_t)tall,
                             .n = (int32_t)broad,
                             .k = (int32_t)whole_tiles(k),
                             .a_turned = p->a.turned,
                             .b_turned = p->b.turned,
                             .add = at > 0};
        npu_emit_matrix(compiler, &matrix, p->a.narrow[p->turn], p->b.narrow[p->turn], sum.slot);
    }
    if (p->results[set] >= 0) {
        npu_ref result = {p->results[set], 0, p->out.dtype, 0};
        npu_emit_convert(compiler, sum, result, tall * broad);
        sum = result;
    }
    npu_box box = {.rank = 2, .start = {row, column}, .size = {m, n}};
    npu_tensor out = p->out;
    const int64_t steps[2] = {broad, 1};
    out.offset += offsets[2];
    npu_store(compiler, &out, &box, sum.slot, 0, steps);
    p->sum_turn = !set;
}

static void build_product(npu_compiler *compiler, product *p, const uint64_t *offsets) {
    for (int64_t column = 0; column < p->n; column += NPU_BLOCK_N)
        for (int64_t row = 0; row < p->m && compiler->status == KIN_OK; row += NPU_BLOCK_M)
            build_block(compiler, p, offsets, row, column);
}

/* The batch axes and the rows of a and out: where b is the same for all, as many axes as lie evenly
 * become one tall matrix. Tensors 0 to 2 of the space are a, b, out. */
static npu_space rows_of(const kin_call *call) {
    const kin_desc *out = &call->out[0].desc;
    const kin_operand *operands[3] = {&call->in[0], &call->in[1], &call->out[0]};
    npu_space space = npu_space_start(out->rank - 1, out->dims);
    for (int i = 0; i < 3; i++) {
        kin_operand rows = *operands[i];
        rows.desc.rank--;
        if (i == 1) rows.desc.dims[rows.desc.rank - 1] = 1; /* k is no axis of the result */
        npu_space_add(&space, &rows);
    }
    return space;
}

void npu_build_matmul(npu_compiler *compiler, const kin_call *call) {
    const kin_desc *a = &call->in[0].desc, *b = &call->in[1].desc, *out = &call->out[0].desc;
    npu_space space = rows_of(call);
    if (kin_desc_count(out) == 0) return;
    npu_space joined = space;
    npu_space_join(&joined);
    /* joined axes may have taken rows and batches together only where b stands still */
    bool tall = joined.rank > 0 && joined.tensors[1].steps[joined.rank - 1] == 0;
    if (tall) space = joined;
    const int batches = space.rank - 1;
    product p = {.out = space.tensors[2],
                 .m = space.dims[batches],
                 .n = out->dims[out->rank - 1],
                 .k = a->dims[a->rank - 1]};
    p.a = (side){.tensor = space.tensors[0],
                 .row_step = space.tensors[0].steps[batches],
                 .column_step = a->strides[a->rank - 1]};
    p.b = (side){.tensor = space.tensors[1],
                 .row_step = b->strides[b->rank - 2],
                 .column_step = b->strides[b->rank - 1]};
    p.a.turned = p.a.row_step == 1 && p.a.column_step != 1;
    p.b.turned = p.b.row_step == 1 && p.b.column_step != 1;
    p.out.steps[0] = space.tensors[2].steps[batches];
    p.out.steps[1] = 1;
    take_product(compiler, &p);
    int64_t ones[KIN_MAX_RANK];
    for (int axis = 0; axis < KIN_MAX_RANK; axis++) ones[axis] = 1;
    npu_box batch = {.rank = 0};
    while (compiler->status == KIN_OK && npu_box_next(batches, space.dims, ones, &batch)) {
        uint64_t offsets[3] = {0, 0, 0};
        for (int axis = 0; axis < batches; axis++)
            for (int i = 0; i < 3; i++)
                offsets[i] += (uint64_t)(batch.start[axis] * space.tensors[i].steps[axis]) *
                              kin_dtype_size(space.tensors[i].dtype);
        build_product(compiler, &p, offsets);
    }
}
