// A TCP relay that stands for a client's network: it can slow down, fall silent, or cut the line.
#ifndef OCTET_TESTS_CLI_TCP_RELAY_H_
#define OCTET_TESTS_CLI_TCP_RELAY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/mutex.h"

namespace octet {

// Listens on a free port of the loopback interface and passes bytes on to `upstream` and back.
// Thread-safe.
class TcpRelay {
 public:
  enum class Mode {
    kPass,
    kDrip,    // takes one byte a second from upstream
    kSilent,  // takes nothing and sends nothing; connections stay open
  };

  explicit TcpRelay(const std::string& upstream);
  ~TcpRelay();
  TcpRelay(const TcpRelay&) = delete;
  TcpRelay& operator=(const TcpRelay&) = delete;

  // host:port
  const std::string& address() const { return address_; }
  void SetMode(Mode mode) { mode_ = mode; }
  // Upstream gets a reset on every connection, and clients an end of file.
  void Reset();

 private:
  struct Line {
    int client = -1;
    int upstream = -1;
  };
  void Accept();
  void Run(Line line);
  // False at the end of either side.
  bool Move(int from, int to, bool back);

  std::string address_;
  uint16_t upstream_port_ = 0;
  int listener_ = -1;
  std::atomic<Mode> mode_{Mode::kPass};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> cut_{false};
  std::thread accept_;
  Mutex mu_;
  std::vector<std::thread> lines_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_TESTS_CLI_TCP_RELAY_H_
