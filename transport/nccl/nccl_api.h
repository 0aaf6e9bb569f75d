// The functions of NCCL and of the device that the transport uses, as a table that can be filled
// by the libraries (nccl_library.h) or by a fake over sockets and host memory (fake_nccl.h). No
// type of NCCL or CUDA appears.
#ifndef OCTET_TRANSPORT_NCCL_NCCL_API_H_
#define OCTET_TRANSPORT_NCCL_NCCL_API_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace octet {

// ncclResult_t, value for value.
enum class NcclResult : int {
  kOk = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

inline constexpr size_t kNcclUniqueIdBytes = 128;
struct NcclUniqueId {
  char bytes[kNcclUniqueIdBytes];
};

using NcclComm = void*;    // ncclComm_t
using NcclStream = void*;  // cudaStream_t
using NcclMark = void*;    // a place in a stream, see below

// NCCL's calls and those on streams come from one thread per device (device_thread.h); the memory
// functions from any.
class NcclApi {
 public:
  virtual ~NcclApi() = default;

  // ---- NCCL: each as the function of its name ----
  virtual NcclResult GetVersion(int* version) = 0;
  virtual NcclResult GetUniqueId(NcclUniqueId* id) = 0;
  // ncclCommInitRankConfig for two ranks, non-blocking, with as few channels as can be. `*comm` may
  // be set also where it fails, and is then aborted.
  virtual NcclResult CommInitRank(NcclComm* comm, const NcclUniqueId& id, int rank) = 0;
  virtual NcclResult CommGetAsyncError(NcclComm comm, NcclResult* state) = 0;
  virtual NcclResult CommFinalize(NcclComm comm) = 0;
  virtual NcclResult CommDestroy(NcclComm comm) = 0;
  // Returns when nothing of the communicator is on the device any more; it is gone then.
  virtual NcclResult CommAbort(NcclComm comm) = 0;
  virtual NcclResult GroupStart() = 0;
  // kInProgress where the communicators of the group go on in the background: what was sent and
  // received is on the stream only when CommGetAsyncError says kOk.
  virtual NcclResult GroupEnd() = 0;
  virtual NcclResult Send(const void* from, size_t bytes, int peer, NcclComm comm,
                          NcclStream stream) = 0;
  virtual NcclResult Recv(void* to, size_t bytes, int peer, NcclComm comm, NcclStream stream) = 0;
  virtual std::string ErrorText(NcclResult result) = 0;

  // ---- Device ----
  // For the calling thread.
  virtual absl::Status UseDevice(int device) = 0;
  virtual absl::StatusOr<void*> Allocate(size_t bytes) = 0;
  virtual void Release(void* memory) = 0;
  virtual absl::StatusOr<void*> AllocateHost(size_t bytes) = 0;  // page-locked
  virtual void ReleaseHost(void* host_memory) = 0;
  virtual absl::StatusOr<NcclStream> CreateStream() = 0;
  virtual void DestroyStream(NcclStream stream) = 0;
  // Any direction; enqueued.
  virtual absl::Status Copy(NcclStream stream, void* to, const void* from, size_t bytes) = 0;
  // to[i] = row rows[i] of `from`, dense rows of `row_bytes` bytes, a multiple of 4; all on the
  // device. Enqueued.
  virtual absl::Status GatherRows(NcclStream stream, const void* from, size_t row_bytes,
                                  const uint32_t* rows, size_t count, void* to) = 0;
  // Waits for all that is on the stream.
  virtual absl::Status Synchronize(NcclStream stream) = 0;
  // A mark, made anew on a stream at rest, takes the values 1, 2, 3 ... when its stream gets to
  // where each was set. Reached asks without waiting; `value` is at most 100 behind or ahead.
  virtual absl::StatusOr<NcclMark> CreateMark() = 0;
  virtual void DestroyMark(NcclMark mark) = 0;
  virtual absl::Status SetMark(NcclStream stream, NcclMark mark, uint32_t value) = 0;
  virtual bool Reached(NcclMark mark, uint32_t value) = 0;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_NCCL_API_H_
