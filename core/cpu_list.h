// Lists of CPU cores as people write them: "0-3,8".
#ifndef OCTET_CORE_CPU_LIST_H_
#define OCTET_CORE_CPU_LIST_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace octet {

// Cores in the order in which they stand, each once; none for "". INVALID_ARGUMENT says what is
// wrong: no number, a range that runs backwards, a core twice, a core above 1023.
absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text);
// "0,1,2,8".
std::string FormatCpuList(const std::vector<int>& cores);

// Cores that this process may run on, ascending.
std::vector<int> AllowedCores();
// Binds the calling thread to one core. False where it may not run there.
bool PinThisThread(int core);
// Binds it to some, with the threads and processes that it will start. None: changes nothing.
bool KeepThisThreadOn(const std::vector<int>& cores);

}  // namespace octet

#endif  // OCTET_CORE_CPU_LIST_H_
