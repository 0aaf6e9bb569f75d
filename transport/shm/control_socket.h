// The Unix socket over which a router and a worker of one host agree on shared memory. Its messages
// are few; later it only shows that the peer lives. Paths are in a directory of the user's own.
#ifndef OCTET_TRANSPORT_SHM_CONTROL_SOCKET_H_
#define OCTET_TRANSPORT_SHM_CONTROL_SOCKET_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/clock.h"
#include "transport/shm/shared_memory.h"

namespace octet {

// `given`, or where that is empty $XDG_RUNTIME_DIR/octet, or /tmp/octet-UID.
std::string ShmDirectory(const std::string& given);
// Where the worker that routers reach at `address` listens. INVALID_ARGUMENT for an address that
// makes no file name.
absl::StatusOr<std::string> ShmSocketPath(const std::string& directory, const std::string& address);

// Makes the directory (0700) where it is missing. PERMISSION_DENIED unless it is a directory that
// belongs to this user and that nobody else can reach into.
absl::Status PrepareShmDirectory(const std::string& directory);

// A listening socket of mode 0600 at `path`; what an earlier process left there is replaced.
absl::StatusOr<OwnedFd> ListenControl(const std::string& path);
// The next peer that waits; not open where none does. Peers of other users are turned away.
OwnedFd AcceptControl(int listener);
// NOT_FOUND where nobody listens, PERMISSION_DENIED where the directory or the peer is not this
// user's own.
absl::StatusOr<OwnedFd> ConnectControl(const std::string& path);

// One message with open files. The bytes are sent whole or not at all.
absl::Status SendControl(int socket, const void* message, size_t bytes,
                         const std::vector<int>& files);
// Waits up to `timeout` for a message of exactly `bytes` bytes with `count` files. UNAVAILABLE
// where the peer is gone, DEADLINE_EXCEEDED, INVALID_ARGUMENT for a message of another kind,
// CANCELLED as soon as the file `stop` can be read (-1: none).
absl::StatusOr<std::vector<OwnedFd>> ReceiveControl(int socket, void* message, size_t bytes,
                                                    size_t count, Duration timeout, int stop = -1);

}  // namespace octet

#endif  // OCTET_TRANSPORT_SHM_CONTROL_SOCKET_H_
