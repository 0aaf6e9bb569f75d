#include "cli/terminal.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace octet {
namespace {

constexpr int kBarCells = 30;
constexpr Duration kRedrawEvery = Duration::Millis(80);
// Phases shorter than this leave no line behind where there is no terminal.
constexpr Duration kPlainLineAfter = Duration::Millis(1000);

}  // namespace

bool PrintOut(absl::string_view text) {
  return fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0;
}

void PrintErr(absl::string_view text) { fwrite(text.data(), 1, text.size(), stderr); }

std::string HintFor(const absl::Status& status) {
  const std::string message(status.message());
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      if (absl::StrContains(message, "cannot listen")) {
        return "choose another --listen address, or end the process that has this one";
      }
      return "";
    case absl::StatusCode::kResourceExhausted:
      return absl::StrContains(message, "disk") ? "free some disk space or choose another place"
                                                : "try again later or with less at once";
    case absl::StatusCode::kDataLoss:
      return "the file is damaged: fetch or pack it again";
    case absl::StatusCode::kNotFound:
      return "check the path";
    case absl::StatusCode::kDeadlineExceeded:
      return "raise --timeout-ms or ask for less";
    default:
      return "";
  }
}

void PrintFailure(const absl::Status& status) {
  const std::string hint = HintFor(status);
  PrintErr(absl::StrCat("octet: error: ", status.message(),
                        hint.empty() ? "" : absl::StrCat(" (hint: ", hint, ")"), "\n"));
}

ProgressBar::ProgressBar() : terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() { EndLine(); }

void ProgressBar::EndLine() {
  if (terminal_ && open_) PrintErr("\r\033[K");
  open_ = false;
}

void ProgressBar::Update(absl::string_view phase, uint64_t done, uint64_t total) {
  const MonotonicTime now = clock_.Now();
  if (phase != phase_) {
    EndLine();
    phase_ = std::string(phase);
    phase_start_ = now;
    drawn_ = {};
  }
  const bool complete = done >= total;
  if (!terminal_) {
    if (complete && now - phase_start_ >= kPlainLineAfter) {
      PrintErr(absl::StrFormat("%s: done in %.1f s\n", phase_, (now - phase_start_).seconds()));
      phase_start_ = now;
    }
    return;
  }
  if (!complete && now - drawn_ < kRedrawEvery) return;
  drawn_ = now;
  const double part = total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
  const int cells = static_cast<int>(std::min(1.0, part) * kBarCells);
  PrintErr(absl::StrFormat("\r\033[K%-28s [%s%s] %3d%%", phase_.substr(0, 28),
                           std::string(cells, '='), std::string(kBarCells - cells, ' '),
                           static_cast<int>(std::min(1.0, part) * 100)));
  open_ = true;
  if (complete) EndLine();
}

}  // namespace octet
