#include "expert_worker/locked_experts.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "kernels/packed_weights.h"

namespace octet {
namespace {

// Pages of an expert's weights, locked; unlocked at the end, before the mapping goes.
class LockedPages {
 public:
  explicit LockedPages(std::shared_ptr<const void> memory) : memory_(std::move(memory)) {}
  ~LockedPages() {
    for (const auto& [begin, bytes] : ranges_) (void)munlock(begin, bytes);
  }
  LockedPages(const LockedPages&) = delete;
  LockedPages& operator=(const LockedPages&) = delete;

  absl::Status Lock(const PackedWeights& w) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = reinterpret_cast<uintptr_t>(w.data) / page * page;
    const uintptr_t end = reinterpret_cast<uintptr_t>(w.data) + PackedBytes(w.format, w.n, w.k);
    void* const at = reinterpret_cast<void*>(begin);
    if (mlock(at, end - begin) != 0) {
      rlimit limit{};
      (void)getrlimit(RLIMIT_MEMLOCK, &limit);
      return absl::ResourceExhaustedError(
          absl::StrCat("lock-memory: cannot lock an expert's weights: ", std::strerror(errno),
                       "; the limit of locked memory (ulimit -l) is ",
                       limit.rlim_cur == RLIM_INFINITY
                           ? "infinite"
                           : absl::StrCat(static_cast<uint64_t>(limit.rlim_cur), " bytes")));
    }
    ranges_.emplace_back(at, end - begin);
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<const void> memory_;
  std::vector<std::pair<void*, size_t>> ranges_;
};

}  // namespace

WorkerModel LockedWorkerModel(WorkerModel model) {
  model.load = [load = std::move(model.load)](ExpertId id) -> absl::StatusOr<MappedExpert> {
    OCTET_ASSIGN_OR_RETURN(MappedExpert expert, load(id));
    auto pages = std::make_shared<LockedPages>(std::move(expert.memory));
    for (const ExpertWeights& layer : expert.layers) {
      for (const PackedWeights* w : {&layer.gate, &layer.up, &layer.down}) {
        OCTET_RETURN_IF_ERROR(pages->Lock(*w));
      }
    }
    expert.memory = std::move(pages);
    return expert;
  };
  return model;
}

}  // namespace octet
