#include "tests/fault/role_process.h"

#include <signal.h>

#include "absl/strings/str_cat.h"

namespace octet {
namespace {

constexpr int64_t kStartMs = 60'000;
constexpr int64_t kEndMs = 60'000;

}  // namespace

absl::Status RoleProcess::Start(const std::vector<std::string>& flags) {
  std::vector<std::string> argv = {OctetBinary()};
  argv.insert(argv.end(), args_.begin(), args_.end());
  argv.insert(argv.end(), flags.begin(), flags.end());
  argv.insert(argv.end(), {"--listen", address_, "--log-level", "info"});
  process_ = std::make_unique<ChildProcess>(argv);
  const std::string mark = "listening on ";
  if (!process_->WaitForOutput(mark, kStartMs)) {
    return absl::UnavailableError(absl::StrCat(args_[0], " did not start: ", Log()));
  }
  const std::string log = process_->StderrText();
  const size_t begin = log.find(mark) + mark.size();
  address_ = log.substr(begin, log.find_first_of(" ,\n", begin) - begin);
  return absl::OkStatus();
}

absl::Status RoleProcess::WaitForEnd(bool ask, int expected) {
  if (ask) process_->Signal(SIGTERM);
  int status = 0;
  if (!process_->WaitForExit(kEndMs, &status)) {
    return absl::DeadlineExceededError(absl::StrCat(args_[0], " did not end: ", Log()));
  }
  if (status == expected) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(args_[0], " ended with ", status, " instead of ", expected, ": ", Log()));
}

}  // namespace octet
