/* The PTX machine (backends/cuda/ptx): small kernels in PTX that are right, whose results are
 * compared, and the same made wrong on purpose, each of which must be refused with the words that
 * belong to its fault. Results are exact. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cuda/ptx/ptx.h"

enum { WORDS = 1024, ROWS = 64, COLUMNS = 64 };

/* What all kernels begin with: %d0 the data, %d1 the thread's own word of it, %r0 its number, %r1
 * its word of the tile in shared memory, %r2 the tile. */
static const char before[] =
    ".version 8.0\n.target sm_90a\n.address_size 64\n"
    ".extern .shared .align 1024 .b8 tile[];\n"
    ".global .align 4 .b8 table[8] = {1, 0, 0, 0, 2};\n"
    ".entry k(.param .u64 k_data, .param .align 64 .b8 k_map[128])\n{\n"
    ".reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<64>; .reg .f32 %f<64>; .reg .b64 %d<16>;\n"
    ".local .align 4 .b8 spill[8];\n"
    "ld.param.u64 %d0, [k_data];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %d1, %r0, 4;\n"
    "add.s64 %d1, %d0, %d1;\nshl.b32 %r1, %r0, 2;\nmov.u32 %r2, tile;\n"
    "add.s32 %r1, %r1, %r2;\n";

/* A tensor map as hopper_emulated.cuh makes it. */
typedef struct tensor_map {
    int dtype;
    void *data;
    uint64_t dims[5], strides[4];
    uint32_t box[5];
    char rest[24];
} tensor_map;

static uint32_t *data;
static _Alignas(16) uint16_t matrix[ROWS][COLUMNS]; /* small integers as bf16 */

static int entry_of(int row, int column) {
    return (row * 3 + column * 5) % 7 - 3;
}

static uint16_t bf16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)(bits >> 16);
}

static bool run(const char *body, unsigned blocks, unsigned threads, unsigned shared, int order,
                char *error, size_t size) {
    static char text[16384];
    _Alignas(64) tensor_map map = {0};
    void *address = data, *arguments[] = {&address, &map};
    const kin_ptx_launch launch = {.grid = {blocks, 1, 1},
                                   .block = {threads, 1, 1},
                                   .shared = shared,
                                   .argument_count = 2,
                                   .arguments = arguments,
                                   .order = order};
    map.data = matrix;
    for (int i = 0; i < 5; i++) map.dims[i] = map.box[i] = 1;
    map.dims[0] = map.box[0] = COLUMNS, map.dims[1] = map.box[1] = ROWS;
    for (int i = 0; i < 4; i++) map.strides[i] = COLUMNS * 2;
    snprintf(text, sizeof text, "%s%s\nret;\n}\n", before, body);
    error[0] = '\0';
    return kin_ptx_run_text(text, "k", &launch, error, size);
}

static int set_up(void **state) {
    (void)state;
    data = calloc(WORDS, 4);
    if (data == NULL) return -1;
    kin_ptx_memory_add(data, WORDS * 4);
    kin_ptx_memory_add(matrix, sizeof matrix);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++) matrix[r][c] = bf16_of((float)entry_of(r, c));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    kin_ptx_memory_remove(data);
    kin_ptx_memory_remove(matrix);
    free(data);
    return 0;
}

/* ---- parts of kernels ---- */

#define STORE_OWN "st.shared.u32 [%r1], %r0;\n"
#define BARRIER "bar.sync 0;\n"
/* The word of the thread at the other end of the block (64 threads), to the data. */
#define LOAD_OTHER                                                                                 \
    "xor.b32 %r3, %r0, 63;\nshl.b32 %r3, %r3, 2;\nadd.s32 %r3, %r3, %r2;\n"                        \
    "ld.shared.u32 %r4, [%r3];\nst.global.u32 [%d1], %r4;\n"
#define COPY_OWN                                                                                   \
    "shl.b32 %r5, %r0, 4;\nadd.s32 %r6, %r5, %r2;\ncvt.u64.u32 %d2, %r5;\n"                        \
    "add.s64 %d2, %d2, %d0;\ncp.async.cg.shared.global [%r6], [%d2], 16;\n"
