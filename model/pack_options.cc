#include "model/pack_options.h"

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

absl::StatusOr<std::optional<WeightFormat>> ResolveFormat(absl::string_view option,
                                                          std::string name, uint32_t group,
                                                          absl::string_view source_kind,
                                                          absl::string_view hf_default) {
  if (name.empty()) name = source_kind == "gguf" ? std::string("source") : std::string(hf_default);
  if (name == "source") return std::optional<WeightFormat>();
  if (name == "int4" || name == "int8" || name == "w4x") absl::StrAppend(&name, "g", group);
  const auto format = WeightFormatFromName(name);
  if (!format.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("option ", option, ": ", format.status().message(),
                     ", and source, int4, int8, w4x (in groups of --group)"));
  }
  return std::optional<WeightFormat>(*format);
}

std::string FormatKey(const std::optional<WeightFormat>& format) {
  return format.has_value() ? WeightFormatName(*format) : "source";
}

}  // namespace

std::string ResolvedPackOptions::Key() const {
  return absl::StrCat("experts=", FormatKey(experts), " attention=", FormatKey(attention),
                      " reply=", reply == ReplyDType::kBF16 ? "bf16" : "f32", " upcycle=", upcycle,
                      " seed=", upcycle == 0 ? 0 : upcycle_seed);
}

absl::StatusOr<ResolvedPackOptions> ResolvePackOptions(const PackOptions& options,
                                                       absl::string_view source_kind) {
  if (options.group != 32 && options.group != 64 && options.group != 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("option group is ", options.group, ", allowed are 32, 64 and 128"));
  }
  ResolvedPackOptions out;
  OCTET_ASSIGN_OR_RETURN(out.experts,
                         ResolveFormat("experts", options.experts, options.group, source_kind,
                                       absl::StrCat("int4g", options.group)));
  OCTET_ASSIGN_OR_RETURN(out.attention,
                         ResolveFormat("attention", options.attention, options.group, source_kind,
                                       absl::StrCat("int8g", options.group)));
  const absl::string_view reply(options.reply);
  if (reply != "f32" && reply != "bf16") {
    return absl::InvalidArgumentError(
        absl::StrCat("option reply is \"", reply.substr(0, 80), "\", allowed are f32 and bf16"));
  }
  if (options.upcycle == 1 || options.upcycle > kExpertsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "option upcycle is ", options.upcycle, ", allowed are 0 (as is) and 2 to ", kExpertsMax));
  }
  out.reply = reply == "bf16" ? ReplyDType::kBF16 : ReplyDType::kF32;
  out.upcycle = options.upcycle;
  out.upcycle_seed = options.upcycle_seed;
  return out;
}

}  // namespace octet
