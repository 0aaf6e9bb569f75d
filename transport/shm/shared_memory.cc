#include "transport/shm/shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"

namespace octet {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

absl::StatusOr<uint8_t*> MapShared(int fd, size_t bytes) {
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot map ", bytes, " bytes of shared memory: ", strerror(errno)));
  }
  return static_cast<uint8_t*>(data);
}

// On another file system a fault might fail or wait for whoever serves it.
absl::Status CheckKind(int fd) {
  struct statfs system;
  if (fstatfs(fd, &system) != 0 || system.f_type != TMPFS_MAGIC) {
    return absl::InvalidArgumentError("shared memory: not a memfd");
  }
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || (seals & F_SEAL_WRITE) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("shared memory: seals ", seals));
  }
  return absl::OkStatus();
}

}  // namespace

OwnedFd::~OwnedFd() {
  if (fd_ >= 0) close(fd_);
}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

absl::StatusOr<SharedMemory> SharedMemory::Create(const char* name, size_t bytes) {
  SharedMemory memory;
  memory.fd_ = OwnedFd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.fd_.open() || ftruncate(memory.fd(), static_cast<off_t>(bytes)) != 0 ||
      fcntl(memory.fd(), F_ADD_SEALS, kSeals) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot make ", bytes, " bytes of shared memory: ", strerror(errno)));
  }
  OCTET_ASSIGN_OR_RETURN(memory.data_, MapShared(memory.fd(), bytes));
  memory.bytes_ = bytes;
  return memory;
}

absl::StatusOr<SharedMemory> SharedMemory::Map(OwnedFd fd, size_t bytes) {
  OCTET_RETURN_IF_ERROR(CheckKind(fd.get()));
  struct stat status;
  if (fstat(fd.get(), &status) != 0 || status.st_size < 0 ||
      static_cast<uint64_t>(status.st_size) != bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory: ", status.st_size, " bytes, must be ", bytes));
  }
  SharedMemory memory;
  memory.fd_ = std::move(fd);
  OCTET_ASSIGN_OR_RETURN(memory.data_, MapShared(memory.fd(), bytes));
  memory.bytes_ = bytes;
  return memory;
}

}  // namespace octet
