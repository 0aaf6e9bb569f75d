// The one thread of a device that calls NCCL: it owns the communicators of all pairs, issues what
// they move, watches their deadlines and aborts those that break.
#ifndef OCTET_TRANSPORT_NCCL_DEVICE_THREAD_H_
#define OCTET_TRANSPORT_NCCL_DEVICE_THREAD_H_

#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/clock.h"
#include "transport/nccl/nccl_api.h"
#include "transport/nccl/pair.h"
#include "transport/nccl/row_pool.h"

namespace octet {

struct NcclDeviceOptions {
  int device = 0;
  NcclDeadlines deadlines;  // of the links' and servers' pairs
};

// Thread-safe. Looks at pairs without a pause while something moves, at growing distances while
// nothing does, and every kNcclIdlePollMs when nothing is under way.
class NcclDeviceThread {
 public:
  // Fails as NcclApi::UseDevice does. `api` and `clock` outlive the thread.
  static absl::StatusOr<std::shared_ptr<NcclDeviceThread>> Start(NcclApi* api,
                                                                 const NcclDeviceOptions& options,
                                                                 const Clock* clock);
  // Breaks the pairs that are left with CANCELLED. Not on the thread itself.
  ~NcclDeviceThread();
  NcclDeviceThread(const NcclDeviceThread&) = delete;
  NcclDeviceThread& operator=(const NcclDeviceThread&) = delete;

  NcclApi* api() const;
  int device() const;
  // Memory for the rows of all pairs.
  RowPool* pool() const;
  const NcclDeadlines& deadlines() const;

  // Runs `task` on the thread, in the order of the calls.
  void Run(absl::AnyInvocable<void()> task);
  // Polls the pair from now on and keeps it until it has gone.
  void Add(std::shared_ptr<NcclPair> pair);
  // As NcclPair's, on the thread, in the order of the calls.
  void Submit(std::shared_ptr<NcclPair> pair, NcclLane lane, NcclTransfer transfer);
  void Fail(std::shared_ptr<NcclPair> pair, absl::Status why);
  void Close(std::shared_ptr<NcclPair> pair);

 private:
  struct Impl;
  explicit NcclDeviceThread(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_DEVICE_THREAD_H_
