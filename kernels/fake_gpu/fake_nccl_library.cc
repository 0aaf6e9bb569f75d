// The functions of libnccl.so.2 that Octet uses, for two ranks on one host: bytes go through Unix
// sockets, in the background, in the order of the streams. What NCCL does where a peer dies is
// done too: the communicator says so, and what is on its stream hangs until it is aborted.
#include <fcntl.h>
#include <nccl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/mutex.h"
#include "kernels/fake_gpu/fake_device.h"

#define OCTET_EXPORT extern "C" __attribute__((visibility("default")))

// The type that nccl.h leaves open.
struct ncclComm {
  octet::Mutex mu;
  octet::CondVar changed;
  int fd OCTET_GUARDED_BY(mu) = -1;
  int listener = -1;  // of the side that made the id
  std::string name;
  std::thread connector;
  std::atomic<int> state{ncclInProgress};
  std::atomic<bool> aborted{false};
  int moving OCTET_GUARDED_BY(mu) = 0;  // operations on streams
};

namespace octet::fake_gpu {
namespace {

constexpr int kVersion = 22809;
constexpr int kPollMs = 20;  // between looks at `aborted`

struct Operation {
  ncclComm_t comm = nullptr;
  cuda::Stream stream = nullptr;
  char* to = nullptr;          // a receive's
  const char* from = nullptr;  // a send's
  size_t bytes = 0;
};

struct Library {
  Mutex mu;
  std::map<std::string, int> listeners
      OCTET_GUARDED_BY(mu);  // by name; until a communicator takes it
  uint64_t ids OCTET_GUARDED_BY(mu) = 0;
};

Library& TheLibrary() {
  static Library* const library = new Library;
  return *library;
}

thread_local int group_depth = 0;
thread_local std::vector<Operation> group;

sockaddr_un Address(const std::string& name, socklen_t* length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // The abstract namespace, which leaves no file behind.
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

// Waits until `fd` is ready. False once the communicator is aborted.
bool Await(ncclComm_t comm, int fd, short events) {
  while (!comm->aborted) {
    pollfd p{fd, events, 0};
    if (poll(&p, 1, kPollMs) > 0) return true;
  }
  return false;
}

// A connected socket, or -1 once the communicator is aborted or the other side refuses.
int Connect(ncclComm_t comm) {
  if (comm->listener >= 0) {
    if (!Await(comm, comm->listener, POLLIN)) return -1;
    return accept4(comm->listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  }
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  socklen_t length;
  const sockaddr_un address = Address(comm->name, &length);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0) return fd;
  close(fd);
  return -1;
}

void Bootstrap(ncclComm_t comm) {
  const int fd = Connect(comm);
  MutexLock lock(comm->mu);
  comm->fd = fd;
  if (!comm->aborted) comm->state = fd >= 0 ? ncclSuccess : ncclRemoteError;
}

// Waits for the abort, as a kernel whose peer does not answer.
void Hang(ncclComm_t comm, ncclResult_t error) {
  comm->state = error;
  MutexLock lock(comm->mu);
  while (!comm->aborted) comm->changed.Wait(comm->mu);
}

// All of [data, data + bytes), one way. False once aborted.
bool Move(ncclComm_t comm, int fd, bool sends, char* data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = sends ? send(fd, data + done, bytes - done, MSG_NOSIGNAL)
                            : recv(fd, data + done, bytes - done, 0);
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      if (!Await(comm, fd, sends ? POLLOUT : POLLIN)) return false;
    } else {
      Hang(comm, ncclRemoteError);
      return false;
    }
  }
  return true;
}

// On the stream's thread.
void Carry(const Operation& op) {
  ncclComm_t const comm = op.comm;
  const bool sends = op.from != nullptr;
  int fd;
  {
    MutexLock lock(comm->mu);
    fd = comm->fd;
  }
  uint64_t length = op.bytes;
  bool whole = fd >= 0 && !comm->aborted &&
               Move(comm, fd, sends, reinterpret_cast<char*>(&length), sizeof(length));
  // Both sides say how much: what does not fit is undefined, and here it hangs.
  if (whole && length != op.bytes) {
    Hang(comm, ncclInvalidUsage);
    whole = false;
  }
  if (whole) Move(comm, fd, sends, sends ? const_cast<char*>(op.from) : op.to, op.bytes);
  MutexLock lock(comm->mu);
  --comm->moving;
  comm->changed.NotifyAll();
}

ncclResult_t Issue(const Operation& op) {
  ncclComm_t const comm = op.comm;
  if (comm->state != ncclSuccess) return ncclInvalidUsage;
  const void* const data = op.from != nullptr ? op.from : op.to;
  if (!StreamReaches(op.stream, data, op.bytes)) return ncclInvalidArgument;
  {
    MutexLock lock(comm->mu);
    ++comm->moving;
  }
  return LaunchWaiting(op.stream, [op] { Carry(op); }) == 0 ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t Add(const Operation& op) {
  if (op.comm == nullptr) return ncclInvalidArgument;
  if (group_depth == 0) return Issue(op);
  group.push_back(op);
  return ncclSuccess;
}

// When nothing of it is on a stream any more.
void Delete(ncclComm_t comm) {
  if (comm->connector.joinable()) comm->connector.join();
  int fd;
  {
    MutexLock lock(comm->mu);
    while (comm->moving > 0) comm->changed.Wait(comm->mu);
    fd = comm->fd;
  }
  if (fd >= 0) close(fd);
  if (comm->listener >= 0) close(comm->listener);
  delete comm;
}

}  // namespace
}  // namespace octet::fake_gpu

