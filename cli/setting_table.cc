#include "cli/setting_table.h"

#include "core/limits.h"
#include "core/nccl_limits.h"

namespace octet {
namespace {

constexpr double kIntMax = 2147483647.0;
constexpr char kGeneral[] = "General";
constexpr char kModel[] = "Model";
constexpr char kPacking[] = "Packing";
constexpr char kCompute[] = "Compute";
constexpr char kEngine[] = "Engine";
constexpr char kConnection[] = "Connection";
constexpr char kSampling[] = "Sampling";
constexpr char kProcess[] = "Process";

}  // namespace

SettingSpec StringSetting(const std::string& name, const std::string& fallback,
                          const std::string& help, const std::string& group) {
  SettingSpec spec;
  spec.name = name;
  spec.fallback = fallback;
  spec.help = help;
  spec.group = group;
  return spec;
}

SettingSpec IntSetting(const std::string& name, const std::string& fallback, double min, double max,
                       const std::string& help, const std::string& group) {
  SettingSpec spec = StringSetting(name, fallback, help, group);
  spec.type = SettingType::kInt;
  spec.min = min;
  spec.max = max;
  return spec;
}

SettingSpec FloatSetting(const std::string& name, const std::string& fallback, double min,
                         double max, const std::string& help, const std::string& group) {
  SettingSpec spec = IntSetting(name, fallback, min, max, help, group);
  spec.type = SettingType::kFloat;
  return spec;
}

SettingSpec BoolSetting(const std::string& name, const std::string& help,
                        const std::string& group) {
  SettingSpec spec = StringSetting(name, "false", help, group);
  spec.type = SettingType::kBool;
  return spec;
}

SettingSpec ChoiceSetting(const std::string& name, const std::string& fallback,
                          const std::string& choices, const std::string& help,
                          const std::string& group) {
  SettingSpec spec = StringSetting(name, fallback, help, group);
  spec.type = SettingType::kChoice;
  spec.choices = choices;
  return spec;
}

SettingSpec Positional(SettingSpec spec, int place) {
  spec.positional = place;
  return spec;
}

std::vector<SettingSpec> Join(std::initializer_list<std::vector<SettingSpec>> groups) {
  std::vector<SettingSpec> all;
  for (const auto& group : groups) all.insert(all.end(), group.begin(), group.end());
  return all;
}

std::vector<SettingSpec> GeneralSettings() {
  return {
      StringSetting("config", "", "YAML file of settings; its keys are these long flags", kGeneral),
      ChoiceSetting("log-level", "info", "debug|info|warning|error",
                    "Least important log line that is written", kGeneral)};
}

std::vector<SettingSpec> ModelSettings() {
  return {
      StringSetting("model", "",
                    "Hugging Face directory, GGUF file or packed directory; default: the embedded "
                    "model",
                    kModel),
      StringSetting("cache-dir", "",
                    "Where sources are packed to; default $OCTET_CACHE or ~/.cache/octet", kModel)};
}

std::vector<SettingSpec> PackSettings() {
  SettingSpec seed =
      StringSetting("upcycle-seed", "1", "Seed of the gate that --upcycle makes", kPacking);
  seed.type = SettingType::kUint64;
  return {
      StringSetting("experts", "",
                    "Format of experts: source, int4, w4x, int8, bf16, f16, f32; default source "
                    "for GGUF, else int4",
                    kPacking),
      StringSetting("attention", "",
                    "Format of attention, embedding, head: as --experts; default source for "
                    "GGUF, else int8",
                    kPacking),
      ChoiceSetting("group", "32", "32|64|128", "Weights that share a scale", kPacking),
      ChoiceSetting("reply", "f32", "f32|bf16", "Type of expert results on the wire", kPacking),
      IntSetting("upcycle", "0", 0, kExpertsMax,
                 "Make this many equal experts of a dense model; 0: leave it as it is", kPacking),
      seed};
}

std::vector<SettingSpec> IntegritySettings() {
  const std::string group = "Weights";
  return {IntSetting("scrub-ms", "60000", 0, 1e9,
                     "Time in which a worker reads all weights it holds and compares them with "
                     "their digests again, at 1 % of a core at most; 0: never",
                     group),
          BoolSetting("verify-experts",
                      "Workers check every expert product exactly before it leaves; on the "
                      "CPU only",
                      group)};
}

std::vector<SettingSpec> ComputeSettings() {
  return {IntSetting("threads", "0", 0, 1024, "Threads for computing; 0: follows from the cores",
                     kCompute),
          ChoiceSetting("cpu-level", "auto", "auto|scalar|avx2|avx512|amx",
                        "Instruction set; results do not depend on it", kCompute),
          StringSetting("cores", "",
                        "Cores to compute on, a thread each, as in 0-3,8; default: any", kCompute),
          ChoiceSetting("spin", "on", "on|off",
                        "Threads wait awake for each other for up to 50 us; off where other "
                        "processes compute on the same cores",
                        kCompute),
          IntSetting("numa-node", "-1", -1, 1023,
                     "NUMA node whose cores and memory to use; -1: any", kCompute)};
}

std::vector<SettingSpec> DeviceSettings() {
  return {StringSetting("device", "auto",
                        "Where to compute: cpu, cuda, cuda:N, or auto: a GPU where there is one "
                        "that serves this model; results do not depend on it",
                        kCompute),
          ChoiceSetting("numerics", "exact", "exact|hopper-bf16",
                        "Bits of experts in bf16: every CPU's, or those of Hopper's tensor cores, "
                        "which only such GPUs compute",
                        kCompute)};
}

std::vector<SettingSpec> EngineSettings() {
  SettingSpec cache = StringSetting("kv-cache-bytes", "256MiB", "Memory of the KV cache", kEngine);
  cache.type = SettingType::kBytes;
  cache.min = 1 << 16;
  cache.max = 1e15;
  SettingSpec tier = StringSetting("kv-tier-bytes", "1GiB", "Size of --kv-tier-dir", kEngine);
  tier.type = SettingType::kBytes;
  tier.min = 1 << 16;
  tier.max = 1e15;
  return {
      cache,
      ChoiceSetting("kv-dtype", "f16", "f16|f32|int8",
                    "Type of keys and values; int8 on the CPU only", kEngine),
      ChoiceSetting("prefix-cache", "on", "on|off",
                    "Keep keys and values for prompts that begin alike", kEngine),
      StringSetting("kv-tier-dir", "",
                    "Directory where routers of one model keep full blocks of the KV cache for "
                    "each other and for later; in memory on a tmpfs such as /dev/shm",
                    kEngine),
      tier,
      IntSetting("context-max", "0", 0, kContextMax,
                 "Longest prompt plus generation; 0: the model's", kEngine),
      IntSetting("running-max", "64", 1, kRunningRequestsMax, "Requests decoded together", kEngine),
      IntSetting("waiting-max", "256", 1, kWaitingRequestsMax,
                 "Requests queued before one is refused", kEngine),
      IntSetting("waiting-tokens-max", "0", 0, kIntMax,
                 "Prompt and longest-answer tokens queued before a request is refused; 0: four "
                 "times what the KV cache holds",
                 kEngine),
      FloatSetting("wait-ms-max", "10000", 1, 1e9,
                   "A request is refused where it would wait longer for its first step", kEngine),
      IntSetting("step-tokens-max", "512", 1, kStepTokensMax, "Rows of one step", kEngine),
      IntSetting("chunk-tokens", "0", 0, kStepTokensMax,
                 "Prefill chunk; 0: follows from --itl-ms-max", kEngine),
      FloatSetting("itl-ms-max", "100", 1, 1e6,
                   "Bound on the gap between tokens while prompts arrive", kEngine),
      ChoiceSetting("micro-batches", "auto", "auto|1|2",
                    "Parts of a step: while the experts of one are away, the attention of the "
                    "other runs; auto: what is faster. Tokens are the same",
                    kEngine)};
}

std::vector<SettingSpec> ClientSettings() {
  return {
      StringSetting("server", "127.0.0.1:7411",
                    "Router to talk to, or several with commas between: where one fails another "
                    "goes on. With neither --server nor --model: this default if "
                    "something listens there, else the embedded model in this process",
                    kConnection),
      IntSetting("timeout-ms", "0", 0, kIntMax, "Time for one request; 0: no limit", kConnection),
      IntSetting("attempts", "6", 1, kClientAttemptsMax, "Attempts without progress", kConnection)};
}

std::vector<SettingSpec> SamplingSettingsGroup() {
  SettingSpec seed = StringSetting("seed", "", "Seed of the sampler; default: drawn", kSampling);
  seed.type = SettingType::kUint64;
  SettingSpec stop =
      StringSetting("stop", "", "Text that ends the answer; may be repeated", kSampling);
  stop.type = SettingType::kList;
  return {IntSetting("max-tokens", "64", 1, kContextMax, "Tokens to generate", kSampling),
          IntSetting("min-tokens", "0", 0, kContextMax, "No stop before so many", kSampling),
          FloatSetting("temperature", "0", 0, 100, "0: always the likeliest token", kSampling),
          IntSetting("top-k", "0", 0, kVocabMax, "Keep the k likeliest; 0: off", kSampling),
          FloatSetting("top-p", "1", 0, 1, "Keep the likeliest that sum to p", kSampling),
          FloatSetting("min-p", "0", 0, 1, "Drop what is below p times the likeliest", kSampling),
          FloatSetting("repetition-penalty", "1", 0, 10, "Above 1: fewer repetitions", kSampling),
          FloatSetting("frequency-penalty", "0", -2, 2, "Per earlier occurrence", kSampling),
          FloatSetting("presence-penalty", "0", -2, 2, "Per token that occurred", kSampling),
          seed,
          StringSetting("cache-salt", "", "Share the prefix cache with requests of this salt only",
                        kSampling),
          stop,
          BoolSetting("ignore-eos", "Go on past the end-of-sequence token", kSampling)};
}

std::vector<SettingSpec> RoleSettings(const std::string& listen) {
  SettingSpec ready = IntSetting("ready-fd", "-1", -1, 1 << 20, "", kProcess);
  ready.hidden = true;
  return {StringSetting("listen", listen, "Address to serve on; port 0: a free one", kProcess),
          StringSetting("advertise", "", "Address that others reach it by; default: --listen",
                        kProcess),
          IntSetting("drain-timeout-ms", "30000", 0, kIntMax,
                     "Time to finish requests after SIGTERM", kProcess),
          ready};
}

std::vector<SettingSpec> MemberSettings() {
  return {StringSetting("coordinator", "127.0.0.1:7410", "Coordinator to register with", kProcess),
          StringSetting("zone", "", "Failure domain of this host", kProcess),
          StringSetting("host", "", "Name of this host; default: its host name", kProcess)};
}

std::vector<SettingSpec> TransportSettings() {
  return {
      ChoiceSetting("transport", "auto", "auto|grpc|shm|nccl",
                    "Router to worker; auto: shared memory on one host, else gRPC", kProcess),
      IntSetting("nccl-device", "0", 0, kNcclDevicesMax - 1, "GPU of --transport nccl", kProcess),
      StringSetting("shm-dir", "",
                    "Where workers of this host listen for shared memory; default: "
                    "$XDG_RUNTIME_DIR/octet or /tmp/octet-UID",
                    kProcess)};
}

}  // namespace octet
