#include "transport/nccl/nccl_library.h"

#ifdef OCTET_HAVE_NCCL
#include <dlfcn.h>
#include <nccl.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/mutex.h"
#include "core/status_macros.h"
#include "kernels/cuda_library.h"
#endif

namespace octet {

#ifndef OCTET_HAVE_NCCL

absl::StatusOr<std::unique_ptr<NcclApi>> OpenNccl(const cuda::CudaApi&) {
  return absl::UnimplementedError("built without NCCL");
}

#else

namespace {

static_assert(sizeof(ncclUniqueId) == kNcclUniqueIdBytes);
static_assert(static_cast<int>(NcclResult::kOk) == ncclSuccess &&
              static_cast<int>(NcclResult::kUnhandledCudaError) == ncclUnhandledCudaError &&
              static_cast<int>(NcclResult::kSystemError) == ncclSystemError &&
              static_cast<int>(NcclResult::kInternalError) == ncclInternalError &&
              static_cast<int>(NcclResult::kInvalidArgument) == ncclInvalidArgument &&
              static_cast<int>(NcclResult::kInvalidUsage) == ncclInvalidUsage &&
              static_cast<int>(NcclResult::kRemoteError) == ncclRemoteError &&
              static_cast<int>(NcclResult::kInProgress) == ncclInProgress);

constexpr char kLibraryName[] = "libnccl.so.2";
constexpr int kVersionMin = 21800;

struct Functions {
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) comm_init = nullptr;
  decltype(&ncclCommGetAsyncError) comm_get_async_error = nullptr;
  decltype(&ncclCommFinalize) comm_finalize = nullptr;
  decltype(&ncclCommDestroy) comm_destroy = nullptr;
  decltype(&ncclCommAbort) comm_abort = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) recv = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;
};

template <typename F>
absl::Status Find(void* library, const char* name, F* out) {
  *out = reinterpret_cast<F>(dlsym(library, name));
  if (*out != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the NCCL library has no ", name));
}

absl::StatusOr<Functions> FindAll(void* library) {
  Functions f;
  OCTET_RETURN_IF_ERROR(Find(library, "ncclGetVersion", &f.get_version));
  int version = 0;
  if (f.get_version(&version) != ncclSuccess || version < kVersionMin) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the NCCL library is version ", version, ", 2.18 (", kVersionMin, ") or newer is needed"));
  }
  OCTET_RETURN_IF_ERROR(Find(library, "ncclGetUniqueId", &f.get_unique_id));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclCommInitRankConfig", &f.comm_init));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclCommGetAsyncError", &f.comm_get_async_error));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclCommFinalize", &f.comm_finalize));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclCommDestroy", &f.comm_destroy));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclCommAbort", &f.comm_abort));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclGroupStart", &f.group_start));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclGroupEnd", &f.group_end));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclSend", &f.send));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclRecv", &f.recv));
  OCTET_RETURN_IF_ERROR(Find(library, "ncclGetErrorString", &f.error_string));
  return f;
}

NcclResult ToResult(ncclResult_t result) { return static_cast<NcclResult>(result); }
ncclComm_t ToComm(NcclComm comm) { return static_cast<ncclComm_t>(comm); }
cudaStream_t ToStream(NcclStream stream) { return static_cast<cudaStream_t>(stream); }

// A byte on the device and one of the host. Setting the mark fills the one and copies it to the
// other, in the order of the stream, so that asking costs a load and no call of the driver.
struct ByteMark {
  void* device = nullptr;
  std::atomic<uint8_t>* host = nullptr;
};
static_assert(sizeof(std::atomic<uint8_t>) == 1);

class CudaNccl final : public NcclApi {
 public:
  CudaNccl(const Functions& functions, const cuda::CudaApi& cuda) : f_(functions), cuda_(cuda) {}
  ~CudaNccl() override {
    for (ByteMark* mark : spare_) {
      Release(mark->device);
      ReleaseHost(mark->host);
      delete mark;
    }
  }

  NcclResult GetVersion(int* version) override { return ToResult(f_.get_version(version)); }
  NcclResult GetUniqueId(NcclUniqueId* id) override {
    ncclUniqueId made;
    const ncclResult_t result = f_.get_unique_id(&made);
    std::memcpy(id->bytes, &made, sizeof(made));
    return ToResult(result);
  }
  NcclResult CommInitRank(NcclComm* comm, const NcclUniqueId& id, int rank) override {
    ncclUniqueId given;
    std::memcpy(&given, id.bytes, sizeof(given));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    // A message is small, and every channel costs buffers.
    config.minCTAs = 1;
    config.maxCTAs = 2;
    ncclComm_t made = nullptr;
    const ncclResult_t result = f_.comm_init(&made, 2, given, rank, &config);
    *comm = made;
    return ToResult(result);
  }
  NcclResult CommGetAsyncError(NcclComm comm, NcclResult* state) override {
    ncclResult_t error = ncclSuccess;
    const ncclResult_t result = f_.comm_get_async_error(ToComm(comm), &error);
    *state = ToResult(error);
    return ToResult(result);
  }
  NcclResult CommFinalize(NcclComm comm) override {
    return ToResult(f_.comm_finalize(ToComm(comm)));
  }
  NcclResult CommDestroy(NcclComm comm) override { return ToResult(f_.comm_destroy(ToComm(comm))); }
  NcclResult CommAbort(NcclComm comm) override { return ToResult(f_.comm_abort(ToComm(comm))); }
  NcclResult GroupStart() override { return ToResult(f_.group_start()); }
  NcclResult GroupEnd() override { return ToResult(f_.group_end()); }
  NcclResult Send(const void* from, size_t bytes, int peer, NcclComm comm,
                  NcclStream stream) override {
    return ToResult(f_.send(from, bytes, ncclUint8, peer, ToComm(comm), ToStream(stream)));
  }
  NcclResult Recv(void* to, size_t bytes, int peer, NcclComm comm, NcclStream stream) override {
    return ToResult(f_.recv(to, bytes, ncclUint8, peer, ToComm(comm), ToStream(stream)));
  }
  std::string ErrorText(NcclResult result) override {
    return f_.error_string(static_cast<ncclResult_t>(result));
  }