#define COPY_CLOSE "cp.async.commit_group;\n"
#define COPY_WAIT "cp.async.wait_group 0;\n"
#define LOAD_COPIED "ld.shared.u32 %r7, [%r1];\n"
/* An mbarrier behind the tile of 8 KB, for one arrival, and a copy of the matrix. */
#define MAKE                                                                                       \
    "setp.eq.u32 %p0, %r0, 0;\nmov.u32 %r10, 1;\n"                                                 \
    "@%p0 mbarrier.init.shared::cta.b64 [%r2+8192], %r10;\n"
#define PUBLISH "@%p0 fence.mbarrier_init.release.cluster;\n"
#define FETCH                                                                                      \
    "mov.b64 %d3, k_map;\nmov.u32 %r11, 8192;\nmov.u32 %r12, 0;\nadd.s32 %r13, %r2, 8192;\n"       \
    "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r13], %r11;\n"                            \
    "@%p0 cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "            \
    "[%r2], [%d3, {%r12, %r12, %r12, %r12, %r12}], [%r13];\n"
#define WAIT                                                                                       \
    "{\n.reg .pred done;\nagain:\n"                                                                \
    "mbarrier.try_wait.parity.shared::cta.b64 done, [%r13], %r12;\n@!done bra again;\n}\n"
/* The first 16 columns: (64 x 16) (8 x 16)^T of the matrix in the tile. */
#define WGMMA_FENCE "wgmma.fence.sync.aligned;\n"
#define CLEAR                                                                                      \
    "mov.f32 %f0, 0f00000000;\nmov.f32 %f1, %f0;\nmov.f32 %f2, %f0;\nmov.f32 %f3, %f0;\n"          \
    "shr.u32 %r20, %r2, 4;\ncvt.u64.u32 %d4, %r20;\nor.b64 %d4, %d4, 0x4000004000010000;\n"
#define WGMMA                                                                                      \
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %d4, %d4, 1, 1, 1," \
    " 0, 0;\n"
#define WGMMA_CLOSE "wgmma.commit_group.sync.aligned;\n"
#define WGMMA_WAIT "wgmma.wait_group.sync.aligned 0;\n"
#define STORE_RESULT                                                                               \
    "mul.wide.u32 %d5, %r0, 16;\nadd.s64 %d5, %d5, %d0;\n"                                         \
    "st.global.f32 [%d5], %f0;\nst.global.f32 [%d5+4], %f1;\n"                                     \
    "st.global.f32 [%d5+8], %f2;\nst.global.f32 [%d5+12], %f3;\n"

/* ---- right ones ---- */

static float real_at(int index) {
    float value;
    memcpy(&value, &data[index], 4);
    return value;
}

/* Runs it with the threads in every order. */
static void assert_right(const char *body, unsigned threads, unsigned shared) {
    for (int order = 0; order < 3; order++) {
        char error[1000];
        for (int i = 0; i < WORDS; i++) data[i] = (uint32_t)i;
        if (!run(body, 1, threads, shared, order, error, sizeof error)) fail_msg("%s", error);
    }
}

