// octet doctor: whether this machine has what Octet needs. Reads only.
#include <dlfcn.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/command.h"
#include "cli/cores.h"
#include "cli/embedded_model.h"
#include "cli/setting_table.h"
#include "cli/terminal.h"
#include "kernels/cuda_library.h"
#include "kernels/exec_context.h"
#include "rpc/channel.h"

namespace octet {
namespace {

enum class Verdict { kOk, kNote, kProblem };

struct Check {
  Verdict verdict;
  std::string name;
  std::string detail;
};

constexpr uint64_t kMinMemoryBytes = 1ull << 30;
constexpr uint64_t kMinDiskBytes = 1ull << 30;
constexpr uint64_t kMinShmBytes = 64ull << 20;
constexpr uint64_t kMinOpenFiles = 1024;

std::string GiB(uint64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (1ull << 30));
}

Check CheckCpu() {
  const CpuLevel level = DetectCpuLevel();
  const bool slow = level == CpuLevel::kScalar;
  return {slow ? Verdict::kNote : Verdict::kOk, "cpu",
          absl::StrCat(CpuLevelName(level), ", ", CoreCount({}), " cores",
                       slow ? "; no AVX2: works, but slowly" : "")};
}

Check CheckMemory() {
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t total = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * page;
  const uint64_t free_now = static_cast<uint64_t>(sysconf(_SC_AVPHYS_PAGES)) * page;
  return {total < kMinMemoryBytes ? Verdict::kProblem : Verdict::kOk, "memory",
          absl::StrCat(GiB(total), ", ", GiB(free_now), " unused now")};
}

Check CheckSpace(const std::string& name, const std::string& path, uint64_t min_bytes) {
  struct statvfs fs;
  if (statvfs(path.c_str(), &fs) != 0) {
    return {Verdict::kProblem, name, absl::StrCat(path, " is not there")};
  }
  const uint64_t free_bytes = static_cast<uint64_t>(fs.f_bavail) * fs.f_frsize;
  return {
      free_bytes < min_bytes ? Verdict::kProblem : Verdict::kOk, name,
      absl::StrCat(
          path, ": ", GiB(free_bytes), " free",
          free_bytes < min_bytes ? absl::StrCat("; at least ", GiB(min_bytes), " is needed") : "")};
}

Check CheckOpenFiles() {
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  const bool low = limit.rlim_cur < kMinOpenFiles;
  return {low ? Verdict::kProblem : Verdict::kOk, "open files",
          absl::StrCat("limit ", static_cast<uint64_t>(limit.rlim_cur),
                       low ? absl::StrCat("; raise it: ulimit -n ", kMinOpenFiles) : "")};
}

Check CheckPort(const std::string& listen) {
  auto server = RpcServer::Start(listen, {});
  if (server.ok()) return {Verdict::kOk, "port", absl::StrCat(listen, " is free")};
  return {Verdict::kNote, "port", std::string(server.status().message())};
}

Check CheckCuda() {
  const auto api = OpenCudaApi();
  if (!api.ok()) {
    // Without a plugin or a device everything works, on the CPU.
    return {Verdict::kNote, "cuda", absl::StrCat("not used: ", api.status().message())};
  }
  const absl::Status usable = CheckCudaDevice(**api, 0);
  if (!usable.ok()) return {Verdict::kNote, "cuda", absl::StrCat("not used: ", usable.message())};
  int count = 0;
  cuda::DeviceProperties device{};
  uint64_t free_bytes = 0;
  int error = (*api)->device_count(&count);
  if (error == 0) error = (*api)->device_properties(0, &device);
  if (error == 0) error = (*api)->memory_free(&free_bytes);
  if (error != 0) {
    return {Verdict::kProblem, "cuda", absl::StrCat("not used: ", (*api)->error_text(error))};
  }
  return {Verdict::kOk, "cuda",
          absl::StrCat(count, count == 1 ? " device: " : " devices, the first: ", device.name, ", ",
                       GiB(device.memory_bytes), ", ", GiB(free_bytes), " unused now")};
}

Check CheckLibrary(const std::string& name, const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    void* handle = dlopen(file.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (handle == nullptr) continue;
    dlclose(handle);
    return {Verdict::kOk, name, file};
  }
  return {Verdict::kNote, name, "not found; only needed for GPUs"};
}

Check CheckEmbeddedModel() {
  const auto found = FindEmbeddedModel(ExecutableDirectory());
  if (found.ok()) return {Verdict::kOk, "model", absl::StrCat(*found, " is the embedded one")};
  return {Verdict::kNote, "model", std::string(found.status().message())};
}

absl::Status Run(const Settings& settings) {
  const char* home = std::getenv("HOME");
  std::vector<Check> checks = {CheckCpu(),
                               CheckMemory(),
                               CheckSpace("disk", home == nullptr ? "/" : home, kMinDiskBytes),
                               CheckSpace("shm", "/dev/shm", kMinShmBytes),
                               CheckOpenFiles(),
                               CheckPort(settings.String("listen")),
                               CheckEmbeddedModel(),
                               CheckCuda(),
                               CheckLibrary("nccl", {"libnccl.so.2"})};
  int problems = 0;
  for (const Check& check : checks) {
    const char* word = check.verdict == Verdict::kOk     ? "ok"
                       : check.verdict == Verdict::kNote ? "note"
                                                         : "problem";
    problems += check.verdict == Verdict::kProblem ? 1 : 0;
    PrintOut(absl::StrFormat("%-8s %-11s %s\n", word, check.name, check.detail));
  }
  if (problems == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(problems, problems == 1 ? " problem" : " problems", " found, see above"));
}

}  // namespace

Command DoctorCommand() {
  Command command;
  command.name = "doctor";
  command.group = "Help";
  command.summary = "Check this machine: CPU, memory, disk, ports, limits, model, GPU libraries";
  command.settings =
      Join({{StringSetting("listen", "127.0.0.1:7411", "Address whose port is checked", "Checks")},
            GeneralSettings()});
  command.run = Run;
  return command;
}

}  // namespace octet
