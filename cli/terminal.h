// What the commands write: results on standard output, progress and failures on standard error.
#ifndef OCTET_CLI_TERMINAL_H_
#define OCTET_CLI_TERMINAL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/clock.h"

namespace octet {

// Writes all of it to standard output and flushes. False when nobody reads any more.
bool PrintOut(absl::string_view text);
void PrintErr(absl::string_view text);
// The last line of a failed command: "octet: error: root cause (hint)".
void PrintFailure(const absl::Status& status);
// A short hint for people that fits the failure; empty where there is none.
std::string HintFor(const absl::Status& status);

// Shows how far long work is: a bar that redraws on a terminal, one plain line per phase else.
// Owned and used by one thread.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(absl::string_view phase, uint64_t done, uint64_t total);

 private:
  void EndLine();

  const bool terminal_;
  const SystemClock clock_{};
  std::string phase_;
  MonotonicTime phase_start_;
  MonotonicTime drawn_;
  bool open_ = false;  // a bar is on the screen
};

}  // namespace octet

#endif  // OCTET_CLI_TERMINAL_H_
