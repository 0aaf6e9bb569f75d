// Weights that change under a worker.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "tests/fault/chaos_cluster.h"
#include "tests/fault/role_process.h"
#include "tests/fault/scenarios.h"

namespace octet {
namespace {

// Of a process that ends because its weights are damaged.
constexpr int kExitDamaged = 71;
constexpr char kScrubMs[] = "200";

// Inverts a bit in the middle of every file of weights, or puts it right again.
absl::Status FlipWeights(const std::string& package) {
  size_t flipped = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(package + "/blobs", error)) {
    const int file = open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
    const off_t middle = static_cast<off_t>(entry.file_size() / 2);
    uint8_t byte = 0;
    const bool read = file >= 0 && pread(file, &byte, 1, middle) == 1;
    byte ^= 0x10;
    const bool written = read && pwrite(file, &byte, 1, middle) == 1;
    if (file >= 0) close(file);
    if (!written) return absl::InternalError(absl::StrCat("cannot change ", entry.path().string()));
    ++flipped;
  }
  if (flipped > 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(package, " has no files of weights"));
}

class CopiedCluster {
 public:
  explicit CopiedCluster(const ChaosOptions& options)
      : options_(options), coordinator_({"coordinator"}) {}

  absl::Status Start() {
    OCTET_RETURN_IF_ERROR(
        coordinator_.Start({"--replication", absl::StrCat(options_.replication),
                            "--expected-workers", absl::StrCat(options_.workers)}));
    for (uint32_t i = 0; i < options_.workers; ++i) {
      std::error_code error;
      std::filesystem::copy(options_.model, Package(i), std::filesystem::copy_options::recursive,
                            error);
      if (error) return absl::InternalError(absl::StrCat("cannot copy: ", error.message()));
      std::vector<std::string> args = {
          "worker",      "--model",          Package(i), "--coordinator", coordinator_.address(),
          "--transport", options_.transport, "--spin",   "off",           "--scrub-ms",
          kScrubMs};
      if (options_.verify) args.push_back("--verify-experts");
      workers_.push_back(std::make_unique<RoleProcess>(std::move(args)));
      OCTET_RETURN_IF_ERROR(workers_.back()->Start({}));
    }
    router_ = std::make_unique<RoleProcess>(std::vector<std::string>{
        "router", "--model", options_.model, "--coordinator", coordinator_.address(), "--transport",
        options_.transport, "--spin", "off"});
    return router_->Start({});
  }

  const std::string& address() const { return router_->address(); }

  absl::Status DamageOne(ChaosCluster& chaos) {
    OCTET_RETURN_IF_ERROR(chaos.WaitSomeTokens());
    const size_t victim = chaos.random()() % workers_.size();
    const MonotonicTime fault = chaos.MarkFault();
    const uint64_t wrong_before = chaos.Progress().mismatched;
    OCTET_RETURN_IF_ERROR(FlipWeights(Package(victim)));
    OCTET_RETURN_IF_ERROR(workers_[victim]->WaitForEnd(/*ask=*/false, kExitDamaged));
    const double found_ms = (chaos.clock().Now() - fault).millis();
    OCTET_RETURN_IF_ERROR(FlipWeights(Package(victim)));
    OCTET_RETURN_IF_ERROR(workers_[victim]->Start({}));
    OCTET_RETURN_IF_ERROR(chaos.WaitWhole(options_.workers, options_.replication));
    chaos.MarkRepaired(fault);
    // All answers that had begun by now have ended.
    OCTET_RETURN_IF_ERROR(chaos.WaitTokens(2 * options_.streams * uint64_t{options_.tokens}));
    const StreamLoadResult after = chaos.Progress();
    OCTET_RETURN_IF_ERROR(chaos.WaitTokens(2 * options_.streams * uint64_t{options_.tokens}));
    const StreamLoadResult later = chaos.Progress();
    if (later.mismatched != after.mismatched || later.failed != after.failed) {
      return absl::InternalError("answers fail or differ after the damaged worker has gone");
    }
    chaos.Note(absl::StrCat("the worker ended ", found_ms, " ms after the damage; ",
                            after.mismatched - wrong_before, " answers were wrong"));
    return absl::OkStatus();
  }

 private:
  std::string Package(size_t worker) const {
    return absl::StrCat(packages_.path(), "/worker", worker);
  }

  const ChaosOptions& options_;
  const TemporaryDirectory packages_;
  RoleProcess coordinator_;
  std::vector<std::unique_ptr<RoleProcess>> workers_;
  std::unique_ptr<RoleProcess> router_;
};

}  // namespace

absl::StatusOr<ScenarioResult> DamageWeights(const ChaosOptions& options) {
  if (options.model.empty()) return absl::InvalidArgumentError("damage needs a packed model");
  CopiedCluster cluster(options);
  OCTET_RETURN_IF_ERROR(cluster.Start());
  OCTET_ASSIGN_OR_RETURN(const auto chaos,
                         ChaosCluster::Attach("damage", options, cluster.address()));
  for (uint32_t round = 0; round < options.rounds; ++round) {
    OCTET_RETURN_IF_ERROR(cluster.DamageOne(*chaos));
  }
  return chaos->Finish();
}

}  // namespace octet
