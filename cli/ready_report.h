// How a role tells `octet up`, which started it, that it serves: lines on an inherited pipe.
//   listening HOST:PORT    bound, may not be able to serve yet
//   ready                  serves (routers: every expert has a live replica)
//   failed CODE MESSAGE    ends; CODE is an absl::StatusCode
#ifndef OCTET_CLI_READY_REPORT_H_
#define OCTET_CLI_READY_REPORT_H_

#include <string>

#include "absl/status/status.h"

namespace octet {

// Writes to `fd` (`--ready-fd`); does nothing where it is -1. Thread-safe.
class ReadyReporter {
 public:
  explicit ReadyReporter(int fd) : fd_(fd) {}
  void Listening(const std::string& address) const;
  void Ready() const;
  void Failed(const absl::Status& status) const;

 private:
  void Write(const std::string& line) const;
  const int fd_;
};

// What the lines read so far say.
struct ReadyState {
  std::string address;  // empty: not listening yet
  bool ready = false;
  absl::Status failure;
  std::string partial;  // a line that has not ended

  // Takes the next bytes of the pipe.
  void Append(const std::string& bytes);
};

}  // namespace octet

#endif  // OCTET_CLI_READY_REPORT_H_
