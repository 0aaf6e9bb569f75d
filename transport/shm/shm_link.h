// The path to an expert worker of this host through shared memory.
#ifndef OCTET_TRANSPORT_SHM_SHM_LINK_H_
#define OCTET_TRANSPORT_SHM_SHM_LINK_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/doorbell.h"
#include "transport/expert_link.h"
#include "transport/shm/shared_memory.h"

namespace octet {

// The doorbell on which a router combines, in memory that its workers map. Shared by its links.
class ShmDoorbell {
 public:
  static absl::StatusOr<std::shared_ptr<ShmDoorbell>> Create();
  DoorbellWords* words() const { return reinterpret_cast<DoorbellWords*>(memory_.data()); }
  const SharedMemory& memory() const { return memory_; }

 private:
  explicit ShmDoorbell(SharedMemory memory) : memory_(std::move(memory)) {}
  SharedMemory memory_;
};

struct ShmLinkOptions {
  std::string socket;  // the worker's (ShmSocketPath)
  RouterId router;
  uint64_t incarnation = 0;
  std::shared_ptr<ShmDoorbell> doorbell;
};

// Thread-safe. Send writes the rows in their final form and wakes the worker where it sleeps;
// replies are copied out and checked in Poll, on the thread that combines, and in a Send that finds
// no room. A thread of the link's own connects, and again after a break with a pause that doubles;
// it sees the worker's death at once and then fails what is in flight with UNAVAILABLE.
// RESOURCE_EXHAUSTED where kLinkQueuedDispatchesMax dispatches are in flight already, or the arena
// has no room.
class ShmLink final : public ExpertLink {
 public:
  // Starts to connect. RESOURCE_EXHAUSTED where no more files can be opened.
  static absl::StatusOr<std::shared_ptr<ShmLink>> Create(ShmLinkOptions options);
  // Fails what is in flight with CANCELLED. Waits for no peer.
  ~ShmLink() override;

  void Send(const ExpertDispatch& dispatch, ReplyFn done) override;
  void Cancel(const DispatchKey& key) override;
  bool connected() const override;
  void Poll() override;

 private:
  struct Impl;
  explicit ShmLink(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_SHM_SHM_LINK_H_
