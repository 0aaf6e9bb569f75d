// The order of launches that overlap (launch_early.cuh), from inside a kernel.
#ifndef OCTET_KERNELS_CUDA_GRID_ORDER_CUH_
#define OCTET_KERNELS_CUDA_GRID_ORDER_CUH_

namespace octet::cuda {

// A launch that may start before the one ahead of it has ended must not read that one's results
// before GridWait. GridTrigger lets the next one start.
__device__ __forceinline__ void GridWait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void GridTrigger() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_GRID_ORDER_CUH_