  absl::Status UseDevice(int device) override {
    return Status(cuda_.set_device(device), "choosing the device");
  }
  absl::StatusOr<void*> Allocate(size_t bytes) override {
    void* memory = nullptr;
    OCTET_RETURN_IF_ERROR(Status(cuda_.allocate(bytes, &memory), "memory for rows"));
    return memory;
  }
  void Release(void* memory) override { cuda_.release(memory); }
  absl::StatusOr<void*> AllocateHost(size_t bytes) override {
    void* memory = nullptr;
    OCTET_RETURN_IF_ERROR(Status(cuda_.allocate_host(bytes, &memory), "page-locked memory"));
    return memory;
  }
  void ReleaseHost(void* host_memory) override { cuda_.release_host(host_memory); }
  absl::StatusOr<NcclStream> CreateStream() override {
    cuda::Stream stream = nullptr;
    OCTET_RETURN_IF_ERROR(Status(cuda_.create_stream(&stream), "a stream"));
    return stream;
  }
  void DestroyStream(NcclStream stream) override { cuda_.destroy_stream(stream); }
  absl::Status Copy(NcclStream stream, void* to, const void* from, size_t bytes) override {
    return Status(cuda_.copy(stream, to, from, bytes), "a copy");
  }
  absl::Status GatherRows(NcclStream stream, const void* from, size_t row_bytes,
                          const uint32_t* rows, size_t count, void* to) override {
    return Status(cuda_.gather_rows(stream, from, row_bytes, rows, count, to), "gathering rows");
  }
  absl::Status Synchronize(NcclStream stream) override {
    return Status(cuda_.synchronize(stream), "waiting for a stream");
  }
  absl::StatusOr<NcclMark> CreateMark() override;
  void DestroyMark(NcclMark mark) override;
  absl::Status SetMark(NcclStream stream, NcclMark mark, uint32_t value) override;
  bool Reached(NcclMark mark, uint32_t value) override;

 private:
  absl::Status Status(int error, const char* what) const { return CudaStatus(cuda_, error, what); }

  const Functions f_;
  const cuda::CudaApi& cuda_;
  // Marks are used again and not freed: CUDA frees memory only when all of the device has come to
  // rest, and a peer that hangs elsewhere would then stop the thread that is to notice it.
  Mutex mu_;
  std::vector<ByteMark*> spare_ OCTET_GUARDED_BY(mu_);
};

absl::StatusOr<NcclMark> CudaNccl::CreateMark() {
  {
    MutexLock lock(mu_);
    if (!spare_.empty()) {
      ByteMark* const mark = spare_.back();
      spare_.pop_back();
      mark->host->store(0);
      return static_cast<NcclMark>(mark);
    }
  }
  auto mark = std::make_unique<ByteMark>();
  OCTET_ASSIGN_OR_RETURN(mark->device, Allocate(1));
  auto host = AllocateHost(1);
  if (!host.ok()) {
    Release(mark->device);
    return host.status();
  }
  mark->host = new (*host) std::atomic<uint8_t>(0);
  return static_cast<NcclMark>(mark.release());
}

void CudaNccl::DestroyMark(NcclMark mark) {
  MutexLock lock(mu_);
  spare_.push_back(static_cast<ByteMark*>(mark));
}

absl::Status CudaNccl::SetMark(NcclStream stream, NcclMark mark, uint32_t value) {
  const ByteMark& m = *static_cast<ByteMark*>(mark);
  OCTET_RETURN_IF_ERROR(
      Status(cuda_.fill(stream, m.device, static_cast<uint8_t>(value), 1), "a mark"));
  return Copy(stream, m.host, m.device, 1);
}

bool CudaNccl::Reached(NcclMark mark, uint32_t value) {
  const ByteMark& m = *static_cast<ByteMark*>(mark);
  // Within a hundred of each other, so that the last byte says which is ahead.
  const auto ahead =
      static_cast<uint8_t>(m.host->load(std::memory_order_acquire) - static_cast<uint8_t>(value));
  return ahead < 128;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclApi>> OpenNccl(const cuda::CudaApi& cuda) {
  const char* const named = std::getenv("OCTET_NCCL_LIBRARY");
  const char* const path = named != nullptr && *named != '\0' ? named : kLibraryName;
  void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::NotFoundError(absl::StrCat("the NCCL library cannot be loaded: ", dlerror()));
  }
  OCTET_ASSIGN_OR_RETURN(const Functions functions, FindAll(library));
  return std::unique_ptr<NcclApi>(std::make_unique<CudaNccl>(functions, cuda));
}

#endif

}  // namespace octet
