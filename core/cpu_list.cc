#include "core/cpu_list.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace octet {
namespace {

constexpr int kCoreMax = CPU_SETSIZE - 1;

absl::Status Error(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is no list of cores (", why,
                                                 "); allowed are numbers from 0 to ", kCoreMax,
                                                 " and ranges, as in 0-3,8"));
}

bool ParseCore(absl::string_view text, int* core) {
  return absl::SimpleAtoi(text, core) && *core >= 0 && *core <= kCoreMax;
}

}  // namespace

absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text) {
  std::vector<int> cores;
  if (text.empty()) return cores;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(part, absl::MaxSplits('-', 1));
    int first = 0;
    if (!ParseCore(ends[0], &first)) return Error(text, absl::StrCat("\"", part, "\""));
    int last = first;
    if (ends.size() == 2 && !ParseCore(ends[1], &last)) {
      return Error(text, absl::StrCat("\"", part, "\""));
    }
    if (last < first) return Error(text, absl::StrCat("\"", part, "\" runs backwards"));
    for (int core = first; core <= last; ++core) {
      if (std::find(cores.begin(), cores.end(), core) != cores.end()) {
        return Error(text, absl::StrCat("core ", core, " stands there twice"));
      }
      cores.push_back(core);
    }
  }
  return cores;
}

std::string FormatCpuList(const std::vector<int>& cores) { return absl::StrJoin(cores, ","); }

std::vector<int> AllowedCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int core = 0; core <= kCoreMax; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

bool PinThisThread(int core) { return KeepThisThreadOn({core}); }

bool KeepThisThreadOn(const std::vector<int>& cores) {
  if (cores.empty()) return true;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  return pthread_setaffinity_np(pthread_self(), sizeof(set), &set) == 0;
}

}  // namespace octet