static void plain_kernels_are_right(void **state) {
    (void)state;
    /* a loop whose turns differ from lane to lane: the sum of 0 .. thread */
    assert_right("mov.u32 %r3, 0;\nmov.u32 %r4, 0;\nloop:\nadd.s32 %r3, %r3, %r4;\n"
                 "add.s32 %r4, %r4, 1;\nsetp.le.u32 %p0, %r4, %r0;\n@%p0 bra loop;\n"
                 "st.global.u32 [%d1], %r3;\n",
                 70, 0);
    for (unsigned t = 0; t < 70; t++) assert_int_equal(data[t], t * (t + 1) / 2);
    assert_int_equal(data[70], 70);
    /* a table, local memory, parts of registers, a wide product */
    assert_right(
        "ld.global.u32 %r3, [table+4];\nmov.u64 %d2, spill;\nst.local.u32 [%d2+4], %r3;\n"
        "ld.local.u8 %h0, [%d2+4];\ncvt.u32.u16 %r4, %h0;\nmad.wide.u32 %d3, %r4, %r0, 5;\n"
        "mov.b64 {%r5, %r6}, %d3;\nsub.s32 %r5, %r5, %r6;\nst.global.u32 [%d1], %r5;\n",
        32, 0);
    for (unsigned t = 0; t < 32; t++) assert_int_equal(data[t], 2 * t + 5);
    /* conversions at their edges: 65519 and 65520 in f16, -1.5 and NaN as integers */
    assert_right("mov.f32 %f0, 0f477FEF00;\ncvt.rn.f16.f32 %h0, %f0;\nmov.f32 %f0, 0f477FF000;\n"
                 "cvt.rn.f16.f32 %h1, %f0;\nmov.b32 %r3, {%h0, %h1};\nst.global.u32 [%d0], %r3;\n"
                 "mov.f32 %f1, 0fBFC00000;\ncvt.rni.s32.f32 %r4, %f1;\n"
                 "st.global.u32 [%d0+4], %r4;\nmov.f32 %f1, 0f7FC00000;\n"
                 "cvt.rzi.s32.f32 %r4, %f1;\nst.global.u32 [%d0+8], %r4;\n",
                 1, 0);
    assert_int_equal(data[0], 0x7c007bff);
    assert_int_equal((int)data[1], -2);
    assert_int_equal(data[2], 0);
}

static void lanes_and_barriers_are_right(void **state) {
    (void)state;
    assert_right(STORE_OWN BARRIER LOAD_OTHER, 64, 256);
    for (unsigned t = 0; t < 64; t++) assert_int_equal(data[t], t ^ 63);
    /* the first lane of each pair gets the other's number; votes of odd lanes */
    assert_right("shfl.sync.down.b32 %r3|%p1, %r0, 1, 31, -1;\nand.b32 %r4, %r0, 1;\n"
                 "setp.ne.u32 %p2, %r4, 0;\nvote.sync.ballot.b32 %r5, %p2, -1;\n"
                 "selp.b32 %r3, %r3, %r5, %p1;\nst.global.u32 [%d1], %r3;\n",
                 32, 0);
    for (unsigned t = 0; t < 31; t++) assert_int_equal(data[t], t + 1);
    assert_int_equal(data[31], 0xaaaaaaaa);
    /* two warps of three at a named barrier */
    assert_right("setp.lt.u32 %p0, %r0, 64;\n@!%p0 bra out;\n" STORE_OWN
                 "bar.sync 3, 64;\n" LOAD_OTHER "out:\n",
                 96, 384);
    assert_int_equal(data[0], 63);
    assert_right("mov.u32 %r9, 16;\n" COPY_OWN COPY_CLOSE COPY_WAIT BARRIER LOAD_OTHER, 64, 1024);
    for (unsigned t = 0; t < 64; t++) assert_int_equal(data[t], t ^ 63);
}

