// From settings to a GenerateRequest, and the files that commands read prompts from.
#ifndef OCTET_CLI_REQUEST_SETTINGS_H_
#define OCTET_CLI_REQUEST_SETTINGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/settings.h"
#include "core/ids.h"
#include "octet/v1/inference.pb.h"

namespace octet {

// Sampling and stop conditions of SamplingSettingsGroup; the prompt is left to the caller.
octet::v1::GenerateRequest RequestFrom(const Settings& settings);

// Token ids separated by white space. INVALID_ARGUMENT names the word that is none.
absl::StatusOr<std::vector<TokenId>> ParseTokenIds(const std::string& text,
                                                   const std::string& file);
// A whole file ("-": standard input). NOT_FOUND, INVALID_ARGUMENT where it is longer than
// `bytes_max`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, uint64_t bytes_max);

}  // namespace octet

#endif  // OCTET_CLI_REQUEST_SETTINGS_H_
