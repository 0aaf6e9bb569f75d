// The Hopper instructions (sm_90a) that the bf16 experts use: mbarriers, bulk tensor copies,
// warpgroup matrix products, and what clusters and dependent launches need. One thin function each;
// the PTX manual is their contract.
#ifndef OCTET_KERNELS_CUDA_HOPPER_CUH_
#define OCTET_KERNELS_CUDA_HOPPER_CUH_

#include <cuda.h>

#include <cstdint>

namespace octet::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- Barriers in shared memory ----

__device__ __forceinline__ void InitBarrier(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine and to the cluster.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void ArriveExpect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives at the barrier that lies at the same place in CTA `rank` of the cluster. Orders no
// ordinary stores before it: for shared memory that only the copy engine and the tensor cores use.
__device__ __forceinline__ void ArriveAt(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// The same after this thread's stores: who waits with WaitCluster sees them.
__device__ __forceinline__ void ArriveReleaseAt(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

__device__ __forceinline__ bool TryWait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

__device__ __forceinline__ bool TryWaitCluster(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// Until the phase of `parity` is complete.
__device__ __forceinline__ void Wait(uint32_t barrier, uint32_t parity) {
  while (!TryWait(barrier, parity)) {
  }
}

// As Wait, and what other CTAs of the cluster stored before they arrived is visible after it.
__device__ __forceinline__ void WaitCluster(uint32_t barrier, uint32_t parity) {
  while (!TryWaitCluster(barrier, parity)) {
  }
}

// ---- Clusters and launches ----

__device__ __forceinline__ uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of the cluster, whichever way each came here.
__device__ __forceinline__ void ClusterSync() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n" ::: "memory");
}

// Stores four words at the same place in CTA `rank` of the cluster.
__device__ __forceinline__ void StoreAt(uint32_t address, uint32_t rank, uint4 v) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.v4.u32 [remote], {%2, %3, %4, %5};\n"
      "}\n" ::"r"(address),
      "r"(rank), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
      : "memory");
}

__device__ __forceinline__ void StoreShared(uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

__device__ __forceinline__ uint4 LoadShared(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// Two 8x8 matrices of 2-byte elements, transposed: lanes 0-7 and 8-15 give the addresses of the
// columns of the first and the second.
__device__ __forceinline__ void StoreTransposed(uint32_t address, uint32_t first, uint32_t second) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address),
               "r"(first), "r"(second)
               : "memory");
}

// Of a kernel launched before the one it depends on has ended: waits for that one's end.
__device__ __forceinline__ void WaitForPrevious() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

__device__ __forceinline__ void LetNextStart() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

template <int kRegisters>
__device__ __forceinline__ void GrowRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void ShrinkRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kThreads>
__device__ __forceinline__ void NamedBarrier(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

// ---- The copy engine ----

// A box of a 2D tensor to shared memory; `barrier` counts its bytes.
__device__ __forceinline__ void LoadBox(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                        uint32_t column, uint32_t row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}

// The same to the same place in every CTA of `mask`, each counting in its own barrier.
__device__ __forceinline__ void LoadBoxMulticast(uint32_t to, const CUtensorMap* map,
                                                 uint32_t barrier, uint32_t column, uint32_t row,
                                                 uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "h"(mask)
      : "memory");
}

// Orders ordinary accesses to global memory and those of the copy engine.
__device__ __forceinline__ void FenceAsyncGlobal() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

// A tensor map in shared memory gets another address.
__device__ __forceinline__ void SetMapAddress(uint32_t shared_map, const void* address) {
  asm volatile(
      "tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%0], %1;" ::"r"(shared_map),
      "l"(address)
      : "memory");
}

// Publishes a tensor map of shared memory to global memory; by a whole warp.
__device__ __forceinline__ void PublishMap(CUtensorMap* to, uint32_t shared_map) {
  asm volatile(
      "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned"
      " [%0], [%1], 128;" ::"l"(to),
      "r"(shared_map)
      : "memory");
}

// Before the first copy through a map that the device wrote.
__device__ __forceinline__ void AcquireMap(const CUtensorMap* map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}

// ---- Across CTAs, in global memory ----

__device__ __forceinline__ void AddRelease(uint32_t* to, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}

