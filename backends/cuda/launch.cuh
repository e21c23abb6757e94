/* Launching kernels from a row's `launch`:
 *     return kin_cuda_launch(device, commands, softmax<float>, dim3(rows), dim3(256), 0,
 *                            x, y, rows, width);
 * The arguments become the kernel's parameters; an integer that does not fit into its parameter is
 * an error. Steps stick in order: later launches of the list see what earlier ones wrote. */
#ifndef KIN_BACKENDS_CUDA_LAUNCH_CUH
#define KIN_BACKENDS_CUDA_LAUNCH_CUH

#include "backends/cuda/cuda.h"
#include "backends/cuda/device.cuh"

#include <tuple>
#include <type_traits>
#include <utility>

/* Everything here is of one file alone, and so must be the types of kernels' parameters: files put
 * theirs into a namespace without a name. */
namespace {

template <typename T> bool kin_is_negative(T value) {
    if constexpr (std::is_signed_v<T>) return value < T(0);
    else return (void)value, false;
}

/* One argument as its parameter's type; clears *fits where an integer loses its value. */
template <typename P, typename A> P kin_cuda_argument(const A &value, bool *fits) {
    if constexpr (std::is_same_v<P, A>) {
        return value;
    } else if constexpr (std::is_integral_v<P> && std::is_integral_v<A>) {
        const P cut = static_cast<P>(value);
        if (static_cast<A>(cut) != value || kin_is_negative(cut) != kin_is_negative(value))
            *fits = false;
        return cut;
    } else if constexpr (std::is_pointer_v<P> && std::is_pointer_v<A>) {
        return (P)value; /* from kin_cuda_address's void * */
    } else {
        return static_cast<P>(value);
    }
}

#ifdef KIN_CUDA_EMULATED
template <typename... P> struct kin_cuda_emulated_call {
    template <size_t... I>
    static void apply(void (*kernel)(P...), void *const *arguments, std::index_sequence<I...>) {
        (void)arguments;
        kernel(*static_cast<P *>(arguments[I])...);
    }
    static void run(const void *kernel, void *const *arguments) {
        apply((void (*)(P...))kernel, arguments, std::index_sequence_for<P...>());
    }
};
#endif

template <typename... P, size_t... I>
kin_status kin_cuda_launch_tuple(kin_device *device, kin_commands *commands, void (*kernel)(P...),
                                 dim3 grid, dim3 block, size_t shared, std::tuple<P...> &values,
                                 std::index_sequence<I...>) {
    void *arguments[] = {static_cast<void *>(&std::get<I>(values))..., nullptr};
    const size_t sizes[] = {sizeof(P)..., 0}, alignments[] = {alignof(P)..., 0};
    kin_cuda_launch_record record = {};
    record.kernel = (const void *)kernel;
#ifdef KIN_CUDA_EMULATED
    record.emulated = kin_cuda_emulated_call<P...>::run;
#endif
    record.grid[0] = grid.x, record.grid[1] = grid.y, record.grid[2] = grid.z;
    record.block[0] = block.x, record.block[1] = block.y, record.block[2] = block.z;
    record.shared = shared;
    record.argument_count = sizeof...(P);
    record.arguments = arguments;
    return kin_cuda_add_launch(device, commands, &record, sizes, alignments);
}

template <typename... P, typename... A>
kin_status kin_cuda_launch(kin_device *device, kin_commands *commands, void (*kernel)(P...),
                           dim3 grid, dim3 block, size_t shared, const A &...arguments) {
    static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter");
    bool fits = true;
    std::tuple<P...> values(kin_cuda_argument<P>(arguments, &fits)...);
    if (!fits)
        return kin_fail(device->context, KIN_UNSUPPORTED,
                        "cuda: a size of this call does not fit into 32 bits");
    return kin_cuda_launch_tuple(device, commands, kernel, grid, block, shared, values,
                                 std::index_sequence_for<P...>());
}

} // namespace

/* Blocks of `size` that cover `count`; 0 for none. A count beyond what a grid takes gives one that
 * kin_cuda_add_launch refuses. */
static inline unsigned kin_cuda_blocks(int64_t count, int64_t size) {
    int64_t blocks = (count + size - 1) / size;
    return blocks > INT32_MAX ? UINT32_MAX : (unsigned)blocks;
}

/* An operand for kernels that look at its dtype themselves. */
static inline kin_ref kin_ref_of(const kin_operand *operand) {
    return kin_ref{kin_cuda_address(operand), (int)operand->desc.dtype};
}
static inline kin_ref kin_no_ref() {
    return kin_ref{nullptr, KIN_F32};
}

/* True if element 0 lies where packs of 8 elements may start. */
static inline bool kin_cuda_is_aligned(const kin_operand *operand) {
    return (uintptr_t)kin_cuda_address(operand) % 16 == 0;
}

/* Runs body with a value of the dtype's storage type: kin_with_real(dtype, [&](auto zero) {
 * using T = decltype(zero); ... }). The dtype is f32, f16 or bf16. */
template <typename F> kin_status kin_with_real(kin_dtype dtype, F &&body) {
    if (dtype == KIN_F16) return body(kin_f16{});
    if (dtype == KIN_BF16) return body(kin_bf16{});
    return body(0.0f);
}

#endif