namespace fake = octet::fake_gpu;

OCTET_EXPORT ncclResult_t ncclGetVersion(int* version) {
  *version = fake::kVersion;
  return ncclSuccess;
}

OCTET_EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  fake::Library& library = fake::TheLibrary();
  octet::MutexLock lock(library.mu);
  const std::string name =
      "octet-fake-nccl-" + std::to_string(getpid()) + "-" + std::to_string(++library.ids);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  socklen_t length;
  const sockaddr_un address = fake::Address(name, &length);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), length) != 0 || listen(fd, 1) != 0) {
    close(fd);
    return ncclSystemError;
  }
  library.listeners[name] = fd;
  *id = {};
  std::memcpy(id->internal, name.data(), std::min(name.size(), sizeof(id->internal) - 1));
  return ncclSuccess;
}

OCTET_EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id,
                                                 int rank, ncclConfig_t* config) {
  if (ranks != 2 || rank < 0 || rank > 1 || config->blocking != 0) return ncclInvalidArgument;
  auto made = std::make_unique<ncclComm>();
  made->name.assign(id.internal, strnlen(id.internal, sizeof(id.internal)));
  fake::Library& library = fake::TheLibrary();
  {
    octet::MutexLock lock(library.mu);
    // Of two sides in one process the first accepts, the second connects.
    const auto it = library.listeners.find(made->name);
    if (it != library.listeners.end()) {
      made->listener = it->second;
      library.listeners.erase(it);
    }
  }
  *comm = made.release();
  (*comm)->connector = std::thread(fake::Bootstrap, *comm);
  return ncclInProgress;
}

OCTET_EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = static_cast<ncclResult_t>(comm->state.load());
  return ncclSuccess;
}

OCTET_EXPORT ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  octet::MutexLock lock(comm->mu);
  return comm->moving == 0 ? ncclSuccess : ncclInProgress;
}

OCTET_EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    octet::MutexLock lock(comm->mu);
    comm->aborted = true;
    if (comm->fd >= 0) shutdown(comm->fd, SHUT_RDWR);
    comm->changed.NotifyAll();
  }
  fake::Delete(comm);
  return ncclSuccess;
}

OCTET_EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  fake::Delete(comm);
  return ncclSuccess;
}

OCTET_EXPORT ncclResult_t ncclGroupStart() {
  ++fake::group_depth;
  return ncclSuccess;
}

OCTET_EXPORT ncclResult_t ncclGroupEnd() {
  if (fake::group_depth == 0) return ncclInvalidUsage;
  if (--fake::group_depth > 0) return ncclSuccess;
  ncclResult_t result = ncclSuccess;
  for (const fake::Operation& op : fake::group) {
    const ncclResult_t issued = fake::Issue(op);
    if (issued != ncclSuccess) result = issued;
  }
  fake::group.clear();
  return result;
}

OCTET_EXPORT ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int,
                                   ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclUint8) return ncclInvalidArgument;
  fake::Operation op;
  op.comm = comm;
  op.stream = stream;
  op.from = static_cast<const char*>(from);
  op.bytes = count;
  return fake::Add(op);
}

OCTET_EXPORT ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int,
                                   ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclUint8) return ncclInvalidArgument;
  fake::Operation op;
  op.comm = comm;
  op.stream = stream;
  op.to = static_cast<char*>(to);
  op.bytes = count;
  return fake::Add(op);
}

OCTET_EXPORT const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclInProgress:
      return "in progress";
    case ncclRemoteError:
      return "the other side has gone";
    case ncclInvalidUsage:
      return "invalid usage";
    default:
      return "an error of the fake";
  }
}
