// Leveled log lines on standard error: "I 12:30:01.123 router] text". Standard output belongs to
// the user.
#ifndef OCTET_CORE_LOG_H_
#define OCTET_CORE_LOG_H_

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace octet {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

// Lines below `level` are dropped. Thread-safe. Default kInfo.
void SetLogLevel(LogLevel level);
// Name of the process role that starts each line; call before threads start.
void SetLogRole(absl::string_view role);
bool LogEnabled(LogLevel level);
// Writes one line with a single write(2), so that lines of several processes do not interleave.
void Log(LogLevel level, absl::string_view text);

template <typename... Args>
void LogInfo(const Args&... args) {
  if (LogEnabled(LogLevel::kInfo)) Log(LogLevel::kInfo, absl::StrCat(args...));
}
template <typename... Args>
void LogWarning(const Args&... args) {
  if (LogEnabled(LogLevel::kWarning)) Log(LogLevel::kWarning, absl::StrCat(args...));
}
template <typename... Args>
void LogError(const Args&... args) {
  if (LogEnabled(LogLevel::kError)) Log(LogLevel::kError, absl::StrCat(args...));
}
template <typename... Args>
void LogDebug(const Args&... args) {
  if (LogEnabled(LogLevel::kDebug)) Log(LogLevel::kDebug, absl::StrCat(args...));
}

}  // namespace octet

#endif  // OCTET_CORE_LOG_H_
