// NCCL and a device without either, for tests: communicators are Unix sockets between threads or
// processes, device memory is memory of the host that only Copy may bridge, and a stream carries
// out what is on it, in order, whenever the fake is called. It keeps to what the real one asks of
// its callers and counts the violations.
#ifndef OCTET_TRANSPORT_NCCL_FAKE_NCCL_H_
#define OCTET_TRANSPORT_NCCL_FAKE_NCCL_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/mutex.h"
#include "transport/nccl/nccl_api.h"
#include "transport/shm/shared_memory.h"

namespace octet {

struct FakeNcclFaults {
  NcclResult init_error = NcclResult::kOk;  // CommInitRank says so
  bool init_hangs = false;
  bool launches_hang = false;   // what is issued never gets onto its stream
  bool transfers_hang = false;  // what is on a stream never ends
  bool finalize_hangs = false;
  int64_t die_after_bytes = -1;              // Die once so many bytes of rows were sent
  int64_t send_more_bytes = 0;               // than both sides agreed on
  bool deaths_are_silent = true;             // of a peer; else kRemoteError
  NcclResult async_error = NcclResult::kOk;  // every communicator says so
  int version = 22809;
};

struct FakeNcclCounts {
  int comms = 0;  // alive, as the next three
  int streams = 0;
  int marks = 0;
  int allocations = 0;
  int aborted = 0;
  int abort_groups = 0;  // GroupEnds that aborted
  int destroyed = 0;     // in good order
  int transfers = 0;     // ended
  int violations = 0;    // of the rules for callers
};

// One side's library: a process has one, a test of two threads one per thread. Thread-safe, but
// counts calls of NCCL from more than one thread as violations.
class FakeNccl final : public NcclApi {
 public:
  FakeNccl();
  ~FakeNccl() override;

  void SetFaults(const FakeNcclFaults& faults);
  FakeNcclCounts counts();
  // What the end of the process would do to the peer: every connection ends, and nothing of this
  // side moves any more.
  void Die();

  NcclResult GetVersion(int* version) override;
  NcclResult GetUniqueId(NcclUniqueId* id) override;
  NcclResult CommInitRank(NcclComm* comm, const NcclUniqueId& id, int rank) override;
  NcclResult CommGetAsyncError(NcclComm comm, NcclResult* state) override;
  NcclResult CommFinalize(NcclComm comm) override;
  NcclResult CommDestroy(NcclComm comm) override;
  NcclResult CommAbort(NcclComm comm) override;
  NcclResult GroupStart() override;
  NcclResult GroupEnd() override;
  NcclResult Send(const void* from, size_t bytes, int peer, NcclComm comm,
                  NcclStream stream) override;
  NcclResult Recv(void* to, size_t bytes, int peer, NcclComm comm, NcclStream stream) override;
  std::string ErrorText(NcclResult result) override;

  absl::Status UseDevice(int device) override;
  absl::StatusOr<void*> Allocate(size_t bytes) override;
  void Release(void* memory) override;
  absl::StatusOr<void*> AllocateHost(size_t bytes) override;
  void ReleaseHost(void* host_memory) override;
  absl::StatusOr<NcclStream> CreateStream() override;
  void DestroyStream(NcclStream stream) override;
  absl::Status Copy(NcclStream stream, void* to, const void* from, size_t bytes) override;
  absl::Status GatherRows(NcclStream stream, const void* from, size_t row_bytes,
                          const uint32_t* rows, size_t count, void* to) override;
  absl::Status Synchronize(NcclStream stream) override;
  absl::StatusOr<NcclMark> CreateMark() override;
  void DestroyMark(NcclMark mark) override;
  absl::Status SetMark(NcclStream stream, NcclMark mark, uint32_t value) override;
  bool Reached(NcclMark mark, uint32_t value) override;

 private:
  struct Comm;
  struct Stream;
  struct Mark;
  enum class Kind { kCopy, kGather, kMark, kSend, kRecv };
  struct Op {
    Kind kind = Kind::kCopy;
    uint8_t* to = nullptr;
    const uint8_t* from = nullptr;
    size_t bytes = 0;                // of a gathering: of a row
    const uint32_t* rows = nullptr;  // of a gathering, so many:
    size_t count = 0;
    Mark* mark = nullptr;
    uint32_t value = 0;
    Comm* comm = nullptr;
    Stream* stream = nullptr;
    uint64_t header = 0;  // of a send: its length; of a receive: what the sender says
    size_t header_moved = 0;
    size_t moved = 0;
  };

  absl::StatusOr<void*> NewMemory(size_t bytes);
  void FreeMemory(void* memory);
  void Rule(bool kept) OCTET_REQUIRES(mu_);
  void OneThread() OCTET_REQUIRES(mu_);
  NcclResult AddToGroup(Op op) OCTET_REQUIRES(mu_);
  // Carries out all that can be.
  void Pump() OCTET_REQUIRES(mu_);
  void PumpComm(Comm* comm) OCTET_REQUIRES(mu_);
  // True when the operation has ended.
  bool Advance(Op* op) OCTET_REQUIRES(mu_);
  bool AdvanceSend(Op* op) OCTET_REQUIRES(mu_);
  // Bytes that the connection took or gave.
  size_t Push(Comm* comm, const void* from, size_t bytes) OCTET_REQUIRES(mu_);
  size_t Pull(Comm* comm, void* to, size_t bytes) OCTET_REQUIRES(mu_);
  bool AdvanceRecv(Op* op) OCTET_REQUIRES(mu_);
  void OnPeerGone(Comm* comm) OCTET_REQUIRES(mu_);
  void DieLocked() OCTET_REQUIRES(mu_);

  Mutex mu_;
  FakeNcclFaults faults_ OCTET_GUARDED_BY(mu_);
  FakeNcclCounts counts_ OCTET_GUARDED_BY(mu_);
  bool dead_ OCTET_GUARDED_BY(mu_) = false;
  int64_t sent_bytes_ OCTET_GUARDED_BY(mu_) = 0;
  uint64_t ids_ OCTET_GUARDED_BY(mu_) = 0;
  std::thread::id caller_ OCTET_GUARDED_BY(mu_);
  std::map<std::string, OwnedFd> listeners_ OCTET_GUARDED_BY(mu_);  // by unique id
  std::map<void*, std::unique_ptr<Comm>> comms_ OCTET_GUARDED_BY(mu_);
  std::map<void*, std::unique_ptr<Stream>> streams_ OCTET_GUARDED_BY(mu_);
  std::map<void*, std::unique_ptr<Mark>> marks_ OCTET_GUARDED_BY(mu_);
  int group_depth_ OCTET_GUARDED_BY(mu_) = 0;
  bool group_aborts_ OCTET_GUARDED_BY(mu_) = false;
  std::vector<Op> group_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_FAKE_NCCL_H_