/* An A of ones in column t and B of column numbers give C[row][column] = 2 (column + 1). */
static void matrices_are_right(void **state) {
    (void)state;
    assert_right("shr.u32 %r3, %r0, 2;\nadd.s32 %r3, %r3, 1;\ncvt.rn.f32.u32 %f4, %r3;\n"
                 "cvt.rn.bf16x2.f32 %r4, %f4, %f4;\nmov.f32 %f5, 0f3F800000;\n"
                 "cvt.rn.bf16x2.f32 %r5, %f5, %f5;\nmov.u32 %r6, 0;\nmov.f32 %f0, 0f00000000;\n"
                 "and.b32 %r7, %r0, 3;\nsetp.eq.u32 %p0, %r7, 2;\nselp.b32 %r8, %r5, %r6, %p0;\n"
                 "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, "
                 "{%r8, %r8, %r6, %r6}, {%r4, %r4}, {%f0, %f0, %f0, %f0};\n" STORE_RESULT,
                 32, 0);
    for (int t = 0; t < 32; t++)
        for (int i = 0; i < 4; i++)
            assert_true(real_at(t * 4 + i) == 2.0f * (float)(t % 4 * 2 + i % 2 + 1));
    /* 8 x 8 matrices in shared memory, as they lie and transposed */
    assert_right("shl.b32 %r3, %r0, 3;\nadd.s32 %r4, %r3, %r2;\nmul.lo.u32 %r5, %r0, 4;\n"
                 "mad.lo.u32 %r5, %r5, 65536, %r5;\nadd.s32 %r5, %r5, 65536;\n"
                 "st.shared.u32 [%r4], %r5;\nadd.s32 %r5, %r5, 131074;\n"
                 "st.shared.u32 [%r4+4], %r5;\nbar.warp.sync -1;\n"
                 "shl.b32 %r6, %r0, 4;\nand.b32 %r6, %r6, 255;\nadd.s32 %r6, %r6, %r2;\n"
                 "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r7, %r8}, [%r6];\n"
                 "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r9}, [%r6];\n"
                 "st.global.v2.u32 [%d0], {%r7, %r8};\nshl.b32 %r0, %r0, 4;\n"
                 "cvt.u64.u32 %d2, %r0;\nadd.s64 %d2, %d2, %d0;\n"
                 "st.global.v4.u32 [%d2], {%r7, %r8, %r9, %r9};\n",
                 32, 256);
    for (unsigned t = 0; t < 32; t++) {
        const unsigned row = t / 4, column = t % 4 * 2, turned = column * 8 + row;
        if (t > 0) assert_int_equal(data[t * 4], turned | (turned + 8) << 16);
        assert_int_equal(data[t * 4 + 1], (turned + 64) | (turned + 72) << 16);
        assert_int_equal(data[t * 4 + 2], (row * 8 + column) | (row * 8 + column + 1) << 16);
    }
}

static void wgmma_is_right(void **state) {
    (void)state;
    assert_right(
        MAKE PUBLISH BARRIER FETCH WAIT CLEAR WGMMA_FENCE WGMMA WGMMA_CLOSE WGMMA_WAIT STORE_RESULT,
        128, 8208);
    for (int t = 0; t < 128; t++)
        for (int i = 0; i < 4; i++) {
            const int row = t / 32 * 16 + t % 32 / 4 + i / 2 * 8, column = t % 4 * 2 + i % 2;
            int sum = 0;
            for (int k = 0; k < 16; k++) sum += entry_of(row, k) * entry_of(column, k);
            assert_true(real_at(t * 4 + i) == (float)sum);
        }
}

/* ---- wrong ones ---- */

