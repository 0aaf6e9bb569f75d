// The model that comes with the program, used where a command is given none.
#ifndef OCTET_CLI_EMBEDDED_MODEL_H_
#define OCTET_CLI_EMBEDDED_MODEL_H_

#include <string>

#include "absl/status/statusor.h"

namespace octet {

// Directory of the running program, symbolic links resolved.
std::string ExecutableDirectory();

// The packed directory models/tiny that belongs to a program in `executable_directory`:
// ../share/octet/models/tiny where it is installed (bin/octet), else ../models/tiny, that of the
// source tree (build/octet). NOT_FOUND names both where neither is a package.
absl::StatusOr<std::string> FindEmbeddedModel(const std::string& executable_directory);

}  // namespace octet

#endif  // OCTET_CLI_EMBEDDED_MODEL_H_
