// Where and with what a kernel runs. One ExecContext belongs to one issuing thread.
#ifndef OCTET_KERNELS_EXEC_CONTEXT_H_
#define OCTET_KERNELS_EXEC_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tensor_view.h"

namespace octet {

// Instruction sets with kernels of their own. All give the same bits; a higher one is only faster.
enum class CpuLevel : uint8_t { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kAmx = 3 };

// The highest level this CPU runs (kAvx512 needs F, BW, DQ, VL and VNNI; kAmx also tiles of
// int8, which the system grants to this process at the first call).
CpuLevel DetectCpuLevel();
// "scalar", "avx2", "avx512", "amx", or "auto". UNIMPLEMENTED where this CPU lacks it.
absl::StatusOr<CpuLevel> CpuLevelFromName(absl::string_view name);
std::string CpuLevelName(CpuLevel level);

// Fork-join pool for kernels. The calling thread takes part, so `threads` = 1 starts none. Workers
// spin for a bounded time (not at all where there are fewer cores than threads) and then sleep on a
// futex. One ParallelFor at a time: the pool belongs to the thread that issues
// kernels.
class ThreadPool {
 public:
  // Thread t runs on core cores[t % cores.size()]; on any core where `cores` is empty or the system
  // refuses. Thread 0 is the caller, which is bound by PinCaller alone. Without `spin` threads
  // sleep at once, for cores that other processes compute on too.
  explicit ThreadPool(int threads, std::vector<int> cores = {}, bool spin = true);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  // Binds the calling thread, which is to call ParallelFor, to the core of thread 0. Threads that
  // it starts later inherit that. Cheap when repeated.
  void PinCaller() const;
  // Calls fn(index, thread) for every index in [0, count), each exactly once, spread over the
  // threads, and returns when all are done. `thread` is in [0, threads()).
  void ParallelFor(size_t count, absl::FunctionRef<void(size_t index, int thread)> fn);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Scratch memory of the kernels of one issuing thread: a stack that grows to the high-water mark
// during the first steps and allocates nothing after. Memory is 64-byte aligned and not
// initialised.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  template <typename T>
  T* Alloc(size_t count) {
    return static_cast<T*>(AllocBytes(count * sizeof(T)));
  }
  void* AllocBytes(size_t bytes);

  // Frees, at its end, all that was allocated since its start.
  class Scope {
   public:
    explicit Scope(Arena& arena);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t chunk_;
    size_t used_;
  };

 private:
  struct Chunk {
    std::unique_ptr<uint8_t[]> storage;
    uint8_t* begin = nullptr;
    size_t bytes = 0;
  };
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;  // the chunk in use
  size_t used_ = 0;   // bytes used in it
};

// Not owning. `stream` is null on the CPU, where a kernel has finished when it returns; on a device
// the call only enqueues.
struct ExecContext {
  Device device;
  CpuLevel level = CpuLevel::kScalar;
  ThreadPool* pool = nullptr;
  Arena* arena = nullptr;
  void* stream = nullptr;
};

}  // namespace octet

#endif  // OCTET_KERNELS_EXEC_CONTEXT_H_
