/* Element-wise functions over strided operands of any float type.
 *
 * The tensor is worked off in chunks that fit the first cache. Operands that are not plain runs of
 * floats are gathered and converted chunk by chunk, so that 16-bit tensors need no scratch memory
 * and every function is one loop over floats.
 */
#include "backends/cpu/map.h"
#include "backends/cpu/simd.h"

enum { CHUNK = 512 };

#define KX_C(c) vf_set1((float)(c))
#define KX_EXP(v) vf_exp(v)
#define KX_LOG(v) vf_log(v)
#define KX_SQRT(v) vf_sqrt(v)
#define KX_SIN(v) vf_sin(v)
#define KX_COS(v) vf_cos(v)
#define KX_TANH(v) vf_tanh(v)
#define KX_ERF(v) vf_erf(v)
#define KX_SELECT(cond, v, w) vf_select(cond, v, w)

/* ---- one chunk: loops over dense floats ---- */

typedef void (*chunk_fn)(const float *const *in, float *const *out, int64_t n, float p, float q);

KIN_INLINE vf load_lanes(const float *from, int lanes) {
    return lanes == VF_WIDTH ? vf_load(from) : vf_load_n(from, lanes);
}

KIN_INLINE void store_lanes(float *to, vf v, int lanes) {
    if (lanes == VF_WIDTH) vf_store(to, v);
    else vf_store_n(to, v, lanes);
}

/* Runs `body` for whole vectors, then once for the rest; `at` and `lanes` say where it is. */
#define FOR_VECTORS(n, body)                                                                       \
    do {                                                                                           \
        int64_t at = 0;                                                                            \
        for (; at + VF_WIDTH <= (n); at += VF_WIDTH) {                                             \
            const int lanes = VF_WIDTH;                                                            \
            body                                                                                   \
        }                                                                                          \
        if (at < (n)) {                                                                            \
            const int lanes = (int)((n)-at);                                                       \
            body                                                                                   \
        }                                                                                          \
    } while (0)

#define CHUNK_FUNCTION(name, body)                                                                 \
    static void name##_chunk(const float *const *in, float *const *out, int64_t n, float p_value,  \
                             float q_value) {                                                      \
        const vf p = vf_set1(p_value), q = vf_set1(q_value);                                       \
        (void)p, (void)q;                                                                          \
        FOR_VECTORS(n, body);                                                                      \
    }

#define UNARY_CHUNK(name, value, ...)                                                              \
    CHUNK_FUNCTION(name, {                                                                         \
        vf x = load_lanes(in[0] + at, lanes);                                                      \
        store_lanes(out[0] + at, value, lanes);                                                    \
    })
#define UNARY_GRAD_CHUNK(name, value, slope)                                                       \
    CHUNK_FUNCTION(name##_grad, {                                                                  \
        vf x = load_lanes(in[0] + at, lanes);                                                      \
        vf dy = load_lanes(in[1] + at, lanes);                                                     \
        store_lanes(out[0] + at, dy * (slope), lanes);                                             \
    })
#define BINARY_CHUNK(name, value)                                                                  \
    CHUNK_FUNCTION(name, {                                                                         \
        vf a = load_lanes(in[0] + at, lanes);                                                      \
        vf b = load_lanes(in[1] + at, lanes);                                                      \
        store_lanes(out[0] + at, value, lanes);                                                    \
    })
#define TERNARY_CHUNK(name, value)                                                                 \
    CHUNK_FUNCTION(name, {                                                                         \
        vf a = load_lanes(in[0] + at, lanes);                                                      \
        vf b = load_lanes(in[1] + at, lanes);                                                      \
        vf c = load_lanes(in[2] + at, lanes);                                                      \
        store_lanes(out[0] + at, value, lanes);                                                    \
    })
#define TERNARY_PAIR_CHUNK(name, first, second)                                                    \
    CHUNK_FUNCTION(name, {                                                                         \
        vf a = load_lanes(in[0] + at, lanes);                                                      \
        vf b = load_lanes(in[1] + at, lanes);                                                      \
        vf c = load_lanes(in[2] + at, lanes);                                                      \
        vf one = first;                                                                            \
        vf two = second;                                                                           \
        store_lanes(out[0] + at, one, lanes);                                                      \
        store_lanes(out[1] + at, two, lanes);                                                      \
    })