static const struct {
    const char *what;
    unsigned threads, shared;
    const char *body, *words; /* of the error */
} wrong[] = {
    {"memory of nobody", 32, 0, "st.global.u32 [%d1+4096], %r0;\n", "in no device memory"},
    {"one byte too many", 1, 0, "ld.global.v2.u32 {%r3, %r4}, [%d0+4092];\n", "no multiple of 8"},
    {"an odd address", 32, 0, "ld.global.u32 %r3, [%d1+2];\n", "no multiple of 4"},
    {"beyond shared memory", 64, 252, STORE_OWN, "4 bytes at 252 of 252"},
    {"beyond local memory", 1, 0, "mov.u64 %d2, spill;\nst.local.u32 [%d2+8], %r0;\n",
     "of 8 bytes of local"},
    {"beyond a copy's source", 64, 1024, "add.s64 %d0, %d0, 3088;\n" COPY_OWN,
     "in no device memory"},
    {"shared memory that nobody wrote", 64, 256, LOAD_OTHER, "nothing wrote in this block"},
    {"no barrier behind a write", 64, 256, STORE_OWN LOAD_OTHER, "of shared memory, which"},
    {"no barrier behind a read", 64, 256, STORE_OWN BARRIER LOAD_OTHER STORE_OWN, "a race: "},
    {"no barrier between lanes", 32, 256,
     STORE_OWN "bar.warp.sync -1;\nxor.b32 %r3, %r1, 4;\nld.shared.u32 %r4, [%r3];\n"
               "st.shared.u32 [%r1], %r4;\n",
     "a race: writes byte"},
    {"a shuffle for a barrier", 32, 256,
     STORE_OWN "shfl.sync.bfly.b32 %r5|%p1, %r0, 1, 31, -1;\nxor.b32 %r3, %r1, 4;\n"
               "ld.shared.u32 %r4, [%r3];\n",
     "a race: reads byte"},
    {"a barrier of one half only", 64, 256,
     "setp.lt.u32 %p0, %r0, 32;\n@%p0 bar.sync 1, 32;\n" STORE_OWN LOAD_OTHER,
     "of shared memory, which"},
    {"two threads, one place", 64, 256, "st.shared.u32 [%r2], %r0;\n", "a race: writes byte 0"},
    {"a barrier that half of the block misses", 64, 0,
     "setp.lt.u32 %p0, %r0, 32;\n@%p0 bra out;\n" BARRIER "out:\n", "others that never come"},
    {"a barrier that lanes miss", 64, 0,
     "setp.eq.u32 %p0, %r0, 5;\n@%p0 bra out;\n" BARRIER "out:\n", "0x00000020 have ended"},
    {"a barrier with two counts", 64, 0,
     "setp.lt.u32 %p0, %r0, 32;\n@%p0 bra first;\nbar.sync 2, 64;\nret;\nfirst:\nbar.sync 2, "
     "96;\n",
     "threads come to barrier 2"},
    {"a mask without the lane", 32, 0, "bar.warp.sync 0x7fffffff;\n", "lacks the lane itself"},
    {"a mask with lanes elsewhere", 32, 0,
     "setp.lt.u32 %p0, %r0, 16;\n@%p0 shfl.sync.bfly.b32 %r3|%p1, %r0, 1, 31, -1;\n"
     "@!%p0 bar.sync 0;\n",
     "others that never come"},
    {"a value from a lane that is not there", 32, 0,
     "setp.lt.u32 %p0, %r0, 16;\n@%p0 shfl.sync.idx.b32 %r3|%p1, %r0, 20, 31, 0xffff;\n",
     "from lane 20"},
    {"a copy that nobody waits for", 32, 1024, COPY_OWN COPY_CLOSE BARRIER LOAD_COPIED,
     "was not waited for"},
    {"a copy that is not closed", 32, 1024, COPY_OWN COPY_WAIT BARRIER LOAD_COPIED,
     "was not waited for"},
    {"a copy that others do not wait for", 64, 1024, COPY_OWN COPY_CLOSE COPY_WAIT LOAD_COPIED,
     "of shared memory, which"},
    {"an mbarrier that others do not know", 64, 8208,
     MAKE PUBLISH "add.s32 %r13, %r2, 8192;\nmov.u32 %r12, 0;\n" WAIT, "mbarrier "},
    {"an mbarrier without end", 64, 8208,
     MAKE PUBLISH BARRIER "add.s32 %r13, %r2, 8192;\nmov.u32 %r12, 0;\n" WAIT,
     "others that never come"},
    {"too many arrivals", 64, 8208,
     MAKE PUBLISH BARRIER "add.s32 %r13, %r2, 8192;\nmov.u32 %r14, 2;\n"
                          "@%p0 mbarrier.arrive.shared::cta.b64 _, [%r13], %r14;\n",
     "more arrivals"},
    {"an mbarrier that the engine does not know", 64, 8208, MAKE BARRIER FETCH WAIT,
     "without a fence.mbarrier_init"},
    {"a fetch that nobody waits for", 64, 8208, MAKE PUBLISH BARRIER FETCH BARRIER LOAD_OTHER,
     "without a wait for its mbarrier"},
    {"a fetch over what others read", 64, 8208,
     MAKE PUBLISH STORE_OWN BARRIER LOAD_OTHER FETCH WAIT, "a race: writes byte"},
    {"a block that ends before its fetch", 64, 8208, MAKE PUBLISH BARRIER FETCH,
     "while the copy engine still writes"},
    {"wgmma without its fence", 128, 8208,
     MAKE PUBLISH BARRIER FETCH WAIT WGMMA_FENCE CLEAR WGMMA WGMMA_CLOSE WGMMA_WAIT,
     "without a wgmma.fence"},
    {"a result that is not there yet", 128, 8208,
     MAKE PUBLISH BARRIER FETCH WAIT CLEAR WGMMA_FENCE WGMMA WGMMA_CLOSE STORE_RESULT WGMMA_WAIT,
     "of a wgmma that was not waited for"},
    {"work that is not closed", 128, 8208,
     MAKE PUBLISH BARRIER FETCH WAIT CLEAR WGMMA_FENCE WGMMA WGMMA_WAIT STORE_RESULT,
     "of a wgmma that was not waited for"},
    {"wgmma before its operands", 128, 8208,
     MAKE PUBLISH BARRIER FETCH BARRIER CLEAR WGMMA_FENCE WGMMA WGMMA_CLOSE WGMMA_WAIT,
     "without a wait for its mbarrier"},
    {"operands of threads without a fence", 128, 8208,
     "mov.u32 %r3, 0;\nfill:\nst.shared.u32 [%r1], %r3;\nadd.s32 %r1, %r1, 512;\n"
     "add.s32 %r4, %r2, 8192;\nsetp.lt.u32 %p0, %r1, %r4;\n@%p0 bra fill;\n" BARRIER CLEAR
         WGMMA_FENCE WGMMA WGMMA_CLOSE WGMMA_WAIT,
     "without fence.proxy.async"},
    {"wgmma that a warp leaves out", 128, 8208,
     MAKE PUBLISH BARRIER FETCH WAIT CLEAR
     "setp.lt.u32 %p1, %r0, 32;\n@%p1 bra out;\n" WGMMA_FENCE WGMMA WGMMA_CLOSE WGMMA_WAIT "out:\n",
     "issued different wgmma"},
    {"an instruction of another machine", 32, 0, "tcgen05.alloc %r3;\n", "does not know"},
    {"a register of a wrong size", 32, 0, "add.s32 %r3, %d0, 1;\n", "another size"},
};

