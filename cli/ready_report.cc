#include "cli/ready_report.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace octet {
namespace {

// Short enough for a pipe to take it in one piece.
constexpr size_t kReportBytesMax = 2048;

void TakeLine(const std::string& line, ReadyState* state) {
  if (absl::StartsWith(line, "listening ")) {
    state->address = line.substr(10);
  } else if (line == "ready") {
    state->ready = true;
  } else if (absl::StartsWith(line, "failed ")) {
    const size_t space = line.find(' ', 7);
    int code = 0;
    if (space == std::string::npos || !absl::SimpleAtoi(line.substr(7, space - 7), &code)) return;
    state->failure = absl::Status(static_cast<absl::StatusCode>(code), line.substr(space + 1));
  }
}

}  // namespace

void ReadyReporter::Write(const std::string& line) const {
  if (fd_ < 0) return;
  std::string bytes = line.substr(0, kReportBytesMax);
  std::replace(bytes.begin(), bytes.end(), '\n', ' ');
  bytes += '\n';
  // Nobody to tell where the parent is gone.
  [[maybe_unused]] const ssize_t written = write(fd_, bytes.data(), bytes.size());
}

void ReadyReporter::Listening(const std::string& address) const {
  Write(absl::StrCat("listening ", address));
}

void ReadyReporter::Ready() const { Write("ready"); }

void ReadyReporter::Failed(const absl::Status& status) const {
  Write(absl::StrCat("failed ", static_cast<int>(status.code()), " ", status.message()));
}

void ReadyState::Append(const std::string& bytes) {
  partial += bytes;
  size_t end = 0;
  while ((end = partial.find('\n')) != std::string::npos) {
    TakeLine(partial.substr(0, end), this);
    partial.erase(0, end + 1);
  }
  if (partial.size() > kReportBytesMax) partial.clear();
}

}  // namespace octet
