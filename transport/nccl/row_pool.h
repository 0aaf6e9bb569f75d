// Memory for rows on their way: a piece on the device and, where the host reads or writes them, a
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
#include "core/nccl_limits.h"
#include "transport/nccl/nccl_api.h"

namespace octet {

enum class RowPlace : uint8_t {
  kDevice,         // transfers then copy nothing from or to the host
  kDeviceAndHost,  // `host` too, which whoever computes on the host uses
};
inline constexpr size_t kRowPlaces = 2;

struct RowMemory {
  void* device = nullptr;
  uint8_t* host = nullptr;  // null: the rows stay on the device
  size_t bytes = 0;         // of each
  RowPlace place() const { return host == nullptr ? RowPlace::kDevice : RowPlace::kDeviceAndHost; }
};

// All of a device, whatever the place: the bound is the device's. Thread-safe. Gives memory back to
// the device only at its end: releasing may wait for all that runs there, which may be waiting for
// a peer.
class RowPool : public std::enable_shared_from_this<RowPool> {
 public:
  // Gives a piece back to the pool, which it keeps alive.
  struct Giver {
    std::shared_ptr<RowPool> pool;
    void operator()(RowMemory* memory) const;
  };
  using Lease = std::unique_ptr<RowMemory, Giver>;

  // `api` outlives the pool and all leases.
  static std::shared_ptr<RowPool> Create(NcclApi* api, int device,
                                         uint64_t bytes_max = kNcclPoolBytesMax);
  ~RowPool();
  RowPool(const RowPool&) = delete;
  RowPool& operator=(const RowPool&) = delete;

  // At least `bytes` of unspecified contents. RESOURCE_EXHAUSTED past the pool's bound, or as
  // the device says. May wait for what is on the device, where no such piece lies ready.
  absl::StatusOr<Lease> Take(size_t bytes, RowPlace place = RowPlace::kDeviceAndHost);
  // Makes sure that `count` pieces of this size lie ready.
  absl::Status Reserve(size_t bytes, size_t count, RowPlace place = RowPlace::kDeviceAndHost);

 private:
  static constexpr size_t kClasses = 64;  // one per power of two

  using OfSize = std::array<std::vector<RowMemory*>, kClasses>;

  RowPool(NcclApi* api, int device, uint64_t bytes_max)
      : api_(api), device_(device), bytes_max_(bytes_max) {}
  absl::StatusOr<std::unique_ptr<RowMemory>> Allocate(size_t bytes, RowPlace place);

  NcclApi* const api_;
  const int device_;
  const uint64_t bytes_max_;
  Mutex mu_;
  uint64_t bytes_ OCTET_GUARDED_BY(mu_) = 0;
  std::array<OfSize, kRowPlaces> free_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_ROW_POOL_H_