// ---- Matrix products of a warpgroup ----

// Names a tile in shared memory whose rows are 64 bf16 along K (128 bytes) in the 128-byte swizzle:
// 16-byte unit u of row r lies at unit u ^ (r % 8). Tiles start at multiples of 1024 bytes, and
// groups of 8 rows follow each other. The next 16 along K are at descriptor + 2.
__device__ __forceinline__ uint64_t TileDescriptor(uint32_t address) {
  constexpr uint64_t kRowGroupStride = 1024 >> 4;
  constexpr uint64_t kLeading = 1;  // ignored in this layout
  constexpr uint64_t kSwizzle128 = 1;
  return (address & 0x3ffff) >> 4 | kLeading << 16 | kRowGroupStride << 32 | kSwizzle128 << 62;
}

__device__ __forceinline__ void BeginProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void WaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving other uses of accumulators across this point: it does not know
// that the instructions above write them late.
template <int kCount>
__device__ __forceinline__ void PinAccumulators(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define OCTET_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define OCTET_D8(i) OCTET_D4(i), OCTET_D4(i + 4)
#define OCTET_D16(i) OCTET_D8(i), OCTET_D8(i + 8)
#define OCTET_D32(i) OCTET_D16(i), OCTET_D16(i + 16)
#define OCTET_D64(i) OCTET_D32(i), OCTET_D32(i + 32)
#define OCTET_D128(i) OCTET_D64(i), OCTET_D64(i + 64)
#define OCTET_P4 "%0, %1, %2, %3"
#define OCTET_P8 OCTET_P4 ", %4, %5, %6, %7"
#define OCTET_P16 OCTET_P8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define OCTET_P32                                                          \
  OCTET_P16                                                                \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29" \
  ", %30, %31"
#define OCTET_P64                                                          \
  OCTET_P32                                                                \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45" \
  ", %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59" \
  ", %60, %61, %62, %63"
#define OCTET_P128                                                                           \
  OCTET_P64                                                                                  \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"         \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"         \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, " \
  "%111"                                                                                     \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, "   \
  "%126, %127"
#define OCTET_PRODUCT(shape, places, a_place, b_place, outputs)                                  \
  asm volatile(                                                                                  \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                                 \
      "wgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" places "}, " a_place ", " b_place \
      ", p, 1, 1, 0, 0;\n}\n"                                                                    \
      : outputs                                                                                  \
      : "l"(a), "l"(b))

// d += A Bᵀ over 16 along K: A of 64 rows, B of kColumns rows. Thread 32 w + 4 g + t holds in
// d[4 i + 2 h + j] row 16 w + g + 8 h, column 8 i + 2 t + j.
template <int kColumns>
__device__ __forceinline__ void Product(float (&d)[kColumns / 2], uint64_t a, uint64_t b) {
  if constexpr (kColumns == 8) {
    OCTET_PRODUCT("m64n8k16", OCTET_P4, "%4", "%5", OCTET_D4(0));
  } else if constexpr (kColumns == 16) {
    OCTET_PRODUCT("m64n16k16", OCTET_P8, "%8", "%9", OCTET_D8(0));
  } else if constexpr (kColumns == 32) {
    OCTET_PRODUCT("m64n32k16", OCTET_P16, "%16", "%17", OCTET_D16(0));
  } else if constexpr (kColumns == 64) {
    OCTET_PRODUCT("m64n64k16", OCTET_P32, "%32", "%33", OCTET_D32(0));
  } else if constexpr (kColumns == 128) {
    OCTET_PRODUCT("m64n128k16", OCTET_P64, "%64", "%65", OCTET_D64(0));
  } else {
    static_assert(kColumns == 256);
    OCTET_PRODUCT("m64n256k16", OCTET_P128, "%128", "%129", OCTET_D128(0));
  }
}

#undef OCTET_D4
#undef OCTET_D8
#undef OCTET_D16
#undef OCTET_D32
#undef OCTET_D64
#undef OCTET_D128
#undef OCTET_P4
#undef OCTET_P8
#undef OCTET_P16
#undef OCTET_P32
#undef OCTET_P64
#undef OCTET_P128
#undef OCTET_PRODUCT

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_HOPPER_CUH_
