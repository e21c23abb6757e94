/* Dtypes, shapes and conversions.
 *
 * Conversions to integers cut towards zero, saturate, and turn NaN into 0; conversions to bool are
 * "not equal to zero". Memory may be unaligned (safetensors promises nothing), so every element is
 * read and written through memcpy, which compilers turn into plain vector loads and stores. */
#include "runtime/tensor.h"

#include <stdio.h>
#include <string.h>

enum { CHUNK = 1024, BLOCK = 32, BLOCK_BYTES = 34 };

typedef struct dtype_info {
    const char *name;
    size_t size;
    bool is_float;
} dtype_info;

static const dtype_info dtypes[KIN_DTYPE_COUNT] = {
    [KIN_F32] = {"f32", 4, true},    [KIN_F16] = {"f16", 2, true},  [KIN_BF16] = {"bf16", 2, true},
    [KIN_I32] = {"i32", 4, false},   [KIN_I64] = {"i64", 8, false}, [KIN_U8] = {"u8", 1, false},
    [KIN_BOOL] = {"bool", 1, false}, [KIN_F64] = {"f64", 8, true},  [KIN_Q8_0] = {"q8_0", 0, true},
};

static bool dtype_is_known(kin_dtype dtype) {
    return (int)dtype >= 0 && dtype < KIN_DTYPE_COUNT;
}

size_t kin_dtype_size(kin_dtype dtype) {
    return dtype_is_known(dtype) ? dtypes[dtype].size : 0;
}

const char *kin_dtype_name(kin_dtype dtype) {
    return dtype_is_known(dtype) ? dtypes[dtype].name : "unknown";
}

bool kin_dtype_from_name(const char *name, kin_dtype *out_dtype) {
    for (int i = 0; i < KIN_DTYPE_COUNT; i++) {
        if (name != NULL && strcmp(name, dtypes[i].name) == 0) {
            *out_dtype = (kin_dtype)i;
            return true;
        }
    }
    return false;
}

bool kin_dtype_is_float(kin_dtype dtype) {
    return dtype_is_known(dtype) && dtypes[dtype].is_float;
}

/* a * b for a, b >= 0, or INT64_MAX if it does not fit. */
static int64_t multiply_saturated(int64_t a, int64_t b) {
    if (a == 0 || b == 0) return 0;
    return a > INT64_MAX / b ? INT64_MAX : a * b;
}

kin_desc kin_desc_dense(kin_dtype dtype, int rank, const int64_t *dims) {
    kin_desc desc = {.dtype = dtype, .rank = rank};
    if (desc.rank < 0) desc.rank = 0;
    if (desc.rank > KIN_MAX_RANK) desc.rank = KIN_MAX_RANK;
    int64_t stride = 1;
    for (int i = desc.rank - 1; i >= 0; i--) {
        desc.dims[i] = dims[i];
        desc.strides[i] = stride;
        /* As in PyTorch, an empty axis counts as 1 in the strides. */
        stride = multiply_saturated(stride, dims[i] > 1 ? dims[i] : 1);
    }
    return desc;
}

int64_t kin_desc_count(const kin_desc *desc) {
    int64_t count = 1;
    for (int i = 0; i < desc->rank; i++)
        if (desc->dims[i] <= 0) return 0;
    for (int i = 0; i < desc->rank; i++) count = multiply_saturated(count, desc->dims[i]);
    return count;
}

/* SIZE_MAX if the number does not fit: no allocator grants that. */
size_t kin_desc_bytes(const kin_desc *desc) {
    int64_t count = kin_desc_count(desc);
    int64_t unit = (int64_t)kin_dtype_size(desc->dtype);
    if (desc->dtype == KIN_Q8_0) {
        int64_t last = desc->rank > 0 ? desc->dims[desc->rank - 1] : 1;
        if (count == 0) return 0;
        if (count == INT64_MAX) return SIZE_MAX;
        count = multiply_saturated(count / last, last / BLOCK + (last % BLOCK != 0 ? 1 : 0));
        unit = BLOCK_BYTES;
    }
    int64_t bytes = multiply_saturated(count, unit);
    return bytes == INT64_MAX || (uint64_t)bytes > SIZE_MAX ? SIZE_MAX : (size_t)bytes;
}

