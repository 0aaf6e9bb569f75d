#include "transport/shm/control_socket.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"

namespace octet {
namespace {

constexpr int kBacklog = 64;
// Files of one message, at most.
constexpr size_t kFilesMax = 4;

absl::Status ErrnoStatus(absl::StatusCode code, const std::string& what) {
  return absl::Status(code, absl::StrCat(what, ": ", strerror(errno)));
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("shared memory socket: the path ", path,
                                                   " is longer than ", sizeof(address.sun_path) - 1,
                                                   " bytes"));
  }
  std::copy(path.begin(), path.end(), address.sun_path);
  return address;
}

absl::Status CheckDirectory(const std::string& directory) {
  struct stat status;
  if (lstat(directory.c_str(), &status) != 0) {
    return ErrnoStatus(absl::StatusCode::kNotFound, directory);
  }
  if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & 0077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(directory, ": must be a directory of this user with mode 0700"));
  }
  return absl::OkStatus();
}

bool SameUser(int socket) {
  ucred peer;
  socklen_t size = sizeof(peer);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

std::string DirectoryOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

// Takes the files out of a message, so that they are closed whatever follows.
std::vector<OwnedFd> TakeFiles(msghdr* header) {
  std::vector<OwnedFd> files;
  for (cmsghdr* c = CMSG_FIRSTHDR(header); c != nullptr; c = CMSG_NXTHDR(header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
      files.emplace_back(fd);
    }
  }
  return files;
}

}  // namespace

std::string ShmDirectory(const std::string& given) {
  if (!given.empty()) return given;
  const char* const runtime = getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && runtime[0] == '/') return absl::StrCat(runtime, "/octet");
  return absl::StrCat("/tmp/octet-", geteuid());
}

absl::StatusOr<std::string> ShmSocketPath(const std::string& directory,
                                          const std::string& address) {
  if (address.empty() || address.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory socket: no file name for the address ", address));
  }
  const std::string path = absl::StrCat(directory, "/", address, ".sock");
  return AddressOf(path).ok() ? path : absl::StatusOr<std::string>(AddressOf(path).status());
}

absl::Status PrepareShmDirectory(const std::string& directory) {
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StatusCode::kPermissionDenied,
                       absl::StrCat("cannot make ", directory));
  }
  return CheckDirectory(directory);
}

absl::StatusOr<OwnedFd> ListenControl(const std::string& path) {
  OCTET_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  OwnedFd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  unlink(path.c_str());
  // Nobody can connect before listen(), so the mode is right in time.
  if (!listener.open() ||
      bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      chmod(path.c_str(), 0600) != 0 || listen(listener.get(), kBacklog) != 0) {
    return ErrnoStatus(absl::StatusCode::kUnavailable, absl::StrCat("cannot listen at ", path));
  }
  return listener;
}

OwnedFd AcceptControl(int listener) {
  OwnedFd peer(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (peer.open() && !SameUser(peer.get())) return OwnedFd();
  return peer;
}

absl::StatusOr<OwnedFd> ConnectControl(const std::string& path) {
  OCTET_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  OCTET_RETURN_IF_ERROR(CheckDirectory(DirectoryOf(path)));
  OwnedFd peer(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!peer.open() ||
      connect(peer.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus(absl::StatusCode::kNotFound, absl::StrCat("no worker listens at ", path));
  }
  if (!SameUser(peer.get())) {
    return absl::PermissionDeniedError(absl::StrCat(path, ": another user listens there"));
  }
  return peer;
}

absl::Status SendControl(int socket, const void* message, size_t bytes,
                         const std::vector<int>& files) {
  if (files.size() > kFilesMax) return absl::InternalError("too many files in a control message");
  iovec part{const_cast<void*>(message), bytes};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kFilesMax * sizeof(int))] = {};
  if (!files.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(files.size() * sizeof(int));
    cmsghdr* const c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(files.size() * sizeof(int));
    memcpy(CMSG_DATA(c), files.data(), files.size() * sizeof(int));
  }
  if (sendmsg(socket, &header, MSG_NOSIGNAL) != static_cast<ssize_t>(bytes)) {
    return ErrnoStatus(absl::StatusCode::kUnavailable, "shared memory socket");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<OwnedFd>> ReceiveControl(int socket, void* message, size_t bytes,
                                                    size_t count, Duration timeout, int stop) {
  pollfd wait[] = {{socket, POLLIN, 0}, {stop, POLLIN, 0}};
  if (poll(wait, 2, static_cast<int>(timeout.ns / 1'000'000)) <= 0) {
    return absl::DeadlineExceededError("shared memory socket: the peer says nothing");
  }
  if (wait[1].revents != 0) return absl::CancelledError("shared memory socket: no longer wanted");
  iovec part{message, bytes};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kFilesMax * sizeof(int))];
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  const ssize_t got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  if (got <= 0) return absl::UnavailableError("shared memory socket: the peer is gone");
  std::vector<OwnedFd> files = TakeFiles(&header);
  if (static_cast<size_t>(got) != bytes || files.size() != count ||
      (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("shared memory socket: ", got, " bytes and ",
                                                   files.size(), " files, must be ", bytes, " and ",
                                                   count));
  }
  return files;
}

}  // namespace octet
