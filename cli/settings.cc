#include "cli/settings.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/check.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

// Shortened for an error line.
std::string Shown(const std::string& text) {
  return text.size() <= 80 ? text : absl::StrCat(text.substr(0, 77), "...");
}

bool ParseInt(const std::string& text, int64_t* out) { return absl::SimpleAtoi(text, out); }

bool ParseBool(const std::string& text, bool* out) {
  const std::string lower = absl::AsciiStrToLower(text);
  for (const char* yes : {"true", "yes", "on", "1"}) {
    if (lower == yes) return *out = true, true;
  }
  for (const char* no : {"false", "no", "off", "0"}) {
    if (lower == no) return *out = false, true;
  }
  return false;
}

bool ParseBytes(const std::string& text, uint64_t* out) {
  size_t digits = 0;
  while (digits < text.size() && absl::ascii_isdigit(static_cast<unsigned char>(text[digits]))) {
    ++digits;
  }
  uint64_t number = 0;
  if (digits == 0 || !absl::SimpleAtoi(text.substr(0, digits), &number)) return false;
  const std::string unit = absl::AsciiStrToLower(absl::StripAsciiWhitespace(text.substr(digits)));
  static const struct {
    const char* name;
    uint64_t factor;
  } kUnits[] = {{"", 1},
                {"b", 1},
                {"k", 1'000},
                {"kb", 1'000},
                {"m", 1'000'000},
                {"mb", 1'000'000},
                {"g", 1'000'000'000},
                {"gb", 1'000'000'000},
                {"kib", 1ull << 10},
                {"mib", 1ull << 20},
                {"gib", 1ull << 30}};
  for (const auto& u : kUnits) {
    if (unit == u.name) return !__builtin_mul_overflow(number, u.factor, out);
  }
  return false;
}

// "12" for whole numbers, "0.5" for others.
std::string NumberText(double v) {
  if (v == std::floor(v) && std::fabs(v) < 1e15) return absl::StrCat(static_cast<int64_t>(v));
  return absl::StrCat(v);
}

std::string Allowed(const SettingSpec& spec) {
  const std::string range = absl::StrCat(NumberText(spec.min), " to ", NumberText(spec.max));
  switch (spec.type) {
    case SettingType::kInt:
      return absl::StrCat("an integer from ", range);
    case SettingType::kUint64:
      return "an integer from 0 to 2^64 - 1";
    case SettingType::kFloat:
      return absl::StrCat("a number from ", range);
    case SettingType::kBool:
      return "true or false";
    case SettingType::kBytes:
      return absl::StrCat("a number of bytes with an optional unit (256MiB, 2GiB), ", range);
    case SettingType::kChoice:
      return absl::StrCat("one of ", absl::StrJoin(absl::StrSplit(spec.choices, '|'), ", "));
    case SettingType::kString:
    case SettingType::kList:
      return "text";
  }
  return "";
}

bool ValueFits(const SettingSpec& spec, const std::string& text) {
  int64_t integer = 0;
  uint64_t bytes = 0;
  double number = 0;
  bool flag = false;
  switch (spec.type) {
    case SettingType::kInt:
      return ParseInt(text, &integer) && static_cast<double>(integer) >= spec.min &&
             static_cast<double>(integer) <= spec.max;
    case SettingType::kUint64:
      return absl::SimpleAtoi(text, &bytes);
    case SettingType::kFloat:
      return absl::SimpleAtod(text, &number) && std::isfinite(number) && number >= spec.min &&
             number <= spec.max;
    case SettingType::kBool:
      return ParseBool(text, &flag);
    case SettingType::kBytes:
      return ParseBytes(text, &bytes) && static_cast<double>(bytes) >= spec.min &&
             static_cast<double>(bytes) <= spec.max;
    case SettingType::kChoice: {
      const std::vector<std::string> choices = absl::StrSplit(spec.choices, '|');
      return std::find(choices.begin(), choices.end(), text) != choices.end();
    }
    case SettingType::kString:
    case SettingType::kList:
      return true;
  }
  return false;
}

absl::Status YamlError(const std::string& file, const YAML::Mark& mark, absl::string_view why) {
  const std::string where = mark.is_null() ? file : absl::StrCat(file, ":", mark.line + 1);
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", why));
}

absl::StatusOr<std::vector<std::string>> YamlValues(const std::string& file, const std::string& key,
                                                    const YAML::Node& node) {
  if (node.IsScalar()) return std::vector<std::string>{node.Scalar()};
  if (node.IsNull()) return std::vector<std::string>{};
  if (!node.IsSequence()) {
    return YamlError(file, node.Mark(),
                     absl::StrCat(key, ": a mapping; allowed is a value or a list of values"));
  }
  std::vector<std::string> values;
  for (const auto& item : node) {
    if (!item.IsScalar()) {
      return YamlError(file, item.Mark(),
                       absl::StrCat(key, ": a nested list; allowed is a list of values"));
    }
    values.push_back(item.Scalar());
  }
  return values;
}

absl::StatusOr<RawSettings> YamlToRaw(const YAML::Node& root, const std::string& file,
                                      const std::vector<std::string>& known) {
  RawSettings raw;
  if (root.IsNull()) return raw;
  if (!root.IsMap()) {
    return YamlError(file, root.Mark(), "not a mapping; allowed is one \"setting: value\" a line");
  }
  for (const auto& entry : root) {
    if (!entry.first.IsScalar()) return YamlError(file, entry.first.Mark(), "a key is no text");
    const std::string key = entry.first.Scalar();
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return YamlError(file, entry.first.Mark(),
                       absl::StrCat("unknown key \"", Shown(key), "\"; did you mean \"",
                                    NearestName(key, known), "\"?"));
    }
    OCTET_ASSIGN_OR_RETURN(auto values, YamlValues(file, key, entry.second));
    if (!raw.emplace(key, std::move(values)).second) {
      return YamlError(file, entry.first.Mark(), absl::StrCat("key \"", key, "\" stands twice"));
    }
  }
  return raw;
}

}  // namespace

std::string SettingEnvironmentName(absl::string_view name) {
  std::string out = absl::StrCat("OCTET_", absl::AsciiStrToUpper(name));
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

std::string NearestName(absl::string_view text, const std::vector<std::string>& known) {
  // Longer than any setting: the distance would say nothing and cost time.
  const absl::string_view bounded = text.substr(0, 64);
  std::string best;
  size_t best_distance = SIZE_MAX;
  for (const std::string& name : known) {
    const size_t distance = EditDistance(bounded, name);
    if (distance < best_distance) {
      best_distance = distance;
      best = name;
    }
  }
  return best;
}

absl::StatusOr<RawSettings> ParseYamlSettings(const std::string& text, const std::string& file,
                                              const std::vector<std::string>& known) {
  if (text.size() > kConfigBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", text.size(), " bytes; allowed are at most ", kConfigBytesMax));
  }
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.empty()) return RawSettings();
    if (documents.size() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": ", documents.size(), " YAML documents; allowed is one"));
    }
    return YamlToRaw(documents[0], file, known);
  } catch (const YAML::Exception& e) {
    return YamlError(file, e.mark, absl::StrCat("not YAML: ", e.msg));
  }
}

