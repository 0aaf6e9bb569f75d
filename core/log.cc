#include "core/log.h"

#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <ctime>
#include <string>

namespace octet {
namespace {

std::atomic<int> g_level{static_cast<int>(LogLevel::kInfo)};

// Fixed storage: the role is read by any thread at any time, also during exit.
char g_role[32] = "octet";

}  // namespace

void SetLogLevel(LogLevel level) { g_level.store(static_cast<int>(level)); }

void SetLogRole(absl::string_view role) {
  std::snprintf(g_role, sizeof(g_role), "%.*s", static_cast<int>(role.size()), role.data());
}

bool LogEnabled(LogLevel level) { return static_cast<int>(level) >= g_level.load(); }

void Log(LogLevel level, absl::string_view text) {
  timeval tv;
  gettimeofday(&tv, nullptr);
  tm local;
  localtime_r(&tv.tv_sec, &local);
  char head[80];
  std::snprintf(head, sizeof(head), "%c %02d:%02d:%02d.%03d %s] ", "DIWE"[static_cast<int>(level)],
                local.tm_hour, local.tm_min, local.tm_sec, static_cast<int>(tv.tv_usec / 1000),
                g_role);
  const std::string line = absl::StrCat(head, text, "\n");
  // A log line that cannot be written has nowhere to be reported.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace octet
