// Memory for rows on their way: a piece on the device and, where the host computes with the rows, a
// page-locked piece of the same size beside it. Recycled, so that a decode step allocates none.
#ifndef OCTET_TRANSPORT_NCCL_ROW_POOL_H_
#define OCTET_TRANSPORT_NCCL_ROW_POOL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/mutex.h"
#include "transport/nccl/nccl_api.h"

namespace octet {

// Whoever computes on the device reads `device` and takes it from a pool without host memory;
// transfers then copy nothing to the host.
struct RowMemory {
  void* device = nullptr;
  uint8_t* host = nullptr;  // null: the rows stay on the device
  size_t bytes = 0;         // of each
};

// Thread-safe. Gives memory back to the device only at its end: releasing may wait for all that
// runs there, which may be waiting for a peer.
class RowPool : public std::enable_shared_from_this<RowPool> {
 public:
  // Gives a piece back to the pool, which it keeps alive.
  struct Giver {
    std::shared_ptr<RowPool> pool;
    void operator()(RowMemory* memory) const;
  };
  using Lease = std::unique_ptr<RowMemory, Giver>;

  // `api` outlives the pool and all leases.
  static std::shared_ptr<RowPool> Create(NcclApi* api, int device, bool host_memory);
  ~RowPool();
  RowPool(const RowPool&) = delete;
  RowPool& operator=(const RowPool&) = delete;

  // At least `bytes` of unspecified contents. RESOURCE_EXHAUSTED past kNcclPoolBytesMax, or as the
  // device says.
  absl::StatusOr<Lease> Take(size_t bytes);
  // Makes sure that `count` pieces of this size lie ready.
  absl::Status Reserve(size_t bytes, size_t count);

 private:
  static constexpr size_t kClasses = 64;  // one per power of two

  RowPool(NcclApi* api, int device, bool host_memory)
      : api_(api), device_(device), host_memory_(host_memory) {}
  absl::StatusOr<std::unique_ptr<RowMemory>> Allocate(size_t bytes);

  NcclApi* const api_;
  const int device_;
  const bool host_memory_;
  Mutex mu_;
  uint64_t bytes_ OCTET_GUARDED_BY(mu_) = 0;
  std::array<std::vector<RowMemory*>, kClasses> free_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_ROW_POOL_H_