bool kin_desc_is_dense(const kin_desc *desc) {
    if (kin_desc_count(desc) == 0) return true;
    int64_t stride = 1;
    for (int i = desc->rank - 1; i >= 0; i--) {
        if (desc->dims[i] == 1) continue;
        if (desc->strides[i] != stride) return false;
        stride = multiply_saturated(stride, desc->dims[i]);
    }
    return true;
}

bool kin_desc_same_shape(const kin_desc *a, const kin_desc *b) {
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i]) return false;
    return true;
}

const char *kin_desc_shape_text(const kin_desc *desc, char *text, size_t size) {
    size_t used = 0;
    if (size == 0) return text;
    for (int i = -1; i <= desc->rank && used < size; i++) {
        int length = i == -1           ? snprintf(text + used, size - used, "[")
                     : i == desc->rank ? snprintf(text + used, size - used, "]")
                                       : snprintf(text + used, size - used, "%s%lld",
                                                  i > 0 ? ", " : "", (long long)desc->dims[i]);
        if (length < 0) break;
        used += (size_t)length;
    }
    return text;
}

/* ---- single values ---- */

static inline uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t to_bf16(float value) {
    uint32_t bits = float_bits(value);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded);
}

static inline float from_bf16(uint16_t half) {
    return bits_float((uint32_t)half << 16);
}

/* All cases are computed and one is selected, so that a loop of these needs no branch. */
static inline uint16_t to_f16(float value) {
    uint32_t bits = float_bits(value);
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    uint32_t normal = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - ((uint32_t)112 << 23)) >> 13;
    /* The last place of 0.5 is 2^-24, the step of f16's subnormals: adding rounds to it. */
    uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - 0x3F000000u;
    uint32_t nan = 0x7E00u | ((magnitude >> 13) & 0x3FFu);
    uint32_t half = magnitude < 0x38800000u ? subnormal : normal; /* below 2^-14 */
    half = magnitude >= 0x47800000u ? 0x7C00u : half;             /* 2^16 and above */
    half = magnitude > 0x7F800000u ? nan : half;
    return (uint16_t)(half | ((bits >> 16) & 0x8000u));
}

static inline float from_f16(uint16_t half) {
    uint32_t sign = ((uint32_t)half & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)half & 0x7FFFu;
    uint32_t normal = (magnitude << 13) + ((uint32_t)112 << 23);
    uint32_t special = (magnitude << 13) | 0x7F800000u;
    /* No subnormal f32 is touched: threads may run with those flushed to zero. */
    uint32_t subnormal = float_bits((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t bits = magnitude < 0x400u ? subnormal : normal;
    bits = magnitude >= 0x7C00u ? special : bits;
    return bits_float(bits | sign);
}

uint16_t kin_f32_to_bf16(float value) {
    return to_bf16(value);
}

float kin_bf16_to_f32(uint16_t bits) {
    return from_bf16(bits);
}

uint16_t kin_f32_to_f16(float value) {
    return to_f16(value);
}

float kin_f16_to_f32(uint16_t bits) {
    return from_f16(bits);
}

/* f64 to f32 with "round to odd": a second rounding to f16 or bf16 is then the right one. */
static float narrow_to_odd(double value) {
    float result = (float)value;
    if ((double)result == value || value != value) return result;
    uint32_t bits = float_bits(result);
    double magnitude = value < 0 ? -value : value;
    if ((double)bits_float(bits & 0x7FFFFFFFu) > magnitude) bits--;
    return bits_float(bits | 1u);
}

static int64_t clamp_to_int(double value, int64_t low, int64_t high) {
    if (value != value) return 0;
    if (value <= (double)low) return low;
    if (value >= (double)high) return high;
    return (int64_t)value;
}

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

/* ---- loads and stores ---- */

#define DEFINE_ACCESS(type)                                                                        \
    static inline type load_##type(const void *data, int64_t index) {                              \
        type value;                                                                                \
        memcpy(&value, (const unsigned char *)data + (size_t)index * sizeof value, sizeof value);  \
        return value;                                                                              \
    }                                                                                              \
    static inline void store_##type(void *data, int64_t index, type value) {                       \
        memcpy((unsigned char *)data + (size_t)index * sizeof value, &value, sizeof value);        \
    }

