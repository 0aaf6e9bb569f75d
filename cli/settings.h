// Settings of the command line, resolved from four places: flags, then the environment (OCTET_*),
// then a YAML file, then defaults. Keys of the YAML file are the long flags. Pure: the caller reads
// argv, the environment and the file.
#ifndef OCTET_CLI_SETTINGS_H_
#define OCTET_CLI_SETTINGS_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace octet {

enum class SettingType : uint8_t {
  kString,
  kInt,     // in [min, max]
  kUint64,  // any 64-bit value
  kFloat,   // in [min, max], finite
  kBool,    // true, false, yes, no, on, off, 1, 0
  kBytes,   // a number with an optional unit: k, M, G (1000s) or KiB, MiB, GiB; in [min, max]
  kChoice,  // one of `choices`
  kList,    // a flag that may be given several times; a YAML sequence
};

// One setting: one long flag, one YAML key, one environment variable.
struct SettingSpec {
  std::string name;  // "max-tokens": --max-tokens, OCTET_MAX_TOKENS, max-tokens:
  SettingType type = SettingType::kString;
  std::string fallback;  // "" means: not set
  std::string help;
  std::string group;  // heading in --help
  double min = 0;
  double max = 0;
  std::string choices;  // kChoice: "a|b|c"
  int positional = 0;   // 1, 2: may also be given without its flag, at this place
  bool hidden = false;  // not in --help
};

enum class SettingSource : uint8_t { kDefault, kYaml, kEnvironment, kFlag };

struct SettingValue {
  std::vector<std::string> values;  // empty: not set
  SettingSource source = SettingSource::kDefault;
  std::string origin;  // "flag --threads", "OCTET_THREADS", "octet.yaml", "default"
};

// Values by setting name, as found in one place.
using RawSettings = std::map<std::string, std::vector<std::string>>;

// "OCTET_MAX_TOKENS" for "max-tokens".
std::string SettingEnvironmentName(absl::string_view name);

// Levenshtein distance with transpositions of neighbours counted as one.
size_t EditDistance(absl::string_view a, absl::string_view b);
// The known name that is nearest to `text`; ties go to the earlier one. Empty where there are none.
std::string NearestName(absl::string_view text, const std::vector<std::string>& known);

// Reads a YAML mapping of setting names to scalars or sequences of scalars. INVALID_ARGUMENT names
// file, line and key: no mapping, nesting, a key twice, a key that is not in `known` (with the
// nearest one that is).
absl::StatusOr<RawSettings> ParseYamlSettings(const std::string& text, const std::string& file,
                                              const std::vector<std::string>& known);

// Everything a command was told. Immutable after Resolve.
class Settings {
 public:
  // Names in `flags`, `environment` and `yaml` that `specs` lacks are ignored (a file may serve
  // several commands). INVALID_ARGUMENT names the setting, where it came from, the value and what
  // is allowed.
  static absl::StatusOr<Settings> Resolve(const std::vector<SettingSpec>& specs,
                                          const RawSettings& flags, const RawSettings& environment,
                                          const RawSettings& yaml, const std::string& yaml_file);

  // The name must be one of the specs (a CHECK failure else) and its type must fit.
  bool IsSet(absl::string_view name) const;
  const std::string& String(absl::string_view name) const;  // "" where not set
  int64_t Int(absl::string_view name) const;                // 0 where not set
  uint64_t Uint64(absl::string_view name) const;
  double Float(absl::string_view name) const;
  bool Bool(absl::string_view name) const;
  uint64_t Bytes(absl::string_view name) const;
  const std::vector<std::string>& List(absl::string_view name) const;
  bool Has(absl::string_view name) const;  // one of the specs at all
  SettingSource Source(absl::string_view name) const;

  const std::vector<std::pair<SettingSpec, SettingValue>>& all() const { return all_; }

 private:
  const std::pair<SettingSpec, SettingValue>& Find(absl::string_view name) const;
  std::vector<std::pair<SettingSpec, SettingValue>> all_;
};

// Why `text` is no value of this setting, or OK.
absl::Status CheckSettingValue(const SettingSpec& spec, const std::string& text);

}  // namespace octet

#endif  // OCTET_CLI_SETTINGS_H_
