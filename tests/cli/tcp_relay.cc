#include "tests/cli/tcp_relay.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/clock.h"

namespace octet {
namespace {

constexpr int kTickMs = 1;
constexpr Duration kDripPause = Duration::Millis(1'000);
// What a drip leaves in the kernel is little.
constexpr int kReceiveBytes = 4096;

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

bool WriteAll(int socket, const char* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = send(socket, data, bytes, MSG_NOSIGNAL);
    if (n <= 0) return false;
    data += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

TcpRelay::TcpRelay(const std::string& upstream) {
  uint32_t port = 0;
  OCTET_CHECK(absl::SimpleAtoi(upstream.substr(upstream.rfind(':') + 1), &port));
  upstream_port_ = static_cast<uint16_t>(port);
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  OCTET_CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
  OCTET_CHECK(listen(listener_, 64) == 0);
  OCTET_CHECK(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  accept_ = std::thread([this] { Accept(); });
}

TcpRelay::~TcpRelay() {
  stopping_ = true;
  accept_.join();
  std::vector<std::thread> lines;
  {
    MutexLock lock(mu_);
    lines.swap(lines_);
  }
  for (std::thread& line : lines) line.join();
  close(listener_);
}

void TcpRelay::Reset() { cut_ = true; }

void TcpRelay::Accept() {
  while (!stopping_) {
    pollfd fd{listener_, POLLIN, 0};
    if (poll(&fd, 1, kTickMs) <= 0) continue;
    Line line;
    line.client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    line.upstream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(line.upstream, SOL_SOCKET, SO_RCVBUF, &kReceiveBytes, sizeof(kReceiveBytes));
    const sockaddr_in address = Loopback(upstream_port_);
    if (connect(line.upstream, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      close(line.client);
      close(line.upstream);
      continue;
    }
    MutexLock lock(mu_);
    lines_.emplace_back([this, line] { Run(line); });
  }
}

bool TcpRelay::Move(int from, int to, bool back) {
  std::array<char, 16384> buffer;
  const bool drip = back && mode_ == Mode::kDrip;
  const ssize_t n = recv(from, buffer.data(), drip ? 1 : buffer.size(), 0);
  if (n <= 0 || !WriteAll(to, buffer.data(), static_cast<size_t>(n))) return false;
  return true;
}

void TcpRelay::Run(Line line) {
  const SystemClock clock;
  MonotonicTime next_drip;
  bool open = true;
  while (open && !stopping_ && !cut_) {
    const Mode mode = mode_;
    const bool takes = mode == Mode::kPass || (mode == Mode::kDrip && clock.Now() >= next_drip);
    std::array<pollfd, 2> fds = {{{mode == Mode::kSilent ? -1 : line.client, POLLIN, 0},
                                  {takes ? line.upstream : -1, POLLIN, 0}}};
    if (poll(fds.data(), fds.size(), kTickMs) <= 0) continue;
    if (fds[0].revents != 0) open = Move(line.client, line.upstream, /*back=*/false);
    if (open && fds[1].revents != 0) {
      open = Move(line.upstream, line.client, /*back=*/true);
      next_drip = clock.Now() + kDripPause;
    }
  }
  if (cut_) {
    // A reset instead of an orderly end.
    const linger hard{1, 0};
    setsockopt(line.upstream, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  }
  close(line.upstream);
  close(line.client);
}

}  // namespace octet