absl::Status CheckSettingValue(const SettingSpec& spec, const std::string& text) {
  if (ValueFits(spec, text)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("\"", Shown(text), "\" is not allowed; allowed is ", Allowed(spec)));
}

absl::StatusOr<Settings> Settings::Resolve(const std::vector<SettingSpec>& specs,
                                           const RawSettings& flags, const RawSettings& environment,
                                           const RawSettings& yaml, const std::string& yaml_file) {
  Settings settings;
  for (const SettingSpec& spec : specs) {
    SettingValue value;
    value.origin = "default";
    if (!spec.fallback.empty()) value.values = {spec.fallback};
    const struct {
      const RawSettings& raw;
      SettingSource source;
      std::string origin;
    } places[] = {{yaml, SettingSource::kYaml, yaml_file},
                  {environment, SettingSource::kEnvironment, SettingEnvironmentName(spec.name)},
                  {flags, SettingSource::kFlag, absl::StrCat("flag --", spec.name)}};
    for (const auto& place : places) {
      const auto it = place.raw.find(spec.name);
      if (it != place.raw.end()) value = {it->second, place.source, place.origin};
    }
    if (spec.type != SettingType::kList && value.values.size() > 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          spec.name, " (", value.origin, "): ", value.values.size(), " values; allowed is one"));
    }
    for (const std::string& text : value.values) {
      const absl::Status checked = CheckSettingValue(spec, text);
      if (!checked.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat(spec.name, " (", value.origin, "): ", checked.message()));
      }
    }
    settings.all_.emplace_back(spec, std::move(value));
  }
  return settings;
}

const std::pair<SettingSpec, SettingValue>& Settings::Find(absl::string_view name) const {
  for (const auto& entry : all_) {
    if (entry.first.name == name) return entry;
  }
  OCTET_CHECK(false) << "no setting " << name;
  return all_[0];
}

bool Settings::Has(absl::string_view name) const {
  return std::any_of(all_.begin(), all_.end(),
                     [&](const auto& entry) { return entry.first.name == name; });
}

bool Settings::IsSet(absl::string_view name) const { return !Find(name).second.values.empty(); }

const std::string& Settings::String(absl::string_view name) const {
  static const std::string* const kEmpty = new std::string;
  const auto& values = Find(name).second.values;
  return values.empty() ? *kEmpty : values[0];
}

int64_t Settings::Int(absl::string_view name) const {
  int64_t value = 0;
  ParseInt(String(name), &value);
  return value;
}

uint64_t Settings::Uint64(absl::string_view name) const {
  uint64_t value = 0;
  if (!absl::SimpleAtoi(String(name), &value)) value = 0;
  return value;
}

double Settings::Float(absl::string_view name) const {
  double value = 0;
  if (!absl::SimpleAtod(String(name), &value)) value = 0;
  return value;
}

bool Settings::Bool(absl::string_view name) const {
  bool value = false;
  ParseBool(String(name), &value);
  return value;
}

uint64_t Settings::Bytes(absl::string_view name) const {
  uint64_t value = 0;
  ParseBytes(String(name), &value);
  return value;
}

const std::vector<std::string>& Settings::List(absl::string_view name) const {
  return Find(name).second.values;
}

SettingSource Settings::Source(absl::string_view name) const { return Find(name).second.source; }

}  // namespace octet