UNARY_CHUNK(identity, x)
KX_UNARY(UNARY_CHUNK)
KX_UNARY(UNARY_GRAD_CHUNK)
KX_AFFINE(UNARY_CHUNK)
KX_BINARY(BINARY_CHUNK)
KX_TERNARY(TERNARY_CHUNK)
KX_TERNARY_PAIR(TERNARY_PAIR_CHUNK)

#define CHUNK_ENTRY(name, ...) [CPU_MAP_##name] = name##_chunk,
#define CHUNK_GRAD_ENTRY(name, ...) [CPU_MAP_##name##_grad] = name##_grad_chunk,
static const chunk_fn chunk_functions[CPU_MAP_COUNT] = {
    CHUNK_ENTRY(identity) /* no comma: the entries end in one */
    KX_UNARY(CHUNK_ENTRY) KX_UNARY(CHUNK_GRAD_ENTRY) KX_AFFINE(CHUNK_ENTRY) KX_BINARY(CHUNK_ENTRY)
        KX_TERNARY(CHUNK_ENTRY) KX_TERNARY_PAIR(CHUNK_ENTRY)};

/* ---- operands in other forms ---- */

static inline float half_from_memory(const uint16_t *p) {
    uint16_t bits;
    memcpy(&bits, p, sizeof bits);
    return kin_f16_to_f32(bits);
}

static inline float bf16_from_memory(const uint16_t *p) {
    uint16_t bits;
    memcpy(&bits, p, sizeof bits);
    return kin_bf16_to_f32(bits);
}

static void read_bf16(const uint16_t *from, int64_t n, float *to) {
    int64_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH) {
        vh half;
        memcpy(&half, from + i, sizeof half);
        vf_store(to + i, vf_from_bf16(half));
    }
    for (; i < n; i++) to[i] = bf16_from_memory(from + i);
}

static void write_bf16(const float *from, int64_t n, uint16_t *to) {
    int64_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH) {
        vh half = vf_to_bf16(vf_load(from + i));
        memcpy(to + i, &half, sizeof half);
    }
    for (; i < n; i++) to[i] = kin_f32_to_bf16(from[i]);
}

static void read_f16(const uint16_t *from, int64_t n, float *to) {
    int64_t i = 0;
#if defined(__F16C__) || defined(KIN_SIMD_AVX512)
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
    for (; i < n; i++) to[i] = half_from_memory(from + i);
}

static void write_f16(const float *from, int64_t n, uint16_t *to) {
    int64_t i = 0;
#if defined(__F16C__) || defined(KIN_SIMD_AVX512)
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < n; i++) to[i] = kin_f32_to_f16(from[i]);
}

/* n elements `stride` apart as floats. */
static void gather(const cpu_map_operand *operand, int64_t offset, int64_t stride, int64_t n,
                   float *to) {
    const unsigned char *base = operand->data;
    const unsigned char *first = base + offset * (int64_t)kin_dtype_size(operand->dtype);
    switch (operand->dtype) {
    case KIN_F32:
        for (int64_t i = 0; i < n; i++) to[i] = ((const float *)(const void *)first)[i * stride];
        break;
    case KIN_BF16: {
        const uint16_t *from = (const void *)first;
        if (stride == 1) read_bf16(from, n, to);
        else
            for (int64_t i = 0; i < n; i++) to[i] = bf16_from_memory(from + i * stride);
        break;
    }
    case KIN_F16: {
        const uint16_t *from = (const void *)first;
        if (stride == 1) read_f16(from, n, to);
        else
            for (int64_t i = 0; i < n; i++) to[i] = half_from_memory(from + i * stride);
        break;
    }
    case KIN_I32:
        for (int64_t i = 0; i < n; i++)
            to[i] = (float)((const int32_t *)(const void *)first)[i * stride];
        break;
    default: /* u8, bool */
        for (int64_t i = 0; i < n; i++) to[i] = (float)first[i * stride];
        break;
    }
}

/* An operand's buffer, and what it was last filled with: a broadcast value is filled in once. */
typedef struct reader {
    float values[CHUNK];
    int64_t constant; /* offset of the element that fills all of values; -1: none */
} reader;

