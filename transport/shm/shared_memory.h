// Memory that two processes map: a memfd whose size can't change any more, so that neither of them
// can take pages away from under the other.
#ifndef OCTET_TRANSPORT_SHM_SHARED_MEMORY_H_
#define OCTET_TRANSPORT_SHM_SHARED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"

namespace octet {

// An open file, closed at the end.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd();

  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Zero at the start; pages are taken from the system when they are first touched. Unmapped at the
// end; the peer's mapping stays.
class SharedMemory {
 public:
  SharedMemory() = default;
  SharedMemory(SharedMemory&& other) noexcept { *this = std::move(other); }
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  ~SharedMemory();

  // `name` is for /proc. RESOURCE_EXHAUSTED where the system has none.
  static absl::StatusOr<SharedMemory> Create(const char* name, size_t bytes);
  // Maps what a peer sent. INVALID_ARGUMENT unless it is a memfd of exactly `bytes` bytes whose
  // size is sealed.
  static absl::StatusOr<SharedMemory> Map(OwnedFd fd, size_t bytes);

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  int fd() const { return fd_.get(); }

 private:
  OwnedFd fd_;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_SHM_SHARED_MEMORY_H_