DEFINE_ACCESS(float)
DEFINE_ACCESS(double)
DEFINE_ACCESS(int32_t)
DEFINE_ACCESS(int64_t)
DEFINE_ACCESS(uint16_t)
DEFINE_ACCESS(uint8_t)

/* ---- q8_0: an f16 scale and 32 signed bytes ---- */

static void q8_0_to_f32(const unsigned char *block, float *restrict target) {
    float scale = from_f16(load_uint16_t(block, 0));
    const int8_t *values = (const int8_t *)(block + 2);
    for (int i = 0; i < BLOCK; i++) target[i] = scale * (float)values[i];
}

/* The scale is max|x| / 127, rounded to f16; the values are rounded with that rounded scale. A
 * block that holds a NaN or an infinity becomes all NaN, since hiding one would be worse. */
static void f32_to_q8_0(const float *restrict source, unsigned char *block) {
    uint32_t largest = 0;
    for (int i = 0; i < BLOCK; i++) {
        uint32_t magnitude = float_bits(source[i]) & 0x7FFFFFFFu;
        largest = magnitude > largest ? magnitude : largest;
    }
    int8_t *values = (int8_t *)(block + 2);
    if (largest >= 0x7F800000u) {
        store_uint16_t(block, 0, 0x7E00u);
        memset(values, 1, BLOCK);
        return;
    }
    uint16_t half = to_f16(bits_float(largest) / 127.0f);
    if (half >= 0x7C00u) half = 0x7BFFu;
    store_uint16_t(block, 0, half);
    float scale = from_f16(half);
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        float value = source[i] * inverse;
        value = value > 127.0f ? 127.0f : value;
        value = value < -127.0f ? -127.0f : value;
        /* Adding 1.5 * 2^23 rounds to an integer, nearest even, and leaves it in the low bits. */
        values[i] = (int8_t)(int32_t)(float_bits(value + 12582912.0f) - 0x4B400000u);
    }
}

double kin_element_get(const void *data, kin_dtype dtype, int64_t index) {
    switch (dtype) {
    case KIN_F32:
        return load_float(data, index);
    case KIN_F16:
        return from_f16(load_uint16_t(data, index));
    case KIN_BF16:
        return from_bf16(load_uint16_t(data, index));
    case KIN_I32:
        return load_int32_t(data, index);
    case KIN_I64:
        return (double)load_int64_t(data, index);
    case KIN_U8:
        return load_uint8_t(data, index);
    case KIN_BOOL:
        return load_uint8_t(data, index) != 0 ? 1.0 : 0.0;
    case KIN_F64:
        return load_double(data, index);
    case KIN_Q8_0: {
        const unsigned char *block = (const unsigned char *)data + index / BLOCK * BLOCK_BYTES;
        const int8_t *values = (const int8_t *)(block + 2);
        return (double)from_f16(load_uint16_t(block, 0)) * values[index % BLOCK];
    }
    case KIN_DTYPE_COUNT:
        break;
    }
    return 0.0;
}

/* In a q8_0 block the scale stays as it is: the value is rounded to its steps. */
static void set_in_q8_0(unsigned char *block, int position, double value) {
    double scale = from_f16(load_uint16_t(block, 0));
    double step = scale > 0.0 ? value / scale : 0.0;
    int64_t nearest = clamp_to_int(step < 0 ? step - 0.5 : step + 0.5, -127, 127);
    ((int8_t *)(block + 2))[position] = (int8_t)nearest;
}

void kin_element_set(void *data, kin_dtype dtype, int64_t index, double value) {
    switch (dtype) {
    case KIN_F32:
        store_float(data, index, (float)value);
        break;
    case KIN_F16:
        store_uint16_t(data, index, to_f16(narrow_to_odd(value)));
        break;
    case KIN_BF16:
        store_uint16_t(data, index, to_bf16(narrow_to_odd(value)));
        break;
    case KIN_I32:
        store_int32_t(data, index, (int32_t)clamp_to_int(value, INT32_MIN, INT32_MAX));
        break;
    case KIN_I64:
        store_int64_t(data, index, clamp_to_int(value, INT64_MIN, INT64_MAX));
        break;
    case KIN_U8:
        store_uint8_t(data, index, (uint8_t)clamp_to_int(value, 0, UINT8_MAX));
        break;
    case KIN_BOOL:
        store_uint8_t(data, index, value != 0.0 ? 1 : 0);
        break;
    case KIN_F64:
        store_double(data, index, value);
        break;
    case KIN_Q8_0:
        set_in_q8_0((unsigned char *)data + index / BLOCK * BLOCK_BYTES, (int)(index % BLOCK),
                    value);
        break;
    case KIN_DTYPE_COUNT:
        break;
    }
}

