// PackOptions as PackModel understands them.
#ifndef OCTET_MODEL_PACK_OPTIONS_H_
#define OCTET_MODEL_PACK_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "core/weight_format.h"
#include "core/wire_format.h"
#include "model/model_package.h"

namespace octet {

struct ResolvedPackOptions {
  // Empty: the source's own format.
  std::optional<WeightFormat> experts;
  std::optional<WeightFormat> attention;
  ReplyDType reply = ReplyDType::kF32;
  uint32_t upcycle = 0;
  uint64_t upcycle_seed = 1;

  // All of the above as one line; equal lines give equal packages of equal sources.
  std::string Key() const;
};

// INVALID_ARGUMENT names the option, its value and what is allowed. source_kind: "hf" or "gguf",
// which decides the defaults.
absl::StatusOr<ResolvedPackOptions> ResolvePackOptions(const PackOptions& options,
                                                       absl::string_view source_kind);

}  // namespace octet

#endif  // OCTET_MODEL_PACK_OPTIONS_H_
