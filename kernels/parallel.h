// Splitting of kernel work over ctx.pool, and scratch memory. Internal to kernels/.
#ifndef OCTET_KERNELS_PARALLEL_H_
#define OCTET_KERNELS_PARALLEL_H_

#include <algorithm>
#include <cstddef>

#include "core/check.h"
#include "kernels/exec_context.h"

namespace octet {

inline int PoolThreads(const ExecContext& ctx) {
  return ctx.pool == nullptr ? 1 : ctx.pool->threads();
}

// Calls fn(begin, end, thread) over contiguous ranges that cover [0, count), each of at least
// `grain` items but the last. One thread, or too little work for two ranges, runs inline. Several
// ranges a thread, claimed in order, even out cores that are busy with something else.
template <typename Fn>
void ParallelRange(const ExecContext& ctx, size_t count, size_t grain, Fn&& fn) {
  if (count == 0) return;
  const size_t threads = static_cast<size_t>(PoolThreads(ctx));
  const size_t most = std::max<size_t>(1, count / std::max<size_t>(1, grain));
  const size_t chunks =
      threads == 1 ? 1 : std::min(most, most >= 8 * threads ? 4 * threads : threads);
  if (chunks == 1) {
    fn(size_t{0}, count, 0);
    return;
  }
  ctx.pool->ParallelFor(chunks, [&](size_t i, int thread) {
    const size_t begin = count * i / chunks;
    const size_t end = count * (i + 1) / chunks;
    if (begin < end) fn(begin, end, thread);
  });
}

// The arena of the context, freed at the end of the scope.
class Scratch {
 public:
  explicit Scratch(const ExecContext& ctx) : arena_(CheckedArena(ctx)), scope_(arena_) {}

  template <typename T>
  T* Alloc(size_t count) {
    return arena_.Alloc<T>(count);
  }

 private:
  static Arena& CheckedArena(const ExecContext& ctx) {
    OCTET_CHECK(ctx.arena != nullptr) << "this kernel needs ExecContext::arena";
    return *ctx.arena;
  }

  Arena& arena_;
  Arena::Scope scope_;
};

}  // namespace octet

#endif  // OCTET_KERNELS_PARALLEL_H_