/* ---- arrays ---- */

static void to_f32_array(const void *source, kin_dtype dtype, float *restrict target,
                         int64_t count) {
    switch (dtype) {
    case KIN_F32:
        memcpy(target, source, (size_t)count * sizeof *target);
        break;
    case KIN_F16:
        for (int64_t i = 0; i < count; i++) target[i] = from_f16(load_uint16_t(source, i));
        break;
    case KIN_BF16:
        for (int64_t i = 0; i < count; i++) target[i] = from_bf16(load_uint16_t(source, i));
        break;
    case KIN_I32:
        for (int64_t i = 0; i < count; i++) target[i] = (float)load_int32_t(source, i);
        break;
    case KIN_I64:
        for (int64_t i = 0; i < count; i++) target[i] = (float)load_int64_t(source, i);
        break;
    case KIN_U8:
        for (int64_t i = 0; i < count; i++) target[i] = (float)load_uint8_t(source, i);
        break;
    case KIN_BOOL:
        for (int64_t i = 0; i < count; i++) target[i] = load_uint8_t(source, i) != 0 ? 1.0f : 0.0f;
        break;
    case KIN_F64:
        for (int64_t i = 0; i < count; i++) target[i] = (float)load_double(source, i);
        break;
    case KIN_Q8_0: {
        const unsigned char *block = source;
        for (int64_t i = 0; i < count; i += BLOCK, block += BLOCK_BYTES) {
            float values[BLOCK];
            int64_t rest = count - i < BLOCK ? count - i : BLOCK;
            q8_0_to_f32(block, values);
            memcpy(target + i, values, (size_t)rest * sizeof *values);
        }
        break;
    }
    case KIN_DTYPE_COUNT:
        break;
    }
}

static void from_f32_array(const float *restrict source, void *target, kin_dtype dtype,
                           int64_t count) {
    switch (dtype) {
    case KIN_F32:
        memcpy(target, source, (size_t)count * sizeof *source);
        break;
    case KIN_F16:
        for (int64_t i = 0; i < count; i++) store_uint16_t(target, i, to_f16(source[i]));
        break;
    case KIN_BF16:
        for (int64_t i = 0; i < count; i++) store_uint16_t(target, i, to_bf16(source[i]));
        break;
    case KIN_Q8_0: {
        unsigned char *block = target;
        for (int64_t i = 0; i < count; i += BLOCK, block += BLOCK_BYTES) {
            float values[BLOCK] = {0};
            int64_t rest = count - i < BLOCK ? count - i : BLOCK;
            memcpy(values, source + i, (size_t)rest * sizeof *values);
            f32_to_q8_0(values, block);
        }
        break;
    }
    case KIN_F64:
        for (int64_t i = 0; i < count; i++) store_double(target, i, source[i]);
        break;
    default:
        for (int64_t i = 0; i < count; i++) kin_element_set(target, dtype, i, source[i]);
        break;
    }
}

static bool is_integer(kin_dtype dtype) {
    return dtype == KIN_I32 || dtype == KIN_I64 || dtype == KIN_U8 || dtype == KIN_BOOL;
}

/* Exact beyond 2^53 too, which a double is not. */
static void convert_integers(const void *source, kin_dtype source_dtype, void *target,
                             kin_dtype target_dtype, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        int64_t value = source_dtype == KIN_I64    ? load_int64_t(source, i)
                        : source_dtype == KIN_I32  ? load_int32_t(source, i)
                        : source_dtype == KIN_BOOL ? load_uint8_t(source, i) != 0
                                                   : load_uint8_t(source, i);
        if (target_dtype == KIN_I64) store_int64_t(target, i, value);
        else if (target_dtype == KIN_I32)
            store_int32_t(target, i, (int32_t)clamp(value, INT32_MIN, INT32_MAX));
        else if (target_dtype == KIN_U8)
            store_uint8_t(target, i, (uint8_t)clamp(value, 0, UINT8_MAX));
        else store_uint8_t(target, i, value != 0 ? 1 : 0);
    }
}

