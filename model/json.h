// Reading JSON that somebody else wrote (configurations, tokenizers, manifests) within bounds.
#ifndef OCTET_MODEL_JSON_H_
#define OCTET_MODEL_JSON_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/limits.h"
#include "nlohmann/json.hpp"

namespace octet {

// Parses one JSON document. Pure, thread-safe, no exception leaves it. INVALID_ARGUMENT when: bytes
// is longer than bytes_max, nesting is deeper than depth_max, there are more than kJsonValuesMax
// values, an object has the same key twice, the text is not JSON or not UTF-8, or anything follows
// the document. Memory stays within a small constant times the size of the document.
absl::StatusOr<nlohmann::json> ParseJsonBounded(std::string_view bytes, uint64_t bytes_max,
                                                int depth_max = kJsonDepthMax);

// Typed members of an object. `where` names the object in errors, e.g. "tokenizer.json: model".
// A missing member and a null one are alike: the Optional forms then give the fallback, the others
// fail. A member of the wrong type is INVALID_ARGUMENT and names field, value and what is allowed.
absl::StatusOr<std::string> JsonString(const nlohmann::json& object, const char* key,
                                       std::string_view where);
absl::StatusOr<std::string> JsonStringOr(const nlohmann::json& object, const char* key,
                                         std::string_view where, std::string_view fallback);
absl::StatusOr<bool> JsonBoolOr(const nlohmann::json& object, const char* key,
                                std::string_view where, bool fallback);
// Integers must lie in [min, max]; 3.0 is not an integer.
absl::StatusOr<int64_t> JsonInt(const nlohmann::json& object, const char* key,
                                std::string_view where, int64_t min, int64_t max);
absl::StatusOr<int64_t> JsonIntOr(const nlohmann::json& object, const char* key,
                                  std::string_view where, int64_t min, int64_t max,
                                  int64_t fallback);

// The member, or nullptr when value is no object, has no such key, or holds null there.
const nlohmann::json* JsonFind(const nlohmann::json& value, const char* key);

// Value as text for an error, shortened to about 80 bytes.
std::string JsonForError(const nlohmann::json& value);

}  // namespace octet

#endif  // OCTET_MODEL_JSON_H_