static void faults_are_found(void **state) {
    (void)state;
    int missed = 0;
    for (size_t c = 0; c < sizeof wrong / sizeof *wrong; c++)
        for (int order = 0; order < 3; order++) {
            char error[1000];
            for (int i = 0; i < WORDS; i++) data[i] = (uint32_t)i;
            const bool fine = run(wrong[c].body, 2, wrong[c].threads, wrong[c].shared, order, error,
                                  sizeof error);
            if (!fine && strstr(error, wrong[c].words) != NULL) continue;
            print_error("%s, order %d: %s\n", wrong[c].what, order, fine ? "not found" : error);
            missed++;
        }
    assert_int_equal(missed, 0);
}

/* Operands that threads wrote are fine behind a fence of proxies. */
static void fenced_operands_are_fine(void **state) {
    (void)state;
    assert_right("mov.u32 %r3, 0;\nfill:\nst.shared.u32 [%r1], %r3;\nadd.s32 %r1, %r1, 512;\n"
                 "add.s32 %r4, %r2, 8192;\nsetp.lt.u32 %p0, %r1, %r4;\n@%p0 bra fill;\n"
                 "fence.proxy.async.shared::cta;\n" BARRIER CLEAR WGMMA_FENCE WGMMA WGMMA_CLOSE
                     WGMMA_WAIT STORE_RESULT,
                 128, 8208);
    for (int i = 0; i < 512; i++) assert_true(real_at(i) == 0.0f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_kernels_are_right),  cmocka_unit_test(lanes_and_barriers_are_right),
        cmocka_unit_test(matrices_are_right),       cmocka_unit_test(wgmma_is_right),
        cmocka_unit_test(fenced_operands_are_fine), cmocka_unit_test(faults_are_found),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
