// From settings to the options of packages, kernels and the engine.
#ifndef OCTET_CLI_MODEL_SETTINGS_H_
#define OCTET_CLI_MODEL_SETTINGS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/in_process.h"
#include "cli/settings.h"
#include "model/model_package.h"
#include "router/engine.h"

namespace octet {

PackOptions PackOptionsFrom(const Settings& settings);
// `kv-dtype`.
DType KvDTypeFrom(const Settings& settings);
// `model`, or where it is not set the embedded one; NOT_FOUND where that is missing.
absl::StatusOr<std::string> ModelPath(const Settings& settings);
// Opens ModelPath (packing it first where it is a source) with a progress bar.
absl::StatusOr<std::shared_ptr<const ModelPackage>> OpenPackage(const Settings& settings);
// Threads: `threads`, or all available cores.
absl::StatusOr<EngineOptions> EngineOptionsFrom(const Settings& settings);
absl::StatusOr<InProcessOptions> InProcessOptionsFrom(const Settings& settings);

}  // namespace octet

#endif  // OCTET_CLI_MODEL_SETTINGS_H_