/* Bytes of `count` elements; q8_0 is only ever cut at whole blocks. */
static size_t bytes_of(kin_dtype dtype, int64_t count) {
    if (dtype == KIN_Q8_0) return (size_t)((count + BLOCK - 1) / BLOCK) * BLOCK_BYTES;
    return (size_t)count * kin_dtype_size(dtype);
}

/* Pairs that f32 carries without a loss beyond the one that the target brings. */
static bool goes_through_f32(kin_dtype source, kin_dtype target) {
    if (source == KIN_Q8_0 || target == KIN_Q8_0 || source == KIN_F32 || target == KIN_F32)
        return true;
    return source != KIN_F64 && source != KIN_I32 && source != KIN_I64;
}

void kin_convert(const void *source, kin_dtype source_dtype, void *target, kin_dtype target_dtype,
                 int64_t count) {
    if (count <= 0 || !dtype_is_known(source_dtype) || !dtype_is_known(target_dtype)) return;
    if (source_dtype == target_dtype) {
        memmove(target, source, bytes_of(source_dtype, count));
        return;
    }
    if (is_integer(source_dtype) && is_integer(target_dtype)) {
        convert_integers(source, source_dtype, target, target_dtype, count);
        return;
    }
    if (!goes_through_f32(source_dtype, target_dtype)) {
        for (int64_t i = 0; i < count; i++)
            kin_element_set(target, target_dtype, i, kin_element_get(source, source_dtype, i));
        return;
    }
    for (int64_t done = 0; done < count; done += CHUNK) {
        float values[CHUNK]; /* stays in the first cache */
        int64_t part = count - done < CHUNK ? count - done : CHUNK;
        to_f32_array((const unsigned char *)source + bytes_of(source_dtype, done), source_dtype,
                     values, part);
        from_f32_array(values, (unsigned char *)target + bytes_of(target_dtype, done), target_dtype,
                       part);
    }
}

/* ---- host tensors ---- */

kin_status kin_host_tensor_create(kin_context *context, kin_dtype dtype, int rank,
                                  const int64_t *dims, kin_host_tensor *out_tensor) {
    *out_tensor = (kin_host_tensor){0};
    if (!dtype_is_known(dtype))
        return kin_fail(context, KIN_INVALID, "a tensor of the unknown dtype %d", (int)dtype);
    if (rank < 0 || rank > KIN_MAX_RANK)
        return kin_fail(context, KIN_INVALID, "a tensor of rank %d; 0 to %d are possible", rank,
                        KIN_MAX_RANK);
    for (int i = 0; i < rank; i++)
        if (dims[i] < 0)
            return kin_fail(context, KIN_INVALID, "a tensor whose axis %d has the size %lld", i,
                            (long long)dims[i]);
    kin_desc desc = kin_desc_dense(dtype, rank, dims);
    size_t bytes = kin_desc_bytes(&desc);
    char shape[256];
    if (bytes == SIZE_MAX)
        return kin_fail(context, KIN_OUT_OF_MEMORY, "a tensor %s %s has more bytes than fit",
                        kin_dtype_name(dtype), kin_desc_shape_text(&desc, shape, sizeof shape));
    void *data = kin_alloc(context, bytes);
    if (data == NULL)
        return kin_fail(context, KIN_OUT_OF_MEMORY, "out of memory: %zu bytes for a tensor %s %s",
                        bytes, kin_dtype_name(dtype),
                        kin_desc_shape_text(&desc, shape, sizeof shape));
    out_tensor->desc = desc;
    out_tensor->data = data;
    return KIN_OK;
}

void kin_host_tensor_free(kin_context *context, kin_host_tensor *tensor) {
    if (tensor == NULL) return;
    kin_free(context, tensor->data);
    *tensor = (kin_host_tensor){0};
}