/* n elements as dense floats, in place if they are that already. */
static const float *read_chunk(const cpu_map_operand *operand, int64_t offset, int64_t stride,
                               int64_t n, reader *buffer) {
    if (stride == 1 && operand->dtype == KIN_F32) return (const float *)operand->data + offset;
    if (stride == 0) {
        if (buffer->constant == offset) return buffer->values;
        float value;
        gather(operand, offset, 1, 1, &value);
        for (int i = 0; i < CHUNK; i += VF_WIDTH) vf_store(buffer->values + i, vf_set1(value));
        buffer->constant = offset;
        return buffer->values;
    }
    gather(operand, offset, stride, n, buffer->values);
    return buffer->values;
}

static void write_chunk(const float *from, int64_t n, void *to, kin_dtype dtype, int64_t offset) {
    if (dtype == KIN_BF16) write_bf16(from, n, (uint16_t *)to + offset);
    else if (dtype == KIN_F16) write_f16(from, n, (uint16_t *)to + offset);
}

/* ---- the whole tensor ---- */

/* Where a row of the map starts in each input. */
typedef struct row_position {
    int64_t index[KIN_MAX_RANK];
    int64_t offset[CPU_MAP_INPUTS];
} row_position;

static void find_row(const cpu_map *map, int64_t row, row_position *position) {
    memset(position, 0, sizeof *position);
    for (int axis = map->rank - 2; axis >= 0; axis--) {
        position->index[axis] = row % map->dims[axis];
        row /= map->dims[axis];
        for (int j = 0; j < map->in_count; j++)
            position->offset[j] += position->index[axis] * map->in[j].strides[axis];
    }
}

static void next_row(const cpu_map *map, row_position *position) {
    for (int axis = map->rank - 2; axis >= 0; axis--) {
        for (int j = 0; j < map->in_count; j++) position->offset[j] += map->in[j].strides[axis];
        if (++position->index[axis] < map->dims[axis]) return;
        for (int j = 0; j < map->in_count; j++)
            position->offset[j] -= map->in[j].strides[axis] * map->dims[axis];
        position->index[axis] = 0;
    }
}

/* Elements [first, last) of the result, counted through. */
static void run_range(const cpu_map *map, int64_t first, int64_t last) {
    reader readers[CPU_MAP_INPUTS];
    float results[CPU_MAP_OUTPUTS][CHUNK];
    const int64_t width = map->rank > 0 ? map->dims[map->rank - 1] : 1;
    const chunk_fn function = chunk_functions[map->function];
    int64_t stride[CPU_MAP_INPUTS] = {0};
    for (int j = 0; j < map->in_count; j++) {
        stride[j] = map->rank > 0 ? map->in[j].strides[map->rank - 1] : 0;
        readers[j].constant = -1;
    }
    row_position position;
    find_row(map, first / width, &position);
    int64_t column = first % width;
    for (int64_t at = first; at < last;) {
        int64_t n = width - column < CHUNK ? width - column : CHUNK;
        if (n > last - at) n = last - at;
        const float *in[CPU_MAP_INPUTS] = {NULL};
        float *out[CPU_MAP_OUTPUTS] = {NULL};
        for (int j = 0; j < map->in_count; j++)
            in[j] = read_chunk(&map->in[j], position.offset[j] + column * stride[j], stride[j], n,
                               &readers[j]);
        for (int j = 0; j < map->out_count; j++)
            out[j] = map->out_dtype == KIN_F32 ? (float *)map->out[j] + at : results[j];
        function(in, out, n, map->p, map->q);
        for (int j = 0; j < map->out_count && map->out_dtype != KIN_F32; j++)
            write_chunk(results[j], n, map->out[j], map->out_dtype, at);
        at += n;
        column += n;
        if (column == width) {
            column = 0;
            next_row(map, &position);
        }
    }
}

static void run(const cpu_map *map, int threads) {
    int64_t count = 1;
    for (int i = 0; i < map->rank; i++) count *= map->dims[i];
    if (threads <= 1) {
        run_range(map, 0, count);
        return;
    }
    /* Parts end at multiples of a cache line of outputs. */
    int64_t part = ((count + threads - 1) / threads + 63) / 64 * 64;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < threads; i++) {
        int64_t first = i * part, last = first + part < count ? first + part : count;
        if (first < last) run_range(map, first, last);
    }
}

const cpu_map_table KIN_ISA_NAME(cpu_map) = {run};
