/* One launch for the calls of several neighbours: a kernel has one parameter, its item, and a twin
 * that takes a table of items. commands.c makes the table when a list ends, and launches the twin
 * for all of them where no call of the run touches what another one writes; a list that is timed
 * launches each by itself. Both run the same code over the same blocks, so bits do not change.
 *     static __global__ void f(item one) { work(one, blockIdx.x); }
 *     static __global__ void fs(const item *items, const unsigned *first, int count) {
 *         const kin_joined_place at = kin_joined_find(first, count);
 *         work(items[at.item], at.block);
 *     }
 *     return kin_cuda_launch_joined(device, commands, f, fs, blocks, threads, one);
 * It is worth its while for many small tensors: some 2 us for each launch that is saved. */
#ifndef KIN_BACKENDS_CUDA_JOINED_CUH
#define KIN_BACKENDS_CUDA_JOINED_CUH

#include "backends/cuda/launch.cuh"

namespace {

struct kin_joined_place {
    int item;
    unsigned block; /* of the item */
};

/* What this block works on: the item whose blocks first[item] .. first[item + 1] - 1 it is one of.
 * The block's threads look at the list side by side, which costs one read of it from the L2 cache.
 * All threads of the block must call, once. */
static __device__ __forceinline__ kin_joined_place kin_joined_find(const unsigned *first,
                                                                   int count) {
    __shared__ int found;
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x)
        if (first[i] <= blockIdx.x && blockIdx.x < first[i + 1]) found = i;
    __syncthreads();
    return {found, blockIdx.x - first[found]};
}

/* A pointer that came by way of an item is known to be one into the device's memory, as kernels'
 * parameters are. */
template <typename T> static __device__ __forceinline__ T *kin_joined_pointer(void *p) {
#ifndef KIN_CUDA_EMULATED
    __builtin_assume(__isGlobal(p));
#endif
    return static_cast<T *>(p);
}

template <typename T>
kin_status kin_cuda_launch_joined(kin_device *device, kin_commands *commands, void (*kernel)(T),
                                  void (*joined)(const T *, const unsigned *, int), unsigned blocks,
                                  unsigned threads, const T &item) {
    static_assert(std::is_trivially_copyable_v<T>, "items are copied to the device as bytes");
    kin_cuda_joined_kernel twin = {};
    twin.kernel = (const void *)joined;
#ifdef KIN_CUDA_EMULATED
    twin.emulated = kin_cuda_emulated_call<const T *, const unsigned *, int>::run;
#endif
    kin_status status =
        kin_cuda_launch(device, commands, kernel, dim3(blocks), dim3(threads), 0, item);
    return status == KIN_OK && blocks > 0 ? kin_cuda_may_join(device, commands, &twin) : status;
}

} // namespace

#endif
