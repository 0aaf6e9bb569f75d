#include "cli/model_settings.h"

#include "absl/strings/numbers.h"
#include "cli/cores.h"
#include "cli/embedded_model.h"
#include "cli/terminal.h"
#include "core/status_macros.h"

namespace octet {

PackOptions PackOptionsFrom(const Settings& settings) {
  PackOptions options;
  options.experts = settings.String("experts");
  options.attention = settings.String("attention");
  uint32_t group = 0;
  if (absl::SimpleAtoi(settings.String("group"), &group)) options.group = group;
  options.reply = settings.String("reply");
  options.upcycle = static_cast<uint32_t>(settings.Int("upcycle"));
  options.upcycle_seed = settings.Uint64("upcycle-seed");
  return options;
}

DType KvDTypeFrom(const Settings& settings) {
  const std::string name = settings.String("kv-dtype");
  return name == "f32" ? DType::kF32 : name == "int8" ? DType::kI8 : DType::kF16;
}

absl::StatusOr<std::string> ModelPath(const Settings& settings) {
  if (settings.IsSet("model")) return settings.String("model");
  return FindEmbeddedModel(ExecutableDirectory());
}

namespace {

ModelPackage::OpenOptions OpenOptionsFrom(const Settings& settings) {
  ModelPackage::OpenOptions options;
  options.cache_directory = settings.String("cache-dir");
  options.pack = PackOptionsFrom(settings);
  // Commands that compute nothing have no such setting.
  if (settings.Has("numerics") && settings.String("numerics") == "hopper-bf16") {
    options.numerics = ExpertNumerics::kHopperBf16;
  }
  return options;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelPackage>> OpenPackage(const Settings& settings) {
  OCTET_ASSIGN_OR_RETURN(const std::string path, ModelPath(settings));
  const ModelPackage::OpenOptions options = OpenOptionsFrom(settings);
  ProgressBar bar;
  return ModelPackage::Open(path, options,
                            [&bar](absl::string_view phase, uint64_t done, uint64_t total) {
                              bar.Update(phase, done, total);
                            });
}

absl::StatusOr<EngineOptions> EngineOptionsFrom(const Settings& settings) {
  EngineOptions options;
  options.kv_cache_bytes = settings.Bytes("kv-cache-bytes");
  options.kv_dtype = KvDTypeFrom(settings);
  options.prefix_cache = settings.String("prefix-cache") == "on";
  options.kv_tier_dir = settings.String("kv-tier-dir");
  options.kv_tier_bytes = settings.Bytes("kv-tier-bytes");
  options.context_max = static_cast<uint32_t>(settings.Int("context-max"));
  options.running_max = static_cast<uint32_t>(settings.Int("running-max"));
  options.waiting_max = static_cast<uint32_t>(settings.Int("waiting-max"));
  options.waiting_tokens_max = static_cast<uint64_t>(settings.Int("waiting-tokens-max"));
  options.wait_ms_max = settings.Float("wait-ms-max");
  options.step_tokens_max = static_cast<uint32_t>(settings.Int("step-tokens-max"));
  options.chunk_tokens = static_cast<uint32_t>(settings.Int("chunk-tokens"));
  options.itl_ms_max = settings.Float("itl-ms-max");
  const std::string micro_batches = settings.String("micro-batches");
  options.micro_batches = micro_batches == "auto" ? 0 : micro_batches == "1" ? 1 : 2;
  OCTET_ASSIGN_OR_RETURN(options.cores, CoresFrom(settings));
  options.threads = ThreadsFrom(settings, options.cores);
  options.spin = settings.String("spin") == "on";
  OCTET_ASSIGN_OR_RETURN(options.cpu_level, CpuLevelFromName(settings.String("cpu-level")));
  OCTET_ASSIGN_OR_RETURN(options.device, DeviceFromName(settings.String("device")));
  return options;
}

absl::StatusOr<InProcessOptions> InProcessOptionsFrom(const Settings& settings) {
  OCTET_RETURN_IF_ERROR(BindToNumaNode(settings));
  InProcessOptions options;
  OCTET_ASSIGN_OR_RETURN(options.model, ModelPath(settings));
  options.package = OpenOptionsFrom(settings);
  OCTET_ASSIGN_OR_RETURN(options.engine, EngineOptionsFrom(settings));
  if (options.package.numerics == ExpertNumerics::kHopperBf16) {
    OCTET_ASSIGN_OR_RETURN(options.engine.device, OnlyCuda(options.engine.device));
  }
  return options;
}

}  // namespace octet
