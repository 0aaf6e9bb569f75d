// A proxy between a router and a worker that does to their messages what networks and bad memory
// do: flips bits, sends messages twice, late and in another order.
#ifndef OCTET_TESTS_FAULT_MESSAGE_PROXY_H_
#define OCTET_TESTS_FAULT_MESSAGE_PROXY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/clock.h"

namespace octet {

// Chances of each message, either way.
struct MessageFaults {
  double flip = 0;       // one bit anywhere in it
  double lose = 0;       // not sent at all
  double duplicate = 0;  // sent twice
  double delay = 0;      // by up to delay_max: later ones overtake it
  Duration delay_max = Duration::Millis(50);
};

struct MessageCounts {
  uint64_t messages = 0;
  uint64_t flipped = 0;
  uint64_t lost = 0;
  uint64_t duplicated = 0;
  uint64_t delayed = 0;
};

class Relay;

// Takes gRPC calls of any method and passes their messages on as bytes; both sides have a TCP
// connection to it. It speaks HTTP/2 itself, because a byte that is lost or doubled on TCP would
// end the connection, which is another fault. Thread-safe.
class MessageProxy {
 public:
  // Listens on a free port of the loopback interface. `seed` of the choices.
  static absl::StatusOr<std::unique_ptr<MessageProxy>> Start(uint64_t seed);
  // Ends all calls.
  ~MessageProxy();

  // host:port
  const std::string& address() const;
  // Where calls go from now on; before, they fail.
  absl::Status SetUpstream(const std::string& address);
  void SetFaults(const MessageFaults& faults);
  MessageCounts counts() const;
  // What is open and on its way, for the message of a failure.
  std::string Describe() const;

 private:
  friend class Relay;
  struct Impl;
  explicit MessageProxy(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_TESTS_FAULT_MESSAGE_PROXY_H_
